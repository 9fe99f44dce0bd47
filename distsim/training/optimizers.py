"""The optimizers and learning rates that recipes name."""

from collections.abc import Callable, Iterable
from typing import Any

import torch

from distsim.specs import Recipe

Schedule = Callable[[int, int, int], float]  # (epoch, step within it, steps per epoch), all 0-based -> learning rate


def schedule(recipe: Recipe) -> Schedule:
    """Return the function that gives the recipe's learning rate for each step."""

    def rate(epoch: int, step: int, steps: int) -> float:
        if recipe.schedule == "constant":
            return recipe.lr
        if recipe.schedule == "step":
            passed = sum(epoch >= milestone for milestone in recipe.milestones)
            return float(recipe.lr * recipe.factor**passed)
        # triangle: the rate at the end of this step, so that the first step moves already and the last one has rate 0
        time = epoch + (step + 1) / steps
        if time <= recipe.peak:
            return recipe.lr * time / recipe.peak
        return recipe.lr * max(recipe.epochs - time, 0.0) / (recipe.epochs - recipe.peak)

    return rate


def last_rate(recipe: Recipe, steps: int) -> float:
    """Return the schedule's last rate that is not zero, which fine-tuning uses.

    steps : per epoch. ValueError: the schedule is zero throughout.
    """
    rate = schedule(recipe)
    for epoch in reversed(range(recipe.epochs)):
        for step in reversed(range(steps)):
            if (value := rate(epoch, step, steps)) > 0:
                return value
    raise ValueError("the schedule is zero throughout")


def optimizer(recipe: Recipe, parameters: Iterable[torch.nn.Parameter], stacked: bool = False) -> torch.optim.Optimizer:
    """Make an empty optimizer. Weight decay is coupled, and acts on all parameters.

    The training step sets the learning rate each time.
    stacked : the first axis of each parameter is that of fused runs
    """
    parameters = list(parameters)
    if recipe.optimizer == "adam":
        return torch.optim.Adam(
            parameters,
            lr=recipe.lr,
            weight_decay=recipe.weight_decay,
            fused=True,
            capturable=parameters[0].is_cuda,  # its step counts stay on the device either way
        )
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(
            parameters, lr=recipe.lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay, fused=True
        )
    return FastSGD(parameters, recipe.lr, recipe.momentum, recipe.weight_decay, recipe.lars, stacked)


class FastSGD(torch.optim.Optimizer):
    """The rule with which P2 trains its ResNet.

    For the mean gradient g of a parameter w, with buffer v:

        d = g + weight_decay · w;   v ← momentum · v − lr · r · d;   w ← w + momentum · v − lr · r · d

    Unlike in torch.optim.SGD, the learning rate is inside the buffer. Without LARS, r = 1. With LARS,
    r = ‖w_f‖ / (512 ‖g_f‖ + 0.01) for the weights of each output filter f of a convolution, without weight decay in the
    norm, and r = 1 for everything else. In a stack of fused runs, each run has its own filters.
    """

    def __init__(
        self,
        parameters: Iterable[torch.nn.Parameter],
        lr: float,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        lars: bool = False,
        stacked: bool = False,
    ) -> None:
        self._of_convolutions = 4 + stacked  # axes of their weights
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "lars": lars})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            if not parameters:
                continue
            for parameter in parameters:
                if not self.state[parameter]:
                    self.state[parameter]["buffer"] = torch.zeros_like(parameter)
            buffers = [self.state[parameter]["buffer"] for parameter in parameters]
            updates = torch._foreach_add(
                [parameter.grad for parameter in parameters], parameters, alpha=group["weight_decay"]
            )
            torch._foreach_mul_(updates, group["lr"])
            for parameter, update in zip(parameters, updates, strict=True):
                if group["lars"] and parameter.ndim == self._of_convolutions:
                    update *= _trust(parameter, parameter.grad)
            torch._foreach_mul_(buffers, group["momentum"])
            torch._foreach_sub_(buffers, updates)
            torch._foreach_add_(parameters, buffers, alpha=group["momentum"])
            torch._foreach_sub_(parameters, updates)


def _trust(weight: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
    """Return the LARS ratios of a convolution's filters, (filters, 1, 1, 1) or (runs, filters, 1, 1, 1)."""
    over = (-3, -2, -1)
    norm = torch.linalg.vector_norm
    return norm(weight, dim=over, keepdim=True) / (512 * norm(gradient, dim=over, keepdim=True) + 1e-2)
