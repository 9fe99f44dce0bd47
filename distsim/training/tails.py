"""What follows the convolutions of fused runs, in one pass over memory each way: bias, batch norm, ReLU, 2x2 pooling.

By torch's own kernels, these are up to four passes forward and six back, and memory is what a fused step waits for. The
kernels are those of `distsim.training.kernels`. They need Triton, and a GPU or Triton's interpreter.

No GPU has run them yet, so no flag of a sweep turns them on: `bench/gpu/rates.py` does, and a test marked `gpu`.
"""

from itertools import pairwise
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distsim.training.fused import FusedBatchNorm, FusedConv2d

CHANNELS = 8  # of a group, of which cuDNN's kernels for half precision need a multiple; else it converts layouts
ROWS, COLUMNS = 64, 64  # of a block, at most
PARTS = 256  # of a sum, at most


def with_tails(network: nn.Module) -> None:
    """Let each convolution of a fused network compute what follows it by one kernel, where nn.Sequential says what.

    Names and values of parameters stay. Only training is changed: in evaluation mode every module works by itself.
    """
    for module in list(network.modules()):
        for (name, child), (following, pool) in pairwise([*module.named_children(), ("", None)]):
            if child is not None and _is_tail(child):
                pooled = _plain(module) and _pools(pool)
                setattr(module, name, Tail(child, pooled))
                if pooled:
                    setattr(module, following, nn.Identity())


class Tail(nn.Sequential):
    """A convolution, perhaps batch norm, and ReLU, of fused runs, and the pooling that comes next if `pool` says so."""

    def __init__(self, of: nn.Module, pool: bool) -> None:
        super().__init__()
        for name, child in of.named_children():
            self.add_module(name, child)
        self._pool = pool

    def forward(self, x: Tensor) -> Tensor:
        conv, *norms, _ = cast(Any, self)
        if not self.training:
            for module in self:
                x = module(x)
            return F.max_pool2d(x, 2) if self._pool else x
        y = conv.products(x, CHANNELS)
        bias = None if conv.bias is None else conv.bias.flatten()
        if not norms:
            return tail(y, bias, pool=self._pool)
        (norm,) = norms
        if norm.num_batches_tracked is not None:
            norm.num_batches_tracked.add_(1)
        tensors = (norm.weight, norm.bias, norm.running_mean, norm.running_var)
        flat = [None if tensor is None else tensor.view(-1) for tensor in tensors]
        return tail(y, bias, Norm(*flat, momentum=norm.momentum, eps=norm.eps), self._pool)


class Norm:
    """What batch norm of `tail` needs: its parameters and its running statistics, (channels,) each or None."""

    def __init__(
        self,
        weight: Tensor | None,
        bias: Tensor | None,
        mean: Tensor | None,
        variance: Tensor | None,
        *,
        momentum: float,
        eps: float,
    ) -> None:
        self.weight, self.bias, self.mean, self.variance = weight, bias, mean, variance
        self.momentum, self.eps = momentum, eps


def tail(x: Tensor, bias: Tensor | None = None, norm: Norm | None = None, pool: bool = False) -> Tensor:
    """Return max(0, norm(x + bias)), and of it the maxima of 2x2 pixels if `pool` says so.

    x : (n, channels, h, w), a convolution without its bias; bias : (channels,)
    With norm, by the batch's statistics; the running ones are moved.
    """
    if pool and (x.shape[2] % 2 or x.shape[3] % 2):  # the kernels write whole squares of pixels
        return F.max_pool2d(tail(x, bias, norm), 2)
    weight, offset = (None, None) if norm is None else (norm.weight, norm.bias)
    return cast(Tensor, _Tail.apply(x, bias, weight, offset, norm, pool))  # type: ignore[no-untyped-call]


class _Tail(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        bias: Tensor | None,
        weight: Tensor | None,
        offset: Tensor | None,
        norm: Norm | None,
        pool: bool,
    ) -> Tensor:
        from distsim.training import kernels

        x = x.contiguous(memory_format=torch.channels_last)
        n, channels, height, width = x.shape
        grid = _Grid(x, n * height * width)
        mean = inverse = None
        if norm is None:
            scale = torch.ones(channels, dtype=grid.dtype, device=x.device)
            shift = torch.zeros_like(scale) if bias is None else bias.to(grid.dtype)
        else:
            means, squares = (grid.empty(grid.parts, channels) for _ in range(2))
            kernels.moments[grid.by_part](x, means, squares, grid.rows, channels, grid.each, **grid.options)
            mean, variance = (grid.empty(channels) for _ in range(2))
            kernels.statistics[grid.by_channel](
                *(means, squares, mean, variance, grid.rows, channels, grid.each, grid.parts),
                PARTS=_power_of_two(grid.parts),
                COLS=min(grid.options["COLS"], 16),
                ACC=grid.options["ACC"],
            )
            _follow(norm, mean if bias is None else mean + bias, variance, grid.rows)
            inverse = (variance + norm.eps).rsqrt()
            scale = inverse if weight is None else inverse * weight.to(grid.dtype)
            shift = -mean * scale if offset is None else offset.to(grid.dtype) - mean * scale
        size = (height // 2, width // 2) if pool else (height, width)
        y = torch.empty((n, channels, *size), dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
        chosen = torch.empty_like(y, dtype=torch.int8) if pool else None
        out = _Grid(y, n * size[0] * size[1])
        kernels.forward[out.by_block](
            x, y, chosen, scale, shift, out.rows, channels, height, width, POOL=pool, **out.options
        )
        needed = x if norm is not None or not pool else None
        ctx.save_for_backward(needed, chosen, scale, shift, mean, inverse)
        ctx.shape, ctx.pool = x.shape, pool
        ctx.types = [None if tensor is None else tensor.dtype for tensor in (bias, weight, offset)]
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        from distsim.training import kernels

        x, chosen, scale, shift, mean, inverse = ctx.saved_tensors
        grad = grad.contiguous(memory_format=torch.channels_last)
        n, channels, height, width = ctx.shape
        out = _Grid(grad, grad.numel() // channels)
        own = out.rows, channels, out.each, height, width
        sums = products = None
        if mean is not None:
            sums, products = (out.empty(out.parts, channels) for _ in range(2))
            kernels.gradient_sums[out.by_part](
                *(grad, x, chosen, scale, shift, mean, inverse, sums, products, *own), POOL=ctx.pool, **out.options
            )
            sums, products = sums.sum(dim=0), products.sum(dim=0)
        back = torch.empty(ctx.shape, dtype=grad.dtype, device=grad.device, memory_format=torch.channels_last)
        biases = out.empty(out.parts, channels)
        kernels.backward[out.by_part](
            *(grad, x, chosen, scale, shift, mean, inverse, sums, products, back, biases, *own, n * height * width),
            POOL=ctx.pool,
            NORM=mean is not None,
            **out.options,
        )
        of_parameters = (biases.sum(dim=0), products, sums)
        typed = (
            None if kind is None else cast(Tensor, of).to(kind)
            for of, kind in zip(of_parameters, ctx.types, strict=True)
        )
        return back, *typed, None, None


class _Grid:
    """How the rows of an array are shared out among programs: blocks, and parts of as many blocks each."""

    def __init__(self, of: Tensor, rows: int) -> None:
        from distsim.training import kernels

        channels, self._device = of.shape[1], of.device
        self.rows, self.dtype = rows, torch.float64 if of.dtype == torch.float64 else torch.float32
        blocks = -(-rows // ROWS)
        self.each = ROWS * -(-blocks // PARTS)
        self.parts = -(-rows // self.each)
        columns = min(COLUMNS, _power_of_two(channels))
        across = -(-channels // columns)
        self.by_block, self.by_part = (blocks, across), (self.parts, across)
        self.by_channel = (-(-channels // min(columns, 16)),)
        self.options: dict[str, Any] = {"ROWS": ROWS, "COLS": columns, "ACC": kernels.KINDS[self.dtype]}

    def empty(self, *size: int) -> Tensor:
        """Return an array in which the kernels compute."""
        return torch.empty(size, dtype=self.dtype, device=self._device)


def _power_of_two(n: int) -> int:
    """Return the smallest power of two that is not below n."""
    return 1 << (n - 1).bit_length()


def _follow(norm: Norm, mean: Tensor, variance: Tensor, rows: int) -> None:
    """Move the running statistics towards those of the batch, of which the variance is without bias."""
    if norm.mean is not None and norm.variance is not None:
        norm.mean.lerp_(mean.to(norm.mean.dtype), norm.momentum)
        norm.variance.lerp_((variance * (rows / max(rows - 1, 1))).to(norm.variance.dtype), norm.momentum)


def _plain(module: nn.Module) -> bool:
    """Say whether a module does nothing but call its children in order."""
    return isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward


def _is_tail(module: nn.Module) -> bool:
    kinds = [type(child) for child in module.children()]
    return _plain(module) and kinds in ([FusedConv2d, nn.ReLU], [FusedConv2d, FusedBatchNorm, nn.ReLU])


def _pools(module: nn.Module | None) -> bool:
    """Say whether a module is max-pooling over 2x2 pixels that do not overlap."""
    if type(module) is not nn.MaxPool2d:
        return False
    twos = (2, (2, 2))
    plain = module.padding in (0, (0, 0)) and module.dilation in (1, (1, 1)) and not module.ceil_mode
    return module.kernel_size in twos and module.stride in twos and plain and not module.return_indices
