"""Rows of a query log that are refused: listed, so that they can be mended, but with personal data masked."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from searchlora.data.privacy import mask, mask_all
from searchlora.files import EXCERPT
from searchlora.records import RejectedRow

#: What stays as it is in the column of the time, since it has to be seen to be mended: seconds since 1970 of these
#: decades, or a day and perhaps a time of day. Both have the form of a phone number.
MOMENT = re.compile(
    r"""1\d{9}(?:\.\d+)?
      | (?:\d{4}[-./]\d{1,2}[-./]\d{1,2} | \d{1,2}[-./]\d{1,2}[-./]\d{2,4})
        (?:[T,\ ]+\d{1,2}:\d{2}(?::\d{2})?(?:[.,]\d{1,6})?\s*(?:[AP]M|Z|[+-]\d\d:?\d\d)?)?""",
    re.IGNORECASE | re.VERBOSE,
)

# In JSON that cannot be parsed an escape stands between words, and its letter would pass for a part of the next.
_ESCAPE = re.compile(r"\\(?:u[0-9a-fA-F]{4}|.)")
LEFT_OFF = 40  # characters at the end of a text that was cut: half a number is not known for one


@dataclass(frozen=True)
class Rejects:
    """Makes rejected rows without personal data.

    Args:
        time: The name of the column with the time.
        own_orders: The form of one's own order numbers.
    """

    time: str
    own_orders: re.Pattern[str] | None

    def row(self, where: str, reason: str, data: Any) -> RejectedRow:
        """A row of which nothing but `data` quotes what somebody typed."""
        if isinstance(data, Mapping):
            shown: Any = {
                column: self.moment(value) if column == self.time else mask_all(value, self.own_orders)
                for column, value in data.items()
            }
        elif isinstance(data, str):
            shown = self._unread(data)
        else:
            shown = mask_all(data, self.own_orders)
        return RejectedRow(where, reason, shown)

    def moment(self, value: Any) -> Any:
        """A value of the column with the time, for showing."""
        return value if MOMENT.fullmatch(str(value).strip()) else mask_all(value, self.own_orders)

    def _unread(self, text: str) -> str:
        masked = mask(_ESCAPE.sub(" ", text), self.own_orders)
        # The reader cuts bytes or characters, so the longer measure tells whether it may have.
        was_cut = len(text.encode("utf-8", "replace")) >= EXCERPT
        return f"{masked[:-LEFT_OFF]}..." if was_cut else masked
