"""A cluster that was started with a token lets in who has it, and nobody else."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import own_ray
import pytest

pytestmark = pytest.mark.ray

TOKEN = "5f" * 32


def home(folder: Path, token: str | None) -> str:
    """A home folder in which the token lies as `ray up` brings it."""
    (folder / ".ray").mkdir(parents=True)
    if token is not None:
        (folder / ".ray" / "auth_token").write_text(token)
        (folder / ".ray" / "auth_token").chmod(0o600)
    return str(folder)


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = home(tmp_path_factory.mktemp("head") / "home", TOKEN)
    with own_ray.head(own_ray.environment(HOME=folder, RAY_AUTH_MODE="token")) as address:
        yield address


PEERS = {"another token": ("a0" * 32, "token"), "no token": (None, "disabled")}


def peer(folder: Path, token: str | None, mode: str, *line: str) -> "subprocess.CompletedProcess[str]":
    variables = own_ray.environment(HOME=home(folder, token), RAY_AUTH_MODE=mode)
    return subprocess.run(line, env=variables, capture_output=True, text=True, timeout=own_ray.PATIENCE)


@pytest.mark.parametrize(("token", "mode"), PEERS.values(), ids=PEERS)
def test_who_asks_without_it_is_refused(address: str, tmp_path: Path, token: str | None, mode: str) -> None:
    ask = str(own_ray.RAY), "health-check", "--address", address
    refused = peer(tmp_path / "without", token, mode, *ask)
    assert refused.returncode != 0
    assert "AuthenticationError" in refused.stderr
    admitted = peer(tmp_path / "with", TOKEN, "token", *ask)
    assert admitted.returncode == 0, admitted.stderr


def test_a_machine_without_it_does_not_join(address: str, tmp_path: Path) -> None:
    with own_ray.short_folder() as folder:
        join = str(own_ray.RAY), "start", f"--address={address}", "--num-cpus=1", f"--temp-dir={folder}"
        refused = peer(tmp_path, "a0" * 32, "token", *join)
    assert refused.returncode != 0
    assert "AuthenticationError" in refused.stderr
    assert not [
        line for line in subprocess.check_output(["ps", "-eo", "args="], text=True).splitlines() if str(folder) in line
    ]


CONNECT = """
import sys
from distsim.sweep.on_ray import cluster as ray_cluster
try:
    ray_cluster.connect(sys.argv[1], [])
except ConnectionError as error:
    sys.exit(str(error))
print("let in")
"""


@pytest.mark.long
def test_a_sweep_is_let_in_with_it(address: str, tmp_path: Path) -> None:
    admitted = peer(tmp_path, TOKEN, "token", sys.executable, "-c", CONNECT, address)
    assert (admitted.returncode, admitted.stdout.strip()) == (0, "let in"), admitted.stderr


@pytest.mark.long  # Ray asks again for 20 s
def test_a_sweep_without_it_is_told_what_to_do(address: str, tmp_path: Path) -> None:
    refused = peer(tmp_path, None, "disabled", sys.executable, "-c", CONNECT, address)
    assert refused.returncode == 1
    assert refused.stderr.splitlines()[-1].startswith(f"cannot use the Ray cluster at {address}: ")
    assert "RAY_AUTH_MODE must be token here and ~/.ray/auth_token the same" in refused.stderr
