"""Does the whole chain work? Scikit-learn's 8x8 digits, a two-block VGG, no download; minutes on a laptop.

python sweeps/digits.py
"""

import sys

from distsim.problems import PROBLEMS
from distsim.script import main

if __name__ == "__main__":
    sys.exit(main(PROBLEMS["digits"], defaults={"retention": "all"}))  # all activations: 40 MB here
