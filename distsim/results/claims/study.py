"""What claims are judged by: thresholds, verdicts, and one problem's tables as a claim sees them."""

import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.stats import rankdata

from distsim.results.tables import Tables


@dataclass(frozen=True)
class Thresholds:
    """Every number that a verdict depends on, including the papers' own.

    Two kinds of level, each with one tolerance everywhere. `about` widens levels that the papers read off a figure
    ("about", "near", "within"): their curves can be read to some hundredths. Bounds that they state as such ("never
    below", "always above") get none: who writes "never" has looked at the numbers. So an NBS of .898 is "about 0.9"
    (C7) but not "above 0.9" (C11). Verdicts say which kind a level is.
    """

    runs: int = 5
    iterations: int = 20
    spearman: float = -0.8  # falls: rank correlation with the iteration or the layer, at most
    effect: float = 0.02  # a difference that counts: first level minus last, one level above another; at least; ours
    effect_accuracy: float = 0.005  # the same for accuracies; ours
    climbs_back: float = 0.25  # falls: what is regained after the lowest level, as a share of the fall, at most; ours
    most_layers: float = 0.5  # falls with iteration: more than this share of the layers fall by themselves; ours
    u_depth: float = 0.1  # U: interior minimum this far below both ends
    u_depth_nbs: float = 0.03
    flat: float = 0.1  # range of the profile over hidden layers
    spike: float = 0.1  # last minus previous
    smaller: float = 0.7  # ratio of median ranges
    tick: float = 0.005  # a pooling layer above the layer before it, at least: "a slight incremental effect"; ours
    about: float = 0.03
    near_layers: int = 1  # "about block b": in it, or this many layers before or after
    comparable: float = 0.01  # accuracy lost at most; ours, the papers give no number
    most: float = 0.75  # share that counts as "almost all"; ours
    gathered_from: int = 8  # the iteration from which output similarities gather: C6, C7
    c5_minimum: tuple[float, float] = (0.30, 0.38)  # a little above 0.3; P2 reads off 0.35 and 0.32
    c5_output: float = 0.9
    c6_lowest: float = 0.75
    c6_output: tuple[float, float] = (0.77, 0.95)
    c6_gathering: float = 0.79
    c6_scatter: float = 0.09  # range of the output's levels, at least: half of c6_output's; ours
    c7_levels: tuple[float, float] = (0.7, 1.0)
    c7_gathering: float = 0.9
    c8_between: float = 0.02  # the level between the two bottoms is this far above them; ours
    c9_svcca: float = 0.40
    c9_pwcca: float = 0.45
    c9_cka: float = 0.90
    c9_nbs: float = 0.82
    c10_first: int = 3  # iterations that must beat the complete network
    c10_peak: tuple[float, float] = (0.05, 0.2)  # about 10 % left: within a factor of two
    c10_apart: float = 0.002  # of first iterations and the complete network: what 10,000 images leave to luck; ours
    c10_decline: float = 0.005  # from the peak to the last iteration, at least; ours
    c11_output: float = 0.9
    c11_cosine: tuple[float, float] = (0.80, 0.97)
    c13_lowest: float = 0.75
    c14_lag: tuple[int, int] = (2, 3)  # layers
    c17_alike: float = 0.6  # rank correlation of the two profiles over depth, at least; ours
    c17_apart: float = 0.15  # distance of the two bottoms, as a share of the depth, at most; ours
    c17_range: float = 2.0  # quotient of the profiles' ranges, or its inverse, at most; ours


THRESHOLDS = T = Thresholds()
EASY = ("cifar2", "cifar4")
HARD = ("cifar6", "cifar8", "cifar10")
P1_CIFAR10 = "cifar10"
VGG16, RESNET, SVHN = "vgg16_cifar10", "resnet_fast_cifar10", "vgg_svhn"
P2_PROBLEMS = (VGG16, RESNET, SVHN)
P2_METRICS = ("svcca", "pwcca", "cka", "nbs")
NO_DATA = "not enough data"


@dataclass(frozen=True)
class Verdict:
    """The judgement of one claim for one problem under one metric."""

    claim: str  # C1 .. C18
    problem: str  # or "all"
    metric: str  # or "accuracy"
    verdict: str  # holds | fails | tendency: for | tendency: against | not enough data
    numbers: dict[str, float]
    text: str  # one sentence
    where: str  # in the papers
    data: str = ""  # "on re-encoded images" if they are not the published ones
    # The same where a fall with the iteration counts only if retraining without pruning does not fall as far. "": the
    # claim is about no such fall, or there is no such control
    controlled: str = ""


@dataclass(frozen=True)
class Part:
    """One condition of a claim, and the numbers that decided it."""

    says: str
    ok: bool
    numbers: dict[str, float]


class Absent(Exception):
    """The tables do not hold something that a claim is about. The message names it and follows the word "Lacks"."""


@dataclass(frozen=True)
class Study:
    """One problem under one metric."""

    levels: pd.DataFrame  # layers, input to output × iterations
    kinds: pd.Series  # by layer
    runs: pd.DataFrame  # the rows of `similarities` behind the levels
    counts: pd.Series  # by iteration: runs behind its levels, of the layer that has the fewest
    control: "Study | None" = None  # retrained without pruning; None: the claim is judged without it

    @property
    def hidden(self) -> pd.DataFrame:
        return self.levels[self.kinds != "out"]

    @property
    def profile(self) -> pd.Series:
        return self.hidden.mean(axis=1)

    @property
    def output(self) -> pd.Series:
        outputs = self.levels[self.kinds == "out"]
        if outputs.empty:
            raise Absent("the output layer")
        return outputs.iloc[0]

    @property
    def lowest(self) -> str:
        """Return the hidden layer in which the profile is lowest."""
        return str(self.profile.idxmin())

    @property
    def lowest_at(self) -> int:
        return self.at(self.lowest)

    def at(self, layer: str) -> int:
        """Return the position of a layer among the compared layers, from 0."""
        return int(self.levels.index.get_loc(layer))

    def block(self, *numbers: int) -> list[str]:
        """Return the hidden layers of these blocks. Absent: one of the blocks has none."""
        blocks = {layer: block_of(layer) for layer in self.hidden.index}
        lacking = set(numbers) - set(blocks.values())
        if lacking:
            raise Absent(f"block {min(lacking)}")
        return [layer for layer, number in blocks.items() if number in numbers]

    def spread(self, layers: Iterable[str]) -> float:
        """Return the range of levels over iterations, median over `layers`."""
        rows = self.levels.loc[list(layers)]
        return float((rows.max(axis=1) - rows.min(axis=1)).median())


def has_controls(tables: Tables) -> bool:
    """Say whether the tables hold networks that were retrained without pruning."""
    return "control" in tables.summary and bool((tables.summary["control"] == "retrain").any())


class Studies:
    """The problems of some tables, under each metric. Each is read once, however many claims are judged by it."""

    def __init__(self, tables: Tables) -> None:
        self.every, self.pruned = tables, tables.pruned
        self._read: dict[tuple[str, str, str, bool], Study | None] = {}

    def of(self, problem: str, metric: str, statistic: str, control: bool = False) -> Study | None:
        """Return one problem under one metric, None if there is no iteration in which every layer has a value.

        statistic : a column of the summary; control : of the networks that were retrained without pruning
        """
        key = problem, metric, statistic, control
        if key not in self._read:
            self._read[key] = _study(self.every.retrained if control else self.pruned, problem, metric, statistic)
        return self._read[key]


def _study(tables: Tables, problem: str, metric: str, statistic: str) -> Study | None:
    summary, similarities = tables.summary, tables.similarities
    rows = summary[(summary["problem"] == problem) & (summary["metric"] == metric)]
    rows = rows.sort_values(["position", "iteration"])
    kinds = rows.drop_duplicates("layer").set_index("layer")["kind"]
    levels = rows.pivot(index="layer", columns="iteration", values=statistic).loc[kinds.index].dropna(axis=1)
    if levels.empty:
        return None
    runs = similarities[(similarities["problem"] == problem) & (similarities["metric"] == metric)]
    counts = rows[rows["iteration"].isin(levels.columns)].groupby("iteration")["count"].min()
    return Study(levels, kinds, runs[runs["iteration"].isin(levels.columns)], counts)


class Evidence:
    """The tables as one claim sees them. It records how large the study behind the values used is.

    controlled : studies come with their control
    """

    def __init__(self, studies: Studies, statistic: str, controlled: bool = False) -> None:
        self._studies, self.tables = studies, studies.pruned
        self.statistic, self._controlled = statistic, controlled
        self.full = True  # whether the studies used so far are large enough for more than a tendency
        self.extent: dict[str, float] = {}  # runs and iterations of the smallest study used so far
        self.problems: list[str] = []  # used so far

    def study(self, problem: str, metric: str) -> Study:
        """Return one problem under one metric. Absent: there is no iteration in which every layer has a value."""
        study = self._studies.of(problem, metric, self.statistic)
        if study is None:
            raise Absent(f"an iteration of {problem} in which every layer has {metric}")
        self._weigh(problem, study.counts)
        return replace(study, control=self.control(problem, metric)) if self._controlled else study

    def control(self, problem: str, metric: str) -> Study:
        """Return the control that is retrained without pruning. Absent: there is none."""
        there = has_controls(self._studies.every)
        study = self._studies.of(problem, metric, self.statistic, control=True) if there else None
        if study is None:
            raise Absent("networks that were trained again as often without pruning, as a control")
        return study

    def accuracy(self, problem: str) -> pd.DataFrame:
        """Return a problem's rows of the accuracy table, iteration 0 first.

        Absent: there is no complete network or no pruned one, or an accuracy is missing.
        """
        accuracy = self.tables.accuracy
        rows = accuracy[accuracy["problem"] == problem].set_index("iteration")
        if 0 not in rows.index or len(rows) < 2 or rows[self.statistic].isna().any():
            raise Absent(f"accuracy of {problem}, complete and pruned")
        self._weigh(problem, rows["count"].drop(0))
        return rows

    def _weigh(self, problem: str, runs_by_iteration: pd.Series) -> None:
        self.problems.append(problem)
        reduced = self.tables.networks.loc[self.tables.networks["problem"] == problem, "reduced"]
        enough = (runs_by_iteration >= T.runs).sum() >= T.iterations
        self.full = self.full and bool(enough) and len(reduced) > 0 and not reduced.any()
        used = {"runs": float(runs_by_iteration.min()), "iterations": float(len(runs_by_iteration))}
        self.extent = {name: min(number, self.extent.get(name, number)) for name, number in used.items()}


@dataclass(frozen=True)
class Claim:
    """A claim and the (problem, metric) pairs it is judged for."""

    name: str
    where: str
    statistic: str  # median (P1) | mean (P2)
    cases: Callable[[Tables], list[tuple[str, str]]]
    judge: Callable[[Evidence, str, str], list[Part]]
    over_iterations: bool = False  # it says that similarity falls with the iteration, so that a control can answer it


def block_of(layer: str) -> int | None:
    """Return the block in a layer's name: conv3_1, pool3, l3_res1 -> 3; prep, fc1, out, the last pool -> None."""
    match = re.match(r"(?:conv|pool|l)(\d+)", layer)
    return int(match[1]) if match else None


def spearman(x: npt.ArrayLike, y: npt.ArrayLike) -> float:
    """Return Spearman's rank correlation, with ties at their mean rank; NaN if either side is constant."""
    ranks = np.array([rankdata(x), rankdata(y)])
    if (np.ptp(ranks, axis=1) == 0).any():
        return math.nan
    return float(np.corrcoef(ranks)[0, 1])
