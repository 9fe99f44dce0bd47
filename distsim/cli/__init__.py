"""The commands. A script imports one of these modules first; Ctrl-C is a sentence from then on."""

import sys

from distsim.cli.ending import watch_imports

watch_imports(sys._getframe(1))
