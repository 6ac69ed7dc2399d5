from __future__ import annotations

import hmac
import random
from collections.abc import Iterator
from types import ModuleType

import pytest

from netcore import _backend, wire
from netcore._backend import kernels as types

KEY_A = b"\x01" * 32
KEY_B = b"\x02" * 32

# length | body | first 16 bytes of HMAC-SHA256(KEY_A, 64-bit sequence | body), by another program
RECORD_0 = bytes.fromhex("000005 68656c6c6f f06a98d13a8a97e30f75e3a69407653f")
RECORD_1 = bytes.fromhex("000001 21 3ad0834290b904a1a69a19ca71955c17")


MAX_RECORD = wire.RECORD_LENGTH_BYTES + wire.MAX_RECORD_BODY_BYTES + wire.RECORD_TAG_BYTES


@pytest.fixture
def sender(kernels: ModuleType) -> types.Records:
    records: types.Records = kernels.Records(KEY_A, KEY_B)
    return records


@pytest.fixture
def receiver(kernels: ModuleType) -> types.Records:
    records: types.Records = kernels.Records(KEY_B, KEY_A)
    return records


def why(records: types.Records) -> tuple[str, int] | None:
    """Return reason and offset of what broke it."""
    error = records.error
    return None if error is None else (error.reason, error.offset)


# -- sealing ---------------------------------------------------------------------------------------


def test_seal_matches_the_vectors(sender: types.Records) -> None:
    assert sender.seal(b"hello") == RECORD_0
    assert sender.seal(b"!") == RECORD_1


def test_seal_of_nothing_is_nothing(sender: types.Records) -> None:
    assert sender.seal(b"") == b""


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_seal_and_open_take_any_bytes_like(
    sender: types.Records, receiver: types.Records, kind: type[bytes]
) -> None:
    assert receiver.open(kind(sender.seal(kind(b"hello")))) == b"hello"


@pytest.mark.parametrize("data", [None, "text", 5])
def test_seal_and_open_take_nothing_else(sender: types.Records, data: bytes) -> None:
    for function in (sender.seal, sender.open):
        with pytest.raises(TypeError):
            function(data)


@pytest.mark.parametrize(("size", "records"), [(1, 1), (32_768, 1), (32_769, 2), (100_000, 4)])
def test_seal_cuts_into_bodies_of_32_kib(
    sender: types.Records, receiver: types.Records, size: int, records: int
) -> None:
    data = (bytes(range(256)) * (size // 256 + 1))[:size]
    sealed = sender.seal(data)
    assert len(sealed) == size + records * (wire.RECORD_LENGTH_BYTES + wire.RECORD_TAG_BYTES)
    assert receiver.open(sealed) == data


@pytest.mark.parametrize("size", [1, 31, 63, 64, 65, 127, 200])
def test_tag_is_that_of_hmac_for_keys_of_any_size(kernels: ModuleType, size: int) -> None:
    key = random.Random(size).randbytes(size)
    tag = hmac.digest(key, bytes(8) + b"body", "sha256")[:16]
    assert kernels.Records(key, b"").seal(b"body") == b"\x00\x00\x04body" + tag


# -- opening ---------------------------------------------------------------------------------------


def test_open_one_byte_at_a_time_returns_a_body_only_when_its_tag_is_there(
    receiver: types.Records,
) -> None:
    got = [receiver.open(bytes([byte])) for byte in RECORD_0 + RECORD_1]
    assert got == [b""] * 23 + [b"hello"] + [b""] * 19 + [b"!"]
    assert receiver.buffered == 0


def test_open_returns_whole_records_and_keeps_the_start_of_the_next(
    receiver: types.Records,
) -> None:
    assert receiver.open(RECORD_0 + RECORD_1[:7]) == b"hello"
    assert receiver.buffered == 7
    assert receiver.open(RECORD_1[7:]) == b"!"


@pytest.mark.parametrize("offset", range(len(RECORD_0)))
@pytest.mark.parametrize("mask", [0x01, 0x80])
def test_open_with_any_byte_changed_returns_nothing(
    receiver: types.Records, offset: int, mask: int
) -> None:
    bent = bytearray(RECORD_0)
    bent[offset] ^= mask
    assert receiver.open(bytes(bent)) == b""
    # Without an error the length says more, so it waits for bytes.
    assert receiver.error is not None or receiver.buffered == len(RECORD_0)


def test_open_of_a_repeated_record_is_a_bad_tag(receiver: types.Records) -> None:
    receiver.open(RECORD_0)
    assert receiver.error is None
    assert receiver.open(RECORD_0) == b""
    assert why(receiver) == ("bad_tag", 8)


def test_open_of_a_record_out_of_order_is_a_bad_tag(receiver: types.Records) -> None:
    assert receiver.open(RECORD_1) == b""
    assert why(receiver) == ("bad_tag", 4)


def test_open_of_an_own_record_sent_back_is_a_bad_tag(sender: types.Records) -> None:
    assert sender.open(sender.seal(b"hello")) == b""
    assert why(sender) == ("bad_tag", 8)


def test_open_returns_what_came_before_a_bad_record_and_nothing_behind(
    receiver: types.Records,
) -> None:
    assert receiver.open(RECORD_0 + RECORD_0 + RECORD_1) == b"hello"
    assert why(receiver) == ("bad_tag", 8)
    assert receiver.buffered == 0


@pytest.mark.parametrize(
    ("length", "reason"), [("000000", "bad_body"), ("008001", "too_big"), ("ffffff", "too_big")]
)
def test_open_of_a_length_that_cannot_be_is_an_error_of_the_length(
    receiver: types.Records, length: str, reason: str
) -> None:
    assert receiver.open(bytes.fromhex(length)) == b""
    assert why(receiver) == (reason, 0)


def test_open_after_an_error_stays_broken(receiver: types.Records) -> None:
    for data in (b"\xff\xff\xff", RECORD_0, b""):
        assert receiver.open(data) == b""
        assert why(receiver) == ("too_big", 0)
    assert receiver.buffered == 0


def test_error_is_a_new_one_each_time(receiver: types.Records) -> None:
    receiver.open(bytes.fromhex("ffffff"))  # one that is kept would keep its callers
    assert receiver.error is not receiver.error


def test_buffered_never_exceeds_one_record(sender: types.Records, receiver: types.Records) -> None:
    sealed = sender.seal(bytes(200_000))
    for start in range(0, len(sealed), 777):
        receiver.open(sealed[start : start + 777])
        assert receiver.buffered < MAX_RECORD


def test_repr_shows_no_key(sender: types.Records) -> None:
    sender.seal(b"x")
    assert repr(sender) == "<Records sealed=1 opened=0>"


# -- the twins -------------------------------------------------------------------------------------


def spoilt(rnd: random.Random, sealed: bytes) -> bytes:
    """Return a stream, or one in which something is wrong."""
    at = rnd.randrange(len(sealed))
    end = at + rnd.choice((1, 16, 19, 100))
    return rnd.choice((
        sealed,
        sealed,
        sealed[:at] + bytes([sealed[at] ^ 1 << rnd.randrange(8)]) + sealed[at + 1 :],
        sealed[:at] + sealed[end:],
        sealed[:at] + sealed[at:end] + sealed[at:],
        sealed[:at] + rnd.randbytes(end - at) + sealed[end:],
    ))  # fmt: skip


def cuts(rnd: random.Random, data: bytes) -> Iterator[bytes]:
    """Cut a stream anywhere."""
    while data:
        n = rnd.choice((1, 2, 3, 19, 20, 100, 5_000, 32_787, 60_000, len(data)))
        yield data[:n]
        data = data[n:]


@pytest.mark.parametrize("seed", range(300))
def test_twins_agree_on_random_streams(seed: int) -> None:
    fast = pytest.importorskip("netcore._fast.records", exc_type=ModuleNotFoundError).Records
    pure = _backend.load("pure").Records
    rnd = random.Random(seed)
    keys = rnd.randbytes(32), rnd.randbytes(32)
    senders = pure(*keys), fast(*keys)
    receivers = pure(*reversed(keys)), fast(*reversed(keys))
    stream = b""
    for _ in range(rnd.randrange(1, 12)):
        data = rnd.randbytes(rnd.choice((0, 1, 5, 64, 100, 4_000, 32_767, 32_768, 70_000)))
        ours, theirs = (records.seal(data) for records in senders)
        assert ours == theirs
        stream += ours
    for piece in cuts(rnd, spoilt(rnd, stream + b"\0")):
        ours, theirs = (records.open(piece) for records in receivers)
        assert ours == theirs
        assert why(receivers[0]) == why(receivers[1])
        assert receivers[0].buffered == receivers[1].buffered
        assert repr(receivers[0]) == repr(receivers[1])
