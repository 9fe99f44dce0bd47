"""P2, VGG16 with batch norm under learning-rate rewind: do SVCCA, PWCCA, CKA and NBS tell the same story?

python sweeps/vgg16_cifar10.py --download
python sweeps/vgg16_cifar10.py --data folder:PATH --runs 2 --iterations 3 --epochs 2 --train-limit 4000 --probe 1000
"""

import sys

from distsim.cli.sweeps import main
from distsim.problems import PROBLEMS

if __name__ == "__main__":
    sys.exit(main(PROBLEMS["vgg16_cifar10"]))
