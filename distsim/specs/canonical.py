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


def signed(tree: dict[str, Any]) -> bytes:
    """Write an object as canonical JSON, with the digest of the rest in its field sha256. `unsigned` reads it."""
    return canonical_json(tree | {"sha256": digest(tree)}).encode()


def unsigned(content: bytes, most: int) -> dict[str, Any]:
    """Return the object that `signed` wrote, without its digest. ValueError: it was changed, or has more bytes."""
    if len(content) > most:
        raise ValueError(f"it has more than {most:,} bytes")
    try:
        tree = json.loads(content)
        whole = isinstance(tree, dict) and tree.pop("sha256", None) == digest(tree)
    except (ValueError, RecursionError):
        raise ValueError("it is not JSON as distsim writes it") from None
    if not whole:
        raise ValueError("its content does not match the digest in it")
    return dict(tree)


def differences(ours: Any, theirs: Any, path: str = "") -> list[str]:
    """List the fields in which two JSON trees differ, as `a.b: x asked for, y in the store`."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        fields = []
        for key in sorted(ours.keys() | theirs.keys()):
            inner = f"{path}.{key}" if path else str(key)
            fields += differences(ours.get(key, "(absent)"), theirs.get(key, "(absent)"), inner)
        return fields
    return [] if ours == theirs else [f"{path}: {ours!r} asked for, {theirs!r} in the store"]
