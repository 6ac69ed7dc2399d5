"""Node ids, conn ids, service ids, keys."""

from __future__ import annotations

import random
from typing import Any

import pytest

from netcore import LocalError, ids, key_of, wire
from netcore.ids import (
    build,
    check_key,
    check_node_id,
    check_service_id,
    conn_protocol,
    conn_uuid,
    differing_layer,
    format_conn,
    is_outgoing,
    layer,
    make_conn_id,
    xor_distance,
)


def test_layer_is_a_byte_counted_from_the_lowest() -> None:
    assert [layer(0x01020304, i) for i in range(4)] == [4, 3, 2, 1]


@pytest.mark.parametrize("i", [-1, 4])
def test_layer_out_of_range_raises(i: int) -> None:
    with pytest.raises(LocalError, match=r"a layer is 0\.\.3"):
        layer(1, i)


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        (0, 0, -1),
        (0x01020304, 0x01020304, -1),
        (0, 1, 0),
        (0, 0xFF, 0),
        (0, 0x100, 1),
        (0, 0xFFFF, 1),
        (0x01020304, 0x01030304, 2),
        (0x01020304, 0x81020304, 3),
        (0xFFFFFFFE, 0, 3),
    ],
)
def test_differing_layer_is_the_highest_byte_that_differs(a: int, b: int, expected: int) -> None:
    assert differing_layer(a, b) == differing_layer(b, a) == expected


def test_build_puts_the_coarsest_part_first() -> None:
    assert build(1, 2, 3, 4) == 0x01020304
    assert build(0, 0, 0, 0) == 0


def test_build_and_layer_are_inverse() -> None:
    rng = random.Random(1)
    for _ in range(200):
        parts = [rng.randrange(256) for _ in range(4)]
        if parts != [255] * 4:
            assert [layer(build(*parts), i) for i in (3, 2, 1, 0)] == parts


@pytest.mark.parametrize("parts", [(256, 0, 0, 0), (0, -1, 0, 0), (255, 255, 255, 255)])
def test_build_out_of_range_raises(parts: tuple[int, int, int, int]) -> None:
    with pytest.raises(LocalError):
        build(*parts)


def test_xor_distance_is_zero_for_equal_and_symmetric() -> None:
    assert xor_distance(5, 5) == 0
    assert xor_distance(0x0F, 0xF0) == xor_distance(0xF0, 0x0F) == 0xFF


# XXH3-64 with seed 0 of "" is 2D06800538D394C2, of "a" E6C632B61E964E1F, of "abc" 78AF5F94892F3950.
@pytest.mark.parametrize(
    ("name", "key"), [("", 0x38D394C2), ("a", 0x1E964E1F), ("abc", 0x892F3950)]
)
def test_key_of_a_name_is_the_low_half_of_its_xxh3(name: str, key: int) -> None:
    assert key_of(name) == key


@pytest.mark.parametrize("name", ["", "netcore", "ä", "x" * 1_000])
def test_key_of_text_is_that_of_its_utf8(name: str) -> None:
    assert key_of(name) == key_of(name.encode())
    assert 0 <= key_of(name) <= wire.MAX_U32


def test_key_of_different_names_differs() -> None:
    assert len({key_of(f"name {number}") for number in range(1_000)}) > 990


@pytest.mark.parametrize(
    ("check", "highest", "error"),
    [
        (check_node_id, 0xFFFF_FFFE, LocalError),
        (check_key, 0xFFFF_FFFF, LocalError),
        (check_service_id, 255, ValueError),
    ],
)
def test_check_takes_its_range_and_nothing_else(
    check: Any, highest: int, error: type[Exception]
) -> None:
    assert (check(0), check(highest)) == (0, highest)
    for value in (-1, highest + 1, True, 1.0, "1", None, b"1"):
        with pytest.raises(error, match="not "):
            check(value)


@pytest.mark.parametrize("protocol", [0, 1, 2, 4, 255])
@pytest.mark.parametrize("uuid", [0, 1, 12345, (1 << 48) - 1])
@pytest.mark.parametrize("outgoing", [True, False])
def test_conn_id_gives_its_parts_back(protocol: int, uuid: int, outgoing: bool) -> None:
    conn_id = make_conn_id(protocol, uuid, outgoing=outgoing)
    assert conn_id < 1 << 64
    assert conn_protocol(conn_id) == protocol
    assert conn_uuid(conn_id) == uuid
    assert is_outgoing(conn_id) is outgoing


def test_conn_id_layout_is_fixed() -> None:
    assert make_conn_id(2, 3, outgoing=True) == 0x0003_02_00
    assert make_conn_id(2, 3, outgoing=False) == 0x0003_02_01


@pytest.mark.parametrize(("protocol", "uuid"), [(256, 0), (-1, 0), (0, -1), (0, 1 << 48)])
def test_conn_id_out_of_range_raises(protocol: int, uuid: int) -> None:
    with pytest.raises(LocalError):
        make_conn_id(protocol, uuid, outgoing=True)


@pytest.mark.parametrize(
    ("protocol", "outgoing", "text"),
    [
        (wire.PROTOCOL_TCP, True, "Conn(out,tcp,3)"),
        (wire.PROTOCOL_MEMORY, False, "Conn(in,memory,3)"),
        (wire.PROTOCOL_UNIX, False, "Conn(in,unix,3)"),
        (77, True, "Conn(out,77,3)"),
    ],
)
def test_format_conn_is_for_people(protocol: int, outgoing: bool, text: str) -> None:
    assert format_conn(make_conn_id(protocol, 3, outgoing=outgoing)) == text


def test_helpers_are_public() -> None:
    assert {"layer", "differing_layer", "build", "key_of"} <= set(ids.__all__)
