"""The clusters that `ray up` launches, on AWS and on one's machines: Ray accepts them, and what they name exists."""

import copy
import json
import os
import re
import shlex
import shutil
import stat
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from distsim.cli import sweeps
from distsim.problems import PROBLEMS

ROOT = Path(__file__).parents[2]
AWS, ON_PREM = "cluster.yaml", "clusters/on-prem.yaml"
FILES = (AWS, ON_PREM)
TEXTS = {file: (ROOT / file).read_text() for file in FILES}
TOKEN = ".ray/auth_token"  # in each home folder
Config = dict[str, Any]

# Ray's own check, as `ray up` makes it before it talks to AWS. In a process of its own: the core's tests import no Ray.
CHECK = """
import json, sys
from click import ClickException
from jsonschema import ValidationError
from ray.autoscaler._private.util import prepare_config, validate_config
answers = []
for config in json.load(sys.stdin):
    try:
        validate_config(prepare_config(config))
        answers.append("accepted")
    except (ClickException, ValidationError, ValueError, KeyError, NotImplementedError):
        answers.append("refused")
print(json.dumps(answers))
"""


def loaded(file: str) -> Config:
    return dict(yaml.safe_load(TEXTS[file]))


def checked(*configs: Config) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", CHECK], input=json.dumps(configs), capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return list(json.loads(done.stdout.splitlines()[-1]))  # after warnings of Ray's


def broken(file: str, change: Callable[[Config], object]) -> Config:
    config = copy.deepcopy(loaded(file))
    change(config)
    return config


def commands(config: Config) -> list[str]:
    """All that the machines are to run, in order."""
    return [command for key, value in config.items() if key.endswith("_commands") for command in value]


def below_home(remote: str) -> str:
    """A path on a machine, from the home folder on."""
    return re.sub(r"^(~|/home/ubuntu)/", "", remote)


def mounted(config: Config) -> dict[str, str]:
    """Path from the home folder -> path in the repository, of all but the token."""
    return {below_home(remote): local for remote, local in config["file_mounts"].items() if TOKEN not in remote}


def test_ray_accepts_them_and_refuses_what_is_broken() -> None:
    variants = {
        "unknown field": broken(AWS, lambda c: c.update(idle_timeout=10)),
        "no such provider": broken(AWS, lambda c: c["provider"].update(type="awss")),
        "no such head": broken(AWS, lambda c: c.update(head_node_type="haed")),
        "number as text": broken(AWS, lambda c: c.update(max_workers="eight")),
        "unknown field of a machine": broken(AWS, lambda c: c["available_node_types"]["gpu"].update(minimum=0)),
        "a pause as text": broken(AWS, lambda c: c.update(idle_timeout_minutes="ten")),
        "no head": broken(ON_PREM, lambda c: c["provider"].pop("head_ip")),
        "unknown field of the account": broken(ON_PREM, lambda c: c["auth"].update(user="root")),
        "a command that is none": broken(ON_PREM, lambda c: c["setup_commands"].append({"pip": "install"})),
    }
    aws, on_prem, *others = checked(*map(loaded, FILES), *variants.values())
    assert (aws, on_prem) == ("accepted", "accepted")
    assert dict(zip(variants, others, strict=True)) == dict.fromkeys(variants, "refused")


def test_a_cpu_head_and_gpu_workers_that_come_and_go() -> None:
    config = loaded(AWS)
    kinds = config["available_node_types"]
    head = kinds.pop(config["head_node_type"])
    assert head["node_config"]["InstanceType"].startswith("m")
    assert head["resources"] == {"CPU": 0}, "no trial runs on it"
    assert "InstanceMarketOptions" not in head["node_config"]
    (workers,) = kinds.values()
    assert workers["node_config"]["InstanceType"].startswith("g")
    assert workers["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
    assert (workers["min_workers"], workers["max_workers"]) == (0, config["max_workers"])
    assert config["idle_timeout_minutes"] > 0
    for name in ("ImageId", "IamInstanceProfile"):
        assert head["node_config"][name] == workers["node_config"][name]


def test_every_machine_that_one_has_joins() -> None:
    config = loaded(ON_PREM)
    machines = config["provider"]["worker_ips"]
    assert config["min_workers"] == config["max_workers"] == len(machines)
    assert config["provider"]["head_ip"] not in machines
    text = TEXTS[ON_PREM]
    assert text.index("export RAY_UP_enable_autoscaler_v2=0") < text.index("ray up clusters/on-prem.yaml")


@pytest.mark.parametrize("file", FILES)
def test_who_has_no_token_is_refused_and_the_dashboard_stays_on_the_head(file: str) -> None:
    config = loaded(file)
    (remote,) = (remote for remote, local in config["file_mounts"].items() if local == f"~/{TOKEN}")
    assert below_home(remote) == TOKEN
    (head,) = (command for command in config["head_start_ray_commands"] if "ray start" in command)
    assert "--dashboard-host=127.0.0.1" in head.split()
    assert "ray get-auth-token --generate" in TEXTS[file]
    assert "RAY_AUTH_MODE=disabled" not in TEXTS[file]


@pytest.mark.parametrize("file", FILES)
def test_what_it_mounts_is_in_the_repository(file: str) -> None:
    files = mounted(loaded(file))
    for remote, local in files.items():
        assert (ROOT / local).exists(), local
        assert Path(remote).name == Path(local).name
        assert not (ROOT / local / "pyproject.toml").exists(), "the repository as a whole would take .venv along"
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if tracked.returncode == 0:  # not where the tests run from an archive of the sources
        known = tracked.stdout.splitlines()
        for local in files.values():
            assert any(each == local or each.startswith(f"{local}/") for each in known), f"{local} is not in git"


def home_of(file: str, home: Path) -> Path:
    """The home folder of a machine after Ray has brought the files, less what rsync is told to leave out."""
    config = loaded(file)
    excluded = shutil.ignore_patterns(*(pattern.strip("/") for pattern in config["rsync_exclude"]))
    for remote, local in mounted(config).items():
        (home / remote).parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / local).is_dir():
            shutil.copytree(ROOT / local, home / remote, ignore=excluded)
        else:
            shutil.copy(ROOT / local, home / remote)
    (home / TOKEN).parent.mkdir(mode=0o755)
    (home / TOKEN).write_text("5f" * 32)
    return home


@pytest.fixture(params=FILES)
def file(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def machine(file: str, tmp_path: Path) -> Path:
    return home_of(file, tmp_path / "ubuntu")


def test_commands_name_what_is_there(file: str, machine: Path) -> None:
    lines = commands(loaded(file))
    named = [path for line in lines for path in re.findall(r"(?:~|/home/ubuntu)/(distsim/[\w./-]+)", line)]
    assert {"distsim/requirements/uv.txt", "distsim/requirements/cluster.txt"} == set(named)
    for path in named:
        assert (machine / path).exists(), path
    for line in lines:
        subprocess.run(["bash", "-n", "-c", line], check=True)
    project = tomllib.loads((machine / "distsim" / "pyproject.toml").read_text())["project"]
    assert (machine / "distsim" / project["readme"]).exists()
    regions = set(re.findall(r"AWS_REGION=([\w-]+)", TEXTS[file])) | {loaded(file)["provider"].get("region")}
    assert len(regions) == 1


def test_what_is_downloaded_is_checked(file: str) -> None:
    installing = [line for line in commands(loaded(file)) if " install " in line]
    assert len(installing) == 3
    for line in installing:
        assert "--require-hashes" in line or ("--no-deps" in line and "--no-build-isolation" in line)
    assert not re.search(r"\b(curl|wget)\b", " ".join(commands(loaded(file))))


def test_ray_knows_the_flags(file: str) -> None:
    script = "import click, ray.scripts.scripts as s\nprint(*(o for p in s.start.params for o in p.opts))"
    known = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    started = [line for line in commands(loaded(file)) if "ray start" in line]
    assert len(started) == 2
    for line in [*started, *re.findall(r"^#   (--.*)", TEXTS[file], re.M)]:
        named = re.findall(r"--[a-z][a-z-]*", line)
        assert named
        assert set(named) <= set(known)


def test_every_shell_of_a_machine_knows_the_token(file: str, machine: Path) -> None:
    """The commands that install nothing run, twice, as after a second `ray up`."""
    (protect,) = (line for line in commands(loaded(file)) if "chmod" in line)
    (export,) = (line for line in commands(loaded(file)) if "export" in line)
    variables = {"HOME": str(machine), "PATH": os.environ["PATH"]}
    for line in (protect, export, export):
        subprocess.run(["bash", "-c", line], env=variables, check=True)
    assert stat.S_IMODE((machine / TOKEN).stat().st_mode) == 0o600
    assert stat.S_IMODE((machine / TOKEN).parent.stat().st_mode) == 0o700
    assert len((machine / ".bashrc").read_text().splitlines()) == 1
    ask = "source ~/.bashrc; echo $RAY_AUTH_MODE $RAY_USAGE_STATS_ENABLED ${PATH%%:*}"  # Ray's way to run a command
    said = subprocess.run(["bash", "--login", "-c", ask], env=variables, capture_output=True, text=True, check=True)
    assert said.stdout.split() == ["token", "0", f"{machine}/distsim-env/bin"]


def documented(file: str) -> list[list[str]]:
    """The sweep commands in the comments, as words."""
    joined = re.sub(r"\\\n# +", "", TEXTS[file])
    return [shlex.split(line) for line in re.findall(r"python (sweeps/[^'\n]+)", joined)]


def test_what_was_brought_runs(file: str, machine: Path) -> None:
    lines = documented(file)
    assert lines
    for script, *arguments in lines:
        line = [sys.executable, script, "--help"]
        paths = os.environ | {"PYTHONPATH": str(machine / "distsim"), "PYTHONDONTWRITEBYTECODE": "1"}
        done = subprocess.run(line, cwd=machine / "distsim", env=paths, capture_output=True, text=True, timeout=120)
        assert (done.returncode, done.stderr) == (0, "")
        flags = sweeps.parser_for([PROBLEMS[Path(script).stem]], {}).parse_args(arguments)
        assert flags.address == "auto"
        assert flags.device == "cuda", "the head may have no GPU, so that it must be asked for by name"
        assert flags.download, "the machines begin without data"
        assert flags.storage.startswith("s3://" if file == AWS else "/shared/")


def test_the_comments_say_how_to_bring_it_up_and_down(file: str) -> None:
    down = {AWS: "ray down cluster.yaml", ON_PREM: "clusters/on-prem-down.sh clusters/on-prem.yaml"}[file]
    for command in (f"ray up {file}", f"ray exec {file} '", down):
        assert re.search(rf"^# +{re.escape(command)}", TEXTS[file], re.MULTILINE), command
    assert TEXTS[file].count("EDIT") >= 5


# --- clusters/on-prem-down.sh ----------------------------------------------------------------------------------------

DOWN = ROOT / "clusters" / "on-prem-down.sh"
SSH = """#!/bin/bash
# a stand-in: machine .11 is not reached from here, .12 has no Ray installed
echo "ssh $*" >> "$CALLS"
case "$*" in *ubuntu@192.0.2.10*ubuntu@192.0.2.11*) exit 0 ;; *@192.0.2.11*) exit 255 ;; *@192.0.2.12*) exit 127 ;; esac
"""


def stopped(tmp_path: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """The script, with stand-ins for ssh and ray that write down what they are asked."""
    for name, text in {"ssh": SSH, "ray": '#!/bin/bash\necho "ray $*" >> "$CALLS"\n'}.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    os.symlink(sys.executable, tmp_path / "python3")
    path = f"{tmp_path}{os.pathsep}{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    variables = os.environ | {"PATH": path, "CALLS": str(tmp_path / "calls"), "HOME": str(tmp_path)}
    return subprocess.run(
        ["bash", DOWN, *arguments], cwd=ROOT, env=variables, capture_output=True, text=True, timeout=120
    )


def test_down_stops_the_head_first_and_names_where_ray_may_still_run(tmp_path: Path) -> None:
    done = stopped(tmp_path)
    first, *others = (tmp_path / "calls").read_text().splitlines()
    assert first == f"ray down -y {ON_PREM}"
    assert [re.findall(r"ubuntu@([\d.]+)", line) for line in others] == [
        ["192.0.2.10"],
        ["192.0.2.11"],
        ["192.0.2.10", "192.0.2.11"],  # through the head, which `ray up` gave a key for it
        ["192.0.2.12"],
    ]
    assert all(f"-i {tmp_path}/.ssh/id_ed25519" in line and "ray stop" in line.replace("\\", "") for line in others)
    assert "-i ray_bootstrap_key.pem" in others[2]
    assert done.returncode == 1
    assert done.stderr == "192.0.2.12: Ray may still run there (exit status 127): run `ray stop` on it\n"


@pytest.mark.parametrize("text", [None, "- a list", "provider: {head_ip: 192.0.2.10}"])
def test_down_refuses_another_file_in_a_sentence(tmp_path: Path, text: str | None) -> None:
    other = tmp_path / "other.yaml"
    if text is not None:
        other.write_text(text)
    done = stopped(tmp_path, str(other))
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert str(other) in done.stderr
    assert not (tmp_path / "calls").exists()
