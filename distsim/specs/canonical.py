"""Writes JSON trees as one text each, hashes them, and says where two differ."""

import hashlib
import json
from typing import Any


def canonical_json(value: Any) -> str:
    """Write one text for one value: sorted keys, no spaces, floats by their shortest exact form."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest(value: Any) -> str:
    """Hash the canonical JSON: SHA-256, hexadecimal."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def differences(ours: Any, theirs: Any, path: str = "") -> list[str]:
    """List the fields in which two JSON trees differ, as `a.b: x asked for, y in the store`."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        found = []
        for key in sorted(ours.keys() | theirs.keys()):
            inner = f"{path}.{key}" if path else str(key)
            found += differences(ours.get(key, "(absent)"), theirs.get(key, "(absent)"), inner)
        return found
    return [] if ours == theirs else [f"{path}: {ours!r} asked for, {theirs!r} in the store"]
