"""What figures show: panels, lines, ticks, gaps; and that equal tables give equal files."""

import dataclasses
import io
from collections.abc import Callable

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from PIL import Image
from small_study import ITERATIONS, LAYERS, tables

from distsim.plotting import STYLE, drawn, render
from distsim.results.accuracy_figures import accuracy_mean, accuracy_median
from distsim.results.figures import Choice, draw_all, planned
from distsim.results.iteration_maps import iteration_maps
from distsim.results.layer_figures import similarity_by_layer, similarity_panels
from distsim.results.output_figures import output_layer
from distsim.results.tables import Tables, long_table, network_table


def lines(panel: Axes) -> list[Line2D]:
    """The panel's lines, without marks, symbols of layers' kinds, and what stands beside."""
    return [line for line in panel.lines if line.get_gid() is None]


def panels(figure: Figure) -> list[Axes]:
    return [axes for axes in figure.axes if axes.get_label() != "<colorbar>"]


def ticks(panel: Axes) -> list[str]:
    return [label.get_text() for label in panel.get_xticklabels()]


def test_accuracy_median() -> None:
    figure = accuracy_median(tables("digits", "cifar2", "cifar10").accuracy)
    assert [panel.get_title() for panel in panels(figure)] == ["cifar2", "cifar10", "digits"]  # the papers' order first
    panel = panels(figure)[0]
    line, complete = panel.lines
    np.testing.assert_allclose(line.get_xdata(), 0.8 ** np.arange(5))
    np.testing.assert_allclose(line.get_ydata(), [0.9, *(0.901 - 0.01 * np.arange(1, 5))])
    assert (complete.get_xdata().tolist(), complete.get_ydata().tolist()) == ([1.0], [0.9])
    assert panel.get_xscale() == "log"
    left, right = panel.get_xlim()
    assert left > 1 > 0.8**ITERATIONS > right  # complete on the left
    assert panel.get_xlabel() == "remaining parameters"


def test_figures_show_the_statistic_that_they_name() -> None:
    study = tables("digits")
    accuracy = study.accuracy.assign(median=study.accuracy["mean"] - 0.02)
    for draw, statistic in ((accuracy_median, "median"), (accuracy_mean, "mean")):
        (panel,) = panels(draw(accuracy))
        np.testing.assert_allclose(panel.lines[0].get_ydata(), accuracy[statistic])
    summary = study.summary.assign(median=study.summary["mean"] - 0.02)
    cka = summary[(summary["metric"] == "cka") & (summary["iteration"] == 1) & (summary["kind"] != "out")]
    for statistic in ("median", "mean"):
        (panel,) = panels(similarity_by_layer(summary, "cka", statistic))
        np.testing.assert_allclose(lines(panel)[0].get_ydata(), cka[statistic])


@pytest.mark.parametrize(
    ("rate", "expected"),
    [
        (0.2, ["0.4", "0.5", "0.6", "0.7", "0.8", "0.9", "1"]),
        (0.35, ["0.2", "0.3", "0.5", "0.7", "1"]),
        (0.6, ["0.05", "0.1", "0.2", "0.5", "1"]),
    ],
)
def test_logarithmic_ticks_are_plain(rate: float, expected: list[str]) -> None:
    assert ticks(panels(accuracy_median(tables("digits", rate=rate).accuracy))[0])[-len(expected) :] == expected


def test_accuracy_mean_has_two_sd_and_a_dotted_line() -> None:
    (panel,) = panels(accuracy_mean(tables("digits").accuracy))
    dotted = panel.lines[1]
    assert dotted.get_linestyle() == ":"
    assert dotted.get_ydata() == [0.9, 0.9]
    points = panel.collections[0].get_paths()[0].vertices
    at_first = points[np.isclose(points[:, 0], 0.8), 1]
    np.testing.assert_allclose([at_first.min(), at_first.max()], [0.891 - 0.002, 0.891 + 0.002])  # sd of 0, 1, 2 is 1


def test_similarity_by_layer_leaves_the_output_away() -> None:
    study = tables("digits", "cifar4")
    figure = similarity_by_layer(study.summary)
    assert len(panels(figure)) == 2
    for panel in panels(figure):
        assert ticks(panel) == [layer for layer, _ in LAYERS[:-1]]
        assert len(lines(panel)) == ITERATIONS
        assert not panel.collections
        brightness = [sum(line.get_color()[:3]) for line in lines(panel)]
        assert brightness == sorted(brightness, reverse=True)  # light to dark
    assert panels(figure)[0].get_ylabel() == "mean SVCCA (median of 3 runs)"
    (bar,) = set(figure.axes) - set(panels(figure))
    assert bar.get_ylabel() == "IMP iteration"
    assert [label.get_text() for label in bar.get_yticklabels()] == ["1", "2", "3", "4"]
    with_all = similarity_by_layer(study.summary, "cka", "mean", include_output=True, bands=True)
    assert ticks(panels(with_all)[0])[-1] == "out"
    assert len(panels(with_all)[0].collections) == ITERATIONS


def test_missing_values_leave_gaps() -> None:
    (panel,) = panels(similarity_by_layer(tables("digits", missing=("conv2_1", 2)).summary))
    gaps = [np.isnan(np.asarray(line.get_ydata(), dtype=float)).tolist() for line in lines(panel)]
    assert gaps == [[False] * 5, [False, False, True, False, False], [False] * 5, [False] * 5]
    (panel,) = panels(output_layer(tables("digits", missing=("out", 2)).summary, "digits"))
    assert np.isnan(panel.lines[0].get_ydata()).tolist() == [False, True, False, False]


def test_similarity_panels() -> None:
    summary = tables("digits", "cifar4").summary
    figure = similarity_panels(summary, "cifar4")
    assert [panel.get_ylabel() for panel in panels(figure)] == ["mean SVCCA", "PWCCA", "CKA", "NBS"]
    for panel in panels(figure):
        assert len(lines(panel)) == ITERATIONS
        assert len(lines(panel)[0].get_xdata()) == len(LAYERS)
    banded = similarity_panels(summary, "cifar4", ("cka",), bands=True)
    assert len(panels(banded)) == 1
    assert len(panels(banded)[0].collections) == ITERATIONS


def test_standard_errors_are_bars_of_one_to_each_side() -> None:
    summary = tables("digits").summary.assign(se=0.03)
    (panel,) = panels(similarity_panels(summary, "digits", ("cka",), errors=True))
    of_first = panel.collections[0].get_segments()
    assert len(panel.collections) == ITERATIONS
    rows = summary[(summary["metric"] == "cka") & (summary["iteration"] == 1)].sort_values("position")
    for (low, high), mean in zip(of_first, rows["mean"], strict=True):
        assert (low[1], high[1]) == pytest.approx((mean - 0.03, mean + 0.03))


def test_output_layer() -> None:
    figure = output_layer(tables("digits").summary, "digits")
    (panel,) = panels(figure)
    assert [line.get_label() for line in panel.lines] == ["mean SVCCA", "PWCCA", "CKA", "NBS", "cosine"]
    assert [line.get_xdata().tolist() for line in panel.lines] == [[1, 2, 3, 4]] * 5
    assert len(panel.collections) == 5


def test_draw_all_names_and_skips() -> None:
    study = tables("digits", "cifar4")
    assert list(draw_all(study)) == [
        "fig1_accuracy_median",
        "fig2_svcca_by_layer",
        "fig4_accuracy_mean",
        "fig8_output_cifar4",
        "fig8_output_digits",
        "similarity_cifar4",
        "similarity_digits",
    ]
    only_cka = study.similarities[(study.similarities["metric"] == "cka") & (study.similarities["kind"] != "out")]
    figures = draw_all(Tables.of(only_cka, study.networks[:0]))
    assert list(figures) == ["similarity_cifar4", "similarity_digits"]
    assert len(panels(figures["similarity_digits"])) == 1
    assert draw_all(Tables.of(long_table([]), network_table([]))) == {}


@pytest.mark.parametrize("format", ["png", "pdf", "svg"])
def test_equal_tables_give_equal_bytes(format: str) -> None:
    study = tables("digits", missing=("out", 2))
    figures = draw_all(study)
    with mpl.rc_context({"font.size": 20, "savefig.dpi": 50, "axes.grid": False}):  # the caller's taste does not count
        again = draw_all(study)
        for name, figure in figures.items():
            first = render(figure, format)
            assert first == render(figure, format) == render(again[name], format)
            assert b"Date" not in first
            assert mpl.__version__.encode() not in first


def test_a_picture_of_256_colours_looks_the_same() -> None:
    for figure in draw_all(tables("digits", "cifar2")).values():
        with mpl.rc_context(STYLE):
            figure.savefig(whole := io.BytesIO(), format="png")
        of_few = Image.open(io.BytesIO(render(figure, "png")))
        assert of_few.mode == "P"
        before = np.asarray(Image.open(whole).convert("RGB"), dtype=float)
        change = abs(np.asarray(of_few.convert("RGB")) - before)
        assert change.mean() < 0.3, "of 255"
        assert (change > 30).mean() < 1e-3


def test_an_unknown_format_is_refused() -> None:
    with pytest.raises(ValueError, match="format must be one of"):
        render(Figure(), "gif")


# --- marks -----------------------------------------------------------------------------------------------------------


def marks(panel: Axes, name: str) -> list[tuple[float, float]]:
    """The points that carry this mark: care or few."""
    drawn = [line for line in panel.lines if line.get_gid() == name]
    return sorted(
        (float(x), float(y)) for line in drawn for x, y in zip(line.get_xdata(), line.get_ydata(), strict=True)
    )


def notes(figure: Figure) -> str:
    """What is said under the figure."""
    said = [legend.get_title().get_text() for legend in figure.legends]
    return " ".join([*said, figure.get_supxlabel()]).strip().replace("\n", " ")


@pytest.mark.parametrize("draw", [similarity_by_layer, lambda summary: similarity_panels(summary, "digits")])
def test_points_to_be_read_with_care_are_hollow_and_those_of_fewer_runs_crossed(
    draw: Callable[[pd.DataFrame], Figure],
) -> None:
    study = tables("digits", doubtful=("conv2_1", 3), lacking=("fc1", 2))
    figure = draw(study.summary)
    for panel in panels(figure):
        assert marks(panel, "care") == [(2.0, pytest.approx(0.4 + 0.1 - 0.06 + 0.01))]
        assert marks(panel, "few") == [(4.0, pytest.approx(0.4 + 0.2 - 0.04))], "of run 0 alone"
        (hollow,) = (line for line in panel.lines if line.get_gid() == "care")
        assert hollow.get_markerfacecolor() == "white"
        (crossed,) = (line for line in panel.lines if line.get_gid() == "few")
        assert crossed.get_marker() == "x"
    assert "hollow: in some run a value to be read with care" in notes(figure)
    assert "crossed: on fewer runs than the study has" in notes(figure)
    plain = draw(tables("digits").summary)
    assert notes(plain) == ""
    assert not any(marks(panel, name) for panel in panels(plain) for name in ("care", "few"))


def test_the_output_layer_is_marked_too() -> None:
    figure = output_layer(tables("digits", doubtful=("out", 3), lacking=("out", 2)).summary, "digits")
    (panel,) = panels(figure)
    assert [x for x, _ in marks(panel, "care")] == [3.0] * 5
    assert [x for x, _ in marks(panel, "few")] == [2.0] * 5
    assert "hollow" in notes(figure)


def test_accuracies_of_fewer_runs_are_crossed() -> None:
    accuracy = tables("digits").accuracy
    assert notes(accuracy_median(accuracy)) == ""
    accuracy.loc[accuracy["iteration"] == 4, "count"] = 2
    figure = accuracy_median(accuracy)
    assert [x for x, _ in marks(panels(figure)[0], "few")] == [pytest.approx(0.8**4)]
    assert notes(figure) == "crossed: on fewer runs than the study has"


def test_names_are_text_and_no_formulas() -> None:
    """A name may have dollar signs. What is no formula would end the drawing in an error."""

    @drawn
    def draw() -> Figure:
        figure = Figure()
        figure.suptitle("$\\frac$")
        figure.subplots().set_xticks([0.5], ["$x^2$"])
        return figure

    figure = draw()
    assert render(figure, "png").startswith(b"\x89PNG")
    assert b"$x^2$" in render(figure, "svg"), "in a comment beside its outlines"


def test_bands_end_where_values_end() -> None:
    study = tables("digits", level=0.7)
    accuracy = study.accuracy.assign(sd=0.1)
    (panel,) = panels(accuracy_mean(accuracy))
    assert panel.collections[0].get_paths()[0].vertices[:, 1].max() == 1.0
    (panel,) = panels(output_layer(study.summary.assign(sd=0.2), "digits"))
    for band in panel.collections:
        assert band.get_paths()[0].vertices[:, 1].max() == 1.0


def test_cells_of_maps_are_marked() -> None:
    rows = pd.DataFrame({"layer": "fc1", "position": 0, "metric": "cka", "iteration_x": [0, 0, 1], "value": 0.5})
    rows = rows.assign(iteration_y=[1, 2, 2], warning=["", "0.5 by chance", ""])
    figure = iteration_maps(rows, "digits", "cka")
    assert marks(panels(figure)[0], "care") == [(0.0, 2.0), (2.0, 0.0)]
    assert notes(figure).startswith("IMP iteration hollow")
    assert notes(iteration_maps(rows.assign(warning=""), "digits", "cka")) == "IMP iteration"


@pytest.mark.parametrize(
    ("chosen", "shown"),
    [
        (("m.[a]",), ["m.[a]"]),
        (("m.[ab]",), ["m.a"]),
        (("m.[a]", "pool?"), ["m.[a]", "pool1", "pool2"]),
        (("m.*",), ["m.[a]", "m.a"]),
    ],
)
def test_a_layer_is_chosen_by_its_own_name_or_by_a_pattern(chosen: tuple[str, ...], shown: list[str]) -> None:
    """Names of modules may have brackets, which patterns have too."""
    study = tables("digits")
    names = {"conv1_1": "m.[a]", "conv2_1": "m.a"}
    summary = study.summary.assign(layer=study.summary["layer"].replace(names))
    (draw,) = planned(
        dataclasses.replace(study, summary=summary), Choice(("digits",), layers=chosen), ["fig2"]
    ).values()
    assert sorted(ticks(panels(draw())[0])) == sorted(shown)


def test_a_layer_that_is_not_there_is_named() -> None:
    with pytest.raises(ValueError, match=r"layers: no layer matches 'm\.\[a\]'; there are conv1_1, "):
        planned(tables("digits"), Choice(("digits",), layers=("m.[a]",)), ["fig2"])
