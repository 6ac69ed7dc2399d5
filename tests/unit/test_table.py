"""RouteTable: the forwarding table, in both twins."""

from __future__ import annotations

import enum
import importlib
import random
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

from netcore import wire
from netcore._pure.table import RouteTable

LOCAL = 0x01020304
CONN_A = 0x0001_0200
CONN_B = 0x0002_0201
CONN_C = 0xFFFF_FFFF_FFFF_FF01
NODE_A = 0x0A000001
NODE_B = 0x0B000002
NODE_C = 0x0C000003
NO = wire.NO_NODE
REJECT = (wire.ACTION_REJECT, 0, 0)
HERE = (wire.ACTION_LOCAL, 0, 0)


def via(conn_id: int, node_id: int) -> tuple[int, int, int]:
    return (wire.ACTION_NEXT, conn_id, node_id)


# -- path_to_node ---------------------------------------------------------------------------------


def test_path_to_node_own_id_is_local(kernels: ModuleType) -> None:
    assert kernels.RouteTable(LOCAL).path_to_node(LOCAL) == HERE


def test_path_to_node_empty_slot_is_rejected(kernels: ModuleType) -> None:
    assert kernels.RouteTable(LOCAL).path_to_node(0x01020305) == REJECT


@pytest.mark.parametrize(
    ("layer", "index", "inside", "outside"),
    [
        (0, 0x05, 0x01020305, 0x01020306),
        (1, 0x05, 0x01020504, 0x01020604),
        (2, 0x05, 0x01050000, 0x01060000),
        (3, 0x05, 0x05020304, 0x06020304),
    ],
)
def test_path_to_node_uses_the_layer_of_the_highest_differing_byte(
    kernels: ModuleType, layer: int, index: int, inside: int, outside: int
) -> None:
    table = kernels.RouteTable(LOCAL)
    table.set_next(layer, index, CONN_A, NODE_A)
    assert table.path_to_node(inside) == via(CONN_A, NODE_A)
    assert table.path_to_node(outside) == REJECT


def test_path_to_node_highest_id_and_conn_keep_all_their_bits(kernels: ModuleType) -> None:
    table = kernels.RouteTable(0)
    table.set_next(3, 0xFF, CONN_C, wire.MAX_NODE_ID)
    assert table.path_to_node(wire.MAX_NODE_ID) == via(CONN_C, wire.MAX_NODE_ID)


def test_answers_are_plain_ints(kernels: ModuleType) -> None:
    table = kernels.RouteTable(LOCAL)
    table.set_next(0, 5, CONN_A, NODE_A)
    for answer in (table.path_to_node(0x01020305), table.path_to_key(0), table.path_to_service(1)):
        assert [type(part) for part in answer] == [int, int, int]


# -- the alternate --------------------------------------------------------------------------------


def test_path_to_node_from_the_best_neighbour_uses_the_alternate(kernels: ModuleType) -> None:
    table = kernels.RouteTable(LOCAL)
    table.set_next(0, 5, CONN_A, NODE_A, CONN_B, NODE_B)
    assert table.path_to_node(0x01020305, NODE_A) == via(CONN_B, NODE_B)
    assert table.path_to_node(0x01020305, NODE_B) == via(CONN_A, NODE_A)
    assert table.path_to_node(0x01020305, NODE_C) == via(CONN_A, NODE_A)
    assert table.path_to_node(0x01020305) == via(CONN_A, NODE_A)


def test_path_to_node_from_the_only_neighbour_answers_that_neighbour(kernels: ModuleType) -> None:
    table = kernels.RouteTable(LOCAL)
    table.set_next(0, 5, CONN_A, NODE_A)
    assert table.path_to_node(0x01020305, NODE_A) == via(CONN_A, NODE_A)


def test_path_to_node_alternate_over_the_same_neighbour_is_of_no_use(kernels: ModuleType) -> None:
    table = kernels.RouteTable(LOCAL)
    table.set_next(0, 5, CONN_A, NODE_A, CONN_B, NODE_A)
    assert table.path_to_node(0x01020305, NODE_A) == via(CONN_A, NODE_A)


def test_path_to_key_from_the_best_neighbour_uses_the_alternate(kernels: ModuleType) -> None:
    table = kernels.RouteTable(LOCAL)
    table.set_next(3, 0x09, CONN_A, NODE_A, CONN_B, NODE_B)
    assert table.path_to_key(0x09000000, NODE_A) == via(CONN_B, NODE_B)


def test_path_to_service_from_the_best_neighbour_uses_the_alternate(kernels: ModuleType) -> None:
    table = kernels.RouteTable(LOCAL)
    table.set_service_next(7, CONN_A, NODE_A, CONN_B, NODE_B)
    assert table.path_to_service(7, NODE_A) == via(CONN_B, NODE_B)
    assert table.path_to_service(7) == via(CONN_A, NODE_A)


# -- path_to_key ----------------------------------------------------------------------------------


def test_path_to_key_of_a_lone_node_is_local(kernels: ModuleType) -> None:
    table = kernels.RouteTable(LOCAL)
    assert {table.path_to_key(key) for key in (0, LOCAL, NODE_A, wire.MAX_U32)} == {HERE}


def test_path_to_key_own_index_closer_goes_on_in_the_layer_below(kernels: ModuleType) -> None:
    table = kernels.RouteTable(LOCAL)
    table.set_next(3, 0x81, CONN_A, NODE_A)
    table.set_next(0, 0x07, CONN_B, NODE_B)
    assert table.path_to_key(0x80FFFFFF) == via(CONN_A, NODE_A)
    assert table.path_to_key(0x000000_06) == via(CONN_B, NODE_B)
    assert table.path_to_key(0x000000_05) == HERE


def test_path_to_key_forgets_a_cleared_slot(kernels: ModuleType) -> None:
    table = kernels.RouteTable(LOCAL)
    table.set_next(3, 0x81, CONN_A, NODE_A)
    assert table.path_to_key(0x81000000) == via(CONN_A, NODE_A)
    table.clear_next(3, 0x81)
    assert table.path_to_key(0x81000000) == HERE


def oracle_owner(table: RouteTable, local: int, key: int) -> tuple[int, int, int]:
    """The definition, by brute force over the slots."""
    for layer in (3, 2, 1, 0):
        byte = key >> (8 * layer) & 0xFF
        mine = local >> (8 * layer) & 0xFF
        best = (mine ^ byte, HERE)
        for row, index, conn, node, _, _ in table.slots():
            if row == layer:
                best = min(best, (index ^ byte, via(conn, node)))
        if best[1] != HERE:
            return best[1]
    return HERE


@pytest.mark.parametrize("seed", range(10))
def test_path_to_key_agrees_with_brute_force(kernels: ModuleType, seed: int) -> None:
    rnd = random.Random(seed)
    local = rnd.getrandbits(31)
    table = kernels.RouteTable(local)
    for number in range(1, 1 + rnd.choice([1, 4, 30, 200])):
        layer, index = rnd.randrange(4), rnd.randrange(256)
        if index != local >> (8 * layer) & 0xFF:
            table.set_next(layer, index, number, number)
    for _ in range(200):
        key = rnd.getrandbits(32) if rnd.random() < 0.5 else local ^ 1 << rnd.randrange(32)
        assert table.path_to_key(key) == oracle_owner(table, local, key)
    table.check()


# -- services -------------------------------------------------------------------------------------


def test_path_to_service_unknown_is_rejected(kernels: ModuleType) -> None:
    assert kernels.RouteTable(LOCAL).path_to_service(0) == REJECT


def test_path_to_service_own_one_wins_and_the_next_hop_is_remembered(kernels: ModuleType) -> None:
    table = kernels.RouteTable(LOCAL)
    table.set_service_next(255, CONN_A, NODE_A)
    table.set_service_local(255, True)
    assert table.path_to_service(255) == HERE
    table.set_service_local(255, False)
    assert table.path_to_service(255) == via(CONN_A, NODE_A)


def test_clear_service_next_leaves_the_local_service(kernels: ModuleType) -> None:
    table = kernels.RouteTable(LOCAL)
    table.set_service_local(3, True)
    table.set_service_next(3, CONN_A, NODE_A)
    table.clear_service_next(3)
    assert table.services() == [(3, True, 0, NO, 0, NO)]


# -- changes --------------------------------------------------------------------------------------


def test_version_grows_with_a_change_only(kernels: ModuleType) -> None:
    table = kernels.RouteTable(LOCAL)
    seen = [table.version]
    changes: list[tuple[Callable[..., object], tuple[object, ...]]] = [
        (table.set_next, (0, 5, CONN_A, NODE_A)),
        (table.set_next, (0, 5, CONN_A, NODE_A, CONN_B, NODE_B)),
        (table.set_service_local, (1, True)),
        (table.set_service_next, (2, CONN_A, NODE_A)),
        (table.clear_service_next, (2,)),
        (table.remove_conn, (CONN_B,)),
        (table.clear_next, (0, 5)),
    ]
    for change, arguments in changes:
        change(*arguments)
        seen.append(table.version)
        change(*arguments)
        assert table.version == seen[-1], change
    assert seen == list(range(8))


def test_slots_and_services_show_everything_in_order(kernels: ModuleType) -> None:
    table = kernels.RouteTable(LOCAL)
    table.set_next(3, 9, CONN_B, NODE_B)
    table.set_next(0, 5, CONN_A, NODE_A, CONN_C, NODE_C)
    table.set_service_next(9, CONN_A, NODE_A, CONN_C, NODE_C)
    table.set_service_local(4, True)
    assert table.slots() == [
        (0, 5, CONN_A, NODE_A, CONN_C, NODE_C),
        (3, 9, CONN_B, NODE_B, 0, NO),
    ]
    assert table.services() == [
        (4, True, 0, NO, 0, NO),
        (9, False, CONN_A, NODE_A, CONN_C, NODE_C),
    ]
    assert [type(service[1]) for service in table.services()] == [bool, bool]


def test_remove_conn_promotes_alternates_and_empties_the_rest(kernels: ModuleType) -> None:
    table = kernels.RouteTable(LOCAL)
    table.set_next(0, 5, CONN_A, NODE_A, CONN_B, NODE_B)
    table.set_next(0, 6, CONN_A, NODE_A)
    table.set_next(1, 7, CONN_B, NODE_B, CONN_A, NODE_A)
    table.set_next(2, 8, CONN_B, NODE_B, CONN_C, NODE_C)
    table.set_service_next(1, CONN_A, NODE_A, CONN_B, NODE_B)
    assert table.remove_conn(CONN_A) == 4
    assert table.slots() == [
        (0, 5, CONN_B, NODE_B, 0, NO),
        (1, 7, CONN_B, NODE_B, 0, NO),
        (2, 8, CONN_B, NODE_B, CONN_C, NODE_C),
    ]
    assert table.services() == [(1, False, CONN_B, NODE_B, 0, NO)]
    assert table.path_to_key(0x01020306) == HERE
    table.check()


def test_remove_conn_unknown_changes_nothing(kernels: ModuleType) -> None:
    table = kernels.RouteTable(LOCAL)
    table.set_next(0, 5, CONN_A, NODE_A)
    assert table.remove_conn(CONN_B) == 0
    assert table.version == 1


# -- refused arguments ----------------------------------------------------------------------------


@pytest.mark.parametrize(("layer", "index"), [(0, 4), (1, 3), (2, 2), (3, 1)])
def test_own_slot_is_refused(kernels: ModuleType, layer: int, index: int) -> None:
    table = kernels.RouteTable(LOCAL)
    text = f"slot {index} of layer {layer} is this node's own"
    with pytest.raises(ValueError, match=f"^{text}$"):
        table.set_next(layer, index, CONN_A, NODE_A)
    with pytest.raises(ValueError, match=f"^{text}$"):
        table.clear_next(layer, index)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ((0, 5, CONN_A, NODE_A, CONN_B), "an alternate has a conn id and a node id, or neither"),
        ((0, 5, CONN_A, NODE_A, 0, NODE_B), "an alternate has a conn id and a node id, or neither"),
        ((0, 5, 7, NODE_A, 7, NODE_B), "conn 7 cannot be its own alternate"),
        ((4, 5, CONN_A, NODE_A), "layer must be in 0..3, not 4"),
        ((0, 256, CONN_A, NODE_A), "index must be in 0..255, not 256"),
        ((0, 5, 0, NODE_A), "conn_id must be in 1..18446744073709551615, not 0"),
        ((0, 5, CONN_A, NO), "node_id must be in 0..4294967294, not 4294967295"),
        ((0, 5, CONN_A, NODE_A, -1, 1), "alt_conn_id must be in 0..18446744073709551615, not -1"),
        ((0, 5, CONN_A, NODE_A, 1, 1 << 32), "alt_node_id must be in 0..4294967295, not 429496729"),
    ],
)
def test_set_next_bad_value_is_refused_and_changes_nothing(
    kernels: ModuleType, arguments: tuple[int, ...], text: str
) -> None:
    table = kernels.RouteTable(LOCAL)
    with pytest.raises(ValueError, match=f"^{text}"):
        table.set_next(*arguments)
    assert (table.version, table.slots()) == (0, [])


@pytest.mark.parametrize("value", [True, None, 1.0, "1", b"1"])
def test_argument_that_is_no_int_is_a_type_error(kernels: ModuleType, value: object) -> None:
    table = kernels.RouteTable(LOCAL)
    kind = type(value).__name__
    with pytest.raises(TypeError, match=f"^dest must be an int, not {kind}$"):
        table.path_to_node(value)
    with pytest.raises(TypeError, match=f"^from_node must be an int, not {kind}$"):
        table.path_to_key(0, value)
    with pytest.raises(TypeError, match=f"^service must be an int, not {kind}$"):
        table.path_to_service(value)
    with pytest.raises(TypeError, match=f"^local_node must be an int, not {kind}$"):
        kernels.RouteTable(value)


@pytest.mark.parametrize("value", [-1, 1 << 32, 1 << 64, -(1 << 70)])
def test_argument_beyond_32_bits_is_a_value_error(kernels: ModuleType, value: int) -> None:
    table = kernels.RouteTable(LOCAL)
    with pytest.raises(ValueError, match=f"^dest must be in 0..4294967295, not {value}$"):
        table.path_to_node(value)
    with pytest.raises(ValueError, match=f"^key must be in 0..4294967295, not {value}$"):
        table.path_to_key(value)


@pytest.mark.parametrize("value", [1, 0, None, "yes"])
def test_set_service_local_wants_a_bool(kernels: ModuleType, value: object) -> None:
    with pytest.raises(TypeError, match=r"^is_local must be a bool, not "):
        kernels.RouteTable(LOCAL).set_service_local(1, value)


def test_local_node_is_never_the_any_node(kernels: ModuleType) -> None:
    with pytest.raises(ValueError, match=r"^local_node must be in 0\.\.4294967294, not"):
        kernels.RouteTable(NO)


def test_int_subclass_is_an_int(kernels: ModuleType) -> None:
    class Names(enum.IntEnum):
        PRINTER = 0x01020305

    table = kernels.RouteTable(LOCAL)
    table.set_next(0, 5, CONN_A, NODE_A)
    assert table.path_to_node(Names.PRINTER) == via(CONN_A, NODE_A)


def test_attributes_are_read_only(kernels: ModuleType) -> None:
    table = kernels.RouteTable(LOCAL)
    assert (table.local_node, table.version) == (LOCAL, 0)
    for name in ("local_node", "version", "other"):
        with pytest.raises(AttributeError):
            setattr(table, name, 1)


def test_table_is_final(kernels: ModuleType) -> None:
    with pytest.raises(TypeError, match="not an acceptable base type"):
        type("Mine", (kernels.RouteTable,), {})


# -- check ----------------------------------------------------------------------------------------


def test_check_finds_a_broken_entry() -> None:
    table = importlib.import_module("netcore._pure.table").RouteTable(LOCAL)
    table.set_next(0, 5, CONN_A, NODE_A)
    table._entries[5] = (CONN_A, NODE_A, CONN_A, NODE_A)
    with pytest.raises(AssertionError):
        table.check()


# -- the twins ------------------------------------------------------------------------------------

CONNS = (1, 2, 3, 4, CONN_A, CONN_C)
NODES = (0, 1, NODE_A, NODE_B, wire.MAX_NODE_ID)
WRONG: tuple[Any, ...] = (-1, 4, 256, 1 << 32, 1 << 64, -(1 << 64), True, False, None, 1.0, "x", [])


def random_arguments(rnd: random.Random, local: int, name: str) -> list[Any]:
    slot = [rnd.randrange(4), rnd.choice([rnd.randrange(256), local & 0xFF, local >> 8 & 0xFF, 7])]
    hop = [rnd.choice(CONNS), rnd.choice(NODES)]
    if rnd.random() < 0.6:
        hop += [rnd.choice((*CONNS, 0)), rnd.choice((*NODES, NO))]
    near = local ^ rnd.getrandbits(8) << rnd.randrange(24)
    source = [rnd.choice((*NODES, NO))] if rnd.random() < 0.5 else []
    service = rnd.randrange(256) if rnd.random() < 0.1 else rnd.randrange(8)
    arguments: dict[str, list[Any]] = {
        "set_next": slot + hop,
        "clear_next": slot,
        "set_service_local": [service, rnd.random() < 0.5],
        "set_service_next": [service, *hop],
        "clear_service_next": [service],
        "remove_conn": [rnd.choice(CONNS)],
        "path_to_node": [rnd.choice([near, rnd.getrandbits(32)]), *source],
        "path_to_key": [rnd.choice([near, rnd.getrandbits(32)]), *source],
        "path_to_service": [service, *source],
    }
    chosen = arguments[name]
    if rnd.random() < 0.05:
        chosen[rnd.randrange(len(chosen))] = rnd.choice(WRONG)
    return chosen


def outcome(table: RouteTable, name: str, arguments: list[Any]) -> object:
    """The value, or type and text of the error, and the state that shows."""
    try:
        result: object = getattr(table, name)(*arguments)
    except (TypeError, ValueError) as error:
        result = (type(error), str(error))
    return result, table.version


WEIGHTS = {
    "set_next": 20,
    "clear_next": 6,
    "set_service_local": 4,
    "set_service_next": 8,
    "clear_service_next": 4,
    "remove_conn": 1,
    "path_to_node": 20,
    "path_to_key": 20,
    "path_to_service": 10,
}


@pytest.mark.parametrize("seed", range(50))
def test_twins_agree_on_random_operations(seed: int) -> None:
    fast_kernel = pytest.importorskip("netcore._fast.table", exc_type=ModuleNotFoundError)
    pure_kernel = importlib.import_module("netcore._pure.table")
    rnd = random.Random(seed)
    local = rnd.choice([LOCAL, 0, wire.MAX_NODE_ID, rnd.getrandbits(31)])
    pure, fast = pure_kernel.RouteTable(local), fast_kernel.RouteTable(local)
    names = rnd.choices(list(WEIGHTS), list(WEIGHTS.values()), k=2_000)
    for step, name in enumerate(names):
        arguments = random_arguments(rnd, local, name)
        assert outcome(pure, name, arguments) == outcome(fast, name, arguments), (name, arguments)
        if step % 500 == 499:
            assert pure.slots() == fast.slots()
            assert pure.services() == fast.services()
            pure.check()
            fast.check()
