"""What the demo's processes tell each other: plain values, one JSON object per line.

Facts first:

- Every message of the demo carries a *stamp*: the node that sent it and a number of its own. The
  sender writes down what it stamped, the receiver what arrived; the parent compares the two.
- A call is two messages with a stamp each: the request is the caller's, the answer the callee's.
- Times are microseconds of the monotonic clock, which is the same for all processes of a machine.
"""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

__all__ = [
    "Event",
    "Explained",
    "Linked",
    "Listening",
    "Received",
    "Report",
    "RoundTrip",
    "Sent",
    "decode_event",
    "decode_stamp",
    "encode_event",
    "encode_stamp",
    "now_us",
]

_STAMP = struct.Struct(">II")


def now_us() -> int:
    """Return the time: microseconds that never go back."""
    return time.monotonic_ns() // 1_000


def encode_stamp(origin: int, number: int) -> bytes:
    """Return the payload of a message of the demo."""
    return _STAMP.pack(origin, number)


def decode_stamp(payload: bytes) -> tuple[int, int]:
    """Return (origin, number)."""
    origin, number = _STAMP.unpack(payload)
    return origin, number


class Sent(NamedTuple):
    """A message that a node accepted for sending.

    Attributes:
        origin: The node.
        number: Counts up from 1 at each node.
        how: "node", "key", "service", "local", "call" or "answer".
        to: The nodes that may receive it.
        path: The nodes it visits behind ``origin``, as far as ``origin`` knew.
        at_us: When.
    """

    origin: int
    number: int
    how: str
    to: tuple[int, ...]
    path: tuple[int, ...]
    at_us: int


class Received(NamedTuple):
    """A message that arrived.

    Attributes:
        origin: Of its stamp.
        number: Of its stamp.
        node: Where it arrived.
        hops: Links it went over, as its hop count says; None: not known.
        at_us: When.
    """

    origin: int
    number: int
    node: int
    hops: int | None
    at_us: int


class RoundTrip(NamedTuple):
    """A call that was answered."""

    to: int
    hops: int
    took_us: int


class Listening(NamedTuple):
    """A worker's node is there."""

    addr: str
    package: str


class Linked(NamedTuple):
    """A link came up or went down."""

    peer: int
    up: bool
    at_us: int


class Explained(NamedTuple):
    """How a node sends to another one, and why: the lines of its ``Route``; none: no way."""

    to: int
    lines: tuple[str, ...]


class Report(NamedTuple):
    """What a worker knows and has seen since its last report.

    Attributes:
        asked: The number of the last request for a report; 0: there was none yet.
        at_us: When it was made.
        refused: Sends that raised since the start: nothing was sent.
        stats: The counters of ``Node.stats()``.
        peers: Neighbours with a live link.
        paths: Node -> the nodes on the way to it, itself included.
        services: Service -> likewise; empty: offered here.
        sent: In order.
        received: In order.
        round_trips: In order.
    """

    asked: int
    at_us: int
    refused: int
    stats: dict[str, int]
    peers: tuple[int, ...]
    paths: dict[int, tuple[int, ...]]
    services: dict[int, tuple[int, ...]]
    sent: tuple[Sent, ...] = ()
    received: tuple[Received, ...] = ()
    round_trips: tuple[RoundTrip, ...] = ()


Event = Listening | Linked | Explained | Report


def encode_event(event: Event) -> str:
    """Return the line for an event, without its end."""
    return json.dumps({type(event).__name__: event._asdict()}, separators=(",", ":"))


def decode_event(line: str | bytes) -> Event:
    """Return the event of a line.

    Raises:
        ValueError: The line is something else.
    """
    try:
        ((kind, fields),) = json.loads(line).items()
        return _decode(kind, fields)
    except (AttributeError, KeyError, TypeError, ValueError) as exc:
        raise ValueError(f"not an event of the demo: {line[:80]!r}") from exc


def _decode(kind: str, fields: dict[str, Any]) -> Event:
    if kind == "Listening":
        return Listening(**fields)
    if kind == "Linked":
        return Linked(**fields)
    if kind == "Explained":
        return Explained(fields["to"], tuple(fields["lines"]))
    if kind == "Report":
        return _decode_report(fields)
    raise ValueError(kind)


# JSON knows neither tuples nor keys that are numbers; these functions give both back.


def _decode_report(fields: dict[str, Any]) -> Report:
    fields["peers"] = tuple(fields["peers"])
    fields["paths"] = _paths(fields["paths"])
    fields["services"] = _paths(fields["services"])
    fields["sent"] = tuple(_decode_sent(*row) for row in fields["sent"])
    fields["received"] = tuple(Received(*row) for row in fields["received"])
    fields["round_trips"] = tuple(RoundTrip(*row) for row in fields["round_trips"])
    return Report(**fields)


def _decode_sent(
    origin: int, number: int, how: str, to: Sequence[int], path: Sequence[int], at_us: int
) -> Sent:
    return Sent(origin, number, how, tuple(to), tuple(path), at_us)


def _paths(value: Mapping[str, Sequence[int]]) -> dict[int, tuple[int, ...]]:
    return {int(node): tuple(path) for node, path in value.items()}
