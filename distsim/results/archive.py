"""A published study as a folder to deposit, on Zenodo for example: tables, report, recipe, and words about them."""

import hashlib
import textwrap
from pathlib import Path

from distsim import __version__
from distsim.named_files import write_all
from distsim.results.merging import publish
from distsim.results.published import Published
from distsim.results.report.page import verdicts_of
from distsim.results.report.parts import asked
from distsim.results.report.sentences import findings
from distsim.results.report.words import title
from distsim.results.report.writing import write_file
from distsim.results.table_files import to_csv_bytes

README, LICENSES, SUMS = "README.md", "LICENSES.md", "SHA256SUMS"
RECIPE = "study.toml"
WIDTH = 120
ABOUT = {  # file -> what a reader finds in it
    "report.html": "everything in one page, which opens in any browser and needs no network",
    "results.csv": "a row for each similarity of a layer: run, iteration, layer, metric, value, what is known of it",
    "summary.csv": "the similarities over runs: median, mean and quantiles",
    "accuracy.csv": "the test accuracy over runs",
    "networks.csv": "a row for each network: accuracy, parameters left, epochs",
    "claims.csv": "the papers' claims about this problem, with verdicts and numbers",
    "environments.parquet": "versions, processor and device that rows were computed with",
    RECIPE: "data, network, training and pruning; `distsim sweep --config study.toml` runs it again",
    "study.json": "what determines the numbers, and the SHA-256 of each table",
}
IMAGES = {  # source -> whose images they are
    "cifar10": "CIFAR-10, by A. Krizhevsky: <https://www.cs.toronto.edu/~kriz/cifar.html>",
    "svhn": "SVHN, by Y. Netzer and others, for non-commercial use: <http://ufldl.stanford.edu/housenumbers>",
    "mnist": "MNIST, by Y. LeCun, C. Cortes and C. Burges",
    "digits": "the digits of scikit-learn, from the UCI Machine Learning Repository",
}


def deposit(study: Published, folder: Path, recipe: str) -> tuple[list[str], list[str]]:
    """Write a study into a folder that can be deposited as it is.

    recipe : the text of study.toml

    Return the names of the files, and of those of README.md and LICENSES.md that were there, differ from what they
    would be and are left alone: they are for the user to edit. Errors are those of `distsim.results.merging.publish`.
    """
    files = publish(study, folder)
    write_file([study], folder / "report.html")
    texts: dict[str, bytes] = {f"{name}.csv": to_csv_bytes(frame) for name, frame in _readable(study).items()}
    texts[RECIPE] = recipe.encode()
    files = sorted({*files, "report.html", *texts, README, LICENSES})
    to_edit = {README: _readme(study, files).encode(), LICENSES: _licenses(study).encode()}
    there = {name: (folder / name).read_bytes() for name in to_edit if (folder / name).is_file()}
    write_all(folder, texts | {name: content for name, content in to_edit.items() if name not in there})
    sums = [f"{hashlib.sha256((folder / name).read_bytes()).hexdigest()}  {name}" for name in files]
    write_all(folder, {SUMS: ("\n".join(sums) + "\n").encode()})
    return [*files, SUMS], [name for name in there if there[name] != to_edit[name]]


def _readable(study: Published) -> dict[str, object]:
    tables = study.tables.by_name
    return {name: tables[name] for name in ("results", "summary", "accuracy", "networks") if len(tables[name])}


def _readme(study: Published, files: list[str]) -> str:
    came_out = findings(study, verdicts_of([study]))
    lines = [f"# {title(study.identity.problem)}: similarity of pruned networks", "", *_wrapped(asked(study)), ""]
    lines += ["## What came out", ""]
    lines += [line for said in came_out.sentences for line in _wrapped(said, "- ")]
    lines += ["", *_wrapped(came_out.note), "", "## Files", ""] if came_out.note else ["", "## Files", ""]
    lines += [f"- `{name}`: {ABOUT[name]}" for name in ABOUT if name in files]
    lines += ["- `*.parquet`: the tables with their types, as distsim reads them; `*.png`: the papers' figures"]
    lines += [f"- `{SUMS}`: checked by `sha256sum --check {SUMS}`", "", "## Do it again", ""]
    lines += _wrapped(
        f"distsim {__version__} made these files. `distsim sweep --config {RECIPE} --data WHERE` runs the sweep, and "
        "`distsim prove FOLDER --random 5 --retrain` computes five rows of this folder again. Weights and activations "
        "are not here."
    )
    lines += ["", "## How to cite", ""]
    lines += _wrapped(
        "Put your names, a title and a licence for the tables here before you deposit the folder. Cite distsim and the "
        "two papers whose studies it reproduces: doi:10.5220/0008960300520059 and doi:10.1007/978-3-030-66125-0_6."
    )
    return "\n".join(lines) + "\n"


def _licenses(study: Published) -> str:
    images = IMAGES.get(study.identity.problem.source, "your own")
    said = (
        "The tables, figures and the text of the report are yours: say here under which licence others may use them.",
        "The program in `report.html` is distsim's (MIT). It contains D3 and Observable Plot (ISC), whose notices are "
        "in the file.",
        f"The images that the networks were trained on are not in this folder. They are {images}.",
    )
    return "\n".join(["# Licences", "", *(line for one in said for line in _wrapped(one, "- "))]) + "\n"


def _wrapped(text: str, bullet: str = "") -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent=bullet, subsequent_indent=" " * len(bullet)) if text else []
