"""What Ray Tune asks while it runs a sweep's trials: which one is next, what happened to it, when to stop."""

import contextlib
import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler
from ray.tune.search import Searcher
from ray.tune.search.search_generator import SearchGenerator

from distsim import stopping
from distsim.callbacks import Event
from distsim.specs import NetworkId
from distsim.store import StoreGone
from distsim.sweep.cluster import ClusterLost
from distsim.sweep.on_ray.deaths import RETRIES, Deaths, short_of_memory
from distsim.sweep.on_ray.hosts import Hosts
from distsim.sweep.plan import runs_of
from distsim.sweep.trials import Task, Trials

SAID = "said"  # the field of a result that holds what a trial says, in a list


class Tasks(Searcher):  # type: ignore[misc]  # ray has no types
    """The order of tasks: a problem's chains are handed out once its complete network is committed.

    A task whose worker died is handed out again as a new trial, on another machine if its own turns out to be unfit.
    It is given up after `retries` deaths without a new network in between; in a sweep of days a trial may die many
    times, as long as it gets further. Tune asks again while it is told to wait, so no worker idles while anything can
    run. No more are handed out once somebody has asked to stop.

    hosts : the machines; None: nobody asks them
    tick : called whenever Tune asks for a task
    committed : returns how many of a task's networks are committed, which is asked after a death
    """

    def __init__(
        self,
        tasks: list[Task],
        hosts: Hosts | None = None,
        retries: int = RETRIES,
        tick: Callable[[], None] = lambda: None,
        committed: Callable[[Task], int] = lambda task: 0,
    ) -> None:
        super().__init__()
        self.todo = deque(enumerate(tasks))  # not handed out yet
        self._hosts, self._tick, self._committed = hosts, tick, committed
        self._reached: dict[int, int] = {}  # task -> its networks that were committed at its last death
        self._pending = {task for task in tasks if isinstance(task[1], int)}
        self._deaths: Deaths[tuple[int, Task]] = Deaths(hosts, retries)
        self.running: dict[str, tuple[int, Task, frozenset[str]]] = {}  # trial -> number, task, machines kept from it
        self.working: set[str] = set()  # trials that have begun, and wait for no machine
        self.begun = False  # whether any task was handed out
        self.stopped = False  # whether somebody asked to stop, here or in a trial
        self.failures: list[str] = []

    @property
    def handed_out(self) -> bool:
        """Return whether nothing is to be handed out now: a worker may still die, and its task be handed out again."""
        return self.stopped or not (self.todo or self._deaths)

    @property
    def left(self) -> bool:
        """Return whether a task is not done or given up."""
        return bool(self.todo or self.running or self._deaths)

    @property
    def all_work(self) -> bool:
        """Return whether no task waits for a machine."""
        return not self.todo and self.running.keys() <= self.working

    def suggest(self, trial_id: str) -> Any:
        self._tick()
        self.stopped = self.stopped or stopping.wanted()
        if self.stopped:
            return Searcher.FINISHED
        self._decide()
        avoid = self._hosts.avoid if self._hosts else frozenset[str]()
        for _ in range(len(self.todo)):
            number, (problem, pack) = self.todo.popleft()
            if not isinstance(pack, int) and (problem, pack[0].complete) in self._pending:
                self.todo.append((number, (problem, pack)))
                continue
            self.running[trial_id] = number, (problem, pack), avoid
            self.begun = True
            piece = NetworkId(complete=pack).path if isinstance(pack, int) else runs_of(pack)
            return {"problem": problem, "piece": piece, "task": number, "avoid": sorted(avoid)}
        return None if self.left else Searcher.FINISHED

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        if error:
            return  # `died` says more
        self.working.discard(trial_id)
        number, task, _ = self.running.pop(trial_id)
        last = reported(result)
        failed = last.get("failed") or []
        self.stopped = self.stopped or bool(last.get("stopped"))
        self._deaths.forgive(number)
        self._ended(task, failed)

    def died(self, trial_id: str, cause: str) -> None:
        """Hear that a trial's worker died, or never began. cause : the error's text, "" if there is none"""
        self.working.discard(trial_id)
        number, task, avoid = self.running.pop(trial_id)
        reached = self._committed(task)
        if reached > self._reached.get(number, 0):
            self._deaths.forgive(number)  # it has come further
        self._reached[number] = reached
        self._deaths.note((number, task), number, avoid, cause)

    def _decide(self) -> None:
        """Hand out again, or give up, the tasks whose workers died."""
        again, given_up = self._deaths.decided()
        self.todo.extendleft(again)
        for (_, task), why in given_up:
            self._ended(task, [f"{label(task)}: {why}"])

    def _ended(self, task: Task, failed: list[str]) -> None:
        self.failures += failed
        problem, pack = task
        if isinstance(pack, int):
            self._pending.discard(task)
            if failed:  # its chains cannot run
                self.todo = deque(entry for entry in self.todo if not _starts_from(entry[1], problem, pack))

    def save(self, checkpoint_path: str) -> None:
        """Save nothing: the store says what is done."""

    def restore(self, checkpoint_path: str) -> None:
        """Restore nothing."""

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles it into its own files, which are never read


class Handing(SearchGenerator):  # type: ignore[misc]
    """What Tune asks for trials. Where nothing is to be handed out, it lets Tune end workers that have nothing to do.

    Their room is then free for comparisons. Should a task be handed out again, there are trials to come once more.
    """

    def is_finished(self) -> bool:
        return bool(self.searcher.handed_out)


class KeepsNewWorkers(FIFOScheduler):  # type: ignore[misc]
    """Gives a worker that has become free a trial for which no other worker is being started.

    Tune lets one trial wait, and gives it to the first worker that is free. If a worker is being started for it, that
    one is ended as soon as it is ready. Where chains take no longer than the start of a worker, a machine would then
    start workers and never train. So one more trial waits than workers are being started.

    ahead : trials that wait for a machine at once. An autoscaler starts as many machines at once as it sees trials wait
    """

    def __init__(self, ahead: int = 1) -> None:
        super().__init__()
        self._ahead = ahead

    def choose_trial_to_run(self, tune_controller: Any) -> Any:
        controller = tune_controller._tune_controller  # what Tune hands out is a wrapper that warns
        waiting = [trial for trial in controller.get_trials() if trial.status == Trial.PENDING]
        without = [trial for trial in waiting if not _is_starting(controller, trial)]
        controller.update_max_pending_trials(self._ahead + len(waiting) - len(without))
        return next(iter(without or waiting), None)


def _is_starting(controller: Any, trial: Any) -> bool:
    """Return whether a worker for this waiting trial is being started, and not only asked for."""
    actor = controller._trial_to_actor.get(trial)
    return actor is not None and controller._actor_manager.is_actor_started(actor)


class Lost(BaseException):
    """Ray has died, or the store has gone; the cause says which.

    Tune cleans up after an Exception, and would wait for a Ray that does not answer, or write into the store's place.
    """


def lost_ends_tune(check: Callable[[], None]) -> Callable[[], None]:
    """Return a function that calls check, and raises Lost where that raises ClusterLost or StoreGone."""

    def checked() -> None:
        try:
            check()
        except (ClusterLost, StoreGone) as error:
            raise Lost(str(error)) from error

    return checked


class Listener(tune.Callback):  # type: ignore[misc]
    """A callback that passes on what happens to trials, and calls `check` ten times a second.

    on_network : gets the event of each network that is committed
    """

    def __init__(
        self,
        heard: Trials,
        tasks: Tasks,
        check: Callable[[], None],
        on_network: Callable[[Event], None] = lambda event: None,
    ) -> None:
        self._heard: Trials | None = heard
        self._tasks: Tasks | None = tasks
        self._check: Callable[[], None] | None = check
        self._on_network: Callable[[Event], None] | None = on_network

    def on_step_begin(self, iteration: int, trials: Any, **info: Any) -> None:
        if self._check:
            self._check()

    def on_trial_start(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        if self._heard and self._tasks:
            self._tasks.working.add(trial.trial_id)
            self._heard.began(trial.config["task"])

    def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: dict[str, Any], **info: Any) -> None:
        said = reported(result)
        if self._heard and self._on_network and "accuracy" in said:
            event = {"run": None} | said
            self._heard.reported(trial.config["task"], event)
            self._on_network(event)

    def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        if self._heard:
            last = reported(trial.last_result)
            self._heard.ended(trial.config["task"], whole=not (last.get("failed") or last.get("stopped")))
        _forget_averages(trial)

    def on_trial_error(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        if self._heard and self._tasks:
            cause = _cause(trial)
            self._tasks.died(trial.trial_id, cause)
            self._heard.died(trial.config["task"], trial.config["piece"], short_of_memory(cause))
        _forget_averages(trial)

    def __getstate__(self) -> dict[str, Any]:
        return dict.fromkeys(vars(self))  # Tune pickles its callbacks into its snapshots


def report(said: dict[str, Any]) -> None:
    """Tell the driver something of this trial.

    It goes in a list: of each number that Tune sees it keeps two averages in the driver's memory and in its snapshots,
    for each trial, as long as the sweep lasts.
    """
    tune.report({SAID: [said]})


def reported(result: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return what a trial has said with this result, nothing if it has said nothing."""
    (said,) = (result or {}).get(SAID) or [{}]
    return dict(said)


def _forget_averages(trial: Any) -> None:
    """Drop the averages that Tune keeps of an ended trial's times: nobody reads them, and a sweep has many trials."""
    trial.metric_analysis.clear()
    trial.metric_n_steps.clear()


def _cause(trial: Any) -> str:
    """Return the text of the error that ended a trial, "" if Tune kept none."""
    try:
        return Path(trial.error_file).read_text() if trial.error_file else ""
    except OSError:
        return ""


@contextlib.contextmanager
def interrupts_end_tune(ours: bool) -> Iterator[None]:
    """Let Ctrl-C end Tune at once, if Ray is `ours`, so that what is left of the trials ends with it.

    Tune's own handler asks each trial to stop and waits for it.
    """
    before = os.environ.get("TUNE_DISABLE_SIGINT_HANDLER")
    if ours and before is None:
        os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"
    try:
        yield
    finally:
        if ours and before is None:
            del os.environ["TUNE_DISABLE_SIGINT_HANDLER"]


def label(task: Task) -> str:
    problem, pack = task
    return f"{problem}, {NetworkId(complete=pack).label if isinstance(pack, int) else runs_of(pack)}"


def _starts_from(task: Task, problem: str, number: int) -> bool:
    """Say whether a task's chains start from this complete network."""
    return task[0] == problem and not isinstance(task[1], int) and task[1][0].complete == number
