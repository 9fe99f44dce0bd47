"""The documents say what is so: what they name exists, their commands parse, their Python runs.

Fenced `python` blocks run, in order, in a folder of their own; one that begins with `# file: NAME.py` is saved and run
as a sweep script, made tiny. Every line of a fenced `sh` block is a command; of an indented block those lines are that
begin like one. Names, paths, links and flags are checked wherever they stand.
"""

import argparse
import contextlib
import importlib
import io
import math
import re
import runpy
import shlex
import sys
import tomllib
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distsim import metrics, models, specs
from distsim.activations.probe import layer_shapes
from distsim.cli import main as cli
from distsim.cli import sweeps
from distsim.data.folder import EXTENSIONS
from distsim.metrics import repository
from distsim.problems import PROBLEMS
from distsim.results import figures

ROOT = Path(__file__).parents[1]
DOCS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
TINY = ("--local", "--runs", "1", "--iterations", "1", "--epochs", "2", "--probe", "100", "--train-limit", "200")
FOLDERS = (
    "distsim",
    "docs",
    "sweeps",
    "tests",
    "bench",
    "clusters",
    "requirements",
    ".ci",
)  # of the repository, that a text may name things in
ELSEWHERE = ("cd", "git", "pip", "uv", "docker", "ray", ".", "export", "aws")  # programs whose arguments are not ours


# --- what a text contains --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Block:
    language: str  # of the fence; "indented" for a block without one
    body: str

    @property
    def file(self) -> str | None:
        """The name under which a reader is to save it."""
        match = re.match(r"# file: (\S+)\n", self.body)
        return match[1] if match and self.language == "python" else None


FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)
INDENTED = re.compile(r"(?:\A|(?<=\n)) *\n((?: {4}.*\n)+)")


def blocks(text: str) -> list[Block]:
    """The fenced ones in their order, then those that are indented after an empty line."""
    fenced = [Block(language, body) for language, body in FENCED.findall(text)]
    return fenced + [Block("indented", body) for body in INDENTED.findall(prose(text))]


def prose(text: str) -> str:
    return FENCED.sub("", text)


def spans(text: str) -> list[str]:
    """Inline code."""
    return [" ".join(span.split()) for span in re.findall(r"(?<!`)`([^`]+)`(?!`)", prose(text))]


def commands(text: str) -> Iterator[list[str]]:
    """Command lines, as a shell splits them: continued lines joined, comments and settings of variables taken off."""
    for block in blocks(text):
        if block.language not in ("sh", "indented"):
            continue
        for line in block.body.replace("\\\n", " ").splitlines():
            if block.language == "indented" and not re.match(
                r" *(\w+=\S+ )*(python|distsim|make|ray|pip) [\w./'-]", line
            ):
                continue
            words = shlex.split(line, comments=True)
            while words and re.match(r"\w+=", words[0]):
                words.pop(0)
            if words:
                yield words


def anchors(text: str) -> set[str]:
    """Of its headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.*)$", prose(text), re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


# --- what is wrong with it -------------------------------------------------------------------------------------------


def complaints(text: str, folder: Path = ROOT) -> list[str]:
    """Everything that a text in `folder` names and that is not there."""
    saved = {block.file: block.body for block in blocks(text) if block.file}
    found = [*_names(text), *_paths(text, saved), *_links(text, folder)]
    for span in spans(text):
        found += _span(span)
    for words in commands(text):
        found += _command(words, saved)
    return found


def _names(text: str) -> Iterator[str]:
    for name in sorted(set(re.findall(r"(?<![\w/])distsim(?:\.\w+)+", text))):
        if not _exists(name):
            yield f"{name} is not there"


def _exists(name: str) -> bool:
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        try:
            thing = importlib.import_module(".".join(parts[:end]))
        except ModuleNotFoundError:
            continue
        for part in parts[end:]:
            fields = getattr(thing, "__dataclass_fields__", {})  # one without a default is no attribute of its class
            if not hasattr(thing, part) and part not in fields:
                return False
            thing = getattr(thing, part, None)
        return True
    return False


def _paths(text: str, saved: Collection[str]) -> Iterator[str]:
    inside = rf"(?<![\w/.:~-])(?:{'|'.join(map(re.escape, FOLDERS))})/[\w./-]*\w/?"
    for path in sorted(set(re.findall(inside, text))):
        if not (ROOT / path).exists():
            yield f"there is no {path}"
    for span in spans(text):
        for file in re.findall(r"(?<![\w/.<-])[\w-]+\.(?:py|md|toml|yaml)\b", span):
            if file not in saved and not (ROOT / file).exists():
                yield f"there is no {file}"


def _links(text: str, folder: Path) -> Iterator[str]:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(text)):
        if re.match(r"https?:", target):
            continue
        path, _, anchor = target.partition("#")
        file = folder / path
        if path and not file.exists():
            yield f"the link {target} leads nowhere"
        elif anchor and anchor not in anchors(file.read_text() if path else text):
            yield f"the link {target} leads to no heading"


def _span(span: str) -> Iterator[str]:
    words = span.split()
    if words[0] in ELSEWHERE:
        return
    for flag in re.findall(r"(?<![\w-])--[a-z][a-z-]*", span):
        if flag not in _flags():
            yield f"no command has {flag}"
    if words[0] == "distsim" and len(words) > 1 and words[1] not in ("--help", *_subcommands()):
        yield f"distsim has no {words[1]}"
    if words[0] == "make" and len(words) > 1:
        yield from _make(words[1:])
    if match := re.match(r"([A-Z]\w+)(?:\.(\w+)|\((\w+)=.*\))$", span):
        thing, *inner = match.groups()
        (name,) = filter(None, inner)
        if hasattr(specs, thing) and not _exists(f"distsim.specs.{thing}.{name}"):
            yield f"{thing} has no {name}"


def _subcommands() -> dict[str, Any]:
    (action,) = (a for a in cli.parser()._actions if a.choices)
    return dict(action.choices)


def _flags() -> set[str]:
    parsers = [sweeps.parser_for([PROBLEMS["digits"], PROBLEMS["cifar2"]], {}), *_subcommands().values()]
    return {flag for parser in parsers for action in parser._actions for flag in action.option_strings}


def _make(targets: list[str]) -> Iterator[str]:
    known = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M)
    for target in targets:
        if target not in known:
            yield f"make has no {target}"


def _command(words: list[str], saved: dict[str, str]) -> Iterator[str]:
    """saved : the scripts that the text holds, by name."""
    if "&&" in words:
        at = words.index("&&")
        yield from _command(words[:at], saved)
        yield from _command(words[at + 1 :], saved)
        return
    if ">" in words:  # into a file
        words = words[: words.index(">")]
    program, *arguments = words
    if program == "python":
        yield from _python(arguments, saved)
    elif program == "distsim":
        yield from _parsed(cli.parser(), arguments)
    elif program == "make":
        yield from _make(arguments)
    elif program == "ray":
        yield from (f"there is no {a}" for a in arguments if a.endswith(".yaml") and not (ROOT / a).exists())
        if arguments[0] == "exec":
            yield from _command(shlex.split(arguments[-1]), saved)
    elif program == "pip":
        extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
        asked = re.findall(r"(?:\.|distsim-imp)\[([\w,-]+)\]", " ".join(arguments))
        if arguments[0] == "install" and re.search(r"(?:^| )distsim(?:\[| |$)", " ".join(arguments)):
            yield "distsim is another project on PyPI: this is distsim-imp"
        yield from (f"there is no extra {name}" for names in asked for name in names.split(",") if name not in extras)
    elif program not in ELSEWHERE:
        yield f"{program} is no command that this test knows"


def _python(arguments: list[str], saved: dict[str, str]) -> Iterator[str]:
    name, *rest = arguments
    if name in saved:
        yield from _parsed(_parser_of(saved[name], name), rest)
    elif not (ROOT / name).is_file():
        yield f"there is no script {name}"
    elif name.startswith("sweeps/"):
        yield from _parsed(_parser_of((ROOT / name).read_text(), name), rest)


def _parser_of(source: str, name: str) -> argparse.ArgumentParser:
    """The parser of a sweep script, which runs as far as its call of distsim.cli.sweeps.main."""
    given: list[Any] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sweeps, "main", lambda *problems, **defaults: given.append((problems, defaults)))
        patch.setattr(models, "MODELS", dict(models.MODELS))
        with contextlib.suppress(SystemExit):
            exec(compile(source, name, "exec"), {"__name__": "__main__"})
    return sweeps.parser_for(*given[0])


def _parsed(parser: argparse.ArgumentParser, arguments: list[str]) -> Iterator[str]:
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
            parser.parse_args(arguments)
    except SystemExit as end:
        if end.code:
            yield f"{shlex.join(arguments)}: {errors.getvalue().strip().splitlines()[-1]}"
    for argument in arguments:  # argparse takes the beginning of a flag for the whole
        if argument.startswith("--") and argument not in _flags():
            yield f"no command has {argument}"


# --- the documents ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", DOCS, ids=lambda file: file.name)
def test_what_a_document_names_exists(file):
    assert complaints(file.read_text(), file.parent) == []


@pytest.mark.filterwarnings("ignore::distsim.metrics.UnreliableSimilarity")  # a page shows what is warned of
@pytest.mark.parametrize("file", [f for f in DOCS if "```python" in f.read_text()], ids=lambda file: file.name)
def test_the_python_of_a_document_runs(file, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(models, "MODELS", dict(models.MODELS))
    monkeypatch.setattr(figures, "draw_all", lambda *tables: {})  # most of the time, and tested elsewhere
    names: dict[str, Any] = {}
    for block in blocks(file.read_text()):
        if block.file:
            (tmp_path / block.file).write_text(block.body)
            monkeypatch.setattr(sys, "argv", [block.file, *TINY])
            with pytest.raises(SystemExit) as end:
                runpy.run_path(block.file, run_name="__main__")
            assert end.value.code == 0, capsys.readouterr().err
        elif block.language == "python":
            exec(compile(block.body, file.name, "exec"), names)
    for module in list(sys.modules):
        if str(getattr(sys.modules[module], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[module]


def table(file: str, *header: str) -> list[list[str]]:
    """The rows of the document's table whose header begins so."""
    lines = (ROOT / "docs" / file).read_text().splitlines()
    (start,) = (i for i, line in enumerate(lines) if line.startswith("| " + " | ".join(header)))
    rows = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows


def test_the_table_of_invariances():
    rng = np.random.default_rng(0)
    n, p = 200, 8
    latent = rng.standard_normal((n, 4))
    scales = np.logspace(1, -1, p)  # so that SVCCA leaves directions out
    X, Y = ((latent @ rng.standard_normal((4, p)) + rng.standard_normal((n, p))) * scales + 0.5 for _ in range(2))
    rotation = np.linalg.qr(rng.standard_normal((p, p)))[0]
    changes = {
        "a constant added": lambda Z: Z + 3 * rng.standard_normal(p),
        "multiplied by": lambda Z: -3 * Z,
        "columns permuted": lambda Z: Z[:, ::-1],
        "columns rotated": lambda Z: Z @ rotation,
        "single columns scaled": lambda Z: Z * np.linspace(0.2, 5, p),
        "any invertible": lambda Z: Z @ (rotation * np.linspace(0.2, 5, p)) @ rotation,
        "a constant column": lambda Z: np.column_stack([Z, np.full(n, 7.0)]),
        "a column repeated": lambda Z: np.column_stack([Z, Z[:, 0]]),
    }

    def weighed_by_x(X, Y):
        return metrics.pwcca(X, Y, side="first")

    def weighed_by_y(X, Y):
        return metrics.pwcca(X, Y, side="second")

    columns = [metrics.mean_cca, metrics.svcca, weighed_by_x, weighed_by_y, metrics.cka, metrics.nbs, metrics.cosine]
    rows = table("metrics.md", "to one side")
    assert len(rows) == len(changes)
    for (what, *cells), (name, change) in zip(rows, changes.items(), strict=True):
        assert what.startswith(name)
        for metric, cell in zip(columns, cells, strict=True):
            if cell == "shapes must agree":
                with pytest.raises(ValueError, match="shape"):
                    metric(change(X), Y)
            else:
                same = abs(metric(change(X), Y) - metric(X, Y))
                assert same < 1e-9 if cell == "yes" else same > 1e-4, (what, metric.__name__, same)


def test_the_table_of_rows_per_channel():
    expected = {}
    for problem in PROBLEMS.values():
        network = models.build(problem, len(problem.classes) or 10)
        shapes = layer_shapes(network, problem)
        ratios = {name: problem.probe * math.prod(shape[:-1]) / shape[-1] for name, shape in shapes.items()}
        layer = min(ratios, key=ratios.__getitem__)
        expected[problem.name] = (layer, ratios[layer])
    found = {}
    for problems, layer, ratio in table("metrics.md", "problem", "layer", "ratio"):
        found |= dict.fromkeys(problems.split(", "), (layer, float(ratio)))
    assert found.keys() == expected.keys()
    for problem, (layer, ratio) in found.items():
        assert layer == expected[problem][0]
        np.testing.assert_allclose(ratio, expected[problem][1], rtol=0.01)


def test_the_endings_of_image_files():
    (listed,) = (span for span in spans((ROOT / "docs" / "own-data.md").read_text()) if span.startswith(".jpg"))
    assert set(listed.split()) == EXTENSIONS


# --- the checker itself ----------------------------------------------------------------------------------------------

GOOD = """# A title (of ours)

See [the metrics](docs/metrics.md#references), [above](#a-title-of-ours), [Ray](https://docs.ray.io) and
`distsim.specs.Recipe.epochs`; `sweeps/digits.py`, `Recipe.lars`, `Pruning(biases=True)`, `--runs`, `distsim run STORE
--network run=3,iteration=7`, `make test`.

    python sweeps/cifar2.py --download --runs 2    # a comment
    results/cifar2/                                no command
    DISTSIM_DATA=/data python sweeps/p1.py --local

```sh
distsim compare results/cifar2 --metrics cka
pip install -e '.[dev]'
python mine.py --classes a,b \\
    --probe 3
```

```python
# file: mine.py
from distsim.problems import PROBLEMS
from distsim.cli.sweeps import main

main(PROBLEMS["digits"])
```
"""

WRONG = {
    "`distsim.metrics.ccka`": "distsim.metrics.ccka is not there",
    "distsim.no_such.thing in prose": "distsim.no_such.thing is not there",
    "`distsim.specs.Recipe.epoch`": "distsim.specs.Recipe.epoch is not there",
    "`Recipe.lasr`": "Recipe has no lasr",
    "`Pruning(bias=True)`": "Pruning has no bias",
    "`sweeps/cifar3.py`": "there is no sweeps/cifar3.py",
    "in tests/metrics/test_rca.py,": "there is no tests/metrics/test_rca.py",
    "`theirs.py`": "there is no theirs.py",
    "[there](docs/nothing.md)": "the link docs/nothing.md leads nowhere",
    "[there](docs/metrics.md#nothing)": "the link docs/metrics.md#nothing leads to no heading",
    "[there](#nothing)": "the link #nothing leads to no heading",
    "`--run 3`": "no command has --run",
    "`distsim runs STORE`": "distsim has no runs",
    "`make tests`": "make has no tests",
    "text\n\n    make tests\n": "make has no tests",
    "text\n\n    python sweeps/cifar2.py --epoch 3\n": "no command has --epoch",
    "text\n\n    python sweeps/cifar2.py --runs two\n": "'two' is not a whole number",
    "```sh\npython sweeps/cifar2.py --retain all\n```\n": "unrecognized arguments: --retain all",
    "```sh\npython theirs.py --runs 2\n```\n": "there is no script theirs.py",
    "```sh\ndistsim status\n```\n": "the following arguments are required: STORE",
    "```sh\ndistsim digest s --all\n```\n": "unrecognized arguments: --all",
    "```sh\ncd x && distsim certify s\n```\n": "invalid choice: 'certify'",
    "```sh\nray up nothing.yaml\n```\n": "there is no nothing.yaml",
    "```sh\nray exec Makefile 'python sweeps/p3.py'\n```\n": "there is no script sweeps/p3.py",
    "```sh\npip install '.[gpus]'\n```\n": "there is no extra gpus",
    "```sh\npip install 'distsim[all]'\n```\n": "distsim is another project",
    "```sh\nconda install distsim\n```\n": "conda is no command",
}


def test_the_checker_has_nothing_against_a_true_text():
    assert complaints(GOOD) == []
    assert [words[0] for words in commands(GOOD)] == ["distsim", "pip", "python", "python", "python"]
    assert [block.file for block in blocks(GOOD)] == [None, "mine.py", None]


@pytest.mark.parametrize("text", WRONG)
def test_the_checker_finds_what_is_not_there(text):
    found = complaints(f"{GOOD}\n{text}\n")
    assert found, "nothing found"
    assert any(WRONG[text] in complaint for complaint in found), found


def test_the_names_elsewhere_are_in_the_page_of_metrics() -> None:
    page = (ROOT / "docs" / "metrics.md").read_text()
    for ours, theirs in repository.NAMES.items():
        assert f"| `{ours}` | `{theirs}` |" in page
