"""Lets a sweep's disk fill up in every stage; each time it must stop with a sentence, and go on when there is room.

    python tests/faults/full_disk.py
    python tests/faults/full_disk.py --local --stages commit figures

Runs sweeps/digits.py on a file system of its own in memory (a tmpfs, which needs the right to mount one). A process is
stopped in the stage, the disk is filled to the last byte, the process goes on; the sweep must end with status 1, one
sentence and no traceback, and everything that was committed must still read as it should. Then there is room again and
the same command runs into the next stage. In the end the store must be equal to that of a sweep that had room, piece by
piece. Exit status 0: it is.
"""

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # where pytest, too, imports `faults` from

from faults.kills import ROOT, STAGES, Kill, Watch, differing, digests, environment

FLAGS = ("--runs", "2", "--iterations", "2", "--epochs", "3", "--train-limit", "200", "--probe", "60")
ROOM = 200  # MB
PATIENCE = 300.0  # seconds for a sweep that has no room to say so


@contextlib.contextmanager
def disk(folder: Path) -> Iterator[Path]:
    """A small file system at this folder. PermissionError: none may be mounted here."""
    folder.mkdir(parents=True, exist_ok=True)
    line = ["mount", "-t", "tmpfs", "-o", f"size={ROOM}m", "tmpfs", str(folder)]
    if subprocess.run(line, capture_output=True).returncode:
        raise PermissionError("no file system may be mounted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder: Path) -> Path:
    """A file that takes all the room there is."""
    filler = folder / "filler"
    with open(filler, "wb") as file:
        while room := os.statvfs(folder).f_bavail * os.statvfs(folder).f_frsize:
            with contextlib.suppress(OSError):  # somebody else took some of it at the same time
                os.posix_fallocate(file.fileno(), file.seek(0, os.SEEK_END), room)
    return filler


class Sweep:
    """One sweep's command, on a disk that can be filled."""

    def __init__(self, place: Path, folder: Path, flags: Sequence[str]) -> None:
        """place : for the store. folder : for logs and Ray's own files, where there is always room."""
        self.store, self.place, self.log = place / "store", place, folder / "log"
        self.watch = Watch(folder / "stages")
        script = ROOT / "sweeps" / "digits.py"
        self._command = [sys.executable, str(script), *flags, "--control", "none", "--storage", str(self.store)]
        ray = folder / "ray"
        ray.mkdir(exist_ok=True)
        self._environment = environment(ray) | {"DISTSIM_STAGES": str(self.watch.path)}

    def finish(self) -> str:
        """Let the same command come to its end; what it said. RuntimeError: it failed."""
        with self._started() as sweep:
            status = sweep.wait()
        if status:
            raise RuntimeError(f"the sweep ended with status {status}:\n{self._said()}")
        self.watch.read()
        self.watch.close(set())
        return self._said()

    def without_room(self, stage: str) -> list[str]:
        """Run the same command, fill its disk in this stage, and make room again; what is not as it must be."""
        with self._started() as sweep:
            stopped = self.watch.freeze(Kill(stage, "worker"), 0.0, lambda: sweep.poll() is not None)
            if stopped is None:
                return [f"{stage}: the sweep ended before it: {self._said()}"]
            filler = fill(self.place)
            os.kill(stopped, signal.SIGCONT)
            try:
                status = sweep.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                return [f"{stage}: with a full disk the sweep did not end within {PATIENCE:.0f} s"]
        said = self._said()
        wrong = [] if status == 1 else [f"{stage}: exit status {status} where the disk is full: {said}"]
        last = said.strip().splitlines()[-1]
        if not (
            last.startswith("distsim: ") and "o space left" in last and last.endswith("run the same command again")
        ):
            wrong.append(f"{stage}: its last line is {last!r}")
        if "Traceback" in said:
            wrong.append(f"{stage}: a traceback: {said}")
        if (self.store / "digits" / "spec.json").exists():
            digests(self.store)  # on the full disk, everything that is committed can be read
        filler.unlink()
        self.watch.read()
        self.watch.close(set())
        return wrong

    @contextlib.contextmanager
    def _started(self) -> Iterator["subprocess.Popen[bytes]"]:
        self._from = self.log.stat().st_size if self.log.exists() else 0
        with open(self.log, "ab") as log:
            sweep = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._environment,
                start_new_session=True,
            )
        try:
            yield sweep
        finally:
            if sweep.poll() is None:
                sweep.kill()
            sweep.wait()

    def _said(self) -> str:
        return self.log.read_bytes()[self._from :].decode(errors="replace")


def experiment(stages: Sequence[str], flags: Sequence[str]) -> list[str]:
    """The whole of it, printed as it goes; what is not as it must be. PermissionError: no disk may be mounted here."""
    wrong: list[str] = []
    # a short path: Ray's sockets are in it, and their paths may have 107 characters
    with tempfile.TemporaryDirectory(prefix="full-", dir="/tmp", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        with disk(folder / "disk") as place:
            for part in ("roomy", "full"):
                (folder / part).mkdir()
            Sweep(folder / "roomy", folder / "roomy", [*FLAGS, "--local"]).finish()
            sweep = Sweep(place, folder / "full", [*FLAGS, *flags])
            for stage in stages:
                started = time.monotonic()
                found = sweep.without_room(stage)
                wrong += found
                print(
                    f"full in {stage:10}  {time.monotonic() - started:5.1f} s  {'as it must be' * (not found)}",
                    flush=True,
                )
                for sentence in found:
                    print(f"  {sentence}", flush=True)
            sweep.finish()
            different = differing(digests(folder / "roomy" / "store"), digests(sweep.store))
            print(f"{len(different)} pieces differ from those of a sweep that had room")
            wrong += [f"{piece} differs" for piece in different]
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES), help="(default: all)")
    parser.add_argument("--local", action="store_true", help="without Ray")
    options = parser.parse_args()
    return 1 if experiment(options.stages, ["--local"] * options.local) else 0


if __name__ == "__main__":
    sys.exit(main())
