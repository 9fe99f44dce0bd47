"""Parquet files that a stranger made: what they would unpack to is known before it is unpacked."""

import io
import re

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from distsim.results.parquet_pages import unpacked
from distsim.results.table_files import read_parquet_bytes, to_parquet_bytes


def written(table: pa.Table, **options: object) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink, **{"compression": "zstd", "store_schema": False, **options})
    return sink.getvalue()


def varint(value: int, length: int = 0) -> bytes:
    """A whole number as Thrift's compact protocol writes it, in at least so many bytes."""
    value, parts = 2 * value, []
    while value or not parts or len(parts) < length:
        parts.append(value & 127 | 128)
        value >>= 7
    parts[-1] &= 127
    return bytes(parts)


def humble(data: bytes) -> bytes:
    """The same file, whose metadata say that it unpacks to next to nothing."""
    start = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    footer = data[start:]
    group = pq.ParquetFile(io.BytesIO(data)).metadata.row_group(0)
    for size in {group.total_byte_size, *(group.column(n).total_uncompressed_size for n in range(group.num_columns))}:
        true = varint(size)
        assert true in footer
        footer = footer.replace(true, varint(5, len(true)))
    return data[:start] + footer


def texts(*values: str, rows: int) -> pa.Table:
    names = pa.array(values).dictionary_encode()
    return pa.table({"a": names.take(pa.array(np.zeros(rows, np.int64)))})


def test_a_page_that_unpacks_to_more_than_the_metadata_say() -> None:
    data = humble(written(texts("a" * 30_000_000, rows=1)))
    about = pq.ParquetFile(io.BytesIO(data)).metadata
    assert about.row_group(0).total_byte_size == 5
    assert len(data) < 10_000
    with pytest.raises(ValueError, match=r"^a table of [\d,]+ bytes would unpack to 30,000,\d\d\d bytes$"):
        read_parquet_bytes(data)


def test_a_long_text_in_many_rows() -> None:
    """It lies in the file once, and would be there for each row."""
    long = "".join(map(chr, np.random.default_rng(0).integers(33, 126, 60_000)))
    data = written(texts(long, rows=5_000))
    assert len(data) < 60_000
    with pytest.raises(ValueError, match=r"^a table of [\d,]+ bytes would unpack to texts of 300,000,000 bytes$"):
        read_parquet_bytes(data)
    assert read_parquet_bytes(written(texts(long, rows=500)))["a"].tolist() == [long] * 500


@pytest.mark.parametrize(
    "column",
    [pa.array([[1], [2]]), pa.array([b"a", b"b"]), pa.array([{"a": 1}, {"a": 2}]), pa.array([1, 2], pa.date32())],
)
def test_columns_that_no_table_has(column: pa.Array) -> None:
    data = written(pa.table({"a": column}), store_schema=True)
    with pytest.raises(ValueError, match=f"^its column 'a' holds {re.match('[a-z0-9]+', str(column.type))[0]}"):
        read_parquet_bytes(data)


@pytest.mark.parametrize("rows", [0, 1, 50_000])
@pytest.mark.parametrize(
    "options",
    [{}, {"data_page_version": "2.0"}, {"data_page_size": 1000}, {"compression": "snappy"}, {"version": "1.0"}],
)
def test_pages_are_counted_as_the_metadata_count_them(rows: int, options: dict[str, object]) -> None:
    """But for their headers, which the metadata count too."""
    rng = np.random.default_rng(0)
    table = pa.table(
        {
            "number": pa.array(rng.integers(0, 9, rows)),
            "value": pa.array(rng.random(rows), mask=rng.random(rows) < 0.5),
            "name": pa.array(rng.integers(0, 99, rows).astype(str)),
            "on": pa.array(rng.random(rows) < 0.5),
        }
    )
    data = written(table, row_group_size=20_000, **options)
    about = pq.ParquetFile(io.BytesIO(data)).metadata
    said = sum(about.row_group(number).total_byte_size for number in range(about.num_row_groups))
    found = unpacked(data, about)
    assert (found > 0) == (rows > 0)
    assert found <= said <= 1.4 * found + 400, "a header has some 50 bytes"
    assert len(read_parquet_bytes(data)) == rows


def test_damaged_files_are_sentences() -> None:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"name": list("abcab"), "value": [0.1, 0.2, np.nan, 0.4, 0.5], "run": [1, 2, 3, 4, 5]})
    whole = to_parquet_bytes(frame)
    refused = 0
    for _ in range(400):
        data = bytearray(whole)
        for place in rng.integers(0, len(data), rng.integers(1, 4)):
            data[place] = rng.integers(0, 256)
        try:
            read_parquet_bytes(bytes(data[: rng.choice([len(data), rng.integers(0, len(data))], p=[0.9, 0.1])]))
        except ValueError:
            refused += 1
    assert refused > 100
