"""P2, a small residual network: do skip connections keep pruned representations close?

python sweeps/resnet_fast_cifar10.py --download
python sweeps/resnet_fast_cifar10.py --data folder:PATH --runs 2 --iterations 3 --epochs 2 --train-limit 4000
"""

import sys

from distsim.cli.sweeps import main
from distsim.problems import PROBLEMS

if __name__ == "__main__":
    sys.exit(main(PROBLEMS["resnet_fast_cifar10"]))
