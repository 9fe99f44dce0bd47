"""distsim: sweeps of iterative magnitude pruning, and layer-wise similarity of what the networks represent."""

__version__ = "0.1.0"
