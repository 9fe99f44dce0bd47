"""The authors' demonstration: LeNet-5 on MNIST, half of the parameters pruned twice.

python sweeps/lenet5_mnist.py --download
"""

import sys

from distsim.cli.sweeps import main
from distsim.problems import PROBLEMS

if __name__ == "__main__":
    sys.exit(main(PROBLEMS["lenet5_mnist"]))
