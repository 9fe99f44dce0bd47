"""clusters/slurm.sbatch runs: a sweep on two machines that a stand-in for SLURM lends.

The stand-ins are two scripts on PATH. `scontrol show hostnames` names the machines, and `srun` runs its command here,
in a folder of the machine's own. All else is what runs under SLURM: bash, Ray, two nodes of it, and the sweep.
"""

import os
import re
import shlex
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import own_ray
import pytest

ROOT = Path(__file__).parents[2]
FILE = ROOT / "clusters" / "slurm.sbatch"
TEXT = FILE.read_text()
MACHINES = ("left", "right")
FLAGS = ("--runs", "1", "--iterations", "1", "--epochs", "1", "--train-limit", "128", "--probe", "100", "--no-chance")
FLAGS = (*FLAGS, "--control", "none", "--metrics", "cka", "--device", "cpu")

SRUN = """#!/usr/bin/env bash
while [[ $1 == --* ]]; do
  case $1 in --nodelist=*) machine=${1#*=} ;; esac
  shift
done
echo "$machine: $*" >> "$LENT/calls"
export TMPDIR=$LENT/$machine
exec "$@"
"""
SCONTROL = """#!/usr/bin/env bash
echo "scontrol $*" >> "$LENT/calls"
if [ "$1 $2" = "show hostnames" ]; then printf '%s\\n' left right; fi
"""


@pytest.fixture
def lent() -> Iterator[Path]:
    """The folder of the allocation: the stand-ins, what they were asked, and a folder for each machine."""
    with own_ray.short_folder() as folder:
        for name, text in {"srun": SRUN, "scontrol": SCONTROL}.items():
            (folder / "bin" / name).parent.mkdir(exist_ok=True)
            (folder / "bin" / name).write_text(text)
            (folder / "bin" / name).chmod(0o755)
        for machine in MACHINES:
            (folder / machine).mkdir()
        yield folder


def job_number() -> int:
    """A job whose port is free."""
    for number in range(os.getpid() % 5000, 10_000):
        with socket.socket() as asked:
            if asked.connect_ex(("127.0.0.1", 20_000 + number)):
                return number
    raise RuntimeError("no port is free")


def submitted(lent: Path, *sweep: str) -> "subprocess.Popen[str]":
    """The batch script as `sbatch` starts it on the first machine."""
    variables = own_ray.environment(
        LENT=str(lent),
        DISTSIM_ENV=str(own_ray.BIN.parent),
        SLURM_SUBMIT_DIR=str(ROOT),
        SLURM_JOB_ID=str(job_number()),
        SLURM_JOB_NODELIST="left,right",
        SLURM_CPUS_PER_TASK="1",
        SLURM_MEM_PER_NODE="4096",
        TMPDIR=str(lent / "left"),
        HOME=str(lent),
    )
    variables["PATH"] = f"{lent / 'bin'}{os.pathsep}{variables['PATH']}"
    return subprocess.Popen(
        ["bash", FILE, *sweep],
        env=variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def test_bash_can_read_it_and_its_programs_are_there() -> None:
    subprocess.run(["bash", "-n", FILE], check=True)
    (example,) = re.findall(r"^# +sbatch (.*)$", TEXT, re.M)
    file, python, script, *_ = shlex.split(example)
    assert (ROOT / file, python) == (FILE, "python")
    assert (ROOT / script).is_file()
    assert TEXT.count("EDIT") >= 7
    options = re.findall(r"^#SBATCH (--[\w-]+)", TEXT, re.M)
    assert {"--nodes", "--ntasks-per-node", "--cpus-per-task", "--gpus-per-node", "--mem", "--time"} <= set(options)
    known = subprocess.run([own_ray.RAY, "start", "--help"], capture_output=True, text=True, check=True).stdout
    flags = re.findall(r"^flags.*|^.*ray start.*", TEXT, re.M)
    named = set(re.findall(r"(?<!\w)(--[a-z][a-z-]*)", " ".join(flags)))
    assert "--dashboard-host" in named
    assert not [flag for flag in named if not re.search(rf"{flag}\b", known)]


def test_without_a_sweep_it_says_how_to_name_one() -> None:
    done = subprocess.run(["bash", FILE], capture_output=True, text=True)
    assert done.returncode == 2
    assert "no sweep is named: sbatch clusters/slurm.sbatch python" in done.stderr


@pytest.mark.ray
@pytest.mark.long
def test_a_sweep_on_two_machines(lent: Path, tmp_path: Path) -> None:
    job = submitted(lent, "python", "sweeps/digits.py", *FLAGS, "--storage", str(tmp_path / "store"))
    with own_ray.ended(job):
        said, _ = job.communicate(timeout=900)
        assert job.returncode == 0, said
        assert own_ray.group(job.pid) == [], "nothing is left running"
    assert (tmp_path / "store" / "report.html").is_file()
    calls = (lent / "calls").read_text()
    assert re.findall(r"^(\w+): bash -c exec ray start (--\w+)", calls, re.M) == [
        ("left", "--head"),
        ("right", "--address"),
    ]
    assert "requeue" not in calls
    for machine in MACHINES:
        assert list((lent / machine).glob("ray-*/session_*")), f"there was no Ray on {machine}"


@pytest.mark.ray
@pytest.mark.long
@pytest.mark.parametrize(("number", "queued"), [(signal.SIGUSR1, True), (signal.SIGTERM, False)])
def test_the_end_of_its_time_queues_it_again(lent: Path, tmp_path: Path, number: int, queued: bool) -> None:
    longer = [*FLAGS, "--epochs", "100000"]
    job = submitted(lent, "python", "sweeps/digits.py", *longer, "--storage", str(tmp_path / "store"))
    with own_ray.ended(job):
        assert job.stdout is not None
        before = []
        for line in job.stdout:
            before.append(line)
            if "training on" in line:
                break
        assert "training on" in before[-1], "".join(before)
        job.send_signal(number)
        said = job.stdout.read()
        assert job.wait(60) == 143, said
        assert "run the same command again to go on from here" in said
        assert own_ray.group(job.pid) == []
    assert ("scontrol requeue" in (lent / "calls").read_text()) == queued
