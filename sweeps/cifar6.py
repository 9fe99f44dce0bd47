"""P1, four vehicles and two animals: does the dip at the third block with a spike at the hidden layer appear?

python sweeps/cifar6.py --download
python sweeps/cifar6.py --data folder:PATH --runs 2 --iterations 3 --epochs 2 --train-limit 4000 --probe 1000
"""

import sys

from distsim.cli.sweeps import main
from distsim.problems import PROBLEMS

if __name__ == "__main__":
    sys.exit(main(PROBLEMS["cifar6"]))
