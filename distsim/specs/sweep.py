"""The specification of a sweep: what determines its numbers, how much of it is wanted, and where it runs.

The *identity* determines every number of the result and must agree with what a store already holds. The *extent* says
how much of it is wanted and may grow.
"""

import re
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, Self

from distsim.specs.canonical import digest
from distsim.specs.fields import INLINE, Count, Natural, Spec, added, check, count, expect, frozen, names, shown
from distsim.specs.networks import CONTROLS, Control, NetworkId, OfControl, RunId
from distsim.specs.problem import Problem

FORMAT = 4  # of the store; part of the identity

# Of training. bfloat16: autocast, weights and their sums stay float32; tf32: float32 with TF32 products, on a GPU only
Precision = Literal["float32", "bfloat16", "tf32"]
Exactness = Literal["exact", "fast"]  # of NBS: to 1e-6 of float64, or to 5e-4 (distsim.comparison.layer.Reference)
StoredDtype = Literal["auto", "float32"]  # of activations; auto: float16 where it is safe
Retention = Literal["reference", "all"]  # reference: a network's activations are dropped once compared
ActivationsIn = Literal["store", "memory"]  # store: written once, read for each comparison; memory: never written
Device = Literal["cpu", "cuda"]
DeviceChoice = Literal["auto", "cpu", "cuda"]
# Beside each value. null: the similarity by chance, at every iteration of run 0; se: its standard error over examples;
# se_nbs: that of NBS and of other metrics that take as long for it as ten values; functional: predictions for the test
# images, from each network's logits
Measure = Literal["null", "se", "se_nbs", "functional"]

Bits = Annotated[int, *count(16)]  # of a grey value

PAPER_METRICS = ("mean_cca", "svcca", "pwcca", "cka", "nbs", "cosine")
DEFAULT_METRICS = (*PAPER_METRICS, "cka_unbiased")  # of new studies
CHANCE_ITERATIONS = (1, 10, 20)  # of run 0
PERMUTATIONS = 5  # of the examples, for the chance level
NULL_PERMUTATIONS = 2  # at the other iterations of run 0
MEASURES: tuple[Measure, ...] = ("null", "se", "functional")  # of new studies

MOST_PERMUTATIONS = 1000

MOST_THREADS = 1024
MOST_FUSED = 100  # runs in one step
MOST_NETWORKS = 100_000  # of a sweep; the missing ones are listed in memory


@dataclass(frozen=True)
class Identity(Spec):
    """Everything that determines the numbers of a sweep. It is hashed, and a store holds one for each problem."""

    problem: Problem
    data_digest: str  # of the decoded training and test images, labels and class names
    seed: int = 0
    threads: Annotated[int, *count(MOST_THREADS)] = 1  # of one trial and one comparison: thread counts change bits
    precision: Precision = "float32"
    deterministic: bool = False  # a GPU repeats its results bit by bit, more slowly; a CPU always does
    storage: StoredDtype = "auto"
    comparison: Exactness = "exact"
    format: int = FORMAT
    compile: bool = added(False, absent=False)  # training runs the network compiled by torch, with other last bits
    fuse: Annotated[int, *count(MOST_FUSED)] = added(1, absent=1)  # runs that are trained in one step; 1: each alone

    @classmethod
    def from_dict(cls, tree: Any) -> Self:
        """Read what `as_dict` wrote. Runs, iterations and paper, which it leaves out, get their defaults.

        ValueError: it has another format. Other errors are those of `distsim.specs.fields.from_dict`.
        """
        if isinstance(tree, dict) and tree.get("format") != FORMAT:
            raise ValueError(f"its format is {shown(tree.get('format'))}, this distsim reads {FORMAT}")
        return super().from_dict(tree)

    @property
    def hash(self) -> str:
        """Return the SHA-256 of the canonical JSON, in hexadecimal."""
        return digest(self.as_dict())


# Fields of Identity that a flag of the same name decides.
CHOSEN = tuple(name for name in names(Identity) if name not in ("problem", "data_digest", "storage", "format"))


@dataclass(frozen=True)
class Extent(Spec):
    """How much of a sweep is wanted. It may grow between calls and never changes a number.

    A new field needs a line here, with `added`, a flag of the same name in distsim.cli.sweeps, and an argument in
    distsim.api.running.
    """

    runs: Count
    iterations: Count
    metrics: tuple[str, ...] = DEFAULT_METRICS
    retention: Retention = "reference"
    activations: ActivationsIn = "store"
    chance: bool = True  # also compare with permuted examples, at CHANCE_ITERATIONS of run 0; False: nowhere
    measure: tuple[Measure, ...] = added(MEASURES, absent=())
    permutations: Annotated[int, *count(MOST_PERMUTATIONS)] = added(NULL_PERMUTATIONS, absent=NULL_PERMUTATIONS)
    # What is asked for without a word is in `of`: a new study has both controls, an older one keeps what it asked for.
    control: tuple[Control, ...] = added((), absent=())
    control_runs: Count = added(2, absent=2)  # of each control, and never more than `runs`
    complete: Count = added(1, absent=1)  # complete networks, each with runs and controls of its own

    def __post_init__(self) -> None:
        check(self)
        # Only the code that computes a metric asks whether it is known; status and tables work without knowing it.
        odd = [name for name in self.metrics if not name.isidentifier() or len(name) > 100]
        expect(not odd, f"a metric's name must be an identifier, got {shown(odd)}")
        together = len("+".join(self.metrics))  # as in the names of files of values
        expect(together <= 240, f"the names of all metrics may have 240 characters together, got {together}")
        expect(len(set(self.control)) == len(self.control), f"control: names are repeated, got {shown(self.control)}")
        each = self.runs + len(self.control) * min(self.control_runs, self.runs)
        networks = self.complete * each * self.iterations
        what = (
            "runs x iterations"
            + " with controls" * bool(self.control)
            + " of all complete networks" * (self.complete > 1)
        )
        expect(networks <= MOST_NETWORKS, f"{what} must be at most {MOST_NETWORKS:,} networks, got {networks:,}")

    @classmethod
    def of(cls, problem: Problem, **asked: Any) -> "Extent":
        """Return the extent with these fields. Lists are accepted in place of tuples.

        None stands for what a new study has: the problem's numbers of runs, iterations and control runs, both controls,
        and the defaults of the other fields in `KEPT`. Runs and iterations may also be left out.
        """
        of_new: dict[str, Any] = {
            "runs": problem.runs,
            "iterations": problem.iterations,
            "control": CONTROLS,
            "control_runs": problem.control_runs,
            "metrics": DEFAULT_METRICS,
            "measure": MEASURES,
            "permutations": NULL_PERMUTATIONS,
        }
        fields: dict[str, Any] = {name: of_new[name] for name in ("runs", "iterations")}
        for name, value in asked.items():
            fields[name] = of_new.get(name) if value is None else frozen(value)
        return cls(**fields)

    @property
    def networks(self) -> tuple[NetworkId, ...]:
        """Return the networks that are wanted, besides the complete ones, in their order."""
        return tuple(run.network(i) for run in self.all_runs for i in range(1, self.iterations + 1))

    @property
    def all_runs(self) -> tuple[RunId, ...]:
        """Return the runs that are wanted, controls too, in their order."""
        kinds: tuple[tuple[OfControl, int], ...] = (
            ("", self.runs),
            *((control, min(self.control_runs, self.runs)) for control in CONTROLS if control in self.control),
        )
        return tuple(
            RunId.of(run, complete, control)
            for complete in range(self.complete)
            for control, runs in kinds
            for run in range(runs)
        )

    @property
    def complete_networks(self) -> tuple[NetworkId, ...]:
        """Return the complete networks that are wanted."""
        return tuple(NetworkId(complete=number) for number in range(self.complete))

    @property
    def chance_networks(self) -> tuple[NetworkId, ...]:
        """Return the networks whose chance level is wanted."""
        iterations = [i for i in CHANCE_ITERATIONS if i <= self.iterations] if self.chance else []
        return tuple(NetworkId(0, i, complete) for complete in range(self.complete) for i in iterations)

    @property
    def null_networks(self) -> tuple[NetworkId, ...]:
        """Return the networks whose examples are permuted `permutations` times."""
        wanted = self.chance and "null" in self.measure
        iterations = range(1, self.iterations + 1) if wanted else ()
        return tuple(NetworkId(0, i, complete) for complete in range(self.complete) for i in iterations)


# Fields of Extent that a store keeps as they were asked for, where nothing else is asked.
KEPT = ("metrics", "measure", "permutations", "control")


@dataclass(frozen=True)
class Reading(Spec):
    """How a folder of images is read. What comes of it is in the digest of the data, so it is not in the identity."""

    skip_bad: Natural = added(0, absent=0)  # images that cannot be read and may be left out, at most
    # of grey values that are stored in more than 8 bits: 2^bits - 1 becomes 255; None: as many as the largest value has
    bits: Bits | None = added(None, absent=None)

    def require_folder(self, data: str) -> None:
        """Raise ValueError if something is chosen for data that are no folder of images."""
        for name, value in (("skip_bad", self.skip_bad), ("bits", self.bits)):
            where = f"the data at {shown(data)} are not one" if data else "these data are not one"
            expect(not value, f"{name} is for a folder of images (folder:PATH), and {where}; got {value}")


AS_IS = Reading()


@dataclass(frozen=True)
class Request(Spec):
    """The last request, as request.json holds it: fields of extent and reading, place of the data, device, script."""

    extent: Extent = field(metadata=INLINE)
    data: str
    device: DeviceChoice
    reading: Reading = field(default=AS_IS, metadata=INLINE)
    skipped: tuple[str, ...] = added((), absent=())  # images that were left out, each with the reason
    script: str = added("", absent="")  # the script that registers the user's own network or metrics; "": there is none
    script_sha256: str = added("", absent="")

    def __post_init__(self) -> None:
        check(self)
        plain = len(self.script) <= 4096 and self.script.isprintable()
        expect(plain, f"script must be a path, got {shown(self.script)}")
        digest_or_none = re.fullmatch("[0-9a-f]{64}" if self.script else "", self.script_sha256)
        expect(
            digest_or_none is not None,
            f"script_sha256 must be the script's SHA-256 in hexadecimal, got {shown(self.script_sha256)}",
        )


@dataclass(frozen=True)
class Sweep:
    """One problem's sweep: its identity, its extent, and the place of the data and the work (part of neither)."""

    identity: Identity
    extent: Extent
    data: str = ""  # "folder:PATH", "files:PATH", or the folder torchvision keeps its data sets in
    reading: Reading = AS_IS
    device: Device = "cpu"
    resources: tuple[tuple[str, float], ...] = ()  # of one trial, for Ray
    pack: Count = 1  # number of runs that one trial trains in turns, on one device

    def __post_init__(self) -> None:
        check(self)
        fuse = self.identity.fuse
        expect(
            fuse == 1 or self.pack == 1,
            f"fused runs fill a device by themselves, so fuse and pack exclude each other, got fuse {fuse} and pack "
            f"{self.pack}",
        )
        for name, amount in self.resources:
            expect(amount > 0, f"resources: {name} must be above zero, got {amount}")

    @property
    def problem(self) -> Problem:
        return self.identity.problem

    @property
    def name(self) -> str:
        return self.identity.problem.name

    @property
    def request(self) -> Request:
        """Return what the store keeps of the sweep, so that `distsim run` can ask for it again."""
        return Request(self.extent, self.data, self.device, self.reading)
