"""Canonical JSON: one text for each value, its hash, and the differences between two values."""

import hashlib
import json
from typing import Any


def canonical_json(value: Any) -> str:
    """Write a value as JSON in one way only: sorted keys, no spaces, floats in their shortest exact form."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest(value: Any) -> str:
    """Return the SHA-256 of the canonical JSON, in hexadecimal."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def differences(ours: Any, theirs: Any, path: str = "") -> list[str]:
    """List the fields in which two JSON trees differ, as `a.b: x asked for, y in the store`."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        fields = []
        for key in sorted(ours.keys() | theirs.keys()):
            inner = f"{path}.{key}" if path else str(key)
            fields += differences(ours.get(key, "(absent)"), theirs.get(key, "(absent)"), inner)
        return fields
    return [] if ours == theirs else [f"{path}: {ours!r} asked for, {theirs!r} in the store"]
