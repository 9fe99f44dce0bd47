"""`distsim digest`, `verify` and `repair`: whether a store is whole. Each takes the flags and returns the status."""

import argparse
import hashlib

from distsim.cli.arguments import store_flags
from distsim.cli.commands import root_of, stores_of
from distsim.cli.output import one_line
from distsim.cli.run import at_work
from distsim.cli.studies import published_studies
from distsim.words import counted


def digest_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `distsim digest`."""
    store_flags(parser)
    parser.add_argument("--pieces", action="store_true", help="print one line for each piece, too")


def repair_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `distsim repair`."""
    store_flags(parser)
    parser.add_argument("--dry-run", action="store_true", help="only say what would be removed; write nothing")
    parser.add_argument(
        "--allow-drift",
        action="store_true",
        help="also remove a damaged complete network, and everything that came from it, if this machine or its "
        "versions would not train the same one again",
    )


def do_digest(flags: argparse.Namespace) -> int:
    for store in stores_of(flags):
        store.identity()  # raises if spec.json was changed
        pieces = store.digests()
        if flags.pieces:
            for piece, digest in pieces.items():
                print(f"{digest}  {store.problem}/{piece}")
        whole = hashlib.sha256("".join(f"{p} {d}\n" for p, d in pieces.items()).encode()).hexdigest()
        print(f"{whole}  {store.problem} ({counted(len(pieces), 'piece')})")
    return 0


def do_verify(flags: argparse.Namespace) -> int:
    from distsim.store.existing import STUDY
    from distsim.verify.report import summary
    from distsim.verify.store import verify_store

    if studies := published_studies(flags):  # read whole, and each table is what study.json says
        print(f"{studies[0].problem}, published: its tables are what {STUDY} says: nothing damaged")
        return 0
    report = verify_store(root_of(flags), [flags.problem] if flags.problem else None)
    print("\n".join(map(one_line, summary(report))))
    return 0 if report.whole else 1


def do_repair(flags: argparse.Namespace) -> int:
    import contextlib

    from distsim.verify.repair import carry_out, planned, summary
    from distsim.verify.store import require_sweeps, verify_store

    root, problems = root_of(flags), [flags.problem] if flags.problem else None
    require_sweeps(root, problems)  # before the lease, which writes into the folder
    at_rest = contextlib.nullcontext(lambda: None) if flags.dry_run else at_work(root, one_writer=True)
    with at_rest as check:
        report = verify_store(root, problems)
        actions = planned(root, report, flags.allow_drift)
        print("\n".join(map(one_line, summary(report, actions))))
        if flags.dry_run:
            print("dry run: nothing was changed")
        else:
            carry_out(root, actions, check)
    return 0 if not report.of("unread") else 1
