"""Masking of personal data in search queries: mail and IPv6 addresses, IBANs, cards, order and phone numbers.

python-stdnum checks the digits of IBANs, cards and article numbers, and phonenumbers, the Python version of Google's
library, knows how numbers are written in each country. Names and street addresses are not detected; a log that holds
them needs further care.
"""

from __future__ import annotations

import ipaddress
import re
from itertools import pairwise

import phonenumbers
from phonenumbers import Leniency, PhoneNumberMatcher
from stdnum import ean, iban, isbn, luhn

#: Countries whose numbers have no 0 in front; those of other countries are found by it.
_REGIONS = ("US", "ES", "IT", "PL", "IN", "BR")

#: What stands between groups of digits: hyphens and blanks of Unicode among it.
_GAP = r"[\s.\u00ad\u2010-\u2015\u2212·/()_-]"

# U+FFFD replaces a character that could not be decoded, most likely a letter.
_LOCAL, _LABEL = r"[\w.+'%&=\ufffd-]++", r"[\w\ufffd-]++"
_AT = r"(?:[ ]?[@\uff20][ ]?|[ ]?[(\[{<][ ]?(?:at|@|ät)[ ]?[)\]}>][ ]?)"
_DOT = r"(?:\.|[ ]?[(\[{<][ ]?(?:dot|\.|punkt)[ ]?[)\]}>][ ]?|[ ](?:dot|punkt)[ ])"
_MAIL = re.compile(
    rf"{_LOCAL}{_AT}{_LABEL}(?:{_DOT}{_LABEL})+|{_LOCAL}[ ]at[ ]{_LABEL}(?:[ ](?:dot|punkt)[ ][^\W\d]{{2,}})+",
    re.IGNORECASE,
)

_IPV6 = re.compile(r"(?<![\w:.])(?=[0-9a-f:.]*\d)[0-9a-f]{0,4}(?::[0-9a-f.]{0,15}){2,7}(?![\w:])", re.IGNORECASE)

_IBAN = re.compile(r"(?<![^\W_])[A-Z]{2}\d{2}(?:[ \u00a0.-]?[A-Z0-9]){11,30}", re.IGNORECASE)

_CARD = re.compile(rf"(?<![\w.])\d(?:{_GAP}{{0,3}}\d){{13,}}")

#: First digits of cards of each length.
_CARD_STARTS = {14: "3[0689]", 15: "3[47]", 16: "[2-6]|8[12]|9792", 17: "6", 18: "6", 19: "[456]"}

#: What people write beside a card: when it ends, and its code.
_CARD_DATE = rf"""(?:[\s,;:|/-]*(?:and|und|exp\w*|valid(?:\ (?:thru|until|to))?|good\ thru|gültig\ bis|date|security
        |code|pin|cvv2?|cvc2?|cid|csc|prüfziffer)){{0,3}}[\s,;:.\#=|/-]*(?<!\d)\d{{1,4}}(?:{_GAP}\d{{2,4}})?(?!\d)"""
_AFTER_CARD = re.compile(rf"\[card\](?:{_CARD_DATE}){{1,3}}", re.IGNORECASE | re.VERBOSE)
_BEFORE_CARD = re.compile(r"\b(?:cvv2?|cvc2?|cid|csc|security code)\W{0,3}\d{3,4}(?=\W+\[card\])", re.IGNORECASE)

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

_PHONE = re.compile(rf"(?<![\w.,])(?:\+\s?|\()*\d(?:{_GAP}{{0,3}}\d){{5,17}}(?!\w)")
_CALL = re.compile(
    r"\b(?:tel|telefon|telephone|phone|call|ring|handy|whatsapp|anruf\w*)\W{0,2}(?:number|nummer|nr)?\W{0,3}$"
)
_US = re.compile(r"\(?\d{3}\)?[-. ]{1,2}\d{3}[-. ]\d{4}")
_DATE = re.compile(r"(?:\d{1,2}[./-]\d{1,2}[./-](?:19|20)?\d\d|(?:19|20)\d\d[./-]\d{1,2}[./-]\d{1,2})(?!\d|[./-]\d)")


def mask(text: str, order_pattern: re.Pattern[str] | None = None) -> str:
    """Replace personal data by [mail], [ip], [iban], [card], [order] and [phone].

    Args:
        text: A query; a hostile one of many thousand characters takes quadratic time.
        order_pattern: The form of the shop's order numbers, if it is a special one.

    Examples:
        >>> mask("where is order no. 12345678, mail a.b@shop.example")
        'where is [order], mail [mail]'
        >>> mask("4111 1111 1111 1111, 12/27, code 123")
        '[card]'
    """
    text = _MAIL.sub("[mail]", text)
    if not any(character.isdigit() for character in text):
        return text
    text = _IPV6.sub(_mask_address, text)
    text = _IBAN.sub(_mask_iban, text)
    if (masked := _CARD.sub(_mask_card, text)) != text:
        text = _BEFORE_CARD.sub("", _AFTER_CARD.sub("[card]", masked))
    if order_pattern is not None:
        text = order_pattern.sub("[order]", text)
    text = _ORDER.sub("[order]", text)
    return _PHONE.sub(_mask_phone, text)


def _mask_address(match: re.Match[str]) -> str:
    try:
        ipaddress.IPv6Address(match[0])
    except ValueError:
        return match[0]
    return "[ip]"


def _mask_iban(match: re.Match[str]) -> str:
    """The longest valid IBAN at the beginning, since the words after it may be read as a part of it."""
    for end in range(len(match[0]), 14, -1):
        if match[0][end - 1].isalnum() and iban.is_valid(match[0][:end].replace("\u00a0", "")):
            return "[iban]" + match[0][end:]
    return match[0]


def _mask_card(match: re.Match[str]) -> str:
    """The run of digits without its card number, and without a code and a date that follow."""
    run = match[0]
    places = [place for place, character in enumerate(run) if character.isdigit()]
    digits = "".join(run[place] for place in places)
    begins = [n for n, place in enumerate(places) if not n or places[n - 1] != place - 1]
    ends = {*begins[1:], len(places)}
    for begin in begins:
        lengths = [n for n in _CARD_STARTS if begin + n <= len(digits) and _is_card(digits[begin : begin + n])]
        for length in sorted(lengths, key=lambda n: (begin + n not in ends, n != 16)):
            end = begin + length
            bounds = [*(n for n in begins if begin <= n < end), end]
            groups = [later - earlier for earlier, later in pairwise(bounds)]
            if min(groups) < 3 and max(groups) > 1:
                continue  # a list of sizes
            if len(digits) - end <= 10:
                return run[: places[begin]] + "[card]"
            rest = run[places[end - 1] + 1 :]
            return run[: places[begin]] + "[card]" + _CARD.sub(_mask_card, rest)
    return run


def _is_card(digits: str) -> bool:
    return re.match(_CARD_STARTS[len(digits)], digits) is not None and bool(luhn.is_valid(digits))


def _mask_phone(match: re.Match[str]) -> str:
    return (
        "[phone]" if _is_phone(match[0], match.string[max(0, match.start() - 30) : match.start()].lower()) else match[0]
    )


def _is_phone(run: str, before: str) -> bool:
    digits = "".join(character for character in run if character.isdigit())
    if _CALL.search(before):
        return True
    if run.startswith(("+", "(+")) or digits.startswith("00"):
        return len(digits) >= (10 if digits.startswith("00") else 8)
    if not 9 <= len(digits) <= 15 or _is_article(run, digits) or "isbn" in before:
        return False
    if digits == run or _US.fullmatch(run):
        return True
    groups = re.findall(r"\d+", run)
    if _DATE.match(run):
        return False
    if digits.startswith("0") and len(groups[0]) > 1:
        return True
    return len(groups) <= 4 and any(_is_national(run, region) for region in _REGIONS)


def _is_national(run: str, region: str) -> bool:
    """Whether a region has this number and writes it in these groups."""
    if not phonenumbers.is_valid_number(phonenumbers.parse(run, region)):
        return False
    return PhoneNumberMatcher(run, region, Leniency.EXACT_GROUPING).has_next()


def _is_article(run: str, digits: str) -> bool:
    """Whether the digits are those of a product: a GTIN (EAN, UPC), or an ISBN in its groups."""
    return (len(digits) in (12, 13, 14) and ean.is_valid(digits)) or (
        run[-2:-1] in ("-", " ") and isbn.is_valid(digits)
    )
