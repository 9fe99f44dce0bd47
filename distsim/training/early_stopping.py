"""Early stopping on the validation loss."""

import copy
import math
from typing import TypedDict

from distsim.models import Network
from distsim.training.checkpoint import Checkpoint
from distsim.training.loop import TrainingData, evaluate
from distsim.training.stepper import State, on_cpu


class _Values(TypedDict):
    losses: list[float]
    best_epoch: int
    best_loss: float | None
    waited: int


class EarlyStopping:
    """An `after_epoch` function that stops after `patience` epochs without a strictly smaller validation loss.

    It keeps the best epoch's state. Epochs before index `earliest` do not count and cannot be the best.
    FloatingPointError, where it is called: the validation loss is not finite. ValueError: the data has no validation
    split.
    """

    values = _Values

    def __init__(self, data: TrainingData, patience: int, earliest: int = 0) -> None:
        if data.validation is None:
            raise ValueError("early stopping needs a validation split")
        self.data, self.patience, self.earliest = data, patience, earliest
        self.images, self.labels = data.validation
        self.losses: list[float] = []
        self.best_epoch = -1
        self.best_loss = math.inf
        self.best_state: State | None = None
        self.waited = 0

    def __call__(self, epoch: int, network: Network) -> bool:
        _, loss = evaluate(network, self.images, self.labels, self.data.mean, self.data.sd)
        if not math.isfinite(loss):
            raise FloatingPointError(f"the validation loss of epoch {epoch + 1} is {loss}")
        self.losses.append(loss)
        if epoch < self.earliest:
            return False
        if loss < self.best_loss:
            self.best_epoch, self.best_loss, self.waited = epoch, loss, 0
            self.best_state = copy.deepcopy(network.state_dict())
        else:
            self.waited += 1
        return self.waited >= self.patience

    def state(self) -> Checkpoint:
        best = {name: on_cpu(tensor) for name, tensor in (self.best_state or {}).items()}
        loss = self.best_loss if math.isfinite(self.best_loss) else None
        values = {"losses": self.losses, "best_epoch": self.best_epoch, "best_loss": loss, "waited": self.waited}
        return Checkpoint(best, values)

    def load(self, checkpoint: Checkpoint) -> None:
        values = checkpoint.values
        self.losses, self.best_epoch, self.waited = list(values["losses"]), values["best_epoch"], values["waited"]
        self.best_loss = math.inf if values["best_loss"] is None else values["best_loss"]
        self.best_state = dict(checkpoint.tensors) or None
