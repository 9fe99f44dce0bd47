"""The report as a file: its parts, its size; its numbers are those of the tables, and names are text."""

import base64
import dataclasses
import hashlib
import json
import re
import tomllib
from collections import Counter
from fnmatch import fnmatch
from html.parser import HTMLParser
from importlib.resources import files
from typing import Any

import numpy as np
import pandas as pd
import planted_study
import pytest
from planted_study import ODD, VGG16, study, with_predictions, with_values

from distsim.results.published import Published
from distsim.results.report.arrays import COUNTS, STATISTICS
from distsim.results.report.page import LIBRARIES, SCRIPTS, html, intact, sealed, verdicts_of
from distsim.specs import Identity

ASSETS = files("distsim.results.report").joinpath("assets")


def page(*studies: Published) -> str:
    return html(studies, verdicts_of(studies)).decode()


class Parsed(HTMLParser):
    """The elements of a page, with their attributes and the text in each."""

    def __init__(self, content: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.text = ""
        self._open = ""
        self.feed(content)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._open = tag
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self._open = ""

    def handle_data(self, data: str) -> None:
        if self._open == "script":
            self.scripts[-1] += data
        elif self._open != "style":
            self.text += data

    @property
    def data(self) -> Any:
        """What is in the element of the data."""
        (place,) = [at for at, (tag, attrs) in enumerate(self.of("script")) if attrs.get("id") == "data"]
        return json.loads(self.scripts[place])

    def of(self, *tags: str) -> list[tuple[str, dict[str, str | None]]]:
        return [element for element in self.elements if element[0] in tags]


def unpacked(packed: dict[str, Any]) -> np.ndarray:
    values = np.frombuffer(base64.b64decode(packed["data"]), np.dtype(packed["dtype"]).newbyteorder("<"))
    return values.reshape(packed["shape"])


def test_the_numbers_of_the_page_are_those_of_the_tables() -> None:
    made = study()
    made = with_values(
        made, made.tables.similarities.assign(value=made.tables.similarities["value"].mask(lambda v: v.index == 7))
    )
    (drawn,) = Parsed(page(made)).data["problems"]
    metrics, layers = ([one["name"] for one in drawn[name]] for name in ("metrics", "layers"))
    assert (metrics, layers) == (["svcca", "cka", "nbs"], ["conv1_1", "pool1", "fc1", "out"])
    summary = made.tables.summary.set_index(["metric", "layer", "iteration"])
    for name in (*STATISTICS, *COUNTS):
        array = unpacked(drawn["summary"][name])
        assert array.shape == (3, 4, 4)
        for (m, at, i), value in np.ndenumerate(array):
            expected = summary.loc[(metrics[m], layers[at], drawn["iterations"][i]), name]
            np.testing.assert_equal(value, array.dtype.type(expected))
    values, rows = unpacked(drawn["values"]), made.tables.similarities
    for row in rows.itertuples():
        place = metrics.index(row.metric), row.position, row.iteration - 1, row.run
        np.testing.assert_equal(values[place], np.float32(row.value))
    assert np.isnan(values).sum() == 1
    accuracy = made.tables.accuracy
    np.testing.assert_array_equal(unpacked(drawn["accuracy"]["mean"]), accuracy["mean"].astype("float32"))
    assert unpacked(drawn["accuracy"]["runs"]).shape == (3, 4)
    np.testing.assert_allclose(unpacked(drawn["chance"]["median"]), 0.11, rtol=1e-6)


def test_it_has_its_parts_and_every_table_says_what_it_is() -> None:
    parsed = Parsed(page(study()))
    ids = Counter(attrs["id"] for _, attrs in parsed.elements if "id" in attrs)
    assert max(ids.values()) == 1
    parts = {"front", "overview", "course", "accuracy", "layers", "map", "output", "predictions", "runs", "claims"}
    parts |= {"missing", "how"}
    assert parts <= ids.keys()
    assert {f"#{part}" for part in parts - {"front", "overview", "course"}} <= {a["href"] for _, a in parsed.of("a")}
    assert len(parsed.of("table")) == len(parsed.of("caption")) > 4
    assert all(attrs.get("scope") in ("col", "row") for _, attrs in parsed.of("th"))
    for said in ("How far does pruning carry", "Pruning leaves the accuracy", "160 epochs of SGD", "AVX2", "1.25 h"):
        assert said in parsed.text, said
    assert "C18" in parsed.text, "what is lacking for the claims that cannot be tested"


def test_nothing_in_it_is_from_elsewhere_and_only_its_own_scripts_may_run() -> None:
    content = page(study())
    parsed = Parsed(content)
    assert not [attrs for _, attrs in parsed.elements if attrs.keys() & {"src", "srcset", "action", "data", "onclick"}]
    assert not parsed.of("link", "iframe", "object", "embed", "img")
    assert all((attrs["href"] or "").startswith("#") for _, attrs in parsed.elements if "href" in attrs)
    assert "@import" not in content.split("<script>")[0]
    (policy,) = [a["content"] for _, a in parsed.of("meta") if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy is not None
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert not re.search("https?:|unsafe-eval|connect-src|img-src", policy)
    plain = [script for script, (_, attrs) in zip(parsed.scripts, parsed.of("script"), strict=True) if not attrs]
    digests = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in plain]
    assert re.findall("'sha256-([^']+)'", policy) == digests
    assert len(plain) == len(LIBRARIES) + len(SCRIPTS)


def test_names_are_text_wherever_they_stand() -> None:
    made = study(layers=ODD, classes=("<b>cat</b>", "{{dog}}"))
    rows = made.tables.similarities
    rows = rows.assign(
        value=rows["value"].mask(rows["position"] == 0), reason=rows["layer"].where(rows["position"] == 0, "")
    )
    rows = rows.assign(warning=rows["layer"].where(rows["position"] == 2, ""))
    parsed, usual = Parsed(page(with_values(made, rows))), Parsed(page(study()))
    assert Counter(tag for tag, _ in parsed.of("script", "b", "style")).keys() == {"script", "style", "b"}
    assert len(parsed.of("script")) == len(usual.of("script"))
    assert "<b>cat</b>, {{dog}}" in parsed.text
    assert "<script>alert(1)</script>" in parsed.text, "the reason of a missing value, and its layer"
    assert "=1+cmd" in parsed.text
    assert [layer["name"] for layer in parsed.data["problems"][0]["layers"]] == list(ODD)


def test_a_study_as_large_as_the_papers_takes_less_than_two_megabytes() -> None:
    made = study(VGG16, planted_study.METRICS, runs=20, iterations=20, large=True)
    content = page(made).encode()
    assert len(made.tables.similarities) == 20 * 20 * 19 * 7
    assert 10**6 < len(content) < 2 * 10**6, len(content)


def test_equal_studies_give_equal_bytes_and_a_changed_byte_is_seen() -> None:
    content = page(study()).encode()
    assert content == page(study()).encode()
    assert intact(content)
    for place in (0, len(content) // 2, len(content) - 3):
        assert not intact(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
    assert not intact(content[:-1])
    assert not intact(b"")
    assert intact(sealed(b""))


def test_libraries_are_what_is_stated_with_their_licences_and_all_of_it_is_in_the_wheel() -> None:
    licences = ASSETS.joinpath("vendor/LICENSES.txt").read_text()
    for library in LIBRARIES:
        content = ASSETS.joinpath("vendor", library.file).read_bytes()
        assert hashlib.sha256(content).hexdigest() == library.sha256
        assert f" v{library.version} Copyright " in content[:200].decode()
        assert f"{library.file}: {library.name} {library.version}" in licences
        assert library.name in Parsed(page(study())).text
    assert licences.count("Permission to use, copy, modify, and/or distribute") == len(LIBRARIES)
    root = planted_study.ROOT
    patterns = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["distsim"]
    assets = root / "distsim/results/report/assets"
    names = [path.relative_to(root / "distsim").as_posix() for path in assets.rglob("*") if path.is_file()]
    assert len(names) > 8
    assert not [name for name in names if not any(fnmatch(name, pattern) for pattern in patterns)]


def test_two_problems_are_in_one_page() -> None:
    parsed = Parsed(page(study(), study(problem="cifar2")))
    assert [one["problem"] for one in parsed.data["problems"]] == ["vgg16_cifar10", "cifar2"]
    assert [one["statistic"] for one in parsed.data["problems"]] == ["mean", "median"]
    shown = Counter(attrs["data-problem"] for _, attrs in parsed.elements if "data-problem" in attrs)
    assert shown == {"vgg16_cifar10": 4, "cifar2": 4}


def test_rows_of_controls_are_levels_of_reference_and_no_runs() -> None:
    made = study()
    rows = made.tables.similarities
    control = rows[rows["run"] == 0].assign(value=0.5, control="retrain", run=7)
    tables = dataclasses.replace(made.tables, similarities=pd.concat([rows.assign(control=""), control]))
    (drawn,) = Parsed(page(dataclasses.replace(made, tables=tables))).data["problems"]
    assert drawn["references"].keys() == {"retrain"}
    np.testing.assert_array_equal(unpacked(drawn["references"]["retrain"]), np.float32(0.5))
    assert len(drawn["runs"]) == 3
    assert np.nanmin(unpacked(drawn["values"])) > 0.5


def test_columns_beside_a_value_are_there_where_they_are_known() -> None:
    made = study()
    assert set(Parsed(page(made)).data["problems"][0]["beside"]) == {"null", "calibrated"}
    tables = dataclasses.replace(made.tables, similarities=made.tables.similarities.assign(se=0.01, null=np.nan))
    assert set(Parsed(page(dataclasses.replace(made, tables=tables))).data["problems"][0]["beside"]) == {
        "calibrated",
        "se",
    }


@pytest.mark.parametrize("what", ["no similarities", "one run"])
def test_small_studies_have_a_page_too(what: str) -> None:
    made = study(runs=1, iterations=1)
    if what == "no similarities":
        made = with_values(made, made.tables.similarities.iloc[:0])
        made = dataclasses.replace(made, tables=dataclasses.replace(made.tables, chance=made.tables.chance.iloc[:0]))
    parsed = Parsed(page(made))
    assert "This rests on one run, pruned once, from one complete network" in parsed.text
    assert isinstance(made.identity, Identity)


def test_short_work_and_a_single_epoch_are_said_in_words() -> None:
    made = study(runs=1, iterations=1)
    part = made.parts[0] | {"training_hours": 0.01, "comparison_hours": 0.001}
    recipe = dataclasses.replace(made.identity.problem.recipe, epochs=1, milestones=())
    pruning = dataclasses.replace(made.identity.problem.pruning, rewind="LRR")
    problem = dataclasses.replace(made.identity.problem, recipe=recipe, pruning=pruning, reduced=True)
    identity = dataclasses.replace(made.identity, problem=problem)
    text = Parsed(page(dataclasses.replace(made, identity=identity, parts=(part,)))).text
    assert "Computing time40 s" in text
    assert "1 epoch of" in text
    assert "Computing time1.8 h" in Parsed(page(made)).text


def test_what_a_mark_does_not_say_of_its_machine_is_not_known() -> None:
    made = study()
    environments = made.environments.assign(torch=float("nan"), blas=None)
    assert "torch not known" in page(dataclasses.replace(made, environments=environments))


def test_predictions_are_those_of_the_table_and_controls_stand_beside() -> None:
    assert Parsed(page(study())).data["problems"][0]["predictions"] == {}, "a study that did not measure them"
    made = with_predictions(study(), classes=("<b>cat</b>", "dog"))
    (drawn,) = Parsed(page(made)).data["problems"]
    of = drawn["predictions"]
    assert of["measures"] == ["agreement", "churn", "jsd"]
    assert of["classes"] == ["", "<b>cat</b>", "dog"]
    summary = made.tables.functional_summary.set_index(["control", "measure", "class", "iteration"])
    for name in ("mean", "median", "sd", "q25", "q75", "count"):
        array = unpacked(of["summary"][name])
        assert array.shape == (3, 3, 4)
        for (m, c, i), value in np.ndenumerate(array):
            key = "", of["measures"][m], of["classes"][c], i + 1
            expected = summary[name].get(key, 0 if name == "count" else np.nan)
            np.testing.assert_equal(value, array.dtype.type(expected))
    assert np.isnan(unpacked(of["summary"]["mean"])).any(), "of classes there is the churn only"
    assert of["references"].keys() == {"retrain"}
    for (m, i), value in np.ndenumerate(unpacked(of["references"]["retrain"])):
        np.testing.assert_equal(value, np.float32(summary["median"]["retrain", of["measures"][m], "", i + 1]))
