"""The one module that knows Ray: chains as Tune trials, comparisons as actors.

Tune schedules, retries and logs; it is not asked what is done. Its files go under `tune/` in the store, which nothing
here reads, and a sweep is resumed by a fresh Tuner over what the store lacks.
"""

import logging
import os
import time
import uuid
import warnings
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import ray
from ray import tune
from ray.exceptions import RayActorError, RayError
from ray.tune.execution import class_cache
from ray.tune.search import Searcher

from distsim.data import Dataset
from distsim.metrics.registry import BUILT_IN, METRICS, Metric
from distsim.models import MODELS
from distsim.specs import NetworkId, Sweep
from distsim.store import Storage, StorageError, SweepStore
from distsim.store.storage import first_line
from distsim.sweep import own_code
from distsim.sweep.comparison_worker import ComparisonWorker
from distsim.sweep.failures import attempt
from distsim.sweep.jobs import Comparison, PairJob
from distsim.sweep.order import Prepared
from distsim.sweep.plan import Chain, packed, runs_of
from distsim.sweep.training_worker import Event, TrainingWorker

# Ray reads these when it starts. Tune's new output cannot be silenced, its old one can. Usage is not reported.
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

# Tune hands the driver's AWS_SECRET_ACCESS_KEY to its actors in their runtime_env, which Ray writes into its logs.
# Workers have it from the environment that Ray was started in. On import: Tune may run in a process that unpickles us.
class_cache.ENV_VARS_TO_PROPAGATE = {name for name in class_cache.ENV_VARS_TO_PROPAGATE if not name.startswith("AWS_")}
RETRIES = 3  # of a trial or a comparison whose worker died; what fails by its own doing is not retried
OBJECT_STORE = 200 * 2**20  # bytes beside the data sets: results go to the store, not through Ray
Task = tuple[str, tuple[Chain, ...] | None]  # a problem's complete network (None), or some of its chains


class RayEngine:
    """The engine of `distsim.sweep.run` on a Ray cluster, or on this machine if no address is given."""

    def __init__(
        self, root: Storage, address: str | None, allow_drift: bool, tell: Callable[[Event], None] | None = None
    ) -> None:
        self.root, self.address, self.allow_drift = root, address, allow_drift
        self.tell = tell or (lambda event: None)
        self._started = False

    def __enter__(self) -> "RayEngine":
        return self

    def __exit__(self, *exception: object) -> None:
        if self._started:
            ray.shutdown()

    @property
    def here(self) -> bool:
        return self.address is None

    def trials(self, orders: list[Prepared], one: Prepared) -> int:
        """Trials of this one of the sweeps that the cluster has room for at once."""
        self._start(orders)
        there = ray.cluster_resources()
        wanted = _bundle(dict(one.sweep.resources))
        return max(1, min(int(there.get(name, 0) / amount) for name, amount in wanted.items() if amount))

    def slots(self, orders: list[Prepared]) -> int:
        """Comparisons that the cluster has room for at once."""
        self._start(orders)
        there = ray.cluster_resources()
        wanted = {"CPU": _slot(orders)[0], "GPU": _slot(orders)[1]}
        return max(1, min(int(there.get(name, 0) / amount) for name, amount in wanted.items() if amount))

    def train(self, orders: list[Prepared], chains: dict[str, list[Chain]], complete: set[str]) -> list[str]:
        tasks: list[Task] = [(name, None) for name in sorted(complete)]
        tasks += [(one.name, pack) for one in orders for pack in packed(chains[one.name], one.sweep.pack)]
        failures: list[str] = []
        while tasks:
            self._start(orders)
            before = [self._committed(task) for task in tasks]
            died, failed = self._fit(orders, tasks)
            failures += failed
            # a trial may die again and again in a sweep of days, as long as it comes further each time
            again = {task for task, count in zip(tasks, before, strict=True) if self._committed(task) > count}
            failures += [f"{_label(task)}: {cause}" for task, cause in died if task not in again]
            tasks = [task for task, _ in died if task in again]
        return failures

    def _committed(self, task: Task) -> int:
        """Networks of the task that are committed."""
        problem, pack = task
        there = SweepStore(self.root, problem).contents().networks
        return sum(NetworkId(chain.run, i) in there for chain in pack or () for i in chain.train)

    def _fit(self, orders: list[Prepared], tasks: list[Task]) -> tuple[list[tuple[Task, str]], list[str]]:
        """Run the tasks as Tune's trials: those whose workers died once too often, and what failed by its own doing."""
        waiting = _Tasks(tasks)
        resources = {one.name: dict(one.sweep.resources) for one in orders}
        trainable = tune.with_resources(
            tune.with_parameters(
                _trial,
                tasks=dict(enumerate(tasks)),
                orders={one.name: one for one in orders},
                own=_own(orders),
                root=self.root,
                drift=self.allow_drift,
            ),
            lambda config: tune.PlacementGroupFactory([_bundle(resources[config["problem"]])]),
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Tune's own deprecations, which a user can do nothing about
            try:
                grid = tune.Tuner(
                    trainable,
                    tune_config=tune.TuneConfig(search_alg=waiting, num_samples=len(tasks), reuse_actors=True),
                    run_config=tune.RunConfig(
                        name=time.strftime("%Y%m%d-%H%M%S-") + uuid.uuid4().hex[:6],
                        storage_path=_tune_path(self.root),
                        verbose=0,
                        callbacks=[_Listener(self.tell)],
                        failure_config=tune.FailureConfig(max_failures=RETRIES),
                    ),
                ).fit()
            except (OSError, ValueError) as error:  # it cannot write its own files, or does not find them in the end
                if not waiting.begun:
                    raise StorageError(f"Ray Tune cannot write {self.root.url}/tune: {first_line(error)}") from None
                if waiting.left or waiting.running:
                    raise KeyboardInterrupt from None
                return waiting.died, waiting.failures  # what its trials committed is in the store
        if waiting.left or any(not r.error and "failed" not in (r.metrics or {}) for r in grid):
            raise KeyboardInterrupt  # Tune takes the signal, stops its trials and returns as if all were well
        return [(tasks[r.config["task"]], _cause(r.error)) for r in grid if r.error], waiting.failures

    def compare(self, orders: list[Prepared], jobs: Sequence[Comparison | PairJob]) -> list[str]:
        self._start(orders)
        waiting = deque((job, 0) for job in jobs)
        running: dict[Any, tuple[Comparison | PairJob, int, Any]] = {}
        idle: list[Any] = []
        started, failures = 0, []
        slots = self.slots(orders)
        shared = [ray.put((one.sweep, one.dataset if _in_memory(one) else None)) for one in orders]
        while waiting or running:
            while waiting and (idle or started < slots):
                job, tries = waiting.popleft()
                if idle:
                    actor = idle.pop()
                else:
                    actor, started = self._actor(orders, shared), started + 1
                running[actor.compare.remote(job)] = (job, tries, actor)
            while idle and not waiting:  # a job may wait for an actor that gets no room as long as these hold theirs
                ray.kill(idle.pop())
                started -= 1
            (done,), _ = ray.wait(list(running), num_returns=1)
            job, tries, actor = running.pop(done)
            try:
                failures += ray.get(done)
                idle.append(actor)
            except RayActorError as error:  # the worker or its node died; what it had committed stays
                ray.kill(actor)  # or cannot be reached, and would keep its slot if it came back
                started -= 1
                if tries < RETRIES:
                    waiting.append((job, tries + 1))
                else:
                    failures.append(
                        f"{job.problem}, layer {job.layer}: given up after {RETRIES} retries: {_cause(error)}"
                    )
            except RayError as error:
                failures.append(f"{job.problem}, layer {job.layer}: {_cause(error)}")
                idle.append(actor)
        for actor in idle:
            ray.kill(actor)
        return failures

    def _actor(self, orders: list[Prepared], shared: list[Any]) -> Any:
        """A comparison actor with the resources of one device slot."""
        cpus, gpus = _slot(orders)
        options: Any = _ComparisonActor  # what ray.remote makes of a class has no type
        return options.options(num_cpus=cpus, num_gpus=gpus).remote(self.root, _own(orders), self.allow_drift, *shared)

    def _start(self, orders: list[Prepared]) -> None:
        if not ray.is_initialized():
            self._connect(orders)
        if self.address is None:  # another cluster may grow on demand
            _require_room(orders)

    def _connect(self, orders: list[Prepared]) -> None:
        quiet: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
        if self.address is not None:
            ray.init(address=self.address, **quiet)
        else:
            size = OBJECT_STORE + sum(2 * _bytes(one) for one in orders)
            _start_here({"include_dashboard": False, "object_store_memory": size, **quiet})
        self._started = True
        # Tune logs tracebacks of workers that died and of its own files that could not be written: the first are told
        # and tried again by `_Listener`, nothing reads the second
        for name in ("ray.tune", "ray.train._internal.storage"):
            logging.getLogger(name).setLevel(logging.CRITICAL)


def _trial(
    config: dict[str, Any],
    tasks: dict[int, Task],
    orders: dict[str, Prepared],
    own: "_Own",
    root: Storage,
    drift: bool,
) -> None:
    """One Tune trial: a problem's complete network, or some chains. Reports after every iteration."""
    own.make_known()
    problem, pack = tasks[config["task"]]
    one = orders[problem]
    bench = TrainingWorker(SweepStore(root, one.name), one.sweep, one.dataset, drift, beside=True)
    failed: list[str] = []

    def work() -> None:
        for event in [bench.complete()] if pack is None else bench.chains(pack, failed.append):
            tune.report({name: value for name, value in event.items() if value is not None})

    failed += attempt(_label((one.name, pack)), work)
    tune.report({"failed": failed, "problem": one.name})


class _Tasks(Searcher):  # type: ignore[misc]  # ray publishes no types
    """Hands out complete networks first, and a problem's chains once its complete network is committed.

    Tune asks again while it is told to wait, so no worker idles while anything can run.
    """

    def __init__(self, tasks: list[Task]) -> None:
        super().__init__()
        self._todo = deque(enumerate(tasks))
        self._pending = {problem for problem, pack in tasks if pack is None}
        self.running: dict[str, Task] = {}
        self.begun = False  # whether any task was handed out
        self.died: list[tuple[Task, str]] = []
        self.failures: list[str] = []

    def suggest(self, trial_id: str) -> Any:
        for _ in range(len(self._todo)):
            number, (problem, pack) = self._todo.popleft()
            if pack is not None and problem in self._pending:
                self._todo.append((number, (problem, pack)))
                continue
            self.running[trial_id] = (problem, pack)
            self.begun = True
            return {"problem": problem, "piece": "complete" if pack is None else runs_of(pack), "task": number}
        return None if self._todo else Searcher.FINISHED

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        problem, pack = self.running.pop(trial_id)
        if error:
            self.died.append(((problem, pack), "its worker died, or an error ended it"))
        failed = (result or {}).get("failed") or []
        self.failures += failed
        if pack is None:
            self._pending.discard(problem)
            if error or failed:  # its chains cannot run
                self._todo = deque(entry for entry in self._todo if entry[1][0] != problem)

    @property
    def left(self) -> bool:
        """Whether tasks were never handed out."""
        return bool(self._todo)

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save: what is done is in the store."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore."""


class _Listener(tune.Callback):  # type: ignore[misc]
    """Passes trials' reports on to the driver's teller."""

    def __init__(self, tell: Callable[[Event], None]) -> None:
        self._tell: Callable[[Event], None] | None = tell

    def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: dict[str, Any], **info: Any) -> None:
        if self._tell and "accuracy" in result:
            self._tell({"run": None} | result)

    def on_trial_error(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        if self._tell:
            self._tell({"problem": trial.config["problem"], "piece": trial.config["piece"], "died": True})

    def on_trial_recover(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        self.on_trial_error(iteration, trials, trial)

    def __getstate__(self) -> dict[str, Any]:
        return {"_tell": None}  # Tune pickles its callbacks into its own snapshots


@ray.remote(max_restarts=0)
class _ComparisonActor:
    """One device slot's comparer; idempotent, so that a job of a dead actor can be given to another."""

    def __init__(self, root: Storage, own: "_Own", drift: bool, *sweeps: tuple[Sweep, Dataset | None]) -> None:
        own.make_known()
        self._comparers = {
            sweep.name: ComparisonWorker(SweepStore(root, sweep.name), sweep, dataset, drift)
            for sweep, dataset in sweeps
        }

    def compare(self, job: Comparison | PairJob) -> list[str]:
        return self._comparers[job.problem].compare(job)


def _start_here(options: dict[str, Any]) -> None:
    """Start Ray on this machine. ConnectionError: it does not come up within Ray's 30 s, which busy machines exceed."""
    for last in (False, False, True):
        try:
            ray.init(address="local", **options)
            return
        except Exception as error:  # Ray raises no narrower one
            ray.shutdown()
            if "timed out during startup" not in str(error):
                raise
            if last:
                raise ConnectionError("Ray did not start in three times 30 s; --local works without it") from error


def _require_room(orders: list[Prepared]) -> None:
    """ValueError: a trial or a comparison needs more than any machine has; Ray would wait for ever."""
    cpus, gpus = _slot(orders)
    wanted = [_bundle(dict(one.sweep.resources)) for one in orders] + [{"CPU": cpus, "GPU": gpus}]
    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    for bundle in wanted:
        if not any(all(there.get(name, 0) >= amount for name, amount in bundle.items()) for there in machines):
            asked = ", ".join(f"{amount:g} {name}" for name, amount in bundle.items() if amount)
            raise ValueError(f"no machine of the Ray cluster has {asked}: see --cpus, --gpus, --threads")


def _in_memory(one: Prepared) -> bool:
    return one.sweep.extent.activations == "memory"


def _slot(orders: list[Prepared]) -> tuple[int, float]:
    """CPUs and GPUs of one comparison, which may be of any of these sweeps."""
    cpus = max(one.sweep.identity.threads for one in orders)
    gpus = (dict(one.sweep.resources).get("gpu", 1.0) for one in orders if one.sweep.device == "cuda")
    return cpus, max(gpus, default=0.0)


@dataclass(frozen=True)
class _Own:
    """These sweeps' networks and all own metrics: a worker has not run the script that they are defined in."""

    models: dict[str, Any]
    metrics: dict[str, Metric]

    def make_known(self) -> None:
        MODELS.update(self.models)
        METRICS.update(self.metrics)


def _own(orders: list[Prepared]) -> _Own:
    for module in own_code.imported_modules():  # no worker could import it by its name
        ray.cloudpickle.register_pickle_by_value(module)
    models = {name: MODELS[name] for name in {one.sweep.problem.model for one in orders}}
    metrics = {name: metric for name, metric in METRICS.items() if name not in BUILT_IN}
    for made in (*models.values(), *(metric.measure for metric in metrics.values())):
        if (own := own_code.module_of(made)) is not None:
            ray.cloudpickle.register_pickle_by_value(own)
    return _Own(models, metrics)


def _bundle(resources: dict[str, float]) -> dict[str, float]:
    return {name.upper(): amount for name, amount in resources.items() if amount} or {"CPU": 1}


def _label(task: Task) -> str:
    problem, pack = task
    return f"{problem}, complete network" if pack is None else f"{problem}, {runs_of(pack)}"


def _cause(error: BaseException) -> str:
    """The last line of Ray's traceback, which is the error itself."""
    lines = [line for line in str(error).strip().splitlines() if line.strip()]
    return lines[-1].strip() if lines else type(error).__name__


def _tune_path(root: Storage) -> str:
    return f"{root.url if root.folder else quote(root.url, safe=':/%')}/tune"  # pyarrow takes no space in a URL


def _bytes(one: Prepared) -> int:
    return int(one.dataset.train_images.nbytes + one.dataset.test_images.nbytes)
