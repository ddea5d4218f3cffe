import pytest

from tollhouse.config.guardrails import PII_KINDS
from tollhouse.guardrails.pii import numbers
from tollhouse.guardrails.pii.detector import Detector

OWN = {"staff_number": r"STAFF-\d{6}"}
DETECTOR = Detector(PII_KINDS, ("UG",), OWN)


def found(text: str, label: str = "", detector: Detector = DETECTOR) -> list[tuple[str, str]]:
    return [(span.kind, text[span.start : span.end]) for span in detector.spans(text, label)]


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("email", "alice@example.com"),
        ("email", "o.brien+shop@mail.example.co.ug"),
        ("email", "jörg@münchen.example"),
        ("email", "alice\uff20example.com"),
        ("email", "alice%40example.com"),
        ("card", "4111111111111111"),
        ("card", "4111 1111 1111 1111"),
        ("card", "5500-0000-0000-0004"),
        ("card", "3782 822463 10005"),
        ("card", "6011.0009.9013.9424"),
        ("card", "2223003122003222"),
        ("phone", "+256772123456"),
        ("phone", "+256 (0) 772 123456"),
        ("phone", "+256-772-123-456"),
        ("phone", "256772123456"),
        ("phone", "0772 123456"),
        ("phone", "0772123456"),
        ("phone", "(0414) 345678"),
        ("phone", "+1 (415) 555-2671"),
        ("phone", "00442079460958"),
        ("phone", "+44 20 7946 0958"),
        ("phone", "٠٧٧٢١٢٣٤٥٦"),
        ("iban", "GB82 WEST 1234 5698 7654 32"),
        ("iban", "DE89370400440532013000"),
        ("iban", "MT84MALT011000012345MTLCAST001S"),
        ("iban", "nl91 abna 0417 1643 00"),
        ("nin", "CM930121003EGE"),
        ("nin", "cf85023100xyza"),
        ("staff_number", "STAFF-123456"),
    ],
)
@pytest.mark.parametrize(
    "around", ["{}", "Please use {}, thanks.", 'x = "\\n{}"', "({})", "first line\n{}\nlast", "é {} é"]
)
def test_a_value_is_found_alone_and_within_a_text(kind, value, around):
    assert found(around.format(value)) == [(kind, value)]


@pytest.mark.parametrize(
    "text",
    [
        "Revenue was 1,250,000 UGX at 10:30 on 2026-04-01, up 12.5 % from 1,100,000.",
        "4111111111111112",  # Luhn's checksum is wrong
        "9111111111111111 1234567890123452",  # no issuer's
        "GB82 WEST 1234 5698 7654 33",  # its checksum is wrong
        "order 772123456, invoice 20260401123",
        "left-pad@1.2.3 and @alice",
        "B1234567",  # a passport's number, or any order's
        "CMS2026 is out; CM is a code",
        "3f2504e0-4f89-41d3-9a0c-0305e82c3301",
        "+99912345678",
        "lat 0.347596, long 32.582520",
        "IMEI 490154203237518, 356938035643809",  # Luhn's checksum is right, and no issuer has that length
        "EAN 4006381333931, 4012345678901, ISBN 978-3-16-148410-0",
        "at 1743465600000 ms, 1743465600 s, 2026-04-01T10:30:00.123456Z",
        "build 20260401.123456, commit 4f2a9c1d7e8b, v1.22.333.4444",
        "sha256 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
        "order 5500000000000005, invoice 4000000000000000",
        "192.168.100.200:8080, 10.0.0.1/24, 00:1A:2B:3C:4D:5E, fe80::1",
        "UG82 WEST 1234 5698 7654 32, GB82 WEST 1234 5698 7654 3",  # no country of IBANs; too short
        "CM93012100, XM930121003EGE, CX930121003EGE, CM930121003EGEX",
        "decorator @app.route, git@github, user@localhost, a @ b.c",
        "1,250,000 UGX; 12 500 000; 3.14159265358979",
        "call 112, 911, 0800",
    ],
)
def test_what_only_looks_like_it_is_left_alone(text):
    assert found(text) == []


def test_values_among_other_numbers_are_told_from_them():
    text = (
        "2 cards: 4111 1111 1111 1111 2 and 1 5500000000000004; call 0772 123456 2 times, "
        "GB82 WEST 1234 5698 7654 32 and DE89370400440532013000"
    )
    assert [value for _, value in found(text)] == [
        "4111 1111 1111 1111",
        "5500000000000004",
        "0772 123456",
        "GB82 WEST 1234 5698 7654 32",
        "DE89370400440532013000",
    ]


@pytest.mark.parametrize(
    "text",
    ["My passport number is B1234567.", "passport no: B1234567", "Passport #B1234567", "pasipoti B1234567"],
)
def test_a_passports_number_is_told_by_the_word_beside_it(text):
    assert found(text) == [("passport", "B1234567")]


def test_a_passports_number_is_told_by_the_name_of_its_field():
    assert found("B1234567", "passport_number") == [("passport", "B1234567")]
    assert found("B1234567", "order_number") == []


def test_a_passports_machine_readable_zone_is_told_by_its_check_digits():
    # ICAO 9303, part 4, appendix A.
    zone = "P<UTOERIKSSON<<ANNA<MARIA<<<<<<<<<<<<<<<<<<<\nL898902C36UTO7408122F1204159ZE184226B<<<<<10"
    assert found(zone) == [("passport", zone)]
    assert found(zone.replace("ZE184226B<<<<<10", "ZE184226B<<<<<19")) != [("passport", zone)]


def test_what_is_found_first_does_not_hide_what_overlaps_with_it_in_part():
    assert found("0772123456@mtn.co.ug") == [("email", "0772123456@mtn.co.ug")]


def test_kinds_that_are_not_asked_for_are_not_looked_for():
    only_email = Detector(["email"], (), {})
    assert found("alice@example.com 4111111111111111", detector=only_email) == [("email", "alice@example.com")]


def test_numbers_of_other_countries_are_known_without_their_code_where_they_are_configured():
    assert found("020 7946 0958") == []
    assert found("020 7946 0958", detector=Detector(["phone"], ("UG", "GB"), {})) == [("phone", "020 7946 0958")]
    assert found("(415) 555-2671", detector=Detector(["phone"], ("US",), {})) == [("phone", "(415) 555-2671")]


def test_a_date_is_no_number_of_a_country_that_has_numbers_of_eight_digits():
    norwegian = Detector(["phone"], ("NO",), {})
    assert found("2012-12-11", detector=norwegian) == []
    assert found("2212 12 11", detector=norwegian) == [("phone", "2212 12 11")]
    assert found("0772123456/0414 345678") == [("phone", "0772123456"), ("phone", "0414 345678")]
    assert found("2026-04-01 0772 123456") == [("phone", "0772 123456")]


def test_a_text_of_numbers_alone_is_checked_so_often_and_no_more(monkeypatch):
    checks = []
    monkeypatch.setattr(numbers, "_is_valid", lambda digits, region: checks.append(digits))
    found(" ".join(f"0{n:03d} {n:06d}" for n in range(10_000)), detector=Detector(["phone"], ("UG",), {}))
    assert 0 < len(checks) <= numbers._MOST_CHECKS
