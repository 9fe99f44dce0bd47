"""The face of distsim in Python: what `import distsim` gives. docs/python.md shows it."""
