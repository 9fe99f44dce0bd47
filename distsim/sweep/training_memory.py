"""The memory that a training step takes, by what its network keeps for the backward pass."""

import functools

import torch
from torch import Tensor, nn

from distsim.environment import free_memory
from distsim.models import Dropout, build
from distsim.specs import Problem, Sweep
from distsim.sweep.cost import readable

IMAGES = (2, 4)  # numbers on which what is kept is counted
COPIES = 4  # of parameters: themselves, gradients, masks, and what an update is computed in
OF_OPTIMIZER = {"adam": 2, "sgd": 1, "fast_sgd": 1}  # further copies
TRANSIENT = 3  # times the largest tensor: a gradient, what it comes from, and a library's own copy
LIBRARIES = 0.2e9  # bytes that a library takes for its first steps, as seen on a CPU
PER_EXAMPLE = 61  # bytes of order and draws


def training_memory(sweep: Sweep, images: int) -> float:
    """Return about how many bytes one training step takes on its device, with the data. For fused runs: all of them.

    images : number of training images
    """
    problem, identity = sweep.problem, sweep.identity
    batch = min(problem.recipe.batch_size, images)
    parameters = sum(parameter.nbytes for parameter in build(problem).parameters())
    each: float = parameters * (COPIES + OF_OPTIMIZER[problem.recipe.optimizer]) + images * PER_EXAMPLE
    few, more = (_kept(problem, identity.precision, count) for count in IMAGES)
    for at_few, at_more, times in zip(few, more, (1, TRANSIENT), strict=True):
        an_image = (at_more - at_few) / (IMAGES[1] - IMAGES[0])  # the rest, copies of weights, does not grow
        each += times * (at_few + an_image * (batch - IMAGES[0]))
    data = images * (problem.size**2 + 1) * (1 if problem.channels == 1 else 4)
    return LIBRARIES + identity.fuse * each + data


def require_training_memory(sweep: Sweep, images: int) -> None:
    """Check that a group of fused runs fits into the memory of this machine's device.

    ValueError says what it takes and what there is. Nothing is checked where the system does not say what is free.
    """
    if sweep.identity.fuse == 1:
        return
    needed, free = training_memory(sweep, images), _free(sweep.device)
    if free is not None and needed > free:
        raise ValueError(
            f"{sweep.name}: training {sweep.identity.fuse} runs in one step takes about {readable(needed)} of memory, "
            f"but only {readable(free)} are free: use a smaller --fuse"
        )


def _free(device: str) -> float | None:
    return float(torch.cuda.mem_get_info()[0]) if device == "cuda" else free_memory()


@functools.lru_cache(maxsize=64)
def _kept(problem: Problem, precision: str, images: int) -> tuple[float, float]:
    """Return bytes that a forward pass keeps for the backward pass: of all tensors, and of the largest.

    Parameters do not count.
    """
    network = build(problem).train()
    for module in network.modules():
        if isinstance(module, Dropout):
            module.reseed(0, torch.device("cpu"))
    own = {parameter.untyped_storage().data_ptr() for parameter in network.parameters()}
    kept: dict[int, Tensor] = {}

    def note(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage().data_ptr() not in own:
            kept[tensor.untyped_storage().data_ptr()] = tensor  # held, so that no address is used again
        return tensor

    pixels = torch.zeros(images, problem.channels, problem.size, problem.size)
    with (
        torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16", cache_enabled=False),
    ):
        nn.functional.cross_entropy(network(pixels), torch.zeros(images, dtype=torch.int64))
    sizes = [tensor.untyped_storage().nbytes() for tensor in kept.values()]
    return float(sum(sizes)), float(max(sizes))
