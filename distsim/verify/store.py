"""Verification of a store: whether it holds what its marks say. Everything is read, nothing is written."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence

from distsim.results.reduce import drawn_from
from distsim.results.report.page import intact, ours
from distsim.results.report.writing import NAME as REPORT
from distsim.specs.problem import OTHER_FOLDERS
from distsim.store import DamagedStore, Storage, SweepStore, control
from distsim.store.existing import holds_sweep, problems_in
from distsim.store.storage import first_line
from distsim.verify.derived import FIGURES, files_faults
from distsim.verify.report import DAMAGED, FOREIGN, LEFTOVER, NOTE, UNREAD, Finding, Report
from distsim.verify.unfinished import unlisted
from distsim.verify.walk import verify

_PROBED = re.compile(r"probe-[0-9a-f]{32}")  # Storage.exclusive


def verify_store(root: Storage, problems: Sequence[str] | None = None) -> Report:
    """Read and check a store's sweeps and figures, or only some sweeps. FileNotFoundError: there is no such sweep."""
    sizes = root.sizes()
    folders = sorted({path.split("/")[0] for path in sizes if "/" in path})
    specs = problems_in(root)
    names = [name for name in folders if name not in OTHER_FOLDERS and (name in specs or holds_sweep(name, sizes))]
    if not names:
        raise FileNotFoundError(f"no sweep in {root.url}")
    if unknown := set(problems or ()) - set(names):
        raise FileNotFoundError(f"no sweep of {sorted(unknown)[0]} in {root.url}; there are {', '.join(names)}")
    total = Report()
    for name in problems or names:
        start = f"{name}/"
        of_sweep = {path.removeprefix(start): size for path, size in sizes.items() if path.startswith(start)}
        total += verify(SweepStore(root, name), of_sweep)
    return total if problems else total + _beside_sweeps(root, names, sizes)


def _beside_sweeps(root: Storage, problems: list[str], sizes: Mapping[str, int]) -> Report:
    """Check the figures and the report, and name objects that belong to no sweep."""
    findings = unlisted(root, "", but=problems)
    figures = [path for path in sizes if path.startswith(f"{FIGURES}/")]
    if figures:
        findings += _figures(root, figures)
    for path in sizes:
        folder = path.split("/")[0]
        if path == REPORT:
            findings += _report(root)
        elif _PROBED.fullmatch(path):
            findings.append(
                Finding("", path, path, "was written to see whether the store has conditional puts", LEFTOVER)
            )
        elif control.is_path(path):
            findings += _instruction(root, path)
        elif folder == path or folder not in {*problems, *OTHER_FOLDERS}:
            findings.append(Finding("", path, path, "is not written by distsim", FOREIGN))
    others = {path: size for path, size in sizes.items() if path.split("/")[0] not in problems}
    return Report(tuple(findings), Counter({"set of figures": int(bool(figures))}), others)


def _instruction(storage: Storage, path: str) -> list[Finding]:
    """Check an instruction. One that cannot be read is passed over, so nothing depends on it."""
    try:
        control.read(storage, path)
    except DamagedStore as error:
        why = str(error).partition(" is damaged: ")[2]
        return [Finding("", path, path, f"is not an instruction of distsim ctl, and is ignored: {why}", NOTE)]
    return []


def _report(storage: Storage) -> list[Finding]:
    """Check the report by its own digest. A file of the same name may be somebody else's."""
    content = storage.get(REPORT) or b""
    if intact(content):
        return []
    if not ours(content):
        return [Finding("", REPORT, REPORT, "is not written by distsim", FOREIGN)]
    return [
        Finding(
            "", REPORT, REPORT, "is damaged: its digest is not that of what it holds; distsim report makes it again"
        )
    ]


def _figures(storage: Storage, paths: Sequence[str]) -> list[Finding]:
    findings: list[Finding] = []

    def found(sentence: str, path: str | None = None, severity: str = DAMAGED) -> None:
        findings.append(Finding("", FIGURES, path, sentence, severity))

    again = "distsim run or distsim report draws them again"
    try:
        mark = files_faults(storage, FIGURES, paths, again, found)
        if mark is not None and mark.values.get("inputs") != drawn_from(storage):
            found(f"out of date: {again}", severity=NOTE)
    except DamagedStore:
        pass  # tables are damaged, which their own check reports
    except Exception as error:
        found(f"could not be checked: {first_line(error)}", severity=UNREAD)
    return findings
