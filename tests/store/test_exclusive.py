"""A file gets its name only if it is free, on file systems with and without hard links."""

import errno
import os
import stat
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from distsim.store import Storage, StorageError, exclusive


def failing(number: int):
    def link(source, target):
        raise OSError(number, os.strerror(number), source, None, target)

    return link


@pytest.fixture(params=["links", "no links"])
def ways(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "no links":
        monkeypatch.setattr(os, "link", failing(errno.EPERM))
    return request.param


def test_the_first_wins_and_nothing_is_left(tmp_path: Path, ways: str) -> None:
    exclusive.create(tmp_path, "a/b/name", b"first")
    with pytest.raises(exclusive.NameTaken):
        exclusive.create(tmp_path, "a/b/name", b"second")
    assert (tmp_path / "a/b/name").read_bytes() == b"first"
    assert os.listdir(tmp_path / "a/b") == ["name"]


def test_of_many_one_wins(tmp_path: Path, ways: str) -> None:
    won = []

    def work(number: int) -> None:
        try:
            exclusive.create(tmp_path, "name", str(number).encode() * 1000)
        except exclusive.NameTaken:
            return
        won.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (number,) = won
    assert (tmp_path / "name").read_bytes() == str(number).encode() * 1000
    assert os.listdir(tmp_path) == ["name"]


def test_a_file_that_comes_at_the_last_moment_is_left_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between a look whether the name is free and the call that gives it, another writer may take it."""
    target = tmp_path / "name"

    def late(real: Callable[..., None], source: Path, name: Path) -> None:
        target.write_bytes(b"another's")
        real(source, name)

    for call in ("link", "rename", "replace"):
        monkeypatch.setattr(os, call, partial(late, getattr(os, call)))
    with pytest.raises(exclusive.NameTaken):
        exclusive.create(tmp_path, "name", b"ours")
    assert target.read_bytes() == b"another's"
    assert os.listdir(tmp_path) == ["name"]


def test_a_link_whose_answer_was_lost_is_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As an NFS client that asks again: the link is there, and the answer says that it exists."""
    real = os.link

    def link(source, target):
        real(source, target)
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), source, None, target)

    monkeypatch.setattr(os, "link", link)
    exclusive.create(tmp_path, "name", b"mine")
    assert (tmp_path / "name").read_bytes() == b"mine"
    assert os.listdir(tmp_path) == ["name"]


@pytest.mark.parametrize("number", [errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS])
def test_where_neither_works_one_sentence_says_what_to_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    monkeypatch.setattr(os, "link", failing(number))
    monkeypatch.setattr(exclusive, "_NOREPLACE", 1 << 30)  # flags that no file system knows
    with pytest.raises(
        StorageError, match=r"cannot use .* as storage: its file system has no hard links .* s3://"
    ) as caught:
        Storage(tmp_path / "store").create("name", b"content")
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.rglob("name*"))


def test_other_errors_are_not_taken_for_missing_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "link", failing(errno.EIO))
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        exclusive.create(tmp_path, "name", b"content")


def test_a_group_may_share_a_store(tmp_path: Path) -> None:
    before = os.umask(0o002)
    try:
        exclusive.create(tmp_path, "folder/name", b"content")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "folder/name").stat().st_mode) == 0o664
    assert stat.S_IMODE((tmp_path / "folder").stat().st_mode) == 0o775
