"""What is measured: roles, sizes, how many messages the first try takes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Literal

__all__ = ["WORKLOADS", "Placement", "Workload"]

#: "any": wherever the scheduler likes; "one": both processes on one core; "two": a core each;
#: "first": the first process has a core to itself.
Placement = Literal["any", "one", "two", "first"]

#: relay: three processes, sizes and counts as for a stream. single: one process, which measures
#: itself.
Kind = Literal[
    "stream", "relay", "round_trip", "fan", "fair", "idle", "churn", "importing", "lookup"
]  # fmt: skip

IDLE_LINKS: Final = 5_000
FAN_LINKS: Final = 100
POLITE_LINKS: Final = 10

#: Unacknowledged bytes that the source of a relay may have under way, roughly.
_RELAY_WINDOW_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """One thing to measure.

    Attributes:
        key: How it is called in filters and in the JSON.
        title: How it is called in the report.
        kind: What decides which figures it has.
        roles: Of the processes, in the order in which they start; each is given the address that
            the one before said.
        size: Bytes of a payload.
        first: Messages of the first probe.
        most: Messages at most.
        options: Further options of the processes.
        placement: On which cores.
        extra: What a contestant must offer besides the roles ("busy", "handler").
        limit_s: A run that takes longer is ended.
    """

    key: str
    title: str
    kind: Kind
    roles: tuple[str, ...]
    size: int = 64
    first: int = 20_000
    most: int = 100_000_000
    options: dict[str, int] = field(default_factory=dict)
    placement: Placement = "any"
    extra: str = ""
    limit_s: float = 30.0

    @property
    def step(self) -> int:
        """What the number of messages must be a multiple of."""
        return self.options.get("links", 1) if self.kind == "fan" else 1

    @property
    def fixed(self) -> bool:
        """Whether the number of messages is given rather than found by a probe."""
        return self.kind in ("idle", "importing", "lookup")


def _size_name(size: int) -> str:
    if size >= 1 << 20:
        return f"{size >> 20} MiB"
    return f"{size >> 10} KiB" if size >= 1 << 10 else f"{size} B"


def _key_name(size: int) -> str:
    return _size_name(size).replace(" ", "").replace("iB", "").lower().removesuffix("b")


def _stream(size: int) -> Workload:
    return Workload(
        key=f"stream-{_key_name(size)}",
        title=f"stream, {_size_name(size)}",
        kind="stream",
        roles=("sink", "source"),
        size=size,
        first=max(10, min(20_000, (8 << 20) // size)),
    )


def _relay(size: int) -> Workload:
    return Workload(
        key=f"relay-{_key_name(size)}",
        title=f"relay, {_size_name(size)}",
        kind="relay",
        roles=("sink", "relay", "source"),
        size=size,
        first=max(20, min(20_000, (8 << 20) // size)),
        options={"window": max(8, min(8192, _RELAY_WINDOW_BYTES // (size + 64)))},
    )


def _ping_pong(key: str, title: str, placement: Placement, busy: bool = False) -> Workload:
    return Workload(
        key=f"pingpong-{key}",
        title=f"ping-pong 64 B, {title}",
        kind="round_trip",
        roles=("echo", "pinger"),
        first=1_000,
        most=500_000,
        options={"busy": 1} if busy else {},
        placement=placement,
        extra="busy" if busy else "",
    )


def _calls(window: int, title: str, placement: Placement) -> Workload:
    return Workload(
        key=f"calls-{window}",
        title=f"calls 64 B, {title}",
        kind="round_trip",
        roles=("callee", "caller"),
        first=1_000,
        most=5_000_000,
        options={"window": window},
        placement=placement,
    )


def _idle(key: str, title: str, **options: int) -> Workload:
    return Workload(
        key=key,
        title=title,
        kind="idle",
        roles=("idle_server", "idle_client"),
        first=2_000,
        options={"links": IDLE_LINKS, **options},
        extra="handler" if options else "",
        limit_s=90.0,
    )


WORKLOADS: Final = (
    _ping_pong("one", "both on one core", "one"),
    _ping_pong("two", "a core each", "two"),
    _ping_pong("busy", "a core each, polling", "two", busy=True),
    *(_stream(size) for size in (16, 64, 1 << 10, 16 << 10, 256 << 10, 4 << 20)),
    *(_relay(size) for size in (64, 1 << 10, 16 << 10, 256 << 10)),
    _calls(1, "one in flight, both on one core", "one"),
    _calls(64, "64 in flight", "any"),
    Workload(
        key="fan",
        title=f"64 B to {FAN_LINKS} links",
        kind="fan",
        roles=("fan_sink", "fan_source"),
        options={"links": FAN_LINKS},
    ),
    Workload(
        key="fair",
        title=f"64 B there and back on {POLITE_LINKS} links beside one that floods",
        kind="fair",
        roles=("fair_node", "flooder", "polite"),
        first=1_000,
        most=200_000,
        options={"links": POLITE_LINKS},
        placement="first",  # the node has a core to itself
    ),
    _idle("idle", f"{IDLE_LINKS:,} idle links"),
    _idle("idle-handler", f"{IDLE_LINKS:,} idle links, an object for each", handler=1),
    Workload(
        key="churn",
        title="connect, one exchange, close",
        kind="churn",
        roles=("churn_server", "churn_client"),
        first=200,
        most=5_000,
    ),
    Workload(key="import", title="import", kind="importing", roles=("importing",)),
    Workload(key="lookup", title="table lookups", kind="lookup", roles=("lookup",)),
)
