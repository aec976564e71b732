"""Masking of personal data that people type into search boxes.

Masked are mail addresses, card numbers, order numbers and phone numbers, in this order. Patterns find what has the
usual form, no more: names and street addresses are not found, and a log that holds them needs further care.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import date, time
from typing import Any

# U+FFFD stands for a character that could not be decoded, most likely a letter.
MAIL = re.compile(r"[\w.+\ufffd-]+@[\w\ufffd-]+(?:\.[\w\ufffd-]+)+")
DIGITS = re.compile(r"(?<![\w.])\d(?:[ -]?\d){12,18}(?![\w])")
ORDER = re.compile(
    r"""\b(?:order|invoice|tracking|parcel|shipment|return|rma)      # a word for it,
        (?:\s*(?:number|no|nr|id|code)\b)?[\s.:#]*                   # perhaps "no.:",
        (?=[\w-]*\d{3})[A-Z0-9](?:[A-Z0-9-]*[A-Z0-9])?               # and a code with three digits in a row
      | (?<![\w-])\d{3}-\d{7}-\d{7}(?![\w-])                         # the form of a large marketplace
      | \#\s?\d{4,}\b""",
    re.IGNORECASE | re.VERBOSE,
)
PHONE = re.compile(r"(?<![\w.,])(?:\+|00)?\(?\d(?:[ ()./-]{0,2}\d){7,14}(?![\w])")

Mask = Callable[[re.Match[str]], str]


def mask(text: str, own_orders: re.Pattern[str] | None = None) -> str:
    """Replace personal data by [mail], [card], [order] and [phone].

    Args:
        own_orders: The form of one's own order numbers, where it differs.
    """
    text = MAIL.sub("[mail]", text)
    if not any(character.isdigit() for character in text):
        return text
    text = DIGITS.sub(lambda found: "[card]" if is_card(_digits(found[0])) else found[0], text)
    if own_orders is not None:
        text = own_orders.sub("[order]", text)
    text = ORDER.sub("[order]", text)
    return PHONE.sub(_mask_phone, text)


def mask_all(value: Any, own_orders: re.Pattern[str] | None = None) -> Any:
    """The same value with every text in it masked, however deep, and every number that is to be masked as a text."""
    if value is None or isinstance(value, (bool, date, time)):
        return value
    if isinstance(value, str):
        return mask(value, own_orders)
    if isinstance(value, Mapping):
        return {key: mask_all(item, own_orders) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [mask_all(item, own_orders) for item in value]
    masked = mask(str(value), own_orders)
    return value if masked == str(value) else masked


def is_card(digits: str) -> bool:
    """Whether 13 to 19 digits have the check digit of a payment card (Luhn, ISO/IEC 7812-1)."""
    # The only cards with 13 digits begin with 4; other runs of 13 digits are article numbers.
    if not 13 <= len(digits) <= 19 or (len(digits) == 13 and digits[0] != "4"):
        return False
    doubled = [int(digit) * (1 + place % 2) for place, digit in enumerate(reversed(digits))]
    return sum(value - 9 if value > 9 else value for value in doubled) % 10 == 0


def is_article_number(digits: str) -> bool:
    """Whether 12 or 13 digits have the check digit of a GTIN (EAN, UPC): a product, not a person."""
    if len(digits) not in (12, 13):
        return False
    weighted = [int(digit) * (3 if place % 2 else 1) for place, digit in enumerate(reversed(digits))]
    return sum(weighted) % 10 == 0


def _mask_phone(found: re.Match[str]) -> str:
    digits = _digits(found[0])
    international = found[0].startswith(("+", "00"))
    # Eight digits may be an article number or two years; a phone number is told by its length or its prefix.
    if not international and (len(digits) < 9 or (found[0].isdigit() and is_article_number(digits))):
        return found[0]
    return "[phone]"


def _digits(text: str) -> str:
    return "".join(character for character in text if character.isdigit())
