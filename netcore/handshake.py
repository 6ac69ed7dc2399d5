"""Initiator and Responder: who is there, and does it know the secret. Bytes in, bytes out.

The two state machines; ``>`` is a frame that goes out, ``<`` one that comes in, ``!`` what the
driver calls::

    Initiator                               Responder
    HELLO_SENT    > HELLO (at once)         WAIT_HELLO
                                                           < HELLO      > HELLO
    NEED_PROCEED  < HELLO                   WAIT_AUTH      (peer is known, and not verified)
    AUTH_SENT     ! proceed()  > AUTH                      < AUTH       (verified)
                                            NEED_DECISION
    WAIT_READY    < AUTH (verified)         ANSWERED       ! answer()   > AUTH
                                                           ! accept()   > READY
    DONE          < READY                   DONE

Facts that this file relies on:

- The responder proves nothing to a stranger: its AUTH goes out after the initiator's was verified,
  and only when the driver says so, because two dials that cross each other are decided there.
- Each proof is an HMAC over the hash of both HELLO frames as they travelled, nonces included. So an
  old conversation cannot be played back, and a changed version, level or node id breaks the proofs.
  The letters "i" and "r" in front keep a proof from being sent back to its maker.
- REJECT may come in every state and ends the handshake. So does whatever else comes out of turn.
- At level *auth* records begin behind the responder's AUTH. READY, or REJECT in its place, is alone
  in its record, so that its length can be refused before it is there.
- Until the end at most 512 bytes are taken and a frame has at most 256, refused on its length
  alone. So a stranger costs one small buffer and, at most, a few hashes.
- At level *tls* all of this travels inside a TLS stream, which the driver has opened. It says by
  ``certify``, before anything else, which node the other side's certificate names; a HELLO of any
  other is refused. Proofs are as at level *auth* when there is a secret, and there are no records.
- Nobody reads a clock here. Timeouts are the driver's, by ``abort``.
"""

from __future__ import annotations

import struct

from . import wire
from ._typing import TYPE_CHECKING, ClassVar, Final, Literal, cast, final
from .errors import (
    AuthenticationError,
    BehaviorRejected,
    DestinationNotFound,
    DuplicateNodeId,
    IdentityMismatch,
    LocalError,
    OutgoingConnectionError,
    SelfConnect,
    UnsupportedProtocol,
)
from .hello import (
    CODE_OF_ERROR,
    ERROR_OF_CODE,
    Accepted,
    Failed,
    Hello,
    Identity,
    PeerInfo,
    Refusal,
    decode_reject,
    encode_reject,
    frame_of,
    malformed,
)
from .keys import Proofs

if TYPE_CHECKING:
    from ._backend import kernels

__all__ = ["Accepted", "Failed", "Identity", "Initiator", "PeerInfo", "Responder"]

State = Literal[
    "HELLO_SENT",
    "NEED_PROCEED",
    "AUTH_SENT",
    "WAIT_READY",
    "WAIT_HELLO",
    "WAIT_AUTH",
    "NEED_DECISION",
    "ANSWERED",
    "DONE",
]

_FRAME: Final = struct.Struct(">I")
_NO_PROOFS: Final = Proofs(None, b"", b"")
_TLS_RECORDS: Final = frozenset({wire.TLS_ALERT, wire.TLS_HANDSHAKE})
#: What a node that was dialled wants instead.
_NEEDS: Final[dict[int, str]] = {
    wire.LEVEL_OPEN: "no secrets: it has none",
    wire.LEVEL_AUTH: "only nodes with the secret",
    wire.LEVEL_TLS: "only links over TLS",
}
_MAX_RECORD_BODY: Final = wire.FRAME_HEADER_BYTES + wire.MAX_HANDSHAKE_FRAME_BYTES


class _Side:
    """What both sides do: cut frames, keep to the limits, end once."""

    __slots__ = (
        "_in",
        "_out",
        "_proofs",
        "_records",
        "_taken",
        "certified",
        "identity",
        "peer",
        "result",
        "state",
    )

    #: The kind of frame that may come in a state; in the others the driver has the word.
    _EXPECTED: ClassVar[dict[State, int]] = {}

    def __init__(self, identity: Identity, state: State) -> None:
        self.identity = identity
        self.state: State = state
        self.peer: PeerInfo | None = None
        self.result: Accepted | Failed | None = None
        self.certified: int | None = None  # the node that the other side's certificate names
        self._in = b""
        self._out = b""
        self._taken = 0  # bytes of whole frames
        self._proofs = _NO_PROOFS  # until both HELLOs are known
        self._records: kernels.Records | None = None

    def certify(self, node_id: int) -> None:
        """Learn from TLS who is there; afterwards look at ``result``."""
        self.certified = node_id

    def receive_data(self, data: bytes) -> None:
        """Handle bytes from the other side; afterwards look at ``state`` and ``result``.

        Raises:
            LocalError: The link stands, these bytes belong to it.
        """
        if isinstance(self.result, Accepted):
            raise LocalError("the handshake is over: these bytes belong to the link")
        if self.result is not None:
            return
        self._in += data
        try:
            while (frame := self._next_frame()) is not None:
                self._on_frame(*frame)
            if self._taken + len(self._in) > wire.MAX_HANDSHAKE_BYTES:
                raise malformed("more than %d bytes", wire.MAX_HANDSHAKE_BYTES)
        except Refusal as refusal:
            self._fail(refusal.error, code=refusal.code, tell=refusal.tell)

    def receive_eof(self) -> None:
        """Handle the end of the other side's stream."""
        self._fail(DestinationNotFound("the connection was closed during the handshake"))

    def lose(self, error: OutgoingConnectionError) -> None:
        """End the handshake because its stream cannot go on; nobody can be told."""
        self._fail(error)

    def data_to_send(self) -> bytes:
        """Return what must go to the other side now, and forget it."""
        data, self._out = self._out, b""
        return data

    def abort(self, error: OutgoingConnectionError) -> None:
        """End the handshake for a reason of this node; the other side is told where it helps."""
        self._fail(error, tell=True)

    def _fail(self, error: OutgoingConnectionError, *, code: int = 0, tell: bool = False) -> None:
        if self.result is not None:
            return
        if tell and type(error) in CODE_OF_ERROR:
            code = CODE_OF_ERROR[type(error)]
            text = error.reason if isinstance(error, BehaviorRejected) else _detail(error)
            self._send(wire.KIND_REJECT, encode_reject(code, text))
        self._finish(Failed(error=error, code=code))

    def _finish(self, result: Accepted | Failed) -> None:
        self.result = result
        self.state = "DONE"
        self._in = b""
        self._taken = 0

    def _send(self, kind: int, body: bytes) -> None:
        frame = frame_of(kind, body)
        self._out += frame if self._records is None else self._records.seal(frame)

    def _next_frame(self) -> tuple[int, bytes] | None:
        """Return kind and whole frame, header included; None while it is incomplete."""
        if len(self._in) < wire.FRAME_HEADER_BYTES:
            return None
        word = int(_FRAME.unpack_from(self._in)[0])
        kind, length = word >> 24, word & wire.MAX_FRAME_BYTES
        if not wire.KIND_HELLO <= kind <= wire.KIND_REJECT:
            if kind in _TLS_RECORDS and not self.identity.tls:
                text = "the other end speaks TLS, and this node does not"
                raise Refusal(AuthenticationError(text), tell=kind == wire.TLS_HANDSHAKE)
            raise malformed("a frame of kind %#04x", kind)
        if length > wire.MAX_HANDSHAKE_FRAME_BYTES:
            raise malformed("a frame of %d bytes", length)
        frame = self._take(wire.FRAME_HEADER_BYTES + length)
        return None if frame is None else (kind, frame)

    def _take(self, size: int) -> bytes | None:
        there = self._in
        if len(there) < size:
            return None
        self._taken += size
        self._in, taken = there[size:], there[:size]
        return taken

    def _on_frame(self, kind: int, frame: bytes) -> None:
        body = frame[wire.FRAME_HEADER_BYTES :]
        if kind == wire.KIND_REJECT:
            raise decode_reject(body)
        if kind != self._EXPECTED.get(self.state):
            raise malformed("a frame of kind %#04x out of turn", kind)
        if kind == wire.KIND_HELLO:
            self._on_hello(Hello.decode(body), frame)
        elif kind == wire.KIND_AUTH:
            self._on_auth(body)
        else:
            self._on_ready()

    def _on_hello(self, hello: Hello, frame: bytes) -> None:
        raise NotImplementedError

    def _on_auth(self, proof: bytes) -> None:
        raise NotImplementedError

    def _on_ready(self) -> None:
        raise NotImplementedError

    def _check_identity(self, hello: Hello) -> None:
        if self.identity.tls and hello.node_id != self.certified:
            text = f"node {hello.node_id} came with the certificate of node {self.certified}"
            raise Refusal(AuthenticationError(text), tell=True)
        if hello.node_id == self.identity.node_id:
            if hello.epoch == self.identity.epoch:
                raise Refusal(SelfConnect(), tell=True)
            text = f"both ends of a connection are node {hello.node_id}"
            raise Refusal(DuplicateNodeId(text), tell=True)

    def _peer_info(self, hello: Hello, *, parallel: bool) -> PeerInfo:
        return PeerInfo(
            node_id=hello.node_id,
            epoch=hello.epoch,
            link=hello.link,
            max_frame_bytes=min(hello.max_frame_bytes, self.identity.max_frame_bytes),
            parallel=parallel,
            level=self.identity.level,
        )

    def _make_records(self, *, initiator: bool) -> kernels.Records | None:
        if self.identity.tls:
            return None
        return self._proofs.records(self.identity.records, initiator=initiator)

    def _need_state(self, *states: State) -> None:
        if self.state not in states:
            raise LocalError(f"the handshake is in {self.state}, not in {' or '.join(states)}")


def _detail(error: OutgoingConnectionError) -> str:
    return str(getattr(error, "detail", ""))


@final
class Initiator(_Side):
    """The side that dials.

    Attributes:
        state: HELLO_SENT, NEED_PROCEED (call ``proceed`` or ``abort``), AUTH_SENT, WAIT_READY,
            DONE.
        peer: Who answered, from NEED_PROCEED on; verified from WAIT_READY on.
        result: None until DONE.
    """

    __slots__ = ("_expected_node", "_hello", "_parallel")

    _EXPECTED: ClassVar[dict[State, int]] = {
        "HELLO_SENT": wire.KIND_HELLO,
        "AUTH_SENT": wire.KIND_AUTH,
        "WAIT_READY": wire.KIND_READY,
    }

    def __init__(
        self,
        identity: Identity,
        *,
        expected_node: int | None,
        link: int,
        parallel: bool,
        nonce: bytes,
    ) -> None:
        """Start with a HELLO to send.

        Args:
            identity: This node.
            expected_node: The only node to accept, None for any.
            link: This node's number for the link, u32.
            parallel: Ask for a link beside an existing one.
            nonce: 32 random bytes, never used before.
        """
        super().__init__(identity, "HELLO_SENT")
        self._expected_node = expected_node
        self._parallel = parallel
        self._hello = Hello(
            levels=identity.level,
            flags=wire.HELLO_PARALLEL if parallel else 0,
            node_id=identity.node_id,
            expected_node=wire.NO_NODE if expected_node is None else expected_node,
            epoch=identity.epoch,
            link=link,
            max_frame_bytes=identity.max_frame_bytes,
            nonce=nonce,
            key_id=identity.keys.first_id,
        ).encode()
        self._out += self._hello

    def certify(self, node_id: int) -> None:
        """Learn from TLS who is there; it must be the node that was dialled."""
        super().certify(node_id)
        if self._expected_node not in (None, node_id):
            self._out = b""  # our HELLO is not for this node
            text = f"expected node {self._expected_node}, found the certificate of node {node_id}"
            self._fail(IdentityMismatch(text), tell=True)

    def proceed(self) -> None:
        """Go on with the peer that answered: AUTH goes out."""
        self._need_state("NEED_PROCEED")
        self.state = "AUTH_SENT"
        self._send(wire.KIND_AUTH, self._proofs.initiator)

    def _on_hello(self, hello: Hello, frame: bytes) -> None:
        if hello.version_min != hello.version_max:
            raise Refusal(UnsupportedProtocol("the other end chose no version"), tell=True)
        if self._expected_node not in (None, hello.node_id):
            text = f"expected node {self._expected_node}, found node {hello.node_id}"
            raise Refusal(IdentityMismatch(text), tell=True)
        self._check_identity(hello)
        if hello.expected_node != self.identity.node_id:
            raise malformed("an answer to node %d", hello.expected_node)
        key = self.identity.keys.find(hello.key_id)
        if hello.levels != self.identity.level or (self.identity.keys and key is None):
            raise Refusal(AuthenticationError("the two nodes share no secret"), tell=True)
        self._proofs = Proofs(key, self._hello, frame)
        self.peer = self._peer_info(hello, parallel=self._parallel)
        self.state = "NEED_PROCEED"

    def _on_auth(self, proof: bytes) -> None:
        if not self._proofs.is_responder(proof):
            raise Refusal(AuthenticationError("the other end does not know the secret"))
        self._records = self._make_records(initiator=True)
        self.state = "WAIT_READY"

    def _on_ready(self) -> None:
        peer, count = cast(PeerInfo, self.peer), len(self._in)
        rest = self._open(self._in)
        self._finish(Accepted(peer=peer, records=self._records, rest=rest, rest_bytes=count))

    def _next_frame(self) -> tuple[int, bytes] | None:
        if self._records is None:
            return _Side._next_frame(self)
        head = wire.RECORD_LENGTH_BYTES
        if len(self._in) < head:
            return None
        length = int.from_bytes(self._in[:head], "big")
        if length > _MAX_RECORD_BODY:
            raise malformed("a record of %d bytes", length)
        record = self._take(head + length + wire.RECORD_TAG_BYTES)
        if record is None:
            return None
        frame = self._open(record)
        if len(frame) != wire.FRAME_HEADER_BYTES + int.from_bytes(frame[1:4], "big"):
            raise malformed("%d bytes that are not one frame", len(frame))
        return frame[0], frame

    def _open(self, data: bytes) -> bytes:
        if self._records is None:
            return data
        body = self._records.open(data)
        if (error := self._records.error) is not None:
            raise Refusal(AuthenticationError(f"a record is wrong: {error}"))
        return body

    def _fail(self, error: OutgoingConnectionError, *, code: int = 0, tell: bool = False) -> None:
        # Between its AUTH and READY the responder listens to nothing that is worth a record.
        super()._fail(error, code=code, tell=tell and self._records is None)


@final
class Responder(_Side):
    """The side that was dialled.

    Attributes:
        state: WAIT_HELLO, WAIT_AUTH, NEED_DECISION (call ``answer`` and ``accept``, or ``reject``),
            ANSWERED, DONE.
        peer: Who dialled, from WAIT_AUTH on; verified from NEED_DECISION on.
        result: None until DONE.
    """

    __slots__ = ("_link", "_nonce")

    _EXPECTED: ClassVar[dict[State, int]] = {
        "WAIT_HELLO": wire.KIND_HELLO,
        "WAIT_AUTH": wire.KIND_AUTH,
    }

    def __init__(self, identity: Identity, *, nonce: bytes, link: int = 0) -> None:
        """Start waiting.

        Args:
            identity: This node.
            nonce: 32 random bytes, never used before.
            link: This node's number for the link, u32.
        """
        super().__init__(identity, "WAIT_HELLO")
        self._nonce = nonce
        self._link = link

    def answer(self) -> None:
        """Prove to the verified initiator that this node knows the secret too."""
        self._need_state("NEED_DECISION")
        self.state = "ANSWERED"
        self._send(wire.KIND_AUTH, self._proofs.responder)
        self._records = self._make_records(initiator=False)

    def accept(self) -> None:
        """Take the link: READY goes out, and the result is there."""
        self._need_state("ANSWERED")
        self._send(wire.KIND_READY, b"")
        self._finish(Accepted(peer=cast(PeerInfo, self.peer), records=self._records))

    def reject(self, code: int, text: str) -> None:
        """Refuse the link in the given words; before ``answer`` they travel without a record.

        Args:
            code: One of ``wire.REJECT_*``.
            text: At most 200 bytes of UTF-8 travel.
        """
        if self.result is None:
            self._send(wire.KIND_REJECT, encode_reject(code, text))
            error = BehaviorRejected if code == wire.REJECT_BEHAVIOR else ERROR_OF_CODE[code]
            self._finish(Failed(error=error(text), code=code))

    def _on_hello(self, hello: Hello, frame: bytes) -> None:
        identity = self.identity
        if not hello.levels & identity.level:
            text = f"the dialled node takes {_NEEDS[identity.level]}"
            raise Refusal(AuthenticationError(text), tell=True)
        if hello.expected_node not in (wire.NO_NODE, identity.node_id):
            text = f"expected node {hello.expected_node}, found node {identity.node_id}"
            raise Refusal(IdentityMismatch(text), tell=True)
        self._check_identity(hello)
        answer = self._answer_to(hello)
        answer_frame = answer.encode()
        self._proofs = Proofs(identity.keys.find(answer.key_id), frame, answer_frame)
        self.peer = self._peer_info(hello, parallel=bool(hello.flags & wire.HELLO_PARALLEL))
        self._out += answer_frame
        self.state = "WAIT_AUTH"

    def _answer_to(self, hello: Hello) -> Hello:
        keys = self.identity.keys
        known = keys.find(hello.key_id) is not None
        return Hello(
            levels=self.identity.level,
            flags=hello.flags & wire.HELLO_PARALLEL,
            node_id=self.identity.node_id,
            expected_node=hello.node_id,
            epoch=self.identity.epoch,
            link=self._link,
            max_frame_bytes=self.identity.max_frame_bytes,
            nonce=self._nonce,
            key_id=hello.key_id if known else keys.first_id,
        )

    def _on_auth(self, proof: bytes) -> None:
        if not self._proofs.is_initiator(proof):
            text = "the dialling node does not know the secret"
            raise Refusal(AuthenticationError(text), tell=True)
        self.state = "NEED_DECISION"
