"""The authors' demonstration: LeNet-5 on MNIST, half of the parameters pruned twice.

python sweeps/lenet5_mnist.py --download
"""

import sys

from distsim.problems import PROBLEMS
from distsim.script import main

if __name__ == "__main__":
    sys.exit(main(PROBLEMS["lenet5_mnist"]))
