"""Machines of a Ray cluster that are unfit, and work whose workers died. tests/faults/nodes.py has more of both.

Here the cluster is one machine of two CPUs.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ray = pytest.importorskip("ray", reason="Ray is not installed")

from distsim.cli import doctor_cluster  # noqa: E402  they import Ray, or belong to what does
from distsim.store import Storage  # noqa: E402
from distsim.sweep.cluster import ClusterLost  # noqa: E402
from distsim.sweep.on_ray import cluster as ray_cluster  # noqa: E402  these import Ray
from distsim.sweep.on_ray import hosts as ray_hosts  # noqa: E402
from distsim.sweep.on_ray import room as ray_room  # noqa: E402
from distsim.sweep.on_ray.deaths import Deaths  # noqa: E402
from distsim.sweep.on_ray.hosts import Hosts, fits, selector  # noqa: E402
from distsim.sweep.on_ray.parcels import Parcels  # noqa: E402
from distsim.sweep.order import Prepared  # noqa: E402
from distsim.sweep.preflight import Question  # noqa: E402

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]
LACKS = "ModuleNotFoundError: No module named 'distsim_gone'"


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def sick(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on distsim cannot be imported on any machine."""
    monkeypatch.setattr(ray_hosts, "ASK", ray_hosts.ASK.replace("import distsim\n", "import distsim_gone\n"))


def hosts(said: list[str], drift: bool = False, storage: Storage | None = None, **asked: Any) -> Hosts:
    sign = "lease/000001.json", b"ours"
    if storage is not None:
        storage.put(*sign)
    return Hosts(Question(storage, sign, **asked), [{"CPU": 1}], drift, said.append)


def test_a_healthy_machine_gets_work(said: list[str], tmp_path: Path) -> None:
    asked = hosts(said, storage=Storage(tmp_path))
    asked.require()
    asked.look()
    assert (asked.out, said, selector(asked.avoid)) == ({}, [], {})


def test_where_it_cannot_be_used_no_sweep_starts(said: list[str], sick: None) -> None:
    host = ray.nodes()[0]["NodeManagerHostname"]
    with pytest.raises(ConnectionError, match=rf"no machine of the Ray cluster can be used \({host}: {LACKS}\)"):
        hosts(said).require()


def test_too_few_cores_are_named(said: list[str]) -> None:
    with pytest.raises(ConnectionError, match=r"can be used \(.*: it has .* cores for 10000 threads"):
        hosts(said, threads=10_000).require()


def test_other_code_is_refused_or_told(said: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    other = ray_hosts.ASK.replace("examine(cloudpickle.loads(question))", "{'facts': {'code': '0.1+abc'}}")
    monkeypatch.setattr(ray_hosts, "ASK", other)
    with pytest.raises(ConnectionError, match=r"machines .* differ \(.*it has distsim 0.1\+abc, the driver has "):
        hosts(said).require()
    assert said == []
    allowed = hosts(said, drift=True)
    allowed.require()
    assert allowed.out == {}
    (sentence,) = said
    assert "differs: it has distsim 0.1+abc" in sentence


def test_a_machine_that_loses_its_code_gets_no_more_work(said: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    asked = hosts(said)
    asked.require()
    deaths: Deaths[str] = Deaths(asked, retries=0)
    deaths.note("work", "work", asked.avoid, "a cause")
    assert settled(deaths) == ([], [("work", "given up after 0 retries: a cause")]), "the machine is fit"
    monkeypatch.setattr(ray_hosts, "ASK", ray_hosts.ASK.replace("import distsim\n", "import distsim_gone\n"))
    deaths.note("work", "work", asked.avoid, "a cause")
    assert settled(deaths) == (["work"], []), "it may have died of this machine"
    (node,) = ray.nodes()
    assert asked.avoid == {node["NodeID"]}
    assert said == [f"{node['NodeManagerHostname']} gets no work: {LACKS}"]
    assert selector(asked.avoid) == {"ray.io/node-id": f"!in({node['NodeID']})"}
    assert fits(node, {"CPU": 1}) == 2
    assert fits(node, {"CPU": 1}, asked.avoid) == 0
    asked._looked = 0.0
    with pytest.raises(ClusterLost, match="no machine of the Ray cluster can be used any more"):
        asked.look()


def settled(deaths: "Deaths[str]") -> tuple[list[str], list[tuple[str, str]]]:
    """What is decided once all machines have answered."""
    while True:
        again, given_up = deaths.decided()
        if not deaths:
            return again, given_up


def test_where_two_workers_could_not_start_a_third_is_not_tried(said: list[str]) -> None:
    asked = hosts(said)
    (node,) = ray.nodes()
    error = f"ray::X.__init__() (pid=1, ip={node['NodeManagerAddress']}, actor_id=0)\n  File ...\nOSError: no room\n"
    asked.could_not_start("ray::X.__init__() (pid=1, ip=192.0.2.200, actor_id=0)\nOSError: no room")
    asked.could_not_start(error)
    assert said == []
    asked.could_not_start(error)
    assert said == [f"{node['NodeManagerHostname']} gets no work: 2 workers could not start there: OSError: no room"]
    assert asked.avoid == {node["NodeID"]}


def test_deaths_are_counted_until_there_is_progress() -> None:
    deaths: Deaths[str] = Deaths(None, retries=1)
    for _ in range(3):
        deaths.forgive(7)
        deaths.note("work", 7, frozenset(), "")
        assert deaths.decided() == (["work"], [])
    deaths.note("work", 7, frozenset(), "")
    assert deaths.decided() == (["work"], [])
    deaths.note("work", 7, frozenset(), "Traceback\nOSError: gone\n")
    assert deaths.decided() == ([], [("work", "given up after 1 retries: OSError: gone")])
    deaths.note("work", 7, frozenset(), "")
    assert deaths.decided() == (["work"], []), "the next time it is tried again"


# --- room ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def order() -> Prepared:
    from distsim.problems import PROBLEMS
    from distsim.sweep.order import prepare

    small = PROBLEMS["digits"].reduced_to(epochs=1, probe=60, train_limit=200)
    return prepare(small, runs=1, iterations=1, resources=(("cpu", 1.0),))


def test_what_no_machine_has_is_refused_with_what_there_is(order: Prepared, said: list[str]) -> None:
    import dataclasses

    greedy = dataclasses.replace(order, sweep=dataclasses.replace(order.sweep, resources=(("cpu", 1.0), ("gpu", 1.0))))
    with pytest.raises(ValueError, match=r"no machine of the Ray cluster has 1 GPU \(it has .*: 2 CPU, 0 GPU\)"):
        ray_room.require_room([greedy], here=False, say=said.append)
    ray_room.require_room([order], here=False, say=said.append)
    assert said == []


def test_what_a_growing_cluster_lacks_is_waited_for(
    order: Prepared, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import dataclasses

    monkeypatch.setattr(ray_room, "grows", lambda: True)
    greedy = dataclasses.replace(order, sweep=dataclasses.replace(order.sweep, resources=(("gpu", 1.0),)))
    ray_room.require_room([greedy], here=False, say=said.append)
    assert said == ["waiting for a machine with 1 GPU, which the cluster may start"]


def test_this_cluster_does_not_grow() -> None:
    assert not ray_room.grows()


def test_data_that_no_machine_can_hold_are_refused(
    order: Prepared, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    sentence = ray_room.memory_sentence([order])
    assert sentence.startswith("each machine gets the data once: ")
    assert " over the network; a comparison asks for " in sentence
    nodes = [node | {"Resources": node["Resources"] | {"object_store_memory": 1000.0}} for node in ray.nodes()]
    monkeypatch.setattr(ray, "nodes", lambda: nodes)
    with pytest.raises(ValueError, match=r"cannot hold the data: they take .* which has 1 kB there: start Ray with"):
        ray_room.require_room([order], here=False, say=said.append)


def test_a_data_set_is_put_once_for_all_waves(order: Prepared) -> None:
    parcels = Parcels()
    first, second = parcels.of(order), parcels.of(order)
    assert first.data == second.data, "the same object in Ray's store"
    assert (first.dataset().train_images == order.dataset.train_images).all()


# --- distsim doctor --address ----------------------------------------------------------------------------------------


@pytest.fixture
def connected(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As if the command had connected to this cluster, which it must not end."""
    watch = ray_cluster.Watch("here", ours=False)
    monkeypatch.setattr(ray_cluster, "connect", lambda address, datasets: watch)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    yield
    watch.stop()


@pytest.mark.usefixtures("connected")
def test_doctor_has_a_row_for_each_machine(said: list[str], tmp_path: Path) -> None:
    storage = str(tmp_path / "store")
    assert doctor_cluster.examine("here:1", storage, "cpu", 1, said.append)
    head, row, conclusion = said
    assert head.split() == list(doctor_cluster.HEAD)
    (node,) = ray.nodes()
    assert row.startswith(node["NodeManagerHostname"])
    assert " usable " in row
    assert conclusion == "a sweep would start: 1 of 1 machines can work"
    assert list(Storage(storage).sizes()) == []


@pytest.mark.usefixtures("connected", "sick")
def test_doctor_says_what_is_wrong(said: list[str]) -> None:
    assert not doctor_cluster.examine("here:1", None, "cpu", 1, said.append)
    assert said[1].split()[-4:-2] == ["usable", "+0"] or "not usable" in said[1]
    assert said[2].endswith(f"gets no work: {LACKS}")
    assert said[3] == "a sweep would not start"
    with pytest.raises(ConnectionError, match="no machine of the Ray cluster at here:1 has 1 CPU, 1 GPU"):
        doctor_cluster.examine("here:1", None, "cuda", 1, said.append)
