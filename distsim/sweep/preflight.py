"""What a machine of a cluster must be fit for before a sweep works there, and the sentences that say what is wrong.

A machine answers a `Question` about itself (`examine`). `judged` compares the answers with what the driver has.
"""

import platform
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any

from distsim.store import Storage, StorageError
from distsim.words import enumerated

CLOCK = 60.0  # seconds by which a machine's clock may differ from the driver's
WARM_UP = 256  # size of the product that a GPU is tried with
DECIDING = ("python", "torch", "numpy", "machine", "instruction_set", "blas", "gpu")  # the bits of a result
WORDS = {"instruction_set": "instruction set", "blas": "BLAS kernels", "gpu": "GPU", "machine": "machine type"}


@dataclass(frozen=True)
class Question:
    """What the work of a sweep needs of a machine.

    storage : the store, which must be reachable and writable there; None: none is asked about
    sign : path and content of an object that only this store has; a machine that does not see it has another folder at
        that path
    device : cpu or cuda; threads : of each trial and comparison
    """

    storage: Storage | None = None
    sign: tuple[str, bytes] = ("", b"")
    device: str = "cpu"
    threads: int = 1


@dataclass(frozen=True)
class Answer:
    """What a machine says of itself.

    error : the sentence that it cannot be used at all, such as that distsim is not there
    clock : seconds by which its clock is ahead of the driver's
    seconds : that it took to answer
    facts : versions, processor, memory: see `examine`
    unfit : what the question asked for and it does not have, in sentences
    """

    host: str
    error: str = ""
    clock: float = 0.0
    seconds: float = 0.0
    facts: Mapping[str, Any] = field(default_factory=dict)
    unfit: tuple[str, ...] = ()


@dataclass(frozen=True)
class Verdict:
    """What the driver makes of a machine's answer.

    unfit : why no work can be done there, "" if it can
    different : how its results would differ from the driver's or from those of other machines, in sentences
    """

    host: str
    unfit: str = ""
    different: tuple[str, ...] = ()


def examine(question: Question) -> dict[str, Any]:
    """Return what this machine says: its facts, and in what it is unfit. Runs on each machine of a cluster."""
    facts, unfit = about_here(question.device), []
    if facts["cores"] < question.threads:
        unfit.append(f"it has {facts['cores']} cores for {question.threads} threads (--threads)")
    if question.device == "cuda":
        unfit += _gpu_fails()
    if question.storage is not None:
        unfit += _storage_fails(question.storage, *question.sign)
    return {"facts": facts, "unfit": unfit}


def about_here(device: str) -> dict[str, Any]:
    """Return the versions that decide the bits of a result here, and what else describes this machine."""
    import torch

    from distsim import environment
    from distsim.processor import cores

    gpu = torch.cuda.get_device_name() if device == "cuda" and torch.cuda.is_available() else ""
    return {
        "code": environment.code_version(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": metadata.version("numpy"),
        "machine": platform.machine(),
        "instruction_set": torch.backends.cpu.get_cpu_capability(),
        "blas": environment.blas_kernels(),
        "gpu": gpu,
        "cores": cores(),
        "memory": environment.free_memory(),
    }


def _gpu_fails() -> list[str]:
    """Return why this machine's GPU cannot be used, by a product in PyTorch, and in CuPy where it is installed."""
    import numpy as np
    import torch

    if not torch.cuda.is_available():
        return ["PyTorch finds no GPU (--device cuda)"]
    A = np.random.default_rng(0).standard_normal((WARM_UP, WARM_UP))
    try:
        on_gpu = torch.from_numpy(A).cuda()
        wrong = not np.allclose((on_gpu @ on_gpu).cpu().numpy(), A @ A)
    except RuntimeError as error:
        return [f"PyTorch cannot use the GPU: {str(error).splitlines()[0]}"]
    if wrong:
        return ["the GPU multiplies wrongly (PyTorch)"]
    try:
        import cupy
    except ImportError:  # sweeps need none
        return []
    try:
        B = cupy.asarray(A)
        wrong = not np.allclose(cupy.asnumpy(B @ B), A @ A)
    except Exception as error:  # CuPy's are of many kinds
        return [f"CuPy cannot use the GPU: {str(error).splitlines()[0]}"]
    return ["the GPU multiplies wrongly (CuPy)"] if wrong else []


def _storage_fails(storage: Storage, path: str, content: bytes) -> list[str]:
    """Return why the store cannot be used here. It is read, written by a conditional put, and left as it was."""
    mine = f"probe-{uuid.uuid4().hex}"
    try:
        storage.reach()
        if storage.get(path) != content:
            return [
                f"it does not see in {storage.url} what was written from where the sweep was started: is this folder "
                "shared by all machines?"
            ]
        alone = storage.create(mine, b"once") and not storage.create(mine, b"twice")
        storage.delete([mine])
        if not alone:
            return [f"{storage.url} does not keep a second writer from overwriting the first (no conditional puts)"]
    except StorageError as error:
        return [str(error)]
    return []


def judged(answers: Sequence[Answer], here: Mapping[str, Any]) -> list[Verdict]:
    """Return a verdict for each answer.

    here : `about_here` of the driver. Its code must be that of all machines. Its processor may be another, since it
        computes nothing of a sweep, so what else decides bits must only be the same on all machines: as on the most.
    """
    usable = [answer for answer in answers if not answer.error]
    usual = {name: _most_frequent([answer.facts.get(name) for answer in usable]) for name in DECIDING}
    return [_judge(answer, here, usual) for answer in answers]


def _most_frequent(values: Sequence[Any]) -> Any:
    return max(dict.fromkeys(values), key=values.count, default=None)


def _judge(answer: Answer, here: Mapping[str, Any], usual: Mapping[str, Any]) -> Verdict:
    if answer.error or answer.unfit:
        return Verdict(answer.host, answer.error or "; ".join(answer.unfit))
    facts, different = answer.facts, []
    if facts["code"] != here["code"]:
        different.append(f"it has distsim {facts['code']}, the driver has {here['code']}")
    for name in DECIDING:
        if facts.get(name) != usual[name]:
            word = WORDS.get(name, name)
            different.append(f"{word} {facts.get(name) or 'none'}, others have {usual[name] or 'none'}")
    if abs(answer.clock) > CLOCK:
        direction = "ahead of" if answer.clock > 0 else "behind"
        different.append(f"its clock is {abs(answer.clock):.0f} s {direction} the driver's")
    return Verdict(answer.host, "", tuple(different))


def refusal(verdicts: Sequence[Verdict], allow_drift: bool) -> str:
    """Return why a sweep does not start on machines with these verdicts, "" if it may.

    It starts if one machine is fit, and if no fit machine would give other results. allow_drift : also if one would
    """
    if verdicts and all(verdict.unfit for verdict in verdicts):
        return f"no machine of the Ray cluster can be used ({_named(verdicts)})"
    different = [verdict for verdict in verdicts if verdict.different]
    if different and not allow_drift:
        return (
            f"machines of the Ray cluster differ ({_named(different)}), so results would depend on where they are "
            "computed: install the same there, or pass --allow-drift, which is recorded with each result"
        )
    return ""


def said(verdict: Verdict) -> str:
    """Return the sentence about a machine on which something is wrong."""
    if verdict.unfit:
        return f"{verdict.host} gets no work: {verdict.unfit}"
    return f"{verdict.host} differs: {'; '.join(verdict.different)}"


def _named(verdicts: Sequence[Verdict]) -> str:
    return "; ".join(f"{verdict.host}: {verdict.unfit or enumerated(list(verdict.different))}" for verdict in verdicts)


def answer_of(raw: Mapping[str, Any], sent: float, received: float | None = None) -> Answer:
    """Return a machine's answer as it came back from it. sent, received : the driver's clock before and after"""
    received = time.time() if received is None else received
    at = float(raw["clock"])
    ahead = max(0.0, at - received) or min(0.0, at - sent)
    return Answer(
        str(raw["host"]),
        str(raw.get("error", "")),
        ahead,
        received - sent,
        raw.get("facts", {}),
        tuple(raw.get("unfit", ())),
    )
