"""Masking of personal data in search queries: mail addresses, card numbers, order numbers and phone numbers.

Patterns detect the usual forms only. Names and street addresses are not detected; a log that holds them needs further
care.
"""

from __future__ import annotations

import re

# U+FFFD replaces a character that could not be decoded, most likely a letter.
_MAIL = re.compile(r"[\w.+\ufffd-]++@[\w\ufffd-]+(?:\.[\w\ufffd-]+)+")

_DIGITS = re.compile(r"(?<![\w.])\d(?:[ -]?\d){12,18}(?![\w])")
_PHONE = re.compile(r"(?<![\w.,])(?:\+|00)?\(?\d(?:[ ()./-]{0,2}\d){7,14}(?![\w])")

# A word for an order number, "no.:" or a separator, and a code with three digits; the form of a large marketplace; or a
# number sign.
_ORDER = re.compile(
    r"""\b(?:order|invoice|tracking|parcel|shipment|return|rma)
        (?:\s*(?:number|no|nr|id|code)\b)?[\s.:#]*
        (?=[A-Z0-9])(?=[\w-]*\d{3})[A-Z0-9](?:[A-Z0-9-]*[A-Z0-9])?
      | (?<![\w-])\d{3}-\d{7}-\d{7}(?![\w-])
      | \#\s?\d{4,}\b""",
    re.IGNORECASE | re.VERBOSE,
)


def mask(text: str, order_pattern: re.Pattern[str] | None = None) -> str:
    """Replace personal data by [mail], [card], [order] and [phone].

    Args:
        text: A query; a hostile one of many thousand characters takes quadratic time.
        order_pattern: The form of the shop's order numbers, if it is a special one.

    Examples:
        >>> mask("where is order no. 12345678, mail a.b@shop.example")
        'where is [order], mail [mail]'
    """
    text = _MAIL.sub("[mail]", text)
    if not any(character.isdigit() for character in text):
        return text
    text = _DIGITS.sub(lambda match: "[card]" if is_card(_digits(match[0])) else match[0], text)
    if order_pattern is not None:
        text = order_pattern.sub("[order]", text)
    text = _ORDER.sub("[order]", text)
    return _PHONE.sub(_mask_phone, text)


def is_card(digits: str) -> bool:
    """Whether 13 to 19 digits have the check digit of a payment card (Luhn, ISO/IEC 7812-1)."""
    # Cards with 13 digits begin with 4; other runs of 13 digits are article numbers.
    if not 13 <= len(digits) <= 19 or (len(digits) == 13 and digits[0] != "4"):
        return False
    doubled = [int(digit) * (1 + position % 2) for position, digit in enumerate(reversed(digits))]
    return sum(value - 9 if value > 9 else value for value in doubled) % 10 == 0


def is_article_number(digits: str) -> bool:
    """Whether 12 or 13 digits have the check digit of a GTIN (EAN, UPC): a product, not a person."""
    if len(digits) not in (12, 13):
        return False
    weighted = [int(digit) * (3 if position % 2 else 1) for position, digit in enumerate(reversed(digits))]
    return sum(weighted) % 10 == 0


def _mask_phone(match: re.Match[str]) -> str:
    digits = _digits(match[0])
    international = match[0].startswith(("+", "00"))
    # Eight digits may be an article number or two years; length or prefix identify a phone number.
    if not international and (len(digits) < 9 or (match[0].isdigit() and is_article_number(digits))):
        return match[0]
    return "[phone]"


def _digits(text: str) -> str:
    return "".join(character for character in text if character.isdigit())
