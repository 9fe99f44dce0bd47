"""The results of a study as text for a terminal."""

from distsim.metrics.registry import in_order
from distsim.results.tables import Tables


def as_text(tables: Tables, problem: str) -> str:
    """Return a problem's results as a table of text: one line per iteration, medians over runs.

    Each metric of the summary has a column, in the order of the registry, the user's own metrics last. A similarity is
    also the median over layers, without the output layer. A metric that only the output layer has shows that layer.
    """
    accuracy = tables.accuracy[tables.accuracy["problem"] == problem].set_index("iteration")
    summary = tables.summary[tables.summary["problem"] == problem]
    hidden = summary[summary["kind"] != "out"]
    by_layer = hidden.groupby(["iteration", "metric"], observed=True)["median"].median()
    metrics = in_order(summary["metric"])
    of_output = [name for name in metrics if name not in set(hidden["metric"])]
    output = summary[summary["kind"] == "out"].groupby(["iteration", "metric"], observed=True)["median"].median()
    widths = {name: max(8, len(name)) for name in metrics}
    lines = ["iteration  remaining  runs  accuracy  " + "  ".join(f"{name:>{widths[name]}}" for name in metrics)]
    for iteration, row in accuracy.iterrows():
        cells = []
        for name in metrics:
            value = (output if name in of_output else by_layer).get((iteration, name))
            cells.append(f"{value:{widths[name]}.3f}" if value is not None else " " * widths[name])
        lines.append(
            f"{iteration:9d}  {row['remaining']:9.3f}  {row['count']:4d}  {row['median']:8.4f}  " + "  ".join(cells)
        )
    lines.append(
        "Medians over runs; similarities to the complete network, median over layers without the output"
        + (f"\n({', '.join(of_output)}: of the output layer)." if of_output else ".")
    )
    missing = int(summary["missing"].sum())
    if missing:
        lines.append(f"{missing} values are missing; results.csv gives the reason of each.")
    return "\n".join(lines)
