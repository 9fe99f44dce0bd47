"""Specifications of what is trained and pruned: data, network, recipe, pruning."""

import dataclasses
import re
from dataclasses import dataclass
from fractions import Fraction
from typing import Annotated, Any, Literal

from distsim.specs.fields import (
    Bound,
    Count,
    Natural,
    NotNegative,
    Positive,
    Share,
    added,
    check,
    count,
    expect,
    require,
    shown,
    unwritten,
)

Optimizer = Literal["adam", "sgd", "fast_sgd"]
Schedule = Literal["constant", "step", "triangle"]
Augmentation = Literal["crop", "flip", "affine", "cutout"]  # in the order in which they are applied
Scope = Literal["global", "local", "mixed"]
Rewind = Literal["WR", "LRR", "FT"]
ProbeRule = Literal["uniform", "first"]  # uniform without replacement
ProbeFrom = Literal["train", "test"]

MAGNITUDE = "magnitude"  # the criterion that comes with distsim; others are registered (distsim.training.criteria)
MOST_SIZE = 4096
MOST_MILESTONES, MOST_CLASSES, MOST_PATTERNS = 1000, 100_000, 10_000
OTHER_FOLDERS = ("figures", "tune", "lease", "control")  # folders of a store that are not problems


@dataclass(frozen=True)
class Recipe:
    """How one network is trained, from a new optimizer to the last epoch.

    Learning rate in epoch e (0-based) under each schedule:
        constant   lr
        step       lr * factor ** (number of milestones <= e)
        triangle   per step, linear from 0 to lr at epoch `peak`, then linear to 0 at epoch `epochs`
    """

    epochs: Count
    batch_size: Count
    optimizer: Optimizer = "sgd"
    lr: Positive = 0.1
    momentum: Annotated[float, Bound("be in [0, 1)", lambda x: 0 <= x < 1)] = 0.9  # sgd and fast_sgd
    weight_decay: NotNegative = 0.0
    schedule: Schedule = "constant"
    milestones: tuple[Natural, ...] = ()
    factor: Positive = 0.1
    peak: NotNegative = 0.0
    lars: bool = False  # fast_sgd: scale each filter's step by ||w|| / (512 ||g|| + 1e-2)
    augment: tuple[Augmentation, ...] = ()
    patience: Count | None = None  # stop after this many epochs without a smaller validation loss; None: do not stop
    validation: Share = 0.1  # share of each class held out for validation, if `patience` is set
    normalise: tuple[tuple[float, ...], tuple[float, ...]] | None = None  # per-channel (means, sds) of pixels in [0, 1]
    #                                                      None: computed from the training set

    def __post_init__(self) -> None:
        check(self)
        steps = len(self.milestones)
        expect(steps <= MOST_MILESTONES, f"at most {MOST_MILESTONES:,} milestones are allowed, got {steps:,}")
        late = self.schedule == "triangle" and self.peak > self.epochs
        expect(not late, f"peak {self.peak} is after the last of {self.epochs} epochs")
        if self.normalise is not None:
            means, sds = self.normalise
            expect(len(means) == len(sds), f"normalise has {len(means)} means and {len(sds)} standard deviations")
            expect(all(sd > 0 for sd in sds), f"normalise: standard deviations must be positive, got {sds}")

    def shortened(self, epochs: int) -> "Recipe":
        """Return the recipe with another number of epochs. The schedule is scaled and keeps its shape."""
        require("epochs", epochs, Count)
        scale = epochs / self.epochs
        milestones = tuple(max(1, round(m * scale)) for m in self.milestones)  # the first epoch has the full rate
        return dataclasses.replace(self, epochs=epochs, milestones=milestones, peak=self.peak * scale)


def _is_name(text: str) -> bool:
    return text.isidentifier() and len(text) <= 100


@dataclass(frozen=True)
class Pruning:
    """One IMP iteration: which parameters are compared, how many are pruned, and what the survivors return to.

    scope   global: one pool of everything prunable, at one rate (conv_rate and fc_rate must be equal)
            local: one pool per layer, at the rate of its kind
            mixed: a pool "conv" (all convolutions) and a pool "fc" (all linear layers), each at its own rate
    rewind  WR: survivors, batch norm and its statistics return to the complete network's state after `rewind_epoch`
            epochs, and the epochs after it are trained. LRR: all values are kept and the whole schedule is repeated.
            FT: all values are kept and `finetune_epochs` epochs are trained at the schedule's last non-zero rate.
    criterion   which weights of a pool go first: magnitude, those of the smallest magnitude; or the name of one's own
            (distsim.training.criteria)
    """

    scope: Scope = "global"
    conv_rate: Share = 0.2
    fc_rate: Share = 0.2
    biases: bool = False  # prune biases too (of the layers whose weights are pruned); never batch norm's
    prune_output: bool = True
    rewind: Rewind = "LRR"
    rewind_epoch: Natural = 0
    finetune_epochs: Count = 10
    criterion: Annotated[str, Bound("be an identifier of at most 100 letters", _is_name)] = added(
        MAGNITUDE, absent=MAGNITUDE
    )

    def __post_init__(self) -> None:
        check(self)
        same = self.conv_rate == self.fc_rate
        expect(self.scope != "global" or same, f"global pruning has one rate, got {self.conv_rate} and {self.fc_rate}")


def pruned_count(rate: float, survivors: int) -> int:
    """Return floor(rate * survivors), with `rate` read as the decimal that is written: 0.29 of 100 is 29, not 28."""
    return int(Fraction(repr(float(rate))) * survivors)


@dataclass(frozen=True)
class Problem:
    """Data, network, training and pruning: one row of the papers' tables, or a user's own."""

    name: str
    source: str  # digits | cifar10 | svhn | mnist | folder
    model: str  # a key of distsim.models.MODELS
    size: Annotated[int, *count(MOST_SIZE)]  # height and width of the model's input
    channels: Literal[1, 3]  # 1 grey, 3 RGB
    recipe: Recipe
    pruning: Pruning
    classes: tuple[str, ...] = ()  # names, in this order; (): all classes of the source
    probe: Count = 5000  # images on which representations are compared
    probe_rule: ProbeRule = "uniform"
    runs: Count = unwritten(20)  # runs and iterations belong to a sweep's extent; these are its defaults
    iterations: Count = unwritten(20)
    control_runs: Count = unwritten(2)  # of each control; also a default
    train_limit: Count | None = None  # number of training images, equally many of each class; None: all
    paper: str = unwritten("")
    reduced: bool = False  # a flag changed the problem: claims are judged as tendencies only
    probe_from: ProbeFrom = added("train", absent="train")  # the papers' images were trained on, test images are new
    layers: tuple[str, ...] = added((), absent=())  # patterns of compared layers; (): the network or a rule decides

    def __post_init__(self) -> None:
        if isinstance(self.layers, list):
            object.__setattr__(self, "layers", tuple(self.layers))
        check(self)
        for name, values, most in (("classes", self.classes, MOST_CLASSES), ("layers", self.layers, MOST_PATTERNS)):
            expect(len(values) <= most, f"at most {most:,} {name} are allowed, got {len(values):,}")
        expect(
            "" not in self.layers,
            "layers: a pattern is empty; write a name such as 'layer1.0.relu', with * for any text",
        )
        plain = re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{,99}", self.name) and self.name not in OTHER_FOLDERS
        expect(
            bool(plain),
            "a problem's name must be the name of a folder, of letters, digits, - _ and . (at most 100), and not "
            f"{', '.join(OTHER_FOLDERS)}; got {shown(self.name)}",
        )
        expect(len(set(self.classes)) == len(self.classes), f"classes are repeated: {self.classes}")
        if self.recipe.normalise is not None:
            constants = len(self.recipe.normalise[0])
            expect(
                constants == self.channels,
                f"normalise has constants of {constants} channels, images have {self.channels}",
            )
        if self.pruning.rewind == "WR":
            expect(
                self.pruning.rewind_epoch < self.recipe.epochs,
                f"rewind_epoch {self.pruning.rewind_epoch} leaves nothing to train in {self.recipe.epochs} epochs",
            )

    def reduced_to(
        self,
        epochs: int | None = None,
        probe: int | None = None,
        train_limit: int | None = None,
        probe_from: ProbeFrom | None = None,
    ) -> "Problem":
        """Return the problem with other epochs, probe images or training images, marked as reduced.

        The papers' claims are about a probe of training images, so one of test images counts as reduced too.

        If necessary, the rewind point moves before the last epoch. None, or the value it has, changes nothing.
        """
        changes: dict[str, Any] = {}
        if epochs is not None and epochs != self.recipe.epochs:
            changes["recipe"] = self.recipe.shortened(epochs)
            rewind_epoch = min(self.pruning.rewind_epoch, epochs - 1)
            changes["pruning"] = dataclasses.replace(self.pruning, rewind_epoch=rewind_epoch)
        if probe is not None and probe != self.probe:
            changes["probe"] = probe
        if train_limit is not None and train_limit != self.train_limit:
            changes["train_limit"] = train_limit
        if probe_from is not None and probe_from != self.probe_from:
            changes["probe_from"] = probe_from
        return dataclasses.replace(self, **changes, reduced=True) if changes else self
