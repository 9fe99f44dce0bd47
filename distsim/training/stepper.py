"""One step of training. A GPU captures it once, over tensors that keep their place, and replays it as a graph.

Everything that changes from step to step is read from the device: the position in the epoch, the order, the random
choices of the augmentation, the learning rate. So a step needs nothing from the host, and within an epoch the host
waits for nothing. On the CPU the same function is called directly.

On a GPU each stepper has its own stream for as long as it exists. Its step is rehearsed, captured and replayed on that
stream, and its state is set and read there. Captures on one shared stream would share that stream's cuBLAS workspace.
The steps of two runs that are replayed at the same time would then overwrite each other's partial sums.
"""

import ctypes
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from distsim.data import augment
from distsim.models import Dropout, Network, logits_of
from distsim.seeds import GLOBAL_GENERATOR
from distsim.specs import Identity, Recipe
from distsim.tf32 import SWITCH, set_tf32
from distsim.training import optimizers as optim
from distsim.training.compiling import Compiled, require_compiler, told
from distsim.training.streams import own_stream

State = dict[str, Tensor]
AMPERE = (8, 0)  # the first compute capability that has TF32; before it, PyTorch's switch changes nothing
REHEARSALS = 3  # steps before a graph is captured, in which libraries choose their kernels and allocate their memory


@dataclass(frozen=True)
class Arithmetic:
    """The arithmetic of a step: float32 (IEEE, on a GPU too), bfloat16 wherever autocast uses it, or TF32 products.

    deterministic : a GPU then repeats its results bit by bit, but is slower; a CPU always repeats them
    compile : the network is compiled by torch, and rounds differently
    """

    precision: str = "float32"
    deterministic: bool = False
    compile: bool = False

    @classmethod
    def of(cls, identity: Identity) -> "Arithmetic":
        """Return the arithmetic in which a sweep trains."""
        return cls(identity.precision, identity.deterministic, identity.compile)


def settle(device: torch.device, deterministic: bool) -> None:
    """Set up the process for training. On a GPU, float32 convolutions and products then use float32, not TF32."""
    if device.type == "cpu":
        _keep_freed_memory()
    if device.type == "cuda":
        with SWITCH.float32():  # another thread may be capturing a step that uses TF32
            set_tf32(False)
        torch.backends.cudnn.benchmark = not deterministic
        fix_workspace()
        torch.use_deterministic_algorithms(deterministic)


def fix_workspace() -> None:
    """Choose a workspace of cuBLAS with which products repeat themselves. Call it before the process's first product.

    cuBLAS reads it once. So a forecast fixes it too, or a training with --deterministic would come too late.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


def _keep_freed_memory() -> None:
    """Let the C library, if it is glibc, keep the freed memory of arrays of up to 32 MB.

    Otherwise it returns that memory to the system after each step and gets it again, page by page. In each step of a
    small network that makes thousands of page faults, which take a large part of its time.
    """
    set_option = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if set_option is not None:
        mmap_threshold, trim_threshold, top_pad = -3, -1, -2  # from malloc.h
        set_option(mmap_threshold, 32 * 2**20)  # the largest allowed value
        set_option(trim_threshold, 2**31 - 1)
        set_option(top_pad, 64 * 2**20)


class Stepper:
    """A network with its optimizer, masks and data, trained step by step. It may be used for several trainings."""

    def __init__(
        self,
        network: Network,
        pictures: augment.Pictures,
        labels: Tensor,
        recipe: Recipe,
        arithmetic: Arithmetic | None = None,
    ) -> None:
        """Set up the step. On a GPU capture it; where the arithmetic says so, compile the network.

        Both leave arbitrary values in the network, so call `reset` before use.
        network, pictures, labels : on one device; labels are (n,) int64
        ValueError: the device is a GPU and the network draws from torch's global generator, or a CPU and the precision
        tf32. CannotCompile, which is one: the network cannot be compiled.
        """
        arithmetic = arithmetic or Arithmetic()
        require_streams(network, labels.device.type)
        require_precision(arithmetic.precision, labels.device.type)
        self.network, self.device = network, labels.device
        self.stream = own_stream(self, self.device)
        self.batch = min(recipe.batch_size, pictures.n)
        self.steps = pictures.n // self.batch  # a last partial batch is dropped, unless it is the only one
        self._pictures, self._labels, self._recipe = pictures, labels, recipe
        self._arithmetic = arithmetic
        self._parameters = dict(network.named_parameters())
        self._dropouts = [module for module in network.modules() if isinstance(module, Dropout)]
        self._masks: State = {}
        n = pictures.n
        self._order = torch.arange(n, device=self.device)
        self._draws = self._on_device(augment.draw(recipe.augment, n, pictures.size, torch.Generator()))
        self._rates = torch.zeros(self.steps, device=self.device)
        self._rate = torch.zeros((), device=self.device)
        self._in_batch = torch.arange(self.batch, device=self.device)
        self._at = torch.zeros(1, dtype=torch.int64, device=self.device)  # number of steps done in the epoch
        self._loss = torch.zeros((), device=self.device)
        self._seeds: Sequence[int] = ()  # of the global generator for each step, if the network draws from it
        self._seeded = 0  # number of these seeds used in the epoch
        network.to(memory_format=torch.channels_last)
        self._optimizer = optim.optimizer(recipe, self._parameters.values())
        for group in self._optimizer.param_groups:
            group["lr"] = self._rate
        self._logits: Callable[[Tensor], Tensor] = network
        if arithmetic.compile:
            self._compile()
        self.step: Callable[[], None] = self._step if self.device.type == "cpu" else self._captured()
        if self.draws:
            self.step = self._step_with_stream

    def reset(self, weights: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> None:
        """Begin a training with these parameters and buffers and an empty optimizer.

        masks : True where a parameter is alive; the others must be zero, and stay zero
        """
        with self._on_stream():
            self.network.load_state_dict(dict(weights))
            if self.device.type == "cpu":
                self._masks = {}
                self._optimizer.state.clear()
            for state in self._optimizer.state.values():
                for value in state.values():
                    value.zero_()
            for own_mask in self._masks.values():
                own_mask.fill_(1)
            for name, mask in masks.items():
                if name not in self._masks and bool(mask.all()) and self.device.type == "cpu":
                    continue  # no gradient to mask
                self._masks.setdefault(name, torch.empty_like(self._parameters[name])).copy_(mask)

    def begin(
        self,
        order: Tensor,
        draws: Mapping[str, Tensor],
        rates: Sequence[float],
        seeds: Sequence[int],
        seeds_of_steps: Sequence[int] = (),
    ) -> None:
        """Begin an epoch.

        order : (n,) a permutation; draws : from `augment.draw`; rates : (steps,); seeds : one for each dropout module
        seeds_of_steps : (steps,) seeds of the global generator, for a network that draws from it; (): 0, 1, ...
        """
        self.network.train()
        if self.draws:
            self._seeds, self._seeded = seeds_of_steps or range(self.steps), 0
        with self._on_stream():
            self._order.copy_(order)
            for name, values in draws.items():
                self._draws[name].copy_(values)
            self._rates.copy_(torch.tensor(rates))
            for module, seed in zip(self._dropouts, seeds, strict=True):
                module.reseed(seed, self.device)
            self._at.zero_()
            self._loss.zero_()

    @property
    def examples(self) -> int:
        return self._pictures.n

    @property
    def size(self) -> int:
        """Return the number of pixels on a side of an image."""
        return self._pictures.size

    @property
    def dropouts(self) -> int:
        return len(self._dropouts)

    @property
    def draws(self) -> bool:
        """Return whether the network draws from torch's global generator."""
        return bool(self.network.draws)

    def loss(self) -> float:
        """Return the epoch's mean loss, after its last step. Here the host waits for the device."""
        with self._on_stream():
            return float(self._loss) / self.steps

    def state(self) -> State:
        """Return CPU copies of all tensors on which the next epoch depends: the network's and the optimizer's."""
        with self._on_stream():
            return {name: on_cpu(tensor) for name, tensor in self._state().items()}

    def _state(self) -> State:
        names: dict[Tensor, str] = {parameter: name for name, parameter in self._parameters.items()}
        tensors = {f"network/{name}": value for name, value in self.network.state_dict().items()}
        for parameter, values in self._optimizer.state.items():
            tensors |= {f"optimizer/{key}/{names[parameter]}": value for key, value in values.items()}
        return tensors

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Continue from what `state` returned. Call `reset` first."""
        of_network = {name.removeprefix("network/"): t for name, t in state.items() if name.startswith("network/")}
        with self._on_stream():
            self.network.load_state_dict(of_network)
            for name, value in state.items():
                if name.startswith("optimizer/"):
                    _, key, parameter = name.split("/", 2)
                    like = self._parameters[parameter]
                    own = self._optimizer.state[like]
                    if key in own:  # in place, where a captured graph reads it
                        own[key].copy_(value)
                    else:
                        own[key] = torch.empty_like(like).copy_(value) if value.shape == like.shape else value.clone()

    @contextmanager
    def _on_stream(self) -> Iterator[None]:
        """Work on the stepper's own stream inside the block.

        That stream first waits for the caller's stream, and the caller's waits for it at the end.
        """
        if self.stream is None:
            yield
            return
        callers = torch.cuda.current_stream(self.device)
        self.stream.wait_stream(callers)
        with torch.cuda.stream(self.stream):
            yield
        callers.wait_stream(self.stream)

    def _step_with_stream(self) -> None:
        """Do a step with the global generator seeded for it, and restore the generator."""
        with GLOBAL_GENERATOR, torch.random.fork_rng(devices=[]):
            torch.manual_seed(self._seeds[self._seeded])
            self._step()
        self._seeded += 1

    def _step(self) -> None:
        """Do one step: batch, loss, backward, masks, rate, update."""
        rows = self._in_batch + self._at * self.batch
        chosen = self._order.index_select(0, rows)
        draws = {name: values.index_select(0, rows) for name, values in self._draws.items()}
        images = self._pictures.batch(chosen, draws)
        # no cache: within a step each weight is used once, and a graph must not use the copies of another step
        half = self._arithmetic.precision == "bfloat16"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=half, cache_enabled=False):
            logits = logits_of(self.network, images, self._logits)
            loss = nn.functional.cross_entropy(logits, self._labels.index_select(0, chosen))
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self._hold_back()
        self._rate.copy_(self._rates.index_select(0, self._at).squeeze(0))
        self._optimizer.step()
        self._loss += loss.detach()
        self._at += 1

    def _hold_back(self) -> None:
        """Set the gradients of dead parameters to zero."""
        pairs = [(self._parameters[name].grad, mask) for name, mask in self._masks.items()]
        gradients, masks = [g for g, _ in pairs if g is not None], [m for g, m in pairs if g is not None]
        if gradients:
            torch._foreach_mul_(gradients, masks)

    @property
    def _channels(self) -> int:
        """Return the number of channels that a step's images have."""
        return self._pictures.channels

    def _compile(self) -> None:
        """Let the step call the compiled network, and do a step, in which it is compiled. CannotCompile: it is not."""
        pictures = self._pictures
        images = torch.zeros(self.batch, self._channels, pictures.size, pictures.size, device=self.device)
        with told(), SWITCH.products(self._arithmetic.precision):
            with self._on_stream():
                images = images.contiguous(memory_format=torch.channels_last)
                self._logits = Compiled(self.network, images, self._arithmetic.deterministic)
            with GLOBAL_GENERATOR, torch.random.fork_rng(devices=[]):
                self._rehearse(1)

    def _rehearse(self, steps: int) -> None:
        """Do some steps that count for nothing."""
        self.network.train()
        for module in self._dropouts:
            module.reseed(0, self.device)
        with self._on_stream():
            for _ in range(steps):
                self._at.zero_()
                self._step()
            self._optimizer.zero_grad(set_to_none=True)
            self._at.zero_()

    def _captured(self) -> "_Replay":
        """Capture the step as a CUDA graph, on tensors that keep their place."""
        for name, parameter in self._parameters.items():
            self._masks[name] = torch.ones_like(parameter)
        with SWITCH.products(self._arithmetic.precision):
            self._rehearse(REHEARSALS)
            graph = torch.cuda.CUDAGraph()
            for module in self._dropouts:
                if module.generator is not None:
                    graph.register_generator_state(module.generator)
            # thread_local, because another thread may be writing activations
            with torch.cuda.graph(graph, stream=self.stream, capture_error_mode="thread_local"):
                self._step()
        return _Replay(graph, self.stream)

    def _on_device(self, tensors: Mapping[str, Tensor]) -> State:
        return {name: tensor.to(self.device) for name, tensor in tensors.items()}


def require_streams(network: Network, device: str) -> None:
    """Check that a network for a GPU does not draw from the global generator, which captured steps share.

    ValueError: it does.
    """
    if device != "cpu" and network.draws:
        raise ValueError(
            f"{network.draws[0]} draws from torch's global generator, which can be repeated on a CPU only: "
            "use --device cpu, or nn.Dropout, which trains on a GPU too"
        )


def require_precision(precision: str, device: str) -> None:
    """Check that a device has the precision. ValueError: it is tf32, which only GPUs have."""
    if precision == "tf32" and device == "cpu":
        raise ValueError(
            "precision tf32 is an arithmetic of GPUs, and this is a CPU: use --precision float32, which is another "
            "sweep, or --device cuda"
        )


def require_arithmetic(arithmetic: Arithmetic, device: str) -> None:
    """Check that this machine can train in the arithmetic.

    ValueError: see `require_precision` and `require_compiler`; or its GPU, one before NVIDIA's Ampere, has no TF32.
    """
    require_precision(arithmetic.precision, device)
    if arithmetic.precision == "tf32" and torch.cuda.is_available() and torch.cuda.get_device_capability() < AMPERE:
        raise ValueError(
            f"precision tf32 needs a GPU of compute capability 8.0 or more, and {torch.cuda.get_device_name()} has "
            f"{'.'.join(map(str, torch.cuda.get_device_capability()))}: use --precision float32, which is another sweep"
        )
    if arithmetic.compile:
        require_compiler(device)


class _Replay:
    """A captured step, called like the function from which it was captured."""

    def __init__(self, graph: "torch.cuda.CUDAGraph", stream: "torch.cuda.Stream | None") -> None:
        self._graph, self._stream = graph, stream

    def __call__(self) -> None:
        with torch.cuda.stream(self._stream):
            self._graph.replay()


def on_cpu(tensor: Tensor) -> Tensor:
    """Copy a tensor to the CPU, contiguous in memory."""
    return tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
