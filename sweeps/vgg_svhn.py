"""P2, a four-block VGG on house numbers: are the trends the same as on CIFAR-10?

python sweeps/vgg_svhn.py --download
python sweeps/vgg_svhn.py --data files:PATH --runs 1 --iterations 2 --epochs 1 --probe 1000
"""

import sys

from distsim.cli.sweeps import main
from distsim.problems import PROBLEMS

if __name__ == "__main__":
    sys.exit(main(PROBLEMS["vgg_svhn"]))
