"""Instructions to the drivers of a store: their order, what is passed over, and which of them concern whom."""

import json
import os
import pickle
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import s3_server
from faults.proxy import Proxy

from distsim import stopping
from distsim.stopping import Stopped
from distsim.store import Storage, StorageError, StoreGone, control
from distsim.store.control import PAUSE, RESUME, STOP, Instruction, give, newest
from distsim.sweep import heeding
from distsim.sweep.heeding import Heeded


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with s3_server.serving() as url, s3_server.exported(url):
        yield url


@pytest.fixture
def bucket(server: str) -> Storage:
    return Storage(f"s3://{s3_server.BUCKET}/{uuid.uuid4().hex}")


@pytest.fixture
def root(tmp_path: Path) -> Storage:
    return Storage(tmp_path)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds, which stand still."""
    seconds = [100.0]
    monkeypatch.setattr(heeding.time, "monotonic", lambda: seconds[0])
    return seconds


def unheard() -> None:
    pass


# --- what is written -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["root", "bucket"])
def test_two_who_write_at_once_overwrite_nothing(where: str, request: pytest.FixtureRequest) -> None:
    url = request.getfixturevalue(where).url

    def orders(verb: control.Verb) -> list[int]:
        root = Storage(url)
        return [give(root, verb).number for _ in range(8)]

    with ThreadPoolExecutor(2) as pool:
        pauses, resumes = pool.map(orders, (PAUSE, RESUME))
    assert sorted(pauses + resumes) == list(range(1, 17))
    assert pauses == sorted(pauses)
    root = Storage(url)
    assert sorted(root.sizes()) == [f"control/{number:06d}.json" for number in range(1, 17)]
    found = [given for given in control.log(root, 99) if isinstance(given, Instruction)]
    assert [given.number for given in found if given.verb == PAUSE] == pauses[::-1], "each says what its writer meant"
    assert newest(root) == found[0]


def test_it_says_who_and_when(root: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGNAME", "ann\n\x1b[31m" + "x" * 500)  # a name is shown on terminals
    given = give(root, PAUSE)
    assert newest(root) == given
    assert given.user.startswith("ann[31mxxx")
    assert len(given.user) == control.LONGEST
    assert control.paused(root) == f"paused by {given.who}; distsim ctl {root.url} resume goes on"
    give(root, RESUME)
    assert control.paused(root) == ""


@pytest.mark.parametrize("what", [{"strip": True}, {"refuse": {"conditional put": "501 NotImplemented"}}])
def test_a_store_without_conditional_puts(server: str, bucket: Storage, what: dict[str, object]) -> None:
    said = r"no conditional puts, .*: stop its driver where it runs, by Ctrl-C"
    with (
        Proxy(server, **what) as proxy,  # type: ignore[arg-type]
        s3_server.exported(proxy.url),
        pytest.raises(StorageError, match=said),
    ):
        give(Storage(bucket.url), PAUSE)
    assert bucket.sizes() == {}


# --- what is read ----------------------------------------------------------------------------------------------------

RECORD = {"id": "1", "verb": "pause", "user": "ann", "host": "far", "at": "2026-11-28 12:00:00 UTC"}
NONE = {  # what is no instruction, and what is said of it
    "nothing": (b"", "is damaged: "),
    "no JSON": (b"\x00 mine", "is damaged: "),
    "nested": (b"[" * 4000, "nested too deeply"),
    "long": (b" " * 5000, "more than 4,096 bytes"),
    "another verb": (json.dumps(RECORD | {"verb": "delete"}).encode(), "field verb must be "),
    "a field less": (json.dumps({"verb": "pause"}).encode(), "field at is missing"),
    "a field more": (json.dumps(RECORD | {"and": 1}).encode(), "the field 'and'"),
    "a name that clears the screen": (json.dumps(RECORD | {"host": "\x1b[2J"}).encode(), "field host must be a short"),
    "another time": (json.dumps(RECORD | {"at": "now"}).encode(), "field at must be a time"),
}


@pytest.mark.parametrize("name", NONE)
def test_what_is_no_instruction_is_passed_over(root: Storage, name: str) -> None:
    content, said = NONE[name]
    pause = give(root, PAUSE)
    root.put("control/000002.json", content)
    assert newest(root) == pause
    assert give(root, RESUME).number == 3, "and is not overwritten"
    assert root.get("control/000002.json") == content
    sentence = control.log(root, 2)[1]
    assert isinstance(sentence, str)
    assert sentence.startswith(f"control/000002.json in {root.url} is damaged: ")
    assert said in sentence


def test_a_user_without_a_name(root: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container that runs under a number of its own. What Python raises depends on its version."""
    for error in (KeyError("getpwuid(): uid not found: 12345"), OSError("No username set in the environment")):

        def getuser(error: Exception = error) -> str:
            raise error

        monkeypatch.setattr("getpass.getuser", getuser)
        assert give(root, PAUSE).user == f"user {os.getuid()}"


def test_files_of_others(root: Storage) -> None:
    for name in ("notes.json", "20240101.json", "7.json", "000009.json.bak", "sub/000008.json", "999999.json"):
        root.put(f"control/{name}", b"mine")
    assert newest(root) is None
    assert give(root, PAUSE).number == 1


def test_a_file_in_the_place_of_the_folder_stops_no_sweep(root: Storage) -> None:
    (Path(root.url) / "control").write_text("mine")
    assert control.paused(root) == ""
    heeded = Heeded(root)
    assert not heeded.stops("network")
    with pytest.raises(StorageError, match="cannot list control"):
        newest(root)


# --- whom it concerns ------------------------------------------------------------------------------------------------


def test_an_instruction_concerns_the_drivers_of_its_time(root: Storage, clock: list[float]) -> None:
    before = Heeded(root)
    give(root, STOP)
    after = Heeded(root)
    assert before.stops("network")
    assert not before.stops("epoch"), "a network that is being trained is finished"
    assert not after.stops("network")
    after.wait(lambda said: pytest.fail(said), unheard)  # returns at once
    with pytest.raises(Stopped, match=r"^stopped by .* on .* at .* UTC$"):
        before.wait(lambda said: pytest.fail(said), unheard)
    give(root, PAUSE)
    clock[0] += heeding.LOOK
    assert after.stops("epoch")
    assert before.stops("epoch")
    assert Heeded(root).stops("epoch"), "a pause is for those that begin, too"
    give(root, STOP)
    with pytest.raises(Stopped):
        after.wait(unheard_of, unheard)


def unheard_of(said: str) -> None:
    pass


def test_workers_of_a_driver_are_concerned_as_it_is(root: Storage) -> None:
    give(root, STOP)
    driver = Heeded(root)
    assert not pickle.loads(pickle.dumps(driver)).stops("network")
    give(root, STOP)
    assert driver.stops("network")
    worker = pickle.loads(pickle.dumps(driver))
    give(root, RESUME)
    assert not worker.stops("network"), "it looks for itself"
    assert driver.stops("network"), "what is being stopped stops in all its parts"
    driver.wait(unheard_of, unheard)
    assert not driver.stops("network"), "and then it goes on"


@pytest.mark.parametrize(("where", "seconds"), [("root", heeding.LOOK), ("bucket", heeding.LOOK_REMOTE)])
def test_looks_are_few(where: str, seconds: float, request: pytest.FixtureRequest, clock: list[float]) -> None:
    root = request.getfixturevalue(where)
    heeded = Heeded(root)
    assert not heeded.stops("epoch")
    give(root, PAUSE)
    clock[0] += 0.99 * seconds
    assert not heeded.stops("epoch")
    clock[0] += 0.01 * seconds
    assert heeded.stops("epoch")


def test_a_store_that_answers_slowly_is_asked_less_often(
    root: Storage, clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow(root: Storage) -> None:
        clock[0] += 3.0
        raise StorageError("it does not answer")

    heeded = Heeded(root)
    give(root, PAUSE)
    with monkeypatch.context() as patch:
        patch.setattr(control, "newest", slow)
        assert not heeded.stops("epoch"), "and ends no training"
    clock[0] += 149.0
    assert not heeded.stops("epoch")
    clock[0] += 1.0
    assert heeded.stops("epoch"), "3 s are 2 % of 150 s"


def test_ctrl_c_ends_the_waiting(root: Storage) -> None:
    give(root, PAUSE)
    said: list[str] = []
    stopping.ask()
    try:
        with pytest.raises(Stopped):
            Heeded(root).wait(said.append, unheard)
    finally:
        stopping.forget()
    assert len(said) == 1
    assert stopping.said() == ""


def test_who_waits_is_told_that_the_store_has_gone(root: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other errors of a store may pass, and are waited for."""
    monkeypatch.setattr(heeding, "LOOK", 0.0)
    heeded, answers = Heeded(root), [StorageError("no answer"), StoreGone("it has gone")]
    give(root, PAUSE)

    def check() -> None:
        raise answers.pop(0)

    with pytest.raises(StoreGone, match="it has gone"):
        heeded.wait(lambda said: None, check)
