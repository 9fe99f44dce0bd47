"""What came out, in three sentences: they say what the tables hold, and no more."""

import dataclasses
import re
from pathlib import Path

import pandas as pd
import pytest
from planted_study import study

from distsim.results.claims.judging import check
from distsim.results.claims.papers import CLAIMS
from distsim.results.claims.words import SAYS, SHORT
from distsim.results.published import Published
from distsim.results.report.sentences import Findings, findings, similarity_sentence
from distsim.results.report.words import listed, share, shortened


def found(made: Published) -> Findings:
    return findings(made, check(made.tables, {made.problem: made.images}))


@pytest.mark.parametrize(
    ("lost", "said"),
    [
        (0.0, "Pruning leaves the accuracy as it is: with 41 % of the parameters left, 90.1 % of the test images"),
        (-0.03, "The accuracy is higher after pruning: with 41 % of the parameters left, 93.1 % of the test images"),
        (0.05, "Pruning costs accuracy in the end: with 41 % of the parameters left, 85.1 % of the test images"),
    ],
)
def test_accuracy(lost: float, said: str) -> None:
    sentence = found(study(lost=lost)).sentences[0]
    assert sentence.startswith(said)
    assert "against 90.0 % by the complete network (mean of 3 runs)" in sentence
    assert sentence.endswith("down to 51 % left, the loss stays within one percentage point.") is (lost == 0.05)


def test_accuracy_is_set_beside_retraining_without_pruning() -> None:
    made = study(lost=-0.03)
    retrained = made.tables.accuracy.assign(control="retrain", mean=made.tables.accuracy["mean"] - 0.01)
    accuracy = pd.concat([made.tables.accuracy, retrained], ignore_index=True)
    with_control = dataclasses.replace(made, tables=dataclasses.replace(made.tables, accuracy=accuracy))
    said = "(mean of 3 runs; 92.1 % after as much retraining without pruning), and no iteration is more than"
    assert said in found(with_control).sentences[0]
    assert "retraining" not in found(made).sentences[0]


def test_accuracy_that_is_lost_at_once_and_comes_back() -> None:
    made = study()
    for iterations, said in (((1, 2, 3, 4), "from the first iteration on"), ((1,), "iteration 1 is 4.9 percentage")):
        low = made.tables.accuracy["iteration"].isin(iterations)
        accuracy = made.tables.accuracy.assign(mean=made.tables.accuracy["mean"] - 0.05 * low)
        changed = dataclasses.replace(made, tables=dataclasses.replace(made.tables, accuracy=accuracy))
        assert said in found(changed).sentences[0]


def test_similarity_names_the_layer_that_falls_most_and_what_is_chance() -> None:
    made = study()
    sentence = found(made).sentences[1]
    means = made.tables.summary.query("metric == 'svcca'").set_index(["layer", "iteration"])["mean"]
    first, last = means["fc1", 1], means["fc1", 4]
    assert f"SVCCA falls in all 3 hidden layers, most in fc1, from {first:.2f} after the first" in sentence
    assert (
        f"to {last:.2f} after the last; by chance it would be 0.11. There, after the last pruning, CKA is" in sentence
    )
    without = dataclasses.replace(made, tables=dataclasses.replace(made.tables, chance=made.tables.chance.iloc[:0]))
    assert "chance" not in found(without).sentences[1]


def without(made: Published, rows: pd.Series) -> Published:
    return dataclasses.replace(made, tables=dataclasses.replace(made.tables, summary=made.tables.summary[~rows]))


def test_a_metric_that_was_not_computed_for_all_networks_is_passed_over() -> None:
    made = study()
    summary = made.tables.summary
    late = (summary["metric"] == "svcca") & (summary["iteration"] == 4)
    for fewer in (without(made, late), of_two_runs(made, late)):
        assert "network: CKA falls" in similarity_sentence(fewer)
        assert "SVCCA" not in similarity_sentence(fewer)


def test_what_no_metric_has_of_the_last_networks_is_not_said_of_them() -> None:
    made = study()
    sentence = similarity_sentence(without(made, made.tables.summary["iteration"] == 4))
    assert " after pruning 3 of 4; " in sentence
    assert "There, after pruning 3 of 4, CKA is" in sentence
    assert "after the last" not in sentence


def test_of_a_study_without_pruned_networks_nothing_is_said_about_similarity() -> None:
    made = study()
    networks = made.tables.networks
    tables = dataclasses.replace(
        made.tables, networks=networks[networks["iteration"] == 0], summary=made.tables.summary.iloc[:0]
    )
    assert similarity_sentence(dataclasses.replace(made, tables=tables)) == ""


def of_two_runs(made: Published, rows: pd.Series) -> Published:
    """Leave one run out of these medians."""
    summary = made.tables.summary.assign(count=made.tables.summary["count"] - rows)
    return dataclasses.replace(made, tables=dataclasses.replace(made.tables, summary=summary))


def test_similarity_is_set_beside_retraining_without_pruning() -> None:
    made = study()
    of_pruned = made.tables.summary
    retrained = of_pruned.assign(control="retrain", mean=0.5 + of_pruned["iteration"] / 100)
    summary = pd.concat([of_pruned, retrained], ignore_index=True)
    with_control = dataclasses.replace(made, tables=dataclasses.replace(made.tables, summary=summary))
    said = "; retrained as often without pruning it is 0.54, and by chance it would be 0.11."
    assert said in similarity_sentence(with_control)


def test_claims_are_named_by_what_they_say_and_metrics_that_disagree_are_named() -> None:
    made = study()
    sentence = found(made).sentences[2]
    assert sentence.startswith("Of the papers’ claims that this study can test, it bears out that ")
    assert "similarity falls from iteration to iteration (C12)" in sentence
    flat = made.tables.summary.assign(
        mean=made.tables.summary["mean"].mask(made.tables.summary["metric"] == "cka", 0.9)
    )
    mixed = dataclasses.replace(made, tables=dataclasses.replace(made.tables, summary=flat))
    assert (
        "metrics disagree whether similarity falls from iteration to iteration (SVCCA and NBS yes, CKA no: C12)"
        in (found(mixed).sentences[2])
    )


def test_the_note_says_what_the_sentences_rest_on() -> None:
    made = dataclasses.replace(study(), images="on re-encoded images")
    assert found(made).note == (
        "This rests on 3 runs, each pruned 4 times, from one complete network, so the spread between runs says nothing "
        "about another one. That is not the papers’ study (5 runs or more, 20 prunings, the full recipe), so what is "
        "said of claims is a tendency. It ran on re-encoded images, not on the published ones. Nothing was trained "
        "again without pruning, so how much of the fall is pruning’s own is not known."
    )
    rows = made.tables.similarities.assign(control="retrain")
    controlled = dataclasses.replace(made, tables=dataclasses.replace(made.tables, similarities=rows))
    assert found(controlled).note.endswith("not on the published ones.")


def test_every_claim_has_words_and_they_are_those_of_the_docs() -> None:
    names = [claim.name for claim in CLAIMS]
    assert list(SAYS) == list(SHORT) == names
    page = (Path(__file__).parents[2] / "docs/claims.md").read_text()
    rows = dict(re.findall(r"^\| (C\d+) \| (.*?) \| P", page, re.MULTILINE))
    assert rows == SAYS


def test_lists_and_shares_read_as_sentences_do() -> None:
    assert [listed(names) for names in ([], ["a"], ["a", "b"], ["a", "b", "c"])] == [
        "nothing",
        "a",
        "a and b",
        "a, b and c",
    ]
    assert shortened("abcdef") == "a, b, c, d and 2 more"
    assert [share(part) for part in (1, 0.411, 0.01234, 0.00099)] == ["100 %", "41 %", "1.2 %", "0.099 %"]
