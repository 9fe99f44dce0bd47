"""A Python that lacks what an installation without extras lacks: text to put before a program. It needs `NEEDED`."""

BARE = """
import sys
class Only:
    # every finder there was, blind to what an installation without extras lacks
    def __init__(self, finders):
        self.finders = finders
    def find_spec(self, name, path=None, target=None):
        first = name.split(".")[0]
        if first in NEEDED or first in sys.stdlib_module_names or first.startswith("_sysconfigdata"):
            for finder in self.finders:
                if spec := finder.find_spec(name, path, target):
                    return spec
        return None
sys.meta_path[:] = [Only([finder for finder in sys.meta_path if "editable" not in str(finder).lower()])]
"""
