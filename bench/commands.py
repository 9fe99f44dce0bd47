"""How fast do commands answer that train nothing? Processor time, beside that of `python -c "import numpy"`.

python bench/commands.py                          # about a minute
python bench/commands.py --write docs/benchmarks.md
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import machine
from report import Section, Table, replace, seconds, times

TARGET = 8.0  # times `import numpy`
SMALL = ("--local", "--runs", "1", "--iterations", "1", "--epochs", "1", "--probe", "50", "--train-limit", "100")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="rounds in which all commands have their turns")
    parser.add_argument("--write", type=Path, help="document whose table is replaced")
    flags = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        store = str(Path(folder) / "store")
        distsim = [sys.executable, "-m", "distsim"]
        subprocess.run(
            [*distsim, "sweep", "digits", *SMALL, "--quiet", "--storage", store], check=True, stdout=subprocess.DEVNULL
        )
        commands = {
            'python -c "import numpy"': [sys.executable, "-c", "import numpy"],
            "distsim --help": [*distsim, "--help"],
            "distsim sweep --help": [*distsim, "sweep", "--help"],
            "distsim list STORE": [*distsim, "list", store],
            "distsim status STORE": [*distsim, "status", store],
            "distsim completion bash": [*distsim, "completion", "bash"],
        }
        spent: dict[str, list[float]] = {name: [] for name in commands}
        for _ in range(flags.rounds):
            for name, command in commands.items():
                spent[name].append(processor_time(command))
    section = Section("commands", "How fast commands answer", machine.describe(1), [table(spent)])
    print(section.markdown())
    if flags.write:
        replace(flags.write, section)
    return 0


def processor_time(command: Sequence[str]) -> float:
    """Run a command and return the seconds of processor time that it took, its children included."""
    before = os.times()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


def table(spent: dict[str, list[float]]) -> Table:
    found = Table(("command", "processor time", "to import numpy", "target"))
    yardstick, *_ = spent.values()
    for name, of_command in spent.items():
        ratio = statistics.median(mine / its for mine, its in zip(of_command, yardstick, strict=True))
        verdict = f"≤ {TARGET:.0f}: {'met' if ratio <= TARGET else '**missed**'}" if of_command is not yardstick else ""
        found.add(f"`{name}`", seconds(statistics.median(of_command)), times(ratio), verdict)
    found.notes.append("Medians; a ratio is the median of the rounds' ratios. The store has one run of one pruning.")
    return found


if __name__ == "__main__":
    sys.exit(main())
