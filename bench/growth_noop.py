"""Training that takes a given time and trains nothing: what is left of a chain is the engine around it."""

import os
import time
from typing import Any

SECONDS = "DISTSIM_GROWTH_SECONDS"  # variable: how long a training sleeps


def install() -> None:
    """Let every training of this process sleep. Networks are pruned, measured and committed as ever."""
    from distsim.models import build
    from distsim.training.chain import Trainer

    def sleep(self: Any, weights: Any, masks: Any, streams: Any, checkpoints: Any = None, rewind: Any = None) -> Any:
        time.sleep(float(os.environ[SECONDS]))
        network = build(self.problem, self.classes)
        network.load_state_dict(weights)
        return self.finished(network, masks, streams, [0.0], None, None if rewind is None else rewind.weights)
        yield  # as a generator of steps, of which there are none

    Trainer._training = sleep  # type: ignore[method-assign]
