"""Sessions on GPU machines, and what their tables' cells show."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from report import Table

Row = dict[str, Any]  # of a part's results: what was measured and how, then what was found
OPEN = "**open**"


@dataclass(frozen=True)
class Session:
    """What one machine showed at one time: rows with the field `part`."""

    machine: dict[str, Any]
    rows: list[Row]


@dataclass(frozen=True)
class Found:
    """The newest row that has a number, and the letter of its session."""

    row: Row
    letter: str


class Newest:
    """The newest results of one card, over all its sessions."""

    def __init__(self, sessions: Sequence[Session], fresh: bool = False) -> None:
        """Take the sessions of one card, oldest first. fresh : rows without any number are not shown."""
        self.fresh = fresh
        self._sessions = list(zip("abcdefghijklmnopqrstuvwxyz", sessions, strict=False))

    def find(self, part: str, having: str, **wanted: Any) -> Found | None:
        """Return the newest row of a part whose fields are these, and which has the field `having`, if there is one."""
        for letter, session in reversed(self._sessions):
            for row in reversed(session.rows):
                if (
                    row["part"] == part
                    and row.get(having) is not None
                    and all(row.get(k) == v for k, v in wanted.items())
                ):
                    return Found(row, letter)
        return None

    def every(self, part: str, having: str, key: str) -> list[Found]:
        """Return the newest row for each value of a field, in the order in which they first came."""
        values = [
            row[key] for _, session in self._sessions for row in session.rows if row["part"] == part and key in row
        ]
        found = (self.find(part, having, **{key: value}) for value in dict.fromkeys(values))
        return [one for one in found if one is not None]

    def latest(self, part: str) -> tuple[str, list[Row]]:
        """Return all rows of a part in the newest session that has it, and the session's letter."""
        for letter, session in reversed(self._sessions):
            if rows := [row for row in session.rows if row["part"] == part]:
                return letter, rows
        return "", []


class Cells:
    """A table that knows from which sessions its numbers are."""

    def __init__(self, newest: Newest, header: Sequence[str], command: str) -> None:
        """Begin a table. command : that fills what is open"""
        self._header, self._command, self._fresh = header, command, newest.fresh
        self._rows: list[list[tuple[str, str]]] = []
        self._prototype = False

    def add(self, *cells: "str | tuple[str, str]") -> None:
        """Add a row. A cell is a text, or a text and the letter of its session."""
        self._rows.append([cell if isinstance(cell, tuple) else (cell, "") for cell in cells])

    def cell(self, found: Found | None, text: Callable[[Row], str]) -> tuple[str, str]:
        """Return the cell of a number: as `text` writes it, or open. A star marks what a prototype measured."""
        if found is None:
            return OPEN, ""
        self._prototype |= bool(found.row.get("prototype"))
        return text(found.row) + ("\\*" if found.row.get("prototype") else ""), found.letter

    def table(self, *notes: str) -> Table:
        """Return the table with the notes under it. Say where its numbers are from, and how open ones are filled."""
        rows = [row for row in self._rows if not self._fresh or any(letter for _, letter in row)]
        letters = sorted({letter for row in rows for _, letter in row if letter})
        table = Table(self._header)
        for row in rows:
            table.add(*(f"{text} ({letter})" if letter and len(letters) > 1 else text for text, letter in row))
        told = list(notes)
        if len(letters) == 1:
            told.append(f"From session {letters[0]}.")
        if self._prototype:
            told.append("\\* by a prototype, before distsim could do it.")
        if any(OPEN in text for row in rows for text, _ in row):
            told.append(f"{OPEN}: not measured yet; `{self._command}` fills it.")
        table.notes += [" ".join(told)] if told else []
        return table
