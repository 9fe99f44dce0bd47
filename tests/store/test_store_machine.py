"""The store's law, whatever comes in whatever order: what is visible is whole and correct.

Writers, droppers and their deaths are interleaved operation by operation, as Hypothesis likes. After each
single operation everything that is visible is read and compared with what its writer wrote.
"""

import contextlib
import queue
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from distsim.specs import COMPLETE, NetworkId
from distsim.store import DamagedStore, Mark, Storage, StorageError, SweepStore
from distsim.store.commits import Attempt, drop, generation, read_object, read_piece

NETWORKS: tuple[NetworkId, ...] = (COMPLETE, NetworkId(0, 1))
PIECES = (*(network.path for network in NETWORKS), "complete/activations")
NAMES = ("x", "deep/y")


class Died(BaseException):
    """Stands for SIGKILL: nothing catches it, nothing is cleaned up."""


class Stepping(Storage):
    """A storage that waits for its turn before each operation."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.turn = threading.Semaphore(0)
        self.dead = False
        self.drops = ""  # before | after: the next operation fails, and nobody hears whether it was done
        self.waiting: queue.Queue[bool] = queue.Queue()  # True: waits for its turn, False: has ended

    def _wait(self) -> None:
        if self.dead:
            raise Died
        self.waiting.put(True)
        self.turn.acquire()
        if self.dead:
            raise Died
        if self.drops == "before":
            self.drops = ""
            raise StorageError("the line dropped")

    def get(self, path: str, most: int | None = None) -> bytes | None:
        self._wait()
        return super().get(path, most)

    def settle(self, paths: Any) -> None:
        self._wait()  # nothing to see of it without a loss of power

    def folders(self, prefix: str = "") -> list[str]:
        self._wait()
        return super().folders(prefix)

    def delete(self, paths: list[str]) -> None:
        for path in paths:
            self._wait()
            super().delete([path])

    def _put(self, path: str, content: bytes, mode: Any) -> None:
        self._wait()
        super()._put(path, content, mode)
        if self.drops == "after":
            self.drops = ""
            raise StorageError("the line dropped")

    def _list(self, prefix: str) -> Iterator[Any]:
        self._wait()
        yield from super()._list(prefix)


class Actor:
    """A process: does its work one storage operation at a time, and may die between two."""

    def __init__(self, folder: str, work: Callable[[Storage], object]) -> None:
        self.storage = Stepping(folder)
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=(work,), daemon=True)
        self._thread.start()
        self.alive = self.storage.waiting.get(timeout=30)

    def _run(self, work: Callable[[Storage], object]) -> None:
        try:
            work(self.storage)
        except (DamagedStore, StorageError):  # its piece was dropped under it, or the line dropped, and it says so
            pass
        except BaseException as error:
            self.error = error
        self.storage.waiting.put(False)

    def step(self) -> None:
        self.storage.turn.release()
        self.alive = self.storage.waiting.get(timeout=30)
        if not self.alive:
            self._thread.join(timeout=30)
            assert self.error is None or isinstance(self.error, Died), self.error

    def die(self) -> None:
        self.storage.dead = True
        while self.alive:
            self.step()


def content_of(writer: int, name: str) -> bytes:
    return f"{name} of {writer} ".encode() * (3 + writer % 5)


def write(piece: str, writer: int) -> Callable[[Storage], Mark]:
    def work(storage: Storage) -> Mark:
        with Attempt(storage, piece) as attempt:
            for name in NAMES:
                attempt.put(name, content_of(writer, name))
            return attempt.commit(values={"writer": writer})

    return work


class StoreMachine(RuleBasedStateMachine):
    """Several writers and droppers on a store of three pieces."""

    @initialize()
    def begin(self) -> None:
        memory = Path("/dev/shm")
        self.folder = tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None)
        self.url = f"{self.folder.name}/problem"
        self.seen = Storage(self.url)
        self.actors: list[Actor] = []
        self.writers = 0
        self.standing: dict[tuple[str, int], Mark] = {}  # (piece, generation) -> the mark that was visible
        self.damaged: set[tuple[str, int]] = set()

    @rule(piece=st.sampled_from(PIECES))
    def somebody_begins_to_write(self, piece: str) -> None:
        if len(self.actors) < 4:
            self.writers += 1
            self.actors.append(Actor(self.url, write(piece, self.writers)))

    @rule(piece=st.sampled_from(PIECES))
    def somebody_begins_to_drop(self, piece: str) -> None:
        if len(self.actors) < 4:
            self.actors.append(Actor(self.url, lambda storage: drop(storage, piece)))

    @precondition(lambda self: self.actors)
    @rule(which=st.integers(0, 3), steps=st.integers(1, 12))
    def somebody_goes_on(self, which: int, steps: int) -> None:
        actor = self.actors[which % len(self.actors)]
        for _ in range(steps):
            if actor.alive:
                actor.step()
                self.what_is_visible_is_whole()
        self.actors = [actor for actor in self.actors if actor.alive]

    @precondition(lambda self: self.actors)
    @rule(which=st.integers(0, 3))
    def somebody_dies(self, which: int) -> None:
        self.actors.pop(which % len(self.actors)).die()

    @precondition(lambda self: self.actors)
    @rule(which=st.integers(0, 3), when=st.sampled_from(["before", "after"]))
    def a_line_drops(self, which: int, when: str) -> None:
        self.actors[which % len(self.actors)].storage.drops = when

    @rule(piece=st.sampled_from(PIECES), name=st.sampled_from(NAMES), gone=st.booleans())
    def an_object_is_damaged(self, piece: str, name: str, gone: bool) -> None:
        mark = read_piece(self.seen, piece)
        if mark is not None:
            path = f"{piece}/attempt-{mark.attempt}/{name}"
            self.damaged.add((piece, generation(self.seen, piece)))
            if gone:
                self.seen.delete([path])
            else:
                self.seen.put(path, b"damage")

    @rule()
    def what_is_damaged_is_repaired(self) -> None:
        for piece in PIECES:
            with contextlib.suppress(FileNotFoundError):
                try:
                    self._read(piece)
                except DamagedStore:
                    drop(self.seen, piece)
                    assert read_piece(self.seen, piece) is None

    @rule()
    def the_same_command_again(self) -> None:
        """Whatever happened, what is missing can be written; nothing that is there changes."""
        for piece in PIECES:
            before = read_piece(self.seen, piece)
            if before is None:
                self.writers += 1
                after = write(piece, self.writers)(self.seen)
                assert after.values["writer"] == self.writers
                attempts = [name for name in self.seen.folders(piece) if name == f"attempt-{after.attempt}"]
                assert attempts, "nobody else's cleaning has touched it"
            else:
                assert write(piece, 0)(self.seen) == before or (piece, generation(self.seen, piece)) in self.damaged

    @invariant()
    def what_is_visible_is_whole(self) -> None:
        for piece in PIECES:
            now = piece, generation(self.seen, piece)
            mark = read_piece(self.seen, piece)
            assert now not in self.standing or self.standing[now] == mark, "a mark stays until its generation ends"
            if mark is not None:
                self.standing[now] = mark
                if now not in self.damaged:
                    self._read(piece)

    @invariant()
    def the_listing_says_the_same(self) -> None:
        contents = SweepStore(Storage(self.folder.name), "problem").contents()
        there = {piece for piece in PIECES if read_piece(self.seen, piece) is not None}
        assert {network.path for network in contents.networks} == there & {network.path for network in NETWORKS}
        assert bool(contents.activations) == ({"complete", "complete/activations"} <= there)

    def _read(self, piece: str) -> None:
        mark = read_piece(self.seen, piece)
        if mark is not None:
            assert sorted(mark.objects) == sorted(NAMES)
            for name in mark.objects:
                assert read_object(self.seen, piece, mark, name) == content_of(mark.values["writer"], name)

    def teardown(self) -> None:
        for actor in getattr(self, "actors", []):
            while actor.alive:  # late writers come to their end as well
                actor.step()
                self.what_is_visible_is_whole()
        if hasattr(self, "folder"):
            self.folder.cleanup()


TestStore = StoreMachine.TestCase
TestStore.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
