"""docs/tutorial.ipynb: its cells run in order, and a notebook has something to show of each."""

import ast
import json
import re
from pathlib import Path
from typing import Any

import pytest

FORMS = {"html": "text/html", "png": "image/png", "plain": "text/plain"}
NOTEBOOK = Path(__file__).parents[1] / "docs" / "tutorial.ipynb"


def cells(kind: str) -> list[dict[str, Any]]:
    return [cell for cell in json.loads(NOTEBOOK.read_text())["cells"] if cell["cell_type"] == kind]


def shown(source: str, names: dict[str, Any]) -> Any:
    """Run a cell. Return the value of its last line, which a notebook shows; None if that is a statement."""
    tree = ast.parse(source)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, str(NOTEBOOK), "exec"), names)
    return None if last is None else eval(compile(ast.Expression(last.value), str(NOTEBOOK), "eval"), names)


def as_shown(value: Any) -> str:
    """In which form a notebook shows a value: as Jupyter chooses among what the value offers."""
    for form in ("html", "png"):
        represent = getattr(value, f"_repr_{form}_", None)
        if (
            represent is not None and represent() is not None
        ):  # matplotlib's figures have HTML in a browser's window only
            return form
    return "plain"


def test_the_cells_run_and_show_what_they_showed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "__main__"}
    for cell in cells("code"):
        value = shown("".join(cell["source"]), names)
        kept = [form for output in cell["outputs"] for form in output.get("data", {})]
        assert (value is None) == (kept == []), "what is kept of a cell is not what it shows"
        if value is not None:
            rich = [form for form in ("text/html", "image/png") if form in kept]
            assert FORMS[as_shown(value)] == (rich or ["text/plain"])[0]
    study = names["study"]
    assert (tmp_path / "results/tutorial").is_dir()
    assert "<td>1</td><td>2</td><td>4</td>" in study._repr_html_()
    assert len(study.networks) == 1 + 4 * 2 + 4 * 2  # one complete network, two runs, two controls of one run each
    assert set(names["each"].index.get_level_values("control")) == {"", "retrain", "random"}


def test_no_cell_failed_when_the_notebook_was_made() -> None:
    outputs = [output for cell in cells("code") for output in cell["outputs"]]
    assert outputs
    assert {output["output_type"] for output in outputs} <= {"execute_result", "display_data"}
    assert not re.search(r"/(home|root|tmp|Users|work)/", NOTEBOOK.read_text()), "a path of one machine"
