"""The cluster that the repository proposes: Ray accepts it, and everything that it names is there."""

import copy
import json
import os
import re
import shlex
import shutil
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

ROOT = Path(__file__).parents[1]
FILE = ROOT / "cluster.yaml"
TEXT = FILE.read_text()
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


def loaded() -> Config:
    return dict(yaml.safe_load(TEXT))


def checked(*configs: Config) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", CHECK], input=json.dumps(configs), capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return list(json.loads(done.stdout.splitlines()[-1]))  # after warnings of Ray's


def broken(change: Callable[[Config], object]) -> Config:
    config = copy.deepcopy(loaded())
    change(config)
    return config


def test_ray_accepts_it_and_refuses_what_is_broken() -> None:
    variants = {
        "unknown field": broken(lambda c: c.update(idle_timeout=10)),
        "no such provider": broken(lambda c: c["provider"].update(type="awss")),
        "no such head": broken(lambda c: c.update(head_node_type="haed")),
        "number as text": broken(lambda c: c.update(max_workers="eight")),
        "unknown field of a machine": broken(lambda c: c["available_node_types"]["gpu"].update(minimum=0)),
        "a pause as text": broken(lambda c: c.update(idle_timeout_minutes="ten")),
    }
    first, *others = checked(loaded(), *variants.values())
    assert first == "accepted"
    assert dict(zip(variants, others, strict=True)) == dict.fromkeys(variants, "refused")


def test_a_cpu_head_and_gpu_workers_that_come_and_go() -> None:
    config = loaded()
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


def test_what_it_mounts_is_in_the_repository() -> None:
    for remote, local in loaded()["file_mounts"].items():
        assert (ROOT / local).exists(), local
        assert Path(remote).name == Path(local).name
        assert not (ROOT / local / "pyproject.toml").exists(), "the repository as a whole would take .venv along"
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if tracked.returncode == 0:  # not where the tests run from an archive of the sources
        files = tracked.stdout.splitlines()
        for local in loaded()["file_mounts"].values():
            assert any(file == local or file.startswith(f"{local}/") for file in files), f"{local} is not in git"


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """The home folder of a machine after Ray has brought the files, less what rsync is told to leave out."""
    config = loaded()
    home = tmp_path / "ubuntu"
    excluded = shutil.ignore_patterns(*(pattern.strip("/") for pattern in config["rsync_exclude"]))
    for remote, local in config["file_mounts"].items():
        target = home / Path(remote).relative_to("/home/ubuntu")
        target.parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / local).is_dir():
            shutil.copytree(ROOT / local, target, ignore=excluded)
        else:
            shutil.copy(ROOT / local, target)
    return home


def test_commands_name_what_is_there(machine: Path) -> None:
    config = loaded()
    commands = [command for key, value in config.items() if key.endswith("_commands") for command in value]
    named = [path for command in commands for path in re.findall(r"/home/ubuntu/([\w./-]+)", command)]
    assert "distsim/constraints.txt" in named
    for path in named:
        assert (machine / path).exists(), path
    (install,) = (command for command in commands if " -e " in command)
    extras = re.search(r"-e '/home/ubuntu/distsim\[([\w,]+)\]'", install)
    assert extras is not None
    project = tomllib.loads((machine / "distsim" / "pyproject.toml").read_text())["project"]
    assert set(extras[1].split(",")) <= set(project["optional-dependencies"])
    assert (machine / "distsim" / project["readme"]).exists()
    pins = (machine / "distsim" / "constraints.txt").read_text().splitlines()
    pinned = dict(pin.split("==") for pin in pins)
    assert "ray" in pinned
    installer = next(command for command in commands if "astral.sh/uv" in command)
    assert f"/uv/{pinned['uv']}/" in installer
    regions = set(re.findall(r"AWS_REGION=([\w-]+)", TEXT)) | {config["provider"]["region"]}
    assert len(regions) == 1


def documented() -> list[list[str]]:
    """The sweep commands in the comments, as words."""
    return [shlex.split(line) for line in re.findall(r"python (sweeps/[^'\n]+)", re.sub(r"\\\n# +", "", TEXT))]


def test_what_was_brought_runs(machine: Path) -> None:
    commands = documented()
    assert commands
    for file, *arguments in commands:
        line = [sys.executable, file, "--help"]
        paths = os.environ | {"PYTHONPATH": str(machine / "distsim"), "PYTHONDONTWRITEBYTECODE": "1"}
        done = subprocess.run(line, cwd=machine / "distsim", env=paths, capture_output=True, text=True, timeout=120)
        assert (done.returncode, done.stderr) == (0, "")
        flags = sweeps.parser_for([PROBLEMS[Path(file).stem]], {}).parse_args(arguments)
        assert flags.address == "auto"
        assert flags.device == "cuda", "the head has no GPU, so that it must be asked for by name"
        assert flags.download, "the machines begin without data"
        assert flags.storage.startswith("s3://")


def test_the_comments_say_how_to_bring_it_up_and_down() -> None:
    for command in ("ray up cluster.yaml", "ray exec cluster.yaml '", "ray down cluster.yaml"):
        assert re.search(rf"^# +{re.escape(command)}", TEXT, re.MULTILINE), command
    assert TEXT.count("EDIT") >= 5
