"""distsim: sweeps of iterative magnitude pruning, and layer-wise similarity of what the networks represent."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from distsim.between_models import compare

__all__ = ["__version__", "compare"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name == "compare":  # when it is asked for: PyTorch takes seconds to import
        from distsim.between_models import compare

        return compare
    raise AttributeError(f"module 'distsim' has no attribute {name!r}")
