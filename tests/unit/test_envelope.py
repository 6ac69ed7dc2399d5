"""The RPC envelope."""

from __future__ import annotations

import random

import pytest

from netcore import errors, wire
from netcore.envelope import (
    Answer,
    Request,
    decode_envelope,
    encode_error,
    encode_ok,
    encode_request,
    error_of,
)
from netcore.errors import CallError, FrameError

CALL_ID = 0x0102030405060708
# type 1, call id, 5000 ms = 0x1388, "1 2"
REQUEST = bytes.fromhex("01 0102030405060708 00001388 312032")
# type 2, call id, "3"
OK = bytes.fromhex("02 0102030405060708 33")
# type 3, call id, code 400 = 0x0190, "nö" in UTF-8
ERROR = bytes.fromhex("03 0102030405060708 0190 6EC3B6")


def bad(payload: bytes) -> tuple[str, int]:
    with pytest.raises(FrameError) as caught:
        decode_envelope(payload)
    return caught.value.reason, caught.value.offset


def test_request_is_encoded_as_the_protocol_says() -> None:
    assert encode_request(CALL_ID, 5_000, b"1 2") == REQUEST


def test_ok_is_encoded_as_the_protocol_says() -> None:
    assert encode_ok(CALL_ID, b"3") == OK


def test_error_is_encoded_as_the_protocol_says() -> None:
    assert encode_error(CALL_ID, 400, "n\u00f6") == ERROR


def test_payloads_may_be_any_bytes_like() -> None:
    for payload in (bytearray(b"3"), memoryview(b"3")):
        assert encode_ok(CALL_ID, payload) == OK
        assert encode_request(CALL_ID, 0, payload)[-1:] == b"3"


@pytest.mark.parametrize(
    ("time_left_ms", "field"), [(-5, "00000000"), (0, "00000000"), (1 << 40, "FFFFFFFF")]
)
def test_time_left_out_of_range_saturates(time_left_ms: int, field: str) -> None:
    assert encode_request(0, time_left_ms, b"")[9:13] == bytes.fromhex(field)


@pytest.mark.parametrize("code", [-1, 0, 65_536])
def test_error_code_that_does_not_fit_raises_value_error(code: int) -> None:
    with pytest.raises(ValueError, match=r"1\.\.65535"):
        encode_error(CALL_ID, code)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("x" * 201, 200),
        ("\u00e4" * 101, 200),
        ("x" + "\u00e4" * 100, 199),
        ("\U0001f600" * 60, 200),
    ],
)
def test_error_text_is_cut_between_characters(text: str, size: int) -> None:
    data = encode_error(CALL_ID, 400, text)
    assert len(data) == wire.RPC_ERROR_HEADER_BYTES + size
    answer = decode_envelope(data)
    assert isinstance(answer, Answer)
    assert text.startswith(answer.text)


def test_error_text_with_a_lone_surrogate_is_replaced() -> None:
    assert encode_error(CALL_ID, 400, "\ud800!")[11:] == b"?!"


def test_request_is_decoded_from_any_bytes_like() -> None:
    for payload in (REQUEST, bytearray(REQUEST), memoryview(REQUEST)):
        request = decode_envelope(payload)
        assert request == Request(CALL_ID, 5_000, b"1 2")
        assert isinstance(request.payload, bytes)


def test_ok_is_decoded_with_code_0() -> None:
    assert decode_envelope(OK) == Answer(CALL_ID, 0, b"3", "")


def test_error_is_decoded_with_its_text() -> None:
    assert decode_envelope(ERROR) == Answer(CALL_ID, 400, b"", "n\u00f6")


def test_empty_payloads_are_fine() -> None:
    assert decode_envelope(REQUEST[:13]) == Request(CALL_ID, 5_000, b"")
    assert decode_envelope(OK[:9]) == Answer(CALL_ID, 0, b"", "")
    assert decode_envelope(ERROR[:11]) == Answer(CALL_ID, 400, b"", "")


@pytest.mark.parametrize(("payload", "header"), [(REQUEST, 13), (OK, 9), (ERROR, 11)])
def test_header_cut_anywhere_is_truncated_there(payload: bytes, header: int) -> None:
    for size in range(header):
        assert bad(payload[:size]) == (wire.FRAME_TRUNCATED, size)


@pytest.mark.parametrize("kind", [0, 4, 255])
def test_unknown_type_is_bad_at_byte_0(kind: int) -> None:
    assert bad(bytes([kind]) + OK[1:]) == (wire.FRAME_BAD_BODY, 0)


def test_error_code_0_is_bad_at_the_code() -> None:
    assert bad(bytes.fromhex("03 0102030405060708 0000")) == (wire.FRAME_BAD_BODY, 9)


def test_error_text_too_long_is_bad_at_its_surplus() -> None:
    assert bad(ERROR[:11] + b"x" * 201) == (wire.FRAME_BAD_BODY, 211)


def test_error_text_that_is_not_utf8_is_bad_at_the_offending_byte() -> None:
    assert bad(ERROR[:11] + b"ab\xff") == (wire.FRAME_BAD_BODY, 13)


@pytest.mark.parametrize("seed", range(20))
def test_random_bytes_decode_or_raise_frame_error(seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(200):
        payload = bytes([rng.randrange(5)]) + rng.randbytes(rng.randrange(30))
        decoded = decode(payload)
        if isinstance(decoded, FrameError):
            assert 0 <= decoded.offset <= len(payload)
        else:
            assert again(decoded) == payload


def decode(payload: bytes) -> Request | Answer | FrameError:
    try:
        return decode_envelope(payload)
    except FrameError as exc:
        return exc


def again(decoded: Request | Answer) -> bytes:
    if isinstance(decoded, Request):
        return encode_request(*decoded)
    if decoded.code:
        return encode_error(decoded.call_id, decoded.code, decoded.text)
    return encode_ok(decoded.call_id, decoded.payload)


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (wire.RPC_LOCAL_TIMEOUT, errors.CallTimeout),
        (wire.RPC_SERVICE_NOT_FOUND, errors.ServiceNotFound),
        (wire.RPC_NOT_HANDLED, errors.NotHandled),
        (wire.RPC_INTERNAL, errors.RemoteFailure),
        (wire.RPC_DROPPED, errors.AnswerDropped),
        (wire.RPC_BUSY, errors.Busy),
        (200, CallError),
        (256, CallError),
    ],
)
def test_error_of_a_code_is_its_own_type(code: int, kind: type[CallError]) -> None:
    error = error_of(code, "why")
    assert type(error) is kind
    assert (error.code, error.text) == (code, "why")
