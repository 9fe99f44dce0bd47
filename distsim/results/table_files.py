"""Tables as CSV and as Parquet. A Parquet file that a stranger made is bounded before it is unpacked."""

import io
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from distsim.results.columns import RANKS
from distsim.results.parquet_pages import unpacked

# Bounds of a Parquet file: distsim's tables have at most 0.1 rows a byte, and unpack to some 50 times their size.
SMALL, ROWS, UNPACKED = 1000, 10, 1000


def to_csv_bytes(frame: pd.DataFrame) -> bytes:
    """Write a table as UTF-8 CSV: floats in shortest exact form, missing values empty, lines ending in a line feed.

    Text that a spreadsheet would take for a formula gets an apostrophe in front. The Parquet file has it as it is.
    """
    text = {name: frame[name].map(_no_formula) for name in frame if not pd.api.types.is_numeric_dtype(frame[name])}
    return bytes(frame.assign(**text).to_csv(index=False, lineterminator="\n").encode())


def _no_formula(cell: Any) -> Any:
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(("=", "+", "-", "@")) else cell


def to_parquet_bytes(frame: pd.DataFrame) -> bytes:
    """Write a table as Parquet. Equal tables give equal bytes.

    Pandas' own metadata is left out, since it names the version of pandas. Instead a nullable field says that a column
    of integers may have missing values (Int64). A column of ranks without missing values is not nullable, so tables of
    stores in which every row has a rank keep their bytes.
    """
    table = pa.Table.from_pandas(frame, preserve_index=False)
    plain_integer = {name for name, dtype in frame.dtypes.items() if dtype == np.dtype("int64")}
    plain_integer |= {name for name in RANKS if name in frame and not frame[name].isna().any()}
    schema = pa.schema([field.with_nullable(field.name not in plain_integer) for field in table.schema])
    sink = io.BytesIO()
    pq.write_table(table.cast(schema), sink, compression="zstd")
    return sink.getvalue()


def read_parquet_bytes(data: bytes) -> pd.DataFrame:
    """Read the table that `to_parquet_bytes` wrote, with its dtypes and missing values.

    ValueError: it is not a table, or would unpack to more than distsim's tables do.
    """
    try:
        table = _bounded(data)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(str(error)) from None
    frame = table.to_pandas(integer_object_nulls=True)  # not through float, which is inexact above 2**53
    nullable = [field.name for field in table.schema if field.nullable and pa.types.is_int64(field.type)]
    return frame.astype(dict.fromkeys([*nullable, *(name for name in RANKS if name in frame)], "Int64"))


def _bounded(data: bytes) -> pa.Table:
    """Return the table. Nothing larger than its bounds is made on the way: neither its pages nor its texts."""
    file = pq.ParquetFile(io.BytesIO(data))
    schema, most = file.schema_arrow, UNPACKED * len(data)
    if file.metadata.num_rows > SMALL + ROWS * len(data):
        raise ValueError(f"a table of {len(data):,} bytes would unpack to {file.metadata.num_rows:,} rows")
    if odd := [field.name for field in schema if not _plain(field.type)]:
        raise ValueError(f"its column {odd[0]!r} holds {schema.field(odd[0]).type}")
    if (size := unpacked(data, file.metadata)) > most:
        raise ValueError(f"a table of {len(data):,} bytes would unpack to {size:,} bytes")
    texts = [field.name for field in schema if _text(field.type)]
    # a text that many rows have is there once, as long as it is read as a dictionary
    table = pq.ParquetFile(io.BytesIO(data), read_dictionary=texts).read()
    if (size := sum(_size(table[name]) for name in texts)) > most:
        raise ValueError(f"a table of {len(data):,} bytes would unpack to texts of {size:,} bytes")
    return table.cast(schema)


def _plain(kind: pa.DataType) -> bool:
    return _text(kind) or pa.types.is_integer(kind) or pa.types.is_floating(kind) or kind in (pa.bool_(), pa.null())


def _text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _size(column: pa.ChunkedArray) -> int:
    """Return how many bytes the texts of a column have, counted once for each row."""
    return sum(pc.sum(pc.binary_length(chunk.dictionary).take(chunk.indices)).as_py() or 0 for chunk in column.chunks)
