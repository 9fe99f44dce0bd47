"""What is said, and set, before Ray starts here or a cluster is asked."""

import os
import resource
import socket
from pathlib import Path

import pytest

from distsim.sweep import cluster


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("RAY_ADDRESS", "RAY_TMPDIR", "RAY_AUTH_MODE", *cluster.TOKENS):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)  # asks TMPDIR again


@pytest.fixture
def port() -> int:
    """One at which nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@pytest.mark.parametrize("form", ["127.0.0.1:{}", "ray://127.0.0.1:{}"])
def test_nobody_at_an_address_is_said_at_once(port: int, form: str) -> None:
    refused = r"no Ray cluster answers at .*:\d+ \(Connection refused\): check --address"
    with pytest.raises(ConnectionError, match=refused):
        cluster.require_answer(form.format(port))


def test_silence_is_said_within_20_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    """As from behind a firewall that drops what is sent."""

    def connect(place: tuple[str, int], patience: float) -> None:
        assert place == ("10.0.0.1", 6379)
        assert patience <= 20
        raise TimeoutError("timed out")

    monkeypatch.setattr(socket, "create_connection", connect)
    with pytest.raises(
        ConnectionError, match=r"no Ray cluster answers at 10\.0\.0\.1:6379 \(no answer\): check --address"
    ):
        cluster.require_answer("10.0.0.1:6379")


def test_a_cluster_that_has_gone_is_named_for_auto(port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster.require_answer("auto")  # there is no cluster: Ray says so
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray/ray_current_cluster").write_text(f"127.0.0.1:{port}\n")
    with pytest.raises(ConnectionError, match=f"no Ray cluster answers at 127.0.0.1:{port}"):
        cluster.require_answer("auto")
    monkeypatch.setenv("RAY_ADDRESS", f"localhost:{port}")
    with pytest.raises(ConnectionError, match=f"no Ray cluster answers at localhost:{port}"):
        cluster.require_answer("auto")


def test_what_listens_is_left_to_ray() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        cluster.require_answer(f"127.0.0.1:{server.getsockname()[1]}")
    for strange in ("local", "somewhere", "host:port", "host:99999999"):
        if strange == "host:99999999":
            with pytest.raises(ConnectionError, match="no Ray cluster answers"):
                cluster.require_answer(strange)
        else:
            cluster.require_answer(strange)


def test_a_refusal_names_the_mode_of_authentication(monkeypatch: pytest.MonkeyPatch) -> None:
    error = cluster.refused("10.0.0.1:6379", RuntimeError("Failed to connect\nmore\nlines"))
    said = str(error)
    assert said.startswith(
        "cannot use the Ray cluster at 10.0.0.1:6379: Failed to connect. If it was started with a token"
    )
    assert said.endswith("RAY_AUTH_MODE must be disabled (now it is not set)")
    assert "\n" not in said


def test_ray_here_gets_a_token_that_stays_in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", "/mine")
    cluster.prepare_local_start()
    assert "RAY_AUTH_TOKEN" not in os.environ, "the user's own is taken"
    monkeypatch.delenv("RAY_AUTH_TOKEN_PATH")
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    cluster.prepare_local_start()
    assert "RAY_AUTH_TOKEN" not in os.environ
    monkeypatch.delenv("RAY_AUTH_MODE")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "")  # so that it is restored afterwards
    monkeypatch.delenv("RAY_AUTH_TOKEN")
    cluster.prepare_local_start()
    token = os.environ["RAY_AUTH_TOKEN"]
    assert len(token) == 64
    cluster.prepare_local_start()
    assert os.environ["RAY_AUTH_TOKEN"] == token


def test_a_folder_too_long_for_sockets_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    long = tmp_path / ("a" * 60)
    long.mkdir()
    monkeypatch.setenv("TMPDIR", str(long))
    monkeypatch.setenv("RAY_TMPDIR", "")
    monkeypatch.delenv("RAY_TMPDIR")
    cluster.prepare_local_start()
    assert os.environ["RAY_TMPDIR"] == "/tmp"
    monkeypatch.setenv("RAY_TMPDIR", str(long))  # what the user says is not overruled
    with pytest.raises(ConnectionError, match=r"sockets would have too long a path .* Set RAY_TMPDIR .* --local"):
        cluster.prepare_local_start()


def test_ray_is_not_started_where_it_gets_too_few_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setattr(resource, "getrlimit", lambda of: (6_000_000 * 1024, resource.RLIM_INFINITY))
    with pytest.raises(ConnectionError, match=r"Ray cannot work with `ulimit -v 6000000`: .* or use --local"):
        cluster.prepare_local_start()
    monkeypatch.setattr(resource, "getrlimit", lambda of: (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    cluster.prepare_local_start()


def test_who_answers_at_an_address(port: int) -> None:
    assert not cluster.answers(f"127.0.0.1:{port}")
    assert not cluster.answers("nonsense")
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert cluster.answers(f"127.0.0.1:{server.getsockname()[1]}")


def test_a_loss_says_what_died_and_what_to_do() -> None:
    here, elsewhere = (cluster.lost("its raylet was killed by signal 9", here) for here in (True, False))
    assert here.startswith("Ray has died: its raylet was killed by signal 9. What is committed is kept: ")
    assert "--local" in here
    assert "ray status" in elsewhere
    assert all(said.endswith("then run the same command again to go on from here") for said in (here, elsewhere))
