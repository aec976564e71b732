"""Values of Parquet files."""

from __future__ import annotations

import datetime
import io
from collections.abc import Callable, Iterator, Sequence
from decimal import Decimal
from typing import IO, Any

from searchlora.errors import DataError

_EXACT = 2.0**53  # below it, a float holds each integer
_BATCH_ROWS = 1024


def parquet_values(
    file: IO[bytes], label: str, check_columns: Callable[[Sequence[str]], None], columns: Sequence[str] | None = None
) -> Iterator[dict[str, Any]]:
    """The rows of a Parquet file as Python values."""
    import pyarrow
    import pyarrow.parquet

    try:
        # Parquet is read from its end, so a gzip stream has to be unpacked into memory.
        table = pyarrow.parquet.ParquetFile(file if file.seekable() else io.BytesIO(file.read()))
        check_columns(table.schema_arrow.names)
        for batch in table.iter_batches(batch_size=_BATCH_ROWS, columns=columns):
            yield from batch.to_pylist()
    except (pyarrow.ArrowException, OSError, ValueError, OverflowError) as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise DataError(f"is not a sound Parquet file ({reason})", where=label, fix="Export it again.") from None


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
