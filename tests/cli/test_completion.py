"""Completion in real shells: what bash, zsh and fish offer behind the beginning of a `distsim` command."""

import shutil
import subprocess
from pathlib import Path

import pytest
from sweep_scripts import outcome
from terminal import Terminal

from distsim.cli import main as cli
from distsim.cli.completion import SHELLS, known_commands

OFFERED = {  # what is typed, with a bar at the cursor -> words that are offered, and some that are not
    "di|": ("digest", "sweep"),
    "sweep lenet|": ("lenet5_mnist", "cifar2"),
    "run --dev|": ("--device", "--data"),
    "run s --device c|": ("cpu cuda", "auto"),
    "compare s --metrics cka nb|": ("nbs nbs_channels", "cka"),
    "status --problem vgg_|": ("vgg_svhn", "vgg16_cifar10"),
    "completion z|": ("zsh", "bash"),
    "report s --out pag|": ("page.html", "other.html"),
    "run --device cpu st|": ("store", "cuda"),
    "run s --local sto|": ("store", "--local"),
    "pairs s --fore|": ("", "--forecast"),
}


def need(shell: str) -> str:
    return shutil.which(shell) or pytest.skip(f"{shell} is not installed")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a script for each shell, a page and a store."""
    for shell in SHELLS:
        status, script, err = outcome(lambda shell=shell: cli.main(["completion", shell]))
        assert (status, err) == (0, "")
        (tmp_path / f"script.{shell}").write_text(script)
    (tmp_path / "page.html").touch()
    (tmp_path / "other.html").touch()
    (tmp_path / "store").mkdir()
    return tmp_path


def answered(line: list[str], folder: Path) -> list[str]:
    done = subprocess.run(line, capture_output=True, text=True, timeout=60, cwd=folder, env={"HOME": str(folder)})
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return [text.split("\t")[0].rstrip("/") for text in done.stdout.splitlines() if text]


@pytest.mark.parametrize("typed", OFFERED)
def test_bash(folder: Path, typed: str) -> None:
    line = f"distsim {typed[:-1]}"
    code = 'source script.bash; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _distsim; printf "%s\\n" "${COMPREPLY[@]}"'
    offered, not_offered = OFFERED[typed]
    words = answered([need("bash"), "--norc", "-c", code, "bash", *line.split()], folder)
    assert words == offered.split()
    assert not_offered not in words


@pytest.mark.parametrize("typed", OFFERED)
def test_fish(folder: Path, typed: str) -> None:
    code = f"source script.fish; complete -C 'distsim {typed[:-1]}'"
    offered, not_offered = OFFERED[typed]
    words = answered([need("fish"), "--no-config", "-c", code], folder)
    assert set(words) == set(offered.split())
    assert not_offered not in words


def test_zsh(folder: Path) -> None:
    terminal = Terminal([need("zsh"), "-f", "-i"], HOME=str(folder), PS1="> ", TERM="dumb")
    try:
        terminal.type(f"cd {folder}; autoload -U compinit; compinit -u -D; source script.zsh; echo all''set\n")
        terminal.until("allset")
        for typed, added in (
            ("distsim di", "gest"),
            ("distsim run --dev", "vice"),
            ("distsim sweep lenet", "5_mnist"),
            ("distsim report s --out pag", ".html"),
            ("distsim run --device cpu st", "ore/"),
        ):
            terminal.type(f"{typed}\t")
            terminal.until(added, seconds=20)  # zsh draws what is new
            terminal.type("\x15")  # takes the line away
    finally:
        terminal.process.kill()
        terminal.process.wait()


def test_every_flag_of_every_command_is_in_each_script(folder: Path) -> None:
    known = known_commands(cli.parser())
    assert [command.name for command in known] == [command.name for command in cli.COMMANDS]
    for shell in SHELLS:
        script = (folder / f"script.{shell}").read_text()
        for command in known:
            assert len(command.flags) >= 2  # -h and --help
            for flag in command.flags:
                if flag.name != "-h":
                    assert (f"-l {flag.name[2:]}" if shell == "fish" else flag.name) in script


def test_an_unknown_shell(folder: Path) -> None:
    status, out, err = outcome(lambda: cli.main(["completion", "tcsh"]))
    assert (status, out) == (2, "")
    assert "invalid choice: 'tcsh'" in err
