from __future__ import annotations

from contextlib import suppress

import pytest

from netcore import wire
from netcore.errors import FrameError
from netcore.records import Records

KEY_A = b"\x01" * 32
KEY_B = b"\x02" * 32

# length | body | first 16 bytes of HMAC-SHA256(KEY_A, 64-bit sequence | body), by another program
RECORD_0 = bytes.fromhex("000005 68656c6c6f f06a98d13a8a97e30f75e3a69407653f")
RECORD_1 = bytes.fromhex("000001 21 3ad0834290b904a1a69a19ca71955c17")


def pair() -> tuple[Records, Records]:
    return Records(KEY_A, KEY_B), Records(KEY_B, KEY_A)


def test_seal_matches_the_vectors() -> None:
    sender = Records(KEY_A, KEY_B)
    assert sender.seal(b"hello") == RECORD_0
    assert sender.seal(b"!") == RECORD_1


def test_seal_of_nothing_is_nothing() -> None:
    assert Records(KEY_A, KEY_B).seal(b"") == b""


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_seal_and_open_take_any_bytes_like(kind: type[bytes]) -> None:
    sender, receiver = pair()
    assert receiver.open(kind(sender.seal(kind(b"hello")))) == b"hello"


@pytest.mark.parametrize(("size", "records"), [(1, 1), (32_768, 1), (32_769, 2), (100_000, 4)])
def test_seal_cuts_into_bodies_of_32_kib(size: int, records: int) -> None:
    sender, receiver = pair()
    data = bytes(range(256)) * (size // 256 + 1)
    sealed = sender.seal(data[:size])
    assert len(sealed) == size + records * (wire.RECORD_LENGTH_BYTES + wire.RECORD_TAG_BYTES)
    assert receiver.open(sealed) == data[:size]


def test_open_one_byte_at_a_time_returns_a_body_only_when_its_tag_is_there() -> None:
    receiver = Records(KEY_B, KEY_A)
    got = [receiver.open(bytes([byte])) for byte in RECORD_0 + RECORD_1]
    assert got == [b""] * 23 + [b"hello"] + [b""] * 19 + [b"!"]
    assert receiver.buffered == 0


def test_open_returns_whole_records_and_keeps_the_start_of_the_next() -> None:
    receiver = Records(KEY_B, KEY_A)
    assert receiver.open(RECORD_0 + RECORD_1[:7]) == b"hello"
    assert receiver.buffered == 7
    assert receiver.open(RECORD_1[7:]) == b"!"


@pytest.mark.parametrize("offset", range(len(RECORD_0)))
@pytest.mark.parametrize("mask", [0x01, 0x80])
def test_open_with_any_byte_changed_returns_nothing(offset: int, mask: int) -> None:
    receiver = Records(KEY_B, KEY_A)
    bent = bytearray(RECORD_0)
    bent[offset] ^= mask
    got = b""
    with suppress(FrameError):  # none: the length says more, so it waits for bytes
        got = receiver.open(bytes(bent))
    assert got == b""


def test_open_of_a_repeated_record_raises_bad_tag() -> None:
    receiver = Records(KEY_B, KEY_A)
    receiver.open(RECORD_0)
    with pytest.raises(FrameError) as caught:
        receiver.open(RECORD_0)
    assert (caught.value.reason, caught.value.offset) == ("bad_tag", 8)


def test_open_of_a_record_out_of_order_raises_bad_tag() -> None:
    with pytest.raises(FrameError, match="bad_tag"):
        Records(KEY_B, KEY_A).open(RECORD_1)


def test_open_of_an_own_record_sent_back_raises_bad_tag() -> None:
    sender = Records(KEY_A, KEY_B)
    with pytest.raises(FrameError, match="bad_tag"):
        sender.open(sender.seal(b"hello"))


def test_open_with_a_good_and_a_bad_record_at_once_raises() -> None:
    with pytest.raises(FrameError, match="bad_tag"):
        Records(KEY_B, KEY_A).open(RECORD_0 + RECORD_0)


@pytest.mark.parametrize(
    ("length", "reason"), [("000000", "bad_body"), ("008001", "too_big"), ("ffffff", "too_big")]
)
def test_open_of_a_length_that_cannot_be_raises_on_the_length(length: str, reason: str) -> None:
    with pytest.raises(FrameError) as caught:
        Records(KEY_B, KEY_A).open(bytes.fromhex(length))
    assert (caught.value.reason, caught.value.offset) == (reason, 0)


def test_open_after_an_error_stays_broken() -> None:
    receiver = Records(KEY_B, KEY_A)
    for data in (b"\xff\xff\xff", RECORD_0, b""):
        with pytest.raises(FrameError, match="too_big"):
            receiver.open(data)
    assert receiver.buffered == 0


def test_buffered_never_exceeds_one_record() -> None:
    sender, receiver = pair()
    sealed = sender.seal(bytes(200_000))
    largest = wire.RECORD_LENGTH_BYTES + wire.MAX_RECORD_BODY_BYTES + wire.RECORD_TAG_BYTES
    for start in range(0, len(sealed), 777):
        receiver.open(sealed[start : start + 777])
        assert receiver.buffered < largest


def test_repr_shows_no_key() -> None:
    records = Records(KEY_A, KEY_B)
    records.seal(b"x")
    assert repr(records) == "<Records sealed=1 opened=0>"


def test_broken_records_raise_a_new_error_each_time() -> None:
    records = Records(b"k" * 32, b"k" * 32)
    errors = []
    for _ in range(2):
        with pytest.raises(FrameError) as caught:
            records.open(bytes.fromhex("ffffff"))
        errors.append(caught.value)
    first, second = errors
    assert first is not second
    assert (first.reason, first.offset) == (second.reason, second.offset)
