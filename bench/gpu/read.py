"""Turn what bench/gpu/run.sh and study.sh brought back into the tables of docs/benchmarks.md and rows to merge.

python bench/gpu/read.py FOLDER         # keep the results as a record, unpack a study, and write the tables
python bench/gpu/read.py                # write the tables again, from all records
python bench/gpu/read.py --check        # write nothing; exit status 1 if a table in the document would change
python bench/gpu/read.py --show FOLDER  # print the tables of these results only

A record is a file of bench/gpu/measured: one session on one machine. Tables are of one card each. A cell shows the
newest record that has its number, and the session's letter if a table holds several. What no record has is open.
"""

import argparse
import json
import re
import shutil
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[1]))  # bench/, whose modules are used here too

from cells import Row, Session
from report import Section, replace
from tables import sections

ROOT = Path(__file__).resolve().parents[2]
RECORDS = ROOT / "bench/gpu/measured"
DOCUMENT = ROOT / "docs/benchmarks.md"
STUDIES = ROOT / "results/gpu"  # ignored by git
PARTS = ("tests", "determinism", "rates", "comparisons", "study")
REHEARSAL = "CPU (a rehearsal)"  # the card of a machine without one


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", help="what came back: the folder $OUT of the GPU machine")
    parser.add_argument("--show", action="store_true", help="print the folder's tables, and write nothing")
    parser.add_argument("--check", action="store_true", help="write nothing, and compare")
    parser.add_argument("--records", type=Path, default=RECORDS, help="folder of the records")
    parser.add_argument("--write", type=Path, default=DOCUMENT, help="document whose tables are replaced")
    parser.add_argument("--studies", type=Path, default=STUDIES, help="folder in which studies are unpacked")
    flags = parser.parse_args(arguments)
    if flags.show and flags.folder is None:
        parser.error("--show needs a folder")
    if flags.show:
        for section in sections([session_of(flags.folder)], fresh=True):
            print(section.markdown())
        return 0
    if flags.folder is not None and not flags.check:
        came = session_of(flags.folder)
        if came.machine["card"] == REHEARSAL:
            print(f"{flags.folder} is a rehearsal on a CPU: it is not kept. --show prints it", file=sys.stderr)
            return 1
        unpack(flags.folder, came, flags.studies)
        print(f"kept as {keep(came, flags.records)}")
    tables = sections([read(file) for file in sorted(flags.records.glob("*.json"))])
    return check(tables, flags.write) if flags.check else write(tables, flags.write)


def write(tables: Sequence[Section], document: Path) -> int:
    for section in tables:
        replace(document, section)
    print(f"tables in {document}")
    return 0


def check(tables: Sequence[Section], document: Path) -> int:
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(shutil.copy(document, folder))
        for section in tables:
            replace(copy, section)
        same = copy.read_text() == document.read_text()
    print("as written" if same else f"{document} is not what the records say: run bench/gpu/read.py")
    return 0 if same else 1


# --- sessions --------------------------------------------------------------------------------------------------------


def session_of(folder: Path) -> Session:
    """Read what a GPU machine brought back. FileNotFoundError: machine.json is not there."""
    machine = json.loads((folder / "machine.json").read_text())
    rows: list[Row] = []
    for part in PARTS:
        file = folder / f"{part}.jsonl"
        rows += [{"part": part} | row for row in _lines(file)] if file.exists() else []
    return Session(machine, rows)


def _lines(file: Path) -> list[dict[str, Any]]:
    """Return the rows of a file. A last line that was not written to its end is left out."""
    rows = []
    for line in file.read_text().splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


def read(file: Path) -> Session:
    record = json.loads(file.read_text())
    return Session(record["machine"], record["rows"])


def keep(session: Session, folder: Path) -> Path:
    """Write a session as a record, a line for each row, and return the file. The same session is kept once."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = ",\n".join(json.dumps(row) for row in session.rows)
    text = f'{{"machine": {json.dumps(session.machine)},\n"rows": [\n{rows}\n]}}\n'
    card = re.sub(r"[^a-z0-9]+", "-", session.machine["card"].lower()).strip("-")
    number = 1
    while True:
        file = folder / f"{session.machine['date']}-{card}-{number}.json"
        if not file.exists() or file.read_text() == text:
            file.write_text(text)
            return file
        number += 1


def unpack(folder: Path, session: Session, studies: Path) -> None:
    """Unpack a study that came back, and say how to merge it."""
    packed = folder / "study.tar"
    if not packed.exists():
        return
    problem = next((row["problem"] for row in reversed(session.rows) if row["part"] == "study"), "study")
    place = studies / f"{problem}-{session.machine['date']}"
    shutil.rmtree(place, ignore_errors=True)
    with tarfile.open(packed) as archive:
        archive.extractall(place, filter="data")
    print(f"study in {place}; publish it, or join it with another of the same sweep:")
    print(f"    distsim merge {place} --into results/published/{problem}")


if __name__ == "__main__":
    sys.exit(main())
