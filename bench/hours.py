"""What the papers' sweeps cost on rented GPUs: hours from the rates of docs/benchmarks.md, and dollars at your price.

python bench/hours.py                                       # hours of one GPU
python bench/hours.py --dollars 2.5 --gpus 4                # and what four of them cost, at $2.50 an hour each
python bench/hours.py --write docs/cluster.md               # the table of that page

Hours are images to train on, divided by the images a second of one network. Comparisons come on top.
"""

import argparse
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from report import Section, Table, replace

from distsim.problems import PROBLEMS
from distsim.specs import Problem
from distsim.specs.networks import CONTROLS
from distsim.sweep.cost import images_to_train

RATES = Path(__file__).parents[1] / "docs" / "benchmarks.md"
CARD = "NVIDIA H100 80GB HBM3"
PRECISIONS = ("float32", "bfloat16")
TRAINING = {"cifar10": 50_000, "svhn": 73_257, "mnist": 60_000}  # images, of ten classes


def rates(text: str, card: str) -> dict[str, dict[str, float]]:
    """Return problem -> precision -> images a second, from the training table of a card. LookupError: there is none."""
    found = re.search(rf"<!-- gpu {re.escape(card)}, training: begin -->(.*?)<!--", text, re.S)
    if found is None:
        raise LookupError(f"no training table of {card}")
    head, _, *rows = (
        [cell.strip() for cell in line.strip("|").split("|")] for line in found[1].splitlines() if line.startswith("|")
    )
    columns = {name: head.index(name) for name in PRECISIONS}
    return {row[0]: {name: float(row[at].replace(",", "")) for name, at in columns.items()} for row in rows}


def work(problem: Problem) -> tuple[int, int]:
    """Return the networks and the images to train, of a new study of the paper's size with its controls."""
    controls = len(CONTROLS) * min(problem.control_runs, problem.runs)
    pruned = (problem.runs + controls) * problem.iterations
    images = TRAINING[problem.source] * (len(problem.classes) if problem.classes else 10) // 10
    return 1 + pruned, images_to_train(problem, images, 1, pruned)


def section(measured: Mapping[str, Mapping[str, float]], gpus: int, price: float | None) -> Section:
    """Return the table. price : dollars an hour of one GPU, None for no column of dollars"""
    header = ["problem", "networks", "million images", *(f"hours, {name}" for name in PRECISIONS)]
    header += [f"dollars, {name}" for name in PRECISIONS if price is not None]
    table = Table(header)
    for name, rate in measured.items():
        networks, images = work(PROBLEMS[name])
        most = "at most " if PROBLEMS[name].recipe.patience is not None else ""
        hours = [images / rate[each] / 3600 for each in PRECISIONS]
        cells = [name, f"{networks:,}", f"{most}{images / 1e6:,.0f}", *(f"{most}{tenths(h / gpus)}" for h in hours)]
        table.add(*cells, *(f"{most}{each * price:.2f}" for each in hours if price is not None))
    many = f"{gpus} GPUs of which none ever waits" if gpus > 1 else "one GPU"
    table.notes.append(
        f"Hours of {many}, on which networks are trained one after the other; comparisons come on top. The paper's "
        "runs and iterations, and two runs of each control."
    )
    return Section("cluster hours", "", "", [table])


def tenths(hours: float) -> str:
    """Return hours to a tenth."""
    return f"{hours:.1f}" if hours >= 0.1 else "< 0.1"


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table, or put it into a document. Return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--card", default=CARD, help="whose rates to take, as docs/benchmarks.md calls it")
    parser.add_argument(
        "--gpus", type=int, default=1, metavar="N", help="GPUs that train at the same time (default: 1)"
    )
    parser.add_argument("--dollars", type=float, metavar="X", help="price of an hour of one GPU, which you look up")
    parser.add_argument("--write", type=Path, metavar="FILE", help="put the table into this Markdown document")
    flags = parser.parse_args(arguments)
    if flags.gpus < 1 or (flags.dollars is not None and flags.dollars <= 0):
        parser.error("--gpus must be at least 1, and --dollars above 0")
    try:
        made = section(rates(RATES.read_text(), flags.card), flags.gpus, flags.dollars)
    except LookupError as error:
        parser.error(f"--card: {error.args[0]} in {RATES}")
    if flags.write:
        replace(flags.write, made)
    else:
        print(made.markdown(), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
