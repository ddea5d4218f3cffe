from typing import Annotated, Literal

import msgspec
import pytest

from tollhouse.kit.validation import OutsideId, decode_json, printable


class Leg(msgspec.Struct, forbid_unknown_fields=True):
    mode: Literal["road", "rail"]
    length_km: Annotated[int, msgspec.Meta(ge=1)] = 1


class Journey(msgspec.Struct, forbid_unknown_fields=True):
    traveller: OutsideId
    legs: list[Leg] = []
    return_leg: Annotated[Leg | None, msgspec.Meta(description="the way back")] = None


DECODER = msgspec.json.Decoder(Journey)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"{}", "traveller: is required"),
        (b'{"traveller": 1, "leg": []}', "leg: unknown field; did you mean 'legs'?"),
        (b'{"traveller": 1, "colour": 1}', "colour: unknown field; known are traveller, legs, return_leg"),
        (b'{"traveller": 1, "legs": [{}]}', "legs[0].mode: is required"),
        (b'{"traveller": 1, "legs": [{"mode": "rail", "length": 1}]}', "legs[0].length: unknown field; did you mean"),
        (b'{"traveller": 1, "legs": [{"mode": "sea"}]}', "legs[0].mode: expected one of rail, road"),
        (b'{"traveller": 1, "return_leg": {"mode": "sea"}}', "return_leg.mode: expected one of rail, road"),
        (b'{"traveller": 1, "legs": [{"mode": "rail", "length_km": 0}]}', "legs[0].length_km: expected `int` >= 1"),
        (b'{"traveller": 1.5}', "traveller: expected `int | str`, got `float`"),
        (b'{"traveller": ""}', "traveller: expected `str` of length >= 1"),
        (b'{"traveller": -1}', "traveller: expected `int` >= 0"),
        (b'{"traveller": true}', "traveller: expected `int | str`, got `bool`"),
        (b"[]", "the body: expected `object`, got `array`"),
        (b"", "the body is not valid JSON"),
        (b'{"traveller": 1', "the body is not valid JSON"),
        (b'{"traveller": "\xff"}', "the body is not valid JSON"),
        (b"[" * 100_000, "the body"),
    ],
)
def test_what_is_wrong_is_told_by_field(body, message):
    with pytest.raises(ValueError) as caught:
        decode_json(DECODER, body)
    assert str(caught.value).startswith(message)


def test_deep_nesting_is_an_error_like_any_other():
    with pytest.raises(ValueError, match="nested too deeply"):
        decode_json(msgspec.json.Decoder(object), b"[" * 200_000 + b"]" * 200_000)


def test_a_message_never_shows_a_value():
    secret = b"sk-very-secret"
    for body in (
        b'{"traveller": 1, "legs": [{"mode": "%b"}]}' % secret,
        b'{"traveller": 1, "legs": "%b"}' % secret,
        b'{"traveller": "%b"}' % (secret * 20),
    ):
        with pytest.raises(ValueError) as caught:
            decode_json(DECODER, body)
        assert secret.decode() not in str(caught.value)


def test_an_unknown_fields_name_is_shown_in_part():
    with pytest.raises(ValueError) as caught:
        decode_json(DECODER, b'{"traveller": 1, "%b": 1}' % (b"x" * 5000))
    assert len(str(caught.value)) < 200


def test_a_good_body_is_decoded():
    journey = decode_json(DECODER, b'{"traveller": "anna", "legs": [{"mode": "rail"}]}')
    assert journey == Journey("anna", [Leg("rail")])


@pytest.mark.parametrize("text", ["a", "sales-summary", "Zürich 8", "x" * 64])
def test_a_printable_text_is_taken_as_it_is(text):
    assert printable("name", text, 64) == text


@pytest.mark.parametrize("text", ["", "x" * 65, "a\nb", "a\x00b", "a\u202eb", "\ud800", "a\u2028b"])
def test_a_text_that_is_empty_or_long_or_hides_something_is_refused(text):
    with pytest.raises(ValueError, match="name: expected 1 to 64 printable characters"):
        printable("name", text, 64)
