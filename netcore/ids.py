"""Identities: node ids with their four layers, conn ids, keys.

A node id is 32 bits, read as four bytes. Layer 3 is the most significant one:

===== ================= ===============================
layer bits              meaning
===== ================= ===============================
3     31-24             geo1, the coarsest zone
2     23-16             geo2, the sub-zone
1     15-8              group, for example a site
0     7-0               index of the node in its group
===== ================= ===============================

A conn id names a link *within one node*: ``uuid << 16 | protocol << 8 | direction``, where the low
byte is 0 for outgoing and 1 for incoming.
"""

from __future__ import annotations

import xxhash

from . import wire
from ._typing import Final, NewType
from .errors import LocalError

__all__ = [
    "ConnId",
    "Key",
    "NodeId",
    "ServiceId",
    "build",
    "check_conn_id",
    "check_key",
    "check_node_id",
    "check_service_id",
    "conn_protocol",
    "conn_uuid",
    "differing_layer",
    "format_conn",
    "is_outgoing",
    "key_of",
    "layer",
    "make_conn_id",
    "xor_distance",
]

# Types of their own to type checkers; int at run time.
NodeId = NewType("NodeId", int)
ConnId = NewType("ConnId", int)
ServiceId = NewType("ServiceId", int)
Key = NewType("Key", int)

MAX_CONN_UUID: Final = (1 << 48) - 1
MAX_CONN_ID: Final = (1 << 64) - 1
_PROTOCOL_NAMES: Final = {
    wire.PROTOCOL_MEMORY: "memory",
    wire.PROTOCOL_TCP: "tcp",
    wire.PROTOCOL_UDP: "udp",
    wire.PROTOCOL_UNIX: "unix",
}


def _is_int(value: object, highest: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= highest


def check_node_id(value: int) -> NodeId:
    """Return ``value`` as a node id.

    Raises:
        LocalError: It is not an int in 0..2**32 - 2.
    """
    if not _is_int(value, wire.MAX_NODE_ID):
        raise LocalError(f"a node id is an int in 0..{wire.MAX_NODE_ID}, not {value!r}")
    return NodeId(value)


def check_service_id(value: int, highest: int = wire.MAX_SERVICE) -> ServiceId:
    """Return ``value`` as a service id.

    Raises:
        ValueError: It is not an int in 0..``highest``.
    """
    if not _is_int(value, highest):
        raise ValueError(f"a service id is an int in 0..{highest}, not {value!r}")
    return ServiceId(value)


def check_key(value: int) -> Key:
    """Return ``value`` as a key.

    Raises:
        LocalError: It is not an int in 0..2**32 - 1.
    """
    if not _is_int(value, wire.MAX_U32):
        raise LocalError(f"a key is an int in 0..{wire.MAX_U32}, str or bytes, not {value!r}")
    return Key(value)


def check_conn_id(value: int) -> ConnId:
    """Return ``value`` as a conn id.

    Raises:
        LocalError: It is not an int in 1..2**64 - 1; 0 is no link.
    """
    if not _is_int(value, MAX_CONN_ID) or not value:
        raise LocalError(f"a conn id is an int in 1..{MAX_CONN_ID}, not {value!r}")
    return ConnId(value)


def layer(node_id: int, i: int) -> int:
    """Return byte ``i`` of a node id or key, 0 = the lowest.

    Raises:
        LocalError: ``i`` is not in 0..3.
    """
    if not 0 <= i < wire.LAYERS:
        raise LocalError(f"a layer is 0..3, not {i}")
    return node_id >> (8 * i) & 0xFF


def differing_layer(a: int, b: int) -> int:
    """Return the highest layer in which two node ids differ, -1 for equal ids."""
    return ((a ^ b).bit_length() + 7) // 8 - 1


def build(geo1: int, geo2: int, group: int, index: int) -> NodeId:
    """Return the node id with these four layers, each 0..255.

    Raises:
        LocalError: A part is out of range, or the result is the one reserved value.
    """
    for part in (geo1, geo2, group, index):
        if not 0 <= part <= 0xFF:
            raise LocalError(f"a layer of a node id is 0..255, not {part}")
    return check_node_id(geo1 << 24 | geo2 << 16 | group << 8 | index)


def xor_distance(a: int, b: int) -> int:
    """Return the XOR distance between two node ids or keys.

    Returns:
        0 for equal ids, else 1..2**32 - 1. Symmetric; for each ``a`` and distance there is
        exactly one ``b``.

    Source: Maymounkov & Mazieres, "Kademlia" (2002), section 2.1.
    """
    return a ^ b


def key_of(name: str | bytes) -> Key:
    """Return the key of a name: the low 32 bits of XXH3-64 (seed 0) over its UTF-8 bytes.

    The same on every machine and in every version of netcore: keys are part of the protocol.
    """
    data = name.encode() if isinstance(name, str) else name
    if not isinstance(data, bytes | bytearray | memoryview):
        raise TypeError(f"a key is an int, str or bytes, not {type(name).__name__}")
    return Key(xxhash.xxh3_64_intdigest(data) & wire.MAX_U32)


def make_conn_id(protocol: int, uuid: int, *, outgoing: bool) -> ConnId:
    """Return the conn id of these parts.

    Args:
        protocol: One of ``wire.PROTOCOL_*``.
        uuid: 0..2**48 - 1, unique within the node.
        outgoing: Who dialled.

    Raises:
        LocalError: ``uuid`` or ``protocol`` is out of range.
    """
    if not 0 <= uuid <= MAX_CONN_UUID:
        raise LocalError(f"a conn uuid has 48 bits, not {uuid}")
    if not 0 <= protocol <= 0xFF:
        raise LocalError(f"a protocol number is 0..255, not {protocol}")
    return ConnId(uuid << 16 | protocol << 8 | (0 if outgoing else 1))


def conn_uuid(conn_id: int) -> int:
    """Return the 48-bit part of a conn id."""
    return conn_id >> 16


def conn_protocol(conn_id: int) -> int:
    """Return the protocol number of a conn id."""
    return conn_id >> 8 & 0xFF


def is_outgoing(conn_id: int) -> bool:
    """Return whether this node dialled the link."""
    return conn_id & 0xFF == 0


def format_conn(conn_id: int) -> str:
    """Return a conn id for people, for example ``Conn(out,tcp,3)``."""
    direction = "out" if is_outgoing(conn_id) else "in"
    protocol = conn_protocol(conn_id)
    return f"Conn({direction},{_PROTOCOL_NAMES.get(protocol, protocol)},{conn_uuid(conn_id)})"
