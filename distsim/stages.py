"""The former name of `distsim.trace`, kept for programs written for 0.1.

It will be removed in the release after next.
"""

import sys
import warnings

from distsim import trace

warnings.warn("distsim.stages is now distsim.trace", DeprecationWarning, stacklevel=2)
sys.modules[__name__] = trace
