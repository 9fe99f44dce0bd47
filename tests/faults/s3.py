"""Run a sweep on an S3 server that fails, and kill its processes: every bit must be that of a sweep in a folder.

The server drops connections and answers 5xx.

    python tests/faults/s3.py                       # six kills and some hundreds of faults
    python tests/faults/s3.py --seed 1 --gap 2      # others, and more of them
    python tests/faults/s3.py --short               # one kill, a smaller sweep: what CI runs

sweeps/digits.py, made small, is run in peace into a folder. Then it is run into a bucket, through faults/proxy.py, and
its workers, its driver or all of them are killed (faults/kills.py). In the end every network, activation, comparison,
table and figure must have the same digest as in the folder, the same command must find nothing to do, and neither the
bucket nor what was printed may hold a key. Exit status 1: it is not so, or there were fewer faults than asked for.
"""

import argparse
import contextlib
import dataclasses
import hashlib
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from unittest import mock

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # where pytest, too, imports `faults` from

import s3_server
from faults.kills import ROOT, Kill, KillsFailed, Missed, Sweep, Watch, differing
from faults.proxy import CONFLICT, KINDS, Proxy, drawn

from distsim.store import Storage, SweepStore

FLAGS = ("--runs", "2", "--iterations", "3", "--epochs", "4", "--train-limit", "200", "--probe", "60")
KILLS = (
    Kill("epoch", "worker", 1, 0.5, or_later=True),
    Kill("commit", "driver", 2, 0.5, or_later=True),
    Kill("extraction", "worker", 1, 0.5, or_later=True),
    Kill("comparison", "worker", 5, 0.5, or_later=True),
    Kill("comparison", "group", 5, 0.5, or_later=True),
    Kill("reduction", "driver", 1, 0.5, or_later=True),
)
SHORT = ("--runs", "2", "--iterations", "2", "--epochs", "2", *FLAGS[-4:], "--metrics", "cka", "cosine", "--no-chance")
FAULTS = 50  # at least
PREFIX = f"s3://{s3_server.BUCKET}/of/a-sweep"

SCRIPT = f"""import os, runpy, sys
sys.argv[sys.argv.index("--storage") + 1] = os.environ["S3_FAULTS_STORE"]
runpy.run_path({str(ROOT / "sweeps" / "digits.py")!r}, run_name="__main__")
"""


@contextlib.contextmanager
def on_s3(folder: Path, url: str, flags: Sequence[str]) -> Iterator[Sweep]:
    """The sweep into a bucket, to be killed; what AWS_* says of the server now is what its processes will hear."""
    script = folder / "on_s3.py"  # a Sweep makes its storage a folder beside its log
    script.write_text(SCRIPT)
    with mock.patch.dict(os.environ, {"S3_FAULTS_STORE": url}), Sweep(folder, "s3", flags, str(script)) as sweep:
        yield sweep


def contents(root: Storage) -> dict[str, str]:
    """Piece -> SHA-256 of everything that a sweep makes, however its activations are cut into objects."""
    store = SweepStore(root, "digits")
    found = store.digests()
    for network in store.contents().activations:
        mark = store.activations_mark(network)
        assert mark is not None
        found[store.activations_path(network)] = dataclasses.replace(mark, objects={}).digest
    figures = [path for path in root.sizes("figures") if path.endswith((".png", ".pdf"))]
    return found | {path: hashlib.sha256(root.get(path) or b"").hexdigest() for path in figures}


def everything(root: Storage) -> Iterator[tuple[str, bytes]]:
    """Name and content of every object."""
    for path in root.sizes():
        yield path, root.get(path) or b""


def experiment(
    folder: Path,
    flags: Sequence[str],
    kills: Sequence[Kill],
    seed: int,
    gap: int,
    expected: dict[str, str],
    usual: Watch,
) -> tuple[list[str], Proxy]:
    """What is not as it must be, and the proxy that knows the faults.

    expected, usual : contents and lengths of stages of the sweep in a folder
    """
    with s3_server.serving() as server, Proxy(server, drawn(seed, gap)) as proxy:
        with s3_server.exported(proxy.url), on_s3(folder, PREFIX, flags) as sweep:
            for kill in kills:
                _strike(sweep, kill, usual)
            started = time.monotonic()
            sweep.finish()
            print(f"the last resume: {time.monotonic() - started:.1f} s", flush=True)
            again = sweep.finish()
        with s3_server.exported(server):
            root = Storage(PREFIX)
            wrong = [f"{piece} differs" for piece in differing(expected, contents(root))]
            wrong += [f"a key is in {path}" for path in s3_server.revealing(everything(root))]
    if "nothing is missing" not in again:
        wrong.append(f"the finished sweep, run again, found something to do; see {sweep.log}")
    if s3_server.revealing([("log", sweep.log.read_bytes())]):
        wrong.append(f"a key is in {sweep.log}")
    if sweep.store.exists():
        wrong.append(f"{sweep.store} was made, though the store is {PREFIX}")
    return wrong, proxy


def _strike(sweep: Sweep, kill: Kill, usual: Watch) -> None:
    started = time.monotonic()
    try:
        struck = sweep.strike(kill, usual.usual(kill.stage))
        what = f"cut off {' '.join(struck.hit) or 'nothing'}"
    except Missed as missed:
        what = str(missed)
    print(f"{kill.stage:10}  victim {kill.victim:6}  {what}  {time.monotonic() - started:.1f} s", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0, help="of the faults (default: %(default)s)")
    parser.add_argument("--gap", type=int, default=5, help="requests between two faults (default: %(default)s)")
    parser.add_argument("--short", action="store_true", help="one kill of a smaller sweep")
    parser.add_argument("--folder", type=Path, help="for the local store and logs; kept (default: a temporary one)")
    options = parser.parse_args()
    for number in (signal.SIGTERM, signal.SIGHUP):  # so that the sweep is ended as well
        signal.signal(number, lambda received, frame: sys.exit(128 + received))
    folder = (options.folder or Path(tempfile.mkdtemp(prefix="s3-faults-"))).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    flags, kills = (SHORT, KILLS[1:2]) if options.short else (FLAGS, KILLS)
    try:
        with Sweep(folder, "local", flags) as local:
            local.finish()
        expected = contents(Storage(local.store))
        wrong, proxy = experiment(folder, flags, kills, options.seed, options.gap, expected, local.watch)
    except KillsFailed as error:
        wrong = [str(error)]
    else:
        print(f"\n{proxy.table()}\n{len(expected)} pieces compared with those of {local.store}")
        if proxy.faults.total() < FAULTS:
            wrong.append(f"{proxy.faults.total()} faults, expected were at least {FAULTS}")
        missing = {*KINDS, *([CONFLICT] if not options.short else [])} - {kind for _, _, kind in proxy.faults}
        wrong += [f"there was no fault of kind {kind}" for kind in sorted(missing)]
    for sentence in wrong:
        print(f"s3: {sentence}", file=sys.stderr)
    if wrong or options.folder:
        print(f"store and logs are in {folder}")
    else:
        shutil.rmtree(folder)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
