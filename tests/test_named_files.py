"""Files that the user names: whole or not at all, and said in a sentence if they cannot be written."""

import errno
import os
import stat
from pathlib import Path

import pytest

from distsim.named_files import UNFINISHED, make_folder, place, write, write_all, write_together


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def full_after(room: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that has room for so many files."""
    left = [room]

    def fsync(descriptor: int) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fsync)


def test_a_home_is_found(home: Path) -> None:
    assert place("~/a") == home / "a"
    assert place(Path("~")) == home
    assert place("a/~") == Path("a/~")


@pytest.mark.parametrize(
    ("path", "said"), [("~nobodyhere/a", "there is no such home folder"), ("a\0b", "it holds a zero byte")]
)
def test_what_is_no_path_is_said(path: str, said: str) -> None:
    with pytest.raises(ValueError, match=f"^--out .* cannot be used: {said}$"):
        place(path, "--out")


def test_a_folder_in_the_way_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"^--out '.*file' cannot be made: .*file is a file$"):
        make_folder(tmp_path / "file", "--out")
    with pytest.raises(ValueError, match=r"cannot be made: .*file is a file$"):
        make_folder(tmp_path / "file" / "inner")
    (tmp_path / "folder").mkdir()
    with pytest.raises(ValueError, match=r"^--out '.*folder' cannot be written: it is a folder$"):
        write(tmp_path / "folder", b"", "--out")
    with pytest.raises(ValueError, match=r"folder' cannot be written: it is a folder$"):
        write_all(tmp_path, {"a": b"", "folder": b""})
    assert {entry.name for entry in tmp_path.iterdir()} == {"file", "folder"}


def test_errors_name_the_file_as_the_user_did(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("folder").mkdir()
    Path("link").symlink_to("folder")
    for name in ("folder", "link"):
        with pytest.raises(ValueError, match=f"^--out '{name}' cannot be written: it is a folder$"):
            write(Path(name), b"", "--out")


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write(tmp_path / "new" / "file", b"first")
    full_after(0, monkeypatch)
    with pytest.raises(ValueError, match=r"file' cannot be written: No space left on device$"):
        write(file, b"second")
    assert file.read_bytes() == b"first"
    assert os.listdir(file.parent) == ["file"]


@pytest.mark.parametrize("room", [0, 1, 2])
def test_files_are_written_all_or_none(room: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_all(tmp_path, {"a": b"1", "c": b"1"})
    full_after(room, monkeypatch)
    with pytest.raises(ValueError, match=f"{'abc'[room]}' cannot be written: No space left on device$"):
        write_all(tmp_path, {"a": b"2", "b": b"2", "c": b"2"})
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == {"a": b"1", "c": b"1"}
    full_after(3, monkeypatch)
    write_all(tmp_path, {"a": b"2", "b": b"2", "c": b"2"})
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == {"a": b"2", "b": b"2", "c": b"2"}


@pytest.mark.parametrize("room", [0, 1])
def test_two_files_that_belong_together(room: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = tmp_path / "a" / "weights", tmp_path / "b" / "about"
    write_together({first: b"1", second: b"1"})
    full_after(room, monkeypatch)
    with pytest.raises(ValueError, match=r"^--out '.*' cannot be written: No space"):
        write_together({first: b"2", second: b"2"}, "--out")
    assert (first.read_bytes(), second.read_bytes()) == (b"1", b"1")
    assert len(list(tmp_path.rglob("*"))) == 4, "two folders, two files"


def test_of_links_one_is_followed_and_one_replaced(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_text("mine")
    for name in ("out", "inside"):
        (tmp_path / name).symlink_to("elsewhere")
    write(tmp_path / "out", b"asked for")
    assert (tmp_path / "elsewhere").read_bytes() == b"asked for"
    assert (tmp_path / "out").is_symlink()
    write_all(tmp_path, {"inside": b"new"})
    assert (tmp_path / "elsewhere").read_bytes() == b"asked for"
    assert (tmp_path / "inside").read_bytes() == b"new"


def test_permissions_are_those_of_any_file_or_of_the_one_before(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        file = write(tmp_path / "file", b"")
        assert stat.S_IMODE(file.stat().st_mode) == 0o640
        file.chmod(0o600)
        write(file, b"")
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    finally:
        os.umask(before)


def test_a_pipe_is_written_to(tmp_path: Path) -> None:
    """So is /dev/stdout."""
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    try:
        write(tmp_path / "pipe", b"content")
        assert os.read(reader, 100) == b"content"
    finally:
        os.close(reader)
    assert not [name for name in os.listdir(tmp_path) if name.startswith(UNFINISHED)]
