"""Claims that a control can answer: planted studies beside a planted control, on both sides of each threshold."""

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from test_claims import LAYERS, kind_of, plain_accuracy, plain_summary

from distsim.results.claims.judging import check, check_beyond_control
from distsim.results.claims.multiverse import multiverse
from distsim.results.claims.study import EASY, HARD, NO_DATA, T, Verdict
from distsim.results.tables import Tables, long_table, network_table

ITERATIONS = 20
Levels = Callable[[int, np.ndarray], np.ndarray]  # (position of the layer, iterations) -> levels


def line(first: float, last: float) -> Levels:
    """The same line over the iterations in every layer."""
    return lambda position, iterations: np.linspace(first, last, len(iterations))


def planted(problem: str, runs: Levels, control: Levels | None, spread: float = 1e-4) -> Tables:
    """A problem's tables: five runs and two of the control, evenly around the levels, `spread` from run to run."""
    fixed = dict.fromkeys(("n", "columns_x", "columns_y", "rank_x", "rank_y", "dead_x", "dead_y"), 8)
    fixed |= {"n_per_p": 1.0, "warning": "", "reason": "", "metric": "svcca", "problem": problem}
    iterations, rows, networks = np.arange(1, ITERATIONS + 1), [], []
    rest = {"problem": problem, "remaining_pool": 1.0, "accuracy": 0.9, "loss": 0.5, "epochs": 2, "reduced": False}
    networks.append(rest | {"run": None, "iteration": 0, "remaining": 1.0})
    for name, levels, count in (("", runs, 5), ("retrain", control, 2)):
        for run in range(count if levels is not None else 0):
            offset = spread * (run - (count - 1) / 2)
            whose = {"control": name, "run": run}
            networks += [rest | whose | {"iteration": int(i), "remaining": 1.0} for i in iterations]
            for position, layer in enumerate(LAYERS[problem]):
                place = {"position": position, "layer": layer, "kind": kind_of(layer), "remaining": 1.0}
                at_layer = levels(position, iterations) + offset  # type: ignore[misc]
                rows += [
                    fixed | whose | place | {"remaining_pool": 1.0, "iteration": int(i), "value": value}
                    for i, value in zip(iterations, at_layer, strict=True)
                ]
    long, nets = long_table(rows), network_table(networks)
    parts = [of.assign(control=name) for name, of in ((n, plain_summary(g)) for n, g in long.groupby("control"))]
    accuracy = [of.assign(control=name) for name, of in ((n, plain_accuracy(g)) for n, g in nets.groupby("control"))]
    return Tables(long, nets, pd.concat(parts, ignore_index=True), pd.concat(accuracy, ignore_index=True))


def only(found: list[Verdict], claim: str, problem: str) -> Verdict:
    (one,) = [v for v in found if (v.claim, v.problem, v.metric) == (claim, problem, "svcca")]
    return one


def half(low: float, high: float) -> Levels:
    """Ends at `low` in two of the four hidden layers, at `high` in the others."""
    return lambda position, iterations: np.linspace(0.95, low if position < 2 else high, len(iterations))


E, TINY = T.effect, 1e-6
FALL = line(0.95, 0.70)
C18 = {  # pruned, control, spread between runs, whether it holds
    "the control stays": (FALL, line(0.9, 0.9), 1e-4, True),
    "the control falls, by just less": (FALL, line(0.95, 0.70 + E + TINY), 1e-4, True),
    "one run is as far from the next as can be": (FALL, line(0.9, 0.75), 0.0199, True),
    "most layers are lower": (half(0.6, 0.9 - E - TINY), line(0.9, 0.9), 1e-4, True),
    "the control falls as far but for a little": (FALL, line(0.95, 0.70 + E - TINY), 1e-4, False),
    "the control is as low at the end": (FALL, line(0.72, 0.70 + E - TINY), 1e-4, False),
    "a run is as high as one of the control": (FALL, line(0.9, 0.75), 0.0201, False),
    "half of the layers are as after retraining": (half(0.2, 0.9 - E + TINY), line(0.9, 0.9), 1e-4, False),
    "the control falls further": (line(0.95, 0.90), line(0.99, 0.93), 1e-4, False),
}


@pytest.mark.parametrize("case", C18)
def test_c18_rules_out_what_retraining_does(case: str) -> None:
    runs, control, spread, holds = C18[case]
    verdict = only(check(planted("cifar2", runs, control, spread)), "C18", "cifar2")
    assert verdict.verdict == ("holds" if holds else "fails"), verdict.text
    assert "retraining without pruning" in verdict.text


def test_c18_is_about_all_problems_of_p1_together() -> None:
    studies = [planted(problem, FALL, line(0.9, 0.9)) for problem in (*EASY, *HARD)]

    def joined(parts: list[Tables]) -> Tables:
        names = ("similarities", "networks", "summary", "accuracy")
        return Tables(*(pd.concat([getattr(part, name) for part in parts], ignore_index=True) for name in names))

    assert only(check(joined(studies)), "C18", "all").verdict == "holds"
    studies[2] = planted(HARD[0], FALL, line(0.95, 0.70))
    failed = only(check(joined(studies)), "C18", "all")
    assert failed.verdict == "fails"
    assert "cifar6: every run lower than every run of that control: no" in failed.text
    assert only(check(joined(studies[:2])), "C18", "all").verdict == NO_DATA


def test_c18_needs_a_control() -> None:
    found = check(planted("cifar2", FALL, None))
    verdict = only(found, "C18", "all")
    assert verdict.verdict == NO_DATA
    assert [v.problem for v in found if v.claim == "C18"] == ["all"]
    assert {v.controlled for v in found} == {""}


BEYOND = {  # control, whether the fall counts
    "flat": (line(0.9, 0.9), True),
    "it falls by just less": (line(0.95, 0.70 + E + TINY), True),
    "it is a little higher throughout": (line(0.95 + E + TINY, 0.70 + 2 * E + 2 * TINY), True),
    "it falls by a little less": (line(0.95, 0.70 + E - TINY), False),
    "it falls as far, from higher": (line(0.99, 0.74), False),
    "it is as low at the end": (line(0.72, 0.70 + E - TINY), False),
}


@pytest.mark.parametrize("case", BEYOND)
def test_a_fall_counts_beyond_the_control(case: str) -> None:
    control, counts = BEYOND[case]
    tables = planted("cifar2", FALL, control)
    verdict = only(check(tables), "C1", "cifar2")
    assert verdict.verdict == "holds", "without the control"
    assert verdict.controlled == ("holds" if counts else "fails")
    beyond = only(check_beyond_control(tables), "C1", "cifar2")
    assert beyond.verdict == verdict.controlled
    assert "beyond retraining without pruning" in beyond.text


def test_no_fall_is_none_whatever_the_control_does() -> None:
    verdict = only(check(planted("cifar2", line(0.7, 0.7), line(0.9, 0.95))), "C1", "cifar2")
    assert (verdict.verdict, verdict.controlled) == ("fails", "fails")


def test_the_multiverse_has_both() -> None:
    table = multiverse(planted("cifar2", FALL, line(0.95, 0.70)))
    verdicts = table[(table["claim"] == "C1") & (table["problem"] == "cifar2")].set_index("definition")["verdict"]
    assert verdicts["as in the papers"] == "holds"
    assert verdicts["with controls"] == "fails"
    of_c2 = set(table.loc[table["claim"] == "C2", "definition"])
    assert "with controls" not in of_c2, "it is about layers"


def test_controls_are_in_no_other_statistic() -> None:
    """A control that lies elsewhere changes no verdict but its own."""
    without, beside = (check(planted("cifar2", FALL, control)) for control in (None, line(0.1, 0.9)))
    named = {(v.claim, v.problem, v.metric): (v.verdict, v.text) for v in without if v.claim != "C18"}
    assert named == {(v.claim, v.problem, v.metric): (v.verdict, v.text) for v in beside if v.claim != "C18"}
