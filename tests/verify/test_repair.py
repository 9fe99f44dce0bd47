"""What `distsim repair` drops: what is damaged, what cannot stand without it, and nothing else."""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from faults import flips
from faults.flips import Damage
from sweep_scripts import Outcome, outcome

from distsim.cli import main as cli
from distsim.environment import EnvironmentDrift
from distsim.specs import NetworkId, canonical_json
from distsim.store import DamagedStore, Lease, Mark, Storage, StorageError, SweepStore
from distsim.store.commits import Attempt, read_mark
from distsim.verify.repair import Action, carry_out, planned
from distsim.verify.report import DAMAGED, FOREIGN, LEFTOVER, UNREAD
from distsim.verify.store import verify_store


@pytest.fixture(autouse=True, scope="module")
def undrawn() -> Iterator[None]:
    with flips.undrawn():
        yield


def changed(root: Path, *patterns: str) -> list[str]:
    """Flip a bit in the first file of each pattern; their paths in the store."""
    found = []
    for pattern in patterns:
        file = sorted(root.glob(pattern))[0]
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
        found.append(file.relative_to(root).as_posix())
    return found


def actions(root: Path, **choices: bool) -> list[tuple[str, str]]:
    """What would be done but for leftovers, as (what, path)."""
    found = planned(Storage(root), verify_store(Storage(root)), **choices)
    return [(action.what, f"{action.problem}/{action.path}".lstrip("/")) for action in found if action.what != "remove"]


def repair(root: Path, *flags: str) -> Outcome:
    return outcome(lambda: cli.main(["repair", str(root), *flags]))


TABLES = ("delete", "digits/results/COMMIT.json")
PAIR_TABLES = ("delete", "digits/pair_results/COMMIT.json")
COMPLETE = "digits/complete/attempt-*/weights.safetensors"


# --- repaired and run again, the store is as it was -------------------------------------------------------------------


def flipped(kept: Path, pattern: str) -> Damage:
    file = next(file for file in sorted(kept.glob(pattern)) if flips.LEFT not in str(file))
    return Damage("flip", file.relative_to(kept).as_posix(), bit=file.stat().st_size * 4)


def test_one_of_everything(kept: Path) -> None:
    patterns = [
        COMPLETE,
        "digits/complete/activations/attempt-*/out/c/0/0",
        "digits/runs/0001/iter_01/COMMIT.json",
        "digits/runs/0001/iter_02/activations/attempt-2-*/pool1/zarr.json",
        "digits/runs/0000/iter_02/comparison/fc1/*.json",
        "digits/runs/0000/iter_01/chance/fc1/*.json",
        "digits/pairs/out/*.json",
        "digits/results/summary.csv",
        "digits/pair_results/runs/pairs.csv",
        "figures/fig1.png",
    ]
    assert flips.repaired(kept, [flipped(kept, pattern) for pattern in patterns]) == []


@pytest.mark.parametrize(
    "damages",
    [
        ("spec.json", "complete/attempt-*/masks.safetensors"),
        ("request.json", "runs/0001/iter_01/activations/COMMIT-2.json"),
    ],
    ids=["spec", "request"],
)
def test_with_the_sweep_script(kept: Path, damages: tuple[str, ...]) -> None:
    assert flips.repaired(kept, [flipped(kept, f"digits/{pattern}") for pattern in damages]) == []


@pytest.mark.parametrize(
    "path",
    [
        "digits/runs/0001/iter_01/COMMIT.json",
        "digits/runs/0001/iter_01/comparison/out/cka+cka_unbiased+cosine+mean_cca+nbs+pwcca+svcca.json",
        "digits/runs/0000/iter_01/activations/DROPPED.json",
    ],
)
def test_what_is_gone_comes_back(kept: Path, path: str) -> None:
    assert flips.repaired(kept, [Damage("deleted", path)]) == []


def test_the_end_of_a_generation_is_written_again(root: Path, store: SweepStore) -> None:
    """Nothing has to be computed: the second generation counts again."""
    before = store.digests()
    (root / "digits/runs/0001/iter_01/activations/DROPPED.json").unlink()
    assert store.activations_mark(NetworkId(1, 1)) is None
    assert actions(root) == [("restore", "digits/runs/0001/iter_01/activations/DROPPED.json")]
    assert repair(root).status == 0
    assert store.digests() == before


# --- what goes -------------------------------------------------------------------------------------------------------


def test_nothing_of_a_whole_store(root: Path) -> None:
    before = SweepStore(Storage(root), "digits").digests()
    status, out, err = repair(root, "--dry-run")
    assert (status, err) == (0, "")
    assert out.splitlines()[0].startswith("remove what is left over: 3 objects, ")
    assert repair(root).status == 0
    assert verify_store(Storage(root)).findings == (), "leftovers are gone"
    assert SweepStore(Storage(root), "digits").digests() == before
    assert repair(root).out == "nothing to repair\n"


def test_a_dry_run_changes_nothing(root: Path) -> None:
    changed(root, COMPLETE, "digits/spec.json")
    before = flips._contents(root)
    status, out, _ = repair(root, "--dry-run")
    assert status == 0
    assert "drop digits/complete: attempt-" in out
    assert "set aside digits/spec.json: is damaged: " in out
    assert out.endswith("dry run: nothing was changed\n")
    assert flips._contents(root) == before


def test_on_the_cpu_only_what_is_damaged_goes(root: Path) -> None:
    changed(root, COMPLETE, "digits/runs/0001/iter_01/attempt-*/masks.safetensors")
    assert actions(root) == [TABLES, ("drop", "digits/complete"), ("drop", "digits/runs/0001/iter_01")]


def test_what_is_left_of_a_damaged_network_goes_too(root: Path) -> None:
    """A training between two epochs, which another identity began."""
    left = root / "digits/runs/0000/iter_01"
    (file,) = (file for file in left.glob("attempt-*/weights.safetensors") if flips.LEFT not in str(file))
    changed(root, file.relative_to(root).as_posix())
    repair(root)
    derived = ["activations", "chance", "comparison", "logits", "se"]
    assert sorted(path.name for path in left.iterdir()) == ["DROPPED.json", *derived]
    assert verify_store(Storage(root)).whole


def test_activations_that_are_not_needed_any_more(root: Path) -> None:
    changed(root, "digits/runs/0001/iter_01/activations/attempt-2-*/out/c/0/0")
    assert actions(root) == [("drop", "digits/runs/0001/iter_01/activations")]
    store = SweepStore(Storage(root), "digits")
    extent = dataclasses.replace(store.request().extent, retention="reference")
    store.write_request(dataclasses.replace(store.request(), extent=extent))
    repair(root)
    report = verify_store(Storage(root))
    assert (report.whole, report.findings) == (True, ()), "nothing is missing either"


def edited(root: Path, edit: Callable[[Mark], Mark]) -> None:
    """Every mark of a piece, as if another machine or sweep had written it."""
    storage = Storage(root / "digits")
    for path in storage.sizes():
        if path.endswith(".json") and path.startswith(("complete", "runs", "pairs")) and "attempt" not in path:
            mark = read_mark(storage, path) if "DROPPED" not in path else None
            if mark is not None:
                storage.put(path, edit(mark).encode())


def on_a_gpu(root: Path, deterministic: bool = False) -> None:
    spec = root / "digits/spec.json"
    tree = json.loads(spec.read_bytes())
    tree["identity"]["deterministic"] = deterministic
    tree["hash"] = hashlib.sha256(canonical_json(tree["identity"]).encode()).hexdigest()
    spec.write_bytes(canonical_json(tree).encode())
    environment = {"device": "NVIDIA H200"}
    edited(
        root,
        lambda mark: dataclasses.replace(mark, identity=tree["hash"], environment=mark.environment | environment),
    )
    (root / "digits/layers.json").unlink()  # which is that of another identity
    for tables in ("results", "pair_results"):  # made from marks that were others
        (root / f"digits/{tables}/COMMIT.json").unlink()


def test_on_a_gpu_what_came_from_a_network_goes_with_it(root: Path) -> None:
    on_a_gpu(root)
    assert verify_store(Storage(root)).whole
    changed(root, "digits/runs/0001/iter_01/attempt-*/weights.safetensors")
    found = actions(root)
    dropped = {path for what, path in found if what == "drop"}
    start = "digits/runs/0001/iter_0"
    assert dropped == {start + n + piece for n in "12" for piece in ("", "/activations", "/logits")}
    deleted = {path for what, path in found if what == "delete"}
    assert {path for path in deleted if "/comparison/" in path} == {
        path.relative_to(root).as_posix() for path in (root / "digits/runs/0001").glob("iter_*/comparison/*/*.json")
    }
    assert len({path for path in deleted if "/pairs/" in path}) == 16, "all pairs are with run 1"
    assert len([path for path in deleted if "/se/" in path]) == 16
    assert len(deleted) == 16 + 16 + 16
    report = verify_store(Storage(root))
    carry_out(Storage(root), planned(Storage(root), report))
    assert verify_store(Storage(root)).whole


def test_on_a_gpu_a_later_iteration_goes_alone(root: Path) -> None:
    on_a_gpu(root)
    changed(root, "digits/runs/0001/iter_02/attempt-*/weights.safetensors")
    found = actions(root)
    start = "digits/runs/0001/iter_02"
    assert {path for what, path in found if what == "drop"} == {start, f"{start}/activations", f"{start}/logits"}
    pairs = [path for what, path in found if "/pairs/" in path]
    assert len(pairs) == 8, "those of iteration 2"


def test_on_a_gpu_everything_came_from_the_complete_network(root: Path) -> None:
    on_a_gpu(root)
    changed(root, COMPLETE)
    repair(root)
    report = verify_store(Storage(root))
    assert report.whole
    assert set(report.pieces) - {k for k, n in report.pieces.items() if not n} == {"set of figures"}


@pytest.mark.parametrize("pattern", ["activations/attempt-2-*/out/c/0/0", "comparison/out/*.json"])
def test_on_a_gpu_what_nothing_came_from_goes_alone(root: Path, pattern: str) -> None:
    on_a_gpu(root)
    changed(root, f"digits/runs/0001/iter_01/{pattern}")
    assert len(actions(root)) == 1


def test_a_gpu_that_repeats_itself_is_as_good_as_a_cpu(root: Path) -> None:
    on_a_gpu(root, deterministic=True)
    assert verify_store(Storage(root)).whole
    changed(root, "digits/runs/0001/iter_01/attempt-*/weights.safetensors")
    assert actions(root) == [("drop", "digits/runs/0001/iter_01")]


@pytest.mark.parametrize("elsewhere", ["torch", "device"])
def test_a_complete_network_that_would_not_come_out_here(root: Path, elsewhere: str) -> None:
    """The next run could not notice: what it compares with is the complete network's mark."""
    if elsewhere == "device":
        on_a_gpu(root, deterministic=True)
    else:
        edited(root, lambda mark: dataclasses.replace(mark, environment=mark.environment | {"torch": "1.0"}))
    changed(root, COMPLETE)
    report = verify_store(Storage(root))
    with pytest.raises(EnvironmentDrift, match=r"digits: the complete network .*(torch: .*1\.0|GPU)"):
        planned(Storage(root), report)
    before = flips._contents(root / "digits")
    status, out, err = repair(root)
    assert (status, out) == (1, "")
    assert err.startswith("distsim: digits: the complete network must be trained again, and here it would not")
    assert flips._contents(root / "digits") == before
    dropped = {path for what, path in actions(root, allow_drift=True) if what == "drop"}
    assert len(dropped) == 15, "everything came from it"


def test_of_another_machines_pruned_network_only_itself_goes(root: Path) -> None:
    """Elsewhere the next run refuses to go on."""
    edited(root, lambda mark: dataclasses.replace(mark, environment=mark.environment | {"torch": "1.0"}))
    changed(root, "digits/runs/0001/iter_01/attempt-*/weights.safetensors")
    assert actions(root) == [TABLES, ("drop", "digits/runs/0001/iter_01")]


def test_a_tile_of_pairs_goes_with_its_tables(root: Path) -> None:
    (path,) = changed(root, "digits/pairs/out/*.json")
    assert actions(root) == [("delete", path), PAIR_TABLES]
    assert "then distsim pairs" in repair(root).out


# --- specs, requests, leftovers --------------------------------------------------------------------------------------


def test_a_spec_and_a_request_are_set_aside(root: Path) -> None:
    """Their text may say with which flags the sweep was asked for."""
    changed(root, "digits/spec.json")
    (root / "digits/request.json").write_bytes(b"{")
    texts = [(root / f"digits/{name}.json").read_bytes() for name in ("spec", "request")]
    out = repair(root).out
    assert "then run the sweep script with the same flags as before" in out
    assert [(root / f"digits/{name}.json.damaged").read_bytes() for name in ("spec", "request")] == texts
    report = verify_store(Storage(root))
    assert report.whole
    assert not report.of(FOREIGN, LEFTOVER)
    assert flips.sweep(root, "--retention", "all") == 0
    report = verify_store(Storage(root))
    assert {finding.object for finding in report.of(LEFTOVER)} == {"spec.json.damaged", "request.json.damaged"}
    repair(root)
    assert verify_store(Storage(root)).findings == ()


def test_a_spec_of_another_version_is_left_alone_with_all_its_pieces(root: Path) -> None:
    spec = root / "digits/spec.json"
    tree = json.loads(spec.read_bytes())
    tree["identity"]["format"] -= 1
    tree["hash"] = hashlib.sha256(canonical_json(tree["identity"]).encode()).hexdigest()
    spec.write_bytes(canonical_json(tree).encode())
    edited(root, lambda mark: dataclasses.replace(mark, identity=tree["hash"]))
    changed(root, COMPLETE)
    before = flips._contents(root / "digits")
    status, out, _ = repair(root)
    assert status == 1
    assert "left alone: digits/spec.json: was written by another distsim: its format is " in out
    assert flips._contents(root / "digits") == before


def test_what_cannot_be_read_is_left_alone(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    get = Storage.get

    def failing(self: Storage, path: str, most: int | None = None) -> bytes | None:
        if path.endswith("rewind.safetensors"):
            raise StorageError(f"cannot read {path}: timed out")
        return get(self, path, most)

    monkeypatch.setattr(Storage, "get", failing)
    assert [what for what, _ in actions(root)] == []
    status, out, _ = repair(root)
    assert status == 1
    assert "left alone: digits/complete: cannot be read: " in out
    monkeypatch.undo()
    assert verify_store(Storage(root)).findings == ()


def test_leftovers_go_and_what_nobody_knows_stays(root: Path) -> None:
    planted = {
        "digits/complete/attempt-0123456789ac/masks.safetensors": False,
        "digits/runs/0001/iter_01/activations/COMMIT.json": False,
        "digits/runs/0009/iter_01/attempt-0123456789ac/x": False,
        "digits/runs/0001/iter_02/attempt-0123456789ac/weights.safetensors#12": False,
        "digits/runs/0001/iter_02/COMMIT.json#12": False,
        "Homework #2": True,
        "digits/runs/0001/Homework #2": True,
        "tune/x#3": True,
        f"probe-{'0' * 32}": False,
        "digits/notes.txt": True,
        "digits/results/own.csv": True,
        "readme": True,
        "elsewhere/x": True,
    }
    for path in planted:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(b"{}")
    assert repair(root).status == 0
    assert {path: (root / path).exists() for path in planted} == planted
    report = verify_store(Storage(root))
    assert not report.of(DAMAGED, UNREAD, LEFTOVER)
    assert len(report.of(FOREIGN)) == 4


def test_a_late_writer_cannot_name_what_was_removed(root: Path, store: SweepStore) -> None:
    attempt = Attempt(store.storage, "runs/0007/iter_01")
    attempt.put("weights.safetensors", b"x")
    repair(root)
    with pytest.raises(DamagedStore, match="was dropped while it was being written"):
        attempt.commit()
    (found,) = verify_store(Storage(root)).findings
    assert (found.object, found.severity) == ("runs/0007/iter_01/COMMIT.json", LEFTOVER)
    repair(root)


def test_a_writer_that_commits_just_before_keeps_its_piece(root: Path, store: SweepStore) -> None:
    repair(root)
    attempt = Attempt(store.storage, "runs/0007/iter_01")
    attempt.put("weights.safetensors", b"x")
    todo = planned(Storage(root), verify_store(Storage(root)))
    assert [action.what for action in todo] == ["end"]
    like = store.mark(NetworkId(1, 1))
    assert like is not None
    mark = attempt.commit(values=like.values | {"run": 7})
    carry_out(Storage(root), todo)
    assert store.mark(NetworkId(7, 1)) == mark


@pytest.mark.parametrize("flags", [(), ("--problem", "digits"), ("--dry-run",)])
def test_a_folder_without_a_sweep_is_left_as_it_is(tmp_path: Path, flags: tuple[str, ...]) -> None:
    (tmp_path / "mine").write_bytes(b"1")
    status, out, err = repair(tmp_path, *flags)
    assert (status, out, err) == (1, "", f"distsim: no sweep in {tmp_path}\n")
    assert [path.name for path in tmp_path.rglob("*")] == ["mine"]


def test_another_driver_at_work(root: Path) -> None:
    changed(root, COMPLETE)
    with Lease(Storage(root), lambda line: None):
        before = flips._contents(root / "digits")
        status, out, err = repair(root)
        assert (status, out) == (1, "")
        assert err.startswith(f"distsim: another driver is at work in {root}: process ")
        assert flips._contents(root / "digits") == before
        assert repair(root, "--dry-run").status == 0, "to look is no work"


def test_a_driver_that_was_taken_over_stops(root: Path) -> None:
    def taken() -> None:
        raise StorageError("another driver took over")

    with pytest.raises(StorageError, match="took over"):
        carry_out(Storage(root), [Action("drop", "digits", "complete", "")], taken)
    assert verify_store(Storage(root)).whole
