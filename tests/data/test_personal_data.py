"""Masking of personal data in queries: forms that are masked, and queries that only look like them."""

from __future__ import annotations

import re
import time
from itertools import product

import pytest

from searchlora.data.formats.query_log import MAX_QUERY
from searchlora.data.personal_data import mask

#: Test numbers of the brands, in their groups.
CARDS = {
    "Visa": "4111 1111 1111 1111",
    "Mastercard": "5555 5555 5555 4444",
    "American Express": "3782 822463 10005",
    "Diners": "3056 930902 5904",
    "UnionPay": "6200 0000 0000 0005",
}
GAPS = ("", " ", "-", ".", " - ", "\u00a0", "\u2013")
AFTER_CARDS = (
    *("", " 123", " 12/27", " 12/27 123", "12/27", " 123 12/27", ", 12/2027, 123", " exp 12/27 cvv 123", " cvc: 123"),
    *("/123", " 12-27 1234", " 1227 123", " expires 12/27 security code 123", " valid thru 12/27"),
    *(" gültig bis 12/27 prüfziffer 123", "; 12/27; 123", " | 12/27 | 123"),
)

PHONES = {
    "US": ("555-867-5309", "(415) 555-2671", "415.555.2671", "4155552671", "+1 415 555 2671", "1-415-555-2671"),
    "GB": ("+44 20 7946 0958", "020 7946 0958", "07911 123456", "(020) 7946 0958", "+44 (0)20 7946 0958"),
    "DE": ("(030) 1234 5678", "030/12345678", "0170 1234567", "0170-1234567", "+49 170 1234567", "0049 170 1234567"),
    "FR": ("06 12 34 56 78", "06.12.34.56.78", "0612345678", "+33 6 12 34 56 78", "01-23-45-67-89"),
    "ES": ("612 345 678", "+34 612 345 678", "612345678"),
    "IT": ("347 123 4567", "+39 347 1234567", "06 6982 1234"),
    "PL": ("512 345 678", "+48 512 345 678", "512-345-678"),
    "IN": ("098765 43210", "+91 98765 43210", "9876543210"),
    "BR": ("(11) 91234-5678", "+55 11 91234-5678", "011 91234-5678"),
    "CH": ("044 668 18 00", "+41 44 668 18 00", "079 123 45 67"),
    "AU": ("0412 345 678", "(02) 9374 4000", "+61 412 345 678"),
    "JP": ("03-1234-5678", "090-1234-5678", "+81 90 1234 5678"),
}

MASKED = {
    "[mail]": (
        *("a.b+c@shop.co.uk", "jörg.müller@bücher.example", "o'brien@mail.example", "first_last-99@sub.mail.example"),
        *("anna (at) host dot com", "anna[at]host.com", "anna {at} host {dot} com", "anna at host dot com"),
        *("anna (at) mail (dot) host (dot) com", "anna @ host.com", "ANNA(AT)HOST.COM", "anna(ät)host punkt de"),
        *("用户@例子.公司", "anna\uff20host.com", "anna+50%off@host.example", "<anna@host.example>"),
    ),
    "[iban]": (
        *("DE89 3704 0044 0532 0130 00", "DE89370400440532013000", "de89 3704 0044 0532 0130 00"),
        *("GB29 NWBK 6016 1331 9268 19", "FR14 2004 1010 0505 0001 3M02 606", "NL91ABNA0417164300"),
        *("CH93 0076 2011 6238 5295 7", "DE89-3704-0044-0532-0130-00", "ES91 2100 0418 4502 0005 1332"),
        *("IT60 X054 2811 1010 0000 0123 456", "PL61 1090 1014 0000 0712 1981 2874", "AT61 1904 3002 3457 3201"),
    ),
    "[ip]": (
        *("2001:db8::1", "2001:0db8:85a3:0000:0000:8a2e:0370:7334", "fe80::1ff:fe23:4567:890a", "::1"),
        *("2001:DB8:0:0:8:800:200C:417A", "::ffff:192.0.2.1"),
    ),
    "[order]": (
        *("order no. 12345678", "order AB-12345", "tracking 1Z999AA10123456784", "112-1234567-1234567", "#12345"),
    ),
    "[phone]": (
        *(number for numbers in PHONES.values() for number in numbers),
        *("tel. 123456", "call 12 34 56 78", "telefon: 1234567"),
    ),
}

#: Queries that look like personal data, and are none.
KEPT = (
    """
iphone 15 128gb|size 42 43 44|size 42 43 44 45 46|40 41 42 43 44|sizes 36 38 40 42 44 46|1920x1080 60 hz
1920x1080 2560x1440 monitor|10000 lumens|10 000 000 btu|1.000.000 puzzle|drill bit 12345678|2019 2020|2019 2020 2021
2019-2020-2021-2022 calendar|return policy|order 2 tents|tracking shoes 2020|0.35 mm nozzle|205/55 r16 91v|205 55 16 91
225/45 R17 94W XL|lego 75192 10179 42115|lego 10179|din 912 m8x30 8.8 100|iso 4017 m10x40|3m 8210 7502 6059
hp 305 305xl 302 301|brother tn-2420|epson 102 103 104|canon pg-545 cl-546|ryzen 7 5800x3d 100-100000651
rtx 4090 24gb 2024|18650 3500 mah|18650 battery 3.7v 3500mah|cr2032 cr2025 cr2016|aa aaa 1.5v 24 pack
220 240 v 50 60 hz|12v 24v 36v 48v|5 10 15 20 25 30 kg|10-20-30-40-50|1/2 3/4 5/8 7/8|1/4 3/8 1/2 socket 72 teeth
120 x 200 x 15 cm|120x200|90 x 200 140 x 200|500 ml 1000 ml 1500 ml|12.12.2024|12.12.2024 10:30|01.02.2024 08:00
24/12/2024-06/01/2025|2024-12-24 2025-01-06|10:30:45|16:9 4:3|5901234123457|4006381333931|4 006381 333931|036000291452
0 36000 29145 2|96385074|ean 4006381333931|978-3-16-148410-0|9783161484100|978 3 16 148410 0|isbn 3161484100
3-16-148410-0|0 306 40615 2|isbn 0306406152|isbn-13: 978-0-306-40615-7|ikea 702.611.50|ikea 00261150|B08N5WRWNW
asin B07FZ8S74R|xj-900-12 pump|part 1234-5678|p/n 502-1234-01|wd40 400ml|g-shock dw-5600e-1v|casio f-91w-1
sony wh-1000xm5|samsung qe55q80c|dyson v11 970013-02|bosch gsr 18v-55|bosch 0 601 9h5 200|makita dhp453 18v 3.0ah
nike 554724-092|adidas gw2871 eu 42|air max 90 95 97 98|levis 501 32/34|501 32 34 505 34 34|rolex 116610
yamaha p-45 88 keys|philips 9w 806 lm e27 2700k|4000k 4200lm 40w 36w|ddr4 3200 2x16gb cl16|ssd 2tb 7000 mb/s
usb 3.2 gen 2x2|802.11 ax|windows 10.0.19041|firmware 2.4.1|version 1.2.3.4|vitamin d3 5000 iu 365|omega 3 1000 mg 120
protein 2270 g|paint ral 7016 9005 9010|pantone 2728 c|1000 2000 3000 pieces|100 200 300 400 grit|p80 p120 p180 p240
look at amazon dot|sale at home|coffee @ home|c++ std::vector|time 12:30|no. 2 pencil|mac os 10.15.7 13.6
meet at 10 dot 30|1:18 1:24 1:43 diecast|thread m3 m4 m5 m6 m8|tent 3 4 5 person 2024
""".replace("\n", "|")
    .strip("|")
    .split("|")
)


@pytest.mark.parametrize(("brand", "gap"), product(CARDS, GAPS))
def test_cards_are_masked_with_their_code_and_expiry(brand: str, gap: str) -> None:
    number = CARDS[brand].replace(" ", gap)
    assert {mask(f"pay with {number}{after}") for after in AFTER_CARDS} == {"pay with [card]"}
    assert mask(f"cvv 123 {number}, red tent") == " [card], red tent"


@pytest.mark.parametrize(("name", "form"), [(name, form) for name, forms in MASKED.items() for form in forms])
def test_personal_data_is_masked(name: str, form: str) -> None:
    masked = mask(f"about {form} please")
    assert name in masked, masked
    assert set(re.findall(r"\d", masked)) == set()
    assert masked.startswith("about ") and masked.endswith(" please")
    assert name in mask(form)


def test_the_tables_have_enough_forms() -> None:
    assert sum(map(len, MASKED.values())) + len(CARDS) * len(GAPS) * len(AFTER_CARDS) >= 150
    assert len(KEPT) >= 100


@pytest.mark.parametrize("typed", KEPT)
def test_what_only_looks_like_personal_data_is_kept(typed: str) -> None:
    assert mask(typed) == typed


def test_two_cards_are_both_masked_and_a_wrong_check_digit_is_none() -> None:
    assert mask("4111111111111111 5555555555554444") == "[card] [card]"
    assert "[card]" not in mask("4111 1111 1111 1112")


def test_order_numbers_of_the_given_pattern_are_masked() -> None:
    assert mask("status XY771Z 12") == "status XY771Z 12"
    assert mask("status XY771Z 12", re.compile(r"\bXY\d{3}Z\b")) == "status [order] 12"


@pytest.mark.slow
@pytest.mark.parametrize(
    "piece",
    [
        *("a", "a.", "@", "a@", "a@b", "@b.c", "1", "1 ", "1-", "1.", "+1", "(1", "00", "#", "#1", "# 1234a", "-", " "),
        *("order", "order ", "order-", "return-", "returnA-", "order no ", "order: ", "rma#", "112-1234567-"),
        *(
            "\ufffd",
            "12345678901234567890",
            "DE89",
            "DE89 3704 ",
            "a at b dot ",
            "(at)",
            ":1",
            "1:",
            "4111 ",
            "[card] 1 ",
        ),
    ],
)
def test_the_longest_query_is_masked_in_bounded_time(piece: str) -> None:
    text = (piece * MAX_QUERY)[:MAX_QUERY] + " 1"
    start = time.perf_counter()
    mask(text)
    assert time.perf_counter() - start < 4.0  # 0.3 s at most when idle
