"""Whether a store holds what its marks say. Everything is read, nothing is written."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence

from distsim.results.reduce import drawn_from
from distsim.store import DamagedStore, Storage, SweepStore
from distsim.store.storage import first_line
from distsim.verify.derived import FIGURES, TABLES, files_faults
from distsim.verify.report import DAMAGED, FOREIGN, LEFTOVER, NOTE, UNREAD, Finding, Report
from distsim.verify.walk import unlisted, verify

NO_PROBLEMS = (FIGURES, "tune", "lease")  # folders of a store that are no sweep's
_PROBED = re.compile(r"probe-[0-9a-f]{32}")  # Storage.exclusive


def verify_store(root: Storage, problems: Sequence[str] | None = None) -> Report:
    """Read and check all sweeps of a store and its figures, or some of its sweeps. FileNotFoundError: there is none."""
    sizes = root.sizes()
    folders = sorted({path.split("/")[0] for path in sizes if "/" in path})
    names = [name for name in folders if name not in NO_PROBLEMS and _is_sweep(name, sizes)]
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


def _is_sweep(name: str, sizes: Mapping[str, int]) -> bool:
    """Whether a folder is a sweep's, though its spec may be gone."""
    known = tuple(f"{name}/{part}" for part in ("spec.json", "complete/", "runs/", "pairs/", f"{TABLES}/"))
    return any(path.startswith(known) for path in sizes)


def _beside_sweeps(root: Storage, problems: list[str], sizes: Mapping[str, int]) -> Report:
    """Figures, and what nobody knows."""
    findings = unlisted(root, "", but=problems)
    figures = [path for path in sizes if path.startswith(f"{FIGURES}/")]
    if figures:
        findings += _figures(root, figures)
    for path in sizes:
        folder = path.split("/")[0]
        if _PROBED.fullmatch(path):
            findings.append(Finding("", path, path, "asked whether the store has conditional puts", LEFTOVER))
        elif folder == path or folder not in {*problems, *NO_PROBLEMS}:
            findings.append(Finding("", path, path, "nothing here writes this", FOREIGN))
    others = {path: size for path, size in sizes.items() if path.split("/")[0] not in problems}
    return Report(tuple(findings), Counter({"set of figures": int(bool(figures))}), others)


def _figures(storage: Storage, there: Sequence[str]) -> list[Finding]:
    findings: list[Finding] = []

    def found(said: str, path: str | None = None, severity: str = DAMAGED) -> None:
        findings.append(Finding("", FIGURES, path, said, severity))

    again = "distsim run or distsim report draws them again"
    try:
        mark = files_faults(storage, FIGURES, there, again, found)
        if mark is not None and mark.values.get("inputs") != drawn_from(storage):
            found(f"out of date: {again}", severity=NOTE)
    except DamagedStore:
        pass  # of tables, which is said of them
    except Exception as error:
        found(f"could not be judged: {first_line(error)}", severity=UNREAD)
    return findings
