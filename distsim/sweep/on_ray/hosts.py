"""The machines of a Ray cluster: which are asked what they are fit for, and which get no work."""

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from distsim.sweep import preflight
from distsim.sweep.cluster import ClusterLost
from distsim.sweep.preflight import Answer, Question, Verdict

ASKED = 60.0  # seconds that machines have to answer before a sweep starts; one that does not may be busy
AGAIN = 20.0  # seconds that they have while it runs, after a worker has died
JOINED = 2.0  # seconds between two looks at which machines have joined
STARTS = 2  # workers that could not start on a machine; after these it gets no work
GPU_SHARE = 0.01  # of a GPU, so that Ray lets a question see it
NODE_ID = "ray.io/node-id"  # the label that Ray gives each machine

# Run on each machine. It must not need distsim there to be unpickled, so it is code of no module.
ASK = """
def ask(question):
    import socket, time
    answer = {"host": socket.gethostname(), "clock": time.time()}
    try:
        import distsim
        answer["version"] = distsim.__version__
        from ray import cloudpickle
        from distsim.sweep.preflight import examine
        return answer | examine(cloudpickle.loads(question))
    except BaseException as error:
        return answer | {"error": f"{type(error).__name__}: {error}"}
"""

Node = Mapping[str, Any]


def fits(node: Node, bundle: Mapping[str, float], avoid: Iterable[str] = ()) -> int:
    """Return how many bundles of resources a machine holds when it is idle: none if it is to be avoided."""
    if not node["Alive"] or node["NodeID"] in avoid:
        return 0
    holds = [int(node["Resources"].get(name, 0) / amount + 1e-9) for name, amount in bundle.items() if amount]
    return min(holds, default=0)


def selector(avoid: Iterable[str]) -> dict[str, str]:
    """Return the label selector that keeps work off these machines, by their Ray node ids; {} if there are none."""
    ids = sorted(avoid)
    return {NODE_ID: f"!in({','.join(ids)})"} if ids else {}


class Hosts:
    """The machines that may work on a sweep.

    Each is asked once when it joins, and again after a worker has died anywhere. A machine that is unfit, or whose
    results would differ, gets no work from then on.

    bundles : resources of each kind of piece; a machine that holds none of them is not asked
    say : gets a sentence about each machine that gets no work
    """

    def __init__(
        self,
        question: Question,
        bundles: Sequence[Mapping[str, float]],
        allow_drift: bool,
        say: Callable[[str], object],
    ) -> None:
        self.question, self.bundles, self.allow_drift, self.say = question, bundles, allow_drift, say
        self.out: dict[str, str] = {}  # Ray's id of a machine that gets no work -> the sentence why
        self._here: dict[str, Any] | None = None
        self._answers: dict[str, Answer] = {}  # Ray's id of a machine -> its last answer
        self._asked: dict[Any, tuple[Node, float, int]] = {}  # question -> whom, when, in which round
        self._seen: set[str] = set()
        self._round = 0
        self._looked = 0.0
        self._starts: Counter[str] = Counter()

    @property
    def avoid(self) -> frozenset[str]:
        """Return Ray's ids of the machines that get no work."""
        return frozenset(self.out)

    def ask_all(self, patience: float = ASKED) -> list[tuple[Node, Answer | None]]:
        """Ask all machines at once, and wait for their answers. Return them; None: no answer in time."""
        nodes = self._working()
        self._ask(nodes)
        ray.wait(list(self._asked), num_returns=len(self._asked), timeout=patience)
        self._hear()
        return [(node, self._answers.get(node["NodeID"])) for node in nodes]

    def require(self) -> None:
        """Check the machines before a sweep starts. ConnectionError: none can be used, or results would differ.

        A machine that does not answer in time is left alone: it may be busy.
        """
        answered = [(node, answer) for node, answer in self.ask_all() if answer is not None]
        verdicts = self.verdicts([answer for _, answer in answered])
        if refused := preflight.refusal(verdicts, self.allow_drift):
            raise ConnectionError(refused)
        for (node, _), verdict in zip(answered, verdicts, strict=True):
            self._judge(node, verdict)

    def verdicts(self, answers: list[Answer]) -> list[Verdict]:
        """Return what the driver makes of these answers."""
        if self._here is None:
            self._here = preflight.about_here(self.question.device)
        return preflight.judged(answers, self._here)

    def look(self) -> None:
        """Ask machines that have joined, and hear what has been answered. It does not wait.

        ClusterLost: no machine is left that may work.
        """
        now = time.monotonic()
        if now - self._looked < JOINED:
            return
        self._looked = now
        working = self._working()
        self._ask([node for node in working if node["NodeID"] not in self._seen])
        self._hear()
        if working and all(node["NodeID"] in self.out for node in working):
            raise ClusterLost(
                "no machine of the Ray cluster can be used any more. What is committed is kept: mend the machines, "
                "then run the same command again to go on from here"
            )

    def ask_again(self) -> int:
        """Ask all machines again, since a worker has died. Return the number of this round."""
        self._round += 1
        self._ask([node for node in self._working() if node["NodeID"] not in self.out])
        return self._round

    def heard(self, number: int) -> bool:
        """Return whether all machines have answered this round or had time to."""
        self._hear()
        late = time.time() - AGAIN
        return not any(of >= number and began > late for _, began, of in self._asked.values())

    def could_not_start(self, error: str) -> None:
        """Note that a worker could not start, as this text of Ray's says. The second time the machine gets no work."""
        for node in self._working():
            alone = sum(f"ip={other['NodeManagerAddress']}," in error for other in ray.nodes() if other["Alive"]) == 1
            if alone and f"ip={node['NodeManagerAddress']}," in error:
                self._starts[node["NodeID"]] += 1
                if self._starts[node["NodeID"]] >= STARTS:
                    last = error.strip().splitlines()[-1].strip()
                    self._leave_out(node, f"{STARTS} workers could not start there: {last}")

    def _working(self) -> list[Node]:
        working = [node for node in ray.nodes() if any(fits(node, bundle) for bundle in self.bundles)]
        return sorted(working, key=lambda node: str(node["NodeManagerHostname"]))

    def _ask(self, nodes: Sequence[Node]) -> None:
        code: dict[str, Any] = {}
        exec(ASK, code)
        ask, question = ray.remote(num_cpus=0, max_retries=1)(code["ask"]), ray.cloudpickle.dumps(self.question)
        for node in nodes:
            there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            options: dict[str, Any] = {"scheduling_strategy": there}
            if self.question.device == "cuda" and node["Resources"].get("GPU"):
                options["num_gpus"] = GPU_SHARE
            asked = ask.options(**options).remote(question)
            self._asked[asked] = node, time.time(), self._round
            self._seen.add(node["NodeID"])

    def _hear(self) -> None:
        """Take the answers that have come."""
        if not self._asked:
            return
        done, _ = ray.wait(list(self._asked), num_returns=len(self._asked), timeout=0)
        for answered in done:
            node, sent, number = self._asked.pop(answered)
            try:
                answer = preflight.answer_of(ray.get(answered), sent)
            except ray.exceptions.RayError as error:  # the machine has gone
                logging.getLogger(__name__).info("%s: %s", node["NodeManagerHostname"], error)
                continue
            self._answers[node["NodeID"]] = answer
            if self._here is not None or number:  # before a sweep starts, all are judged together
                self._judge(node, self._verdict(node["NodeID"]))

    def _verdict(self, node: str) -> Verdict:
        """Return the verdict on a machine, compared with all others that have answered and may work."""
        others = [answer for other, answer in self._answers.items() if other != node and other not in self.out]
        return self.verdicts([*others, self._answers[node]])[-1]

    def _judge(self, node: Node, verdict: Verdict) -> None:
        if verdict.unfit or (verdict.different and not self.allow_drift):
            self._leave_out(node, verdict.unfit or "; ".join(verdict.different))
        elif verdict.different:
            self.say(preflight.said(verdict))

    def _leave_out(self, node: Node, why: str) -> None:
        if node["NodeID"] not in self.out:
            self.out[node["NodeID"]] = preflight.said(Verdict(node["NodeManagerHostname"], why))
            self.say(self.out[node["NodeID"]])
