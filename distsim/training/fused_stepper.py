"""One step of G runs of a problem at once, on a fused network (distsim.training.fused).

The runs share epoch, rate and step count. All else is each run's own: order, augmentation, masks, dropout. A run keeps
its slot among the G. What is in the other slots does not reach it. So slots may be empty, or hold a run that has ended
and rides along, and no bit of the others changes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from distsim.data import augment
from distsim.models import Network
from distsim.specs import Recipe
from distsim.training import optimizers as optim
from distsim.training.fused import dropouts_of, fused, losses_of, run_of, set_run, side_by_side
from distsim.training.stepper import Arithmetic, State, Stepper, on_cpu, require_precision
from distsim.training.streams import own_stream
from distsim.training.tails import with_tails


@dataclass(frozen=True)
class Epoch:
    """What an epoch needs, for all runs. Slots without a run may hold any order and draws."""

    order: Tensor  # (G, n) a permutation for each run
    draws: dict[str, Tensor]  # of `augment.draw`, (G, n, ...)
    rates: Sequence[float]  # (steps,) the same for all
    seeds: Sequence[int]  # dropout module by dropout module, one for each slot


class FusedStepper(Stepper):
    """G networks of one kind with their optimizer, masks and data, trained step by step. It may be used again."""

    def __init__(
        self,
        network: Network,
        runs: int,
        pictures: augment.Pictures,
        labels: Tensor,
        recipe: Recipe,
        arithmetic: Arithmetic | None = None,
        tails: bool = False,
    ) -> None:
        """Set up the step. On a GPU capture it; where the arithmetic says so, compile the network.

        Both leave arbitrary values in the network, so call `reset_runs` before use.
        network : one of the kind, on the CPU or the device; pictures, labels : on the device; labels are (n,) int64
        tails : let Triton's kernels do what follows a convolution (distsim.training.tails), which rounds differently
        Errors are those of `Stepper`.
        """
        self._arithmetic = arithmetic or Arithmetic()
        require_precision(self._arithmetic.precision, labels.device.type)
        self.device, self.runs = labels.device, runs
        self.stream = own_stream(self, self.device)
        self.batch = min(recipe.batch_size, pictures.n)
        self.steps = pictures.n // self.batch
        self._pictures, self._labels, self._recipe = pictures, labels, recipe
        image = (pictures.channels, pictures.size, pictures.size)
        self.network = fused(network, runs, self.batch, image)
        if next(network.parameters()).device != self.device:
            self.network.to(self.device)
        if tails:
            with_tails(self.network)
        self._parameters = dict(self.network.named_parameters())
        self._modules = list(dropouts_of(self.network))
        self._dropouts = [stream for module in self._modules for stream in module.streams]  # type: ignore[misc]
        self._masks: State = {}
        n = pictures.n
        self._order = torch.zeros((runs, n), dtype=torch.int64, device=self.device)
        drawn = augment.draw(recipe.augment, n, pictures.size, torch.Generator())
        self._draws = {name: torch.stack([values] * runs).to(self.device) for name, values in drawn.items()}
        self._rates = torch.zeros(self.steps, device=self.device)
        self._rate = torch.zeros((), device=self.device)
        self._in_batch = torch.arange(self.batch, device=self.device)
        self._at = torch.zeros(1, dtype=torch.int64, device=self.device)
        self._loss = torch.zeros(runs, device=self.device)
        self._seeds, self._seeded = (), 0
        self._optimizer = optim.optimizer(recipe, self._parameters.values(), stacked=True)
        for group in self._optimizer.param_groups:
            group["lr"] = self._rate
        self._logits = self.network
        if self._arithmetic.compile:
            self._compile()
        self.step = self._step if self.device.type == "cpu" else self._captured()

    def reset_runs(self, runs: Mapping[int, tuple[Mapping[str, Tensor], Mapping[str, Tensor]]]) -> None:
        """Begin a training with an empty optimizer. All slots but these are empty: their weights are zero.

        runs : slot -> parameters and buffers, and masks, which are True where a parameter is alive
        """
        zeros = {name: torch.zeros_like(tensor) for name, tensor in self.network.state_dict().items()}
        names = {name for _, masks in runs.values() for name, mask in masks.items() if not bool(mask.all())}
        self.reset(zeros, {})
        with self._on_stream():
            for slot, (weights, masks) in runs.items():
                set_run(self.network, slot, weights)
                for name in names if self.device.type == "cpu" else masks:
                    if name not in self._masks:
                        self._masks[name] = torch.ones_like(self._parameters[name])
                    self._masks[name][slot].copy_(masks[name])

    @property
    def _channels(self) -> int:
        return self.runs * self._pictures.channels

    def begin_epoch(self, epoch: Epoch) -> None:
        """Begin an epoch of all runs."""
        self.begin(epoch.order, epoch.draws, epoch.rates, epoch.seeds)

    @property
    def modules(self) -> int:
        """Return the number of dropout modules of one network."""
        return len(self._modules)

    def losses(self) -> list[float]:
        """Return each slot's mean loss of the epoch, after its last step. Here the host waits for the device."""
        with self._on_stream():
            return [value / self.steps for value in self._loss.tolist()]

    def weights_of(self, slot: int) -> State:
        """Return a run's parameters and buffers on the device. They change with the next step."""
        return run_of(self.network, slot)

    def state_of(self, slot: int) -> State:
        """Return CPU copies of a run's share of the state. It is what `Stepper.state` gives for a run alone."""
        return {
            name: on_cpu(tensor[slot] if tensor.ndim else tensor)  # a count of steps is the same for all
            for name, tensor in self._state().items()
        }

    def load_runs(self, states: Mapping[int, Mapping[str, Tensor]]) -> None:
        """Continue from what `state_of` returned for these slots, at one epoch. Call `reset_runs` first."""
        with self._on_stream():
            for slot, state in states.items():
                of_network = {name.removeprefix("network/"): t for name, t in state.items()}
                set_run(self.network, slot, of_network)
                for name, value in state.items():
                    if name.startswith("optimizer/"):
                        _, key, parameter = name.split("/", 2)
                        self._load_optimizer(slot, key, parameter, value)

    def _load_optimizer(self, slot: int, key: str, parameter: str, value: Tensor) -> None:
        like = self._parameters[parameter]
        own = self._optimizer.state[like]
        shared = value.shape != like.shape[1:]
        if key not in own:
            own[key] = value.clone() if shared else torch.zeros_like(like)
        (own[key] if shared else own[key][slot]).copy_(value)

    def _step(self) -> None:
        """Do one step of all runs: batches, losses, backward, masks, rate, update."""
        rows = self._in_batch + self._at * self.batch
        chosen = self._order.index_select(1, rows)  # (G, b)
        draws = {name: values.index_select(1, rows).flatten(0, 1) for name, values in self._draws.items()}
        images = side_by_side(self._pictures.batch(chosen.flatten(), draws), self.runs)
        for module in self._modules:
            module.draw()
        half = self._arithmetic.precision == "bfloat16"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=half, cache_enabled=False):
            losses = losses_of(self._logits(images), self._labels[chosen])
        self._optimizer.zero_grad(set_to_none=True)
        losses.sum().backward()  # a run's parameters get the gradient of its own loss only
        self._hold_back()
        self._rate.copy_(self._rates.index_select(0, self._at).squeeze(0))
        self._optimizer.step()
        self._loss += losses.detach()
        self._at += 1
