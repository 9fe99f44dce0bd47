"""Names of layers: free text in tables and figures, percent-encoded in paths.

A layer may be called `block/conv1`, as in TensorFlow. In a store its name is part of a path, where a
slash would begin another folder. Plain names are written as they are.
"""

from urllib.parse import quote, unquote

LONGEST = 200  # characters of a name, and bytes of its form in a path; file systems allow 255


def in_path(name: str) -> str:
    """Return the name as one segment of a path. Different names have different segments."""
    segment = "".join(c if c.isprintable() and c not in "%/\\" else quote(c, safe="") for c in name)
    if segment.startswith((".", "__")) or segment == "zarr.json":  # not a name, or Zarr's own
        segment = f"%{ord(segment[0]):02X}{segment[1:]}"
    return segment


def from_path(segment: str) -> str:
    """Return the name that `in_path` wrote as this segment."""
    return unquote(segment)


def fault(name: str) -> str:
    """Return why a layer cannot have this name, or "" if it can."""
    if not name:
        return "a layer's name must not be empty"
    if not name.isprintable():
        return f"a layer's name must be printable text without line breaks, got {name!r}"
    if len(in_path(name).encode()) > LONGEST:
        return f"a layer's name may have {LONGEST} bytes (a slash or a backslash counts as 3), got {name[:40]!r}..."
    return ""
