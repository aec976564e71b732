"""Masking of personal data in search queries: mail addresses, card numbers, order numbers and phone numbers.

Patterns detect the usual forms only. Names and street addresses are not detected; a log that holds them needs further
care. Masking takes time linear in the length of the text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

# U+FFFD replaces a character that could not be decoded, most likely a letter.
_MAIL_CHARACTER = re.compile(r"[\w.+\ufffd-]")
_MAIL_DOMAIN = re.compile(r"@[\w\ufffd-]+(?:\.[\w\ufffd-]+)+")

_DIGITS = re.compile(r"(?<![\w.])\d(?:[ -]?\d){12,18}(?![\w])")
_PHONE = re.compile(r"(?<![\w.,])(?:\+|00)?\(?\d(?:[ ()./-]{0,2}\d){7,14}(?![\w])")

# The start of an order number: a word for it, the form of a large marketplace, or a number sign.
_ORDER = re.compile(
    r"""(?P<word>\b(?:order|invoice|tracking|parcel|shipment|return|rma))
      | (?<![\w-])\d{3}-\d{7}-\d{7}(?![\w-])
      | \#\s?\d{4,}\b""",
    re.IGNORECASE | re.VERBOSE,
)
# What may stand between the word and the code: "no.:", or a separator only.
_ORDER_LINKS = (re.compile(r"\s*(?:number|no|nr|id|code)\b[\s.:#]*", re.IGNORECASE), re.compile(r"[\s.:#]*"))
_ORDER_CODE = re.compile(r"[A-Z0-9](?:[A-Z0-9-]*[A-Z0-9])?", re.IGNORECASE)
_CODE_START = re.compile(r"[A-Z0-9]", re.IGNORECASE)
_RUN = re.compile(r"[\w-]*")
_THREE_DIGITS = re.compile(r"\d{3,}")


def mask(text: str, order_pattern: re.Pattern[str] | None = None) -> str:
    """Replace personal data by [mail], [card], [order] and [phone].

    Args:
        order_pattern: The form of the shop's order numbers, if it is a special one.

    Examples:
        >>> mask("where is order no. 12345678, mail a.b@shop.example")
        'where is [order], mail [mail]'
    """
    text = _replaced(text, _mail_addresses(text), "[mail]")
    if not any(character.isdigit() for character in text):
        return text
    text = _DIGITS.sub(lambda match: "[card]" if is_card(_digits(match[0])) else match[0], text)
    if order_pattern is not None:
        text = order_pattern.sub("[order]", text)
    text = _replaced(text, _order_numbers(text), "[order]")
    return _PHONE.sub(_mask_phone, text)


def is_card(digits: str) -> bool:
    """Whether 13 to 19 digits have the check digit of a payment card (Luhn, ISO/IEC 7812-1).

    Examples:
        >>> is_card("4111111111111111"), is_card("4111111111111112")
        (True, False)
    """
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


def _replaced(text: str, spans: Iterator[tuple[int, int]], mark: str) -> str:
    """The text with its spans, in order and without overlaps, replaced."""
    parts, end = [], 0
    for start, stop in spans:
        parts += [text[end:start], mark]
        end = stop
    return "".join(parts) + text[end:] if parts else text


def _mail_addresses(text: str) -> Iterator[tuple[int, int]]:
    # From each @ to the left: a pattern that starts at the name would scan a long word once for each of its letters.
    end = 0
    for domain in _MAIL_DOMAIN.finditer(text):
        start = domain.start()
        while start > end and _MAIL_CHARACTER.match(text, start - 1):
            start -= 1
        if start < domain.start():
            end = domain.end()
            yield start, end


def _order_numbers(text: str) -> Iterator[tuple[int, int]]:
    position, run_end, last_triple = 0, -1, -1
    while match := _ORDER.search(text, position):
        position = match.end()
        if match["word"] is None:
            yield match.span()
            continue
        for link in _ORDER_LINKS:
            between = link.match(text, match.end())
            if between is None or not _CODE_START.match(text, between.end()):
                continue
            start = between.end()
            if start >= run_end:  # a run of letters, digits and hyphens is searched for three digits once
                run_end = _end(_RUN.match(text, start))
                triples = [_end(digits) - 3 for digits in _THREE_DIGITS.finditer(text, start, run_end)]
                last_triple = triples[-1] if triples else -1
            if last_triple >= start:
                position = _end(_ORDER_CODE.match(text, start))
                yield match.start(), position
                break


def _end(match: re.Match[str] | None) -> int:
    assert match is not None
    return match.end()


def _mask_phone(match: re.Match[str]) -> str:
    digits = _digits(match[0])
    international = match[0].startswith(("+", "00"))
    # Eight digits may be an article number or two years; length or prefix identify a phone number.
    if not international and (len(digits) < 9 or (match[0].isdigit() and is_article_number(digits))):
        return match[0]
    return "[phone]"


def _digits(text: str) -> str:
    return "".join(character for character in text if character.isdigit())
