"""Does it matter what survivors return to, and which weights compete for pruning? Nine ways to prune one network.

    python sweeps/rewinding.py --only 'lenet5_mnist*' --download
    python sweeps/rewinding.py --only 'cifar2*' --data folder:PATH
    python sweeps/rewinding.py --only lenet5_mnist lenet5_mnist_wr --download --runs 20

Survivors return to the weights of an early epoch (WR), to the learning rate of the first epoch (LRR), or train on at
the last rate (FT). Weights compete within convolutions and within linear layers (mixed), all with all (global), or
within each layer (local). Everything else is the same in the nine, and they start from the same complete network.

A name without an ending is the problem's own way: lenet5_mnist is pruned globally with LRR, cifar2 in mixed pools with
WR. The endings say what differs: lenet5_mnist_local_ft. So the claim that SVCCA has the same shape under LRR as under
WR (C17) is judged for each kind of pool.

cifar2 is reduced: 4,000 images, 20 epochs, a probe of 2,000. Its global pool has one rate, that of linear layers, which
hold 99 % of what is pruned. WR returns to epoch 3 of cifar2, as in P1, and to epoch 1 of LeNet-5. FT trains a fifth of
the epochs; --epochs does not change that number.
"""

import dataclasses
import sys
from typing import get_args

from distsim.cli.sweeps import main
from distsim.problems import PROBLEMS
from distsim.specs import Problem
from distsim.specs.problem import Rewind, Scope


def ways(problem: Problem, rewind_epoch: int, finetune_epochs: int) -> list[Problem]:
    """Return the problem as it is, then with each other rewinding and each other scope of pools."""
    own = problem.pruning
    scopes = sorted(get_args(Scope), key=lambda scope: scope != own.scope)
    rewinds = sorted(get_args(Rewind), key=lambda rewind: rewind != own.rewind)
    found = []
    for scope in scopes:
        for rewind in rewinds:
            changes = {"scope": scope, "rewind": rewind}
            if scope == "global":
                changes["conv_rate"] = own.fc_rate
            if rewind == "WR":
                changes["rewind_epoch"] = rewind_epoch
            if rewind == "FT":
                changes["finetune_epochs"] = finetune_epochs
            endings = [value.lower() for value in (scope, rewind) if value not in (own.scope, own.rewind)]
            name = "_".join([problem.name, *endings])
            found.append(dataclasses.replace(problem, name=name, pruning=dataclasses.replace(own, **changes)))
    return found


LENET5 = dataclasses.replace(PROBLEMS["lenet5_mnist"], runs=5, iterations=10)
CIFAR2 = dataclasses.replace(
    PROBLEMS["cifar2"].reduced_to(epochs=20, train_limit=4000, probe=2000), runs=2, iterations=10
)

if __name__ == "__main__":
    problems = [*ways(LENET5, rewind_epoch=1, finetune_epochs=3), *ways(CIFAR2, rewind_epoch=3, finetune_epochs=4)]
    sys.exit(main(*problems, storage="results/rewinding"))
