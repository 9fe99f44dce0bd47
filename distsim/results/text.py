"""The results of a study as text for a terminal."""

import pandas as pd

from distsim.metrics.registry import in_order
from distsim.results.columns import ALL_CLASSES
from distsim.results.tables import Tables, few
from distsim.words import counted

CARE, FEW = "*", "!"  # behind a value: some layer carries a warning; some layer rests on fewer runs than the study has
NAMED = 6  # layers in one line


def as_text(tables: Tables, problem: str, probe_from: str = "train", most: int | None = None) -> str:
    """Return a problem's results as a table of text: one line per iteration, medians over runs.

    Each metric of the summary has a column, in the order of the registry, the user's own metrics last. A similarity is
    also the median over layers, without the output layer. A metric that only the output layer has shows that layer.
    Values to be read with care are marked, and lines below the table say in which layers and why. Controls are left
    out.

    probe_from : of the problem; that layers are compared on test images is said
    most : lines of it, of which the first and the last are always there; None: all
    """
    tables = tables.pruned
    accuracy = tables.accuracy[tables.accuracy["problem"] == problem]
    accuracy = accuracy.assign(few=few(accuracy)).set_index("iteration")
    summary = tables.summary[tables.summary["problem"] == problem]
    summary = summary.assign(care=summary["warned"] > 0, few=few(summary))
    hidden = summary[summary["kind"] != "out"]
    metrics = in_order(summary["metric"])
    of_output = [name for name in metrics if name not in set(hidden["metric"])]
    cells = _cells(hidden) | _cells(summary[summary["metric"].isin(of_output)])
    widths = {name: max(8, len(name)) for name in metrics}
    lines = ["iteration  remaining  runs  accuracy  " + "  ".join(f"{name:>{widths[name]}}" for name in metrics)]
    for iteration, row in accuracy[accuracy.index.isin(_chosen(list(accuracy.index), most))].iterrows():
        values = "  ".join(f"{cells.get((iteration, name), ''):>{widths[name]}}" for name in metrics)
        runs = f"{row['count']}{FEW * bool(row['few'])}"
        lines.append(f"{iteration:9d}  {row['remaining']:9.3f}  {runs:>4}  {row['median']:8.4f}  {values}".rstrip())
    lines.append(
        f"Medians over runs; similarities to the complete network{' on test images' * (probe_from == 'test')}, median "
        "over layers without the output" + (f"\n({', '.join(of_output)}: of the output layer)." if of_output else ".")
    )
    shown = summary[(summary["kind"] != "out") | summary["metric"].isin(of_output)]
    lines += _notes(shown, bool(accuracy["few"].any()))
    lines += _of_predictions(tables.functional_summary, problem)
    missing = int(summary["missing"].sum())
    if missing:
        lines.append(f"{counted(missing, 'value')} {'is' if missing == 1 else 'are'} missing; results.csv says why.")
    return "\n".join(lines)


def _of_predictions(functional: pd.DataFrame, problem: str) -> list[str]:
    """Return the line about predictions at the last iteration, if they were compared."""
    rows = functional[(functional["problem"] == problem) & (functional["class"] == ALL_CLASSES)]
    if rows.empty:
        return []
    iteration = rows["iteration"].max()
    last = rows[rows["iteration"] == iteration].set_index("measure")["median"]
    return [
        f"Test images at iteration {iteration}: {last['agreement']:.1%} of predictions are the complete network's; "
        f"Jensen-Shannon divergence {last['jsd']:.3g} bits."
    ]


def _chosen(iterations: list[int], most: int | None) -> list[int]:
    """Return at most so many of the iterations, evenly spread, the first and the last among them."""
    if most is None or len(iterations) <= most:
        return iterations
    return [iterations[round(at * (len(iterations) - 1) / (most - 1))] for at in range(most)]


def _cells(rows: pd.DataFrame) -> dict[tuple[int, str], str]:
    """Return the text of each cell, by iteration and metric: the median over layers, and its marks."""
    grouped = rows.groupby(["iteration", "metric"], observed=True)
    medians, marks = grouped["median"].median(), grouped[["care", "few"]].any()
    return {
        key: f"{value:.3f}{CARE * bool(marks.loc[key, 'care'])}{FEW * bool(marks.loc[key, 'few'])}"
        for key, value in medians.items()
    }


def _notes(rows: pd.DataFrame, few_accuracies: bool) -> list[str]:
    """Return the lines that say what the marks of a table mean, and which layers they are about."""
    notes = []
    if rows["care"].any():
        notes.append(f"{CARE} to be read with care; the column warning of results.csv says why:")
        for metric, of_metric in rows[rows["care"]].groupby("metric", sort=False):
            notes.append(f"    {metric}: {_layers(of_metric)}")
    if rows["few"].any() or few_accuracies:
        where = f": {_layers(rows[rows['few']])}" if rows["few"].any() else ""
        notes.append(f"{FEW} on fewer runs than the study has{where}")
    return notes


def _layers(rows: pd.DataFrame) -> str:
    """Name the layers of these rows, input to output, the first few of them."""
    layers = list(rows.sort_values("position")["layer"].drop_duplicates())
    more = f" and {len(layers) - NAMED} more" if len(layers) > NAMED else ""
    return ", ".join(layers[:NAMED]) + more
