"""How a command ends where something around it ends: signals, no reader, no room for output, no memory, odd terminals.

Real processes, since what is tested is what a shell sees.
"""

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sweep_scripts import SWEEPS, run_script

from distsim.cli import ending
from distsim.cli.output import reported

pytestmark = pytest.mark.usefixtures("blank_figures")

FLAGS = ("--local", "--device", "cpu", "--train-limit", "100", "--probe", "50", "--runs", "1", "--iterations", "1")
FLAGS = (*FLAGS, "--control", "none")
INTERRUPTED = "distsim: interrupted; run the same command again to go on from here\n"


@pytest.fixture(autouse=True)
def usual_handlers() -> Iterator[None]:
    """Give this process the handlers that a command begins with. Ray, in other tests, leaves some of its own."""
    usual = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL, signal.SIGHUP: signal.SIG_DFL}
    before = {number: signal.signal(number, handler) for number, handler in usual.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def shell(line: str, **environment: str) -> tuple[int, str, str]:
    """Status, stdout and stderr of a line of bash, in which a pipe has the status of its failing part."""
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {line}"],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | environment,
        errors="surrogateescape",
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # the tests may run in the background
    )
    return done.returncode, done.stdout, done.stderr


COMMAND = f"{sys.executable} -m distsim"


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small finished store. Not to be changed."""
    folder = tmp_path_factory.mktemp("kept")
    assert run_script("digits", *FLAGS, "--epochs", 1, "--metrics", "cosine", "--storage", folder).status == 0
    return folder


# --- output that goes nowhere ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("line", ["list {}", "--help", "digest {} --pieces"])
def test_output_without_a_reader_or_room(kept: Path, line: str) -> None:
    command = f"{COMMAND} {line.format(kept)}"
    full = "distsim: its output cannot be written: No space left on device; what is committed is kept\n"
    assert shell(f"{command} | true") == (141, "", "")
    assert shell(f"{command} > /dev/full") == (1, "", full)
    assert shell(f"{command} >&-") == (0, "", "")
    assert shell(f"{command} <&- >&- 2>&-") == (0, "", "")


def test_a_status_does_not_need_a_stderr(tmp_path: Path) -> None:
    for closed in ("2>&-", "2> /dev/full", ">&- 2>&-"):
        assert shell(f"{COMMAND} list {tmp_path}/nowhere {closed}") == (1, "", "")


@pytest.mark.long
def test_a_sweep_that_nobody_reads_ends_and_can_go_on(tmp_path: Path) -> None:
    script = shlex.join([sys.executable, str(SWEEPS / "digits.py"), *FLAGS, "--epochs", "1", "--metrics", "cosine"])
    script += f" --storage {tmp_path}/store"
    status, out, err = shell(f"{script} | head -1")
    assert (status, err) == (141, "")
    assert out.startswith("digits: 2 of 2 networks to train")
    (beat,) = (tmp_path / "store/lease").glob("*.beat")
    assert beat.read_text() == "over", "the lease is released"
    status, _, err = shell(f"{script} > /dev/full")
    assert (status, err.count("\n")) == (1, 1)
    assert shell(f"{script} >&-")[::2] == (0, "")
    assert "similarities      none missing" in shell(f"{COMMAND} status {tmp_path}/store")[1]


def test_what_is_opened_does_not_take_the_place_of_a_closed_stdout(tmp_path: Path) -> None:
    code = (
        "import os\n"
        "from distsim.cli.output import reported\n"
        f"def work():\n    file = open({str(tmp_path / 'piece')!r}, 'w')\n    os.write(1, b'of a library')\n"
        "raise SystemExit(reported(work))\n"
    )
    assert shell(f"{sys.executable} -c {shlex.quote(code)} >&-") == (0, "", "")
    assert (tmp_path / "piece").read_text() == ""


@pytest.mark.parametrize(
    "environment",
    [
        {"PYTHONIOENCODING": "latin-1"},
        pytest.param({"PYTHONIOENCODING": "ascii:strict"}, marks=pytest.mark.long),
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    ],
    ids=["latin-1", "ascii", "C"],
)
def test_names_that_the_terminal_cannot_show(kept: Path, tmp_path: Path, environment: dict[str, str]) -> None:
    place = tmp_path / "π·×ü"
    status, out, err = shell(f"{COMMAND} list {place}", **environment)
    assert (status, out, err.count("\n")) == (1, "", 1)
    assert err.startswith(f"distsim: there is no store in {tmp_path}/")
    place.symlink_to(kept)
    for command in ("report", "list", "status"):
        status, _, err = shell(f"{COMMAND} {command} {place}", **environment)
        assert (status, err) == (0, "")


def test_figures_need_no_backend(tmp_path: Path) -> None:
    """That of a notebook is named in the environment of every command that the notebook starts."""
    code = (
        "import sys\n"
        "from distsim.results import figures\n"
        "from distsim.plotting import drawn, render\n"
        "from matplotlib.figure import Figure\n"
        "assert render(drawn(Figure)(), 'png').startswith(b'\\x89PNG')\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    line = f"{sys.executable} -c {shlex.quote(code)}"
    assert shell(line, MPLBACKEND="module://matplotlib_inline_that_is_not_there.backend") == (0, "", "")


# --- signals ---------------------------------------------------------------------------------------------------------


def ended_by(number: int, *line: str, when: str, environment: dict[str, str] | None = None) -> tuple[int, str]:
    """Send the signal once the process has printed a line that contains `when`; its status and stderr."""
    process = subprocess.Popen(
        line,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | (environment or {}),
        preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),  # the tests may run under nohup, which ignores it
    )
    assert process.stdout is not None
    try:
        for said in process.stdout:
            if when in said:
                break
        process.send_signal(number)
        _, err = process.communicate(timeout=120)
    finally:
        process.kill()
    return process.returncode, err


SLOW = """
import time
print("imported", flush=True)
try:
    time.sleep(600)
except KeyboardInterrupt:
    raise ImportError("a library makes another error of it")
"""


@pytest.mark.parametrize(
    "line", [("-m", "distsim", "doctor"), ("-m", "distsim.cli", "doctor"), (str(SWEEPS / "digits.py"), "--local")]
)
def test_an_interrupt_while_libraries_are_imported(tmp_path: Path, line: tuple[str, ...]) -> None:
    (tmp_path / "numpy.py").write_text(SLOW)
    path = f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    result = ended_by(signal.SIGINT, sys.executable, *line, when="imported", environment={"PYTHONPATH": path})
    assert result == (130, INTERRUPTED)


def test_an_interrupt_while_a_script_imports_something_else(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(SLOW)
    (tmp_path / "mine.py").write_text("from distsim.cli.sweeps import main\nimport slow\n")
    assert ended_by(signal.SIGINT, sys.executable, str(tmp_path / "mine.py"), when="imported") == (130, INTERRUPTED)


def test_a_python_session_keeps_its_handler() -> None:
    code = "import signal, sys, distsim.cli.sweeps; print(signal.getsignal(signal.SIGINT), sys.excepthook)"
    status, out, _ = shell(f"{sys.executable} -c {shlex.quote(code)}")
    assert status == 0
    assert out.startswith("<built-in function default_int_handler> <built-in function excepthook>")


@pytest.mark.parametrize(
    ("number", "status", "said"),
    [
        pytest.param(signal.SIGINT, 130, "interrupted", marks=pytest.mark.long),
        (signal.SIGTERM, 143, "ended by SIGTERM"),
        pytest.param(signal.SIGHUP, 129, "ended because its terminal has gone", marks=pytest.mark.long),
    ],
)
def test_a_sweep_ended_by_a_signal(tmp_path: Path, number: int, status: int, said: str) -> None:
    line = (sys.executable, str(SWEEPS / "digits.py"), *FLAGS, "--epochs", "5000", "--storage", str(tmp_path))
    found, err = ended_by(number, *line, when="digits: training on")
    assert found == status
    assert err == f"distsim: {said}; run the same command again to go on from here\n"
    (beat,) = (tmp_path / "lease").glob("*.beat")
    assert beat.read_text() == "over", "the lease is released"


@pytest.mark.parametrize("mistaken", [KeyboardInterrupt, ImportError, RuntimeError])
def test_what_a_library_makes_of_a_signal_is_seen_through(
    mistaken: type[BaseException], capsys: pytest.CaptureFixture[str]
) -> None:
    before = signal.getsignal(signal.SIGTERM)

    def work() -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(10)
        except KeyboardInterrupt:
            raise mistaken("something of its own") from None

    assert reported(work) == 143
    assert capsys.readouterr().err == "distsim: ended by SIGTERM; run the same command again to go on from here\n"
    assert signal.getsignal(signal.SIGTERM) is before
    assert reported(lambda: None) == 0, "the next command does not inherit it"


def test_a_signal_that_is_ignored_stays_so() -> None:
    """As under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert reported(lambda: os.kill(os.getpid(), signal.SIGHUP)) == 0
    finally:
        signal.signal(signal.SIGHUP, before)


# --- memory ----------------------------------------------------------------------------------------------------------


def fail(error: Exception) -> Callable[[], None]:
    def work() -> None:
        raise error

    return work


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        ImportError("libtorch_cpu.so: failed to map segment from shared object"),
        OSError("[Errno 12] Cannot allocate memory"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("can't start new thread"),
    ],
)
def test_a_lack_of_memory_is_a_sentence(error: Exception, capsys: pytest.CaptureFixture[str]) -> None:
    assert reported(fail(error)) == 1
    assert capsys.readouterr().err == f"distsim: {ending.NO_MEMORY}\n"


def test_another_error_is_not_taken_for_that() -> None:
    with pytest.raises(RuntimeError, match="a mistake of ours"):
        reported(fail(RuntimeError("a mistake of ours")))


@pytest.mark.skipif(sys.platform != "linux", reason="limits are enforced on Linux")
def test_little_memory_ends_in_a_sentence(tmp_path: Path) -> None:
    for limit in (500_000, 1_500_000):
        status, _, err = shell(
            f"ulimit -v {limit}; {sys.executable} {SWEEPS / 'digits.py'} --local --storage {tmp_path / 's'}"
        )
        assert status == 1
        assert "Traceback" not in err
        assert err.splitlines()[-1] == f"distsim: {ending.NO_MEMORY}"


@pytest.mark.skipif(sys.platform != "linux", reason="limits are enforced on Linux")
def test_an_abort_where_memory_is_limited_ends_in_a_sentence(tmp_path: Path) -> None:
    """C++ code gets no memory and calls abort: Python has no chance to say anything."""
    script = tmp_path / "mine.py"
    script.write_text("from distsim.cli import ending\nimport os, sys\nos.abort() if sys.argv[1:] else sys.exit(7)\n")
    limited = f"ulimit -c 0; ulimit -v 20000000; {sys.executable} {script}"
    assert shell(f"{limited} abort") == (1, "", f"distsim: {ending.NO_MEMORY}\n")
    assert shell(limited)[0] == 7
    assert not re.search("distsim", shell(f"{sys.executable} {script} abort")[2]), "only where it is limited"
