"""What router_sync says to its neighbours, as bytes.

Each message is the payload of a direct message to service 255; big-endian throughout::

    FULL      01  seq u32  flags u8 (bit 0: first piece, bit 1: last piece)  entries
    DELTA     02  seq u32  entries and withdrawals
    DIGEST    03  seq u32  digest u64
    REQUEST   04
    LOST      05  seq u32  count u8  losses  entries and withdrawals

    loss        near u32  far u32  serial u32
    entry       place u16  hop count u8  latency ms u32  bandwidth kbps u32  hops u32 each
    withdrawal  place u16 with bit 15 set

- A place is a slot, ``layer << 8 | index`` (0..1023), or a service, 1024 + its id (..1279). Within
  a message places ascend strictly. A FULL has no withdrawals: what it does not name is withdrawn.
- Hops go from the destination up to, but without, the sender: at most 32. A service of the sender
  itself has none.
- A LOST is a DELTA that first withdraws every entry that makes one of the hops it names: an entry
  whose hops, the sender put behind them, have ``near`` right behind ``far``. Losses, at least one,
  ascend strictly by (near, far).
- ``seq`` counts a link's messages but for REQUESTs (modulo 2**32). Who misses one believes no DELTA
  until the next first piece of a FULL, and sends a REQUEST for it.
- A FULL takes effect with its last piece, replacing everything. The pieces follow one another.
- The digest is the XOR over all announced entries of XXH3-64 (seed 0) of the entry's bytes; 0 when
  nothing is announced. Who computes another one from what it was told sends a REQUEST.
- A message has at most ``wire.SYNC_MAX_MESSAGE_BYTES``, so it fits every link's frame limit.
- Types from 0x80 on are room for extensions and ignored; anything else that is not as described
  here is a protocol error, and the link closes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping

from .. import wire
from .._typing import Final, final
from ..choices import Hop
from ..errors import FrameError
from ..route import Metric, metric_of_checked
from ..router import PLACES
from ..values import dataclass

__all__ = [
    "Delta",
    "Digest",
    "Full",
    "Lost",
    "Request",
    "decode",
    "encode_delta",
    "encode_digest",
    "encode_entry",
    "encode_full",
    "encode_lost",
    "encode_request",
    "hops_of",
    "makes_hop",
    "metric_of",
]

_HEAD: Final = struct.Struct(">BI")
_FULL_HEAD: Final = struct.Struct(">BIB")
_DIGEST: Final = struct.Struct(">BIQ")
_PLACE: Final = struct.Struct(">H")
_ENTRY: Final = struct.Struct(">HBII")
_LOSS: Final = struct.Struct(">III")
_NODE: Final = struct.Struct(">I")
_HOP: Final = struct.Struct(">II")


@final
@dataclass(frozen=True, slots=True)
class Full:
    """A piece of everything a neighbour announces; ``entries`` by place, as bytes."""

    seq: int
    is_first: bool
    is_last: bool
    entries: dict[int, bytes]


@final
@dataclass(frozen=True, slots=True)
class Delta:
    """What has changed; None stands for a withdrawal."""

    seq: int
    entries: dict[int, bytes | None]


@final
@dataclass(frozen=True, slots=True)
class Lost:
    """What has changed for hops that were lost; ``losses``: (far, near) -> serial."""

    seq: int
    losses: dict[Hop, int]
    entries: dict[int, bytes | None]


@final
@dataclass(frozen=True, slots=True)
class Digest:
    """What the receiver's ``EntrySet`` should say."""

    seq: int
    value: int


@final
@dataclass(frozen=True, slots=True)
class Request:
    """The neighbour wants everything again."""


SyncMessage = Full | Delta | Digest | Request | Lost


def encode_entry(place: int, metric: Metric) -> bytes:
    """Return an entry; the metric has at most ``MAX_PATH_HOPS`` hops."""
    hops = metric.hops
    head = _ENTRY.pack(place, len(hops), metric.latency_ms, metric.bandwidth_kbps)
    return head + struct.pack(f">{len(hops)}I", *hops)


def metric_of(entry: bytes) -> Metric:
    """Return the metric in an entry that ``decode`` has let pass."""
    _, count, latency_ms, bandwidth_kbps = _ENTRY.unpack_from(entry)
    hops = struct.unpack_from(f">{count}I", entry, _ENTRY.size)
    return metric_of_checked(latency_ms, hops, bandwidth_kbps)


def hops_of(entry: bytes) -> tuple[int, ...]:
    """Return the hops in an entry that ``decode`` has let pass."""
    return struct.unpack_from(f">{entry[2]}I", entry, _ENTRY.size)


def makes_hop(entry: bytes, hop: Hop, sender: int) -> bool:
    """Return whether the way in an entry, prolonged by its sender, makes a hop."""
    far, near = hop
    if near == sender:
        return len(entry) > _ENTRY.size and entry.endswith(_NODE.pack(far))
    needle = _HOP.pack(far, near)
    at = entry.find(needle, _ENTRY.size)
    while at >= 0 and (at - _ENTRY.size) % 4:  # two halves of ids are no id
        at = entry.find(needle, at + 1)
    return at >= 0


def encode_full(seq: int, entries: Mapping[int, bytes]) -> list[bytes]:
    """Return the messages that announce everything, the first one numbered ``seq``."""
    pieces = _pieces((entry for _, entry in sorted(entries.items())), _FULL_HEAD.size) or [b""]
    messages = []
    for number, piece in enumerate(pieces):
        first = wire.SYNC_FIRST_PIECE if number == 0 else 0
        last = wire.SYNC_LAST_PIECE if number == len(pieces) - 1 else 0
        head = _FULL_HEAD.pack(wire.SYNC_FULL, seq + number & wire.MAX_U32, first | last)
        messages.append(head + piece)
    return messages


def encode_delta(seq: int, changes: Mapping[int, bytes | None]) -> list[bytes]:
    """Return the messages that announce these changes, the first one numbered ``seq``."""
    pieces = _pieces(_change_parts(changes), _HEAD.size)
    return [
        _HEAD.pack(wire.SYNC_DELTA, seq + n & wire.MAX_U32) + piece
        for n, piece in enumerate(pieces)
    ]


def encode_lost(
    seq: int, losses: Mapping[Hop, int], changes: Mapping[int, bytes | None]
) -> list[bytes]:
    """Return the messages for these losses and changes: a LOST, and DELTAs for what is too much.

    Args:
        seq: Of the first message.
        losses: (far, near) -> serial; 1..``MAX_LOSSES`` of them.
        changes: As for ``encode_delta``; what the losses withdraw need not be withdrawn again.
    """
    named = sorted((near, far, serial) for (far, near), serial in losses.items())
    head = bytes((len(named),)) + b"".join(_LOSS.pack(*loss) for loss in named)
    pieces = _pieces((head, *_change_parts(changes)), _HEAD.size)
    return [
        _HEAD.pack(wire.SYNC_DELTA if n else wire.SYNC_LOST, seq + n & wire.MAX_U32) + piece
        for n, piece in enumerate(pieces)
    ]


def _change_parts(changes: Mapping[int, bytes | None]) -> Iterator[bytes]:
    for place, entry in sorted(changes.items()):
        yield _PLACE.pack(place | wire.SYNC_WITHDRAWN) if entry is None else entry


def encode_digest(seq: int, digest: int) -> bytes:
    """Return the message that lets the neighbour compare."""
    return _DIGEST.pack(wire.SYNC_DIGEST, seq, digest)


def encode_request() -> bytes:
    """Return the message that asks for everything."""
    return bytes((wire.SYNC_REQUEST,))


def _pieces(parts: Iterable[bytes], head_bytes: int) -> list[bytes]:
    """Return the parts joined to pieces that fit into a message, none of them split."""
    pieces: list[bytes] = []
    piece = b""
    for part in parts:
        if head_bytes + len(piece) + len(part) > wire.SYNC_MAX_MESSAGE_BYTES:
            pieces.append(piece)
            piece = b""
        piece += part
    if piece:
        pieces.append(piece)
    return pieces


def decode(payload: bytes) -> SyncMessage | None:
    """Return the message in a payload, None for one of a later version.

    Raises:
        FrameError: "truncated" or "bad_body", with the offset of the offending field.
    """
    if not payload:
        raise FrameError(wire.FRAME_TRUNCATED, 0)
    kind = payload[0]
    if kind >= wire.SYNC_EXTENSION:
        return None
    if kind == wire.SYNC_REQUEST:
        _check_end(payload, 1)
        return Request()
    if kind == wire.SYNC_DIGEST:
        _check_room(payload, 0, _DIGEST.size)
        _check_end(payload, _DIGEST.size)
        _, seq, value = _DIGEST.unpack(payload)
        return Digest(seq, value)
    if kind == wire.SYNC_DELTA:
        _check_room(payload, 0, _HEAD.size)
        _, seq = _HEAD.unpack_from(payload)
        return Delta(seq, _decode_entries(payload, _HEAD.size))
    if kind == wire.SYNC_FULL:
        return _decode_full(payload)
    if kind == wire.SYNC_LOST:
        return _decode_lost(payload)
    raise FrameError(wire.FRAME_BAD_BODY, 0)


def _decode_full(payload: bytes) -> Full:
    _check_room(payload, 0, _FULL_HEAD.size)
    _, seq, flags = _FULL_HEAD.unpack_from(payload)
    if flags & ~(wire.SYNC_FIRST_PIECE | wire.SYNC_LAST_PIECE):
        raise FrameError(wire.FRAME_BAD_BODY, _HEAD.size)
    entries: dict[int, bytes] = {}
    for place, entry in _decode_entries(payload, _FULL_HEAD.size).items():
        if entry is None:
            raise FrameError(wire.FRAME_BAD_BODY, _FULL_HEAD.size)
        entries[place] = entry
    return Full(
        seq, bool(flags & wire.SYNC_FIRST_PIECE), bool(flags & wire.SYNC_LAST_PIECE), entries
    )


def _decode_lost(payload: bytes) -> Lost:
    _check_room(payload, 0, _HEAD.size + 1)
    _, seq = _HEAD.unpack_from(payload)
    count = payload[_HEAD.size]
    if not count:
        raise FrameError(wire.FRAME_BAD_BODY, _HEAD.size)
    at = _HEAD.size + 1
    losses: dict[Hop, int] = {}
    last = (-1, -1)
    for _ in range(count):
        _check_room(payload, at, _LOSS.size)
        near, far, serial = _LOSS.unpack_from(payload, at)
        if not last < (near, far) or near == far or wire.NO_NODE in (near, far):
            raise FrameError(wire.FRAME_BAD_BODY, at)
        last = near, far
        losses[far, near] = serial
        at += _LOSS.size
    return Lost(seq, losses, _decode_entries(payload, at))


def _decode_entries(payload: bytes, at: int) -> dict[int, bytes | None]:
    entries: dict[int, bytes | None] = {}
    last = -1
    while at < len(payload):
        _check_room(payload, at, _PLACE.size)
        place = int.from_bytes(payload[at : at + _PLACE.size], "big")
        is_withdrawn, place = place & wire.SYNC_WITHDRAWN, place & ~wire.SYNC_WITHDRAWN
        if not last < place < PLACES:
            raise FrameError(wire.FRAME_BAD_BODY, at)
        last = place
        if is_withdrawn:
            entries[place] = None
            at += _PLACE.size
        else:
            size = _entry_bytes(payload, at)
            entries[place] = payload[at : at + size]
            at += size
    return entries


def _entry_bytes(payload: bytes, at: int) -> int:
    _check_room(payload, at, _ENTRY.size)
    count = payload[at + _PLACE.size]
    if count > wire.MAX_PATH_HOPS:
        raise FrameError(wire.FRAME_BAD_BODY, at + _PLACE.size)
    size = _ENTRY.size + 4 * count
    _check_room(payload, at, size)
    return size


def _check_room(payload: bytes, at: int, size: int) -> None:
    if len(payload) < at + size:
        raise FrameError(wire.FRAME_TRUNCATED, len(payload))


def _check_end(payload: bytes, end: int) -> None:
    if len(payload) > end:
        raise FrameError(wire.FRAME_BAD_BODY, end)
