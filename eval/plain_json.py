"""Results as JSON: what is not known is null, for JSON has no NaN."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from searchlora.eval.files import atomic_text


def plain(value: Any) -> Any:
    """Mappings, sequences and scalars as JSON has them, a number that is not finite as None."""
    if isinstance(value, dict):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def write_json(path: Path, value: Any) -> None:
    """Write a value made `plain`, whole or not at all. Raises `DataError` where it cannot be written."""
    with atomic_text(path) as out:
        json.dump(plain(value), out, indent=1, ensure_ascii=False, allow_nan=False)
        out.write("\n")
