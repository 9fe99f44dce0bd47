"""What a study found, as text for a terminal."""

from distsim.results.tables import Tables
from distsim.specs import PAPER_METRICS


def as_text(tables: Tables, problem: str) -> str:
    """What a study found, for a terminal: one line per iteration, medians over runs, similarities also over layers."""
    accuracy = tables.accuracy[tables.accuracy["problem"] == problem].set_index("iteration")
    summary = tables.summary[(tables.summary["problem"] == problem)]
    by_layer = summary[summary["kind"] != "out"].groupby(["iteration", "metric"], observed=True)["median"].median()
    metrics = [name for name in PAPER_METRICS if name in set(summary["metric"])]
    lines = ["iteration  remaining  runs  accuracy  " + "  ".join(f"{name:>8}" for name in metrics)]
    output = summary[(summary["metric"] == "cosine")].set_index("iteration")["median"]
    for iteration, row in accuracy.iterrows():
        cells = []
        for name in metrics:
            value = output.get(iteration) if name == "cosine" else by_layer.get((iteration, name))
            cells.append(f"{value:8.3f}" if value is not None else " " * 8)
        lines.append(
            f"{iteration:9d}  {row['remaining']:9.3f}  {row['count']:4d}  {row['median']:8.4f}  " + "  ".join(cells)
        )
    lines.append("Medians over runs; similarities to the complete network, median over layers without the output")
    lines.append("(cosine: of the output layer).")
    missing = int(summary["missing"].sum())
    if missing:
        lines.append(f"{missing} values are missing; results.csv gives the reason of each.")
    return "\n".join(lines)
