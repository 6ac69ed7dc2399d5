"""NodeConfig: every limit and timeout of a node, with its unit in its name, checked once."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from . import wire
from ._typing import TYPE_CHECKING, Final, Literal, final
from .errors import LocalError
from .ids import check_node_id
from .values import dataclass, field

if TYPE_CHECKING:
    import os
    from ssl import SSLContext

__all__ = [
    "SECURITY_LEVELS",
    "SEND_QUEUE_POLICIES",
    "NodeConfig",
    "Secret",
    "SecurityLevel",
    "SendQueuePolicy",
    "TlsFiles",
]

#: What a send of this node does that meets a full send queue.
SEND_QUEUE_POLICIES: Final = ("error", "drop_newest", "drop_oldest", "close")
SendQueuePolicy = Literal["error", "drop_newest", "drop_oldest", "close"]

#: What protects the links of a node, from the weakest.
SecurityLevel = Literal["open", "auth", "tls"]
SECURITY_LEVELS: Final[tuple[SecurityLevel, ...]] = ("open", "auth", "tls")

#: One secret, or several during a rotation (the first is used for dialling).
Secret = bytes | str | Sequence[bytes | str]

#: name -> (lowest, highest) allowed value.
_RANGES: Final[dict[str, tuple[int, int]]] = {
    "tick_ms": (1, 3_600_000),
    "max_links": (1, 1 << 20),
    "max_kept": (1, 1 << 20),
    "max_half_open": (1, 1 << 16),
    "accept_budget_per_s": (1, 1 << 20),
    "handshake_timeout_ms": (10, 600_000),
    "resolve_timeout_ms": (10, 600_000),
    "max_frame_bytes": (wire.MIN_MAX_FRAME_BYTES, wire.MAX_FRAME_BYTES),
    "read_budget_bytes": (4_096, 1 << 24),
    "write_high_bytes": (4_096, 1 << 30),
    "write_low_bytes": (0, 1 << 30),
    "max_queued_bytes": (0, 1 << 40),
    "control_queue_bytes": (4_096, 1 << 24),
    "local_queue_bytes": (4_096, 1 << 30),
    "max_commands": (16, 1 << 24),
    "max_drain": (16, 1 << 24),
    "max_posts": (1, 1 << 24),
    "busy_poll_us": (0, 1_000_000),
    "slow_hook_ms": (0, 3_600_000),
    "max_pending_calls": (1, 1 << 24),
    "max_answers_open": (1, 1 << 24),
    "max_broadcast_origins": (1, 1 << 20),
    "close_timeout_ms": (0, 600_000),
    "ping_interval_ms": (10, 60_000),
    "max_ping_interval_ms": (10, 60_000),
    "rtt_interval_ms": (10, 600_000),
    "dead_ms": (100, 3_600_000),
}


@final
@dataclass(frozen=True, slots=True)
class TlsFiles:
    """The three PEM files that a node needs for TLS; ``netcore certs`` makes them.

    Attributes:
        ca: Certificates of those who are trusted to name nodes: the cluster's CA.
        cert: This node's own certificate, and behind it those between it and the CA, if any.
        key: The private key of that certificate, not encrypted.
    """

    ca: str | os.PathLike[str]
    cert: str | os.PathLike[str]
    key: str | os.PathLike[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeConfig:
    """Settings of one node; checked here so that nobody checks again.

    Attributes:
        node_id: 0..2**32 - 2.
        tick_ms: Interval of ``on_tick``.
        max_links: Links at a time; more are refused with TOO_MANY_CONNECTIONS.
        max_kept: Addresses whose link is kept up (``keep=True``).
        max_half_open: Handshakes at a time, incoming and outgoing each. When all incoming ones are
            taken, the oldest of the source (address) with the most gives way; a newcomer of that
            very source pushes out nobody who has just come, and is closed instead. More dials fail
            with ``TooManyConnections``.
        accept_budget_per_s: Connections per second that one source may open without proving that
            it knows the secret; four seconds' worth may come at once, more are closed at once.
            Not for loopback, unix and memory.
        handshake_timeout_ms: From connect or accept to READY.
        resolve_timeout_ms: For the look-up of one DNS name.
        max_frame_bytes: Body of a frame; the smaller of both ends' values counts on a link.
        read_budget_bytes: What one link may bring per turn of the loop.
        write_high_bytes: A send is accepted while less than this waits on the link.
        write_low_bytes: ``on_connection_writable`` is called when a link that refused a send has
            drained to this.
        send_queue_policy: What a send of this node does when ``write_high_bytes`` wait already:
            "error" raises ``SendQueueFullError``, "drop_newest" drops the message, "drop_oldest"
            those that have waited longest and not begun to leave, "close" closes the link.
        max_queued_bytes: What waits on all links together; beyond it the link for which the most
            waits is closed, then the next. 0: no such bound. At least ``write_high_bytes`` and a
            frame count, so that one link meets its own bound first.
        control_queue_bytes: Control frames waiting on a link; more closes it.
        local_queue_bytes: Messages of this node to itself, waiting.
        max_commands: What hooks may ask for (dial, close, events) before it is done.
        max_drain: Commands carried out after one hook before the loop gets its turn again.
        max_posts: Functions posted from other threads, waiting.
        busy_poll_us: Before it sleeps the node looks for work so many microseconds without giving
            up its core: shorter round trips for a core that is never idle. 0: never.
        slow_hook_ms: A hook or callback that takes longer is logged and counted. 0: nobody looks.
        max_pending_calls: Calls of this node without an answer yet.
        max_answers_open: Calls to this node not answered yet; more get BUSY.
        max_broadcast_origins: Nodes, each life of one counted, of whose broadcasts is known which
            have come; the one that was silent longest is forgotten first.
        close_timeout_ms: For a link to end politely.
        ping_interval_ms: A PING goes out after this much silence of our own.
        max_ping_interval_ms: The interval grows with the number of links up to this, and is at
            most a third of ``dead_ms``.
        rtt_interval_ms: Round trips are measured at most this often per link, but by the next
            PINGs when one of them was odd.
        dead_ms: Silence after which a link is closed.
        secret: Shared by all nodes: >= 16 bytes, or a list during a rotation.
        insecure: Allow listening beyond loopback without a secret and without TLS.
        tls: ``TlsFiles``; or an ``ssl.SSLContext`` that listens and dials, or a pair of them, the
            one that listens first. Every link of the node is then TLS and nothing else.
        min_security: "open", "auth" or "tls": a node whose own settings give less is not made.
    """

    node_id: int
    tick_ms: int = 1_000
    max_links: int = 16_384
    max_kept: int = 1_024
    max_half_open: int = 1_024
    accept_budget_per_s: int = 256
    handshake_timeout_ms: int = 4_500  # so that strangers are gone within 5 s, on a busy node too
    resolve_timeout_ms: int = 5_000
    max_frame_bytes: int = wire.DEFAULT_MAX_FRAME_BYTES
    read_budget_bytes: int = 256 * 1024
    write_high_bytes: int = 1 << 20
    write_low_bytes: int = 256 * 1024
    send_queue_policy: SendQueuePolicy = "error"
    max_queued_bytes: int = 256 << 20
    control_queue_bytes: int = 256 * 1024
    local_queue_bytes: int = 16 << 20
    max_commands: int = 65_536
    max_drain: int = 10_000
    max_posts: int = 65_536
    busy_poll_us: int = 0
    slow_hook_ms: int = 50
    max_pending_calls: int = 65_536
    max_answers_open: int = 65_536
    max_broadcast_origins: int = 16_384
    close_timeout_ms: int = 1_000
    ping_interval_ms: int = 200
    max_ping_interval_ms: int = 2_000
    rtt_interval_ms: int = 1_000
    dead_ms: int = 10_000
    secret: Secret | None = field(default=None, repr=False)
    insecure: bool = False
    tls: TlsFiles | SSLContext | tuple[SSLContext, SSLContext] | None = None
    min_security: SecurityLevel = "open"

    def __post_init__(self) -> None:
        check_node_id(self.node_id)
        for name, (low, high) in _RANGES.items():
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
                raise LocalError(f"{name} must be an int in {low}..{high}, not {value!r}")
        if not isinstance(self.insecure, bool):
            raise LocalError(f"insecure must be True or False, not {self.insecure!r}")
        if self.write_low_bytes >= self.write_high_bytes:
            raise LocalError(
                f"write_low_bytes ({self.write_low_bytes}) must be below "
                f"write_high_bytes ({self.write_high_bytes})"
            )
        if self.send_queue_policy not in SEND_QUEUE_POLICIES:
            raise LocalError(
                f"send_queue_policy is one of {', '.join(SEND_QUEUE_POLICIES)}, "
                f"not {self.send_queue_policy!r}"
            )
        object.__setattr__(self, "secret", _check_secret(self.secret))
        _check_tls(self.tls)
        if self.min_security not in SECURITY_LEVELS:
            raise LocalError(
                f"min_security is one of {', '.join(SECURITY_LEVELS)}, not {self.min_security!r}"
            )

    @property
    def security(self) -> SecurityLevel:
        """What protects every link of the node: the one level that it offers and accepts."""
        if self.tls is not None:
            return "tls"
        return "open" if self.secret is None else "auth"

    def require_security(self) -> None:
        """Check ``min_security``; apart, because a secret may still come from the environment.

        Raises:
            LocalError: The level is lower.
        """
        wanted = SECURITY_LEVELS.index(self.min_security)
        if SECURITY_LEVELS.index(self.security) < wanted:
            remedy = "tls=" if self.min_security == "tls" else "secret= or tls="
            raise LocalError(
                f"min_security is {self.min_security!r} and the links of this node would be "
                f"{self.security!r}: give {remedy}"
            )

    @property
    def total_queue_bytes(self) -> int:
        """``max_queued_bytes``, as it counts."""
        least = self.write_high_bytes + self.max_frame_bytes
        return max(self.max_queued_bytes, least) if self.max_queued_bytes else 0

    @property
    def secrets(self) -> tuple[bytes, ...]:
        """The secrets as bytes, the one to dial with first; empty at level open."""
        return () if self.secret is None else tuple(_as_list(self.secret))


def _as_list(secret: Secret) -> list[bytes]:
    items = list(secret) if isinstance(secret, list | tuple) else [secret]
    return [item.encode() if isinstance(item, str) else _as_bytes(item) for item in items]


def _as_bytes(item: object) -> bytes:
    # bytes(32) would be 32 zeros, and the secret of everybody who made the same mistake.
    if not isinstance(item, bytes | bytearray | memoryview):
        raise LocalError(f"a secret is bytes or str, not {type(item).__name__}")
    return bytes(item)


def _check_secret(secret: Secret | None) -> tuple[bytes, ...] | None:
    """Return the secrets as a tuple, without ever putting one into an error text."""
    if secret is None:
        return None
    items = _as_list(secret)
    if not items:
        raise LocalError("secret is an empty list: give at least one secret, or None")
    for item in items:
        if len(item) < wire.MIN_SECRET_BYTES:
            raise LocalError(
                f"a secret has at least {wire.MIN_SECRET_BYTES} bytes, not {len(item)}: "
                "`netcore keygen` makes one"
            )
    return tuple(items)


def _check_tls(tls: object) -> None:
    """Check what kind of thing it is; what is in it is checked by the node, which needs ssl."""
    if tls is None or isinstance(tls, TlsFiles):
        return
    ssl = sys.modules.get("ssl")  # imported by whoever made a context
    contexts = tls if isinstance(tls, tuple) and len(tls) == 2 else (tls,)
    if ssl is None or not all(isinstance(context, ssl.SSLContext) for context in contexts):
        raise LocalError(
            "tls is TlsFiles(ca, cert, key), an ssl.SSLContext or a pair of them, not "
            f"{type(tls).__name__}"
        )
