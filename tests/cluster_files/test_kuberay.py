"""clusters/kuberay.yaml: what can be told without KubeRay's schema, which tests/cluster_files/against_crd.py checks."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml
from cluster_files.against_crd import complaints

from distsim.cli import main as cli
from distsim.cli import sweeps
from distsim.problems import PROBLEMS

ROOT = Path(__file__).parents[2]
FILE = ROOT / "clusters" / "kuberay.yaml"
TEXT = FILE.read_text()
JOB: dict[str, Any] = yaml.safe_load(TEXT)
CLUSTER = JOB["spec"]["rayClusterSpec"]
GROUPS = [CLUSTER["headGroupSpec"], *CLUSTER["workerGroupSpecs"]]


def containers() -> list[dict[str, Any]]:
    return [each for group in GROUPS for each in group["template"]["spec"]["containers"]]


def test_it_is_a_job_with_gpu_pods_that_come_and_go() -> None:
    assert (JOB["apiVersion"], JOB["kind"]) == ("ray.io/v1", "RayJob")
    assert CLUSTER["enableInTreeAutoscaling"]
    assert JOB["spec"]["shutdownAfterJobFinishes"]
    (workers,) = CLUSTER["workerGroupSpecs"]
    assert workers["minReplicas"] == workers["replicas"] == 0 < workers["maxReplicas"]
    (worker,) = workers["template"]["spec"]["containers"]
    for kind in ("requests", "limits"):
        assert worker["resources"][kind]["nvidia.com/gpu"] == 1
    head = CLUSTER["headGroupSpec"]
    assert head["rayStartParams"]["num-cpus"] == "0", "no trial runs on it"
    assert "nvidia.com/gpu" not in str(head)
    for name in (JOB["metadata"]["name"], workers["groupName"], *(each["name"] for each in containers())):
        assert re.fullmatch(r"[a-z]([a-z0-9-]{0,40}[a-z0-9])?", name), name


def test_who_has_no_token_is_refused() -> None:
    assert CLUSTER["authOptions"] == {"mode": "token"}
    for group in GROUPS:  # KubeRay takes numbers for an error: they become words of a command
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())


def test_its_ray_is_the_pinned_one_and_its_image_the_repository_s() -> None:
    pins = dict(pin.split("==") for pin in (ROOT / "constraints.txt").read_text().split())
    assert CLUSTER["rayVersion"] == pins["ray"]
    images = {each["image"] for each in containers()}
    assert images == {f"REGISTRY/distsim-cuda:ray-{pins['ray']}"}
    (build,) = re.findall(r"docker build -t (\S+) -f (\S+) \. && docker push (\S+)", TEXT)
    assert {build[0], build[2]} == images
    assert "requirements/cluster.txt" in (ROOT / build[1]).read_text(), "with the dashboard, which starts the job"


def test_its_sweep_can_be_read() -> None:
    program, command, problem, *arguments = shlex.split(JOB["spec"]["entrypoint"])
    assert (program, command) == ("distsim", "sweep")
    cli.parser().parse_args([command, problem, *arguments])
    flags = sweeps.parser_for([PROBLEMS[problem]], {}).parse_args(arguments)
    assert (flags.address, flags.device, flags.download) == ("auto", "cuda", True)
    assert flags.storage.startswith("s3://")
    secrets = {source["secretRef"]["name"] for each in containers() for source in each["envFrom"]}
    assert secrets == set(re.findall(r"kubectl create secret generic (\S+)", TEXT))


def test_what_the_comments_name_is_there() -> None:
    (line,) = re.findall(r"python (tests/\S+) \S+ (\S+)", TEXT)
    for path in (*line, *re.findall(r"kubectl create -f (\S+)", TEXT)):
        assert (ROOT / path).is_file(), path
    assert "has never run on Kubernetes" in TEXT
    assert TEXT.count("EDIT") >= 5


SMALL = {  # a schema as operators publish them
    "spec": {
        "group": "ray.io",
        "names": {"kind": "RayJob"},
        "versions": [
            {
                "name": "v1",
                "schema": {
                    "openAPIV3Schema": {
                        "type": "object",
                        "properties": {
                            "apiVersion": {"type": "string"},
                            "kind": {"type": "string"},
                            "metadata": {"type": "object"},
                            "spec": {
                                "type": "object",
                                "required": ["entrypoint"],
                                "properties": {
                                    "entrypoint": {"type": "string"},
                                    "port": {"x-kubernetes-int-or-string": True},
                                    "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
                                },
                            },
                        },
                    }
                },
            }
        ],
    }
}


@pytest.mark.parametrize(
    ("spec", "wrong"),
    [
        ({"entrypoint": "ls", "port": 1, "free": {"any": 1}}, ""),
        ({"entrypoint": "ls", "port": "name"}, ""),
        ({"entrypoint": "ls", "prot": 1}, "spec: Additional properties are not allowed ('prot' was unexpected)"),
        ({"entrypoint": 1}, "spec.entrypoint: 1 is not of type 'string'"),
        ({}, "spec: 'entrypoint' is a required property"),
        ({"entrypoint": "ls", "port": [1]}, "spec.port: [1] is not of type 'integer', 'string'"),
    ],
)
def test_the_check_by_a_schema_finds_what_is_wrong(spec: dict[str, Any], wrong: str) -> None:
    job = {"apiVersion": "ray.io/v1", "kind": "RayJob", "metadata": {"name": "a"}, "spec": spec}
    assert complaints(SMALL, job) == [wrong] * bool(wrong)
    assert complaints(SMALL, job | {"kind": "RayCluster"}) == ["ray.io/v1 RayCluster is not what the definition is of"]
