"""One row about a study that study.sh ran: how far it came, with which flags, and what training and comparing took.

python bench/gpu/study.py --published FOLDER --asked 20 --status 0 --seconds 290 -- FLAGS
"""

import argparse
import json
import os
import sys
from pathlib import Path

from distsim.results.published import read

PRIVATE = ("--data", "--storage", "--device")  # flags whose values say nothing about what was measured


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--published", type=Path, required=True, help="the study's folder")
    for name in ("--asked", "--status", "--seconds"):
        parser.add_argument(name, type=int, required=True, help="runs, exit status, and seconds since the sweep began")
    parser.add_argument("flags", nargs="*", help="of the sweep")
    given = parser.parse_args()
    study = read(given.published)
    row = {
        "problem": study.problem,
        "asked": given.asked,
        "runs": max(part["runs"] for part in study.parts),
        "iterations": max(part["iterations"] for part in study.parts),
        "networks": len(study.tables.networks),
        "similarities": len(study.tables.similarities),
        "chance": len(study.tables.chance),
        "precision": study.identity.precision,
        "flags": told(given.flags),
        "training_seconds": round(3600 * sum(part["training_hours"] for part in study.parts), 1),
        "comparison_seconds": round(3600 * sum(part["comparison_hours"] for part in study.parts), 1),
        "seconds": given.seconds,
        "status": given.status,
    }
    with (Path(os.environ["OUT"]) / "study.jsonl").open("a") as file:
        file.write(json.dumps(row) + "\n")
    print(json.dumps(row))
    return 0


def told(flags: list[str]) -> str:
    """Return the flags without those that name a place, each with its value."""
    kept: list[str] = []
    skip = False
    for flag in flags:
        if not skip and flag not in PRIVATE:
            kept.append(flag)
        skip = flag in PRIVATE
    return " ".join(kept)


if __name__ == "__main__":
    sys.exit(main())
