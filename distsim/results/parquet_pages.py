"""How much the pages of a Parquet file unpack to, from their headers, before any is unpacked.

A file's metadata say so too, but a reader allocates what the header of each page says. Headers are structs in Thrift's
compact protocol: https://parquet.apache.org/docs/file-format/data-pages
"""

from collections.abc import Iterator

import pyarrow.parquet as pq

_TRUE, _FALSE, _BYTE, _I16, _I32, _I64, _DOUBLE, _BINARY, _LIST, _SET, _MAP, _STRUCT = range(1, 13)
_NUMBERS = _I16, _I32, _I64
UNCOMPRESSED, COMPRESSED = 2, 3  # fields of a header: bytes of the page
DEEPEST = 10  # of nested structs; headers have 4


def unpacked(data: bytes, about: pq.FileMetaData) -> int:
    """Return how many bytes the pages of a Parquet file unpack to. ValueError: the pages do not fill their columns."""
    groups = (about.row_group(number) for number in range(about.num_row_groups))
    columns = (group.column(number) for group in groups for number in range(group.num_columns))
    return sum(size for column in columns for size in _pages(data, column))


def _pages(data: bytes, column: pq.ColumnChunkMetaData) -> Iterator[int]:
    if not column.num_values:  # then none of its pages is read, and its offsets mean nothing
        return
    at = column.data_page_offset
    if column.has_dictionary_page:
        at = min(at, column.dictionary_page_offset)
    end = at + column.total_compressed_size
    if not 0 <= at <= end <= len(data):
        raise ValueError("a column lies outside its file")
    while at < end:
        try:
            fields, at = _struct(data, at)
        except IndexError:
            raise ValueError("a page has no whole header") from None
        sizes = fields.get(UNCOMPRESSED, -1), fields.get(COMPRESSED, -1)
        at += sizes[1]
        if min(sizes) < 0 or at > end:
            raise ValueError("a page does not fit into its column")
        yield sizes[0]


def _struct(data: bytes, at: int, depth: int = 0) -> tuple[dict[int, int], int]:
    """Return the whole numbers among a struct's fields by their ids, and where it ends."""
    if depth > DEEPEST:
        raise ValueError("the header of a page is nested too deeply")
    fields: dict[int, int] = {}
    name = 0
    while head := data[at]:
        at, kind = at + 1, head & 15
        if head >> 4:
            name += head >> 4
        else:
            name, at = _number(data, at)
        if kind in _NUMBERS:
            fields[name], at = _number(data, at)
        elif kind not in (_TRUE, _FALSE):  # whose value is the kind itself
            at = _after(data, at, kind, depth)
    return fields, at + 1


def _after(data: bytes, at: int, kind: int, depth: int) -> int:
    """Return where a value of this kind ends."""
    if kind in (_TRUE, _FALSE, _BYTE):
        return at + 1
    if kind in _NUMBERS:
        return _varint(data, at)[1]
    if kind == _DOUBLE:
        return at + 8
    if kind == _BINARY:
        size, at = _varint(data, at)
        return at + size
    if kind in (_LIST, _SET):
        head, at = data[at], at + 1
        count = head >> 4
        if count == 15:
            count, at = _varint(data, at)
        for _ in range(count):
            at = _after(data, at, head & 15, depth + 1)
            if at > len(data):
                raise IndexError
        return at
    if kind == _STRUCT:
        return _struct(data, at, depth + 1)[1]
    raise ValueError(f"the header of a page has a field of the kind {kind}")  # headers have no maps


def _number(data: bytes, at: int) -> tuple[int, int]:
    value, at = _varint(data, at)
    return (value >> 1) ^ -(value & 1), at


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte, at = data[at], at + 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
    raise ValueError("the header of a page has a number of more than 64 bits")
