"""`distsim doctor --address`: asks each machine of a Ray cluster whether a sweep can work there."""

import contextlib
import uuid
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from distsim.store import Storage
from distsim.sweep import preflight
from distsim.sweep.preflight import Answer, Question, Verdict
from distsim.words import readable

HEAD = ("machine", "CPUs", "GPUs", "memory", "versions", "store", "clock", "answered")
VERSIONS = ("torch", "numpy", "python", "instruction_set")
Say = Callable[[str], object]


def examine(address: str, storage: str | None, device: str, threads: int, say: Say = print) -> bool:
    """Ask the machines of a cluster, and say line by line what they answer. Return whether a sweep would start.

    storage : a store to try from each machine, None: none
    device : cpu or cuda; threads : of each trial and comparison, which a machine must have

    ConnectionError: no cluster answers, or none of its machines has the CPUs or GPUs.
    """
    import ray

    from distsim.sweep.on_ray import cluster as ray_cluster
    from distsim.sweep.on_ray.hosts import Hosts

    watch = ray_cluster.connect(address, [])
    try:
        with _asked_of(storage, device, threads) as question:
            bundle: dict[str, float] = {"CPU": threads, "GPU": float(device == "cuda")}
            hosts = Hosts(question, [bundle], allow_drift=False, say=lambda sentence: None)
            answered = hosts.ask_all()
        if not answered:
            needed = ", ".join(f"{amount:g} {name}" for name, amount in bundle.items() if amount)
            raise ConnectionError(f"no machine of the Ray cluster at {address} has {needed}")
        verdicts = hosts.verdicts([answer for _, answer in answered if answer is not None])
        for line in table([HEAD, *(_row(node, answer, storage) for node, answer in answered)]):
            say(line)
        return _conclude(verdicts, [node["NodeManagerHostname"] for node, answer in answered if answer is None], say)
    finally:
        watch.stop()
        ray.shutdown()


@contextlib.contextmanager
def _asked_of(storage: str | None, device: str, threads: int) -> Iterator[Question]:
    """Make the question. While the block runs an object is in the store, which all machines must see."""
    if storage is None:
        yield Question(None, device=device, threads=threads)
        return
    root, sign = Storage(storage), (f"probe-{uuid.uuid4().hex}", uuid.uuid4().hex.encode())
    root.reach()
    root.put(*sign)
    try:
        yield Question(root, sign, device, threads)
    finally:
        root.delete([sign[0]])


def _row(node: Any, answer: Answer | None, storage: str | None) -> tuple[str, ...]:
    """Return the cells of a machine, one for each of HEAD."""
    resources = node["Resources"]
    has = node["NodeManagerHostname"], f"{resources.get('CPU', 0):g}", f"{resources.get('GPU', 0):g}"
    if answer is None:
        return (*has, "", "no answer", "", "", "")
    took = f"{answer.seconds:.1f} s"
    if answer.error:
        return (*has, "", "not usable", "", f"{answer.clock:+.0f} s", took)
    facts = answer.facts
    memory = "" if facts["memory"] is None else f"{readable(facts['memory'])} free"
    versions = ", ".join(f"{name.replace('instruction_set', '')} {facts[name]}".strip() for name in VERSIONS)
    seen = "not asked" if storage is None else "not usable" if any(storage in why for why in answer.unfit) else "usable"
    return (*has, memory, versions, seen, f"{answer.clock:+.0f} s", took)


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return rows of cells as lines with columns under each other."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _conclude(verdicts: Sequence[Verdict], silent: Sequence[str], say: Say) -> bool:
    """Say what is wrong, and whether a sweep would start. Return whether it would."""
    for verdict in verdicts:
        if verdict.unfit or verdict.different:
            say(preflight.said(verdict))
    for host in silent:
        say(f"{host} did not answer: it may be busy, or about to be lost")
    refused = preflight.refusal(verdicts, allow_drift=False)
    fit = sum(not verdict.unfit for verdict in verdicts)
    if not refused and fit:
        say(f"a sweep would start: {fit} of {len(verdicts) + len(silent)} machines can work")
    else:
        say("a sweep would not start" + (" without --allow-drift" if fit else ""))
    return not refused and bool(fit)
