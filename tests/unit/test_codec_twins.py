"""The two codecs agree on random input: values, errors, the words of the errors."""

from __future__ import annotations

import random
from types import ModuleType
from typing import Any

import pytest

from netcore import _backend, wire
from netcore.errors import FrameError
from netcore.route import RouteRule
from support.backends import fast_is_built

pytestmark = pytest.mark.skipif(not fast_is_built(), reason="compiled kernels not built")

SEEDS = 20
OPERATIONS = 5_000  # per seed: 10**5 in all

FIELDS = ("kind", "argument", "ttl", "from_service", "to_service", "stream_id", "meta", "from_node")
MESSAGE_FIELDS = ("from_node", "from_service", "to_service", "stream_id", "meta", "ttl")
SIZES = {"kind": 3, "meta": 3, "ttl": 255, "from_service": 255, "to_service": 255}
ODD_VALUES: tuple[object, ...] = (
    None, True, False, 0.0, 1.5, float("nan"), "1", b"\x01", (), [1], -1, -(1 << 31), -(1 << 63),
    -(1 << 64), -(10**40), 4, 256, (1 << 31) - 1, 1 << 31, (1 << 32) - 2, (1 << 32) - 1, 1 << 32,
    1 << 63, 1 << 64, 10**40, 10**5000, 2**64 + 1,
)  # fmt: skip


def outcome(function: Any, *args: Any, **kwargs: Any) -> tuple[object, ...]:
    """Return what a call does, comparable between the twins."""
    try:
        return "value", shown(function(*args, **kwargs))
    except FrameError as error:
        return "FrameError", error.reason, error.offset, str(error)
    except (TypeError, ValueError) as error:
        return type(error).__name__, str(error)


def shown(value: Any) -> object:
    if type(value).__name__ == "Message":
        names = ("payload", "route", "sender_verified", *MESSAGE_FIELDS)
        fields = tuple((name, repr(getattr(value, name))) for name in names)
        return repr(value), hash(value), fields
    return repr(value)


def odd(rnd: random.Random, name: str) -> object:
    """Return a value for a field: mostly a good one."""
    if rnd.random() < 0.06:
        return rnd.choice(ODD_VALUES)
    if name == "from_node" and rnd.random() < 0.3:
        return None
    return rnd.choice((0, 1, rnd.randint(0, SIZES.get(name, 0xFFFF_FFFE))))


def random_body(rnd: random.Random) -> Any:
    data = rnd.randbytes(rnd.choice((0, 3, 7, 8, 11, 12, 15, 16, 17, 40)))
    if data and rnd.random() < 0.7:
        data = bytes([data[0] & 0x3B]) + data[1:]
    form = rnd.randrange(12)
    if form == 0:
        return bytearray(data)
    if form == 1:
        return memoryview(data)
    if form == 2:
        return memoryview(data + data)[::2]
    return rnd.choice(ODD_VALUES) if form == 3 else data


def encode_header(rnd: random.Random) -> tuple[str, tuple[Any, ...], dict[str, Any]]:
    return "encode_header", tuple(odd(rnd, name) for name in FIELDS), {}


def decode_header(rnd: random.Random) -> tuple[str, tuple[Any, ...], dict[str, Any]]:
    return "decode_header", (random_body(rnd),), {}


def decode_message(rnd: random.Random) -> tuple[str, tuple[Any, ...], dict[str, Any]]:
    body, node = random_body(rnd), odd(rnd, "link_node")
    if isinstance(body, bytes) and len(body) >= 12 and rnd.random() < 0.3:
        node = int.from_bytes(body[8:12], "big")
    return "decode_message", (body, node), {}


def encode_frame(rnd: random.Random) -> tuple[str, tuple[Any, ...], dict[str, Any]]:
    return "encode_frame", (odd(rnd, "ttl"), random_body(rnd)), {}


def make_message(rnd: random.Random) -> tuple[str, tuple[Any, ...], dict[str, Any]]:
    names = rnd.sample(MESSAGE_FIELDS, rnd.randint(0, len(MESSAGE_FIELDS)))
    kwargs: dict[str, Any] = {name: odd(rnd, name) for name in names}
    if rnd.random() < 0.5:
        rule = RouteRule(rnd.randint(0, 3), rnd.randint(0, 0xFFFF_FFFF))
        kwargs["route"] = rule if rnd.random() < 0.9 else rnd.choice(ODD_VALUES)
    if rnd.random() < 0.5:
        kwargs["sender_verified"] = rnd.choice((True, False, 0, 1, "", "yes", None))
    return "Message", (random_body(rnd),), kwargs


MAKERS = (encode_header, decode_header, decode_message, encode_frame, make_message)


@pytest.fixture(scope="module")
def twins() -> tuple[ModuleType, ModuleType]:
    return _backend.load("pure"), _backend.load("fast")


@pytest.mark.parametrize("seed", range(SEEDS))
def test_codec_twins_agree_on_random_calls(seed: int, twins: tuple[ModuleType, ModuleType]) -> None:
    rnd = random.Random(seed)
    for _ in range(OPERATIONS * 4 // 5):
        name, args, kwargs = rnd.choice(MAKERS)(rnd)
        ours, theirs = (outcome(getattr(twin, name), *args, **kwargs) for twin in twins)
        assert ours == theirs, (seed, name, args, kwargs)


def splitter_operation(rnd: random.Random) -> tuple[str, tuple[Any, ...]]:
    draw = rnd.random()
    if draw < 0.5:
        return "next_frame", ()
    if draw < 0.52:
        return "take_rest", ()
    if draw < 0.54:
        return "receive_data", (rnd.choice(ODD_VALUES),)
    body = rnd.randbytes(rnd.randrange(30))
    data = bytes([rnd.randrange(256), 0, 0, len(body)]) + body
    cut = rnd.randrange(len(data) + 1)
    return "receive_data", (rnd.choice((data, data, data[:cut], data[cut:], bytearray(data))),)


@pytest.mark.parametrize("seed", range(SEEDS))
def test_splitter_twins_agree_on_random_calls(
    seed: int, twins: tuple[ModuleType, ModuleType]
) -> None:
    rnd = random.Random(seed)
    ours, theirs = (twin.FrameSplitter(40) for twin in twins)
    broken = 0
    for _ in range(OPERATIONS // 5):
        name, args = splitter_operation(rnd)
        result = outcome(getattr(ours, name), *args)
        assert result == outcome(getattr(theirs, name), *args), (seed, name, args)
        assert ours.buffered == theirs.buffered
        broken += result[0] == "FrameError"
        if broken > 3:
            limit, broken = rnd.choice((0, 40, 40, wire.MAX_FRAME_BYTES)), 0
            ours, theirs = (twin.FrameSplitter(limit) for twin in twins)


@pytest.mark.parametrize(
    "value", ODD_VALUES, ids=lambda value: repr(value)[:20] if value != 10**5000 else "huge"
)
@pytest.mark.parametrize("name", FIELDS)
def test_codec_twins_agree_on_odd_values(
    name: str, value: object, twins: tuple[ModuleType, ModuleType]
) -> None:
    fields: dict[str, Any] = dict.fromkeys(FIELDS, 0) | {"kind": 1, name: value}
    ours, theirs = (outcome(twin.encode_header, **fields) for twin in twins)
    assert ours == theirs
