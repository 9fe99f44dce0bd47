"""A reader of a figure sees the order of its lines, and is told what each of its parts is."""

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.text import Text
from small_study import tables

from distsim.plotting import SHADES
from distsim.problems import PROBLEMS
from distsim.results.accuracy_figures import accuracy_mean, accuracy_median
from distsim.results.figures import Choice, draw_all, planned
from distsim.results.functional_figures import functional_similarity
from distsim.results.layer_figures import similarity_by_layer, similarity_panels
from distsim.results.looks import KINDS, METRIC_LOOKS
from distsim.results.output_figures import output_layer
from distsim.results.panels import say_outside, similarity_limits
from distsim.results.tables import Tables, chance_level, functional_table, summarise_functional
from distsim.results.titles import titles_of


def panels(figure: Figure) -> list[Axes]:
    return [axes for axes in figure.axes if axes.get_label() != "<colorbar>"]


def entries(figure: Figure) -> list[str]:
    return [text.get_text() for legend in figure.legends for text in legend.get_texts()]


def outside(panel: Axes) -> str:
    """What a panel says of things that lie outside its axis."""
    return " ".join(text.get_text() for text in panel.texts if text.get_gid() == "outside")


def axis_of(
    values: npt.ArrayLike, beside: dict[str, tuple[float, float]] | None = None
) -> tuple[Axes, tuple[float, float]]:
    panel = Figure().subplots()
    similarity_limits(panel, values, beside)
    say_outside(panel, beside or {})
    return panel, panel.get_ylim()


# --- limits ----------------------------------------------------------------------------------------------------------


def test_the_lines_of_each_panel_take_most_of_its_height() -> None:
    summary = tables("digits").summary
    narrow = summary["metric"].isin(("cka", "nbs"))  # between 0.92 and 1, where SVCCA falls to 0.3
    for name in ("mean", "median", "q25", "q75"):
        summary[name] = summary[name].where(~narrow, 0.85 + 0.22 * summary[name])
    for panel in panels(similarity_panels(summary, "digits")):
        (low, high) = panel.get_ylim()
        drawn = np.concatenate([np.asarray(line.get_ydata()) for line in panel.lines if line.get_gid() is None])
        assert (drawn.max() - drawn.min()) / (high - low) > 0.8
        assert low < drawn.min() < drawn.max() < high


def test_problems_beside_each_other_share_an_axis() -> None:
    summary = tables("digits", "cifar4").summary
    summary["median"] -= 0.2 * (summary["problem"] == "digits")
    first, second = panels(similarity_by_layer(summary))
    assert first.get_ylim() == second.get_ylim()
    drawn = [y for panel in (first, second) for line in panel.lines if line.get_gid() is None for y in line.get_ydata()]
    assert first.get_ylim()[0] < min(drawn) < max(drawn) < first.get_ylim()[1]


def test_small_differences_are_not_drawn_as_large_ones() -> None:
    _, (low, high) = axis_of([0.9991, 0.9993])
    assert 0.05 <= high - low < 0.07
    assert high < 1.01, "no similarity is above 1"


def test_what_lies_far_off_is_said_and_does_not_stretch_the_axis() -> None:
    panel, (low, _) = axis_of([0.8, 1.0], {"by chance": (0.02, 0.1)})
    assert low > 0.7
    assert outside(panel) == "↓ by chance, 0.02 to 0.10"
    panel, (low, _) = axis_of([0.8, 1.0], {"pruned at random": (0.1, 0.9)})
    assert outside(panel) == "↓ pruned at random, to 0.10"
    panel, (_, high) = axis_of([0.2, 0.3], {"two complete networks": (0.9, 0.9)})
    assert high < 0.4
    assert outside(panel) == "↑ two complete networks, 0.90"


def test_what_lies_near_is_on_the_axis() -> None:
    panel, (low, high) = axis_of([0.4, 1.0], {"by chance": (0.02, 0.1)})
    assert low < 0.02 < 1 < high
    assert outside(panel) == ""


def test_an_axis_without_values_is_one_of_similarities() -> None:
    assert axis_of([np.nan])[1] == (0, 1)


# --- bands and chance ------------------------------------------------------------------------------------------------


def test_bars_of_errors_end_at_the_bounds() -> None:
    summary = tables("digits", level=0.75).summary.assign(se=0.3)
    (panel,) = panels(similarity_panels(summary, "digits", ("cka",), errors=True))
    ends = np.concatenate([line[:, 1] for bars in panel.collections for line in bars.get_segments()])
    assert ends.max() == 1.0
    assert panel.get_ylim()[1] < 1.05


@pytest.mark.parametrize("draw", [accuracy_median, accuracy_mean])
def test_one_run_promises_no_band_of_runs(draw: Any) -> None:
    assert any("of runs" in name for name in entries(draw(tables("digits").accuracy)))
    alone = draw(tables("digits", runs=1).accuracy)
    assert entries(alone) == ["one run", "complete network"]
    assert not panels(alone)[0].collections
    assert panels(alone)[0].get_ylabel() == "test accuracy (one run)"


def test_bands_over_layers_and_at_the_output_are_named() -> None:
    for runs, named in ((3, True), (1, False)):
        summary = tables("digits", runs=runs).summary
        assert ("25–75 % of runs" in entries(similarity_panels(summary, "digits", bands=True))) == named
        assert ("± 1 sd of runs" in entries(output_layer(summary, "digits"))) == named
    assert panels(output_layer(summary, "digits"))[0].get_ylabel() == "similarity (one run)"


def test_the_band_by_chance_is_named_and_no_grid_line_crosses_it() -> None:
    study = tables("digits", chance=0.1)
    figure = similarity_panels(study.summary, "digits", ("cka",), chance=chance_level(study.chance))
    assert "by chance (examples permuted)" in entries(figure)
    (panel,) = panels(figure)
    (band,) = (one for one in panel.collections if one.get_gid() == "chance")
    assert panel.get_axisbelow() is True, "grid lines are drawn at 0.5"
    assert band.get_zorder() > 0.5
    far = tables("digits", level=0.75, chance=0.01)
    figure = similarity_panels(far.summary, "digits", ("cka",), chance=chance_level(far.chance))
    assert "by chance (examples permuted)" not in entries(figure), "no band is to be seen"
    assert "by chance: with the examples permuted" in figure.legends[0].get_title().get_text()
    assert outside(panels(figure)[0]) == "↓ by chance, 0.01"


# --- kinds of layers, titles, metrics --------------------------------------------------------------------------------


def test_every_kind_of_layer_has_a_symbol_and_a_name() -> None:
    summary = tables("digits").summary
    kinds = {"conv2_1": "conv_res", "pool2": "add"}
    summary["kind"] = [kinds.get(layer, kind) for layer, kind in zip(summary["layer"], summary["kind"], strict=True)]
    figure = similarity_panels(summary, "digits")
    assert entries(figure) == [name for kind, (_, name) in KINDS.items() if kind != "other"]
    for panel in panels(figure):
        drawn = {
            int(place): line.get_marker()
            for line in panel.lines
            if line.get_gid() == "kind"
            for place in line.get_xdata()
        }
        assert [drawn[place] for place in range(6)] == [
            KINDS[k][0] for k in ("conv", "pool", "conv_res", "add", "fc", "out")
        ]
    assert len({marker for marker, _ in KINDS.values()}) == len(KINDS)
    assert not entries(similarity_panels(summary[summary["kind"] == "pool"], "digits")), "of one kind none is named"


def test_titles_are_words_and_ones_own_problem_keeps_its_name() -> None:
    named = titles_of(PROBLEMS.values())
    assert named.keys() == PROBLEMS.keys()
    assert len(set(named.values())) == len(named)
    assert named["vgg16_cifar10"] == "CIFAR-10, VGG16"
    own = dataclasses.replace(PROBLEMS["cifar2"], name="cifar2_ft")
    of_folder = dataclasses.replace(PROBLEMS["cifar2"], source="folder")
    reduced, tested = PROBLEMS["cifar2"].reduced_to(epochs=5), PROBLEMS["cifar2"].reduced_to(probe_from="test")
    assert titles_of([own]) == {"cifar2_ft": "cifar2_ft"}
    assert titles_of([of_folder]) == {"cifar2": "cifar2, reduced"}
    assert titles_of([reduced]) == {"cifar2": "CIFAR-10, 2 of 10 classes, reduced"}
    assert titles_of([tested]) == {"cifar2": "CIFAR-10, 2 of 10 classes, test images"}
    for name, figure in draw_all(tables("cifar2"), None, named).items():
        assert any("CIFAR-10, 2 of 10 classes" in text.get_text() for text in figure.findobj(Text)), name


def boxes(figure: Figure, texts: Sequence[Text]) -> Iterator[tuple[float, float, float, float]]:
    figure.draw_without_rendering()
    for text in texts:
        if text.get_text():
            box = text.get_window_extent()
            yield box.x0, box.y0, box.x1, box.y1


@pytest.mark.parametrize("draw", [accuracy_mean, similarity_by_layer])
def test_titles_do_not_collide(draw: Any) -> None:
    names = ("cifar2", "cifar4", "cifar6", "cifar8")
    long = {name: f"{name}: a title that is much longer than its panel is wide, test images" for name in names}
    study = tables(*names)
    figure = draw(study.accuracy if draw is accuracy_mean else study.summary, titles=long)
    found = list(boxes(figure, [panel.title for panel in panels(figure)]))
    assert len(found) == 4
    assert min(x0 for x0, *_ in found) >= 0
    assert max(x1 for _, _, x1, _ in found) <= figure.bbox.width
    for at, (x0, y0, x1, y1) in enumerate(found):
        assert all(x1 < a0 or a1 < x0 or y1 < b0 or b1 < y0 for a0, b0, a1, b1 in found[at + 1 :])


def test_figures_of_p2_have_their_numbers() -> None:
    problems = ("vgg16_cifar10", "vgg_svhn", "resnet_fast_cifar10", "digits")
    of_layers = [name for name in planned(tables(*problems), Choice(problems)) if "similarity" in name]
    assert of_layers == [
        "fig5_similarity_vgg16_cifar10",
        "fig6_similarity_vgg_svhn",
        "fig7_similarity_resnet_fast_cifar10",
        "similarity_digits",
    ]


def test_every_metric_that_was_computed_is_drawn() -> None:
    study = tables("digits")
    own = study.similarities[study.similarities["metric"] == "cka"]
    more = [own.assign(metric=name) for name in ("mean_cca", "rsa", "ones_own")]
    study = Tables.of(pd.concat([study.similarities, *more], ignore_index=True), study.networks)
    labels = {text.get_text() for figure in draw_all(study).values() for text in figure.findobj(Text)}
    assert {"mean SVCCA", "PWCCA", "CKA", "NBS", "cosine", "mean CCA", "RSA", "ones_own"} <= labels


def test_every_measure_of_predictions_is_drawn() -> None:
    rest: dict[str, Any] = {"problem": "digits", "complete": 0, "control": "", "remaining_pool": 0.5, "n": 100}
    measures = {"agreement": 0.9, "churn": 0.1, "jsd": 0.05, "lost": 0.04, "won": 0.02}
    rows = [
        rest | measures | {"run": run, "iteration": at, "remaining": 0.8**at, "class": name}
        for run in (0, 1)
        for at in (1, 2)
        for name in ("", "7")
    ]
    figure = functional_similarity(summarise_functional(functional_table(rows)), "digits")
    shown = {float(np.asarray(line.get_ydata())[0]) for panel in panels(figure) for line in panel.lines}
    assert shown == set(measures.values())
    assert {"lost: only the complete network is right", "25–75 % of runs"} <= set(entries(figure))


# --- print -----------------------------------------------------------------------------------------------------------


def luminance(colour: Any) -> float:
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]
    return float(np.dot((0.2126, 0.7152, 0.0722), linear))


def test_twenty_iterations_are_in_order_in_grey_and_all_are_seen_on_white() -> None:
    shades = [luminance(SHADES(at / 19)) for at in range(20)]
    assert (np.diff(shades) < 0).all()
    assert 1.05 / (shades[0] + 0.05) > 1.5, "contrast of the lightest line with white"


def test_metrics_differ_by_more_than_their_colours() -> None:
    assert len({marker for _, marker in METRIC_LOOKS.values()}) == len(METRIC_LOOKS)


@pytest.mark.parametrize("draw", [similarity_panels, output_layer])
def test_a_figure_of_19_layers_fits_on_a_page_with_letters_of_print(draw: Any) -> None:
    summary = tables("digits").summary
    wide = [summary.assign(layer=f"conv{at}_1", position=at, kind="conv" if at < 18 else "out") for at in range(19)]
    figure = draw(
        pd.concat([rows[rows["layer"] != ""].drop_duplicates(["metric", "iteration"]) for rows in wide]), "digits"
    )
    assert figure.get_figwidth() <= 7.0
    sizes = [text.get_fontsize() for text in figure.findobj(Text) if text.get_text()]
    assert min(sizes) >= 6
    ticks = list(boxes(figure, panels(figure)[-1].get_xticklabels()))
    assert all(before[2] <= after[0] + 1 for before, after in itertools.pairwise(ticks)), "names do not overlap"


# --- what is chosen --------------------------------------------------------------------------------------------------


def test_layers_are_chosen_by_patterns() -> None:
    study = tables("digits")
    (draw,) = planned(study, Choice(("digits",), ("cka",), ("conv*", "out")), ("fig2",)).values()
    (panel,) = panels(draw())
    assert [tick.get_text() for tick in panel.get_xticklabels()] == ["conv1_1", "conv2_1", "out"]
    every = planned(study, Choice(("digits",), ("cka", "nbs"), ("conv*",)))
    assert list(every) == ["fig2_cka_by_layer_conv", "fig2_nbs_by_layer_conv", "similarity_digits_cka_nbs_conv"]


def test_settings_of_the_caller_do_not_count() -> None:
    with mpl.rc_context({"axes.grid": False, "font.size": 30}):
        assert panels(accuracy_mean(tables("digits").accuracy))[0].title.get_fontsize() == 9
