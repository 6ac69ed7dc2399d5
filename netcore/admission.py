"""Who gets a link: the rules for duplicates, restarts and dials that cross each other.

The rules apply to an initiator whose secret was verified:

- A newcomer from a node that has a link already: the old link is pinged. If it answers within
  max(200 ms, 4 round trips) the newcomer is refused, as DUPLICATE_NODE_ID when its epoch is another
  (a second living node uses the id) or as ALREADY_CONNECTED. Otherwise the old links are closed
  and, when they are gone, the newcomer is looked at again.
- Two nodes that dial each other at once: the one with the lower id holds the other's attempt back
  until its own dial has ended; the one with the higher id answers at once. And no AUTH is sent to a
  node that has a link. So exactly one of the two dials becomes the link.
- Last, every behavior is asked.
"""

from __future__ import annotations

from collections.abc import Callable

from . import wire
from ._typing import Final, Protocol, final
from .agent import Later
from .errors import AlreadyConnected, OutgoingConnectionError, SelfConnect, TooManyConnections
from .handshake import PeerInfo
from .ids import NodeId
from .links import Link, LinkTable
from .values import dataclass

__all__ = ["Admission", "Attempt"]

MIN_PROBE_MS: Final = 200
PROBE_ROUND_TRIPS: Final = 4


class Attempt(Protocol):
    """An incoming handshake whose initiator was verified."""

    @property
    def conn_id(self) -> int:
        """What the link will be called."""

    @property
    def peer(self) -> PeerInfo | None:
        """Who dials."""

    @property
    def done(self) -> bool:
        """Whether it has ended, for example because the stream broke."""

    def answer(self) -> None:
        """Prove the own identity; accept or reject follows."""

    def accept(self) -> None:
        """The link is up."""

    def reject(self, code: int, text: str) -> None:
        """Refuse, with one of ``wire.REJECT_*``."""


class Surroundings(Protocol):
    """What the rules ask and cause; the plane."""

    def ask_behaviors(self, node_id: int, conn_id: int) -> str | None:
        """Return the reason of the first behavior that refuses, or None."""

    def is_dialing(self, node_id: int) -> bool:
        """Return whether a HELLO of this node to that one is out and the dial has not ended."""

    def probe(self, link: Link) -> None:
        """Ping a link now; ``Admission.on_link_alive`` follows if it answers."""

    def rtt_ms(self, conn_id: int) -> float | None:
        """Return the smoothed round-trip time of a link."""

    def call_later(self, delay_ms: int, fn: Callable[[], object]) -> Later:
        """Call a function after a while."""


@dataclass(slots=True)
class _Held:
    """An attempt that waits; ``probed`` are the conn ids that were pinged for it."""

    attempt: Attempt
    peer: PeerInfo
    probed: frozenset[int] = frozenset()
    timer: Later | None = None


@final
class Admission:
    """The decisions about links of one node.

    Attributes:
        refused: Incoming links refused after authentication.
    """

    def __init__(
        self, node_id: NodeId, max_links: int, links: LinkTable, around: Surroundings
    ) -> None:
        self._node_id = node_id
        self._max_links = max_links
        self._links = links
        self._around = around
        self._held: dict[int, _Held] = {}
        self._promised: set[int] = set()  # own dials whose AUTH is out: links any moment
        self.refused = 0

    def __len__(self) -> int:
        return len(self._held)

    # -- outgoing ----------------------------------------------------------------------------------

    def refuse_dial(self, node_id: int | None, *, parallel: bool) -> OutgoingConnectionError | None:
        """Return why a dial must not go on, before it starts and again before its AUTH."""
        if node_id == self._node_id:
            return SelfConnect(f"node {node_id} is this node")
        if self._is_full():
            return TooManyConnections(f"this node has {self._max_links} links (max_links)")
        if node_id is not None and not parallel and self._links.is_open_to(node_id):
            return AlreadyConnected(f"node {node_id}; parallel=True makes another link")
        return None

    def refuse_auth(
        self, conn_id: int, node_id: int | None, *, parallel: bool
    ) -> OutgoingConnectionError | None:
        """Return why a dial must not send its AUTH; if it may, room is kept until it has ended."""
        self._promised.discard(conn_id)
        error = self.refuse_dial(node_id, parallel=parallel)
        if error is None:
            self._promised.add(conn_id)
        return error

    def _is_full(self) -> bool:
        return len(self._links) + len(self._promised) >= self._max_links

    # -- incoming ----------------------------------------------------------------------------------

    def decide(self, attempt: Attempt) -> None:
        """Accept, refuse or hold an attempt."""
        peer = attempt.peer
        self._release(attempt.conn_id)
        if attempt.done or peer is None:
            return
        links, node_id = self._links, peer.node_id
        has_old = links.is_open_to(node_id)
        if has_old and not (peer.parallel and links.is_same_epoch(node_id, peer.epoch)):
            self._hold_for_probe(attempt, peer, self._open_links(node_id))
        elif not has_old and links.leads_to(node_id):
            self._held[attempt.conn_id] = _Held(attempt, peer)  # the old one is on its way out
        elif self._must_wait(peer):
            self._held[attempt.conn_id] = _Held(attempt, peer)
        else:
            self._ask(attempt, peer)

    def on_dial_ended(self, conn_id: int) -> None:
        """A dial of this node became a link or failed: look again at what waited for that."""
        self._promised.discard(conn_id)
        for held in list(self._held.values()):
            if not held.probed:
                self.decide(held.attempt)

    def on_link_alive(self, link: Link) -> None:
        """A link answered a ping: whoever wanted to replace it is refused."""
        for held in list(self._held.values()):
            if link.conn.conn_id in held.probed:
                self._refuse_newcomer(held, link)

    def on_link_gone(self, node_id: int) -> None:
        """A link ended: look again at newcomers from that node."""
        for held in list(self._held.values()):
            if held.peer.node_id == node_id:
                self.decide(held.attempt)

    def on_attempt_ended(self, conn_id: int) -> None:
        """An attempt failed by itself."""
        self._release(conn_id)

    # -- inside ------------------------------------------------------------------------------------

    def _open_links(self, node_id: int) -> list[Link]:
        return [link for link in self._links.to_node(node_id) if link.is_open]

    def _must_wait(self, peer: PeerInfo) -> bool:
        if peer.parallel or self._node_id > peer.node_id:
            return False
        return self._around.is_dialing(peer.node_id)

    def _ask(self, attempt: Attempt, peer: PeerInfo) -> None:
        if self._is_full():
            self._reject(attempt, wire.REJECT_TOO_MANY_CONNECTIONS, "")
            return
        attempt.answer()
        reason = self._around.ask_behaviors(peer.node_id, attempt.conn_id)
        if attempt.done:
            return
        if reason is None:
            attempt.accept()
        else:
            self._reject(attempt, wire.REJECT_BEHAVIOR, reason)

    def _hold_for_probe(self, attempt: Attempt, peer: PeerInfo, old: list[Link]) -> None:
        wait = float(MIN_PROBE_MS)
        for link in old:
            self._around.probe(link)
            rtt = self._around.rtt_ms(link.conn.conn_id)
            wait = max(wait, PROBE_ROUND_TRIPS * (rtt or 0.0))
        held = _Held(attempt, peer, frozenset(link.conn.conn_id for link in old))
        held.timer = self._around.call_later(int(wait), lambda: self._on_silence(held))
        self._held[attempt.conn_id] = held

    def _on_silence(self, held: _Held) -> None:
        """The old links did not answer: end them; ``on_link_gone`` goes on from there."""
        for conn_id in held.probed:
            link = self._links.find(conn_id)
            if link is not None:
                link.conn.fail(wire.CLOSE_REPLACED, "another incarnation took over")
        if not self._links.leads_to(held.peer.node_id):
            self.decide(held.attempt)

    def _refuse_newcomer(self, held: _Held, link: Link) -> None:
        self._release(held.attempt.conn_id)
        if held.peer.epoch == link.vitals.epoch:
            self._reject(held.attempt, wire.REJECT_ALREADY_CONNECTED, "")
        else:
            text = f"node id {held.peer.node_id} is in use by another living node"
            self._reject(held.attempt, wire.REJECT_DUPLICATE_NODE_ID, text)

    def _reject(self, attempt: Attempt, code: int, text: str) -> None:
        self.refused += 1
        attempt.reject(code, text)

    def _release(self, conn_id: int) -> None:
        held = self._held.pop(conn_id, None)
        if held is not None and held.timer is not None:
            held.timer.cancel()
