"""Bodies of PING and PONG frames."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from netcore import wire
from netcore.errors import FrameError
from netcore.pingpong import Ping, decode_ping, decode_pong, encode_ping, encode_pong

# token 0x0102030405060708, interval 200 = 0x00C8, flags 1
PING = bytes.fromhex("0102030405060708 00C8 01")
PONG = bytes.fromhex("0102030405060708")


def test_ping_is_encoded_as_the_protocol_says() -> None:
    assert encode_ping(0x0102030405060708, 200, wire.PING_FLAG_SUSPECT) == PING
    assert len(PING) == wire.PING_BYTES


def test_ping_is_decoded_from_any_bytes_like() -> None:
    for body in (PING, bytearray(PING), memoryview(PING)):
        assert decode_ping(body) == Ping(0x0102030405060708, 200, 1)


def test_ping_with_unknown_flags_is_accepted() -> None:
    assert decode_ping(bytes.fromhex("0000000000000000 FFFF FE")) == Ping(0, 65_535, 0xFE)


def test_pong_is_encoded_as_the_protocol_says() -> None:
    assert encode_pong(0x0102030405060708) == PONG
    assert len(PONG) == wire.PONG_BYTES


def test_pong_is_decoded_from_any_bytes_like() -> None:
    for body in (PONG, bytearray(PONG), memoryview(PONG)):
        assert decode_pong(body) == 0x0102030405060708


@pytest.mark.parametrize(("decode", "body"), [(decode_ping, PING), (decode_pong, PONG)])
def test_body_cut_anywhere_is_truncated_there(
    decode: Callable[[bytes], object], body: bytes
) -> None:
    for size in range(len(body)):
        with pytest.raises(FrameError) as caught:
            decode(body[:size])
        assert (caught.value.reason, caught.value.offset) == (wire.FRAME_TRUNCATED, size)


@pytest.mark.parametrize(("decode", "body"), [(decode_ping, PING), (decode_pong, PONG)])
def test_body_too_long_is_bad_at_its_surplus(
    decode: Callable[[bytes], object], body: bytes
) -> None:
    with pytest.raises(FrameError) as caught:
        decode(body + b"\0")
    assert (caught.value.reason, caught.value.offset) == (wire.FRAME_BAD_BODY, len(body))
