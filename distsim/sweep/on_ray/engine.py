"""The engine that works on Ray: chains are Tune trials, comparisons are actors.

Tune schedules, retries and logs. What is done is asked of the store, never of Tune. Tune's files go to `tune/` in the
store and are never read. A sweep is resumed by a fresh Tuner for what the store lacks.
"""

import contextlib
import time
import uuid
import warnings
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import quote, unquote

import ray
from ray import tune
from ray.exceptions import RayError
from ray.tune.execution import class_cache

from distsim import stopping
from distsim.callbacks import Callback
from distsim.store import Storage, StorageError, SweepStore
from distsim.store.storage import first_line
from distsim.sweep.chain_training import train_chains
from distsim.sweep.cluster import ClusterLost
from distsim.sweep.engine import JobsOf, no_jobs
from distsim.sweep.failures import attempt
from distsim.sweep.jobs import Job, pieces, without
from distsim.sweep.on_ray import cluster as ray_cluster
from distsim.sweep.on_ray.cluster import LOOKS, Watch
from distsim.sweep.on_ray.comparisons import ComparisonActor, Comparisons, count
from distsim.sweep.on_ray.deaths import RETRIES
from distsim.sweep.on_ray.early import Early
from distsim.sweep.on_ray.hosts import Hosts, selector
from distsim.sweep.on_ray.parcels import Own, Parcel, Parcels, own
from distsim.sweep.on_ray.room import (
    GROWTH,
    bundle_of,
    bundles,
    free_for,
    hires,
    memory_sentence,
    require_room,
    room_for,
    slot,
)
from distsim.sweep.on_ray.trials import (
    Handing,
    KeepsNewWorkers,
    Listener,
    Lost,
    Tasks,
    interrupts_end_tune,
    label,
    lost_ends_tune,
    report,
    reported,
)
from distsim.sweep.order import Prepared
from distsim.sweep.plan import Chain, trials_of
from distsim.sweep.preflight import Question
from distsim.sweep.training_worker import TrainingWorker
from distsim.sweep.trials import Task, Trials

# Tune passes the driver's AWS_SECRET_ACCESS_KEY to its actors in their runtime_env, which Ray writes into its logs.
# Workers get it from the environment in which Ray was started. Done on import: Tune may run in another process.
class_cache.ENV_VARS_TO_PROPAGATE = {name for name in class_cache.ENV_VARS_TO_PROPAGATE if not name.startswith("AWS_")}


class RayEngine:
    """The engine on a Ray cluster, or with Ray on this machine if the address is None. The protocol is `Engine`.

    say : gets a sentence about each machine that gets no work, and about what is waited for
    """

    def __init__(
        self,
        root: Storage,
        address: str | None,
        allow_drift: bool,
        watcher: Callback | None = None,
        allow_slow: bool = False,
        say: Callable[[str], object] = print,
    ) -> None:
        self.root, self.address, self.allow_drift, self.allow_slow = root, address, allow_drift, allow_slow
        self.watcher, self.say = watcher or Callback(), say
        self._started = False
        self._watch: Watch | None = None
        self._hosts: Hosts | None = None  # None: Ray runs on this machine only
        self._parcels = Parcels()
        self._pool: Comparisons | None = None
        self._pool_of: set[str] = set()  # the problems that its actors know
        self._said: set[str] = set()

    def __enter__(self) -> "RayEngine":
        return self

    def __exit__(self, *exception: object) -> None:
        for sentence in self._hosts.out.values() if self._hosts else ():
            self.say(sentence)
        if self._watch is not None:
            self._watch.stop()
            if self._watch.lost:  # leaving a Ray that has died can end this process, with the store's lease unreleased
                return
        if self._pool is not None and ray.is_initialized():
            self._pool.close()
        if self._started:
            ray.shutdown()

    @property
    def here(self) -> bool:
        """Return whether the work is done on this machine."""
        return self.address is None

    def trials(self, orders: list[Prepared], order: Prepared) -> int:
        """Return how many trials of `order` the cluster has room for at once."""
        self._start(orders)
        return room_for(bundle_of(dict(order.sweep.resources)), self._avoid)

    def slots(self, orders: list[Prepared]) -> int:
        """Return how many comparisons the cluster has room for at once."""
        self._start(orders)
        return room_for(slot(orders), self._avoid)

    def train(
        self,
        orders: list[Prepared],
        chains: dict[str, list[Chain]],
        complete: set[tuple[str, int]],
        jobs_of: JobsOf = no_jobs,
    ) -> list[str]:
        """Train the complete networks and run the chains as Tune trials. Compare meanwhile, where there is room."""
        tasks: list[Task] = [*sorted(complete)]
        tasks += [(order.name, pack) for order in orders for pack in trials_of(order.sweep, chains[order.name])]
        if not tasks:
            return []
        self._start(orders)
        pool = self._new_pool(orders)
        early = Early(self.root, orders, chains, jobs_of, pool, lambda: free_for(slot(orders), self._avoid))
        try:
            stopping.here()
            with interrupts_end_tune(self._started):
                failures = self._fit(orders, tasks, early)
        except BaseException:  # an interrupt too: actors would keep their room while a paused sweep waits
            pool.close()
            raise
        return failures

    def _fit(self, orders: list[Prepared], tasks: list[Task], early: Early) -> list[str]:
        """Run the tasks as Tune trials. Return one sentence for each that failed for good."""

        def tick() -> None:
            self._look()
            early.tick(waiting.all_work)

        waiting = Tasks(tasks, self._hosts, RETRIES, lost_ends_tune(tick), self._committed)
        resources = {order.name: dict(order.sweep.resources) for order in orders}
        trainable = tune.with_resources(
            tune.with_parameters(
                _trial,
                tasks=dict(enumerate(tasks)),
                parcels={order.name: self._parcels.of(order) for order in orders},
                own=own(orders),
                root=self.root,
                drift=self.allow_drift,
                slow=self.allow_slow,
                heeded=stopping.heeded(),
            ),
            lambda config: tune.PlacementGroupFactory(
                [bundle_of(resources[config["problem"]])],
                **({"bundle_label_selector": [selector(config["avoid"])]} if config["avoid"] else {}),
            ),
        )
        listener = Listener(Trials(self.watcher, orders, tasks), waiting, lost_ends_tune(tick), early.on_network)
        scheduler = KeepsNewWorkers(GROWTH if hires() else 1)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Tune's own deprecations, which a user cannot act on
            try:
                grid = tune.Tuner(
                    trainable,
                    tune_config=tune.TuneConfig(
                        search_alg=Handing(waiting), scheduler=scheduler, num_samples=-1, reuse_actors=True
                    ),
                    run_config=tune.RunConfig(
                        name=time.strftime("%Y%m%d-%H%M%S-") + uuid.uuid4().hex[:6],
                        storage_path=_tune_path(self.root),
                        verbose=0,
                        callbacks=[listener],
                        failure_config=tune.FailureConfig(max_failures=0),  # `Tasks` retries
                    ),
                ).fit()
            except Lost as lost:
                raise lost.__cause__ or ClusterLost(str(lost)) from None
            except (OSError, ValueError) as error:  # Tune cannot write its files, or does not find them at the end
                if not waiting.begun:
                    raise StorageError(f"Ray Tune cannot write {self.root.url}/tune: {first_line(error)}") from None
                if waiting.left:
                    self._look_now()
                    raise KeyboardInterrupt from None
                return waiting.failures  # the trials' commits are in the store
        if waiting.stopped:
            raise stopping.Stopped
        if waiting.left or any(not r.error and "failed" not in reported(r.metrics) for r in grid):
            self._look_now()
            raise KeyboardInterrupt  # Tune catches the signal, stops its trials and returns normally
        return waiting.failures

    def _committed(self, task: Task) -> int:
        """Return how many networks that a task was to train are committed."""
        problem, pack = task
        committed = SweepStore(self.root, problem).contents().networks
        chains = () if isinstance(pack, int) else pack
        return sum(chain.of_run.network(i) in committed for chain in chains for i in chain.train)

    def compare(self, orders: list[Prepared], jobs: Sequence[Job]) -> list[str]:
        """Do the jobs by actors, also by those that compared while networks were trained, and may still do so."""
        self._start(orders)
        known = self._pool is not None and {order.name for order in orders} <= self._pool_of
        pool = self._pool if known and self._pool is not None else self._new_pool(orders)
        pool.drop_waiting()
        begun = pool.jobs_at_work
        jobs = without(jobs, begun)
        compared, whole = 0, count([*begun, *jobs])

        def heard(job: Job) -> None:
            nonlocal compared
            compared += pieces(job)
            self.watcher.on_comparison({"done": compared, "of": whole})

        pool.slots, pool.keeps, pool.heard, grows = self.slots(orders), False, heard, hires()
        pool.add(jobs)
        while pool:
            if pool.waiting and (pool.stopped or stopping.wanted()):
                pool.stop()
            pool.step(LOOKS)
            self._look()
            if grows:  # for one comparison more than there is room for, a machine is started
                with contextlib.suppress(RayError):  # the next look says more
                    pool.slots = 1 + room_for(slot(orders), self._avoid)
        pool.close()
        self._pool = None
        if pool.stopped:
            raise stopping.Stopped
        return pool.failures

    def _new_pool(self, orders: list[Prepared]) -> Comparisons:
        """Make a pool of comparison actors with the resources of one comparison each. The one before is closed."""
        if self._pool is not None:
            self._pool.close()
        room, code, heeded = slot(orders), own(orders), stopping.heeded()
        parcels = [self._parcels.of(order) for order in orders]
        actor: Any = ComparisonActor  # ray.remote has no types

        def make(labels: dict[str, str]) -> Any:
            options: dict[str, Any] = {"label_selector": labels} if labels else {}
            options |= {"num_cpus": room["CPU"], "num_gpus": room["GPU"], "memory": int(room["memory"])}
            return actor.options(**options).remote(self.root, code, self.allow_drift, heeded, parcels)

        self._pool, self._pool_of = Comparisons(make, 0, self._hosts, RETRIES), {order.name for order in orders}
        return self._pool

    @property
    def _avoid(self) -> frozenset[str]:
        return self._hosts.avoid if self._hosts else frozenset()

    def _say_once(self, sentence: str) -> None:
        if sentence not in self._said:
            self._said.add(sentence)
            self.say(sentence)

    def _look_now(self) -> None:
        """Raise ClusterLost if Ray does not answer now: what looks like an interrupt may be its end."""
        if self._watch is not None:
            self._watch.check(now=True)

    def _look(self) -> None:
        """See whether the store is there, which workers cannot tell, and Ray lives, and which machines have joined."""
        self.root.require_there()
        if self._watch is not None:
            self._watch.check()
        if self._hosts is not None:
            self._hosts.look()

    def _start(self, orders: list[Prepared]) -> None:
        if not ray.is_initialized():
            self._watch = ray_cluster.connect(self.address, [order.dataset for order in orders])
            self._started = True
        if self._watch is None:  # somebody else started it
            self._watch = Watch(self.address, ours=False)
            self._watch.begin()
        self._watch.check()
        require_room(orders, self.address is None, self._say_once)
        if self.address is not None and self._hosts is None:
            lease = self.root.lease  # None: nothing is to be written
            question = Question(
                self.root if lease else None,
                lease.sign if lease else ("", b""),
                "cuda" if any(order.sweep.device == "cuda" for order in orders) else "cpu",
                max(order.sweep.identity.threads for order in orders),
            )
            self._hosts = Hosts(question, bundles(orders), self.allow_drift, self.say)
            self._hosts.require()
            self._say_once(memory_sentence(orders))


def _trial(
    config: dict[str, Any],
    tasks: dict[int, Task],
    parcels: dict[str, Parcel],
    own: Own,
    root: Storage,
    drift: bool,
    slow: bool,
    heeded: stopping.Heeded | None,
) -> None:
    """Run a Tune trial: train a problem's complete network, or some chains. Report after each network."""
    own.make_known()
    problem, pack = tasks[config["task"]]
    sweep, dataset = parcels[problem].sweep, parcels[problem].dataset()
    worker = TrainingWorker(SweepStore(root, problem), sweep, dataset, drift, beside=True, allow_slow=slow)
    failed: list[str] = []
    stopped = False

    def work() -> None:
        stopping.here()  # it may have waited for room
        for event in [worker.complete(pack)] if isinstance(pack, int) else train_chains(worker, pack, failed.append):
            report({name: value for name, value in event.items() if value is not None})

    try:
        with stopping.heeding(heeded):
            failed += attempt(label((problem, pack)), work)
    except stopping.Stopped:
        stopped = True
    report({"failed": failed, "problem": problem, "stopped": stopped})


def _tune_path(root: Storage) -> str:
    root.folders("tune")  # refuses a link out of the store, where Tune would write
    return f"{root.url if root.folder else quote(unquote(root.url), safe=':/')}/tune"  # pyarrow refuses 'a b', '100%'
