"""The findings of verify, and how they are printed."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from distsim.words import counted

DAMAGED = "damaged"  # changed or gone
UNREAD = "unread"  # it could not be read or checked, so it may be whole or damaged
NOTE = "note"  # not damaged, but worth knowing
LEFTOVER = "leftover"  # left by interrupted writers; harmless
FOREIGN = "foreign"  # not written by distsim

KINDS = {  # of pieces: singular and plural
    "network": "networks",
    "network's activations": "networks' activations",
    "network's test logits": "networks' test logits",
    "comparison": "comparisons",
    "chance level": "chance levels",
    "null": "nulls",
    "standard error": "standard errors",
    "tile of pairs": "tiles of pairs",
    "standard errors of a tile of pairs": "standard errors of tiles of pairs",
    "set of tables": "sets of tables",
    "set of figures": "sets of figures",
}


@dataclass(frozen=True)
class Finding:
    """What is wrong with an object, or with a piece as a whole."""

    problem: str  # "" for the figures, which belong to all of a store
    piece: str  # path within the problem: a network, its activations, a comparison's file, `results`, ...
    object: str | None  # path within the problem
    sentence: str
    severity: str = DAMAGED

    def __str__(self) -> str:
        where = "/".join(part for part in (self.problem, self.object or self.piece) if part)
        return f"{where}: {self.sentence}"


@dataclass(frozen=True)
class Report:
    """The result of verifying a store or a sweep."""

    findings: tuple[Finding, ...] = ()
    pieces: Counter[str] = field(default_factory=Counter)  # kind of KINDS -> how many were checked
    sizes: Mapping[str, int] = field(default_factory=dict)  # path in the store -> bytes

    def of(self, *severities: str) -> tuple[Finding, ...]:
        """Return the findings of these severities."""
        return tuple(finding for finding in self.findings if finding.severity in severities)

    @property
    def whole(self) -> bool:
        """Return whether everything could be read and nothing is damaged."""
        return not self.of(DAMAGED, UNREAD)

    def __add__(self, other: "Report") -> "Report":
        sizes = {**self.sizes, **other.sizes}
        return Report(self.findings + other.findings, self.pieces + other.pieces, sizes)


def summary(report: Report) -> list[str]:
    """Return the lines to print: one for each finding, with harmless ones summed up, and one for what was checked."""
    lines = [str(finding) for finding in report.of(DAMAGED, UNREAD, NOTE)]
    for severity, heading in ((LEFTOVER, "left over, harmless"), (FOREIGN, "not distsim's, left alone")):
        if findings := report.of(severity):
            size = sum(report.sizes.get(f"{f.problem}/{f.object}".lstrip("/"), 0) for f in findings)
            first = ", ".join(str(f).split(": ")[0] for f in findings[:3]) + ", ..." * (len(findings) > 3)
            lines.append(f"{heading}: {counted(len(findings), 'object')}, {size:,} bytes: {first}")
    pieces = ", ".join(f"{n} {KINDS[kind] if n > 1 else kind}" for kind in KINDS if (n := report.pieces[kind]))
    damaged = {(finding.problem, finding.piece) for finding in report.of(DAMAGED)}
    unread = {(finding.problem, finding.piece) for finding in report.of(UNREAD)}
    result = f"{len(damaged) or 'nothing'} damaged" + f", {len(unread)} could not be read or checked" * bool(unread)
    return [*lines, f"{pieces}; {sum(report.sizes.values()):,} bytes: {result}"]
