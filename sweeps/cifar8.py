"""P1, eight classes and a deeper network with early stopping: is the dip the same as on cifar6 and cifar10?

python sweeps/cifar8.py --download
python sweeps/cifar8.py --data folder:PATH --runs 2 --iterations 3 --epochs 2 --train-limit 4000 --probe 1000
"""

import sys

from distsim.cli.sweeps import main
from distsim.problems import PROBLEMS

if __name__ == "__main__":
    sys.exit(main(PROBLEMS["cifar8"]))
