"""The whole of P1, five problems of rising difficulty in one store: figures with a panel for each.

    python sweeps/p1.py --download

On a cluster the runs of a problem start as soon as its complete network is trained, without waiting for the others.
"""

import sys

from distsim.cli.sweeps import main
from distsim.problems import PROBLEMS

if __name__ == "__main__":
    names = ("cifar2", "cifar4", "cifar6", "cifar8", "cifar10")
    sys.exit(main(*(PROBLEMS[name] for name in names), storage="results/p1"))
