"""Verification of a store: whether it holds what its marks say. Everything is read, nothing is written."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence

from distsim.results.reduce import drawn_from
from distsim.results.report.page import intact, ours
from distsim.results.report.writing import NAME as REPORT
from distsim.specs.problem import OTHER_FOLDERS
from distsim.store import DamagedStore, Storage, SweepStore, control, local
from distsim.store.existing import holds_sweep, no_sweep, problems_in, unreadable
from distsim.store.storage import first_line
from distsim.verify.derived import FIGURES, files_faults
from distsim.verify.report import DAMAGED, FOREIGN, LEFTOVER, NOTE, UNREAD, Finding, Report
from distsim.verify.unfinished import unlisted
from distsim.verify.walk import verify

_PROBED = re.compile(r"probe-[0-9a-f]{32}")  # Storage.exclusive


def verify_store(root: Storage, problems: Sequence[str] | None = None) -> Report:
    """Read and check a store's sweeps and figures, or only some sweeps. FileNotFoundError: there is no such sweep."""
    sizes = root.sizes()
    names = _sweeps_in(root, sizes, problems)
    total = Report()
    for name in problems or names:
        start = f"{name}/"
        of_sweep = {path.removeprefix(start): size for path, size in sizes.items() if path.startswith(start)}
        total += _in_the_way(root, of_sweep, name)
        total += verify(SweepStore(root, name), of_sweep)
    return total if problems else total + _in_the_way(root, sizes) + _beside_sweeps(root, names, sizes)


def require_sweeps(root: Storage, problems: Sequence[str] | None = None) -> None:
    """Check that a store holds sweeps that `verify_store` would read. FileNotFoundError: it does not."""
    _sweeps_in(root, root.sizes(), problems)


def _sweeps_in(root: Storage, sizes: Mapping[str, int], problems: Sequence[str] | None) -> list[str]:
    """Return the names of all sweeps in a store of this listing. FileNotFoundError: there is none, or not this one."""
    folders = sorted({path.split("/")[0] for path in sizes if "/" in path})
    specs = problems_in(root)
    names = [name for name in folders if name not in OTHER_FOLDERS and (name in specs or holds_sweep(name, sizes))]
    if not names:
        raise no_sweep(root)
    if unknown := set(problems or ()) - set(names):
        there = f"{', '.join(names)}{unreadable(root)}"
        raise FileNotFoundError(f"no sweep of {sorted(unknown)[0]} in {root.url}; there are {there}")
    return names


def _in_the_way(root: Storage, sizes: dict[str, int], problem: str = "") -> Report:
    """Name files in the places of distsim's folders, which stop the next command, and take them out of the listing."""
    found = [path for path in sizes if root.folder is not None and local.is_folders_place(path, bool(problem))]
    for path in found:
        del sizes[path]
    return Report(tuple(Finding(problem, path, path, local.IN_THE_WAY, UNREAD) for path in found))


def _beside_sweeps(root: Storage, problems: list[str], sizes: Mapping[str, int]) -> Report:
    """Check the figures and the report, and name objects that belong to no sweep."""
    findings = unlisted(root, "", but=problems)
    for name in local.shut(root.folder) if root.folder is not None else ():
        findings.append(Finding("", name, name, "may not be read by this user, and is left alone", NOTE))
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
