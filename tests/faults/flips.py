"""Damages a finished store in one place after the other; each time `distsim verify` must name it.

    python tests/faults/flips.py --flips 1000 --losses 100 --forgeries 200 --repairs 16 --seed 0

The store is that of a small digits sweep, all activations kept, some of them dropped and written again, with pairs of
runs compared and with the remains of interrupted writers. A damage is one bit flipped, or an object deleted, emptied,
cut, doubled or replaced by another's content; the object is drawn by its kind, among all objects, or by bytes, a third
each. A forgery is a damage under digests that are right, as a stranger's program could write it: a mark one of whose
fields is of another type, or the mark of another network's piece with all its objects, as it is or made to say that it
belongs here. A damage counts as

    found     verify says that the object, or its piece, is damaged
    noted     verify names it, but not as damaged: its text changed but not its meaning, it has no mark, it is left over
    harmless  verify does not name it, and all that any reader reads of the store is what it was
    silent    none of these: must not be

With every forgery in place, `distsim digest`, `status` and `report` must end in a sentence.

Of some of what was found the store is then repaired and run again: the digests must be those of before, and nothing
but what was dropped may have been written. Exit status 0: nothing was silent, every repair led back. The tables that
are printed are those of docs/reliability.md.
"""

import argparse
import contextlib
import dataclasses
import hashlib
import io
import json
import multiprocessing
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from unittest import mock

import safetensors.torch
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # where pytest, too, imports `invariants` from

from invariants import store_faults

from distsim.cli import main as cli
from distsim.cli import sweeps
from distsim.problems import PROBLEMS
from distsim.specs import NetworkId, canonical_json, digest
from distsim.store import Storage, SweepStore, logits, problems_in
from distsim.store.activations import Reader
from distsim.store.commits import decode_mark
from distsim.store.paths import place_of
from distsim.verify.repair import planned
from distsim.verify.report import DAMAGED, UNREAD, Report
from distsim.verify.store import verify_store

FLAGS = ("--local", "--device", "cpu", "--runs", "2", "--iterations", "2", "--epochs", "2")
FLAGS = (*FLAGS, "--train-limit", "200", "--probe", "60", "--control", "none")
LOSSES = ("deleted", "emptied", "cut", "last byte gone", "doubled", "replaced")
FORGERIES = ("field of another type", "another's piece", "another's piece, renamed")
OUTCOMES = ("found", "noted", "harmless", "silent")
T = TypeVar("T")


class FlipsFailed(RuntimeError):
    """A store could not be made, repaired or run."""


@dataclass(frozen=True)
class Damage:
    """One object, damaged in one way."""

    how: str  # flip, or of LOSSES or FORGERIES
    path: str
    bit: int = 0  # that is flipped; of `cut`, bytes that stay
    other: str = ""  # the object whose content is put in its place
    content: bytes = b""  # that is put in its place

    def changes(self, root: Path) -> dict[str, bytes | None]:
        """Path -> the content as it is then, of every object that is changed; None where the object is gone."""
        changes = {self.path: self.done_to((root / self.path).read_bytes(), root)}
        if self.other and self.how in FORGERIES:
            folder, attempt = (root / self.other).parent, decode_mark(self.content).attempt
            for file in folder.glob(f"attempt-{attempt}/**/*"):
                if file.is_file():
                    path = (root / self.path).parent / file.relative_to(folder)
                    changes[path.relative_to(root).as_posix()] = file.read_bytes()
        return changes

    def done_to(self, content: bytes, root: Path) -> bytes | None:
        """The content as it is then; None where the object is gone."""
        match self.how:
            case "flip":
                changed = bytearray(content)
                changed[self.bit // 8] ^= 1 << self.bit % 8
                return bytes(changed)
            case "deleted":
                return None
            case "emptied":
                return b""
            case "cut":
                return content[: self.bit]
            case "last byte gone":
                return content[:-1]
            case "doubled":
                return content * 2
            case _ if self.content:
                return self.content
            case _:
                return (root / self.other).read_bytes()


KINDS = (  # of objects, by what their paths end with or hold
    ("spec", lambda path: path.endswith("/spec.json")),
    ("request", lambda path: path.endswith("/request.json")),
    ("lease, Tune's files", lambda path: path.startswith(("lease/", "tune/"))),
    ("figures", lambda path: path.startswith("figures/")),
    ("report", lambda path: path == "report.html"),
    ("tables", lambda path: "/results/" in path),
    ("tables of pairs", lambda path: "/pair_results/" in path),
    ("pairs", lambda path: "/pairs/" in path),
    ("comparisons", lambda path: "/comparison/" in path),
    ("chance", lambda path: "/chance/" in path),
    ("ends of generations", lambda path: "/DROPPED" in path),
    ("leftovers", lambda path: LEFT in path or "/epoch/" in path),
    ("marks of activations", lambda path: "/activations/COMMIT" in path),
    ("test logits", lambda path: "/logits/" in path),
    ("marks of networks", lambda path: "/COMMIT" in path),
    ("metadata of activations", lambda path: path.endswith("/zarr.json")),
    ("chunks of activations", lambda path: "/activations/" in path),
    ("weights, masks, probe", lambda path: True),
)
LEFT = "attempt-0123456789ab"  # of a writer that was interrupted


def kind_of(path: str) -> str:
    return next(kind for kind, holds in KINDS if holds(path))


# --- the store -------------------------------------------------------------------------------------------------------


def make(folder: Path, *flags: str) -> None:
    """A finished store with everything in it that a store may have."""
    for retention in ("reference", "all"):  # activations are dropped, and written again
        _quietly(lambda retention=retention: sweep(folder, "--retention", retention, *flags))
    _quietly(lambda: cli.main(["pairs", str(folder), "--local", "--plan", "runs"]))
    network = folder / "digits/runs/0000/iter_01"
    for name in (f"{LEFT}/weights.safetensors", f"activations/{LEFT}/conv1_1/c/0/0/0/0"):
        (network / name).parent.mkdir(parents=True)
        (network / name).write_bytes(b"not finished" * 50)
    about = canonical_json({"identity": "0" * 64, "environment": {}, "values": {"losses": []}})
    epoch = safetensors.torch.save({"weight": torch.zeros(200)}, metadata={"about": about})
    (network / "epoch").mkdir()
    (network / f"epoch/{hashlib.sha256(epoch).hexdigest()}.safetensors").write_bytes(epoch)
    (folder / "tune").mkdir()
    (folder / "tune/progress.csv").write_text("a,b\n1,2\n")


def sweep(folder: Path, *flags: str) -> int:
    return sweeps.main(PROBLEMS["digits"], arguments=[*FLAGS, *flags, "--storage", str(folder)])


@contextlib.contextmanager
def undrawn() -> Iterator[None]:
    """Figures take most of a small sweep's time: for the length of the block, files that only have their names."""
    with (
        mock.patch("distsim.results.figures.draw_all", return_value={"fig1": "first", "fig2": "second"}),
        mock.patch("distsim.results.pairs._figures", return_value={"runs": "pairs"}),
        mock.patch("distsim.plotting.render", lambda figure, format: f"{format} of the {figure}".encode() * 20),
    ):
        yield


def _quietly(work: Callable[[], int]) -> str:
    """What it printed. FlipsFailed: it did not end well."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        status = work()
    if status:
        raise FlipsFailed(said.getvalue())
    return said.getvalue()


def files(root: Path) -> dict[str, int]:
    """Path -> bytes of every file."""
    found = {path.relative_to(root).as_posix(): path.stat().st_size for path in root.rglob("*") if path.is_file()}
    return dict(sorted(found.items()))


def reading(root: Path) -> str:
    """A digest of all that can be read of a store by what reads it: other than verify, the readers themselves."""
    said: list[object] = []
    storage = Storage(root)
    for name in problems_in(storage):
        store = SweepStore(storage, name)
        contents = store.contents()
        said += [name, store.identity().hash, store.request(), store.digests(), sorted(contents.networks)]
        for network in sorted(contents.networks):
            step = store.load_network(network)
            for tensors in (step.weights, step.masks, step.rewind or {}):
                said += [_sha256(tensors[key].numpy().tobytes()) for key in sorted(tensors)]
        for network in sorted(contents.activations):
            said += list(_values(store, network))
        for network in sorted(contents.logits):
            mark = store.piece_mark(network, "logits")
            assert mark is not None
            said.append(_sha256(logits.read(store, network, mark).margins.tobytes()))
        for folder in ("results", "pair_results"):
            said += _contents(root / name / folder).items()
    said += _contents(root / "figures").items()
    return _sha256(repr(said).encode())


def _values(store: SweepStore, network: NetworkId) -> Iterator[str]:
    mark = store.activations_mark(network)
    assert mark is not None
    reader = Reader(store.storage, store.activations_path(network), mark)
    for layer in reader.layers:
        yield _sha256(reader.layer(layer).read().tobytes())


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


# --- damages ---------------------------------------------------------------------------------------------------------


def drawn(rng: random.Random, sizes: dict[str, int], how: str) -> Damage:
    """A damage of this kind to an object of a drawn kind, to any object, or to any byte."""
    paths = [path for path, size in sizes.items() if size]
    by_kind: dict[str, list[str]] = {}
    for path in paths:
        by_kind.setdefault(kind_of(path), []).append(path)
    match rng.randrange(3):
        case 0:
            path = rng.choice(by_kind[rng.choice(sorted(by_kind))])
        case 1:
            path = rng.choice(paths)
        case _:
            (path,) = rng.choices(paths, [sizes[path] for path in paths])
    alike = [other for other in by_kind[kind_of(path)] if other != path]
    other = rng.choice(alike if alike and rng.random() < 0.7 else paths)
    return Damage(how, path, rng.randrange(sizes[path] * (8 if how == "flip" else 1)), other)


def forged(rng: random.Random, root: Path, how: str) -> Damage:
    """A forgery of this kind, of a mark of a drawn kind."""
    marks = {path: place for path in files(root) if (place := place_of(path.removeprefix("digits/")))}
    marks = {path: place for path, place in marks.items() if not place.dropped}
    kind = rng.choice(sorted({place.kind for place in marks.values()}))
    path, place = rng.choice([(path, place) for path, place in marks.items() if place.kind == kind])
    if how == FORGERIES[0]:
        return Damage(how, path, content=_of_another_type(rng, (root / path).read_bytes()))
    others = [
        other
        for other, its in marks.items()
        if (its.kind, its.layer, its.generation) == (kind, place.layer, place.generation)
        and its.network not in (None, place.network)
    ]
    if not others:
        return forged(rng, root, how)
    content = (root / (other := rng.choice(others))).read_bytes()
    if how == FORGERIES[2]:
        mark = decode_mark(content)
        content = dataclasses.replace(mark, provenance=mark.provenance | {"piece": place.piece}).encode()
    return Damage(how, path, other=other, content=content)


def _of_another_type(rng: random.Random, content: bytes) -> bytes:
    """A mark in which a drawn field has a value of another type. Its digest is right."""
    tree = json.loads(content)
    del tree["sha256"]
    fields: list[tuple[Any, Any]] = []
    below: list[Any] = [tree]
    while below:
        node = below.pop()
        keys = list(node) if isinstance(node, dict) else range(len(node))
        fields += [(node, key) for key in keys]
        below += [node[key] for key in keys if isinstance(node[key], dict | list)]
    node, key = rng.choice(fields)
    node[key] = rng.choice([new for new in (None, True, "text", [], [[1]], {}, {"a": 1}) if new != node[key]])
    return canonical_json(tree | {"sha256": digest(tree)}).encode()


@contextlib.contextmanager
def damaged(root: Path, damage: Damage) -> Iterator[bool]:
    """The store with the damage, for the length of the block; whether anything is changed by it."""
    changes = damage.changes(root)
    before = {path: (root / path).read_bytes() if (root / path).exists() else None for path in changes}
    _put(root, changes)
    try:
        yield changes != before
    finally:
        _put(root, before)


def _put(root: Path, contents: dict[str, bytes | None]) -> None:
    for path, content in contents.items():
        if content is None:
            (root / path).unlink()
            with contextlib.suppress(OSError):
                (root / path).parent.rmdir()
        else:
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_bytes(content)


def judged(root: Path, damage: Damage, healthy: Report, before: str) -> str:
    """Of OUTCOMES, what this damage to the store leads to; before : what could be read of it."""
    new = set(verify_store(Storage(root)).findings) - set(healthy.findings)
    naming = [finding for finding in new if _names(str(finding.problem), finding.piece, finding.object, damage.path)]
    if any(finding.severity in (DAMAGED, UNREAD) for finding in naming):
        return "found"
    if naming:
        return "noted"
    with contextlib.suppress(Exception):  # a reader that stumbles is not harmless
        if reading(root) == before:
            return "harmless"
    return "silent"


def _names(problem: str, piece: str, path: str | None, damaged: str) -> bool:
    """Whether a finding is about the damaged object, or about the piece that it is of."""
    start = f"{problem}/" if problem else ""
    if damaged in (f"{start}{piece}", f"{start}{path}"):
        return True
    inside = damaged.removeprefix(f"{start}{piece}/")
    return inside != damaged and inside.split("/")[0] not in (
        "activations",
        "logits",
        "comparison",
        "chance",
    )


# --- repairs ---------------------------------------------------------------------------------------------------------


def repaired(kept: Path, damages: Sequence[Damage]) -> list[str]:
    """Damage a copy of the store, repair it, run it again; what is then not as it was."""
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(shutil.copytree(kept, Path(scratch) / "store"))
        expected, before = _digests(kept), _contents(kept)
        for damage in damages:
            _put(root, damage.changes(root))
        actions = planned(Storage(root), verify_store(Storage(root)))
        _quietly(lambda: cli.main(["repair", str(root)]))
        left = verify_store(Storage(root))
        lost = not (root / "digits/spec.json").exists()
        wrong = [] if left.whole or lost else [f"after repair: {finding}" for finding in left.of(DAMAGED, UNREAD)]
        if lost or not (root / "digits/request.json").exists():
            _quietly(lambda: sweep(root, "--retention", "all"))
        else:
            _quietly(lambda: cli.main(["run", str(root), "--local"]))
        _quietly(lambda: cli.main(["pairs", str(root), "--local", "--plan", "runs"]))
        wrong += [f"after the run: {finding}" for finding in verify_store(Storage(root)).of(DAMAGED, UNREAD)]
        found, after = _digests(root), _contents(root)
        wrong += [
            f"{piece} differs" for piece in expected.keys() | found.keys() if expected.get(piece) != found.get(piece)
        ]
        touched = tuple(f"{action.problem}/{action.path}".lstrip("/") for action in actions)
        free = (*touched, *(d.path for d in damages), "lease/", "figures/", "digits/results/", "digits/pair_results/")
        for path in before.keys() | after.keys():
            if before.get(path) != after.get(path) and not path.startswith(free) and kind_of(path) != "leftovers":
                wrong.append(f"{path} was written though nothing of its piece was damaged")
        return wrong


def _repaired(kept: Path, damages: Sequence[Damage]) -> tuple[list[str], float]:
    """What is then not as it was, and how many seconds it took."""
    started = time.monotonic()
    return repaired(kept, damages), time.monotonic() - started


def _digests(root: Path) -> dict[str, str]:
    return SweepStore(Storage(root), "digits").digests()


def _contents(root: Path) -> dict[str, str]:
    return {path: _sha256((root / path).read_bytes()) for path in files(root)}


# --- the experiment --------------------------------------------------------------------------------------------------


@dataclass
class Counts:
    """How many damages of each kind came to what."""

    rows: dict[str, Counter[str]]

    def add(self, kind: str, outcome: str) -> None:
        self.rows.setdefault(kind, Counter())[outcome] += 1

    def table(self, heading: str, order: Sequence[str]) -> str:
        """Markdown."""
        lines = [f"| {heading} | damages | {' | '.join(OUTCOMES)} |", "|---|" + "--:|" * (1 + len(OUTCOMES))]
        total: Counter[str] = Counter()
        for kind in [kind for kind in order if kind in self.rows]:
            lines.append(self._line(kind, self.rows[kind]))
            total += self.rows[kind]
        return "\n".join([*lines, self._line("all", total)])

    @staticmethod
    def _line(kind: str, row: Counter[str]) -> str:
        return f"| {kind} | {row.total()} | {' | '.join(str(row[outcome]) for outcome in OUTCOMES)} |"


def experiment(
    root: Path, flips: int, losses: int, forgeries: int, seed: int, jobs: int = 1
) -> tuple[Counts, Counts, list[tuple[Damage, str]]]:
    """By kind of object, by kind of damage, and each damage with what it led to. jobs : processes, each with a copy"""
    healthy, before = verify_store(Storage(root)), reading(root)
    if not healthy.whole:
        raise FlipsFailed(f"the store is damaged before anything was done: {healthy.of(DAMAGED, UNREAD)}")
    for problem in problems_in(Storage(root)):
        if faults := store_faults(SweepStore(Storage(root), problem)):
            raise FlipsFailed(f"the store is not what a sweep computes: {faults}")
    damages = all_drawn(root, flips, losses, forgeries, seed)
    shares = [damages[job::jobs] for job in range(jobs)]
    outcomes = in_turn(at_once(_outcomes, [(root, share, healthy, before) for share in shares], jobs))
    by_object, by_damage = Counts({}), Counts({})
    judgements = []
    for damage, outcome in zip(damages, outcomes, strict=True):
        by_object.add(kind_of(damage.path), outcome)
        by_damage.add(damage.how, outcome)
        judgements.append((damage, outcome))
    return by_object, by_damage, judgements


def in_turn(shares: Sequence[Sequence[T]]) -> list[T]:
    """What was dealt out, one to each share in turn, in its order."""
    return [shares[n % len(shares)][n // len(shares)] for n in range(sum(map(len, shares)))]


def all_drawn(root: Path, flips: int, losses: int, forgeries: int, seed: int) -> list[Damage]:
    """As many damages of each kind as are asked for, each of which changes something."""
    rng, sizes = random.Random(seed), files(root)
    hows = ["flip"] * flips
    for number, kinds in ((losses, LOSSES), (forgeries, FORGERIES)):
        hows += [kinds[n % len(kinds)] for n in range(number)]
    damages: list[Damage] = []
    while hows:
        damage = forged(rng, root, hows[-1]) if hows[-1] in FORGERIES else drawn(rng, sizes, hows[-1])
        with damaged(root, damage) as changes:
            if not changes:
                continue  # an object replaced by one of the same content: draw another
        hows.pop()
        damages.append(damage)
    return damages


def _outcomes(kept: Path, damages: Sequence[Damage], healthy: Report, before: str) -> list[str]:
    """What each damage to a copy of the store leads to. FlipsFailed: the copy is not as it was in the end."""
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(shutil.copytree(kept, Path(scratch) / "store"))
        outcomes = []
        for damage in damages:
            with damaged(root, damage):
                outcomes.append(judged(root, damage, healthy, before))
                if damage.how in FORGERIES:
                    _commands_end_in_a_sentence(root, damage)
        if reading(root) != before:
            raise FlipsFailed("the store is not as it was, though every damage was undone")
        return outcomes


def at_once(work: Callable[..., T], calls: Sequence[tuple[Any, ...]], jobs: int) -> list[T]:
    """What the work returns for the arguments of each call, made in so many processes; of one job, in this one."""
    if jobs == 1:
        return [work(*call) for call in calls]
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn")) as pool:
        return list(pool.map(work, *zip(*calls, strict=True)))


def _commands_end_in_a_sentence(root: Path, damage: Damage) -> None:
    """Run them on a copy, since a report writes. FlipsFailed: one of them ended in an error that nobody caught."""
    with tempfile.TemporaryDirectory() as scratch:
        copy = str(shutil.copytree(root, Path(scratch) / "store"))
        for command in ("digest", "status", "report"):
            try:
                with contextlib.suppress(FlipsFailed):
                    _quietly(lambda command=command: cli.main([command, copy]))
            except Exception as error:
                raise FlipsFailed(f"{command} of a store with {damage} ends in {error!r}") from error


def sample(judgements: Sequence[tuple[Damage, str]], count: int) -> list[Damage]:
    """Damages that were found: of each kind of object one, what takes most to do again first, then others."""
    found = [damage for damage, outcome in judgements if outcome in ("found", "noted")]
    by_kind = {kind_of(damage.path): damage for damage in found}
    of_kinds = [by_kind[kind] for kind, _ in reversed(KINDS) if kind in by_kind]
    return [*of_kinds, *(damage for damage in found if damage not in of_kinds)][:count]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--flips", type=int, default=1000, help="single bits (default: %(default)s)")
    parser.add_argument("--losses", type=int, default=100, help="objects gone or cut (default: %(default)s)")
    parser.add_argument("--forgeries", type=int, default=200, help="under right digests (default: %(default)s)")
    parser.add_argument("--repairs", type=int, default=16, help="of these damages (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="(default: %(default)s)")
    parser.add_argument("--jobs", type=int, default=2, help="damages, or repairs, at a time (default: %(default)s)")
    parser.add_argument("--out", type=Path, help="a file for every damage and what it led to, as JSON lines")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="flips-") as folder:
        root = Path(folder) / "store"
        make(root)
        started = time.monotonic()
        by_object, by_damage, judgements = experiment(
            root, options.flips, options.losses, options.forgeries, options.seed, options.jobs
        )
        print(by_object.table("object", [kind for kind, _ in KINDS]))
        print("\n" + by_damage.table("damage", ("flip", *LOSSES, *FORGERIES)))
        print(f"\n{len(judgements)} damages in {time.monotonic() - started:.0f} s, {len(files(root))} objects")
        if options.out:
            options.out.write_text(
                "".join(
                    json.dumps([d.how, d.path, d.bit, d.other, d.content.decode(), o]) + "\n" for d, o in judgements
                )
            )
        wrong = [f"silent: {damage}" for damage, outcome in judgements if outcome == "silent"]
        chosen = sample(judgements, options.repairs)
        cases = [(root, damages) for damages in [[damage] for damage in chosen] + ([chosen] if chosen else [])]
        for (_, damages), (faults, seconds) in zip(cases, at_once(_repaired, cases, options.jobs), strict=True):
            what = f"{damages[0].how}, {damages[0].path}" if len(damages) == 1 else f"{len(damages)} damages at once"
            print(f"repair and run: {what}: {'NOT AS BEFORE' if faults else 'digests as before'}, {seconds:.1f} s")
            wrong += [f"{what}: {fault}" for fault in faults]
    for sentence in wrong:
        print(f"flips: {sentence}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
