"""What Ray Tune asks while it runs a sweep's trials: which one is next, what happened to it, when to stop."""

import contextlib
import os
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from ray import tune
from ray.tune.search import Searcher

from distsim import stopping
from distsim.specs import NetworkId
from distsim.sweep.cluster import ClusterLost
from distsim.sweep.plan import runs_of
from distsim.sweep.trials import Task, Trials


class Tasks(Searcher):  # type: ignore[misc]  # ray has no types
    """The order of tasks: a problem's chains are handed out once its complete network is committed.

    Tune asks again while it is told to wait, so no worker idles while anything can run. No more are handed out once
    somebody has asked to stop.
    """

    def __init__(self, tasks: list[Task]) -> None:
        super().__init__()
        self.todo = deque(enumerate(tasks))  # not handed out yet
        self._pending = {task for task in tasks if isinstance(task[1], int)}
        self.running: dict[str, Task] = {}
        self.begun = False  # whether any task was handed out
        self.stopped = False  # whether somebody asked to stop, here or in a trial
        self.died: list[tuple[Task, str]] = []
        self.failures: list[str] = []

    def suggest(self, trial_id: str) -> Any:
        self.stopped = self.stopped or stopping.wanted()
        if self.stopped:
            return Searcher.FINISHED
        for _ in range(len(self.todo)):
            number, (problem, pack) = self.todo.popleft()
            if not isinstance(pack, int) and (problem, pack[0].complete) in self._pending:
                self.todo.append((number, (problem, pack)))
                continue
            self.running[trial_id] = (problem, pack)
            self.begun = True
            piece = NetworkId(complete=pack).path if isinstance(pack, int) else runs_of(pack)
            return {"problem": problem, "piece": piece, "task": number}
        return None if self.todo else Searcher.FINISHED

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        problem, pack = self.running.pop(trial_id)
        if error:
            self.died.append(((problem, pack), "its worker died, or an error ended it"))
        failed = (result or {}).get("failed") or []
        self.failures += failed
        self.stopped = self.stopped or bool((result or {}).get("stopped"))
        if isinstance(pack, int):
            self._pending.discard((problem, pack))
            if error or failed:  # its chains cannot run
                self.todo = deque(entry for entry in self.todo if not _starts_from(entry[1], problem, pack))

    def save(self, checkpoint_path: str) -> None:
        """Save nothing: the store says what is done."""

    def restore(self, checkpoint_path: str) -> None:
        """Restore nothing."""


class Lost(BaseException):
    """Ray has died. Tune cleans up after an Exception, and would wait for a Ray that does not answer."""


class Listener(tune.Callback):  # type: ignore[misc]
    """A callback that passes on what happens to trials, and calls `check` ten times a second."""

    def __init__(self, heard: Trials, check: Callable[[], None]) -> None:
        self._heard: Trials | None = heard
        self._check: Callable[[], None] | None = check

    def on_step_begin(self, iteration: int, trials: Any, **info: Any) -> None:
        try:
            if self._check:
                self._check()
        except ClusterLost as error:
            raise Lost(str(error)) from None

    def on_trial_start(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        if self._heard:
            self._heard.began(trial.config["task"])

    def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: dict[str, Any], **info: Any) -> None:
        if self._heard and "accuracy" in result:
            self._heard.reported(trial.config["task"], {"run": None} | result)

    def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        if self._heard:
            result = trial.last_result or {}
            self._heard.ended(trial.config["task"], whole=not (result.get("failed") or result.get("stopped")))

    def on_trial_error(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        if self._heard:
            self._heard.died(trial.config["task"], trial.config["piece"])

    def on_trial_recover(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        self.on_trial_error(iteration, trials, trial)

    def __getstate__(self) -> dict[str, Any]:
        return {"_heard": None, "_check": None}  # Tune pickles its callbacks into its snapshots


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
