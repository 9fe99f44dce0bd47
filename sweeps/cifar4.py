"""P1, four vehicle classes: does similarity still fall with iterations and from input to output?

python sweeps/cifar4.py --download
python sweeps/cifar4.py --data folder:PATH --runs 2 --iterations 3 --epochs 2 --train-limit 4000 --probe 1000
"""

import sys

from distsim.cli.sweeps import main
from distsim.problems import PROBLEMS

if __name__ == "__main__":
    sys.exit(main(PROBLEMS["cifar4"]))
