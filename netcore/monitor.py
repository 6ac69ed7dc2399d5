"""Pings, round-trip times, suspicion: the liveness rules applied to real links."""

from __future__ import annotations

from collections.abc import Callable

from . import pingpong, wire
from ._typing import TYPE_CHECKING, Protocol, final
from .agent import Later
from .config import NodeConfig
from .links import Link, LinkTable
from .liveness import Alive, Dead, Liveness, SendPing, Suspect
from .stats import ConnectionStats

if TYPE_CHECKING:
    from random import Random

    from ._backend import kernels

__all__ = ["LinkMonitor", "Watcher"]


class Watcher(Protocol):
    """Whom the monitor tells; the plane."""

    def on_measured(self, link: Link, stats: ConnectionStats) -> None:
        """A link was measured, became suspect, lives again, or is writable again."""

    def on_link_alive(self, link: Link) -> None:
        """A link answered a probe."""


@final
class LinkMonitor:
    """Watches all links of one node.

    Args:
        config: Intervals and limits.
        links: Those to watch are added one by one.
        loop: For its time and timers.
        rng: For tokens and jitter.
        clock_us: Monotonic microseconds, for round trips.
        watcher: Who is told.
    """

    def __init__(
        self,
        config: NodeConfig,
        links: LinkTable,
        loop: kernels.Loop,
        rng: Random,
        clock_us: Callable[[], int],
        watcher: Watcher,
    ) -> None:
        self._links = links
        self._write_high_bytes = config.write_high_bytes
        self._loop = loop
        self._clock_us = clock_us
        self._watcher = watcher
        self._liveness = Liveness(config, rng)
        self._probes: dict[int, int] = {}
        self._timer: Later | None = None
        self._timer_ms: int | None = None

    @property
    def suspects(self) -> int:
        """How often a link fell silent."""
        return self._liveness.suspects

    def add(self, link: Link, rtt_ms: float | None) -> None:
        """Begin to watch a link; the first PING goes out in this turn."""
        self._liveness.add(link.vitals, self._loop.now_ms, rtt_ms)
        self._arm()

    def remove(self, link: Link) -> None:
        """Watch a link no more."""
        self._liveness.remove(link.vitals)
        self._probes.pop(link.conn.conn_id, None)

    def close(self) -> None:
        """Stop the timer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def rtt_ms(self, conn_id: int) -> float | None:
        """Return the smoothed round-trip time of a link."""
        link = self._links.find(conn_id)
        return None if link is None else link.vitals.srtt_ms

    def suspect(self, conn_id: int) -> bool:
        """Return whether a link is suspect."""
        link = self._links.find(conn_id)
        return link is not None and link.vitals.suspect

    def probe(self, link: Link) -> None:
        """Ping a link now; ``Watcher.on_link_alive`` follows when it answers."""
        if link.conn.conn_id in self._probes:
            return  # that answer will do: newcomers must not fill the link's queue, or its tokens
        probe = self._liveness.probe(link.vitals, self._clock_us())
        if probe is not None:
            self._probes[link.conn.conn_id] = probe.number
            link.conn.send_control(wire.KIND_PING, probe.payload)

    def on_control(self, link: Link, kind: int, body: bytes) -> None:
        """Take a PING or PONG in.

        Raises:
            FrameError: It is malformed.
        """
        if kind == wire.KIND_PING:
            if link.vitals.is_known_ping(body):
                return
            ping = pingpong.decode_ping(body)
            token = self._liveness.on_ping(
                link.vitals, ping.token, ping.interval_ms, ping.flags, self._loop.now_ms
            )
            if token is not None:
                link.conn.send_control(wire.KIND_PONG, pingpong.encode_pong(token))
        else:
            token = pingpong.decode_pong(body)
            rtt_ms = self._liveness.on_pong(link.vitals, token, self._clock_us())
            if rtt_ms is not None and link.has_handlers:
                self._watcher.on_measured(link, self.measure(link))
            self._check_probe(link)
        self._arm()

    def measure(self, link: Link) -> ConnectionStats:
        """Return what is known about a link now; rates are since the measurement before."""
        conn, vitals = link.conn, link.vitals
        now_ms, sent, received = self._loop.now_ms, conn.bytes_sent, conn.bytes_received
        elapsed = now_ms - vitals.measured_ms
        rates: tuple[float | None, float | None] = (None, None)
        if elapsed > 0:
            rates = (
                (sent - vitals.measured_sent) * 1000 / elapsed,
                (received - vitals.measured_received) * 1000 / elapsed,
            )
            vitals.measured_ms = now_ms
            vitals.measured_sent, vitals.measured_received = sent, received
        return ConnectionStats(
            conn_id=conn.conn_id,
            remote_node_id=conn.remote_node_id,
            rtt_ms=vitals.srtt_ms,
            sent_bytes_per_s=rates[0],
            received_bytes_per_s=rates[1],
            queued_bytes=conn.queued_bytes,
            suspect=vitals.suspect,
            writable=conn.queued_bytes < self._write_high_bytes,
        )

    def _check_probe(self, link: Link) -> None:
        conn_id = link.conn.conn_id
        number = self._probes.get(conn_id)
        if number is not None and self._liveness.is_answered(link.vitals, number):
            del self._probes[conn_id]
            self._watcher.on_link_alive(link)

    def _activity(self, conn_id: int) -> tuple[int, int]:
        conn = self._links.find_conn(conn_id)
        if conn is None:
            return (self._loop.now_ms, self._loop.now_ms)
        return conn.last_received_ms, conn.last_sent_ms

    def _poll(self) -> None:
        self._timer = None
        actions = self._liveness.poll(self._loop.now_ms, self._clock_us(), self._activity)
        for action in actions:
            if type(action) is SendPing:  # first: nearly all of them
                conn = self._links.find_conn(action.key)
                if conn is not None:
                    conn.send_control(wire.KIND_PING, action.payload)
                continue
            link = self._links.find(action.key)
            if link is None:
                continue
            if isinstance(action, Dead):
                link.conn.fail(wire.CLOSE_DEAD, "no sign of life")
            elif isinstance(action, Suspect | Alive):
                self._watcher.on_measured(link, self.measure(link))
        self._arm()

    def _arm(self) -> None:
        """Keep one timer at the next deadline."""
        due_ms = self._liveness.next_deadline_ms()
        if self._timer is not None:
            if due_ms == self._timer_ms:
                return
            self._timer.cancel()
            self._timer = None
        if due_ms is not None:
            self._timer_ms = due_ms
            self._timer = self._loop.call_at(due_ms, self._poll)
