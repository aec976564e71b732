"""Values of Parquet files, read in batches of bounded memory.

Parquet stores a text that occurs in many rows once, and a run of equal values as one value and their number, so a file
of some kilobytes can hold gigabytes. A file may unpack to at most `MAX_UNPACK_RATIO` times its size (small files to
`MIN_UNPACK_LIMIT`, their texts to `_UNPACKED_TEXTS`).
"""

from __future__ import annotations

import datetime
import io
from collections.abc import Callable, Iterator, Sequence
from decimal import Decimal
from typing import IO, Any

from searchlora.errors import DataError
from searchlora.files.text import MAX_UNPACK_RATIO, MIN_UNPACK_LIMIT
from searchlora.files.watched_reads import check_read_time

_EXACT = 2.0**53  # below it, a float holds each integer
_BATCH_ROWS = 1024
_BATCH_BYTES = 1 << 28  # of the texts of a batch
_UNPACKED_TEXTS = 1 << 30  # bytes of all texts of a file, each counted as often as it occurs


def parquet_values(
    file: IO[bytes], label: str, check_columns: Callable[[Sequence[str]], None], columns: Sequence[str] | None = None
) -> Iterator[dict[str, Any] | str]:
    """The rows of a Parquet file as Python values; for a row that Python cannot hold, the reason.

    Args:
        label: Name of the file, for errors.
        check_columns: Called with the names of the columns; raises an error for a missing one.
        columns: The columns to read; None reads all.

    Raises:
        DataError: if the file is not sound Parquet, or unpacks to far more than its size.
    """
    import pyarrow
    import pyarrow.parquet

    # Parquet is read from its end, so a gzip stream has to be unpacked into memory.
    source = file if file.seekable() else io.BytesIO(file.read())
    try:
        table = pyarrow.parquet.ParquetFile(source)
        check_columns(table.schema_arrow.names)
        packed = source.seek(0, io.SEEK_END)
        _check_unpacked_size(table, packed, label)
        yield from _rows(table, source, packed, label, columns)
    except (pyarrow.ArrowException, OSError, ValueError, OverflowError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(
            f"is not a sound Parquet file ({reason})", where=label, fix="Fetch or export it again."
        ) from None


def without_nulls(cell: Any) -> Any:
    """A cell without the nulls that Parquet writes for fields of other rows; times as ISO 8601 text, decimals as
    numbers, and whole numbers as integers, because pandas writes a column of integers with gaps as floats."""
    if isinstance(cell, dict):
        return {key: without_nulls(member) for key, member in cell.items() if member is not None}
    if isinstance(cell, datetime.date | datetime.time):
        return cell.isoformat()
    if isinstance(cell, Decimal):
        return int(cell) if cell == cell.to_integral_value() else float(cell)
    if isinstance(cell, float):
        return int(cell) if cell.is_integer() and abs(cell) < _EXACT else cell
    return [without_nulls(member) for member in cell] if isinstance(cell, list) else cell


def _check_unpacked_size(table: Any, packed: int, label: str) -> None:
    size = values = 0
    for number in range(table.metadata.num_row_groups):
        check_read_time()
        group = table.metadata.row_group(number)
        size += group.total_byte_size
        # Equal values in a row, nulls among them, are stored as one value and their number.
        values += sum(group.column(column).num_values for column in range(group.num_columns))
    if max(size, values) > max(MIN_UNPACK_LIMIT, MAX_UNPACK_RATIO * packed):
        raise _unpacks_too_far(label)


def _unpacks_too_far(label: str) -> DataError:
    return DataError(
        f"the Parquet file unpacks to more than {MAX_UNPACK_RATIO} times its size",
        where=label,
        fix="Check what it holds; if it is sound, convert it to JSON Lines.",
    )


def _rows(table: Any, source: IO[bytes], packed: int, label: str, columns: Sequence[str] | None) -> Iterator[Any]:
    """The rows of a Parquet file, one at a time where their texts need much memory.

    A text that occurs in many rows is stored once, so neither the size of a file nor its metadata bounds a batch. Where
    it may be large, texts that are equal are held once, and counted before they are copied into rows.
    """
    import pyarrow.parquet

    left = max(_UNPACKED_TEXTS, MAX_UNPACK_RATIO * packed)
    for number in range(table.metadata.num_row_groups):
        check_read_time()
        group = table.metadata.row_group(number)
        chunks = [group.column(column) for column in range(group.num_columns)]
        texts = [chunk for chunk in chunks if chunk.physical_type == "BYTE_ARRAY"]
        large = any(chunk.total_uncompressed_size * _BATCH_ROWS > _BATCH_BYTES for chunk in texts)
        reader = table
        if large:
            reader = pyarrow.parquet.ParquetFile(source, read_dictionary=[chunk.path_in_schema for chunk in texts])
        for batch in reader.iter_batches(batch_size=_BATCH_ROWS, row_groups=[number], columns=columns):
            check_read_time()
            if large:
                left -= sum(map(_decoded_bytes, batch.columns))
                if left < 0:
                    raise _unpacks_too_far(label)
            yield from _batch_rows(batch, singly=large)


def _decoded_bytes(values: Any) -> int:
    """Bytes of the texts of an Arrow array once each has its own copy."""
    import pyarrow
    import pyarrow.compute

    kind = values.type
    if pyarrow.types.is_dictionary(kind):
        lengths = pyarrow.compute.binary_length(values.dictionary)
        return int(pyarrow.compute.sum(lengths.take(values.indices)).as_py() or 0)
    if pyarrow.types.is_struct(kind):
        return sum(_decoded_bytes(values.field(position)) for position in range(kind.num_fields))
    if pyarrow.types.is_map(kind):
        return _decoded_bytes(values.keys) + _decoded_bytes(values.items)
    if pyarrow.types.is_list(kind) or pyarrow.types.is_large_list(kind) or pyarrow.types.is_fixed_size_list(kind):
        return _decoded_bytes(values.flatten())
    return 0


def _batch_rows(batch: Any, *, singly: bool) -> Iterator[dict[str, Any] | str]:
    """The rows of a batch; for a row that Python cannot hold, the reason."""
    try:
        if not singly:
            yield from batch.to_pylist()
            return
    except (ValueError, OverflowError):  # invalid UTF-8, or a time out of range, somewhere in the batch
        pass
    for number in range(batch.num_rows):
        try:
            yield batch.slice(number, 1).to_pylist()[0]
        except (ValueError, OverflowError) as error:
            yield f"cannot be read as a row ({error})"
