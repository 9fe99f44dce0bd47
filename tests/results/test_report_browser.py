"""The report in a browser: it asks for nothing, complains of nothing, and each switch changes what is shown."""

import csv
import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import chromium
import pytest
from planted_study import ODD, ROOT, VGG16, study, with_predictions

from distsim.results.published import read
from distsim.results.report.writing import write_file

FIGURES = ("overview", "course", "accuracy", "layers", "map", "output", "runs")
SEES = "document.getElementById('{}').querySelector('.plot').innerHTML"
OF_METRIC, OF_ITERATION = {"layers", "map", "runs"}, {"accuracy", "layers", "map", "runs"}


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[chromium.Page]:
    chromium.require()
    with chromium.browser(tmp_path_factory.mktemp("profile")) as page:
        yield page


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of the published cifar2 and of a planted VGG16. Not to be changed."""
    folder = tmp_path_factory.mktemp("report")
    planted = study(VGG16, ("svcca", "cka", "nbs", "cosine"), runs=4, iterations=20, large=True)
    return write_file([read(ROOT / "results/published/cifar2"), planted], folder / "report.html")


def opened(tab: chromium.Page, file: Path, address: str = "", width: int = 1400) -> None:
    """Open the file anew: another address after # alone would not load it."""
    tab.open("about:blank")
    tab.requests.clear()
    tab.errors.clear()
    tab.size(width)
    tab.open(f"file://{file}{address}")
    tab.wait("document.querySelectorAll('.plot svg').length > 6")


def shown(tab: chromium.Page) -> dict[str, str]:
    return {name: re.sub(r"plot-clip-\d+", "", tab.js(SEES.format(name))) for name in FIGURES}


def changed(tab: chromium.Page, before: dict[str, str]) -> set[str]:
    return {name for name, content in shown(tab).items() if content != before[name]}


def choose(tab: chromium.Page, control: str, value: Any) -> None:
    tab.js(
        f"(() => {{ const c = document.getElementById('{control}'); c.value = {value!r};"
        " for (const kind of ['input', 'change']) c.dispatchEvent(new Event(kind, {bubbles: true})); })()"
    )


def test_it_asks_for_nothing_and_complains_of_nothing(tab: chromium.Page, report: Path) -> None:
    opened(tab, report)
    assert tab.requests == [f"file://{report}"]
    assert tab.errors == []
    tried = tab.js("fetch('https://example.org/x').then(() => 'answered', () => 'refused')")
    assert tried == "refused"
    assert "Content Security Policy" in " ".join(tab.errors), "it is the page that refuses"
    tab.js("new Promise(done => { const s = document.createElement('script'); s.textContent = 'window.ran = 1';"
           "document.body.append(s); setTimeout(done, 50); })")  # fmt: skip
    assert tab.js("window.ran") is None, "no script runs but the page's own"


def test_each_switch_changes_what_is_shown_and_the_address(tab: chromium.Page, report: Path) -> None:
    opened(tab, report)
    before = shown(tab)
    choose(tab, "metric", "nbs")
    assert changed(tab, before) == OF_METRIC
    before = shown(tab)
    choose(tab, "iteration", 3)
    assert changed(tab, before) == OF_ITERATION
    assert tab.js("document.getElementById('iteration-said').textContent") == "3 · 51 % left"
    before = shown(tab)
    choose(tab, "statistic", "mean")
    assert changed(tab, before) >= {"overview", "course", "accuracy", "layers", "map"}
    before = shown(tab)
    tab.js("document.querySelector('[name=axis][value=zero]').click()")
    assert changed(tab, before) == {"layers", "output", "runs"}
    assert tab.js("document.querySelector('#layers figcaption').textContent").count("is the grey band") == 1
    before = shown(tab)
    tab.js("document.querySelector('[name=x][value=iteration]').click()")
    assert changed(tab, before) == {"accuracy"}
    assert tab.js("location.hash") == "#problem=cifar2&metric=nbs&iteration=3&statistic=mean&axis=zero&x=iteration"
    before = shown(tab)
    choose(tab, "problem", "vgg16_cifar10")
    assert changed(tab, before) == set(FIGURES)
    assert tab.js("[...document.querySelectorAll('h1')].filter(h => h.checkVisibility()).length") == 1
    assert "VGG16" in tab.js("[...document.querySelectorAll('h1')].find(h => h.checkVisibility()).textContent")
    assert tab.errors == []


def test_a_permalink_shows_the_same_again(tab: chromium.Page, report: Path) -> None:
    opened(tab, report)
    for control, value in (("metric", "cka"), ("iteration", 7)):
        choose(tab, control, value)
    before, link = shown(tab), tab.js("document.querySelector('#map .permalink').getAttribute('href')")
    assert "view=map" in link
    opened(tab, report, link)
    assert changed(tab, before) == set()
    tab.wait("Math.abs(document.getElementById('map').getBoundingClientRect().top) < 300")
    opened(tab, report, "#problem=nobody&metric=<b>&iteration=999&view=../etc")
    assert tab.js("document.getElementById('metric').value") == "svcca", "what is not there is passed over"
    assert tab.errors == []


def test_light_and_dark(tab: chromium.Page, report: Path) -> None:
    ground = "getComputedStyle(document.body).backgroundColor"
    seen = {}
    for theme in ("light", "dark"):
        tab.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": theme}])
        opened(tab, report)
        seen[theme] = tab.js(ground), tab.js(SEES.format("layers"))
    assert seen["light"][0] == "rgb(255, 255, 255)"
    assert seen["dark"][0] == "rgb(20, 22, 26)"
    assert seen["light"][1] != seen["dark"][1], "colours of iterations go away from the background"
    tab.js("document.getElementById('theme').click()")
    assert tab.js(ground) == "rgb(255, 255, 255)", "the switch wins over the system"
    tab.call("Emulation.setEmulatedMedia", features=[])


@pytest.mark.parametrize("width", [1400, 400])
def test_nothing_is_wider_than_the_window(tab: chromium.Page, report: Path, width: int) -> None:
    opened(tab, report, "#problem=vgg16_cifar10", width)
    assert tab.js("document.documentElement.scrollWidth") <= width
    wide = (
        "[...document.querySelectorAll('.plot svg')].filter(s => s.getBoundingClientRect().right > innerWidth).length"
    )
    assert tab.js(wide) == 0
    apart = """(() => {
        const marks = [...document.querySelectorAll('#layers .plot [aria-label="x-axis tick label"] text')];
        return marks.length;
    })()"""
    assert tab.js(apart) == len(VGG16), "each layer has its tick"


def test_the_table_behind_a_figure_is_a_table_and_a_csv(tab: chromium.Page, tmp_path: Path) -> None:
    file = write_file([study(layers=ODD, classes=("<b>cat</b>", "=2"))], tmp_path / "report.html")
    opened(tab, file)
    tab.js("document.querySelector('#map details').open = true")
    tab.wait("document.querySelector('#map table') !== null")
    heads = tab.js("[...document.querySelectorAll('#map tbody th[scope=row]')].map(th => th.textContent)")
    assert heads == list(ODD)
    assert tab.js("document.querySelector('#map table caption').textContent").startswith("mean SVCCA by layer")
    tab.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path))
    tab.js("document.querySelector('#map .foot button').click()")
    saved = tmp_path / "vgg16_cifar10-map.csv"
    tab.wait("true")
    for _ in range(500):
        if saved.exists() and saved.stat().st_size:
            break
        tab.js("new Promise(done => setTimeout(done, 20))")
    rows = list(csv.reader(io.StringIO(saved.read_text())))
    assert rows[0] == ["layer", "iteration 1", "iteration 2", "iteration 3", "iteration 4"]
    assert [row[0] for row in rows[1:]] == ["'=1+cmd" if name == "=1+cmd" else name for name in ODD]
    assert tab.js("document.querySelector('h1 b, main script, .plot b') === null"), "names are no markup"
    ticks = tab.js(
        "[...document.querySelectorAll('#map .plot [aria-label=\"y-axis tick label\"] text')].map(t => t.textContent)"
    )
    assert "$x^2$" in ticks
    assert "=1+cmd" in ticks
    assert tab.errors == []


def test_on_paper_it_is_light_and_as_wide_as_the_paper(tab: chromium.Page, report: Path) -> None:
    tab.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark"}])
    opened(tab, report)
    tab.js("dispatchEvent(new Event('beforeprint'))")
    assert tab.js("document.documentElement.dataset.theme") == "light"
    wide = "document.querySelector('#layers .plot svg[aria-label]').getAttribute('width')"
    assert tab.js(wide) == "680"
    tab.js("dispatchEvent(new Event('afterprint'))")
    assert float(tab.js(wide)) > 1000
    assert tab.js("document.documentElement.dataset.theme") == "dark"
    tab.call("Emulation.setEmulatedMedia", media="print", features=[])
    assert tab.js("document.getElementById('controls').checkVisibility()") is False
    tab.call("Emulation.setEmulatedMedia", media="", features=[])


@pytest.fixture(scope="module")
def predictions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a study whose predictions were compared, and of one of which they were not."""
    made = with_predictions(study(), classes=("<b>cat</b>", "=2"))
    return write_file([made, study(problem="cifar2")], tmp_path_factory.mktemp("predictions") / "report.html")


def test_predictions_are_a_figure_of_their_own(tab: chromium.Page, predictions: Path) -> None:
    opened(tab, predictions)
    seen = {}
    for measure in ("agreement", "churn", "jsd"):
        tab.js(f"document.querySelector('[name=measure][value={measure}]').click()")
        seen[measure] = tab.js(SEES.format("predictions"))
        assert "Band: " in tab.js("document.querySelector('#predictions figcaption').textContent")
    assert len(set(seen.values())) == 3
    assert "retrained without pruning" in seen["churn"]
    lines = "document.querySelectorAll('#predictions .plot [aria-label=line] path').length"
    tab.js("document.querySelector('[name=measure][value=churn]').click()")
    assert tab.js(lines) == 2 + 1 + 1, "two classes, the control, all images"
    link = tab.js("document.querySelector('#predictions .permalink').getAttribute('href')")
    assert "measure=churn&view=predictions" in link
    tab.js("document.querySelector('[name=x][value=iteration]').click()")
    assert re.sub(r"plot-clip-\d+", "", tab.js(SEES.format("predictions"))) != seen["churn"]
    opened(tab, predictions, link)
    assert tab.js("document.querySelector('[name=measure]:checked').value") == "churn"
    assert tab.js(SEES.format("predictions")) == seen["churn"]
    tab.wait("Math.abs(document.getElementById('predictions').getBoundingClientRect().top) < 300")
    assert tab.errors == []


def test_the_table_behind_predictions_has_controls_and_classes(tab: chromium.Page, predictions: Path) -> None:
    opened(tab, predictions)
    tab.js("document.querySelector('#predictions details').open = true")
    tab.wait("document.querySelector('#predictions table') !== null")
    rows = tab.js(
        "[...document.querySelectorAll('#predictions tbody tr')].map(r => [...r.cells].map(c => c.textContent))"
    )
    assert {row[0] for row in rows} == {"pruned networks", "retrained without pruning"}
    assert {row[1] for row in rows} == {"all", "<b>cat</b>", "=2"}
    assert len(rows) == 4 * (3 + 2) + 4 * 3, "four iterations: three measures and two classes; three of the control"
    assert tab.js("document.querySelector('#predictions b') === null")
    assert tab.errors == []


def test_a_study_without_predictions_has_no_such_figure(tab: chromium.Page, predictions: Path) -> None:
    opened(tab, predictions, "#problem=cifar2&measure=churn&view=predictions")
    for part in ("#predictions", "nav a[href='#predictions']"):
        assert tab.js(f'document.querySelector("{part}").checkVisibility()') is False
    choose(tab, "problem", "vgg16_cifar10")
    assert tab.js("document.querySelector('#predictions').checkVisibility()") is True
    assert tab.js("document.querySelector('#predictions .plot svg') !== null")
    assert tab.js("document.documentElement.scrollWidth") <= 1400
    opened(tab, predictions, width=400)
    assert tab.js("document.documentElement.scrollWidth") <= 400
    assert tab.errors == []


def test_its_absence_is_a_skip_or_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chromium, "PATH", "/nowhere/chromium")
    monkeypatch.delenv("DISTSIM_REQUIRE", raising=False)
    with pytest.raises(pytest.skip.Exception, match="apt-get install chromium"):
        chromium.require()
    monkeypatch.setenv("DISTSIM_REQUIRE", "cuda,chromium")
    with pytest.raises(pytest.fail.Exception, match="DISTSIM_REQUIRE names chromium"):
        chromium.require()
