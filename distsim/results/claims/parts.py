"""The conditions that claims consist of: falls, U-shapes, spikes, levels."""

import math
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import pandas as pd

from distsim.results.claims.study import Absent, Part, Study, T, spearman
from distsim.results.tables import CONFIDENCE, ENOUGH, RESAMPLES, runs_of
from distsim.seeds import numpy_stream


def falls(says: str, levels: pd.Series, by_run: pd.DataFrame, prefix: str = "", effect: float = T.effect) -> Part:
    """Judge whether levels fall. All of this must be so.

    - Spearman's ρ is at most −0.8.
    - The mean slope over runs is negative. From ENOUGH runs on its 95 % bootstrap interval lies below 0. With fewer
      runs, of which no interval reaches 95 %, their range does: every run falls.
    - The last level is at least `effect` below the first.
    - What is regained after the lowest level is at most a quarter of the fall.

    levels   the statistic over runs at each point, in order
    by_run   runs × the same points; each run's least-squares slope is taken over the points it has, and the interval
             is that of the mean of the slopes over runs (slope_low, slope_high; with fewer runs the range of slopes)
    Absent: there are fewer than two points.
    """
    if len(levels) < 2:
        raise Absent("two points to see a trend by")
    rho = spearman(np.arange(len(levels)), levels)
    x = np.arange(by_run.shape[1], dtype=np.float64)
    slopes = np.array([_slope(x, row) for row in by_run.to_numpy(np.float64)])
    slopes = slopes[~np.isnan(slopes)]
    slope = slopes.mean() if len(slopes) else math.nan
    low = high = math.nan
    if 1 < len(slopes) < ENOUGH:
        low, high = slopes.min(), slopes.max()
    elif len(slopes) > 1:  # one run shows no spread
        drawn = numpy_stream(0, "claims").integers(len(slopes), size=(RESAMPLES, len(slopes)))
        tail = (1 - CONFIDENCE) / 2
        low, high = np.quantile(slopes[drawn].mean(axis=1), (tail, 1 - tail))
    fall, regained = float(levels.iloc[0] - levels.iloc[-1]), float(levels.iloc[-1] - levels.min())
    named = {"spearman": rho, "slope": slope, "slope_low": low, "slope_high": high, "fall": fall, "regained": regained}
    ok = (
        rho <= T.spearman
        and (slope if len(slopes) == 1 else high) < 0
        and fall >= effect
        and regained <= T.climbs_back * float(levels.iloc[0] - levels.min())
    )
    return Part(says, bool(ok), {prefix + name: float(number) for name, number in named.items()})


def _slope(x: npt.NDArray[np.float64], y: npt.NDArray[np.float64]) -> float:
    known = ~np.isnan(y)
    if known.sum() < 2:
        return math.nan
    x, y = x[known] - x[known].mean(), y[known]
    return float(x @ y / (x @ x))


def falls_with_iteration(study: Study, layers: pd.Index) -> Part:
    """Judge whether the mean over `layers` falls, and most of the layers by themselves: by rank and by `effect`."""
    levels = study.levels.loc[layers]
    runs = study.runs[study.runs["layer"].isin(layers)]
    part = falls("falls with iteration", levels.mean(axis=0), _by_run(runs, "iteration"), "iteration_")
    alone = [spearman(levels.columns, row) <= T.spearman and row[0] - row[-1] >= T.effect for row in levels.to_numpy()]
    share = float(np.mean(alone))
    part = Part(part.says, part.ok and share > T.most_layers, part.numbers | {"layers_falling": share})
    if study.control is None:
        return part
    beyond = falls_beyond(study, study.control, layers)
    return Part(f"{part.says} {beyond.says}", part.ok and beyond.ok, part.numbers | beyond.numbers)


def falls_beyond(study: Study, control: Study, layers: Iterable[str]) -> Part:
    """Judge whether the mean over `layers` falls further than that of the control, and ends below it.

    Both must be so by the threshold `effect`. Absent: they have fewer than two iterations in common.
    """
    ours, theirs = shared(study, control, layers)
    further = float(ours.iloc[0] - ours.iloc[-1]) - float(theirs.iloc[0] - theirs.iloc[-1])
    below = float(theirs.iloc[-1] - ours.iloc[-1])
    numbers = {"further_than_control": further, "below_control": below}
    return Part("beyond retraining without pruning", further >= T.effect and below >= T.effect, numbers)


def shared(study: Study, control: Study, layers: Iterable[str]) -> tuple[pd.Series, pd.Series]:
    """Return the means over layers of a study and of its control, over the iterations that both have."""
    both = study.levels.columns.intersection(control.levels.columns)
    if len(both) < 2:
        raise Absent("two iterations that the control has too")
    of_layers = list(layers)
    return study.levels.loc[of_layers, both].mean(axis=0), control.levels.loc[of_layers, both].mean(axis=0)


def differs_from_control(study: Study, control: Study) -> list[Part]:
    """Judge whether pruned networks end below the control in most hidden layers, and in every run.

    A run's level is its mean over hidden layers, at the last iteration that both have.
    """
    layers = study.hidden.index
    ours, _ = shared(study, control, layers)
    last = ours.index[-1]
    apart = control.levels.loc[layers, last] - study.levels.loc[layers, last]
    share = float((apart >= T.effect).mean())
    highest, lowest = (bound(_of_runs(of, layers, last)) for bound, of in ((max, study), (min, control)))
    return [
        Part(
            "lower than after retraining without pruning in most layers",
            share > T.most_layers,
            {"layers_below_control": share, "median_below_control": float(apart.median())},
        ),
        Part(
            "every run lower than every run of that control",
            highest < lowest,
            {"highest_run": highest, "lowest_of_control": lowest},
        ),
    ]


def _of_runs(study: Study, layers: Iterable[str], iteration: int) -> pd.Series:
    """Return each run's mean over layers at an iteration."""
    rows = study.runs[study.runs["layer"].isin(list(layers)) & (study.runs["iteration"] == iteration)]
    return rows.groupby(runs_of(rows))["value"].mean()


def falls_with_depth(says: str, study: Study, layers: pd.Index) -> Part:
    runs = study.runs[study.runs["layer"].isin(layers)]
    return falls(says, study.profile[layers], _by_run(runs, "position"), "depth_")


def _by_run(runs: pd.DataFrame, along: str) -> pd.DataFrame:
    return runs.pivot_table(index=runs_of(runs), columns=along, values="value", aggfunc="mean")


def u_shaped(study: Study, depth: float) -> Part:
    """Judge whether the profile over hidden layers is a U. A recovery that only the output shows does not count."""
    profile = study.profile.to_numpy()
    if len(profile) < 3:
        raise Absent("at least three hidden layers")
    u_depth = min(profile[0], profile[-1]) - profile[1:-1].min()
    return Part("U-shaped over hidden layers", u_depth >= depth, {"u_depth": u_depth})


def lowest_near(study: Study, *blocks: int) -> Part:
    """Judge whether the lowest layer lies in these blocks, or at most `near_layers` before or after them."""
    places = [study.at(layer) for layer in study.block(*blocks)]
    ok = min(places) - T.near_layers <= study.lowest_at <= max(places) + T.near_layers
    named = " and ".join(str(number) for number in blocks)
    return Part(f"lowest about block {named} ({study.lowest})", ok, lowest(study))


def lowest_in(says: str, study: Study, layers: Iterable[str]) -> Part:
    return Part(f"lowest {says} ({study.lowest})", study.lowest in set(layers), lowest(study))


def lowest(study: Study) -> dict[str, float]:
    return {"lowest_layer": study.lowest_at, "lowest_profile": study.profile.min()}


def fans_out(study: Study) -> Part:
    """Judge whether levels spread less over iterations in blocks 1 and 2 than later: by a share, and by `effect`."""
    early = study.block(1, 2)
    late = [layer for layer in study.hidden.index if layer not in early]
    packed, fanned = study.spread(early), study.spread(late)
    ratio = quotient(packed, fanned)
    ok = ratio <= T.smaller and fanned - packed >= T.effect
    return Part("blocks 1 and 2 packed, fan-out after", ok, {"spread_ratio": ratio, "spread_after": fanned})


def spikes(says: str, last: float, previous: float) -> Part:
    """Judge whether the last level is higher than the previous one by at least the threshold."""
    return Part(says, last - previous >= T.spike, {"spike": last - previous})


def stays_above(says: str, levels: pd.DataFrame | pd.Series, bound: float, name: str = "minimum") -> Part:
    smallest = float(np.min(levels.to_numpy()))
    return Part(f"{says} {bound:g}", smallest >= bound, {name: smallest})


def stays_within(says: str, levels: pd.DataFrame | pd.Series, bounds: tuple[float, float], name: str) -> Part:
    """Judge whether all levels lie within `bounds`, widened by the tolerance `about`."""
    low, high = float(np.min(levels.to_numpy())), float(np.max(levels.to_numpy()))
    ok = low >= bounds[0] - T.about and high <= bounds[1] + T.about
    text = f"{bounds[0]:g}" if bounds[0] == bounds[1] else f"{bounds[0]:g}–{bounds[1]:g}"
    return Part(f"{says} {text} (± {T.about:g})", ok, {f"{name}_low": low, f"{name}_high": high})


def scatters(says: str, levels: pd.Series, least: float) -> Part:
    """Judge whether levels spread over at least this range."""
    scatter = float(levels.max() - levels.min())
    return Part(says, scatter >= least, {"scatter": scatter})


def declines(says: str, levels: pd.Series) -> Part:
    """Judge whether accuracies decline from their peak, which comes first: by the threshold, and by their ranks."""
    decline = float(levels.iloc[0] - levels.iloc[-1])
    rho = spearman(np.arange(len(levels)), levels) if len(levels) > 1 else math.nan
    return Part(says, decline >= T.c10_decline and rho <= T.spearman, {"decline": decline, "decline_spearman": rho})


def gathers(study: Study, level: float) -> Part:
    """Judge whether the output's levels stay about `level` from iteration `gathered_from` on."""
    sparse = study.output[study.output.index >= T.gathered_from]
    if sparse.empty:
        raise Absent(f"iteration {T.gathered_from} and later")
    return stays_within(f"output from iteration {T.gathered_from} on about", sparse, (level, level), "gathering")


def same_shape(one: Study, other: Study) -> list[Part]:
    """Judge whether two profiles have the same shape over relative depth. The layers may be others.

    Pooling layers are set aside, since their ticks stand at other depths. Absent: a profile has less than three layers.
    """
    profiles = [_over_depth(one), _over_depth(other)]
    depths = max((profile.index.to_numpy() for profile in profiles), key=len)
    levels = [np.interp(depths, profile.index, profile) for profile in profiles]
    alike = spearman(*levels)
    apart = abs(float(profiles[0].idxmin()) - float(profiles[1].idxmin()))
    ranges = quotient(*(float(profile.max() - profile.min()) for profile in profiles))
    comparable = 1 / T.c17_range <= ranges <= T.c17_range
    return [
        Part("profiles go up and down together", alike >= T.c17_alike, {"alike": alike}),
        Part("bottoms at about the same depth", apart <= T.c17_apart, {"apart": apart}),
        Part("ranges comparable", comparable, {"range_ratio": ranges}),
    ]


def _over_depth(study: Study) -> pd.Series:
    """Return the profile without pooling layers, by depth from 0 (the first hidden layer) to 1 (the last)."""
    profile = study.profile
    by_depth = profile.set_axis(np.arange(len(profile)) / max(len(profile) - 1, 1))
    by_depth = by_depth[(study.kinds[profile.index] != "pool").to_numpy()]
    if len(by_depth) < 3:
        raise Absent("at least three hidden layers besides pooling")
    return by_depth


def quotient(a: float, b: float) -> float:
    """Return a / b; NaN if b is 0."""
    return a / b if b else math.nan


def convolutions(study: Study, block: int) -> list[str]:
    return [layer for layer in study.block(block) if study.kinds[layer] == "conv"]


def bowl_depth(profile: pd.Series, study: Study) -> float:
    """Return how far block 3 dips below the layers just before and just after it."""
    inside = [profile.index.get_loc(layer) for layer in study.block(3)]
    before, after = profile.iloc[min(inside) - 1], profile[study.block(4)].iloc[0]
    return float(min(before, after) - profile.iloc[inside].min())
