"""Marks of values as they are written: nothing gets into a store that its readers would refuse."""

from distsim.store.commits import Mark
from distsim.store.records import decode_record


def readable(mark: Mark, path: str) -> bytes:
    """Return a mark as it is written at this path. ValueError: its readers would refuse it."""
    content = mark.encode()
    try:
        decode_record(content, path)
    except ValueError as error:
        raise ValueError(f"{path} is not written: {error}") from None
    return content
