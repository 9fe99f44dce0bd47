"""Run `distsim` as a module."""

import sys

from distsim.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
