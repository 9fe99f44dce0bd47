"""What to do, as frozen data.

A sweep's spec has two halves. The *identity* determines every number of the result and must agree with what a store
already holds; the *extent* says how much of it is wanted and may grow.
"""

import dataclasses
import hashlib
import json
import re
import sys
import types
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, get_args, get_origin

from distsim.metrics.registry import known

FORMAT = 4  # of the store; part of the identity

OPTIMIZERS = ("adam", "sgd", "fast_sgd")
PRECISIONS = ("float32", "bfloat16")
SCHEDULES = ("constant", "step", "triangle")
AUGMENTATIONS = ("crop", "flip", "affine", "cutout")
CHANCE_ITERATIONS = (1, 10, 20)  # of run 0
PERMUTATIONS = 5  # of the examples, for what similarity comes by chance
REWINDS = ("WR", "LRR", "FT")
SCOPES = ("global", "local", "mixed")
METRICS = ("mean_cca", "svcca", "pwcca", "cka", "nbs", "cosine")  # the papers': what is computed if not told otherwise

MOST = 10**9  # of anything counted: more is a slip of the keyboard
MOST_THREADS = 1024
MOST_NETWORKS = 100_000  # runs x iterations of a sweep: what is missing is listed in memory


def _check(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


def _check_types(spec: Any) -> None:
    """ValueError names the first field whose value is not of the type that it is annotated with."""
    for one in dataclasses.fields(spec):
        value = getattr(spec, one.name)
        _check(_fits(value, one.type), f"{one.name} must be {_described(one.type)}, got {shown(value)}")


def _fits(value: Any, kind: Any) -> bool:
    """Whether the value is of this type: a truth value is no number, NaN and infinity are none, an int is a float."""
    inner = get_args(kind)
    if isinstance(kind, types.UnionType):
        return any(_fits(value, one) for one in inner)
    if get_origin(kind) is tuple:
        if not isinstance(value, tuple):
            return False
        each = (inner[0],) * len(value) if inner[-1] is Ellipsis else inner
        return len(value) == len(each) and all(map(_fits, value, each))
    if kind is float:
        return _fits(value, int) or (isinstance(value, float) and abs(value) <= sys.float_info.max)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63
    return isinstance(value, kind)


def _described(kind: Any) -> str:
    if isinstance(kind, types.UnionType):
        return " or ".join(map(_described, get_args(kind)))
    if get_origin(kind) is tuple:
        inner = get_args(kind)
        return f"a tuple, each {_described(inner[0])}" if inner[-1] is Ellipsis else f"a tuple of {len(inner)}"
    plain = {
        int: "a whole number (64 bits)",
        float: "a finite number",
        bool: "True or False",
        str: "text",
        type(None): "None",
    }
    return plain.get(kind) or f"a {kind.__name__}"


def shown(value: Any) -> str:
    """The value for a message: a sentence is to stay one."""
    try:
        text = repr(value)
    except ValueError:  # Python does not write numbers of more than 4,300 digits
        return "a number of thousands of digits"
    return text if len(text) <= 100 else f"{text[:100]}..."


def _check_count(spec: Any, *names: str, most: int = MOST) -> None:
    """ValueError: a count is not in 1 ... most; None is none."""
    for name in names:
        value = getattr(spec, name)
        if value is not None:
            _check(value >= 1, f"{name} must be at least 1, got {value}")
            _check(value <= most, f"{name} must be at most {most:,}, got {value:,}")


@dataclass(frozen=True)
class Recipe:
    """How one network is trained, from a fresh optimizer to its last epoch.

    Learning rate in epoch e (0-based) under each schedule:
        constant   lr
        step       lr * factor ** (number of milestones <= e)
        triangle   per step, linear from 0 to lr at epoch `peak`, then linear to 0 at epoch `epochs`
    """

    epochs: int
    batch_size: int
    optimizer: str = "sgd"
    lr: float = 0.1
    momentum: float = 0.9  # sgd and fast_sgd
    weight_decay: float = 0.0
    schedule: str = "constant"
    milestones: tuple[int, ...] = ()
    factor: float = 0.1
    peak: float = 0.0
    lars: bool = False  # fast_sgd: scale each filter's step by ||w|| / (512 ||g|| + 1e-2)
    augment: tuple[str, ...] = ()
    patience: int | None = (
        None  # epochs without a smaller validation loss before training stops; None: no early stopping
    )
    validation: float = 0.1  # share of the training set held out, by class, where `patience` is set
    normalise: tuple[tuple[float, ...], tuple[float, ...]] | None = None  # per-channel (means, sds) of pixels in [0, 1]
    #                                                      None: computed from the training set

    def __post_init__(self) -> None:
        _check_types(self)
        _check_count(self, "epochs", "batch_size", "patience")
        _check(self.optimizer in OPTIMIZERS, f"optimizer must be one of {OPTIMIZERS}, got {self.optimizer!r}")
        _check(self.schedule in SCHEDULES, f"schedule must be one of {SCHEDULES}, got {self.schedule!r}")
        unknown = set(self.augment) - set(AUGMENTATIONS)
        _check(not unknown, f"augment knows {AUGMENTATIONS}, not {sorted(unknown)}")
        _check(self.lr > 0, f"lr must be positive, got {self.lr}")
        _check(0 < self.validation < 1, f"validation must be in (0, 1), got {self.validation}")
        _check(0 <= self.momentum < 1, f"momentum must be in [0, 1), got {self.momentum}")
        for name in ("weight_decay", "peak"):
            _check(getattr(self, name) >= 0, f"{name} must not be negative, got {getattr(self, name)}")
        late = self.schedule == "triangle" and self.peak > self.epochs
        _check(not late, f"peak {self.peak} is after the last of {self.epochs} epochs")
        _check(self.factor > 0, f"factor must be positive, got {self.factor}")
        _check(min(self.milestones, default=0) >= 0, f"milestones must not be negative, got {self.milestones}")
        if self.normalise is not None:
            means, sds = self.normalise
            _check(len(means) == len(sds), f"normalise has {len(means)} means and {len(sds)} standard deviations")
            _check(all(sd > 0 for sd in sds), f"normalise: standard deviations must be positive, got {sds}")

    def shortened(self, epochs: int) -> "Recipe":
        """The same recipe squeezed into (or stretched to) another number of epochs: the schedule keeps its shape."""
        _check(_fits(epochs, int), f"epochs must be {_described(int)}, got {shown(epochs)}")
        scale = epochs / self.epochs
        milestones = tuple(max(1, round(m * scale)) for m in self.milestones)  # the first epoch has the full rate
        return dataclasses.replace(self, epochs=epochs, milestones=milestones, peak=self.peak * scale)


@dataclass(frozen=True)
class Pruning:
    """One IMP iteration: which parameters compete with which, how many go, and where the survivors return to.

    scope   global: one pool of everything prunable, at rate `rate`
            local: one pool per layer, at the rate of its kind
            mixed: a pool "conv" (all convolutions) and a pool "fc" (all linear layers), each at its own rate
    rewind  WR: survivors, batch norm and its statistics return to the complete network's state after `rewind_epoch`
            epochs, training covers the epochs after it. LRR: everything is kept, the whole schedule is replayed.
            FT: everything is kept, `finetune_epochs` epochs at the schedule's last non-zero rate.
    """

    scope: str = "global"
    conv_rate: float = 0.2
    fc_rate: float = 0.2
    biases: bool = False  # prune biases too (of the layers whose weights are pruned); never batch norm's
    prune_output: bool = True
    rewind: str = "LRR"
    rewind_epoch: int = 0
    finetune_epochs: int = 10

    def __post_init__(self) -> None:
        _check_types(self)
        _check(self.scope in SCOPES, f"scope must be one of {SCOPES}, got {self.scope!r}")
        _check(self.rewind in REWINDS, f"rewind must be one of {REWINDS}, got {self.rewind!r}")
        for name in ("conv_rate", "fc_rate"):
            _check(0 < getattr(self, name) < 1, f"{name} must be in (0, 1), got {getattr(self, name)}")
        same = self.conv_rate == self.fc_rate
        _check(self.scope != "global" or same, f"global pruning has one rate, got {self.conv_rate} and {self.fc_rate}")
        _check(self.rewind_epoch >= 0, f"rewind_epoch must not be negative, got {self.rewind_epoch}")
        _check_count(self, "finetune_epochs")


def pruned_count(rate: float, survivors: int) -> int:
    """floor(rate * survivors) with `rate` taken as the decimal it is written as, so 0.29 of 100 is 29, not 28."""
    return int(Fraction(repr(float(rate))) * survivors)


@dataclass(frozen=True)
class Problem:
    """Data, network, training and pruning: one row of the papers' tables, or a user's own."""

    name: str
    source: str  # digits | cifar10 | svhn | mnist | folder
    model: str  # a key of distsim.models.MODELS
    size: int  # height and width of the model's input
    channels: int  # 1 grey, 3 RGB
    recipe: Recipe
    pruning: Pruning
    classes: tuple[str, ...] = ()  # by name, in this order; () means all of the source's
    probe: int = 5000  # training images on which representations are compared
    probe_rule: str = "uniform"  # uniform without replacement | first
    runs: int = 20
    iterations: int = 20
    train_limit: int | None = None  # this many training images, by class; None: all
    paper: str = ""
    reduced: bool = False  # something was made smaller by a flag: claims are judged as tendencies only

    def __post_init__(self) -> None:
        _check_types(self)
        plain = re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{,99}", self.name) and self.name not in (
            "figures",
            "tune",
            "lease",
        )
        _check(bool(plain), f"a problem's name is a folder's: letters, digits, - _ . and not {self.name!r}")
        _check_count(self, "size", "probe", "runs", "iterations", "train_limit")
        _check(self.probe_rule in ("uniform", "first"), f"probe_rule must be uniform or first, got {self.probe_rule!r}")
        _check(self.channels in (1, 3), f"channels must be 1 or 3, got {self.channels}")
        _check(len(set(self.classes)) == len(self.classes), f"classes are repeated: {self.classes}")
        if self.recipe.normalise is not None:
            given = len(self.recipe.normalise[0])
            _check(given == self.channels, f"normalise has constants of {given} channels, images have {self.channels}")
        last = self.recipe.epochs - 1
        if self.pruning.rewind == "WR":
            _check(
                self.pruning.rewind_epoch <= last,
                f"rewind_epoch {self.pruning.rewind_epoch} leaves nothing to train in {self.recipe.epochs} epochs",
            )

    def reduced_to(
        self, epochs: int | None = None, probe: int | None = None, train_limit: int | None = None
    ) -> "Problem":
        """The problem made smaller (or larger) by flags. The late reset moves before the last epoch if it must."""
        changes: dict[str, Any] = {}
        if epochs is not None and epochs != self.recipe.epochs:
            changes["recipe"] = self.recipe.shortened(epochs)
            rewind_epoch = min(self.pruning.rewind_epoch, epochs - 1)
            changes["pruning"] = dataclasses.replace(self.pruning, rewind_epoch=rewind_epoch)
        if probe is not None and probe != self.probe:
            changes["probe"] = probe
        if train_limit is not None and train_limit != self.train_limit:
            changes["train_limit"] = train_limit
        return dataclasses.replace(self, **changes, reduced=True) if changes else self


@dataclass(frozen=True)
class Identity:
    """Everything that determines the numbers of a sweep. Hashed; a store holds one per problem."""

    problem: Problem
    data_digest: str  # of the decoded training and test images, labels and class names
    seed: int = 0
    threads: int = 1  # of one trial and one comparison: thread counts change bits
    precision: str = "float32"  # of training: float32 | bfloat16 (autocast; weights and their sums stay float32)
    deterministic: bool = False  # a GPU repeats itself bit by bit, slower; a CPU always does
    storage: str = "auto"  # of activations: auto (float16 where it is safe) | float32
    comparison: str = "exact"  # exact: NBS to 1e-6 of float64 | fast: to 5e-4 (distsim.comparison.layer.Reference)
    format: int = FORMAT

    def __post_init__(self) -> None:
        _check_types(self)
        _check_count(self, "threads", most=MOST_THREADS)
        _check(self.precision in PRECISIONS, f"precision must be one of {PRECISIONS}, got {self.precision!r}")
        _check(self.storage in ("auto", "float32"), f"storage must be auto or float32, got {self.storage!r}")
        _check(self.comparison in ("exact", "fast"), f"comparison must be exact or fast, got {self.comparison!r}")

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values. Runs and iterations are extent, not identity, so they are left out."""
        tree: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(self)))
        for name in ("runs", "iterations", "paper"):
            del tree["problem"][name]
        return tree

    @property
    def hash(self) -> str:
        """SHA-256 of the canonical JSON, hexadecimal."""
        return hashlib.sha256(canonical_json(self.as_dict()).encode()).hexdigest()


@dataclass(frozen=True)
class Extent:
    """How much of a sweep is wanted. May grow between calls; never changes a number."""

    runs: int
    iterations: int
    metrics: tuple[str, ...] = METRICS
    retention: str = "reference"  # reference: a network's activations are dropped once compared | all
    activations: str = "store"  # store: written once, read for each comparison | memory: recomputed, never written
    chance: bool = True  # also compare with permuted examples, at CHANCE_ITERATIONS of run 0

    def __post_init__(self) -> None:
        _check_types(self)
        known(self.metrics)
        _check_count(self, "runs", "iterations")
        networks = self.runs * self.iterations
        _check(
            networks <= MOST_NETWORKS, f"runs x iterations must be at most {MOST_NETWORKS:,} networks, got {networks:,}"
        )
        _check(self.retention in ("reference", "all"), f"retention must be reference or all, got {self.retention!r}")
        _check(self.activations in ("store", "memory"), f"activations: store or memory, got {self.activations!r}")

    @property
    def chance_networks(self) -> tuple[tuple[int, int], ...]:
        """(run, iteration) of the networks whose similarity by chance is wanted."""
        return tuple((0, i) for i in CHANCE_ITERATIONS if i <= self.iterations) if self.chance else ()


@dataclass(frozen=True)
class Sweep:
    """One problem's sweep: its identity, its extent, and where the data lie (not part of either)."""

    identity: Identity
    extent: Extent
    data: str = ""  # "folder:PATH", "files:PATH", or the folder torchvision keeps its data sets in
    device: str = "cpu"  # cpu | cuda
    resources: tuple[tuple[str, float], ...] = field(default=())  # of one trial, for Ray
    pack: int = 1  # runs that one trial trains in turns, on one device

    def __post_init__(self) -> None:
        _check_types(self)
        _check_count(self, "pack")
        for name, amount in self.resources:
            _check(amount > 0, f"resources: {name} must be above zero, got {amount}")

    @property
    def problem(self) -> Problem:
        return self.identity.problem

    @property
    def name(self) -> str:
        return self.identity.problem.name


def canonical_json(value: Any) -> str:
    """One text for one value: sorted keys, no spaces, floats by their shortest exact form."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def differences(ours: Any, theirs: Any, path: str = "") -> list[str]:
    """The fields in which two JSON trees differ, as `a.b: x here, y there`."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        found = []
        for key in sorted(ours.keys() | theirs.keys()):
            inner = f"{path}.{key}" if path else str(key)
            found += differences(ours.get(key, "(absent)"), theirs.get(key, "(absent)"), inner)
        return found
    return [] if ours == theirs else [f"{path}: {ours!r} asked for, {theirs!r} in the store"]


def problem_from_dict(tree: dict[str, Any]) -> Problem:
    """The Problem that `Identity.as_dict` wrote (runs and iterations at their defaults).

    TypeError: a field is unknown or missing. ValueError: a value does not fit its field.
    """
    fields = _fields(tree, "problem")
    recipe, pruning = (_fields(fields.pop(name, None), name) for name in ("recipe", "pruning"))
    return Problem(recipe=Recipe(**recipe), pruning=Pruning(**pruning), **fields)


def identity_from_dict(tree: dict[str, Any]) -> Identity:
    """The Identity that `Identity.as_dict` wrote. ValueError: in another format. Errors as in `problem_from_dict`."""
    fields = _fields(tree, "identity")
    if fields.get("format") != FORMAT:
        raise ValueError(f"its format is {shown(fields.get('format'))}, this distsim reads {FORMAT}")
    return Identity(problem=problem_from_dict(fields.pop("problem", None)), **fields)


def _fields(tree: Any, name: str) -> dict[str, Any]:
    """A JSON object's values by name, its lists, and lists of lists, as the tuples that they were."""
    if not isinstance(tree, dict):
        raise TypeError(f"{name} must be an object with fields, got {shown(tree)}")
    return {key: _frozen(value) for key, value in tree.items()}


def _frozen(value: Any, levels: int = 2) -> Any:
    return tuple(_frozen(one, levels - 1) for one in value) if levels and isinstance(value, list) else value
