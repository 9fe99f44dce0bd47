"""Type what README.md and docs/start.md say, in order, as someone does who has just cloned the repository.

    python tests/typed.py                  # both ways (`make typed`)
    python tests/typed.py --only wheel     # from the wheel, outside the repository

Each way has an empty HOME, and of this shell's variables those that say where packages come from and the like. What
comes out is compared with what the pages show: of tables counts exactly, and measured values to 0.05. The first way
makes a clone of HEAD and gives its commands; the second builds the wheel, installs `distsim-imp[all]` in another
environment and gives the same Python.
Each installs several GB, which takes minutes. The exit status is 1 if a page is wrong.
"""

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
CLOSE = 0.05  # measured values may differ so far from those on the page: they depend on the processor
GONE = re.compile(
    r"HOME|VIRTUAL_ENV|PYTHON.*|PYTEST.*|DISTSIM.*|OMP_.*|XDG_.*|MAKE.*"
)  # variables that nobody else has
WHERE_PACKAGES_ARE = {"PIP_CONFIG_FILE": "~/.config/pip/pip.conf", "UV_CONFIG_FILE": "~/.config/uv/uv.toml"}
ROW = re.compile(r"^ +\d+ +[01]\.\d{3} +\d+ .*$", re.M)
SOON = 25  # seconds after which a sweep is stopped by Ctrl-C


class Wrong(AssertionError):
    """A page says something else than what happens."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Try each way. Return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=tuple(WAYS), help="one of the two ways")
    flags = parser.parse_args(arguments)
    outcomes = {}
    for name, way in WAYS.items():
        if flags.only in (None, name):
            with tempfile.TemporaryDirectory(prefix=f"distsim-typed-{name}-") as folder:
                try:
                    way(Typist(Path(folder)))
                    outcomes[name] = "as the pages say"
                except Wrong as wrong:
                    outcomes[name] = f"WRONG: {wrong}"
    print("\n".join(f"{name}: {outcome}" for name, outcome in outcomes.items()))
    return int(any(outcome.startswith("WRONG") for outcome in outcomes.values()))


class Typist:
    """Someone with an empty HOME, at a shell."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.here = folder, folder
        (folder / "home").mkdir()
        kept = {name: value for name, value in os.environ.items() if not GONE.fullmatch(name)}
        for name, place in WHERE_PACKAGES_ARE.items():
            if (file := Path(place).expanduser()).exists():
                kept.setdefault(name, str(file))
        own = str(ROOT / ".venv")
        kept["PATH"] = os.pathsep.join(part for part in kept["PATH"].split(os.pathsep) if not part.startswith(own))
        self.env = kept | {"HOME": str(folder / "home")}

    def types(self, line: str, says: Sequence[str] = (), stop: bool = False) -> str:
        """Give a line to bash and return all that it prints. stop : press Ctrl-C after a while"""
        print(f"$ {line}", flush=True)
        begun = time.monotonic()
        process = subprocess.Popen(
            ["bash", "-c", line],
            cwd=self.here,
            env=self.env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background ignores it
        )
        if stop:
            time.sleep(SOON)
            os.killpg(process.pid, signal.SIGINT)
        out, _ = process.communicate(timeout=3600)
        print(f"  {time.monotonic() - begun:.0f} s, status {process.returncode}", flush=True)
        if (process.returncode == 0) == stop:
            raise Wrong(f"{line!r} ended with status {process.returncode}:\n{out[-2000:]}")
        for text in says:
            if text not in out:
                raise Wrong(f"{line!r} does not say {text!r}:\n{out[-2000:]}")
        return out

    def runs(self, python: str, code: str) -> str:
        """Save a page's Python as a script, run it, and return what it prints."""
        (self.here / "typed.py").write_text(code)
        return self.types(f"{python} typed.py")


def blocks(page: str, language: str = "") -> list[str]:
    """Return the page's blocks: of this language between fences, or without one those that are indented."""
    text = (ROOT / page).read_text()
    if language:
        return re.findall(rf"^```{language}\n(.*?)^```", text, re.M | re.S)
    text = re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)
    return [re.sub("^    ", "", block, flags=re.M) for block in re.findall(r"(?:^    .*\n)+", text, re.M)]


def commands(page: str) -> list[str]:
    """Return the lines that a page says to type, without their comments, in order."""
    lines = [line.split("    #")[0].strip() for block in blocks(page) for line in block.splitlines()]
    return [line for line in lines if re.match(r"(make|python|distsim|\.) ", line)]


def compare_tables(page: str, out: str) -> None:
    """Check that the rows which a page shows are in the output. Wrong: one is not."""
    shown = {row.split()[0]: row.split() for block in blocks(page) for row in ROW.findall(f"{block}\n")}
    came = {row.split()[0]: row.split() for row in ROW.findall(out)}
    if not shown:
        raise Wrong(f"{page} shows no table")
    for iteration, row in shown.items():
        ours = came.get(iteration, [])
        if row[:3] != ours[:3] or len(row) != len(ours):
            raise Wrong(f"{page}: the row {row} came out as {ours}")
        for theirs, value in zip(row[3:], ours[3:], strict=True):
            if abs(float(theirs.rstrip("*")) - float(value.rstrip("*"))) > CLOSE:
                raise Wrong(f"{page}: in iteration {iteration} {theirs} came out as {value}")
    print(f"  {page}: {len(shown)} rows of its table came out", flush=True)


def clone(typist: Typist) -> None:
    """Give the commands of both pages in a fresh clone."""
    typist.types(f"git clone --quiet file://{ROOT} distsim")
    typist.here = typist.folder / "distsim"
    demo, tests = commands("README.md")[:2]
    if (demo, tests) != ("make demo", "make test"):
        raise Wrong(f"the two commands of README.md are {demo!r} and {tests!r}")
    out = typist.types(demo)
    for page in ("README.md", "docs/start.md"):
        compare_tables(page, out)
    report = out.rstrip().splitlines()[-1]
    if (
        not re.search(r"results/digits/report\.html$", report)
        or not (typist.here / "results/digits/report.html").exists()
    ):
        raise Wrong(f"{demo!r} does not end with the path of the report: {report!r}")
    typist.types(demo, says=["nothing is missing"])
    starts = commands("docs/start.md")
    if starts[:1] != [demo]:
        raise Wrong(f"docs/start.md begins with {starts[:1]}")
    activate, sweep = starts[1:3]
    typist.types(f"{activate} && {sweep}", says=["run the same command again to go on from here"], stop=True)
    typist.types(f"{activate} && {sweep}", says=["report:"])
    typist.types(f"{activate} && {sweep}", says=["nothing is missing"])
    of_python(typist, f"{activate} && python")


def wheel(typist: Typist) -> None:
    """Install the wheel elsewhere, and give the Python of both pages, and the commands that need no script."""
    typist.types(f"{sys.executable} -m venv env && env/bin/python -m pip install --quiet uv -c {ROOT}/constraints.txt")
    made = typist.folder / "made"
    typist.types(
        f"cp -r {ROOT} source && rm -rf source/.venv source/.git && env/bin/uv build --quiet --wheel source -o made"
    )
    (file,) = made.glob("distsim_imp-*.whl")
    typist.types(f"env/bin/uv pip install --quiet --python env/bin/python '{file}[all]' -c {ROOT}/constraints.txt")
    shutil.rmtree(typist.folder / "source")
    typist.here = typist.folder / "elsewhere"
    typist.here.mkdir()
    of_python(typist, "../env/bin/python")
    distsim = "../env/bin/distsim"
    small = "--runs 1 --iterations 2 --epochs 1 --control none"
    typist.types(f"{distsim} sweep digits {small} --storage results/digits", says=["report:"])
    typist.types(f"{distsim} sweep digits {small} --storage results/digits", says=["nothing is missing"])
    typist.types(f"{distsim} list results/digits", says=["1 run, up to iteration 2"])
    typist.types(f"{distsim} export results/digits --network run=0,iteration=2 --to safetensors", says=["safetensors"])


def of_python(typist: Typist, python: str) -> None:
    """Run the Python of both pages."""
    first = typist.runs(python, blocks("README.md", "python")[0])
    if not re.search(r"^layer4 +\d", first, re.M) or not (typist.here / "heat.png").exists():
        raise Wrong(f"README.md's comparison printed {first!r}")
    for block in blocks("docs/start.md", "python"):
        out = typist.runs(python, block)
        if "Sequential" not in out and "Conv2d" not in out:
            raise Wrong(f"docs/start.md's Python shows no network: {out[-500:]!r}")


WAYS = {"clone": clone, "wheel": wheel}

if __name__ == "__main__":
    sys.exit(main())
