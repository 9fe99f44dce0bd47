"""Tables in Markdown, and a document whose sections are replaced one at a time."""

import argparse
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Table:
    """A table whose cells are text, so that the code that fills it chooses the number of digits."""

    header: Sequence[str]
    rows: list[Sequence[str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)  # paragraphs under the table

    def add(self, *cells: str) -> None:
        if len(cells) != len(self.header):
            raise AssertionError(f"{len(cells)} cells in a table of {len(self.header)} columns: {cells}")
        self.rows.append(cells)

    def markdown(self) -> str:
        rows = [self.header, *self.rows]
        escaped = [[cell.replace("|", "\\|").replace("\n", " ") for cell in row] for row in rows]
        widths = [max(len(row[i]) for row in escaped) for i in range(len(self.header))]
        lines = ["| " + " | ".join(map(str.ljust, row, widths)) + " |" for row in escaped]
        lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
        return "\n".join(["\n".join(lines), *(f"\n{note}" for note in self.notes)])


@dataclass
class Section:
    """The results of one measurement: a title and the conditions (machine and sizes), if any, and the tables."""

    name: str  # marks the section's place in the document
    title: str
    conditions: str
    tables: list[Table]

    def markdown(self) -> str:
        head = [f"### {self.title}"] if self.title else []
        parts = [*head, *([self.conditions] if self.conditions else []), *(table.markdown() for table in self.tables)]
        return "\n\n".join(parts) + "\n"


def replace(document: Path, section: Section) -> None:
    """Put the section between the comments with its name in the document, or at the end if there are none."""
    text = document.read_text() if document.exists() else ""
    begin, end = f"<!-- {section.name}: begin -->", f"<!-- {section.name}: end -->"
    body = f"{begin}\n{section.markdown()}{end}"
    place = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.S)
    if place.search(text):
        text = place.sub(lambda match: body, text, count=1)
    else:
        text = f"{text.rstrip()}\n\n{body}\n".lstrip()
    document.write_text(text)


def numbers(text: str, known: Collection[int]) -> tuple[int, ...]:
    """Read the numbers of sections, separated by commas. ArgumentTypeError: there is no such section."""
    chosen = tuple(int(number) for number in text.split(","))
    if unknown := set(chosen) - set(known):
        raise argparse.ArgumentTypeError(f"there are no sections {sorted(unknown)}; the sections are {sorted(known)}")
    return chosen


def seconds(value: float) -> str:
    return f"{value:.3g} s" if value < 100 else f"{value:,.0f} s"


def times(value: float) -> str:
    """Write a ratio, such as 1.25×."""
    return f"{value:.2f}×" if value < 10 else f"{value:.1f}×"


def difference(value: float) -> str:
    return "0" if value == 0 else f"{value:.0e}"
