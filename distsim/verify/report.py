"""What verify finds, and how it says so."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

DAMAGED = "damaged"  # not what was written, or gone
UNREAD = "unread"  # it could not be read or judged, which says nothing of what is there
NOTE = "note"  # not damaged, and worth knowing
LEFTOVER = "leftover"  # of interrupted writers; harmless
FOREIGN = "foreign"  # nothing here writes such a thing

KINDS = {  # of pieces, one and several
    "network": "networks",
    "network's activations": "networks' activations",
    "comparison": "comparisons",
    "chance level": "chance levels",
    "tile of pairs": "tiles of pairs",
    "set of tables": "sets of tables",
    "set of figures": "sets of figures",
}


@dataclass(frozen=True)
class Finding:
    """What is the matter with an object, or with a piece as a whole."""

    problem: str  # "" where it belongs to all of a store: the figures
    piece: str  # path within the problem: of a network or its activations, of a comparison's file, `results`, ...
    object: str | None  # path within the problem
    sentence: str
    severity: str = DAMAGED

    def __str__(self) -> str:
        where = "/".join(part for part in (self.problem, self.object or self.piece) if part)
        return f"{where}: {self.sentence}"


@dataclass(frozen=True)
class Report:
    """What a store's or a sweep's objects are."""

    findings: tuple[Finding, ...] = ()
    pieces: Counter[str] = field(default_factory=Counter)  # of KINDS, how many were checked
    sizes: Mapping[str, int] = field(default_factory=dict)  # path in the store -> bytes, of what is there

    def of(self, *severities: str) -> tuple[Finding, ...]:
        return tuple(finding for finding in self.findings if finding.severity in severities)

    @property
    def whole(self) -> bool:
        """Whether nothing is damaged, as far as it could be read."""
        return not self.of(DAMAGED, UNREAD)

    def __add__(self, other: "Report") -> "Report":
        sizes = {**self.sizes, **other.sizes}
        return Report(self.findings + other.findings, self.pieces + other.pieces, sizes)


def summary(report: Report) -> list[str]:
    """For a terminal: a line for each finding but for what is harmless, which is summed up, and what was checked."""
    lines = [str(finding) for finding in report.of(DAMAGED, UNREAD, NOTE)]
    for severity, said in ((LEFTOVER, "left over, harmless"), (FOREIGN, "not distsim's, left alone")):
        if found := report.of(severity):
            size = sum(report.sizes.get(f"{f.problem}/{f.object}".lstrip("/"), 0) for f in found)
            first = ", ".join(str(f).split(": ")[0] for f in found[:3]) + ", ..." * (len(found) > 3)
            lines.append(f"{said}: {len(found)} objects, {size:,} bytes: {first}")
    pieces = ", ".join(f"{n} {KINDS[kind] if n > 1 else kind}" for kind in KINDS if (n := report.pieces[kind]))
    damaged = {(finding.problem, finding.piece) for finding in report.of(DAMAGED)}
    unread = {(finding.problem, finding.piece) for finding in report.of(UNREAD)}
    said = f"{len(damaged) or 'nothing'} damaged" + f", {len(unread)} not to be read or judged" * bool(unread)
    return [*lines, f"{pieces}; {sum(report.sizes.values()):,} bytes: {said}"]
