"""Frames and message headers, in both twins. Bytes are those of docs/protocol.md."""

from __future__ import annotations

import array
import copy
import enum
import pickle
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

from netcore import wire
from netcore.errors import FrameError
from netcore.route import RouteRule

DIRECT = bytes.fromhex("00 40 01 02  00 00 00 00")
#: kind, argument, ttl, from_service, to_service, stream_id, meta, from_node, size
DIRECT_FIELDS = (wire.ROUTE_DIRECT, 0, 64, 1, 2, 0, 0, None, 8)
NODE = bytes.fromhex("2B 42 21 22  00 00 00 DE  00 00 03 E8  00 00 00 6F")
NODE_FIELDS = (wire.ROUTE_NODE, 111, 66, 33, 34, 222, 3, 1000, 16)
KEY = bytes.fromhex("18 40 04 04  00 00 00 00  00 00 00 05")
KEY_FIELDS = (wire.ROUTE_KEY, 5, 64, 4, 4, 0, 0, None, 12)
SERVICE = bytes.fromhex("32 FF FE FD  FF FF FF FF  FF FF FF FE  FF FF FF FF")
SERVICE_FIELDS = (
    wire.ROUTE_SERVICE, 0xFFFF_FFFF, 255, 254, 253, 0xFFFF_FFFF, 2, 0xFFFF_FFFE, 16,
)  # fmt: skip
DIRECT_FROM = bytes.fromhex("21 00 00 FF  80 00 00 01  01 02 03 04")
DIRECT_FROM_FIELDS = (wire.ROUTE_DIRECT, 0, 0, 0, 255, 0x8000_0001, 1, 0x0102_0304, 12)

VECTORS = [
    pytest.param(DIRECT, DIRECT_FIELDS, id="direct"),
    pytest.param(NODE, NODE_FIELDS, id="node"),
    pytest.param(KEY, KEY_FIELDS, id="key"),
    pytest.param(SERVICE, SERVICE_FIELDS, id="service"),
    pytest.param(DIRECT_FROM, DIRECT_FROM_FIELDS, id="direct-from"),
]

#: What a header argument may be, and what not: (field, largest).
LIMITS = [
    ("kind", 3),
    ("argument", 0xFFFF_FFFF),
    ("ttl", 255),
    ("from_service", 255),
    ("to_service", 255),
    ("stream_id", 0xFFFF_FFFF),
    ("meta", 3),
    ("from_node", 0xFFFF_FFFE),
]
ZEROS = {name: 0 for name, _ in LIMITS}


class Number(enum.IntEnum):
    TWO = 2


def frame_error(function: Callable[..., object], *args: object) -> tuple[str, int]:
    with pytest.raises(FrameError) as caught:
        function(*args)
    return caught.value.reason, caught.value.offset


# -- header --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("data", "fields"), VECTORS)
def test_encode_header_vector_gives_its_bytes(
    kernels: ModuleType, data: bytes, fields: tuple[Any, ...]
) -> None:
    assert kernels.encode_header(*fields[:8]) == data


@pytest.mark.parametrize(("data", "fields"), VECTORS)
def test_decode_header_vector_gives_its_fields(
    kernels: ModuleType, data: bytes, fields: tuple[Any, ...]
) -> None:
    assert kernels.decode_header(data) == fields


@pytest.mark.parametrize(("data", "fields"), VECTORS)
def test_decode_header_ignores_what_follows(
    kernels: ModuleType, data: bytes, fields: tuple[Any, ...]
) -> None:
    assert kernels.decode_header(data + b"\xff" * 20) == fields


@pytest.mark.parametrize("make", [bytearray, memoryview])
def test_decode_header_takes_any_bytes_like(
    kernels: ModuleType, make: Callable[[bytes], object]
) -> None:
    assert kernels.decode_header(make(NODE)) == NODE_FIELDS


def test_decode_header_takes_a_view_with_gaps(kernels: ModuleType) -> None:
    spread = bytes(byte for pair in zip(NODE, NODE, strict=True) for byte in pair)
    assert kernels.decode_header(memoryview(spread)[::2]) == NODE_FIELDS


def test_decode_header_of_a_view_of_words_counts_bytes(kernels: ModuleType) -> None:
    words = memoryview(array.array("I", [0]))
    assert frame_error(kernels.decode_header, words) == (wire.FRAME_TRUNCATED, 4)


def test_decode_header_of_text_is_a_type_error(kernels: ModuleType) -> None:
    with pytest.raises(TypeError, match="bytes-like object is required, not 'str'"):
        kernels.decode_header("0040")


@pytest.mark.parametrize(("data", "fields"), VECTORS)
def test_decode_header_cut_anywhere_is_truncated_there(
    kernels: ModuleType, data: bytes, fields: tuple[Any, ...]
) -> None:
    for there in range(len(data)):
        assert frame_error(kernels.decode_header, data[:there]) == (wire.FRAME_TRUNCATED, there)


@pytest.mark.parametrize("version", [0x40, 0x80, 0xC0])
def test_decode_header_of_another_version_is_an_error(kernels: ModuleType, version: int) -> None:
    data = bytes([version]) + DIRECT[1:]
    assert frame_error(kernels.decode_header, data) == (wire.FRAME_BAD_VERSION, 0)


def test_decode_header_of_a_sealed_message_is_an_error(kernels: ModuleType) -> None:
    data = b"\x04" + DIRECT[1:]
    assert frame_error(kernels.decode_header, data) == (wire.FRAME_SEALED, 0)


@pytest.mark.parametrize(
    ("first", "size", "reason", "offset"),
    [
        (0xFF, 7, wire.FRAME_TRUNCATED, 7),
        (0xFF, 8, wire.FRAME_BAD_VERSION, 0),
        (0x3F, 8, wire.FRAME_SEALED, 0),
        (0x3B, 8, wire.FRAME_TRUNCATED, 8),
        (0x3B, 15, wire.FRAME_TRUNCATED, 15),
    ],
)
def test_decode_header_errors_come_in_order(
    kernels: ModuleType, first: int, size: int, reason: str, offset: int
) -> None:
    data = bytes([first]) + bytes(size - 1)
    assert frame_error(kernels.decode_header, data) == (reason, offset)


@pytest.mark.parametrize(("field", "largest"), LIMITS)
def test_encode_header_takes_the_whole_range(kernels: ModuleType, field: str, largest: int) -> None:
    position = list(ZEROS).index(field)
    fields = ZEROS | {"kind": 1, field: largest}
    assert kernels.decode_header(kernels.encode_header(**fields))[position] == largest


@pytest.mark.parametrize(("field", "largest"), LIMITS)
@pytest.mark.parametrize("beyond", [-1, 1, 1 << 64, -(1 << 64)])
def test_encode_header_out_of_range_names_the_field(
    kernels: ModuleType, field: str, largest: int, beyond: int
) -> None:
    value = largest + beyond if beyond > 0 else beyond
    with pytest.raises(
        ValueError, match=rf"^{field} must be an int in 0\.\.{largest}, not {value}$"
    ):
        kernels.encode_header(**ZEROS | {field: value})


@pytest.mark.parametrize(("field", "largest"), LIMITS)
@pytest.mark.parametrize("value", [True, 1.0, "1", b"1"])
def test_encode_header_of_no_int_names_the_field(
    kernels: ModuleType, field: str, largest: int, value: object
) -> None:
    with pytest.raises(TypeError, match=rf"^{field} must be an int in 0\.\.{largest}, not "):
        kernels.encode_header(**ZEROS | {field: value})


def test_encode_header_takes_subclasses_of_int(kernels: ModuleType) -> None:
    fields = ZEROS | {"kind": Number.TWO, "meta": Number.TWO, "from_node": Number.TWO}
    expected = bytes.fromhex("32 00 00 00  00 00 00 00  00 00 00 02  00 00 00 00")
    assert kernels.encode_header(**fields) == expected


def test_encode_header_direct_writes_no_argument(kernels: ModuleType) -> None:
    assert kernels.encode_header(**ZEROS | {"argument": 7, "from_node": None}) == bytes(8)


# -- message -------------------------------------------------------------------------------------


def test_message_defaults(kernels: ModuleType) -> None:
    message = kernels.Message(b"hi")
    assert (message.payload, message.from_node, message.from_service, message.to_service) == (
        b"hi",
        None,
        0,
        0,
    )
    assert message.route == RouteRule.direct()
    assert (message.stream_id, message.meta, message.ttl) == (0, 0, 64)
    assert message.sender_verified is False


def full_message(kernels: ModuleType, **changes: object) -> Any:
    fields: dict[str, object] = {
        "payload": b"payload",
        "from_node": 1000,
        "from_service": 33,
        "to_service": 34,
        "route": RouteRule.node(111),
        "stream_id": 222,
        "meta": 3,
        "ttl": 66,
        "sender_verified": True,
    }
    fields |= changes
    return kernels.Message(fields.pop("payload"), **fields)


def test_message_keeps_what_it_was_given(kernels: ModuleType) -> None:
    message = full_message(kernels)
    assert (message.payload, message.from_node) == (b"payload", 1000)
    assert (message.from_service, message.to_service) == (33, 34)
    assert message.route == RouteRule.node(111)
    assert (message.stream_id, message.meta, message.ttl) == (222, 3, 66)
    assert message.sender_verified is True


CHANGES: list[dict[str, object]] = [
    {"payload": b"other"},
    {"from_node": None},
    {"from_node": 0},
    {"from_service": 1},
    {"to_service": 1},
    {"route": RouteRule.closest(111)},
    {"route": RouteRule.node(112)},
    {"route": RouteRule.direct()},
    {"stream_id": 1},
    {"meta": 1},
    {"ttl": 1},
    {"sender_verified": False},
]


@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_messages_that_differ_are_not_equal(kernels: ModuleType, change: dict[str, object]) -> None:
    assert full_message(kernels) != full_message(kernels, **change)


def test_messages_that_do_not_differ_are_equal(kernels: ModuleType) -> None:
    assert full_message(kernels) == full_message(kernels)
    assert hash(full_message(kernels)) == hash(full_message(kernels))


def test_message_equals_nothing_else(kernels: ModuleType) -> None:
    assert full_message(kernels) != b"payload"


def test_messages_without_sender_and_of_sender_zero_differ(kernels: ModuleType) -> None:
    assert kernels.Message(b"") != kernels.Message(b"", from_node=0)


@pytest.mark.parametrize("name", ["payload", "from_node", "route", "ttl", "brand_new"])
def test_message_is_immutable(kernels: ModuleType, name: str) -> None:
    message = full_message(kernels)
    with pytest.raises(AttributeError):
        setattr(message, name, 1)
    with pytest.raises(AttributeError):
        delattr(message, name)
    assert message == full_message(kernels)


def test_message_repr_shows_the_size_and_not_the_payload(kernels: ModuleType) -> None:
    assert repr(full_message(kernels)) == (
        "Message(<7 bytes>, from_node=1000, from_service=33, to_service=34, "
        "route=RouteRule.node(111), stream_id=222, meta=3, ttl=66, sender_verified=True)"
    )


@pytest.mark.parametrize(
    "again", [copy.copy, copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))]
)
@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_message_copied_is_equal(
    kernels: ModuleType, again: Callable[[Any], Any], change: dict[str, object]
) -> None:
    message = full_message(kernels, **change)
    assert again(message) == message


@pytest.mark.parametrize("payload", ["text", bytearray(b"x"), memoryview(b"x"), None, 1])
def test_message_payload_is_bytes(kernels: ModuleType, payload: object) -> None:
    with pytest.raises(TypeError, match=f"^payload must be bytes, not {type(payload).__name__}$"):
        kernels.Message(payload)


def test_message_route_is_a_route_rule(kernels: ModuleType) -> None:
    with pytest.raises(TypeError, match=r"^route must be a RouteRule, not int$"):
        kernels.Message(b"", route=1)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("from_node", 0xFFFF_FFFF),
        ("from_service", 256),
        ("to_service", -1),
        ("stream_id", 1 << 32),
        ("meta", 4),
        ("ttl", 256),
    ],
)
def test_message_field_out_of_range_is_named(kernels: ModuleType, field: str, value: int) -> None:
    with pytest.raises(ValueError, match=f"^{field} must be an int in 0.* not {value}$"):
        kernels.Message(b"", **{field: value})


# -- decode_message ------------------------------------------------------------------------------


def test_decode_message_takes_what_follows_the_header(kernels: ModuleType) -> None:
    expected = full_message(kernels, sender_verified=False)
    assert kernels.decode_message(NODE + b"payload", 7) == expected


def test_decode_message_without_payload_has_an_empty_one(kernels: ModuleType) -> None:
    assert kernels.decode_message(KEY, 7).payload == b""


def test_decode_message_direct_comes_from_the_link(kernels: ModuleType) -> None:
    message = kernels.decode_message(DIRECT, 7)
    assert (message.from_node, message.sender_verified) == (7, True)


def test_decode_message_routed_without_sender_comes_from_nobody(kernels: ModuleType) -> None:
    message = kernels.decode_message(KEY, 7)
    assert (message.from_node, message.sender_verified) == (None, False)


@pytest.mark.parametrize("data", [NODE, DIRECT_FROM])
def test_decode_message_from_another_node_is_not_verified(kernels: ModuleType, data: bytes) -> None:
    assert kernels.decode_message(data, 7).sender_verified is False


def test_decode_message_from_the_link_is_verified(kernels: ModuleType) -> None:
    assert kernels.decode_message(NODE, 1000).sender_verified is True


@pytest.mark.parametrize("make", [bytearray, memoryview])
def test_decode_message_copies_what_may_change(
    kernels: ModuleType, make: Callable[[Any], Any]
) -> None:
    buffer = bytearray(NODE + b"payload")
    message = kernels.decode_message(make(buffer), 7)
    buffer[:] = bytes(len(buffer))
    assert type(message.payload) is bytes
    assert message == full_message(kernels, sender_verified=False)


def test_decode_message_truncated_is_a_frame_error(kernels: ModuleType) -> None:
    assert frame_error(kernels.decode_message, NODE[:15], 7) == (wire.FRAME_TRUNCATED, 15)


@pytest.mark.parametrize(
    ("node", "error"), [(-1, ValueError), (1 << 32, ValueError), (None, TypeError)]
)
def test_decode_message_checks_the_node_of_the_link(
    kernels: ModuleType, node: Any, error: type[Exception]
) -> None:
    with pytest.raises(error, match=r"^link_node must be an int in 0"):
        kernels.decode_message(NODE, node)


# -- frames --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "body", "frame"),
    [
        (0x00, b"", "00 00 00 00"),
        (0x12, b"\x00\x01", "12 00 00 02 00 01"),
        (0xFF, b"abc", "FF 00 00 03 61 62 63"),
        (0x01, bytes(0x0102), "01 00 01 02" + " 00" * 0x0102),
    ],
)
def test_encode_frame_gives_kind_length_body(
    kernels: ModuleType, kind: int, body: bytes, frame: str
) -> None:
    assert kernels.encode_frame(kind, body) == bytes.fromhex(frame)


@pytest.mark.parametrize("make", [bytearray, memoryview])
def test_encode_frame_takes_any_bytes_like(
    kernels: ModuleType, make: Callable[[bytes], object]
) -> None:
    assert kernels.encode_frame(1, make(b"abc")) == bytes.fromhex("01 00 00 03 61 62 63")


def test_encode_frame_takes_the_longest_body(kernels: ModuleType) -> None:
    frame = kernels.encode_frame(1, bytes(wire.MAX_FRAME_BYTES))
    assert (frame[:4].hex(), len(frame)) == ("01ffffff", 4 + 0xFF_FFFF)


def test_encode_frame_of_a_longer_body_is_a_value_error(kernels: ModuleType) -> None:
    with pytest.raises(ValueError, match=r"^body must be at most 16777215 bytes, not 16777216$"):
        kernels.encode_frame(1, bytes(wire.MAX_FRAME_BYTES + 1))


def test_encode_frame_kind_out_of_range_is_a_value_error(kernels: ModuleType) -> None:
    with pytest.raises(ValueError, match=r"^kind must be an int in 0\.\.255, not 256$"):
        kernels.encode_frame(256, b"")


# -- splitter ------------------------------------------------------------------------------------

STREAM = bytes.fromhex("08 00 00 03 61 62 63  00 00 00 00  FF 00 00 01 64")
FRAMES = [(0x08, b"abc"), (0x00, b""), (0xFF, b"d")]


def drain(splitter: Any) -> list[tuple[int, bytes]]:
    return list(iter(splitter.next_frame, None))


def test_splitter_fed_at_once_gives_every_frame(kernels: ModuleType) -> None:
    splitter = kernels.FrameSplitter(100)
    splitter.receive_data(STREAM)
    assert drain(splitter) == FRAMES
    assert splitter.buffered == 0


def test_splitter_fed_one_byte_at_a_time_gives_each_frame_with_its_last_byte(
    kernels: ModuleType,
) -> None:
    splitter = kernels.FrameSplitter(100)
    arrived = {}
    for position, byte in enumerate(STREAM):
        splitter.receive_data(bytes([byte]))
        for frame in drain(splitter):
            arrived[position] = frame
    assert arrived == {6: FRAMES[0], 10: FRAMES[1], 15: FRAMES[2]}


def test_splitter_without_a_whole_frame_gives_none(kernels: ModuleType) -> None:
    splitter = kernels.FrameSplitter(100)
    splitter.receive_data(STREAM[:6])
    assert splitter.next_frame() is None
    assert splitter.buffered == 6


@pytest.mark.parametrize("make", [bytearray, memoryview])
def test_splitter_copies_what_may_change(kernels: ModuleType, make: Callable[[Any], Any]) -> None:
    buffer = bytearray(STREAM)
    splitter = kernels.FrameSplitter(100)
    splitter.receive_data(make(buffer))
    buffer[:] = bytes(len(buffer))
    assert drain(splitter) == FRAMES


def test_splitter_takes_a_frame_of_the_limit(kernels: ModuleType) -> None:
    splitter = kernels.FrameSplitter(3)
    splitter.receive_data(STREAM)
    assert drain(splitter) == FRAMES


def test_splitter_refuses_a_longer_frame_on_its_header_alone(kernels: ModuleType) -> None:
    splitter = kernels.FrameSplitter(256)
    splitter.receive_data(bytes.fromhex("08 00 01"))
    assert splitter.next_frame() is None
    splitter.receive_data(bytes.fromhex("01"))
    assert frame_error(splitter.next_frame) == (wire.FRAME_TOO_BIG, 1)


def test_splitter_gives_the_frames_before_a_refused_one(kernels: ModuleType) -> None:
    splitter = kernels.FrameSplitter(2)
    splitter.receive_data(bytes.fromhex("01 00 00 01 61  01 00 00 03 62"))
    assert splitter.next_frame() == (1, b"a")
    assert frame_error(splitter.next_frame) == (wire.FRAME_TOO_BIG, 1)


def test_splitter_stays_broken_and_does_not_grow(kernels: ModuleType) -> None:
    splitter = kernels.FrameSplitter(2)
    splitter.receive_data(bytes.fromhex("01 00 00 03"))
    assert frame_error(splitter.next_frame) == (wire.FRAME_TOO_BIG, 1)
    splitter.receive_data(STREAM)
    assert splitter.buffered == 4
    assert splitter.take_rest() == bytes.fromhex("01 00 00 03")
    assert frame_error(splitter.next_frame) == (wire.FRAME_TOO_BIG, 1)


def test_splitter_sets_no_memory_aside_for_a_claim(kernels: ModuleType) -> None:
    splitter = kernels.FrameSplitter(wire.MAX_FRAME_BYTES)
    splitter.receive_data(bytes.fromhex("01 FF FF FF 00"))
    assert splitter.next_frame() is None
    assert splitter.buffered == 5


def test_splitter_take_rest_gives_what_no_frame_was_made_of(kernels: ModuleType) -> None:
    splitter = kernels.FrameSplitter(100)
    splitter.receive_data(STREAM)
    assert splitter.next_frame() == FRAMES[0]
    assert splitter.take_rest() == STREAM[7:]
    assert (splitter.buffered, splitter.next_frame()) == (0, None)


@pytest.mark.parametrize(
    ("limit", "error"), [(-1, ValueError), (1 << 24, ValueError), (1.5, TypeError)]
)
def test_splitter_limit_out_of_range_is_an_error(
    kernels: ModuleType, limit: Any, error: type[Exception]
) -> None:
    with pytest.raises(error, match=r"^max_frame_bytes must be an int in 0\.\.16777215, not "):
        kernels.FrameSplitter(limit)


def test_splitter_fed_with_a_list_is_a_type_error(kernels: ModuleType) -> None:
    with pytest.raises(TypeError, match="bytes-like object is required, not 'list'"):
        kernels.FrameSplitter(9).receive_data([1])
