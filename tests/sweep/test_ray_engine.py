"""The Ray engine on a real cluster of two CPUs: the local engine's bits, whatever dies or fails on the way."""

import contextlib
import dataclasses
import json
import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from faults.kills import Kill, Watch

from distsim.callbacks import Callback, Event, Told
from distsim.problems import PROBLEMS
from distsim.results import reduce as results
from distsim.specs import COMPLETE, Extent, NetworkId, Problem
from distsim.store import Lease, Storage, StorageError, StoreGone, SweepStore
from distsim.sweep.cluster import ClusterLost
from distsim.sweep.engine import Engine, LocalEngine
from distsim.sweep.failures import SweepFailed
from distsim.sweep.order import Prepared, prepare, take
from distsim.sweep.plan import Chain, missing, wave
from distsim.sweep.run import run

ray = pytest.importorskip("ray", reason="Ray is not installed")

from distsim.sweep.on_ray import engine as ray_engine  # noqa: E402  it imports Ray
from distsim.sweep.on_ray.deaths import short_of_memory, why  # noqa: E402
from distsim.sweep.on_ray.engine import RayEngine  # noqa: E402
from distsim.sweep.on_ray.trials import SAID, Handing, Lost, Searcher, Tasks, lost_ends_tune  # noqa: E402

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]

SMALL = PROBLEMS["digits"].reduced_to(epochs=2, probe=60, train_limit=200)
OTHER = dataclasses.replace(SMALL, name="other", recipe=dataclasses.replace(SMALL.recipe, lr=1e-3))
WILD = dataclasses.replace(SMALL, name="wild", recipe=dataclasses.replace(SMALL.recipe, lr=1e30))
GROWN, HARMED, PACKED = (dataclasses.replace(SMALL, name=name) for name in ("grown", "harmed", "packed"))


def silent(text: str) -> None:
    pass


def ordered(runs: int, iterations: int, problem: Problem = SMALL, **choices: Any) -> Prepared:
    return prepare(
        problem, runs=runs, iterations=iterations, **{"retention": "all", "resources": (("cpu", 1.0),)} | choices
    )


def by_ray(folder: Path, *orders: Prepared, tell: Callable[[Event], None] | None = None, seconds: int = 300) -> bool:
    root = Storage(folder)
    with not_for_ever(seconds):
        return finished(root, RayEngine(root, None, False, tell and Told(tell)), orders)


class Heard(Callback):
    """Notes what it hears of, with run and iteration."""

    def __init__(self) -> None:
        self.all: list[tuple[str, int | None, int]] = []
        for name in ("on_training", "on_epoch", "on_network", "on_activations", "on_chain_end"):
            setattr(self, name, lambda event, name=name: self.all.append((name, event["run"], event["iteration"])))
        self.compared: list[tuple[int, int]] = []

    def on_comparison(self, event: Event) -> None:
        self.compared.append((event["done"], event["of"]))


def in_process(folder: Path, *orders: Prepared) -> bool:
    root = Storage(folder)
    return finished(root, LocalEngine(root), orders)


def finished(root: Storage, engine: Engine, orders: tuple[Prepared, ...]) -> bool:
    take(orders, root)
    return run(orders, root, engine, silent)


@contextlib.contextmanager
def not_for_ever(seconds: int = 300) -> Iterator[None]:
    """A test whose sweep waits for what cannot come fails. Ray stops waiting for KeyboardInterrupt only."""
    late = threading.Event()

    def give_up(number: int, frame: object) -> None:
        late.set()
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(seconds)
    try:
        yield
    except KeyboardInterrupt:
        if not late.is_set():
            raise
        pytest.fail(f"the engine still waited after {seconds} s")
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def store_in(folder: Path, problem: str = "digits") -> SweepStore:
    return SweepStore(Storage(folder), problem)


def attempts(store: SweepStore) -> dict[NetworkId, str]:
    """Network -> the attempt that was committed, which is another each time that it is computed."""
    return {network: mark.attempt for network in store.contents().networks if (mark := store.mark(network))}


def same_pieces(some: SweepStore, more: SweepStore) -> bool:
    """Say whether all pieces of a store, without its tables, are those of another one."""
    pieces = {piece: digest for piece, digest in some.digests().items() if not piece.startswith("results/")}
    return bool(pieces) and pieces.items() <= more.digests().items()


def made_by(store: SweepStore, network: NetworkId) -> int:
    """The pid of the process that committed the network."""
    mark = store.mark(network)
    assert mark is not None
    return int(mark.provenance["pid"])


@pytest.fixture(autouse=True, scope="module")
def no_figures() -> Iterator[None]:
    """They take longer than the sweep, and Ray has no part in them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(results, "draw", lambda root, again=False: [])
        yield


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs of three iterations, without Ray. Not to be changed."""
    folder = tmp_path_factory.mktemp("local")
    assert in_process(folder, ordered(2, 3))
    return folder


@pytest.fixture
def copy(local: Path, tmp_path: Path) -> Path:
    """The same to change."""
    return Path(shutil.copytree(local, tmp_path / "copy"))


@contextlib.contextmanager
def killing(stages: Path, *kills: Kill) -> Iterator[list[int]]:
    """While the block runs, SIGKILL one worker after the other, each in its stage; their pids."""
    watch = Watch(stages)
    watch.read()
    over = threading.Event()
    killed: list[int] = []

    def strike() -> None:
        for kill in kills:
            pid = watch.freeze(kill, 0.0, over.is_set)
            assert pid is not None, f"no worker came to stage {kill.stage}"
            os.kill(pid, signal.SIGKILL)
            killed.append(pid)

    with ThreadPoolExecutor(1) as pool:
        striking: Future[None] = pool.submit(strike)
        try:
            yield killed
        finally:
            over.set()
        striking.result()


@contextlib.contextmanager
def held(hold: Callable[[], bool], over: threading.Event) -> Iterator[None]:
    """While the block runs, `hold` does in another thread; it must have come about. over : set when the block ends"""
    with ThreadPoolExecutor(1) as pool:
        holding = pool.submit(hold)
        try:
            yield
        finally:
            over.set()
        assert holding.result()


@dataclass(frozen=True)
class Swept:
    """A sweep by Ray of several problems."""

    folder: Path
    before: dict[str, dict[NetworkId, str]]  # problem -> network -> attempt, of what was there already
    failures: list[str]
    events: list[Event]

    def told(self, problem: str) -> list[tuple[Any, Any]]:
        """Run and iteration of the problem's networks, as their ends were told."""
        return [(event["run"], event["iteration"]) for event in self.events if event["problem"] == problem]


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory, ray_cluster: Path) -> Swept:
    """Six problems at once, since workers take longer to start than to train. Two cannot be finished.

    Of grown and harmed two runs of three iterations were there, and more is asked for. A file of harmed is damaged.
    """
    folder = tmp_path_factory.mktemp("swept")
    one = {"metrics": ("cosine",)}
    assert in_process(folder, ordered(2, 3, GROWN), ordered(2, 3, HARMED, **one))
    (weights,) = (folder / "harmed/runs/0001/iter_03").glob("attempt-*/weights.safetensors")
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    before = {name: attempts(store_in(folder, name)) for name in ("grown", "harmed")}
    asked = [ordered(1, 1, OTHER), ordered(2, 1, WILD), ordered(2, 3), ordered(3, 3, GROWN)]
    asked += [ordered(2, 4, HARMED, **one), ordered(3, 3, PACKED, pack=2, **one)]
    events: list[Event] = []
    with pytest.raises(SweepFailed) as failed:
        by_ray(folder, *asked, tell=events.append, seconds=900)
    return Swept(folder, before, failed.value.failures, events)


# --- the same as without Ray -----------------------------------------------------------------------------------------


def test_ray_makes_the_local_engines_bits_of_two_problems(swept: Swept, local: Path, tmp_path: Path) -> None:
    assert in_process(tmp_path / "local", ordered(1, 1, OTHER))
    assert store_in(swept.folder).digests() == store_in(local).digests()
    assert store_in(swept.folder, "other").digests() == store_in(tmp_path / "local", "other").digests()
    for name, extent in {"digits": Extent(runs=2, iterations=3), "other": Extent(runs=1, iterations=1)}.items():
        told = swept.told(name)
        assert (told[0], sorted(told[1:])) == ((None, 0), [(one.run, one.iteration) for one in extent.networks])
        store = store_in(swept.folder, name)
        assert all(made_by(store, network) != os.getpid() for network in [COMPLETE, *extent.networks])


def test_a_finished_sweep_is_left_alone(copy: Path) -> None:
    before = attempts(store_in(copy))
    assert not by_ray(copy, ordered(2, 3))
    assert attempts(store_in(copy)) == before
    assert not (copy / "tune").exists(), "no trial was started"


def test_a_third_run_is_all_that_is_added(swept: Swept, tmp_path: Path) -> None:
    store, before = store_in(swept.folder, "grown"), swept.before["grown"]
    after = attempts(store)
    assert after.keys() - before.keys() == {NetworkId(2, iteration) for iteration in (1, 2, 3)}
    assert {network: after[network] for network in before} == before
    assert in_process(tmp_path, ordered(3, 3, GROWN))
    assert store.digests() == store_in(tmp_path, "grown").digests(), "as if three had been asked for at once"


def test_a_worker_that_has_started_gets_a_chain(tmp_path: Path) -> None:
    """Where it takes longer to start than a chain to be trained, and another has become free in the meantime."""
    order, root = ordered(20, 1, SMALL.reduced_to(epochs=8), activations="memory"), Storage(tmp_path)
    take([order], root)
    chains = wave(order.sweep, missing(order.sweep, store_in(tmp_path).contents(), order.layers), None, 0)
    before = ray._private.state.actors().keys()
    with not_for_ever():
        assert RayEngine(root, None, False).train([order], {"digits": chains}, {("digits", 0)}) == []
    begun = ray._private.state.actors().keys() - before
    workers = {made_by(store_in(tmp_path), NetworkId(run, 1)) for run in range(20)}
    assert (len(begun), len(workers)) == (2, 2), "one for each CPU, and both train"


# --- workers that die ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def struck(tmp_path_factory: pytest.TempPathFactory, ray_cluster: Path) -> tuple[Path, list[int]]:
    """One run by Ray of which a worker died that trained, and later one that compared; their pids."""
    folder = tmp_path_factory.mktemp("struck")
    kills = Kill("extraction", "worker", occurrence=3), Kill("comparison", "worker", occurrence=5)
    with killing(ray_cluster, *kills) as killed:  # extraction: complete, iterations 1 and 2
        assert by_ray(folder, ordered(1, 3))
    return folder, killed


def test_a_chain_goes_on_in_another_worker(struck: tuple[Path, list[int]], local: Path) -> None:
    folder, killed = struck
    store = store_in(folder)
    first, last = (store.activations_mark(NetworkId(0, iteration)) for iteration in (1, 3))
    assert first is not None
    assert last is not None
    assert first.provenance["pid"] == killed[0]
    assert last.provenance["pid"] != killed[0]
    expected = store_in(local).digests()
    found = {piece: digest for piece, digest in store.digests().items() if not piece.startswith("results/")}
    assert found == {piece: expected[piece] for piece in found}
    assert store.contents().networks == {COMPLETE, NetworkId(0, 1), NetworkId(0, 2), NetworkId(0, 3)}


def test_tune_keeps_no_averages_of_trials_that_have_ended(struck: tuple[Path, list[int]]) -> None:
    """Which would be the largest part of what it holds in memory for each. One of these trials died."""
    states = [json.loads(path.read_text()) for path in struck[0].glob("tune/*/experiment_state-*.json")]
    trials = [[json.loads(part) for part in trial] for state in states for trial in state["trial_data"]]
    assert sorted(trial["status"] for trial, _ in trials) == ["ERROR", "TERMINATED", "TERMINATED"]
    assert [kept[name] for _, kept in trials for name in ("metric_analysis", "metric_n_steps")] == [{}] * 6


@pytest.mark.long
def test_a_chain_that_comes_further_each_time_is_tried_for_ever(
    tmp_path: Path, ray_cluster: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of its workers dies once a network more is committed; one that does not get that far is given up.

    The first may be hit late, when a second network is committed. Then the next begins with two extractions, and the
    third is of a network of its own.
    """
    monkeypatch.setattr(ray_engine, "RETRIES", 0)
    events: list[Event] = []
    with killing(ray_cluster, Kill("extraction", "worker", occurrence=2), Kill("extraction", "worker", occurrence=3)):
        assert by_ray(tmp_path, ordered(1, 5), tell=events.append)
    assert [event["piece"] for event in events if "died" in event] == ["run 0", "run 0"]
    store = store_in(tmp_path)
    assert in_process(tmp_path / "local", ordered(1, 5))
    expected = store_in(tmp_path / "local").digests()
    found = {piece: digest for piece, digest in store.digests().items() if not piece.startswith("results/")}
    assert found == {piece: expected[piece] for piece in found}
    with killing(ray_cluster, Kill("extraction", "worker")), pytest.raises(SweepFailed) as failed:
        by_ray(tmp_path / "other", ordered(1, 1))
    assert failed.value.failures[0].startswith("digits, complete network: ")


def uncompared(folder: Path, *networks: NetworkId) -> SweepStore:
    for network in networks:
        shutil.rmtree(folder / "digits" / network.path / "comparison")
    return store_in(folder)


def test_another_actor_compares_what_a_dead_one_has_not(struck: tuple[Path, list[int]], tmp_path: Path) -> None:
    folder, killed = struck
    assert len(set(killed)) == 2
    assert in_process(tmp_path, ordered(1, 3))
    assert store_in(folder).digests() == store_in(tmp_path).digests()


def test_a_comparison_that_kills_every_actor_is_given_up(
    copy: Path, ray_cluster: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_engine, "RETRIES", 1)
    uncompared(copy, NetworkId(1, 3))
    with (
        killing(ray_cluster, Kill("comparison", "worker"), Kill("comparison", "worker")),
        pytest.raises(SweepFailed) as failed,
    ):
        by_ray(copy, ordered(2, 3, metrics=("cosine",)))
    assert len(failed.value.failures) == 1
    assert failed.value.failures[0].startswith("digits, layer out: given up after 1 retries: ")
    assert by_ray(copy, ordered(2, 3, metrics=("cosine",))), "the next time it is tried again"


# --- what fails for good ---------------------------------------------------------------------------------------------


def test_a_diverging_problem_does_not_stop_the_other(swept: Swept, local: Path) -> None:
    assert len(swept.failures) == 2, "chains whose complete network failed are not tried"
    assert swept.failures[1].startswith("wild, complete network: training diverged: ")
    assert store_in(swept.folder, "wild").contents().networks == set()
    assert store_in(swept.folder).digests() == store_in(local).digests()


def test_a_chain_that_cannot_go_on_does_not_stop_the_others(swept: Swept) -> None:
    assert len(swept.failures) == 2
    assert swept.failures[0].startswith("harmed, run 1: runs/0001/iter_03/attempt-")
    assert "is damaged" in swept.failures[0]
    found, before = store_in(swept.folder, "harmed").contents(), swept.before["harmed"]
    assert found.networks == {*before, NetworkId(0, 4)}
    assert {network for network, _ in found.comparisons} == {*before, NetworkId(0, 4)} - {COMPLETE}


# --- a cluster that is not as it should be ---------------------------------------------------------------------------


def test_a_machine_that_is_taken_for_dead_ends_the_sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a raylet is that was stopped for a minute: its trial would wait for ever for a machine."""
    nodes = ray.nodes

    def mark_dead(event: Event) -> None:
        monkeypatch.setattr(ray, "nodes", lambda: [node | {"Alive": False} for node in nodes()])

    with pytest.raises(ClusterLost, match=r"Ray has died: it takes this machine for dead, .* --local, then run"):
        by_ray(tmp_path, ordered(1, 3, SMALL), tell=mark_dead)
    monkeypatch.setattr(ray, "nodes", nodes)


def test_tune_does_not_write_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "store").mkdir()
    (tmp_path / "store/tune").symlink_to(tmp_path / "outside")
    with pytest.raises(StorageError, match="tune leads out of the store"):
        ray_engine._tune_path(Storage(tmp_path / "store"))
    assert list((tmp_path / "outside").iterdir()) == []


# --- who may run when ------------------------------------------------------------------------------------------------


def test_slots_are_what_fits(tmp_path: Path) -> None:
    engine = RayEngine(Storage(tmp_path), None, False)
    one, two, three = (ordered(1, 1, threads=threads) for threads in (1, 2, 3))
    assert [engine.slots([each]) for each in (one, two)] == [2, 1]
    with pytest.raises(
        ValueError,
        match=r"no machine of the Ray cluster has 3 CPU \(it has .*: 2 CPU, 0 GPU\): see --cpus",
    ):
        engine.slots([three])
    assert engine.slots([one, two]) == 1, "a slot is large enough for either"


def test_comparisons_go_on_where_others_have_taken_a_slot(local: Path, copy: Path) -> None:
    """An actor that the cluster has no room for must not keep its job while another is idle."""
    store = uncompared(copy, NetworkId(0, 1), NetworkId(0, 2))

    @ray.remote(num_cpus=1)
    class Other:
        def is_here(self) -> bool:
            return True

    other = Other.remote()
    assert ray.get(other.is_here.remote())
    try:
        assert by_ray(copy, ordered(2, 3))
    finally:
        ray.kill(other)
    assert store.digests() == store_in(local).digests()


def test_a_network_is_compared_while_a_later_one_is_trained(local: Path, tmp_path: Path, ray_cluster: Path) -> None:
    """The trial stands still before it commits its third network, until something is compared."""
    watch = Watch(ray_cluster)
    watch.read()
    over = threading.Event()

    def hold() -> bool:
        pid = watch.freeze(Kill("commit", "worker", occurrence=4), 0.0, over.is_set)  # the first is the complete one's
        assert pid is not None
        try:
            while not over.wait(0.1):
                if any(begin.stage == "comparison" for begin in watch.read()):
                    return True
            return False
        finally:
            os.kill(pid, signal.SIGCONT)

    with held(hold, over):
        assert by_ray(tmp_path, ordered(1, 3))
    assert same_pieces(store_in(tmp_path), store_in(local))


def test_others_compare_while_one_that_began_in_training_goes_on(
    local: Path, tmp_path: Path, ray_cluster: Path
) -> None:
    """A comparison stands still from the training until another process compares. None is made twice."""
    watch = Watch(ray_cluster)
    watch.read()
    before = watch.begun["comparison"]
    over = threading.Event()
    order = ordered(1, 3)

    def hold() -> bool:
        # the first commit is the complete network's
        trial = watch.freeze(Kill("commit", "worker", occurrence=4), 0.0, over.is_set)
        assert trial is not None
        try:
            actor = watch.freeze(Kill("comparison", "worker"), 0.0, over.is_set)
        finally:
            os.kill(trial, signal.SIGCONT)
        assert actor is not None
        try:
            while not over.wait(0.1):
                if any(begin.pid != actor for begin in watch.read() if begin.stage == "comparison"):
                    return True
            return False
        finally:
            os.kill(actor, signal.SIGCONT)

    with held(hold, over):
        assert by_ray(tmp_path, order, seconds=120)
    watch.read()
    compared_once = len(order.layers) * (3 + 1)  # the first network also with its examples permuted
    assert watch.begun["comparison"] - before == compared_once
    assert same_pieces(store_in(tmp_path), store_in(local))


def test_an_interrupt_is_not_mistaken_for_the_end(tmp_path: Path) -> None:
    """And comparisons of two threads share two CPUs."""
    two_threads = ordered(1, 2, threads=2, resources=(("cpu", 2.0),))

    def interrupt(event: Event) -> None:
        if event["iteration"] == 1:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        by_ray(tmp_path, two_threads, tell=interrupt)
    assert by_ray(tmp_path, two_threads), "and the same command goes on"
    assert len(store_in(tmp_path).contents().networks) == 3
    assert not by_ray(tmp_path, two_threads)


def test_what_a_watcher_hears_of_trials(tmp_path: Path) -> None:
    """No epochs: nothing more crosses from the workers than finished networks."""
    root, heard = Storage(tmp_path), Heard()
    with not_for_ever():
        assert finished(root, RayEngine(root, None, False, heard), (ordered(1, 2, metrics=("cka",), chance=False),))
    assert heard.all == [
        ("on_training", None, 0),
        ("on_network", None, 0),
        ("on_activations", None, 0),
        ("on_chain_end", None, 0),
        ("on_training", 0, 1),
        ("on_network", 0, 1),
        ("on_training", 0, 2),
        ("on_network", 0, 2),
        ("on_activations", 0, 1),
        ("on_activations", 0, 2),
        ("on_chain_end", 0, 2),
    ]
    done, whole = zip(*heard.compared, strict=True)
    assert set(whole) == {done[-1]}
    assert list(done) == sorted(done)


def test_runs_in_packs_are_those_alone(swept: Swept, local: Path) -> None:
    """Two packs, of two runs and of one. One that fails in a pack: tests/test_epochs_kept.py."""
    found, expected = store_in(swept.folder, "packed"), store_in(local)
    assert len(found.contents().networks) == 10
    for network in expected.contents().networks:
        mark, other = expected.mark(network), found.mark(network)
        assert mark is not None
        assert other is not None
        assert mark.digest == other.digest
    assert made_by(found, NetworkId(0, 1)) == made_by(found, NetworkId(1, 1)), "by one process"
    told = swept.told("packed")
    assert told.index((1, 1)) < told.index((0, 3)), "in turns"


def test_fused_runs_are_those_of_the_local_engine_whatever_dies(tmp_path: Path, ray_cluster: Path) -> None:
    """Two groups, of two runs and of one, one after the other. The first one's worker dies between two commits."""
    fused = ordered(3, 2, fuse=2, metrics=("cka",), chance=False, resources=(("cpu", 2.0),))
    assert in_process(tmp_path / "local", fused)
    with killing(ray_cluster, Kill("commit", "worker", occurrence=3)):  # complete, then a network of a group
        assert by_ray(tmp_path / "ray", fused)
    found, expected = (store_in(tmp_path / name) for name in ("ray", "local"))
    assert len(found.contents().networks) == 7
    assert found.digests() == expected.digests()
    assert made_by(found, NetworkId(0, 2)) == made_by(found, NetworkId(1, 2)), "a trial is a group"


FIRST, SECOND = (Chain(0, (1,), ()),), (Chain(1, (1,), ()),)


def said(failed: list[str]) -> dict[str, Any]:
    """What a trial says last."""
    return {SAID: [{"failed": failed}]}


def test_a_store_that_has_gone_ends_tune_at_once(tmp_path: Path) -> None:
    """Workers cannot see it, and would begin the store anew with what they write."""
    root = Storage(tmp_path / "store")
    with Lease(root, lambda said: None):
        engine = RayEngine(root, None, False)
        engine._look()
        Path(root.url).rename(tmp_path / "elsewhere")  # at once: the lease's thread writes beside this
        with pytest.raises(Lost, match=r"has gone \(unmounted or removed\?\)") as caught:
            lost_ends_tune(engine._look)()
        assert isinstance(caught.value.__cause__, StoreGone)


def test_a_store_that_has_gone_is_not_called_a_lost_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def ended(*_: object, **__: object) -> None:
        raise Lost("it has gone") from StoreGone("it has gone")

    monkeypatch.setattr(ray_engine.tune, "Tuner", ended)
    unused: Any = SimpleNamespace(on_network=None, tick=None)
    with pytest.raises(StoreGone, match="it has gone"):
        RayEngine(Storage(tmp_path), None, False)._fit([], [], unused)


def suggested(tasks: Tasks, trial: str) -> int | str | None:
    """The number of the task handed out; None: wait; "finished"."""
    config = tasks.suggest(trial)
    if config == Searcher.FINISHED:
        return "finished"
    return None if config is None else int(config["task"])


def test_chains_wait_for_their_own_complete_network() -> None:
    tasks = Tasks([("a", 0), ("b", 0), ("a", FIRST), ("b", FIRST), ("b", SECOND)])
    assert [suggested(tasks, trial) for trial in "tuv"] == [0, 1, None]
    tasks.on_trial_complete("u", said([]))
    assert [suggested(tasks, trial) for trial in "vwx"] == [3, 4, None], "the other's is not ready"
    tasks.on_trial_complete("t", said([]))
    assert [suggested(tasks, trial) for trial in "xy"] == [2, None], "a trial may die and be needed again"
    for trial in "vwx":
        tasks.on_trial_complete(trial, said([]))
    assert suggested(tasks, "z") == "finished"
    assert tasks.failures == []


def test_chains_whose_complete_network_is_there_do_not_wait() -> None:
    tasks = Tasks([("a", 0), ("a", FIRST), ("b", FIRST)])
    assert [suggested(tasks, trial) for trial in "tu"] == [0, 2]


@pytest.mark.parametrize(
    ("outcome", "sentences"),
    [
        (said(["a: diverged"]), ["a: diverged"]),
        (None, ["a, complete network: given up after 0 retries: its worker died, or an error ended it"]),
    ],
    ids=["by its own doing", "its worker died"],
)
def test_chains_of_a_failed_complete_network_are_dropped(outcome: dict[str, Any] | None, sentences: list[str]) -> None:
    tasks = Tasks([("a", 0), ("b", 0), ("a", FIRST), ("a", SECOND), ("b", FIRST)], retries=0)
    assert [suggested(tasks, trial) for trial in "tu"] == [0, 1]
    if outcome is None:
        die(tasks, "t")
    else:
        tasks.on_trial_complete("t", outcome)
    assert suggested(tasks, "v") is None
    tasks.on_trial_complete("u", said([]))
    assert suggested(tasks, "v") == 4
    tasks.on_trial_complete("v", said([]))
    assert suggested(tasks, "w") == "finished"
    assert tasks.failures == sentences


def die(tasks: Tasks, trial: str, cause: str = "") -> None:
    """As Tune tells of a trial whose worker died."""
    tasks.on_trial_complete(trial, error=True)
    tasks.died(trial, cause)


def test_a_dead_trial_is_tried_again_until_it_gets_no_further() -> None:
    networks = iter((1, 2, 3, 4, 4, 4))
    tasks = Tasks([("a", FIRST)], retries=1, committed=lambda task: next(networks))
    for trial in "tuvw":  # each commits a network, and dies
        assert suggested(tasks, trial) == 0
        die(tasks, trial)
    for trial in "xy":  # they commit none
        assert suggested(tasks, trial) == 0
        die(tasks, trial, "ray::x\nOSError: gone")
    assert suggested(tasks, "z") == "finished"
    assert tasks.failures == ["a, run 0: given up after 1 retries: OSError: gone"]


def test_ray_that_ends_a_worker_for_want_of_memory_is_understood() -> None:
    said = (
        "ray::x\nOutOfMemoryError: 1 worker(s) were killed due to the node running low on memory. Memory on the node "
    )
    cause = f"{said}(IP: 10.0.0.1, ID: 8b) was 22.69GB used / 23.54GB limit (0.963709)\nRefer to the documentation"
    short = "Ray ended its worker, because the machine was short of memory (22.7 of 23.5 GB in use)"
    assert (short_of_memory(cause), short_of_memory("OSError: gone")) == (short, "")
    assert why(cause) == f"{short}; a larger --cpus lets fewer workers run there at once"


def test_tune_may_end_idle_workers_until_a_task_is_handed_out_again() -> None:
    tasks = Tasks([("a", FIRST)], retries=1)
    asked = Handing(tasks)
    assert not asked.is_finished()
    assert suggested(tasks, "t") == 0
    assert asked.is_finished(), "what idle workers hold is free for comparisons"
    die(tasks, "t")
    assert not asked.is_finished(), "there is a trial to come"


def test_a_failed_chain_drops_no_other() -> None:
    tasks = Tasks([("a", FIRST), ("a", SECOND)])
    assert suggested(tasks, "t") == 0
    tasks.on_trial_complete("t", said(["a, run 0: damaged"]))
    assert suggested(tasks, "u") == 1
    tasks.on_trial_complete("u", said([]))
    assert suggested(tasks, "v") == "finished"
    assert tasks.failures == ["a, run 0: damaged"]
