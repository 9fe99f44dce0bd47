"""The former place of `distsim.cli.sweeps`, kept for sweep scripts written for 0.1.

It will be removed in the release after next.
"""

import warnings

from distsim.cli.sweeps import main

__all__ = ["main"]

warnings.warn("distsim.script is now distsim.cli.sweeps: import main from there", DeprecationWarning, stacklevel=2)
