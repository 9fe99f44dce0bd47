"""Callbacks: how a program hears how a sweep gets on, from its begin to its end.

The live display of a terminal and the lines of a log are callbacks, and users can give their own to `distsim.run`. An
event is a dictionary of numbers and texts. It says whose it is by `problem`, `run` (None: a complete network),
`iteration` (0: a complete network), `complete` (the number of the complete network) and `control` ("": pruned by
magnitude).
"""

import contextlib
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

Event = dict[str, Any]


class Callback:
    """What hears how a sweep gets on. Each method does nothing; a subclass has those that it needs.

    All methods are called in the process that started the sweep.
    """

    def on_begin(self, event: Event) -> None:
        """Hear once what there is to do, before the first training.

        event : problem -> `networks` to train and `in_all`, `images` to train on, networks whose `activations` to write
        """

    def on_training(self, event: Event) -> None:
        """Hear that the training of a network begins.

        event : whose, `epochs`, `images` in each epoch, and `iterations`, the last iteration of the run
        """

    def on_epoch(self, event: Event) -> None:
        """Hear that an epoch of a training is over. Trainings on Ray do not call it.

        event : whose, `epoch` from 1, and its mean training `loss`
        """

    def on_network(self, event: Event) -> None:
        """Hear that a network is committed.

        event : whose, `accuracy` on the test images and `remaining` parameters, both in [0, 1], `epochs`, `seconds`
        """

    def on_activations(self, event: Event) -> None:
        """Hear that a network's activations are written; on Ray, once its run ends. event : whose"""

    def on_comparison(self, event: Event) -> None:
        """Hear that something was compared.

        event : how many layers of networks are `done`, `of` how many
        """

    def on_chain_end(self, event: Event) -> None:
        """Hear that no more networks of a run, or no complete network, is being trained. event : whose"""

    def on_died(self, event: Event) -> None:
        """Hear that a worker died, whose work is done again. event : `problem`, the `piece` in words, `why`

        `why` is a sentence, "" if nothing is known.
        """

    def on_failure(self, event: Event) -> None:
        """Hear that a piece cannot be done. event : the `sentence` that says which and why"""

    def on_end(self) -> None:
        """Hear that the sweep is over, also if an error or an interruption ended it."""


METHODS = tuple(name for name in vars(Callback) if name.startswith("on_"))


class Told(Callback):
    """A callback that passes the event of each finished network to a function, and that of each dead worker."""

    def __init__(self, tell: Callable[[Event], object]) -> None:
        self._tell = tell

    def on_network(self, event: Event) -> None:
        self._tell(event)

    def on_died(self, event: Event) -> None:
        self._tell(event | {"died": True})


class Several(Callback):
    """Several callbacks as one. They are called in order, one at a time, also if events come from several threads."""

    def __init__(self, callbacks: Sequence[Callback]) -> None:
        self.callbacks, self._lock = tuple(callbacks), threading.RLock()
        for name in METHODS:
            setattr(self, name, self._calling(name))

    def _calling(self, name: str) -> Callable[..., None]:
        def call(*event: Event) -> None:
            with self._lock:
                for callback in self.callbacks:
                    getattr(callback, name)(*map(dict, event))

        return call


class Guarded(Callback):
    """A user's callback, which can neither end a sweep by an error nor change its numbers.

    An error becomes a warning, and the method that raised it is not called again. What it changes of PyTorch's settings
    is set back. Random numbers need no guard: a sweep draws none from global generators.
    """

    def __init__(self, callback: Any) -> None:
        self._callback, self._broken = callback, set[str]()
        for name in METHODS:
            if hasattr(callback, name):
                setattr(self, name, self._calling(name))

    def _calling(self, name: str) -> Callable[..., None]:
        def call(*event: Event) -> None:
            if name in self._broken:
                return
            with _settings_kept():
                try:
                    getattr(self._callback, name)(*event)
                except Exception as error:
                    self._broken.add(name)
                    of = f"{type(self._callback).__name__}.{name}"
                    said = f"{type(error).__name__}: {error}"
                    warnings.warn(f"the callback {of} failed and is not called again: {said}", stacklevel=2)

        return call


@contextlib.contextmanager
def _settings_kept() -> Iterator[None]:
    """Set PyTorch's settings that training depends on back to what they were before the block."""
    torch: Any = sys.modules.get("torch")
    if torch is None:
        yield
        return
    grad, threads, dtype = torch.is_grad_enabled(), torch.get_num_threads(), torch.get_default_dtype()
    try:
        yield
    finally:
        torch.set_grad_enabled(grad)
        torch.set_default_dtype(dtype)
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
