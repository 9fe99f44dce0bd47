"""The engine that works on Ray: chains are Tune trials, comparisons are actors.

Tune schedules, retries and logs. What is done is asked of the store, never of Tune. Tune's files go to `tune/` in the
store and are never read. A sweep is resumed by a fresh Tuner for what the store lacks.
"""

import itertools
import time
import uuid
import warnings
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, unquote

import ray
from ray import tune
from ray.exceptions import RayActorError, RayError
from ray.tune.execution import class_cache

from distsim import stopping
from distsim.callbacks import Callback
from distsim.data import Dataset
from distsim.metrics.registry import BUILT_IN, METRICS, Metric
from distsim.models import MODELS
from distsim.specs import Sweep
from distsim.store import Storage, StorageError, SweepStore
from distsim.store.storage import first_line
from distsim.sweep import own_code, ray_cluster
from distsim.sweep.chain_training import train_chains
from distsim.sweep.cluster import ClusterLost
from distsim.sweep.comparison_worker import ComparisonWorker
from distsim.sweep.failures import attempt, last_line
from distsim.sweep.jobs import Job, pieces
from distsim.sweep.order import Prepared
from distsim.sweep.plan import Chain, trials_of
from distsim.sweep.ray_cluster import LOOKS, Watch, bundle_of, require_room, room_for, slot
from distsim.sweep.ray_trials import Listener, Lost, Tasks, interrupts_end_tune, label
from distsim.sweep.training_worker import TrainingWorker
from distsim.sweep.trials import Task, Trials
from distsim.training.criteria import BUILT_IN as CRITERIA_OF_DISTSIM
from distsim.training.criteria import CRITERIA, Criterion

# Tune passes the driver's AWS_SECRET_ACCESS_KEY to its actors in their runtime_env, which Ray writes into its logs.
# Workers get it from the environment in which Ray was started. Done on import: Tune may run in another process.
class_cache.ENV_VARS_TO_PROPAGATE = {name for name in class_cache.ENV_VARS_TO_PROPAGATE if not name.startswith("AWS_")}
RETRIES = 3  # of a trial or a comparison whose worker died; EXPECTED failures are not retried


class RayEngine:
    """The engine on a Ray cluster, or with Ray on this machine if the address is None. The protocol is `Engine`."""

    def __init__(
        self,
        root: Storage,
        address: str | None,
        allow_drift: bool,
        watcher: Callback | None = None,
        allow_slow: bool = False,
    ) -> None:
        self.root, self.address, self.allow_drift, self.allow_slow = root, address, allow_drift, allow_slow
        self.watcher = watcher or Callback()
        self._started = False
        self._watch: Watch | None = None

    def __enter__(self) -> "RayEngine":
        return self

    def __exit__(self, *exception: object) -> None:
        if self._watch is not None:
            self._watch.stop()
            if self._watch.lost:  # leaving a Ray that has died can end this process, with the store's lease unreleased
                return
        if self._started:
            ray.shutdown()

    @property
    def here(self) -> bool:
        """Return whether the work is done on this machine."""
        return self.address is None

    def trials(self, orders: list[Prepared], order: Prepared) -> int:
        """Return how many trials of `order` the cluster has room for at once."""
        self._start(orders)
        return room_for(bundle_of(dict(order.sweep.resources)))

    def slots(self, orders: list[Prepared]) -> int:
        """Return how many comparisons the cluster has room for at once."""
        self._start(orders)
        cpus, gpus = slot(orders)
        return room_for({"CPU": cpus, "GPU": gpus})

    def train(
        self, orders: list[Prepared], chains: dict[str, list[Chain]], complete: set[tuple[str, int]]
    ) -> list[str]:
        """Train the complete networks and run the chains as Tune trials."""
        tasks: list[Task] = [*sorted(complete)]
        tasks += [(order.name, pack) for order in orders for pack in trials_of(order.sweep, chains[order.name])]
        failures: list[str] = []
        while tasks:
            stopping.here()
            self._start(orders)
            before = [self._committed(task) for task in tasks]
            with interrupts_end_tune(self._started):
                died, failed = self._fit(orders, tasks)
            failures += failed
            # in a sweep of days a trial may die many times, as long as it gets further each time
            again = {task for task, count in zip(tasks, before, strict=True) if self._committed(task) > count}
            failures += [f"{label(task)}: {cause}" for task, cause in died if task not in again]
            tasks = [task for task, _ in died if task in again]
        return failures

    def _committed(self, task: Task) -> int:
        """Return how many networks of the task are committed."""
        problem, pack = task
        committed = SweepStore(self.root, problem).contents().networks
        chains = () if isinstance(pack, int) else pack
        return sum(chain.of_run.network(i) in committed for chain in chains for i in chain.train)

    def _fit(self, orders: list[Prepared], tasks: list[Task]) -> tuple[list[tuple[Task, str]], list[str]]:
        """Run the tasks as Tune trials. Return (task, cause) where workers died too often, and EXPECTED failures."""
        waiting = Tasks(tasks)
        resources = {order.name: dict(order.sweep.resources) for order in orders}
        trainable = tune.with_resources(
            tune.with_parameters(
                _trial,
                tasks=dict(enumerate(tasks)),
                orders={order.name: order for order in orders},
                own=_own(orders),
                root=self.root,
                drift=self.allow_drift,
                slow=self.allow_slow,
                heeded=stopping.heeded(),
            ),
            lambda config: tune.PlacementGroupFactory([bundle_of(resources[config["problem"]])]),
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Tune's own deprecations, which a user cannot act on
            try:
                grid = tune.Tuner(
                    trainable,
                    tune_config=tune.TuneConfig(search_alg=waiting, num_samples=len(tasks), reuse_actors=True),
                    run_config=tune.RunConfig(
                        name=time.strftime("%Y%m%d-%H%M%S-") + uuid.uuid4().hex[:6],
                        storage_path=_tune_path(self.root),
                        verbose=0,
                        callbacks=[Listener(Trials(self.watcher, orders, tasks), self._check)],
                        failure_config=tune.FailureConfig(max_failures=RETRIES),
                    ),
                ).fit()
            except Lost as error:
                raise ClusterLost(str(error)) from None
            except (OSError, ValueError) as error:  # Tune cannot write its files, or does not find them at the end
                if not waiting.begun:
                    raise StorageError(f"Ray Tune cannot write {self.root.url}/tune: {first_line(error)}") from None
                if waiting.todo or waiting.running:
                    raise KeyboardInterrupt from None
                return waiting.died, waiting.failures  # the trials' commits are in the store
        if waiting.stopped:
            raise stopping.Stopped
        if waiting.todo or any(not r.error and "failed" not in (r.metrics or {}) for r in grid):
            raise KeyboardInterrupt  # Tune catches the signal, stops its trials and returns normally
        errors = [result for result in grid if result.error]
        causes = {tasks[r.config["task"]]: last_line(r.error) for r in errors if r.config}
        unnamed = [last_line(r.error) for r in errors if not r.config]  # of trials that died before their first report
        return [(task, causes.get(task) or (unnamed or [why])[0]) for task, why in waiting.died], waiting.failures

    def compare(self, orders: list[Prepared], jobs: Sequence[Job]) -> list[str]:
        """Do the jobs by actors. A job whose actor died goes to another one."""
        self._start(orders)
        waiting = deque((job, 0) for job in jobs)
        running: dict[Any, tuple[Job, int, Any]] = {}
        idle: list[Any] = []
        started, failures, compared, whole = 0, list[str](), 0, sum(map(pieces, jobs))
        slots = self.slots(orders)
        shared = [
            ray.put((order.sweep, order.dataset if order.sweep.extent.activations == "memory" else None))
            for order in orders
        ]
        stopped = False
        while waiting or running:
            if waiting and (stopped or stopping.wanted()):
                stopped = True
                waiting.clear()
                if not running:
                    break
            while waiting and (idle or started < slots):
                job, tries = waiting.popleft()
                if idle:
                    actor = idle.pop()
                else:
                    actor, started = self._actor(orders, shared), started + 1
                running[actor.compare.remote(job)] = (job, tries, actor)
            while idle and not waiting:  # frees their room: another actor may be waiting for it
                ray.kill(idle.pop())
                started -= 1
            finished, _ = ray.wait(list(running), num_returns=1, timeout=LOOKS)
            self._check()
            if not finished:
                continue
            (done,) = finished
            job, tries, actor = running.pop(done)
            try:
                found = ray.get(done)
                failures += found or []
                stopped = stopped or found is None
                idle.append(actor)
                compared += pieces(job)
                self.watcher.on_comparison({"done": compared, "of": whole})
            except RayActorError as error:  # the worker or its node died; its commits stay
                ray.kill(actor)  # it may only be unreachable, and would keep its slot if it came back
                started -= 1
                if tries < RETRIES:
                    waiting.append((job, tries + 1))
                else:
                    failures.append(f"{job.problem}, {job.label}: given up after {RETRIES} retries: {last_line(error)}")
            except RayError as error:
                failures.append(f"{job.problem}, {job.label}: {last_line(error)}")
                idle.append(actor)
        for actor in idle:
            ray.kill(actor)
        if stopped:
            raise stopping.Stopped
        return failures

    def _actor(self, orders: list[Prepared], shared: list[Any]) -> Any:
        """Make a comparison actor with the resources of one comparison."""
        cpus, gpus = slot(orders)
        actor: Any = _ComparisonActor  # ray.remote has no types
        of_all = self.root, _own(orders), self.allow_drift, stopping.heeded()
        return actor.options(num_cpus=cpus, num_gpus=gpus).remote(*of_all, *shared)

    def _check(self) -> None:
        if self._watch is not None:
            self._watch.check()

    def _start(self, orders: list[Prepared]) -> None:
        if not ray.is_initialized():
            self._watch = ray_cluster.connect(self.address, [order.dataset for order in orders])
            self._started = True
        if self._watch is None:  # somebody else started it
            self._watch = Watch(self.address, ours=False)
            self._watch.begin()
        self._check()
        if self.address is None:  # a cluster may grow on demand
            require_room(orders)


def _trial(
    config: dict[str, Any],
    tasks: dict[int, Task],
    orders: dict[str, Prepared],
    own: "_Own",
    root: Storage,
    drift: bool,
    slow: bool,
    heeded: stopping.Heeded | None,
) -> None:
    """Run a Tune trial: train a problem's complete network, or some chains. Report after each network."""
    own.make_known()
    problem, pack = tasks[config["task"]]
    order = orders[problem]
    worker = TrainingWorker(
        SweepStore(root, order.name), order.sweep, order.dataset, drift, beside=True, allow_slow=slow
    )
    failed: list[str] = []
    stopped = False

    def work() -> None:
        stopping.here()  # it may have waited for room
        for event in [worker.complete(pack)] if isinstance(pack, int) else train_chains(worker, pack, failed.append):
            tune.report({name: value for name, value in event.items() if value is not None})

    try:
        with stopping.heeding(heeded):
            failed += attempt(label((order.name, pack)), work)
    except stopping.Stopped:
        stopped = True
    tune.report({"failed": failed, "problem": order.name, "stopped": stopped})


@ray.remote(max_restarts=0)
class _ComparisonActor:
    """An actor that compares. Jobs can be repeated safely, so another actor can do the job of a dead one."""

    def __init__(
        self,
        root: Storage,
        own: "_Own",
        drift: bool,
        heeded: stopping.Heeded | None,
        *sweeps: tuple[Sweep, Dataset | None],
    ) -> None:
        own.make_known()
        self._heeded = heeded
        self._workers = {
            sweep.name: ComparisonWorker(SweepStore(root, sweep.name), sweep, dataset, drift)
            for sweep, dataset in sweeps
        }

    def compare(self, job: Job) -> list[str] | None:
        """Do a job. Return its failures, or None if somebody asked to stop before it was done."""
        left = itertools.count(1 - pieces(job))

        def heard() -> None:
            if next(left) < 0:
                stopping.here()

        try:
            with stopping.heeding(self._heeded):
                return self._workers[job.problem].compare(job, heard)
        except stopping.Stopped:
            return None


@dataclass(frozen=True)
class _Own:
    """These sweeps' models, the user's own criteria and metrics. A Ray worker has not run the script with them."""

    models: dict[str, Any]
    metrics: dict[str, Metric]
    criteria: dict[str, Criterion]

    def make_known(self) -> None:
        """Register them in this process."""
        MODELS.update(self.models)
        METRICS.update(self.metrics)
        CRITERIA.update(self.criteria)


def _own(orders: list[Prepared]) -> _Own:
    for module in own_code.imported_modules():  # a worker cannot import it by its name
        ray.cloudpickle.register_pickle_by_value(module)
    models = {name: MODELS[name] for name in {order.sweep.problem.model for order in orders}}
    metrics = {name: metric for name, metric in METRICS.items() if name not in BUILT_IN}
    criteria = {name: criterion for name, criterion in CRITERIA.items() if name not in CRITERIA_OF_DISTSIM}
    functions = [metric.measure for metric in metrics.values()] + [of.score for of in criteria.values()]
    for code in (*models.values(), *functions):
        if (own := own_code.module_of(code)) is not None:
            ray.cloudpickle.register_pickle_by_value(own)
    return _Own(models, metrics, criteria)


def _tune_path(root: Storage) -> str:
    root.folders("tune")  # refuses a link out of the store, where Tune would write
    return f"{root.url if root.folder else quote(unquote(root.url), safe=':/')}/tune"  # pyarrow refuses 'a b', '100%'
