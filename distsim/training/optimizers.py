"""Optimizers and learning rates, as the recipes name them."""

from collections.abc import Callable, Iterable
from typing import Any

import torch

from distsim.specs import Recipe

Schedule = Callable[[int, int, int], float]  # (epoch, step within it, steps per epoch), all 0-based -> learning rate


def schedule(recipe: Recipe) -> Schedule:
    """The recipe's learning rate for each step."""

    def rate(epoch: int, step: int, steps: int) -> float:
        if recipe.schedule == "constant":
            return recipe.lr
        if recipe.schedule == "step":
            passed = sum(epoch >= milestone for milestone in recipe.milestones)
            return float(recipe.lr * recipe.factor**passed)
        # triangle: the rate at the end of this step, so the first step already moves and the last one stands still
        time = epoch + (step + 1) / steps
        if time <= recipe.peak:
            return recipe.lr * time / recipe.peak
        return recipe.lr * max(recipe.epochs - time, 0.0) / (recipe.epochs - recipe.peak)

    return rate


def last_rate(recipe: Recipe, steps: int) -> float:
    """The schedule's last rate that is not zero: what fine-tuning uses."""
    rate = schedule(recipe)
    for epoch in reversed(range(recipe.epochs)):
        for step in reversed(range(steps)):
            if (value := rate(epoch, step, steps)) > 0:
                return value
    raise ValueError("the schedule is zero throughout")


def optimizer(recipe: Recipe, parameters: Iterable[torch.nn.Parameter]) -> torch.optim.Optimizer:
    """A fresh optimizer; the loop sets its learning rate before every step. Weight decay is coupled, on everything."""
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
    return FastSGD(parameters, recipe.lr, recipe.momentum, recipe.weight_decay, lars=recipe.lars)


class FastSGD(torch.optim.Optimizer):
    """The rule P2's ResNet is trained with. For the mean gradient g of a parameter w, with buffer v:

        d = g + weight_decay · w;   v ← momentum · v − lr · r · d;   w ← w + momentum · v − lr · r · d

    The learning rate is inside the buffer, unlike in torch.optim.SGD. Without LARS r = 1. With it, for the weights of
    each output filter f of a convolution, r = ‖w_f‖ / (512 ‖g_f‖ + 0.01), weight decay not in the norm, and r = 1 for
    everything else.
    """

    def __init__(
        self,
        parameters: Iterable[torch.nn.Parameter],
        lr: float,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        lars: bool = False,
    ) -> None:
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
                if group["lars"] and parameter.ndim == 4:
                    update *= _trust(parameter, parameter.grad)
            torch._foreach_mul_(buffers, group["momentum"])
            torch._foreach_sub_(buffers, updates)
            torch._foreach_add_(parameters, buffers, alpha=group["momentum"])
            torch._foreach_sub_(parameters, updates)


def _trust(weight: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
    """(filters, 1, 1, 1) LARS ratios."""
    over = (1, 2, 3)
    norm = torch.linalg.vector_norm
    return norm(weight, dim=over, keepdim=True) / (512 * norm(gradient, dim=over, keepdim=True) + 1e-2)
