"""Describes a sweep: what determines its numbers, how much of it is wanted, where it is done.

The *identity* determines every number of the result and must agree with what a store already holds. The *extent* says
how much of it is wanted and may grow.
"""

import re
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from distsim.specs.canonical import digest
from distsim.specs.fields import INLINE, Count, added, check, count, expect, from_dict, frozen, shown, to_dict
from distsim.specs.networks import NetworkId
from distsim.specs.problem import Problem

FORMAT = 4  # of the store; part of the identity

Precision = Literal["float32", "bfloat16"]  # of training; bfloat16: autocast, weights and their sums stay float32
Exactness = Literal["exact", "fast"]  # of NBS: to 1e-6 of float64, or to 5e-4 (distsim.comparison.layer.Reference)
StoredDtype = Literal["auto", "float32"]  # of activations; auto: float16 where it is safe
Retention = Literal["reference", "all"]  # reference: a network's activations are dropped once compared
ActivationsIn = Literal["store", "memory"]  # store: written once, read for each comparison; memory: never written
Device = Literal["cpu", "cuda"]
DeviceChoice = Literal["auto", "cpu", "cuda"]

PAPER_METRICS = ("mean_cca", "svcca", "pwcca", "cka", "nbs", "cosine")  # what is computed if not told otherwise
CHANCE_ITERATIONS = (1, 10, 20)  # of run 0
PERMUTATIONS = 5  # of the examples, for what similarity comes by chance

MOST_THREADS = 1024
MOST_NETWORKS = 100_000  # runs x iterations of a sweep: what is missing is listed in memory


@dataclass(frozen=True)
class Identity:
    """Everything that determines the numbers of a sweep. Hashed; a store holds one per problem."""

    problem: Problem
    data_digest: str  # of the decoded training and test images, labels and class names
    seed: int = 0
    threads: Annotated[int, *count(MOST_THREADS)] = 1  # of one trial and one comparison: thread counts change bits
    precision: Precision = "float32"
    deterministic: bool = False  # a GPU repeats itself bit by bit, slower; a CPU always does
    storage: StoredDtype = "auto"
    comparison: Exactness = "exact"
    format: int = FORMAT

    def __post_init__(self) -> None:
        check(self)

    def as_dict(self) -> dict[str, Any]:
        """Write plain JSON values. Runs, iterations and paper are `unwritten`: they are no part of the identity."""
        return to_dict(self)

    @classmethod
    def from_dict(cls, tree: Any) -> "Identity":
        """Read what `as_dict` wrote, runs and iterations at their defaults. ValueError: it is of another format.

        Other errors are those of `distsim.specs.fields.from_dict`.
        """
        if isinstance(tree, dict) and tree.get("format") != FORMAT:
            raise ValueError(f"its format is {shown(tree.get('format'))}, this distsim reads {FORMAT}")
        return from_dict(cls, tree)

    @property
    def hash(self) -> str:
        """SHA-256 of the canonical JSON, hexadecimal."""
        return digest(self.as_dict())


@dataclass(frozen=True)
class Extent:
    """How much of a sweep is wanted. May grow between calls; never changes a number.

    A new field is a line here, with `added`, and a flag of the same name in distsim.cli.sweeps.
    """

    runs: Count
    iterations: Count
    metrics: tuple[str, ...] = PAPER_METRICS
    retention: Retention = "reference"
    activations: ActivationsIn = "store"
    chance: bool = True  # also compare with permuted examples, at CHANCE_ITERATIONS of run 0

    def __post_init__(self) -> None:
        check(self)
        # whether they are known here is asked by what computes them: status and tables need not know
        odd = [name for name in self.metrics if not name.isidentifier() or len(name) > 100]
        expect(not odd, f"a metric's name must be an identifier, got {shown(odd)}")
        networks = self.runs * self.iterations
        expect(
            networks <= MOST_NETWORKS, f"runs x iterations must be at most {MOST_NETWORKS:,} networks, got {networks:,}"
        )

    @classmethod
    def of(cls, problem: Problem, **asked: Any) -> "Extent":
        """Give what is asked for; runs and iterations that are not, or are None, are the problem's. Lists will do."""
        own = {"runs": problem.runs, "iterations": problem.iterations}
        given = {name: frozen(value) for name, value in asked.items() if name not in own or value is not None}
        return cls(**(own | given))

    def as_dict(self) -> dict[str, Any]:
        """Write plain JSON values."""
        return to_dict(self)

    @classmethod
    def from_dict(cls, tree: Any) -> "Extent":
        """Read what `as_dict` wrote. Errors are those of `distsim.specs.fields.from_dict`."""
        return from_dict(cls, tree)

    @property
    def networks(self) -> tuple[NetworkId, ...]:
        """List the pruned networks that are wanted."""
        return tuple(NetworkId(run, i) for run in range(self.runs) for i in range(1, self.iterations + 1))

    @property
    def chance_networks(self) -> tuple[NetworkId, ...]:
        """List the networks whose similarity by chance is wanted."""
        return tuple(NetworkId(0, i) for i in CHANCE_ITERATIONS if i <= self.iterations) if self.chance else ()


@dataclass(frozen=True)
class Request:
    """What was asked for last, as request.json holds it: the extent's fields, and where the data and the device are."""

    extent: Extent = field(metadata=INLINE)
    data: str
    device: DeviceChoice
    script: str = added("", absent="")  # that registered the sweep's own network or metrics; "": they are distsim's
    script_sha256: str = added("", absent="")

    def __post_init__(self) -> None:
        check(self)
        plain = len(self.script) <= 4096 and self.script.isprintable()
        expect(plain, f"script must be a path, got {shown(self.script)}")
        digest_or_none = re.fullmatch("[0-9a-f]{64}" if self.script else "", self.script_sha256)
        expect(digest_or_none is not None, f"script_sha256 must be the script's, got {shown(self.script_sha256)}")

    def as_dict(self) -> dict[str, Any]:
        """Write plain JSON values, in one object."""
        return to_dict(self)

    @classmethod
    def from_dict(cls, tree: Any) -> "Request":
        """Read what `as_dict` wrote. Errors are those of `distsim.specs.fields.from_dict`."""
        return from_dict(cls, tree)


@dataclass(frozen=True)
class Sweep:
    """One problem's sweep: its identity, its extent, and where the data lie (not part of either)."""

    identity: Identity
    extent: Extent
    data: str = ""  # "folder:PATH", "files:PATH", or the folder torchvision keeps its data sets in
    device: Device = "cpu"
    resources: tuple[tuple[str, float], ...] = ()  # of one trial, for Ray
    pack: Count = 1  # runs that one trial trains in turns, on one device

    def __post_init__(self) -> None:
        check(self)
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
        """What the store keeps of it, so that `distsim run` can ask for it again."""
        return Request(self.extent, self.data, self.device)
