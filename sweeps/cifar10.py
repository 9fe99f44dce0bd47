"""P1, all ten classes: similarity high at the first convolution, lowest around block three, a spike at fc1?

python sweeps/cifar10.py --download
python sweeps/cifar10.py --data folder:PATH --runs 2 --iterations 3 --epochs 2 --train-limit 4000 --probe 1000
"""

import sys

from distsim.cli.sweeps import main
from distsim.problems import PROBLEMS

if __name__ == "__main__":
    sys.exit(main(PROBLEMS["cifar10"]))
