"""What came out of a study, in three sentences, and a note that says how far they carry.

The sentences are about accuracy, similarity and the papers' claims. Whether something falls, or is as accurate, is
judged by the thresholds of the claims (distsim.results.claims.study).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from distsim.metrics.registry import in_order
from distsim.problems import PROBLEMS
from distsim.results.claims.study import NO_DATA, T, Verdict, spearman
from distsim.results.claims.words import SHORT
from distsim.results.looks import label
from distsim.results.published import Published
from distsim.results.report.arrays import PREFERRED
from distsim.results.report.words import listed, runs_text, share, shortened, times
from distsim.words import counted

FOR, AGAINST = ("holds", "tendency: for"), ("fails", "tendency: against")


@dataclass(frozen=True)
class Findings:
    """What came out."""

    sentences: tuple[str, ...]
    note: str


def findings(study: Published, verdicts: Sequence[Verdict]) -> Findings:
    """Return what came out of a study. A sentence that nothing was measured for is left out.

    verdicts : of all claims; those about other problems are passed over
    """
    mine = [verdict for verdict in verdicts if verdict.problem == study.problem]
    made = accuracy_sentence(study), similarity_sentence(study), claims_sentence(mine, study.labels)
    return Findings(tuple(sentence for sentence in made if sentence), note(study, mine))


def statistic_of(problem: str) -> str:
    """Return the statistic over runs that the problem's paper draws: the median in P1, else the mean."""
    return "median" if problem in PROBLEMS and PROBLEMS[problem].paper == "P1" else "mean"


# --- accuracy --------------------------------------------------------------------------------------------------------


def accuracy_sentence(study: Published) -> str:
    """Say what pruning does to the accuracy."""
    statistic = statistic_of(study.problem)
    rows = study.tables.pruned.accuracy
    rows = rows[rows["problem"] == study.problem].set_index("iteration").sort_index()
    levels = rows[statistic].dropna()
    if 0 not in levels.index or len(levels) < 2:
        return ""
    complete, pruned = float(levels[0]), levels.drop(0)
    last, left = float(pruned.iloc[-1]), float(rows["remaining"][pruned.index[-1]])
    against = (
        f"with {share(left)} of the parameters left, {_per_cent(last)} of the test images are classified correctly, "
        f"against {_per_cent(complete)} by the complete network ({_over(statistic, rows['count'].drop(0))}"
        f"{_retrained_accuracy(study, int(pruned.index[-1]))})"
    )
    lost = complete - pruned
    near = _points(T.comparable)
    if lost.max() <= T.comparable:
        better = lost.iloc[-1] < -T.comparable
        head = "The accuracy is higher after pruning" if better else "Pruning leaves the accuracy as it is"
        return f"{head}: {against}, and no iteration is more than {near} below it."
    if lost.iloc[-1] <= T.comparable:
        worst = f"iteration {lost.idxmax()} is {_points(lost.max())} below it"
        return f"The last networks are as accurate as the complete one: {against}; {worst}."
    fine = [iteration for iteration in lost.index if lost.loc[:iteration].max() <= T.comparable]
    if not fine:
        return f"Pruning costs accuracy from the first iteration on: {against}."
    until = f"down to {share(rows['remaining'][fine[-1]])} left, the loss stays within {near}"
    return f"Pruning costs accuracy in the end: {against}; {until}."


def _retrained_accuracy(study: Published, iteration: int) -> str:
    """Say the accuracy of the control that is never pruned, after as many trainings. "": there is none."""
    rows = study.tables.accuracy
    rows = rows[(rows["problem"] == study.problem) & (rows["control"] == "retrain") & (rows["iteration"] == iteration)]
    levels = rows[statistic_of(study.problem)].dropna()
    return f"; {_per_cent(float(levels.iloc[0]))} after as much retraining without pruning" if len(levels) else ""


def _over(statistic: str, counts: pd.Series) -> str:
    """Return "median of 5 runs", or of how many to how many."""
    low, high = int(counts.min()), int(counts.max())
    if high == 1:
        return "one run"
    return f"{statistic} of {high} runs" if low == high else f"{statistic} of {low} to {high} runs"


def _per_cent(accuracy: float) -> str:
    return f"{100 * accuracy:.1f} %"


def _points(difference: float) -> str:
    points = 100 * difference
    return "one percentage point" if round(points, 1) == 1 else f"{points:.1f} percentage points"


# --- similarity ------------------------------------------------------------------------------------------------------


def similarity_sentence(study: Published) -> str:
    """Say in how many layers similarity falls and where most, by one metric, and what others say of that layer."""
    all_levels = _levels(study)
    if not all_levels:
        return ""
    end_of_study = _last_iteration(study)
    levels = {name: table for name, table in all_levels.items() if table.columns[-1] == end_of_study} or all_levels
    metric = next(name for name in (*PREFERRED, *levels) if name in levels)
    table = levels[metric]
    first, last = table.iloc[:, 0], table.iloc[:, -1]
    fall = first - last
    falling = [layer for layer in table.index if _falls(table.loc[layer])]
    name, most = _short(metric, study.labels), str(fall.idxmax())
    end = "the last" if table.columns[-1] == end_of_study else f"pruning {table.columns[-1]} of {end_of_study}"
    where = f"from {first[most]:.2f} after the first pruning to {last[most]:.2f} after {end}"
    by_chance = _beside(study, metric, most)
    if not falling:
        return (
            f"What the layers represent stays close to the complete network by {name}: no hidden layer falls clearly; "
            f"{most} changes most, {where}{by_chance}."
        )
    count = "all" if len(falling) == len(table) > 1 else f"{len(falling)} of"
    alike = {name: other for name, other in levels.items() if other.columns[-1] == table.columns[-1]}
    others = _others(study, alike, metric, most, end)
    return (
        f"What the layers represent moves away from the complete network: {name} falls in {count} {len(table)} hidden "
        f"layers, most in {most}, {where}{by_chance}{others}."
    )


def _beside(study: Published, metric: str, layer: str) -> str:
    """Say what the similarity is after as much retraining without pruning, and what it would be by chance."""
    retrained, chance = _retrained(study, metric, layer), _chance(study, metric, layer)
    said = [f"retrained as often without pruning it is {retrained:.2f}"] if retrained is not None else []
    said += [f"by chance it would be {chance:.2f}"] if chance is not None else []
    return f"; {', and '.join(said)}" if said else ""


def _others(study: Published, levels: Mapping[str, pd.DataFrame], metric: str, layer: str, end: str) -> str:
    """Say what other metrics are in the same layer after the same pruning, and what they would be by chance."""
    said = []
    for other in ("svcca", "cka", "nbs"):
        if other != metric and other in levels and layer in levels[other].index:
            chance = _chance(study, other, layer)
            by_chance = f" (by chance {chance:.2f})" if chance is not None else ""
            said.append(f"{_short(other, study.labels)} is {levels[other].loc[layer].iloc[-1]:.2f}{by_chance}")
    after = "the last pruning" if end == "the last" else end
    return f". There, after {after}, {listed(said)}" if said else ""


def _short(metric: str, labels: Mapping[str, str]) -> str:
    """Return a metric's label without the mean over correlations, which would be read as one over runs."""
    return label(metric, labels).removeprefix("mean ") if metric == "svcca" else label(metric, labels)


def _levels(study: Published) -> dict[str, pd.DataFrame]:
    """Return metric -> hidden layers × iterations, where every layer has a value and there are two iterations.

    Iterations at which runs are not compared yet are left out.
    """
    summary, runs = study.tables.pruned.summary, _pruned(study).groupby("iteration").size()
    rows = summary[(summary["problem"] == study.problem) & (summary["kind"] != "out")]
    found = {}
    for metric in in_order(rows["metric"]):
        of_metric = rows[rows["metric"] == metric].sort_values(["position", "iteration"])
        statistic = statistic_of(study.problem)
        of_metric = of_metric[of_metric["count"] + of_metric["missing"] == of_metric["iteration"].map(runs)]
        table = of_metric.pivot(index="layer", columns="iteration", values=statistic).dropna(axis=1)
        if table.shape[1] > 1:
            found[metric] = table.loc[list(dict.fromkeys(of_metric["layer"]))]
    return found


def _last_iteration(study: Published) -> int:
    """Return the last iteration of a pruned network, of which there must be one."""
    return int(_pruned(study)["iteration"].max())


def _pruned(study: Published) -> pd.DataFrame:
    networks = study.tables.pruned.networks
    return networks[(networks["problem"] == study.problem) & (networks["iteration"] > 0)]


def _falls(levels: pd.Series) -> bool:
    return spearman(levels.index, levels) <= T.spearman and float(levels.iloc[0] - levels.iloc[-1]) >= T.effect


def _retrained(study: Published, metric: str, layer: str) -> float | None:
    """Return the similarity of the control that is never pruned, at its last iteration."""
    summary = study.tables.summary
    of_layer = (summary["metric"] == metric) & (summary["layer"] == layer) & (summary["control"] == "retrain")
    rows = summary[(summary["problem"] == study.problem) & of_layer].dropna(subset=statistic_of(study.problem))
    return None if rows.empty else float(rows.sort_values("iteration")[statistic_of(study.problem)].iloc[-1])


def _chance(study: Published, metric: str, layer: str) -> float | None:
    """Return the median similarity by chance at the last iteration for which it was measured."""
    chance = study.tables.pruned.chance
    rows = chance[(chance["problem"] == study.problem) & (chance["metric"] == metric) & (chance["layer"] == layer)]
    rows = rows.dropna(subset="value")
    return None if rows.empty else float(rows.loc[rows["iteration"] == rows["iteration"].max(), "value"].median())


# --- claims ----------------------------------------------------------------------------------------------------------


def claims_sentence(verdicts: Sequence[Verdict], labels: Mapping[str, str]) -> str:
    """Say which claims of the papers a study bears out, which not, and about which its metrics disagree."""
    sides: dict[str, tuple[list[str], list[str], list[str]]] = {}  # what is claimed -> its claims, metrics for, against
    for verdict in verdicts:
        if verdict.verdict != NO_DATA:
            names, *metrics = sides.setdefault(SHORT[verdict.claim], ([], [], []))
            names += [verdict.claim] if verdict.claim not in names else []
            side = metrics[verdict.verdict in AGAINST]
            side += [verdict.metric] if verdict.metric not in side else []
    if not sides:
        return "None of the papers’ claims can be judged from what was measured here."

    def said(chosen: Callable[[list[str], list[str]], bool]) -> list[str]:
        return [f"{text} ({', '.join(names)})" for text, (names, good, bad) in sides.items() if chosen(good, bad)]

    held, not_held = said(lambda good, bad: not bad), said(lambda good, bad: not good)
    divided = [
        f"metrics disagree whether {text} ({_by(good, labels)} yes, {_by(bad, labels)} no: {', '.join(names)})"
        for text, (names, good, bad) in sides.items()
        if good and bad
    ]
    parts = [f"it bears out that {shortened(held)}"] if held else []
    parts += [f"it does not bear out that {shortened(not_held)}"] if not_held else []
    return f"Of the papers’ claims that this study can test, {'; '.join([*parts, *divided])}."


def _by(metrics: Sequence[str], labels: Mapping[str, str]) -> str:
    return listed(_short(name, labels) for name in metrics)


# --- how far this carries --------------------------------------------------------------------------------------------


def note(study: Published, verdicts: Sequence[Verdict]) -> str:
    """Say what the sentences rest on, and what is to be kept in mind."""
    pruned = _pruned(study)
    if pruned.empty:
        return "There are no pruned networks yet."
    complete = len(study.parts)
    runs = len(pruned[["complete", "run"]].drop_duplicates())
    start = (
        f"{complete} complete networks"
        if complete > 1
        else "one complete network, so the spread between runs says nothing about another one"
    )
    each = "each pruned" if runs > 1 else "pruned"
    said = [f"This rests on {runs_text(runs).lower()}, {each} {times(int(pruned['iteration'].max()))}, from {start}."]
    if study.identity.problem.reduced or any(v.verdict.startswith("tendency") for v in verdicts):
        said.append(
            f"That is not the papers’ study ({T.runs} runs or more, {T.iterations} prunings, the full recipe), so what "
            "is said of claims is a tendency."
        )
    if study.images:
        said.append(f"It ran {study.images}, not on the published ones.")
    if study.tables.retrained.similarities.empty:
        said.append("Nothing was trained again without pruning, so how much of the fall is pruning’s own is not known.")
    missing = study.tables.summary.loc[study.tables.summary["problem"] == study.problem, "missing"].sum()
    if missing:
        said.append(f"{counted(int(missing), 'value')} {'is' if missing == 1 else 'are'} missing.")
    return " ".join(said)
