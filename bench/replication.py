"""Rebuild the published studies' figures and claims, and the tables of docs/replication.md, from their tables.

python bench/replication.py          # make results: every folder of results/published, in about a minute
python bench/replication.py --check  # write nothing; exit status 1 if a table in the document would change
"""

import argparse
import json
import multiprocessing
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

import measured
import pandas as pd
from report import Section, Table
from report import replace as put
from sensitivity_summary import as_table, summarise

from distsim.metrics.registry import METRICS
from distsim.plotting import render
from distsim.problems import PROBLEMS, departures
from distsim.results import ladder
from distsim.results.claims.judging import check
from distsim.results.claims.study import NO_DATA, Verdict
from distsim.results.merging import claims_table, merge, publish
from distsim.results.published import Published, read
from distsim.results.reduce import joined
from distsim.results.tables import chance_level
from distsim.specs import Problem
from distsim.store.existing import is_published

ROOT = Path(__file__).resolve().parents[1]
STUDIES = ROOT / "results/published"
SENSITIVITY = "sensitivity.parquet"  # beside a study's tables, as bench/sensitivity.py wrote it
LADDER = "ladder.parquet"  # beside a study's tables, as `distsim ladder` wrote it
DOCUMENT = ROOT / "docs/replication.md"
SHOWN = (1, 5, 10, 15, 20)  # iterations; and the last one of a study
SEVERAL = ("mean_cca", "svcca", "pwcca", "cka", "nbs", "cosine")
NUMBERS = {  # of a verdict, that are shown beside it, as far as it has them
    "iteration_spearman": "Spearman",
    "iteration_slope": "slope per iteration",
    "depth_spearman": "Spearman",
    "depth_slope": "slope per layer",
    "minimum": "lowest",
    "share_up": "share of layers and iterations",
    "median_step": "median step",
    "complete": "complete",
    "worst": "worst median",
    "worst_iteration": "at iteration",
}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=Path, default=STUDIES, help="folder of the published studies")
    parser.add_argument("--write", type=Path, default=DOCUMENT, help="document whose tables are replaced")
    parser.add_argument("--check", action="store_true", help="write nothing, and compare")
    flags = parser.parse_args(arguments)
    studies = {folder.name: read(folder) for folder in sorted(flags.studies.iterdir()) if is_published(folder)}
    if flags.check:
        before = flags.write.read_text()
        document = _copy(before)
        _write_tables(document, studies, flags.studies)
        same = document.read_text() == before
        document.unlink()
        print("as written" if same else f"{flags.write} is not what the studies say: run make results")
        return 0 if same else 1
    with ProcessPoolExecutor(len(os.sched_getaffinity(0)), multiprocessing.get_context("spawn")) as pool:
        published = pool.map(_published_again, [flags.studies / name for name in studies])  # begins at once
        _write_tables(flags.write, studies, flags.studies)
        for said in published:
            print(said, flush=True)
    for file in flags.studies.glob(f"*/{LADDER}"):
        file.with_suffix(".png").write_bytes(render(ladder.figure(pd.read_parquet(file)), "png"))
    print(f"tables in {flags.write}")
    return 0


def _write_tables(document: Path, studies: dict[str, Published], folder: Path) -> None:
    for section in (*sections(studies), *sensitivities(folder), *ladders(folder)):
        put(document, section)


def _published_again(folder: Path) -> str:
    files = publish(merge([read(folder)], [folder.name]), folder)
    return f"{folder.name}: {len(files)} files"


def _copy(text: str) -> Path:
    import tempfile

    file = Path(tempfile.mkstemp(suffix=".md")[1])
    file.write_text(text)
    return file


def sections(studies: dict[str, Published]) -> Iterator[Section]:
    """Yield the sections of the document."""
    yield Section("replication studies", "", "", [_what_ran(studies)])
    yield Section("replication problems", "", "", [_of_the_papers(studies)])
    yield Section("replication claims", "", "", [_claims(studies)])
    for name, study in studies.items():
        own = replace(study, tables=study.tables.pruned)
        tables = [_accuracies(own), *(_by_layer(own, metric) for metric in ("svcca", "cka", "nbs")), _chance(own)]
        tables += [_spread(own)] if len(study.parts) > 1 else []
        yield Section(f"replication {name}", "", "", [table for table in tables if table.rows])
        if beside := measured.tables(study):
            yield Section(f"replication {name} measured", "", "", beside)


def sensitivities(folder: Path) -> Iterator[Section]:
    """Yield the sections about other choices of formula, probe and dtype, of the studies that were measured again."""
    for file in sorted(folder.glob(f"*/{SENSITIVITY}")):
        name = f"replication {file.parent.name} sensitivity"
        yield Section(name, "", "", [as_table(summarise(pd.read_parquet(file)))])


def ladders(folder: Path) -> Iterator[Section]:
    """Yield the sections that rank the metrics of a study by what they find of its order, ancestry and barriers."""
    for file in sorted(folder.glob(f"*/{LADDER}")):
        ranks = ladder.ranking(pd.read_parquet(file))
        tests = [name for name in ranks if name != "rank"]
        table = Table(("metric", *(test.replace("_", ", ") for test in tests), "mean rank"))
        for metric, row in ranks.iterrows():
            cells = (f"{row[test]:.3f}" if pd.notna(row[test]) else "" for test in tests)
            table.add(str(metric), *cells, f"{row['rank']:.1f}")
        table.notes.append("Means over the layers. Chance is 0.5 for ancestry and 0 elsewhere.")
        yield Section(f"replication {file.parent.name} ladder", "", "", [table])


# --- all studies -----------------------------------------------------------------------------------------------------


def _what_ran(studies: dict[str, Published]) -> Table:
    table = Table(
        ("study", "complete network", "runs × iterations", "recipe", "device", "hours of training, comparisons")
    )
    for name, study in studies.items():
        for part in study.parts:
            used = study.environments[study.environments["environment"].isin(part["environments"])]
            devices = [
                f"CPU, {row.instruction_set}" if row.device == "cpu" else row.device
                for row in used.drop_duplicates(["device", "instruction_set"]).itertuples()
            ]
            table.add(
                f"`{name}`",
                f"{part['complete']} (`{part['weights'][:8]}`)",
                f"{part['runs']} × {part['iterations']}",
                _recipe(study.identity.problem),
                "; ".join(devices),
                f"{part['training_hours']:.2f}, {part['comparison_hours']:.2f}",
            )
    table.notes.append(
        "Hours are added up over processes; most ran two at a time, beside other work. A complete network is named by "
        "the first digits of its weights' SHA-256."
    )
    return table


def _recipe(problem: Problem) -> str:
    """Say how a problem differs from the papers' of its name, or that they have none of its name."""
    if problem.name not in PROBLEMS:
        return "in neither paper" + ", reduced" * problem.reduced
    fields = [name for name in departures(problem) if name != "reduced"]
    return f"reduced: {', '.join(fields)}" if fields else "the paper's"


def _of_the_papers(studies: dict[str, Published]) -> Table:
    table = Table(("problem", "paper", "asked for", "ran"))
    for name, problem in PROBLEMS.items():
        if name == "digits":
            continue
        ran = [
            f"`{study}`: {_runs([part['runs'] for part in published.parts])}"
            + (" (reduced)" if departures(published.identity.problem) else "")
            for study, published in studies.items()
            if published.problem == name
        ]
        table.add(name, problem.paper, f"{problem.runs} × {problem.iterations}", "; ".join(ran) or "not run")
    return table


def _runs(counts: list[int]) -> str:
    return f"{' and '.join(map(str, counts))} {'run' if counts == [1] else 'runs'}"


def _claims(studies: dict[str, Published]) -> Table:
    table = Table(("claim", "study", "metric", "verdict", "what was judged", "numbers"))
    for name, study in studies.items():
        for row in claims_table(study).itertuples():
            if row.verdict == NO_DATA:
                continue
            verdict = f"{row.verdict}, {row.data}" if row.data else row.verdict
            table.add(row.claim, f"`{name}`", row.metric, verdict, row.text, _numbers(json.loads(row.numbers)))
    for name, verdict in _of_several(studies):
        said = f"{verdict.verdict}, {verdict.data}" if verdict.data else verdict.verdict
        twin = f"`{name}` and its twin"
        table.add(verdict.claim, twin, verdict.metric, said, verdict.text, _numbers(verdict.numbers))
    table.rows.sort(key=lambda cells: (int(cells[0][1:]), cells[1]))
    return table


def _of_several(studies: dict[str, Published]) -> Iterator[tuple[str, Verdict]]:
    """Judge what one study alone cannot show: whether SVCCA has the same shape under both ways to rewind (C17).

    Studies are judged together if they train and compare with as many images and epochs. Yield the study's name and the
    verdict.
    """
    groups: dict[tuple[object, ...], dict[str, tuple[str, Published]]] = {}
    for name, study in studies.items():
        problem = study.identity.problem
        groups.setdefault((problem.recipe.epochs, problem.train_limit, problem.probe), {})[problem.name] = name, study
    for group in groups.values():
        tables = joined([study.tables for _, study in group.values()])
        for verdict in check(tables, {problem: study.images for problem, (_, study) in group.items()}):
            if verdict.claim == "C17" and verdict.verdict != NO_DATA:
                yield group[verdict.problem][0], verdict


def _numbers(numbers: Mapping[str, float | None]) -> str:
    shown = [f"{NUMBERS[name]} {_short(numbers[name])}" for name in NUMBERS if name in numbers]
    low, high = numbers.get("iteration_slope_low"), numbers.get("iteration_slope_high")
    if low is not None and high is not None:
        shown.append(f"slope {_short(low)} to {_short(high)} over runs")
    return "; ".join(shown) or "; ".join(f"{name} {_short(value)}" for name, value in numbers.items())


def _short(value: float | None) -> str:
    if value is None:
        return "undefined"
    return f"{value:.0f}" if abs(value) >= 1.5 and value == int(value) else f"{value:.3g}"


# --- one study -------------------------------------------------------------------------------------------------------


def _accuracies(study: Published) -> Table:
    accuracy = study.tables.accuracy
    shown = accuracy[accuracy["iteration"].isin((0, *SHOWN, accuracy["iteration"].max()))]
    table = Table(("test accuracy after iteration", *map(str, shown["iteration"])))
    table.add("left of all parameters", *(f"{value:.3f}" for value in shown["remaining"]))
    for name in ("median", "q05", "q95"):
        table.add(name, *(f"{value:.4f}" for value in shown[name]))
    table.add("networks", *map(str, shown["count"]))
    return table


def _by_layer(study: Published, metric: str) -> Table:
    summary = study.tables.summary[study.tables.summary["metric"] == metric]
    there = sorted(set(summary["iteration"]))
    shown = [iteration for iteration in there if iteration in (*SHOWN, there[-1])]
    label, several = study.labels.get(metric) or METRICS[metric].label, (summary["count"] > 1).any()
    table = Table((f"{label}, {'median (q05 to q95)' if several else 'one run'}, iteration", *map(str, shown)))
    for layer, rows in summary.groupby("layer", sort=False):
        by_iteration = rows.set_index("iteration")
        table.add(str(layer), *(_cell(by_iteration.loc[iteration], bool(several)) for iteration in shown))
    return table


def _cell(row: pd.Series, several: bool) -> str:
    """Return the median and the band of a row of `summary`, or that no run has a value."""
    if pd.isna(row["median"]):
        return "no value"
    return f"{row['median']:.3f}" + (f" ({row['q05']:.3f} to {row['q95']:.3f})" if several else "")


def _chance(study: Published) -> Table:
    levels = chance_level(study.tables.chance)
    wide = levels.pivot(index="layer", columns="metric", values="median")
    order = levels.drop_duplicates("layer").sort_values("position")["layer"]
    metrics = [metric for metric in SEVERAL if metric in wide]
    table = Table(("chance, median of permutations", *metrics))
    for layer in order:
        table.add(layer, *("" if pd.isna(v) else f"{v:.3f}" for v in wide.loc[layer, metrics]))
    return table


def _spread(study: Published) -> Table:
    """Compare what lies between complete networks with what lies between the runs of one of them."""
    table = Table(("SVCCA, mean over runs, iteration", "complete network", *map(str, SHOWN)))
    rows = study.tables.similarities[study.tables.similarities["metric"] == "svcca"]
    for layer, of_layer in rows.sort_values("position").groupby("layer", sort=False):
        for complete, of_one in of_layer.groupby("complete"):
            by_iteration = of_one.groupby("iteration")["value"].agg(["mean", "std"])
            cells = [by_iteration.loc[i] if i in by_iteration.index else None for i in SHOWN]
            texts = ["" if cell is None else f"{cell['mean']:.3f} ± {cell['std']:.3f}" for cell in cells]
            table.add(str(layer), str(complete), *texts)
    table.notes.append("± is the standard deviation over the runs of one complete network.")
    return table


if __name__ == "__main__":
    sys.exit(main())
