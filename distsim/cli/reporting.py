"""`distsim report`: the report of a study as one HTML file, and what came out in a few lines."""

import argparse
import textwrap
from typing import Any

from distsim.cli.arguments import store_flags
from distsim.cli.commands import stores_of
from distsim.cli.ending import say
from distsim.cli.output import one_line, print_line
from distsim.cli.run import at_work
from distsim.cli.studies import published_studies
from distsim.named_files import place

LINES, WIDTH = 6, 118  # of the short table, and of sentences


def flags(parser: argparse.ArgumentParser) -> None:
    """Add the command's flags."""
    store_flags(parser)
    parser.add_argument(
        "--out",
        metavar="FILE.html",
        help="write the report to this file, and nothing else (default: report.html in the store, beside new tables "
        "and figures)",
    )
    parser.add_argument(
        "--full", action="store_true", help="print every iteration, and every claim that the study can test"
    )


def do_report(flags: argparse.Namespace) -> int:
    """Write the report, and print a short table and what came out. Return 1 if something damaged kept it from that."""
    from distsim.results.claims.judging import check
    from distsim.results.report.writing import NAME, write_file

    for study in published_studies(flags):
        file = place(flags.out, "--out") if flags.out else place(flags.store) / NAME
        verdicts = check(study.tables, {study.problem: study.images})
        _print(flags, study.tables, [(study.identity.problem, study)], verdicts)
        try:
            print_line(f"\nreport: {write_file([study], file)}")
        except ValueError as error:
            if flags.out:
                raise
            print_line(f"\nno report was written: {error}. --out FILE.html writes it elsewhere")
        return 0
    return _of_store(flags)


def _of_store(flags: argparse.Namespace) -> int:
    from distsim.results import reduce
    from distsim.results.claims.images import remark
    from distsim.results.claims.judging import check
    from distsim.results.report.writing import studies_of, write_file
    from distsim.store import DamagedStore
    from distsim.store.descriptions import layers_of

    stores = stores_of(flags)
    lines, failed = ([], []) if flags.out else _written(stores)
    parts = [
        (reduce.current(store) or reduce.collect(store, layers_of(store), store.identity().seed))[0] for store in stores
    ]
    tables = reduce.joined(parts)
    try:
        studies = studies_of(stores)
    except (DamagedStore, FileNotFoundError) as error:  # what else is needed besides the tables, such as the request
        studies = []
        failed.append(str(error))
    of_problem = {study.problem: study for study in studies}
    shown = [(store.identity().problem, of_problem.get(store.problem)) for store in stores]
    _print(flags, tables, shown, check(tables, {store.problem: remark(store) for store in stores}))
    if flags.out and studies:
        lines.append(f"report: {write_file(studies, place(flags.out, '--out'))}")
    elif not studies and not failed and len(lines) < 2:
        lines.append("no report was written: there is no network yet")
    if lines:
        print_line("\n" + "\n".join(lines))
    for why in dict.fromkeys(failed):
        say(f"no report was written: {one_line(why)}")
    return 1 if failed else 0


def _written(stores: list[Any]) -> tuple[list[str], list[str]]:
    """Write tables, figures and the report into the store. Return what to say of it, and what kept it from a report."""
    from distsim.results import reduce
    from distsim.results.report.writing import write
    from distsim.store import DamagedStore, NotWritable, StoreInUse
    from distsim.store.descriptions import layers_of

    root = stores[0].root
    layers = {store.problem: layers_of(store) for store in stores}
    try:
        with at_work(root, one_writer=True):
            for store in stores:
                reduce.reduce(store, layers[store.problem], store.identity().seed, again=True)
            lines = [f"{len(reduce.draw(root, again=True))} figures in {root.url}/figures"]
            try:
                place = write(root, again=True)
            except (DamagedStore, FileNotFoundError) as error:
                return lines, [str(error)]
            except ValueError as error:  # a file of somebody else's has its name
                return [*lines, f"no report was written: {error}"], []
            return [*lines, f"report: {place}"] if place else lines, []
    except (StoreInUse, NotWritable) as error:  # one can look at a sweep that is running, or that is somebody else's
        return [f"nothing was written: {error}. --out FILE.html writes the report elsewhere"], []


def _print(flags: argparse.Namespace, tables: Any, shown: list[tuple[Any, Any]], verdicts: list[Any]) -> None:
    """Print the table of each problem, and what came out. shown : each problem with its study, if there is one."""
    from distsim.results import text
    from distsim.results.report.sentences import findings

    for problem, study in shown:
        lines = text.as_text(tables, problem.name, problem.probe_from, None if flags.full else LINES)
        print_line(f"{problem.name}\n{lines}\n")
        if study is not None:
            found = findings(study, verdicts)
            print_line("\n".join(textwrap.fill(said, WIDTH) for said in (*found.sentences, found.note)) + "\n")
    if flags.full:
        _print_claims(verdicts)
    else:
        print_line("distsim claims judges the claims of the papers one by one, and --full prints every iteration.")


def _print_claims(verdicts: list[Any]) -> None:
    from distsim.results.claims.study import NO_DATA

    print_line("claims of the papers")
    judged = [verdict for verdict in verdicts if verdict.verdict != NO_DATA]
    for verdict in judged:
        judgement = f"{verdict.verdict} ({verdict.data})" if verdict.data else verdict.verdict
        beyond = f" Beyond the control: {verdict.controlled}." if verdict.controlled else ""
        print_line(f"  {verdict.claim:4} {verdict.problem:20} {verdict.metric:9} {judgement:18} {verdict.text}{beyond}")
    if lacking := dict.fromkeys(f"{v.claim} ({v.problem})" for v in verdicts if v not in judged):
        said = f"not enough data for {', '.join(lacking)}"
        print_line(textwrap.fill(said, WIDTH, initial_indent="  ", subsequent_indent="    "))
