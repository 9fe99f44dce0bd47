"""Does the whole chain work? Scikit-learn's 8x8 digits and a two-block VGG: no download, two minutes on a laptop.

python sweeps/digits.py
"""

import sys

from distsim.cli.sweeps import main
from distsim.problems import PROBLEMS

if __name__ == "__main__":
    sys.exit(main(PROBLEMS["digits"], retention="all"))  # all activations stay on disk: 100 MB here
