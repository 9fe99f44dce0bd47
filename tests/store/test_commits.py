"""Commits: nothing counts without a mark, the first mark wins, and what it vouches for is checked when it is read."""

import hashlib
import json
import os
import queue
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distsim.store import DamagedStore, Mark, Storage, StorageError, commits
from distsim.store.commits import MARK, Attempt, drop, generation, read_mark, read_object, read_piece
from distsim.store.records import read_record

PIECE = "runs/0000/iter_01"


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(tmp_path)


def written(storage: Storage, *names: str, salt: bytes = b"") -> Attempt:
    attempt = Attempt(storage, PIECE)
    for name in names:
        attempt.put(name, name.encode() * 100 + salt)
    return attempt


def attempts(storage: Storage) -> list[str]:
    return [name for name in storage.folders(PIECE) if name.startswith("attempt-")]


def mark_of(storage: Storage) -> Mark | None:
    return read_mark(storage, f"{PIECE}/{MARK}")


def test_the_mark_names_every_object_with_size_and_digest(storage: Storage) -> None:
    attempt = written(storage, "weights", "deep/er/masks")
    attempt.put("empty", b"")
    mark = attempt.commit(
        values={"accuracy": 0.1}, identity="abc", environment={"threads": 1}, provenance={"host": "here"}
    )
    content = {"weights": b"weights" * 100, "deep/er/masks": b"deep/er/masks" * 100, "empty": b""}
    assert mark.objects == {name: (len(c), hashlib.sha256(c).hexdigest()) for name, c in content.items()}
    assert mark_of(storage) == mark
    assert mark.attempt == attempt.id
    assert (mark.values, mark.identity, mark.environment) == ({"accuracy": 0.1}, "abc", {"threads": 1})
    for name, expected in content.items():
        assert read_object(storage, PIECE, mark, name) == expected
    on_disk = storage.sizes(f"{PIECE}/attempt-{attempt.id}")
    assert on_disk == {f"{PIECE}/attempt-{attempt.id}/{name}": size for name, (size, _) in mark.objects.items()}


def test_the_mark_names_its_piece_and_is_refused_in_another_place(storage: Storage) -> None:
    own, other = f"{PIECE}/activations", "runs/0001/iter_01/activations"
    attempt = Attempt(storage, own)
    attempt.put("x", b"1")
    mark = attempt.commit()
    assert mark.provenance["piece"] == own
    storage.put(f"{other}/{MARK}", storage.get(f"{own}/{MARK}") or b"")
    assert read_record(storage, f"{own}/{MARK}") == mark
    with pytest.raises(DamagedStore, match=f"it belongs to '{own}'"):
        read_record(storage, f"{other}/{MARK}")


def test_the_mark_is_plain_json(storage: Storage) -> None:
    mark = written(storage, "x").commit(values={"a": 0.1})
    tree = json.loads(storage.get(f"{PIECE}/{MARK}") or b"")
    assert tree["attempt"] == mark.attempt
    assert tree["objects"]["x"] == [100, hashlib.sha256(b"x" * 100).hexdigest()]
    assert tree["values"] == {"a": 0.1}


def test_a_changed_value_in_a_mark_is_found(storage: Storage) -> None:
    written(storage, "x").commit(values={"accuracy": 0.75})
    content = storage.get(f"{PIECE}/{MARK}") or b""
    storage.put(f"{PIECE}/{MARK}", content.replace(b"0.75", b"0.85"))
    with pytest.raises(DamagedStore, match="does not match the digest"):
        mark_of(storage)


def test_an_object_put_twice_is_named_as_it_was_last(storage: Storage) -> None:
    attempt = written(storage, "x")
    attempt.put("x", b"again")
    mark = attempt.commit()
    assert read_object(storage, PIECE, mark, "x") == b"again"


def test_without_a_mark_there_is_nothing(storage: Storage) -> None:
    written(storage, "x", "y")
    assert mark_of(storage) is None


@pytest.mark.parametrize("first", [0, 1])
def test_the_first_mark_wins(storage: Storage, first: int) -> None:
    both = [written(storage, "x", salt=b"0"), written(storage, "x", "y", salt=b"1")]
    winner, loser = both[first], both[1 - first]
    mark = winner.commit(values={"who": first})
    assert attempts(storage) == [f"attempt-{winner.id}"], "the loser's objects are gone, the winner's are not"
    before = storage.sizes()
    assert loser.commit(values={"who": 1 - first}) == mark, "a late writer is told whose mark stands"
    assert mark_of(storage) == mark
    assert storage.sizes() == before
    assert read_object(storage, PIECE, mark, "x") == b"x" * 100 + str(first).encode()


def test_a_late_writer_that_goes_on_writing_changes_nothing(storage: Storage) -> None:
    late = written(storage, "x", salt=b"late")
    mark = written(storage, "x").commit()
    late.put("x", b"late")
    late.put("y", b"late")
    assert mark_of(storage) == mark
    assert late.commit() == mark
    assert attempts(storage) == [f"attempt-{mark.attempt}"]
    assert read_object(storage, PIECE, mark, "x") == b"x" * 100


def test_a_crashed_attempt_is_garbage_and_goes_with_the_next_commit(storage: Storage) -> None:
    crashed = written(storage, "x", "y")
    storage.put(f"{PIECE}/activations/kept", b"")
    mark = written(storage, "x").commit()
    assert f"attempt-{crashed.id}" not in storage.folders(PIECE)
    assert storage.folders(PIECE) == ["activations", f"attempt-{mark.attempt}"], "only attempts are swept"


def test_folders_of_others_beside_an_attempt_stay(storage: Storage, tmp_path: Path) -> None:
    others = ("attempt-mine", "attempt-XYZ", "attempt-0123456789ab copy", "attempt-01234567", "notes")
    for name in others:
        storage.put(f"{PIECE}/{name}/x", b"mine")
    written(storage, "x").commit()
    drop(storage, PIECE)
    assert {name: (tmp_path / PIECE / name / "x").read_bytes() for name in others} == dict.fromkeys(others, b"mine")


def test_other_pieces_are_left_alone(storage: Storage) -> None:
    other = Attempt(storage, PIECE + "0")  # a piece whose path begins alike
    other.put("x", b"other")
    inner = Attempt(storage, PIECE + "/activations")
    inner.put("x", b"inner")
    written(storage, "x").commit()
    for attempt, piece in ((other, PIECE + "0"), (inner, PIECE + "/activations")):
        assert read_object(storage, piece, attempt.commit(), "x") in (b"other", b"inner")


# --- damage ----------------------------------------------------------------------------------------------------------


def _remove(file: Path) -> None:
    file.unlink()


def _truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


def _empty(file: Path) -> None:
    file.write_bytes(b"")


def _flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[37] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize("damage", [_remove, _truncate, _empty, _flip])
def test_a_damaged_object_is_named(storage: Storage, tmp_path: Path, damage: Callable[[Path], None]) -> None:
    mark = written(storage, "weights", "masks").commit()
    damage(tmp_path / PIECE / f"attempt-{mark.attempt}" / "weights")
    with pytest.raises(DamagedStore, match=rf"{PIECE}/attempt-{mark.attempt}/weights .*{MARK}"):
        read_object(storage, PIECE, mark, "weights")
    assert read_object(storage, PIECE, mark, "masks") == b"masks" * 100


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff\xfe\x00",
        b"null",
        b"[]",
        b"{}",
        b'"COMMIT"',
        b'{"objects": {}}',
        b'{"attempt": "a", "objects": []}',
        b'{"attempt": "a", "objects": {"x": 3}}',
        b'{"attempt": "a", "objects": {"x": ["many", ""]}}',
        b'{"attempt": "a", "objects": {}, "unknown": 1}',
    ],
)
def test_a_damaged_mark_is_named(storage: Storage, content: bytes) -> None:
    storage.put(f"{PIECE}/{MARK}", content)
    with pytest.raises(DamagedStore, match=f"{PIECE}/{MARK} in .* is damaged"):
        read_mark(storage, f"{PIECE}/{MARK}")


@pytest.mark.parametrize("part", ["values", "environment", "provenance"])
def test_a_mark_whose_parts_are_no_tables_is_damaged(storage: Storage, part: str) -> None:
    """Whoever reads it would stumble."""
    storage.put(f"{PIECE}/{MARK}", Mark("0" * 12, {}, **{part: ["a"]}).encode())
    with pytest.raises(DamagedStore, match=f"field {part} must be an object, got"):
        read_mark(storage, f"{PIECE}/{MARK}")


def test_a_mark_cut_anywhere_is_damaged(storage: Storage) -> None:
    written(storage, "x").commit(values={"accuracy": 0.5}, identity="abc")
    content = storage.get(f"{PIECE}/{MARK}") or b""
    for length in range(0, len(content), 7):
        storage.put(f"{PIECE}/{MARK}", content[:length])
        with pytest.raises(DamagedStore):
            mark_of(storage)


# --- generations ------------------------------------------------------------------------------------------------------


def test_what_was_dropped_can_be_committed_again_and_again(storage: Storage) -> None:
    for number in (1, 2, 3):
        assert generation(storage, PIECE) == number
        mark = written(storage, "x", salt=bytes([number])).commit(values={"number": number})
        assert read_piece(storage, PIECE) == mark
        assert attempts(storage) == [f"attempt-{mark.attempt}"]
        assert read_object(storage, PIECE, mark, "x") == b"x" * 100 + bytes([number])
        drop(storage, PIECE)
        assert read_piece(storage, PIECE) is None
        assert attempts(storage) == []
    assert sorted(storage.sizes()) == [f"{PIECE}/DROPPED{number}.json" for number in ("-2", "-3", "")]


class Noted(Storage):
    """A storage that notes what is created and deleted."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.done: list[tuple[str, str]] = []

    def create(self, path: str, content: bytes) -> bool:
        self.done.append(("create", path))
        return super().create(path, content)

    def delete(self, paths: list[str]) -> None:
        self.done += [("delete", path) for path in paths]
        super().delete(paths)


def test_a_piece_ends_before_anything_of_it_is_removed(storage: Storage) -> None:
    mark = written(storage, "x").commit()
    noted = Noted(storage.url)
    drop(noted, PIECE)
    assert noted.done == [
        ("create", f"{PIECE}/DROPPED.json"),
        ("delete", f"{PIECE}/{MARK}"),
        ("delete", f"{PIECE}/attempt-{mark.attempt}/x"),
    ]


def test_a_writer_whose_piece_was_dropped_is_told_and_leaves_nothing(storage: Storage) -> None:
    late = written(storage, "x", salt=b"late")
    drop(storage, PIECE)
    mark = written(storage, "x").commit()
    with pytest.raises(DamagedStore, match=rf"{PIECE} in .* was dropped while it was being written"):
        late.commit()
    assert read_piece(storage, PIECE) == mark
    assert attempts(storage) == [f"attempt-{mark.attempt}"]


def test_a_writer_whose_objects_were_removed_is_told_and_leaves_no_mark(storage: Storage) -> None:
    """By somebody who did not drop the piece, such as a person who tidies up."""
    attempt = written(storage, "x", "y")
    storage.delete([f"{attempt.prefix}/y"])
    with pytest.raises(DamagedStore, match=r"attempt-.* was removed while it was being written"):
        attempt.commit()
    assert read_piece(storage, PIECE) is None
    mark = written(storage, "x", "y").commit()
    assert read_piece(storage, PIECE) == mark


def test_who_clears_up_after_an_earlier_generation_leaves_the_next_alone(storage: Storage) -> None:
    """A writer that was stopped between creating its mark and clearing up, for as long as two others needed."""
    first = written(storage, "x").commit()
    drop(storage, PIECE)
    under_way, mark = written(storage, "y"), written(storage, "x").commit()
    commits._sweep(storage, PIECE, 1, first.attempt)
    assert read_object(storage, PIECE, mark, "x") == b"x" * 100
    under_way = written(storage, "y")
    commits._sweep(storage, PIECE, 1, first.attempt)
    assert storage.get(f"{under_way.prefix}/y") is not None


def test_an_attempt_that_fails_takes_its_objects_along(storage: Storage) -> None:
    attempt = Attempt(storage, PIECE)
    attempt.put("x", b"half of it")
    with pytest.raises(ZeroDivisionError), attempt:
        raise ZeroDivisionError
    assert storage.sizes() == {}


@pytest.mark.parametrize("call", ["create", "get", "sizes", "folders"])
def test_a_line_that_drops_after_the_mark_was_made_harms_nothing(storage: Storage, call: str) -> None:
    """The writer does not know whether its mark is there, so it must leave its objects alone."""
    attempt = written(storage, "x", "y")

    class Dropping(Storage):
        def create(self, path: str, content: bytes) -> bool:
            made = super().create(path, content)
            for name in (call,) if call != "create" else ():
                setattr(self, name, self._drop)
            if call == "create":
                self._drop()
            return made

        def _drop(self, *arguments: Any) -> Any:
            raise StorageError("the line dropped")

    attempt.storage = Dropping(storage.url)
    with pytest.raises(StorageError, match="dropped"), attempt:
        attempt.commit()
    mark = mark_of(storage)
    assert mark is not None
    assert {name: read_object(storage, PIECE, mark, name) for name in mark.objects} == {
        "x": b"x" * 100,
        "y": b"y" * 100,
    }


def test_objects_are_on_disk_before_the_mark_says_so(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    fsync, link = os.fsync, os.link

    def synced(descriptor: int) -> None:
        events.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        fsync(descriptor)

    def linked(source: Path, target: Path) -> None:
        events.append(f"link {target}")
        link(source, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "link", linked)
    attempt = written(storage, "x", "deep/y")
    attempt.commit()
    folder = Path(storage.url) / PIECE
    created = events.index(f"link {folder / MARK}")
    objects = [f"{storage.url}/{attempt.prefix}/{name}" for name in ("x", "deep/y")]
    names = [folder, *(Path(name).parent for name in objects), Path(storage.url)]
    assert {*objects, *map(str, names)} <= set(events[:created])
    assert events[created - 1].startswith(f"{folder / MARK}#"), "the mark's own content, before it has its name"
    assert str(folder) in events[created:], "and its name"


@pytest.mark.parametrize("name", ["../outside", "deep/../../../outside", "/etc/passwd"])
def test_a_mark_whose_names_lead_elsewhere_is_damaged(storage: Storage, name: str) -> None:
    storage.put(f"{PIECE}/{MARK}", Mark("0" * 12, {name: (1, "0" * 64)}).encode())
    with pytest.raises(DamagedStore, match="leads out of its folder"):
        mark_of(storage)
    storage.put(f"{PIECE}/{MARK}", Mark(name, {"x": (1, "0" * 64)}).encode())
    with pytest.raises(DamagedStore, match="leads out of its folder"):
        mark_of(storage)


# --- digests ---------------------------------------------------------------------------------------------------------


def test_the_digest_says_what_was_computed_and_not_by_whom() -> None:
    mark = Mark("a", {"x": (3, "123"), "y": (4, "456")}, {"accuracy": 0.5}, "identity", {"torch": "1"}, {"host": "h"})
    same = Mark("b", {"y": (4, "456"), "x": (3, "123")}, {"accuracy": 0.5}, "identity", {"torch": "2"}, {"pid": 7})
    assert mark.digest == same.digest
    others = [
        Mark("a", {"x": (3, "123")}, {"accuracy": 0.5}),
        Mark("a", {"x": (3, "124"), "y": (4, "456")}, {"accuracy": 0.5}),
        Mark("a", {"x": (3, "456"), "y": (4, "123")}, {"accuracy": 0.5}),
        Mark("a", {"x": (3, "123"), "z": (4, "456")}, {"accuracy": 0.5}),
        Mark("a", {"x": (3, "123"), "y": (4, "456")}, {"accuracy": 0.5000000000000001}),
        Mark("a", {"x": (3, "123"), "y": (4, "456")}, {"accuracy": None}),
        Mark("a", {"x": (3, "123"), "y": (4, "456")}),
    ]
    assert len({mark.digest, *(other.digest for other in others)}) == 1 + len(others)


def test_the_digest_survives_the_store(storage: Storage) -> None:
    mark = written(storage, "x").commit(values={"accuracy": 0.1 + 0.2, "losses": [1e-17, 3.0], "best": None})
    assert (read_mark(storage, f"{PIECE}/{MARK}") or pytest.fail("no mark")).digest == mark.digest
    assert json.loads(mark.encode())["values"]["accuracy"] == 0.1 + 0.2


# --- any interleaving ------------------------------------------------------------------------------------------------


class Stepping(Storage):
    """A storage that waits for its turn before each operation, so that a test decides who goes when."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.turn = threading.Semaphore(0)
        self.waiting: queue.Queue[bool] = queue.Queue()  # True: waits for its turn, False: has ended

    def _wait(self) -> None:
        self.waiting.put(True)
        self.turn.acquire()

    def _put(self, path: str, content: bytes, mode: Any) -> None:
        self._wait()
        super()._put(path, content, mode)

    def get(self, path: str, most: int | None = None) -> bytes | None:
        self._wait()
        return super().get(path, most)

    def folders(self, prefix: str = "") -> list[str]:
        self._wait()
        return super().folders(prefix)

    def _list(self, prefix: str) -> Iterator[Any]:
        self._wait()
        yield from super()._list(prefix)

    def delete(self, paths: list[str]) -> None:
        for path in paths:
            self._wait()
            super().delete([path])


def contents_of(writer: int) -> dict[str, bytes]:
    return {f"{name}{writer if name == 'z' else ''}": bytes([writer]) * (10 + writer) for name in "xyz"}


@settings(max_examples=60, deadline=None)
@given(turns=st.lists(st.integers(0, 2), max_size=40), writers=st.integers(2, 3))
def test_what_is_visible_is_whole_in_any_interleaving(turns: list[int], writers: int) -> None:
    """Writers take turns operation by operation, then whoever is left ends."""
    with tempfile.TemporaryDirectory() as folder:
        observer = Storage(folder)
        storages = [Stepping(folder) for _ in range(writers)]
        marks: dict[int, Mark] = {}
        failures: list[BaseException] = []

        def write(writer: int) -> None:
            try:
                attempt = Attempt(storages[writer], PIECE)
                for name, content in contents_of(writer).items():
                    attempt.put(name, content)
                marks[writer] = attempt.commit(values={"writer": writer})
            except BaseException as error:
                failures.append(error)
            storages[writer].waiting.put(False)

        threads = [threading.Thread(target=write, args=(writer,), daemon=True) for writer in range(writers)]
        for thread in threads:
            thread.start()
        alive = [storage.waiting.get() for storage in storages]
        winner: Mark | None = None

        def step(writer: int) -> None:
            nonlocal winner
            storages[writer].turn.release()
            alive[writer] = storages[writer].waiting.get(timeout=30)
            mark = read_mark(observer, f"{PIECE}/{MARK}")
            assert winner is None or mark == winner, "a mark that stands stays"
            winner = mark
            if mark is not None:
                expected = contents_of(mark.values["writer"])
                assert {name: read_object(observer, PIECE, mark, name) for name in mark.objects} == expected

        for turn in turns:
            if alive[turn % writers]:
                step(turn % writers)
        assert all(mark == winner for mark in marks.values())
        for writer in range(writers):  # let the rest end, one after the other
            while alive[writer]:
                step(writer)
        for thread in threads:
            thread.join(timeout=30)
        assert not failures
        assert len({mark.attempt for mark in marks.values()}) == 1
        assert winner is not None
        assert observer.folders(PIECE) == [f"attempt-{winner.attempt}"], "nothing is left of the others"
