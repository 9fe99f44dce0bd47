"""What a notebook shows of a study."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd

HEADER = ("problem", "complete networks", "runs", "iterations", "accuracy, complete", "accuracy, last", "left, last")


def study_html(storage: str, problems: Sequence[str], networks: pd.DataFrame, accuracy: pd.DataFrame) -> str:
    """Return a table of a study with a row for each problem, as HTML. Names are shown as text, whatever they hold.

    networks, accuracy : the study's tables
    """
    rows = ["".join(f"<th>{escape(name)}</th>" for name in HEADER)]
    for problem in problems:
        pruned = accuracy[(accuracy["problem"] == problem) & (accuracy["control"] == "")]
        cells = [problem, *_counts(networks[networks["problem"] == problem]), *_accuracies(pruned)]
        rows.append("".join(f"<td>{escape(cell)}</td>" for cell in cells))
    table = "".join(f"<tr>{row}</tr>" for row in rows)
    return f"<p>Study in <code>{escape(_where(storage))}</code></p><table>{table}</table>"


def _where(storage: str) -> str:
    """Return a store's place, from the working folder if it lies in it."""
    folder = Path(storage)
    return str(folder.relative_to(Path.cwd())) if folder.is_relative_to(Path.cwd()) else storage


def _counts(networks: pd.DataFrame) -> tuple[str, str, str]:
    """Return how many complete networks, runs and iterations there are; runs of all complete networks together."""
    complete = networks[networks["iteration"] == 0]
    pruned = networks[(networks["iteration"] > 0) & (networks["control"] == "")]
    runs = pruned[["complete", "run"]].drop_duplicates()
    return str(len(complete)), str(len(runs)), str(int(pruned["iteration"].max()) if len(pruned) else 0)


def _accuracies(accuracy: pd.DataFrame) -> tuple[str, str, str]:
    """Return the median accuracy at first and at last, and what is left of the parameters then; "" where unknown."""
    if accuracy.empty:
        return "", "", ""
    ordered = accuracy.sort_values("iteration")
    first, last = ordered.iloc[0], ordered.iloc[-1]
    complete = f"{first['median']:.4f}" if first["iteration"] == 0 else ""
    return complete, f"{last['median']:.4f}", f"{last['remaining']:.1%}"
