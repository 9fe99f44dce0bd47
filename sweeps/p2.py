"""The whole of P2, three networks in one store. --data must be one folder with CIFAR-10 and SVHN, not folder:PATH.

python sweeps/p2.py --download
"""

import sys

from distsim.cli.sweeps import main
from distsim.problems import PROBLEMS

if __name__ == "__main__":
    names = ("vgg16_cifar10", "resnet_fast_cifar10", "vgg_svhn")
    sys.exit(main(*(PROBLEMS[name] for name in names), storage="results/p2"))
