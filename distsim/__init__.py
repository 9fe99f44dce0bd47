"""distsim: sweeps of iterative magnitude pruning, and layer-wise similarity of what the networks represent."""

from typing import TYPE_CHECKING, Any

from distsim._version import __version__

if TYPE_CHECKING:
    from distsim.comparison.models import compare

__all__ = ["__version__", "compare"]


def __getattr__(name: str) -> Any:
    if name == "compare":  # when it is asked for: PyTorch takes seconds to import
        from distsim.comparison.models import compare

        return compare
    raise AttributeError(f"module 'distsim' has no attribute {name!r}")
