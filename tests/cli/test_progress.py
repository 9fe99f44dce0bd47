"""What somebody sees of a running sweep: on a terminal, in a pipe, in the log; and what Ctrl-C does there."""

import io
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import terminal
from fuzzing import in_time
from rich.console import Console
from sweep_scripts import SWEEPS, outcome, run_script
from terminal import Terminal

from distsim import stopping
from distsim.cli import progress
from distsim.cli.main import main
from distsim.specs import COMPLETE, NetworkId
from distsim.store import Storage, SweepStore
from distsim.store.epochs import epochs_kept
from distsim.sweep.board import COLUMNS, Board, View
from distsim.sweep.elsewhere import Elsewhere
from distsim.sweep.live import rendered

pytestmark = pytest.mark.usefixtures("blank_figures")

SMALL = ("--local", "--device", "cpu", "--train-limit", "100", "--probe", "50", "--runs", "1", "--iterations", "2")
SMALL = (*SMALL, "--control", "none", "--metrics", "cosine", "--measure", "none")
LINE = re.compile(r"\d\d:\d\d:\d\d digits run 0 iteration [12]: accuracy 0\.\d{4}, remaining 0\.\d{3}")


def digits(folder: Path, *more: object, **environment: str) -> Terminal:
    return Terminal(
        [sys.executable, SWEEPS / "digits.py", *SMALL, "--storage", folder / "store", *more],
        **{"TMPDIR": str(folder)} | environment,
    )


def log_in(folder: Path) -> str:
    (log,) = folder.glob("distsim-*.log")
    return log.read_text()


# --- on a terminal ---------------------------------------------------------------------------------------------------


def test_a_terminal_shows_who_is_at_work(tmp_path: Path) -> None:
    with digits(tmp_path, "--epochs", 1) as screen:
        assert screen.status() == 0
    (log,) = tmp_path.glob("distsim-*.log")
    assert f"log: {log}" in screen.seen, "where the lines and what libraries say are"
    for name in filter(None, COLUMNS):
        assert name in screen.seen
    assert re.search(r"digits complete network +0 of 1", screen.seen)
    assert re.search(r"digits run 0 +1 of 2 +0 of 1 +0\.\d{4} +100\.0%", screen.seen), "of the network before"
    assert re.search(r"digits run 0 +2 of 2 +0 of 1 +0\.\d{4} +8\d\.\d%", screen.seen)
    last = screen.seen[screen.seen.rindex("in all") :]
    assert re.match(r"in all +3 of 3 networks, .*B in the store, .*B free, no failures", last)
    assert "training    3 of 3 networks" in screen.seen
    assert "extraction  activations of 3 of 3 networks" in screen.seen
    assert re.search(r"comparison  (\d+) of \1 pairs of layers\b", screen.seen)
    assert f"tables in {tmp_path}/store" in last, "results stand below"
    assert not LINE.search(screen.seen)
    assert len(LINE.findall(log.read_text())) == 2
    assert "\x1b[?25h" in screen.raw
    assert screen.raw.rindex("\x1b[?25h") > screen.raw.rindex("\x1b[?25l"), "the cursor is there again"


def test_quiet_shows_results_only(tmp_path: Path) -> None:
    with digits(tmp_path, "--epochs", 1, "--quiet") as screen:
        assert screen.status() == 0
    first, second, *_ = filter(None, screen.seen.splitlines())
    assert first.startswith(f"log: {tmp_path}/distsim-")
    assert second == "digits: 1 run, 2 iterations"
    assert len(LINE.findall(log_in(tmp_path))) == 2


def test_a_terminal_that_cannot_move_gets_lines(tmp_path: Path) -> None:
    with digits(tmp_path, "--epochs", 1, TERM="dumb") as screen:
        assert screen.status() == 0
    assert len(LINE.findall(screen.seen)) == 2
    assert "\x1b" not in screen.raw
    assert not list(tmp_path.glob("*.log"))


OWN_PRINTS = """
import argparse, logging, os, sys, warnings
from distsim.cli.output import reported
from distsim.cli.progress import reporting
from distsim.store import Storage

def work():
    with reporting(Storage(sys.argv[0] + ".store"), argparse.Namespace(quiet=QUIET, log=None, local=True)) as report:
        os.write(1, b"of C, to 1\\n")
        os.write(2, b"of C, to 2\\n")
        os.system("echo of a child >&2")
        logging.getLogger("library").warning("of a logger")
        warnings.warn("of a library", DeprecationWarning)
        print("of the user's own code")
        print("and its errors", file=sys.stderr)
        warnings.warn("what distsim warns of")
        report.say("what comes next")
    os.write(2, b"afterwards\\n")
    raise ValueError("what went wrong")

raise SystemExit(reported(work))
"""


@pytest.mark.parametrize("quiet", [False, True])
def test_what_libraries_say_goes_to_the_log(tmp_path: Path, quiet: bool) -> None:
    with terminal.python(OWN_PRINTS.replace("QUIET", str(quiet)), tmp_path, TMPDIR=str(tmp_path)) as screen:
        assert screen.status() == 1
    log = log_in(tmp_path)
    for said in ("of C, to 1", "of C, to 2", "of a child", "library: of a logger", "DeprecationWarning: of a library"):
        assert said in log
        assert said not in screen.seen
    said = ["of the user's own code", "and its errors", "distsim: what distsim warns of", "afterwards"]
    for sentence in (*said, "distsim: what went wrong", *["what comes next"] * (not quiet)):
        assert sentence in screen.seen
    assert "what comes next" in log


# --- without one -----------------------------------------------------------------------------------------------------


def test_lines_are_also_written_to_the_log(tmp_path: Path) -> None:
    log = tmp_path / "lines"
    log.write_text("from before\n")
    small = (*SMALL, "--epochs", 1, "--storage", tmp_path / "store", "--log", log)
    status, out, err = run_script("digits", *small)
    assert (status, err) == (0, "")
    assert len(LINE.findall(out)) == 2
    before, *lines = log.read_text().splitlines()
    assert before == "from before"
    assert out.startswith("\n".join(lines)), "the same lines, up to the results"
    assert len(lines) == 7
    assert lines[-1] == "making tables, figures and the report"
    status, out, err = run_script("digits", *SMALL, "--epochs", 1, "--storage", tmp_path / "other", "--quiet")
    assert (status, err) == (0, "")
    assert re.match(r"log: .*\n\ndigits: 1 run, 2 iterations\n", out)
    Path(out.splitlines()[0].removeprefix("log: ")).unlink()


@pytest.mark.parametrize("place", ["", "no/such/folder/log", "."])
def test_a_log_that_cannot_be_written(tmp_path: Path, place: str) -> None:
    log = tmp_path / place if place else ""
    status, _, err = run_script("digits", *SMALL, "--epochs", 1, "--storage", tmp_path / "store", "--log", log)
    assert status == 1
    assert re.fullmatch(rf"distsim: --log {re.escape(str(log))}: cannot write this file: .+\n", err)


def test_a_log_is_where_a_shell_would_find_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    with progress._log("~/log") as file:
        assert Path(file.name) == tmp_path / "log"
    assert not (tmp_path / "~").exists()
    with pytest.raises(ValueError, match="--log '~nobodyhere/log' cannot be used: there is no such home folder"):
        progress._log("~nobodyhere/log").__enter__()


def test_a_pipe_that_nobody_reads_is_no_log(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with in_time(10), pytest.raises(ValueError, match="cannot write this file: it is a pipe that nobody reads"):
        progress._log(str(tmp_path / "pipe")).__enter__()
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    try:
        with progress._log(str(tmp_path / "pipe")) as log:
            log.write(b"a line")
        assert os.read(reader, 100) == b"a line"
    finally:
        os.close(reader)


# --- a sweep that runs elsewhere -------------------------------------------------------------------------------------


def test_a_sweep_is_watched_while_it_runs(tmp_path: Path) -> None:
    with digits(tmp_path, "--epochs", 3000, "--quiet") as sweep:
        sweep.until("log:")
        store = SweepStore(Storage(tmp_path / "store"), "digits")
        while not epochs_kept(store.storage):
            assert sweep.process.poll() is None
            time.sleep(0.5)
        with Terminal([sys.executable, "-m", "distsim", "status", store.root.url, "--watch"]) as screen:
            screen.until(f"process {sweep.process.pid} on ")
            assert re.search(r"digits complete network +\d+ of 3000 ", screen.seen)
            screen.type("\x03")
            assert screen.status() == 130


def test_watching_ends_when_everything_is_there(tmp_path: Path) -> None:
    assert run_script("digits", *SMALL, "--epochs", 1, "--storage", tmp_path / "store").status == 0
    elsewhere = Elsewhere([SweepStore(Storage(tmp_path / "store"), "digits")])
    view = elsewhere.look()
    assert elsewhere.done
    assert view.rows == ()
    assert view.lines[:2] == (("digits", "3 of 3 networks"), ("", "nothing else missing"))
    assert view.lines[3] == ("driver", "none is at work here")
    status, _, err = outcome(lambda: main(["status", str(tmp_path / "store"), "--watch"]))
    assert status == 1, "this is no terminal"
    assert err == "distsim: --watch needs a terminal that can show a display: without one, run distsim status again\n"


def test_watching_needs_no_torch() -> None:
    code = "import sys, distsim.sweep.elsewhere, distsim.sweep.live\n"
    code += "print([name for name in ('torch', 'ray', 'pandas', 'matplotlib') if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"


# --- Ctrl-C ----------------------------------------------------------------------------------------------------------


def test_ctrl_c_stops_where_nothing_is_lost(tmp_path: Path) -> None:
    with digits(tmp_path, "--epochs", 3000) as screen:
        screen.until("digits complete network")
        screen.type("\x03")
        assert screen.status() == 130
    assert stopping.SAID in screen.seen
    store = SweepStore(Storage(tmp_path / "store"), "digits")
    assert not store.contents().networks
    (epochs,) = epochs_kept(store.storage).values()
    said = " ".join(screen.seen[screen.seen.index("distsim: stopped") :].split())
    kept = f"{epochs} epoch{'s' * (epochs != 1)} of complete network"
    assert f"/store keeps 0 of 3 networks of digits, {kept}. To go on: python" in said
    assert said.endswith("--epochs 3000"), "the whole command"
    (beat,) = (tmp_path / "store/lease").glob("*.beat")
    assert beat.read_text() == "over", "the lease is released"
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "store").rglob("*")}
    with Terminal([sys.executable, "-m", "distsim", "status", tmp_path / "store", "--watch"]) as screen:
        screen.until("none is at work here")
        screen.type("\x03")
        assert screen.status() == 130
    assert re.search(rf"digits complete network +{epochs} of 3000 ", screen.seen)
    assert re.search(r"digits +0 of 3 networks\b", screen.seen)
    assert re.search(r"2 similarities, 5 values by chance missing", screen.seen)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "store").rglob("*")} == files, "nothing is written"


def test_what_was_stopped_goes_on_with_the_same_bits(tmp_path: Path) -> None:
    with digits(tmp_path, "--epochs", 40) as screen:
        screen.until("digits run 0")
        screen.type("\x03")
        assert screen.status() in (0, 130), "it may have been done"
    assert run_script("digits", *SMALL, "--epochs", 40, "--storage", tmp_path / "store").status == 0
    assert run_script("digits", *SMALL, "--epochs", 40, "--storage", tmp_path / "other").status == 0
    stopped, whole = (
        outcome(lambda name=name: main(["digest", str(tmp_path / name)])).out.split()[0] for name in ("store", "other")
    )
    assert stopped == whole


LONG_STEP = """
import time
from distsim import stopping
from distsim.cli.ending import gently
from distsim.cli.output import reported

def work():
    with gently(shown=False):
        print("at work", flush=True)
        for _ in range(600):
            time.sleep(1)
            if stopping.asked():
                print("asked", flush=True)

raise SystemExit(reported(work))
"""


def test_ctrl_c_again_stops_at_once(tmp_path: Path) -> None:
    with terminal.python(LONG_STEP, tmp_path) as screen:
        screen.until("at work")
        screen.type("\x03")
        screen.until(f"distsim: {stopping.SAID}\n")
        screen.until("asked")
        screen.type("\x03")
        assert screen.status() == 130
    assert screen.seen.endswith("distsim: interrupted; run the same command again to go on from here\n\n")


# --- the board -------------------------------------------------------------------------------------------------------


def shown(view: View, height: int, width: int = 100) -> list[str]:
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(rendered(view, height))
    return console.export_text().splitlines()


def whose(run: int | None, iteration: int) -> dict[str, object]:
    return {"problem": "p", "run": run, "iteration": iteration, "complete": 0, "control": ""}


def begun(clock: list[float], runs: int = 1) -> Board:
    board = Board(lambda: clock[0])
    networks = 1 + 2 * runs
    board.on_begin({"p": {"networks": networks, "in_all": 10, "images": 1000 * networks, "activations": networks}})
    return board


def test_rates_and_the_time_that_is_left() -> None:
    clock = [0.0]
    board = begun(clock)
    board.on_training(whose(None, 0) | {"epochs": 10, "images": 100, "iterations": 0})
    clock[0] = 2.0
    board.on_epoch(whose(None, 0) | {"epoch": 1, "loss": 1.0})
    view = board.view()
    assert view.rows == (("p complete network", "", "1 of 10", "", "", "50", "18 s"),)
    assert dict(view.lines)["training"] == "0 of 3 networks, about 58 s left", "2,900 images at 50 a second"
    board.on_network(whose(None, 0) | {"accuracy": 0.5, "remaining": 1.0, "epochs": 10})
    board.on_chain_end(whose(None, 0))
    assert board.view().rows == ()
    board.on_training(whose(0, 1) | {"epochs": 10, "images": 100, "iterations": 2})
    clock[0] = 10.0
    board.on_epoch(whose(0, 1) | {"epoch": 1, "loss": 1.0})
    (row,) = board.view().rows
    assert row == ("p run 0", "1 of 2", "1 of 10", "0.5000", "100.0%", "12", "3 min"), "1,900 images"
    board.on_network(whose(0, 1) | {"accuracy": 0.25, "remaining": 0.8, "epochs": 10})
    board.on_training(whose(0, 2) | {"epochs": 10, "images": 100, "iterations": 2})
    (row,) = board.view().rows
    assert row == ("p run 0", "2 of 2", "0 of 10", "0.2500", "80.0%", "12", "80 s"), "as fast as before"
    assert dict(board.view().lines)["in all"] == "9 of 10 networks, no failures"


def test_epochs_of_a_checkpoint_took_no_time() -> None:
    clock = [0.0]
    board = begun(clock)
    board.on_training(whose(None, 0) | {"epochs": 10, "images": 100, "iterations": 0})
    clock[0] = 1.0
    board.on_epoch(whose(None, 0) | {"epoch": 8, "loss": 1.0})
    assert board.view().rows[0][5] == "100", "one epoch in a second, not eight"
    other = begun(clock)
    other.on_training(whose(None, 0) | {"epochs": 10, "images": 100, "iterations": 0})
    other.seen("p", COMPLETE, 4)
    clock[0] = 3.0
    other.seen("p", COMPLETE, 6)
    other.seen("p", NetworkId(0, 1), 6)
    assert other.view().rows == (("p complete network", "", "6 of 10", "", "", "100", "4 s"),)


def test_what_fails_is_shown_and_counted() -> None:
    board = begun([0.0])
    board.on_failure({"sentence": "p, run 0: training diverged"})
    board.on_died({"problem": "p", "piece": "run 1"})
    board.on_comparison({"done": 3, "of": 12})
    board.disk = "1 GB in the store"
    assert [" ".join(line.split()) for line in shown(board.view(), 40)] == [
        "training 0 of 3 networks",
        "extraction activations of 0 of 3 networks",
        "comparison 3 of 12 pairs of layers",
        "in all 7 of 10 networks, 1 GB in the store, 1 worker died, 1 failure",
        "p, run 0: training diverged",
    ]


@pytest.mark.parametrize("height", [8, 12, 24, 60])
def test_more_chains_than_the_terminal_has_lines_are_counted(height: int) -> None:
    board = begun([0.0], runs=30)
    for run in range(30):
        board.on_training(whose(run, 1) | {"epochs": 10, "images": 100, "iterations": 2})
    lines = shown(board.view(), height)
    assert len(lines) < max(height, 9)
    rows = sum(line.startswith("p run") for line in lines)
    assert rows == 30 or f"{30 - rows} more at work" in lines
    assert rows >= min(30, height - 8)
