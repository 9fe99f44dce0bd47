"""`distsim ctl`: pause and stop the sweep that works on a store, from wherever the store can be reached."""

import argparse
from typing import Any

from distsim.cli.output import one_line

# What needs obstore is imported inside functions, so that --help answers at once.

VERBS = ("pause", "resume", "stop-after-iteration")  # as in distsim.store.control
LAST = 5  # instructions that are shown
DESCRIPTION = (
    "Pause the sweep that works on a store, let it go on, or stop it once each run has finished the network that it is "
    "training. The sweep may run on another machine: it looks into its store every few seconds. Without a word behind "
    "STORE, show what was asked for last. Results do not depend on it."
)
SAYS = {
    "pause": "it stops after the epoch or comparison that is under way, and waits",
    "resume": "it goes on",
    "stop-after-iteration": "each run ends after the network that it is training, and then the sweep ends",
}


def flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `distsim ctl`."""
    parser.add_argument("store", metavar="STORE", help="the sweep's --storage: a folder, or s3://bucket/prefix")
    parser.add_argument(
        "verb",
        nargs="?",
        choices=VERBS,
        help="pause: stop where nothing is lost, and wait; resume: go on; stop-after-iteration: end the sweep after "
        "the networks that are being trained; the same command goes on later (default: show what was asked for)",
    )


def do_ctl(flags: argparse.Namespace) -> int:
    from distsim.store import existing_stores

    root = existing_stores(flags.store)[0].root
    first, *more = map(one_line, _shown(root) if flags.verb is None else _given(root, flags.verb))
    print("\n  ".join([first, *more]))
    return 0


def _shown(root: Any) -> list[str]:
    """Return lines about the last instructions, and about who would heed one."""
    from distsim.store import control
    from distsim.store.lease import driver

    lines = [f"{root.url}: {control.paused(root) or 'not paused'}"]
    found = driver(root)
    lines.append(f"at work: {found[0] if found is not None else 'no driver'}")
    for given in control.log(root, LAST):
        lines.append(given if isinstance(given, str) else f"{given.number:06d} {given.verb}, by {given.who}")
    return lines


def _given(root: Any, verb: Any) -> list[str]:
    """Give an instruction. Return a line about it, and one about who heeds it."""
    from distsim.store import control
    from distsim.store.lease import driver

    given = control.give(root, verb)
    lines = [f"{root.url}: instruction {given.number}, {given.verb}, by {given.who}"]
    found = driver(root)
    if found is not None:
        lines.append(f"{found[0]}: {SAYS[verb]}")
    elif verb == control.PAUSE:
        lines.append(f"no driver is at work here: the next one waits until distsim ctl {root.url} resume")
    else:
        lines.append("no driver is at work here, so this changes nothing")
    return lines
