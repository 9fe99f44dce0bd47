"""Every claim under every definition of its metric."""

import dataclasses

import pandas as pd
import pytest
from test_claims import planted, tables

from distsim.results.claims.judging import check
from distsim.results.claims.multiverse import DEFINITIONS, OWN, Definition, as_text, lacking, multiverse, summary
from distsim.results.tables import Tables


@pytest.fixture(scope="module")
def study() -> Tables:
    """The planted study, in which every claim holds, and other definitions of two metrics."""
    made = tables({name: planted()[name] for name in ("cifar2", "vgg16_cifar10")})
    rows = made.similarities
    svcca, cka = (rows[rows["metric"] == name] for name in ("svcca", "cka"))
    flat = svcca.assign(metric="svcca_mass98", value=0.9)  # no claim about a fall holds
    same = cka.assign(metric="cka_unbiased")
    more = pd.concat([rows, flat, same], ignore_index=True)
    return Tables.of(more.assign(null=0.0, null_of="run=0,iteration=1"), made.networks, chance=made.chance)


@pytest.fixture(scope="module")
def judged(study: Tables) -> pd.DataFrame:
    return multiverse(study)


def verdicts(judged: pd.DataFrame, claim: str, problem: str, metric: str) -> dict[str, str]:
    rows = judged[(judged["claim"] == claim) & (judged["problem"] == problem) & (judged["metric"] == metric)]
    return dict(zip(rows["definition"], rows["verdict"], strict=True))


def test_a_definition_under_which_nothing_falls_fails_the_claims_about_falls(judged: pd.DataFrame) -> None:
    assert verdicts(judged, "C1", "cifar2", "svcca") == {
        OWN: "holds",
        "98 % mass": "fails",
        "calibrated": "holds",
        "with controls": "not enough data",
    }


def test_equal_values_give_equal_verdicts(judged: pd.DataFrame) -> None:
    found = verdicts(judged, "C6", "vgg16_cifar10", "cka")
    assert found == {OWN: "holds", "channel view": "not enough data", "unbiased": "holds", "calibrated": "holds"}
    numbers = judged[(judged["claim"] == "C6")].set_index("definition").drop(columns=["verdict", "text"])
    pd.testing.assert_series_equal(numbers.loc[OWN], numbers.loc["unbiased"], check_names=False)


def test_what_a_definition_does_not_change_has_no_row(judged: pd.DataFrame) -> None:
    assert set(judged.loc[judged["metric"] == "accuracy", "definition"]) == {OWN}
    assert set(judged.loc[judged["definition"] == "98 % mass", "metric"]) == {"svcca"}
    own = {(row.claim, row.problem, row.metric) for row in judged.itertuples() if row.definition == OWN}
    everything = {(row.claim, row.problem, row.metric) for row in judged.itertuples()}
    assert own == everything


def test_the_papers_definition_is_the_verdict_of_the_claims_themselves(study: Tables, judged: pd.DataFrame) -> None:
    own = judged[judged["definition"] == OWN].set_index(["claim", "problem", "metric"])["verdict"]
    for verdict in check(study):
        if verdict.verdict != "not enough data":
            assert own[verdict.claim, verdict.problem, verdict.metric] == verdict.verdict


def test_what_was_not_measured_is_named(study: Tables) -> None:
    assert lacking(study) == ["pwcca_google", "cka_channels", "nbs_channels"]
    few = dataclasses.replace(study, similarities=study.similarities[study.similarities["metric"] == "nbs"])
    assert lacking(few) == ["nbs_channels"], "no definition of a metric that is not there"


def test_the_text_has_a_column_for_each_definition(judged: pd.DataFrame) -> None:
    lines = as_text(judged).splitlines()
    assert [name for name in (d.name for d in DEFINITIONS) if name in lines[0]] == [
        *(OWN, "98 % mass", "unbiased", "calibrated")
    ]
    line = next(line for line in lines if line.startswith("C1   cifar2"))
    assert line.split()[3:] == ["holds", "fails", "holds"]
    assert "channel view" not in lines[0], "it was not measured"
    same, _, several = summary(judged).split()[:3]
    assert 0 < int(same) < int(several)
    twice = pd.DataFrame({"claim": "C1", "problem": "p", "metric": "cka", "verdict": ["holds", "tendency: for"]})
    assert summary(twice).startswith("1 of 1 claims"), "a tendency in the same direction"


def test_definitions_name_metrics_that_there_are() -> None:
    from distsim.metrics.registry import METRICS

    assert all({*d.stands_for, *d.stands_for.values()} <= METRICS.keys() for d in DEFINITIONS)
    assert Definition("x", "", {"cka": "nbs"}).concerns("cka")
    assert not Definition("x", "", {"cka": "nbs"}).concerns("accuracy")
