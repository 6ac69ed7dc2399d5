"""Negotiation: one handshake over one stream.

Facts first:

- A stream belongs to its Negotiation until ``Host.established`` takes it; from then on it is the
  connection's, and nothing here refers to it any more.
- Each negotiation ends exactly once, in ``established`` or in ``failed``. The latter finds the
  stream closed already, or lingering: a REJECT that was just written must not be lost to a TCP
  reset, so our direction is ended first and the rest waits half a second for the other side's end.
- On a node with TLS the stream that comes in is wrapped here, whatever transport it is of. The
  state machine begins when TLS has said whose certificate the other side has proved to own, and
  all is under the same deadline.
- Everything that a stranger may cause is bounded: handshakes and lingering streams by ``HalfOpen``,
  their bytes by the state machines, their time by one deadline.
"""

from __future__ import annotations

from .. import wire
from .._typing import TYPE_CHECKING, cast, final
from ..errors import DestinationNotFound, HandshakeTimeout
from ..handshake import Accepted, Failed, Initiator, Responder

if TYPE_CHECKING:
    from ..address import Endpoint
    from ..errors import OutgoingConnectionError
    from ..handshake import PeerInfo
    from .base import Detached, Host, Sink, Stream

__all__ = ["Negotiation"]


@final
class Negotiation:
    """One handshake over one stream, under its own deadline.

    Attributes:
        host: The node.
        stream: The stream; ``established`` takes it by ``detach``.
        conn_id: What the link will be called.
        outgoing: Whether this node dialled.
        expected_node: The only node to accept, None for any.
        parallel: Whether a link beside an existing one was asked for by this node.
        done: Whether it has ended.
        hello_sent: Whether the initiator's HELLO is out; always False for incoming ones.
        rtt_ms: From HELLO to HELLO, seen by the initiator; None for incoming ones.
    """

    __slots__ = (
        "_asked",
        "_machine",
        "_sink",
        "_started_ms",
        "_timer",
        "conn_id",
        "done",
        "expected_node",
        "hello_sent",
        "host",
        "outgoing",
        "parallel",
        "rtt_ms",
        "stream",
    )

    def __init__(
        self,
        host: Host,
        stream: Stream,
        *,
        conn_id: int,
        outgoing: bool,
        expected_node: int | None = None,
        parallel: bool = False,
        deadline_ms: int | None = None,
        sink: Sink | None = None,
    ) -> None:
        """Prepare a handshake; ``start`` begins it.

        Args:
            host: The node.
            stream: A connected stream.
            conn_id: What the link will be called.
            outgoing: Whether this node dialled.
            expected_node: The only node to accept, None for any.
            parallel: Ask for a link beside an existing one.
            deadline_ms: Loop time at which it fails; by default the configured timeout from now.
            sink: Who is told how it ended; by default the host.
        """
        self.host = host
        self.stream = stream if host.tls is None else host.tls.wrap(stream, host.loop, outgoing)
        self.conn_id = conn_id
        self.outgoing = outgoing
        self.expected_node = expected_node
        self.parallel = parallel
        self.done = False
        self.hello_sent = False
        self.rtt_ms: float | None = None
        self._sink: Sink = host if sink is None else sink
        self._asked = False  # the host knows that it has to decide
        self._started_ms = host.loop.now_ms
        timeout = host.config.handshake_timeout_ms
        when = self._started_ms + timeout if deadline_ms is None else deadline_ms
        self._timer = host.loop.call_at(when, self._on_timeout)
        self._machine = self._initiator() if outgoing else self._responder()

    def start(self) -> None:
        """Begin; the outcome may come before this returns."""
        if not self.outgoing:
            self.host.half_open.add(self)
        if self.host.tls is not None:
            self.stream.set_target(self)  # on_secured, or on_insecure, goes on
            return
        self.hello_sent = self.outgoing
        self.stream.set_target(self)
        self._advance()

    @property
    def peer(self) -> PeerInfo | None:
        """Who is there; for the host verified at ``decide`` and ``established``, not before."""
        return self._machine.peer

    @property
    def remote(self) -> Endpoint | None:
        """Where the other end is."""
        return self.stream.remote

    # -- what the stream tells ---------------------------------------------------------------------

    def on_data(self, data: bytes) -> None:
        """Handle bytes from the other side."""
        if not self.done:
            self._machine.receive_data(data)
            self._advance()

    def on_eof(self, error: OSError | None) -> None:
        """Handle the end of the other side's stream."""
        if self.done:
            return
        if error is None:
            self._machine.receive_eof()
        else:
            text = f"the connection broke during the handshake: {error.strerror or error}"
            self._machine.abort(DestinationNotFound(text))
        self._advance()

    def on_secured(self, node_id: int) -> None:
        """Begin: TLS stands, and the other side's certificate names this node."""
        if self.done:
            return
        self._started_ms = self.host.loop.now_ms
        self._machine.certify(node_id)
        self.hello_sent = self.outgoing and self._machine.result is None
        self._advance()

    def on_insecure(self, error: OutgoingConnectionError) -> None:
        """Handle that TLS has failed."""
        if not self.done:
            self._machine.lose(error)
            self._advance()

    def detach(self) -> Detached:
        """Hand over the stream; what is unsent includes the last words of the handshake.

        They leave with the first words of the link, in one piece.
        """
        detached = self.stream.detach()
        words = self._machine.data_to_send()
        return detached._replace(unsent=detached.unsent + words) if words else detached

    # -- what the host decides; without effect once it has ended -----------------------------------

    def answer(self) -> None:
        """Prove our identity to the verified initiator, in front of ``accept`` or ``reject``."""
        if isinstance(self._machine, Responder) and not self.done:
            self._machine.answer()

    def accept(self) -> None:
        """Take the link; ``established`` follows before this returns."""
        if isinstance(self._machine, Responder) and not self.done:
            self._machine.accept()
            self._advance()

    def reject(self, code: int, text: str) -> None:
        """Refuse the link in these words; ``code`` is one of ``wire.REJECT_*``."""
        if isinstance(self._machine, Responder) and not self.done:
            self._machine.reject(code, text)
            self._advance()

    def abort(self, error: OutgoingConnectionError) -> None:
        """End it for a reason of this node."""
        if not self.done:
            self._machine.abort(error)
            self._advance()

    # -- inside ------------------------------------------------------------------------------------

    def _initiator(self) -> Initiator:
        return Initiator(
            self.host.identity,
            expected_node=self.expected_node,
            link=self.host.next_link_number(),
            parallel=self.parallel,
            nonce=self.host.random_bytes(wire.NONCE_BYTES),
        )

    def _responder(self) -> Responder:
        return Responder(
            self.host.identity,
            nonce=self.host.random_bytes(wire.NONCE_BYTES),
            link=self.host.next_link_number(),
        )

    def _advance(self) -> None:
        """Send what there is to send and take the next decision, or have it taken."""
        machine = self._machine
        if isinstance(machine.result, Accepted):
            self._end(spoke=False)
            return
        spoke = self._flush()
        if machine.result is not None:
            self._end(spoke)
        elif isinstance(machine, Initiator) and machine.state == "NEED_PROCEED":
            self.rtt_ms = float(self.host.loop.now_ms - self._started_ms)
            error = self.host.allow_auth(self)
            if error is None:
                machine.proceed()
            else:
                machine.abort(error)
            self._advance()
        elif machine.state == "NEED_DECISION" and not self._asked:
            self._asked = True
            self.host.decide(self)  # may end it; nothing may follow here

    def _flush(self) -> bool:
        data = self._machine.data_to_send()
        if data:
            self.stream.write(data)
        return bool(data)

    def _end(self, spoke: bool) -> None:
        self.done = True
        self._timer.cancel()
        self.host.half_open.discard(self)
        sink, self._sink = self._sink, self.host  # a dial refers to us, and we to it no more
        result = self._machine.result
        if isinstance(result, Accepted):
            self._hand_over(sink, result)
            return
        if spoke:
            self.stream.finish()
        else:
            self.stream.close()
        sink.failed(self, cast(Failed, result).error)

    def _hand_over(self, sink: Sink, accepted: Accepted) -> None:
        try:
            sink.established(self, accepted)
        except BaseException:
            self.stream.close()  # without effect if it was detached before
            raise

    def _on_timeout(self) -> None:
        text = "the handshake did not end in time"
        if self.outgoing and self._machine.peer is None:
            text = "the other end accepted the connection and says nothing"
        self.abort(HandshakeTimeout(text))
