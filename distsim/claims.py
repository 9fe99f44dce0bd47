"""What the papers claim, as predicates over the tables: SPEC section 6, C1 to C17.

"P1" is the ICPRAM 2020 paper, judged on medians over runs; "P2" its 2021 extension, judged on means, as each plots
them. CCA levels are those of the plain mean over canonical correlations, which is what the tables hold.

A *level* is a statistic of one (layer, iteration); a *profile* is a layer's level averaged over iterations, layers from
input to output. Shapes over layers are read off the profile, bounds off the levels. Hidden layers are all but `out`.

A claim consists of parts. It holds if all do, and only a full study can say so: at least `runs` runs behind every
level of at least `iterations` iterations, with no recipe reduced. A smaller one yields a tendency; if what a claim is
about is absent, there is not enough data. An iteration in which some layer has a value in no run is left out, so that
all layers are compared over the same iterations; `numbers` tells how many runs and iterations a verdict rests on.
"""

import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.stats import rankdata

from distsim.seeds import numpy_stream
from distsim.summary import CONFIDENCE, RESAMPLES, Tables


@dataclass(frozen=True)
class Thresholds:
    """Every number a verdict depends on, the papers' own included."""

    runs: int = 5
    iterations: int = 20
    spearman: float = -0.8  # falls
    u_depth: float = 0.1  # U: interior minimum this far below both ends
    u_depth_nbs: float = 0.03
    flat: float = 0.1  # range of the profile over hidden layers
    spike: float = 0.1  # last minus previous
    smaller: float = 0.7  # ratio of median ranges
    about: float = 0.03
    near_layers: int = 1  # "about block b": in it, or this many layers before or after
    comparable: float = 0.01  # accuracy lost at most; ours, the papers give no number
    most: float = 0.75  # share that "almost all" asks for; ours
    gathered_from: int = 8  # the iteration from which output similarities gather: C6, C7
    c5_minimum: tuple[float, float] = (0.30, 0.38)  # a little above 0.3; P2 reads off 0.35 and 0.32
    c5_output: float = 0.9
    c6_lowest: float = 0.75
    c6_output: tuple[float, float] = (0.77, 0.95)
    c6_gathering: float = 0.79
    c7_levels: tuple[float, float] = (0.7, 1.0)
    c7_gathering: float = 0.9
    c9_svcca: float = 0.40
    c9_pwcca: float = 0.45
    c9_cka: float = 0.90
    c9_nbs: float = 0.82
    c10_first: int = 3  # iterations that must beat the complete network
    c10_peak: tuple[float, float] = (0.05, 0.2)  # about 10 % left: within a factor of two
    c11_output: float = 0.9
    c11_cosine: tuple[float, float] = (0.80, 0.97)
    c13_lowest: float = 0.75
    c14_lag: tuple[int, int] = (2, 3)  # layers


THRESHOLDS = T = Thresholds()

EASY = ("cifar2", "cifar4")
HARD = ("cifar6", "cifar8", "cifar10")
VGG16, RESNET, SVHN = "vgg16_cifar10", "resnet_fast_cifar10", "vgg_svhn"
P2_PROBLEMS = (VGG16, RESNET, SVHN)
P2_METRICS = ("svcca", "pwcca", "cka", "nbs")


NO_DATA = "not enough data"


@dataclass(frozen=True)
class Verdict:
    """What the tables say about one claim for one problem under one metric."""

    claim: str  # C1 .. C17
    problem: str  # or "all"
    metric: str  # or "accuracy"
    verdict: str  # holds | fails | tendency: for | tendency: against | not enough data
    numbers: dict[str, float]
    text: str  # one sentence
    where: str  # in the papers


@dataclass(frozen=True)
class Part:
    """One condition of a claim, and the numbers it was decided by."""

    says: str
    ok: bool
    numbers: dict[str, float]


class Absent(Exception):
    """Something that a claim is about is not in the tables."""


@dataclass(frozen=True)
class Study:
    """One problem under one metric."""

    levels: pd.DataFrame  # layers, input to output × iterations
    kinds: pd.Series  # by layer
    runs: pd.DataFrame  # the rows of `similarities` behind the levels

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
        """The hidden layer where the profile is lowest."""
        return str(self.profile.idxmin())

    @property
    def lowest_at(self) -> int:
        return self.at(self.lowest)

    def at(self, layer: str) -> int:
        """Place among the layers compared, from 0."""
        return int(self.levels.index.get_loc(layer))

    def block(self, *numbers: int) -> list[str]:
        """The hidden layers of these blocks. Absent: one of them has none."""
        blocks = {layer: block_of(layer) for layer in self.hidden.index}
        lacking = set(numbers) - set(blocks.values())
        if lacking:
            raise Absent(f"block {min(lacking)}")
        return [layer for layer, number in blocks.items() if number in numbers]

    def spread(self, layers: Iterable[str]) -> float:
        """Median over `layers` of the range of levels over iterations."""
        rows = self.levels.loc[list(layers)]
        return float((rows.max(axis=1) - rows.min(axis=1)).median())


class Evidence:
    """The tables as one claim sees them, and how much of a study lies behind what it has seen."""

    def __init__(self, tables: Tables, statistic: str) -> None:
        self.tables = tables
        self.statistic = statistic
        self.full = True  # enough for more than a tendency
        self.extent: dict[str, float] = {}  # runs and iterations of the smallest study seen

    def study(self, problem: str, metric: str) -> Study:
        """Absent: in no iteration has every layer a value."""
        every, of = self.tables.summary, self.tables.similarities
        rows = every[(every["problem"] == problem) & (every["metric"] == metric)].sort_values(["position", "iteration"])
        kinds = rows.drop_duplicates("layer").set_index("layer")["kind"]
        levels = rows.pivot(index="layer", columns="iteration", values=self.statistic).loc[kinds.index].dropna(axis=1)
        if levels.empty:
            raise Absent(f"an iteration of {problem} in which every layer has {metric}")
        used = levels.columns
        self._weigh(problem, rows[rows["iteration"].isin(used)].groupby("iteration")["count"].min())
        runs = of[(of["problem"] == problem) & (of["metric"] == metric) & of["iteration"].isin(used)]
        return Study(levels, kinds, runs)

    def accuracy(self, problem: str) -> pd.DataFrame:
        """Rows of the accuracy table, iteration 0 first. Absent: no complete network, or nothing pruned."""
        every = self.tables.accuracy
        rows = every[every["problem"] == problem].set_index("iteration")
        if 0 not in rows.index or len(rows) < 2 or rows[self.statistic].isna().any():
            raise Absent(f"accuracy of {problem}, complete and pruned")
        self._weigh(problem, rows["count"].drop(0))
        return rows

    def _weigh(self, problem: str, runs_by_iteration: pd.Series) -> None:
        reduced = self.tables.networks.loc[self.tables.networks["problem"] == problem, "reduced"]
        enough = (runs_by_iteration >= T.runs).sum() >= T.iterations
        self.full = self.full and bool(enough) and len(reduced) > 0 and not reduced.any()
        seen = {"runs": float(runs_by_iteration.min()), "iterations": float(len(runs_by_iteration))}
        self.extent = {name: min(number, self.extent.get(name, number)) for name, number in seen.items()}


@dataclass(frozen=True)
class Claim:
    """A claim and the (problem, metric) pairs it is judged for."""

    name: str
    where: str
    statistic: str  # median (P1) | mean (P2)
    cases: Callable[[Tables], list[tuple[str, str]]]
    judge: Callable[[Evidence, str, str], list[Part]]


def check(tables: Tables) -> list[Verdict]:
    """All claims, C1 to C17; those about every model also for problems that are not the papers'."""
    return [_verdict(claim, tables, problem, metric) for claim in CLAIMS for problem, metric in claim.cases(tables)]


def block_of(layer: str) -> int | None:
    """The block a layer's name puts it in: conv3_1, pool3, l3_res1 -> 3; prep, fc1, out and the last pool -> None."""
    match = re.match(r"(?:conv|pool|l)(\d+)", layer)
    return int(match[1]) if match else None


def spearman(x: npt.ArrayLike, y: npt.ArrayLike) -> float:
    """Rank correlation, ties at their mean rank; NaN if either side is constant."""
    ranks = np.array([rankdata(x), rankdata(y)])
    if (np.ptp(ranks, axis=1) == 0).any():
        return math.nan
    return float(np.corrcoef(ranks)[0, 1])


def _verdict(claim: Claim, tables: Tables, problem: str, metric: str) -> Verdict:
    evidence = Evidence(tables, claim.statistic)
    try:
        parts = claim.judge(evidence, problem, metric)
    except Absent as absent:
        return Verdict(claim.name, problem, metric, NO_DATA, {}, f"Lacks {absent}.", claim.where)
    ok = all(part.ok for part in parts)
    if evidence.full:
        verdict = "holds" if ok else "fails"
    else:
        verdict = "tendency: for" if ok else "tendency: against"
    found = {name: float(number) for part in parts for name, number in part.numbers.items()}
    text = "; ".join(f"{part.says}: {'yes' if part.ok else 'no'}" for part in parts)
    return Verdict(
        claim.name, problem, metric, verdict, evidence.extent | found, text[0].upper() + text[1:] + ".", claim.where
    )


# Parts that several claims share


def _falls(says: str, levels: pd.Series, by_run: pd.DataFrame, prefix: str = "") -> Part:
    """Spearman ρ ≤ −0.8, or a least-squares slope below 0 with its 95 % bootstrap interval over runs.

    levels   what the runs say together, in order
    by_run   runs × the same points: each run's own slope is taken, over the points it has
    """
    if len(levels) < 2:
        raise Absent("two points to see a trend by")
    rho = spearman(np.arange(len(levels)), levels)
    x = np.arange(by_run.shape[1], dtype=np.float64)
    slopes = np.array([_slope(x, row) for row in by_run.to_numpy(np.float64)])
    slopes = slopes[~np.isnan(slopes)]
    slope = slopes.mean() if len(slopes) else math.nan
    low = high = math.nan
    if len(slopes) > 1:  # one run says nothing about its spread
        drawn = numpy_stream(0, "claims").integers(len(slopes), size=(RESAMPLES, len(slopes)))
        tail = (1 - CONFIDENCE) / 2
        low, high = np.quantile(slopes[drawn].mean(axis=1), (tail, 1 - tail))
    named = {"spearman": rho, "slope": slope, "slope_low": low, "slope_high": high}
    ok = rho <= T.spearman or high < 0
    return Part(says, bool(ok), {prefix + name: float(number) for name, number in named.items()})


def _slope(x: npt.NDArray[np.float64], y: npt.NDArray[np.float64]) -> float:
    known = ~np.isnan(y)
    if known.sum() < 2:
        return math.nan
    x, y = x[known] - x[known].mean(), y[known]
    return float(x @ y / (x @ x))


def _falls_with_iteration(study: Study, layers: pd.Index) -> Part:
    """The mean over `layers` falls; the share of layers that fall by themselves is reported beside it."""
    levels = study.levels.loc[layers]
    runs = study.runs[study.runs["layer"].isin(layers)]
    part = _falls("falls with iteration", levels.mean(axis=0), _by_run(runs, "iteration"), "iteration_")
    alone = [spearman(levels.columns, row) <= T.spearman for row in levels.to_numpy()]
    return Part(part.says, part.ok, part.numbers | {"layers_falling": float(np.mean(alone))})


def _falls_with_depth(says: str, study: Study, layers: pd.Index) -> Part:
    runs = study.runs[study.runs["layer"].isin(layers)]
    return _falls(says, study.profile[layers], _by_run(runs, "position"), "depth_")


def _by_run(runs: pd.DataFrame, along: str) -> pd.DataFrame:
    return runs.pivot_table(index="run", columns=along, values="value", aggfunc="mean")


def _u_shaped(study: Study, depth: float) -> Part:
    """Over hidden layers: recovery that only the output shows is none."""
    profile = study.profile.to_numpy()
    if len(profile) < 3:
        raise Absent("at least three hidden layers")
    found = min(profile[0], profile[-1]) - profile[1:-1].min()
    return Part("U-shaped over hidden layers", found >= depth, {"u_depth": found})


def _lowest_near(study: Study, *blocks: int) -> Part:
    places = [study.at(layer) for layer in study.block(*blocks)]
    ok = min(places) - T.near_layers <= study.lowest_at <= max(places) + T.near_layers
    named = " and ".join(str(number) for number in blocks)
    return Part(f"lowest about block {named} ({study.lowest})", ok, _lowest(study))


def _lowest_in(says: str, study: Study, layers: Iterable[str]) -> Part:
    return Part(f"lowest {says} ({study.lowest})", study.lowest in set(layers), _lowest(study))


def _lowest(study: Study) -> dict[str, float]:
    return {"lowest_layer": study.lowest_at, "lowest_profile": study.profile.min()}


def _fans_out(study: Study) -> Part:
    early = study.block(1, 2)
    late = [layer for layer in study.hidden.index if layer not in early]
    ratio = _ratio(study.spread(early), study.spread(late))
    return Part("blocks 1 and 2 packed, fan-out after", ratio <= T.smaller, {"spread_ratio": ratio})


def _spikes(says: str, last: float, previous: float) -> Part:
    return Part(says, last - previous >= T.spike, {"spike": last - previous})


def _above(says: str, levels: pd.DataFrame | pd.Series, bound: float, name: str = "minimum") -> Part:
    smallest = float(np.min(levels.to_numpy()))
    return Part(f"{says} {bound:g}", smallest >= bound, {name: smallest})


def _within(says: str, levels: pd.DataFrame | pd.Series, bounds: tuple[float, float], name: str) -> Part:
    """About: `bounds` widened by the tolerance."""
    low, high = float(np.min(levels.to_numpy())), float(np.max(levels.to_numpy()))
    ok = low >= bounds[0] - T.about and high <= bounds[1] + T.about
    text = f"{bounds[0]:g}" if bounds[0] == bounds[1] else f"{bounds[0]:g}–{bounds[1]:g}"
    return Part(f"{says} {text}", ok, {f"{name}_low": low, f"{name}_high": high})


def _gathers(study: Study, level: float) -> Part:
    sparse = study.output[study.output.index >= T.gathered_from]
    if sparse.empty:
        raise Absent(f"iteration {T.gathered_from} and later")
    return _within(f"output from iteration {T.gathered_from} on about", sparse, (level, level), "gathering")


def _ratio(a: float, b: float) -> float:
    return a / b if b else math.nan


# The claims


def _c1(evidence: Evidence, problem: str, metric: str) -> list[Part]:
    study = evidence.study(problem, metric)
    return [_falls_with_iteration(study, study.hidden.index)]


def _c2(evidence: Evidence, problem: str, metric: str) -> list[Part]:
    """Pooling layers are set aside: P1 does so ("if we do not consider ... almost all pooling layers")."""
    study = evidence.study(problem, metric)
    layers = study.hidden.index[study.kinds[study.hidden.index] != "pool"]
    return [_falls_with_depth("falls from input to output, pooling set aside", study, layers)]


def _c3(evidence: Evidence, problem: str, metric: str) -> list[Part]:
    study = evidence.study(problem, metric)
    if "fc" not in set(study.kinds):
        raise Absent("a hidden fully-connected layer")
    profile = study.profile
    first = profile.iloc[0] - profile.iloc[1:].min()
    high = Part("high at the first convolution", first >= T.u_depth, {"first_above_lowest": first})
    fc = profile.index.get_loc(study.kinds.index[study.kinds == "fc"][0])
    return [high, _lowest_near(study, 3), _spikes("spike at fc", profile.iloc[fc], profile.iloc[fc - 1])]


def _c4(evidence: Evidence, _: str, metric: str) -> list[Part]:
    def spreads(problems: Iterable[str]) -> float:
        levels = [evidence.study(problem, metric).hidden for problem in problems]
        return float(pd.concat([level.max(axis=1) - level.min(axis=1) for level in levels]).median())

    easy, hard = spreads(EASY), spreads(HARD)
    ratio = _ratio(hard, easy)
    numbers = {"spread_easy": easy, "spread_hard": hard, "spread_ratio": ratio}
    return [Part("spread over iterations smaller for the harder problems", ratio <= T.smaller, numbers)]


def _c5(evidence: Evidence, problem: str, metric: str) -> list[Part]:
    study = evidence.study(problem, metric)
    late = [*study.block(5), *study.kinds.index[study.kinds == "out"]]
    early = [layer for layer in study.levels.index if layer not in late]
    ratio = _ratio(study.spread(late), study.spread(early))
    minimum, (low, high) = float(study.levels.to_numpy().min()), T.c5_minimum
    return [
        _u_shaped(study, T.u_depth),
        _lowest_near(study, 3),
        Part(f"minimum within {low:g}–{high:g}", low <= minimum <= high, {"minimum": minimum}),
        _above("output at least", study.output, T.c5_output, "output_minimum"),
        _falls_with_iteration(study, study.levels.index),
        Part("falls less near the output", ratio <= T.smaller, {"spread_ratio": ratio}),
    ]


def _c6(evidence: Evidence, problem: str, metric: str) -> list[Part]:
    study = evidence.study(problem, metric)
    return [
        _above("never below", study.levels, T.c6_lowest),
        _falls_with_depth("falls towards the output", study, study.hidden.index),
        _fans_out(study),
        _within("output within about", study.output, T.c6_output, "output"),
        _gathers(study, T.c6_gathering),
    ]


def _c7(evidence: Evidence, problem: str, metric: str) -> list[Part]:
    study, cka = evidence.study(problem, metric), evidence.study(problem, "cka")
    above = float((study.output - cka.output).min())
    third_pool = [layer for layer in study.block(3) if study.kinds[layer] == "pool"]
    return [
        _within("within about", study.levels, T.c7_levels, "level"),
        _fans_out(study),
        _lowest_in("from the third pool to the next convolutions", study, third_pool + _convolutions(study, 4)),
        _u_shaped(study, T.u_depth_nbs),
        Part("output above CKA's", above > 0, {"output_above_cka": above}),
        _gathers(study, T.c7_gathering),
    ]


def _c8(evidence: Evidence, problem: str, metric: str) -> list[Part]:
    study = evidence.study(problem, metric)
    profile = study.profile
    if metric == "nbs":
        cka = evidence.study(problem, "cka").profile
        outside = profile.index.difference(study.block(3))
        apart = float((profile - cka)[outside].abs().median())
        bowl, bowl_nbs = _bowl(cka, study), _bowl(profile, study)
        return [
            Part("close to CKA outside block 3", apart <= T.about, {"apart": apart}),
            Part("CKA has a bowl in block 3", bowl >= T.u_depth_nbs, {"bowl_cka": bowl}),
            Part("its own bowl is shallower", bowl_nbs < bowl, {"bowl_nbs": bowl_nbs}),
        ]
    early, late = profile[study.block(1, 2)].min(), [profile[study.block(number)].min() for number in (3, 4)]
    recovery = profile.iloc[-1] - profile.min()
    both = Part("minima in blocks 3 and 4", max(late) < early, {"early": early, "block3": late[0], "block4": late[1]})
    return [
        both,
        Part("no recovery in hidden layers", recovery < T.u_depth, {"recovery": recovery}),
        _spikes("spike at the output", study.output.mean(), profile.iloc[-1]),
    ]


def _c9(evidence: Evidence, problem: str, metric: str) -> list[Part]:
    """The third convolution is conv3 of P2's Fig. 3, the first of block 3: so read, NBS's minimum in the second
    residual block also lies the 2–3 layers later that P2 §6.1 speaks of."""
    study = evidence.study(problem, metric)
    profile = study.profile
    if metric == "cka":
        spread = profile.max() - profile.min()
        flat = Part("without trend over hidden layers", spread <= T.flat, {"profile_range": spread})
        return [_above("at least", study.levels, T.c9_cka - T.about), flat]
    if metric == "nbs":
        residual = [layer for layer in study.block(3) if study.kinds[layer] in ("conv_res", "add")]
        return [
            _above("at least", study.levels, T.c9_nbs),
            _lowest_in("in the second residual block", study, residual),
        ]
    near = abs(study.lowest_at - study.at(_convolutions(study, 3)[0])) <= T.near_layers
    recovery = profile.iloc[-1] - profile.min()
    steps = study.levels.diff(axis=1).abs().mean(axis=0).iloc[1:]
    if len(steps) < 2:
        raise Absent("at least three iterations")
    ratio = _ratio(steps.iloc[len(steps) // 2 :].median(), steps.iloc[: len(steps) // 2].median())
    return [
        _above("at least", study.levels, T.c9_svcca if metric == "svcca" else T.c9_pwcca),
        Part(f"lowest at the third convolution ({study.lowest})", near, _lowest(study)),
        Part("weak recovery in hidden layers", recovery < T.u_depth, {"recovery": recovery}),
        Part("curves of successive iterations draw together", ratio <= T.smaller, {"step_ratio": ratio}),
    ]


def _c10(evidence: Evidence, problem: str, metric: str) -> list[Part]:
    rows = evidence.accuracy(problem)
    accuracy, complete = rows["mean"], float(rows["mean"][0])
    pruned = accuracy.drop(0)
    if problem == SVHN:
        networks = evidence.tables.networks
        runs = networks[(networks["problem"] == problem) & (networks["iteration"] > 0)]
        by_run = runs.pivot_table(index="run", columns="iteration", values="accuracy")
        first = complete - float(pruned.iloc[0])
        return [
            Part("first iteration below the complete network", first > 0, {"first_loss": first}),
            _falls("falls with iteration", accuracy, by_run),
        ]
    gain = float(pruned[pruned.index <= T.c10_first].min()) - complete
    peak, last = pruned.idxmax(), float(pruned.iloc[-1])
    left = float(rows["remaining"][peak])
    return [
        Part("first iterations beat the complete network", gain > 0, {"first_gain": gain}),
        Part("peak at about 10 % left", T.c10_peak[0] <= left <= T.c10_peak[1], {"peak_remaining": left}),
        Part("then declines", last < pruned.max(), {"decline": float(pruned.max()) - last}),
        Part("stays comparable", last >= complete - T.comparable, {"last_minus_complete": last - complete}),
    ]


def _c11(evidence: Evidence, problem: str, metric: str) -> list[Part]:
    output = evidence.study(problem, metric).output
    if metric != "cosine":
        return [_above("output above", output, T.c11_output)]
    within = _within("within about", output, T.c11_cosine, "output")
    low, high = (abs(end - bound) <= T.about for end, bound in zip(within.numbers.values(), T.c11_cosine, strict=True))
    return [Part(f"spread over about {T.c11_cosine[0]:g}–{T.c11_cosine[1]:g}", low and high, within.numbers)]


def _c12(evidence: Evidence, problem: str, metric: str) -> list[Part]:
    study = evidence.study(problem, metric)
    return [_falls_with_iteration(study, study.levels.index)]


def _c13(evidence: Evidence, problem: str, metric: str) -> list[Part]:
    return [_above("never below", evidence.study(problem, metric).levels, T.c13_lowest)]


def _c14(evidence: Evidence, problem: str, metric: str) -> list[Part]:
    nbs, (low, high) = evidence.study(problem, metric), T.c14_lag
    parts = []
    for other in ("svcca", "pwcca"):
        lag = nbs.lowest_at - evidence.study(problem, other).lowest_at
        parts.append(
            Part(f"minimum {low}–{high} layers after that of {other}", low <= lag <= high, {f"lag_{other}": lag})
        )
    return parts


def _c15(evidence: Evidence, problem: str, metric: str) -> list[Part]:
    study = evidence.study(problem, metric)
    steps = study.profile.diff()[study.kinds[study.hidden.index] == "pool"]
    if steps.empty:
        raise Absent("a pooling layer")
    share = float((steps > 0).mean())
    numbers = {"share_up": share, "median_step": float(steps.median())}
    return [Part("almost all pooling layers tick up", share >= T.most, numbers)]


def _c16(evidence: Evidence, problem: str, _: str) -> list[Part]:
    accuracy = evidence.accuracy(problem)["median"]
    complete, pruned = float(accuracy[0]), accuracy.drop(0)
    numbers = {"complete": complete, "worst": float(pruned.min()), "worst_iteration": float(pruned.idxmin())}
    return [Part("no iteration worse than comparable", pruned.min() >= complete - T.comparable, numbers)]


def _c17(*_: Any) -> list[Part]:
    raise Absent("one problem pruned both with weight rewinding and with learning-rate rewinding")


def _convolutions(study: Study, block: int) -> list[str]:
    return [layer for layer in study.block(block) if study.kinds[layer] == "conv"]


def _bowl(profile: pd.Series, study: Study) -> float:
    """How far block 3 dips below the layers just before and just after it."""
    inside = [profile.index.get_loc(layer) for layer in study.block(3)]
    before, after = profile.iloc[min(inside) - 1], profile[study.block(4)].iloc[0]
    return float(min(before, after) - profile.iloc[inside].min())


def _cases(problems: Iterable[str], metrics: Iterable[str]) -> Callable[[Tables], list[tuple[str, str]]]:
    pairs = [(problem, metric) for problem in problems for metric in metrics]
    return lambda tables: pairs


def _every_model(metrics: Iterable[str]) -> Callable[[Tables], list[tuple[str, str]]]:
    """P2's models, there or not, and whatever else the tables hold."""

    def cases(tables: Tables) -> list[tuple[str, str]]:
        others = sorted(set(tables.summary["problem"]) - set(P2_PROBLEMS))
        return [(problem, metric) for problem in (*P2_PROBLEMS, *others) for metric in metrics]

    return cases


CLAIMS = (
    Claim("C1", "P1 §5.2", "median", _cases(EASY, ["svcca"]), _c1),
    Claim("C2", "P1 §5.2", "median", _cases(EASY, ["svcca"]), _c2),
    Claim("C3", "P1 §5.2", "median", _cases(HARD, ["svcca"]), _c3),
    Claim("C4", "P1 §5.2", "median", _cases(["all"], ["svcca"]), _c4),
    Claim("C5", "P2 §5.2", "mean", _cases([VGG16], ["svcca", "pwcca"]), _c5),
    Claim("C6", "P2 §5.2", "mean", _cases([VGG16], ["cka"]), _c6),
    Claim("C7", "P2 §5.2", "mean", _cases([VGG16], ["nbs"]), _c7),
    Claim("C8", "P2 §5.2", "mean", _cases([SVHN], ["svcca", "pwcca", "nbs"]), _c8),
    Claim("C9", "P2 §5.3", "mean", _cases([RESNET], P2_METRICS), _c9),
    Claim("C10", "P2 §5.1", "mean", _cases(P2_PROBLEMS, ["accuracy"]), _c10),
    Claim("C11", "P2 §6.2", "mean", _cases([VGG16], ["svcca", "pwcca", "nbs", "cosine"]), _c11),
    Claim("C12", "P2 §7", "mean", _every_model(P2_METRICS), _c12),
    Claim("C13", "P2 §7", "mean", _every_model(["cka"]), _c13),
    Claim("C14", "P2 §6.1", "mean", _cases(P2_PROBLEMS, ["nbs"]), _c14),
    Claim("C15", "P1 §5.2", "median", _cases(EASY + HARD, ["svcca"]), _c15),
    Claim("C16", "P1 §5.2", "median", _cases(EASY + HARD, ["accuracy"]), _c16),
    Claim("C17", "P2 §3.1", "mean", _cases(["all"], ["svcca"]), _c17),
)
