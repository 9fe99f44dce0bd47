"""A device without hardware: tensors have shapes and no values, and what a GPU would wait for or refuse is an error.

`FakeTensorMode` refuses to mix devices and to read values. `Discipline` refuses the rest by name: copies between the
card and the CPU, and tensors of the CPU among those of the card, indices included. A place in distsim's code that may
do so is stated, such as "Stepper.loss".
"""

import contextlib
import functools
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

CARD = "card"
aten = torch.ops.aten
READS = {aten._local_scalar_dense.default, aten.equal.default, aten.is_nonzero.default, aten.nonzero.default}
INDEXING = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default}  # a mask's length must be known
STUBS = {torch.bool: True, torch.float32: 1.0, torch.float64: 1.0, torch.int64: 1}


class Undisciplined(AssertionError):
    """Raised where code waits for the card, or uses a tensor of the other side."""


class _Mode(TorchDispatchMode):
    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # otherwise the first operation imports torch's compiler


class _Optimizers(_Mode):
    """Fused optimizers, such as _fused_adam_, change nothing on the card. torch has no fake kernels for them."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return None if func.overloadpacket.__name__.startswith("_fused_") else func(*args, **kwargs or {})


class Discipline(_Mode):
    """A `with` block in which the card is used as a captured step must use it.

    may_read, may_copy : names of distsim's functions, as "Stepper.loss", that may read values, or copy to and from the
    CPU; a value that is read is a 1
    """

    def __init__(self, may_read: set[str] = frozenset(), may_copy: set[str] = frozenset()) -> None:
        super().__init__()
        self.may_read, self.may_copy = may_read, may_copy
        self.used: set[str] = set()  # those of the places that did

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        devices = {tensor.device.type for tensor in tensors}
        by_mask = func in INDEXING and any(t.dtype == torch.bool for t in tree_leaves(args[1]) if t is not None)
        if CARD in devices and (func in READS or by_mask):
            self._allow("reads a value of the card", func, set() if by_mask else self.may_read)
            return STUBS[tensors[0].dtype]
        if func is aten._to_copy.default and kwargs.get("device") is not None:
            devices |= {kwargs["device"].type}
        if devices == {CARD, "cpu"}:
            copies = func in (aten._to_copy.default, aten.copy_.default)
            what = "copies between the card and the CPU" if copies else "has a tensor of the CPU among the card's"
            self._allow(what, func, self.may_copy if copies else set())
        return func(*args, **kwargs)

    def _allow(self, what: str, func: Any, places: set[str]) -> None:
        frame: Any = sys._getframe(2)
        while "/distsim/" not in frame.f_code.co_filename:
            frame = frame.f_back
        place = frame.f_code.co_qualname
        if place not in places:
            raise Undisciplined(f"{place}, line {frame.f_lineno}, {what}: {func}")
        self.used.add(place)


class Generator(torch.Generator):
    """A generator of any device, the card included, which has none of its own."""

    def __new__(cls, device: Any = "cpu") -> Any:
        made = super().__new__(cls)
        made.on = torch.device(device)
        return made

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return self.on


class Graph:
    """A captured step that is called again where a GPU would replay it."""

    def register_generator_state(self, generator: torch.Generator) -> None:
        assert generator.device.type == CARD

    def replay(self) -> None:
        self.again()


@contextlib.contextmanager
def capture(graph: Graph, stream: object, capture_error_mode: str) -> Iterator[None]:
    yield


class _Backend(backend_registration._DummyBackendModule):
    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16]


@functools.cache
def _register() -> None:
    """Make the card known to torch, for the rest of the process. Autocast does nothing there."""
    backend_registration._setup_privateuseone_for_python_backend(CARD, backend_module=_Backend())
    _register.autocast = torch.library.Library("_", "IMPL", "AutocastPrivateUse1")
    _register.autocast.fallback(torch.library.fallthrough_kernel)


@contextlib.contextmanager
def fake_card() -> Iterator[torch.device]:
    """Yield the card. Tensors that are made in the block are fake, on the CPU too.

    A test is skipped where there is a real GPU: torch knows one kind of accelerator in a process, and would take the
    card for it in the tests that come after.
    """
    if torch.cuda.is_available():
        pytest.skip("a device without hardware would take the GPU's place in this process")
    if not hasattr(backend_registration, "_setup_privateuseone_for_python_backend"):
        pytest.skip(f"PyTorch {torch.__version__} makes no device in Python")
    _register()
    tf32 = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "Generator", Generator)
        patch.setattr(torch.cuda, "CUDAGraph", Graph)
        patch.setattr(torch.cuda, "graph", capture)
        # one thread: torch makes those of the devices at a process's first backward pass, perhaps before the card
        with torch.autograd.set_multithreading_enabled(False), FakeTensorMode(), _Optimizers():
            yield torch.device(CARD)
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = tf32


def on_card(network: nn.Module) -> nn.Module:
    """The network with new tensors on the card: fake tensors cannot be moved in place, so `to` does nothing."""

    def made(tensor: torch.Tensor) -> torch.Tensor:
        layout = torch.channels_last if tensor.ndim == 4 else torch.contiguous_format
        return torch.empty(tensor.shape, dtype=tensor.dtype, device=CARD, memory_format=layout)

    for module in network.modules():
        module._parameters.update({k: nn.Parameter(made(p)) for k, p in module._parameters.items() if p is not None})
        module._buffers.update({k: made(buffer) for k, buffer in module._buffers.items() if buffer is not None})
    network.__dict__["to"] = lambda *args, **kwargs: network
    return network
