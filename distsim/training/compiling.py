"""A network compiled by torch, for training. Evaluation and extraction run the network itself.

torch compiles the pass forward and its gradient, a graph each. A generator cannot be part of a graph. So the masks of
dropout are drawn before the pass, into tensors that keep their place (`distsim.models.Dropout`).
"""

import re
import shutil
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from distsim.environment import cxx
from distsim.models import Dropout, Network, build
from distsim.seeds import GLOBAL_GENERATOR
from distsim.specs import Problem, shown

BACKEND = "inductor"  # torch's own compiler
TRACING = "aot_eager"  # traces the pass and its gradient, and generates no code
Pass = Callable[[nn.Module, Tensor], Tensor]


class CannotCompile(ValueError):
    """Raised where a network cannot be compiled. The message says why, in one line."""


class Compiled:
    """A network in training mode, called with a batch of images. The first call compiles it.

    CannotCompile is not raised by calls: make the first one inside `told`.
    """

    def __init__(self, network: Network, images: Tensor, deterministic: bool = False, backend: str = "") -> None:
        """Make room for the masks of dropout.

        A pass finds their shapes. It leaves other statistics in batch norms.
        images : a batch as it will be called with, on the network's device; deterministic : repeat results on a GPU
        """
        self._network = network
        self._dropouts = [module for module in network.modules() if isinstance(module, Dropout)]
        for module, shapes in _inputs(network, self._dropouts, images).items():
            module.hold(shapes, images.device)
        self._pass = _own_pass(network, images.device.type, deterministic, backend or BACKEND)

    def __call__(self, images: Tensor) -> Tensor:
        for module in self._dropouts:
            module.draw()
        return self._pass(self._network, images)


@torch.no_grad()
def _inputs(network: Network, dropouts: list[Dropout], images: Tensor) -> dict[Dropout, list[torch.Size]]:
    """Return the shapes of what the dropout modules get in one pass, in the order of their calls."""
    shapes: dict[Dropout, list[torch.Size]] = {module: [] for module in dropouts}
    handles = []
    for module in dropouts:
        module.reseed(0, images.device)
        handles.append(module.register_forward_pre_hook(lambda called, inputs: shapes[called].append(inputs[0].shape)))
    try:
        with GLOBAL_GENERATOR, torch.random.fork_rng(devices=[]):
            network.train()(images)
    finally:
        for handle in handles:
            handle.remove()
    return shapes


_passes: dict[tuple[object, ...], Pass] = {}


def _own_pass(network: Network, device: str, deterministic: bool, backend: str) -> Pass:
    """Return the compiled function that networks of this structure share, so that a pack compiles once.

    torch keeps what it compiles with a function's code, and refuses after some kinds of arguments. So each structure
    has code of its own.
    """
    deterministic = deterministic and device != "cpu"
    key = (str(network), device, deterministic, backend)
    if key not in _passes:
        code = _forward.__code__.replace(co_name=f"pass_{len(_passes)}")
        options = _options(deterministic) if backend == "inductor" else None
        own: Any = types.FunctionType(code, _forward.__globals__)
        _passes[key] = torch.compile(own, fullgraph=True, dynamic=False, backend=backend, options=options)
    return _passes[key]


def _forward(network: nn.Module, images: Tensor) -> Tensor:
    return network(images)


def _options(deterministic: bool) -> dict[str, Any] | None:
    """Return torch's option for kernels that are not chosen by their speed, which changes bits from start to start.

    torch 2.9 has none, but `torch.use_deterministic_algorithms` does the same for reductions.
    """
    from torch._inductor import config

    return {"deterministic": True} if deterministic and hasattr(config, "deterministic") else None


@contextmanager
def told(what: str = "the network") -> Iterator[None]:
    """Raise CannotCompile for what goes wrong in the block, but for a lack of memory on the device."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # torch's compiler raises errors of many kinds, and the user's code may raise any
        raise CannotCompile(
            f"torch cannot compile {what} ({reason(error)}); leave --compile out, which is another sweep"
        ) from error


def reason(error: BaseException) -> str:
    """Return the first line that says what failed, and the line of the network's code that it is about."""
    text = str(error).strip() or type(error).__name__
    lines = [line.strip() for line in text.splitlines()]
    first = shown(lines[1] if lines[0].endswith("raised:") and len(lines) > 1 else lines[0])[1:-1]
    of_user = text.partition("from user code:")[2]
    places = re.findall(r'File "([^"]+)", line (\d+)', of_user)
    if not places:
        return first
    path, line = places[-1]
    return f"{first}; {Path(path).name}, line {line}"


def require_one_graph(problem: Problem) -> None:
    """Check that torch can compile the pass of the problem's network, and its gradient, a graph each.

    It runs on the CPU and generates no code. CannotCompile says why it cannot. Other errors are those of `build`.
    """
    network, count = build(problem), 1 if problem.recipe.batch_size == 1 else 2
    images = torch.zeros(count, problem.channels, problem.size, problem.size)
    with told(f"model {problem.model}"), GLOBAL_GENERATOR, torch.random.fork_rng(devices=[]):
        logits = Compiled(network, images, backend=TRACING)(images)
        nn.functional.cross_entropy(logits, torch.zeros(count, dtype=torch.int64)).backward()


def require_compiler(device: str) -> None:
    """Check that this machine has what torch generates code with. CannotCompile: it has not."""
    if device == "cpu" and shutil.which(cxx()) is None:
        raise CannotCompile(
            f"--compile needs a C++ compiler on a CPU, and there is no {cxx()} (the environment variable CXX may "
            "name another): install one, or leave --compile out, which is another sweep"
        )
    if device != "cpu" and find_spec("triton") is None:
        raise CannotCompile(
            "--compile needs Triton on a GPU, and it is not installed: pip install triton, or leave --compile out, "
            "which is another sweep"
        )
