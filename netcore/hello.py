"""The handshake's frames and values: HELLO, REJECT, who a node is and who it found.

A HELLO longer than this version's is taken, so that later versions have room; what is behind the
known part is covered by the proofs all the same.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

from . import wire
from ._typing import TYPE_CHECKING, Final, NamedTuple, final
from .errors import (
    AlreadyConnected,
    AuthenticationError,
    BehaviorRejected,
    DuplicateNodeId,
    IdentityMismatch,
    OutgoingConnectionError,
    RemoteRejected,
    SelfConnect,
    TooManyConnections,
    UnsupportedProtocol,
)
from .keys import KeyRing
from .values import dataclass, field

if TYPE_CHECKING:
    from ._backend import kernels

__all__ = [
    "CODE_OF_ERROR",
    "ERROR_OF_CODE",
    "Accepted",
    "Failed",
    "Hello",
    "Identity",
    "PeerInfo",
    "Refusal",
    "decode_reject",
    "encode_reject",
    "frame_of",
    "malformed",
    "printable",
]

_HELLO: Final = struct.Struct(">4sBBBHIIQII32s4s")
_FRAME: Final = struct.Struct(">I")
_VERSIONS: Final = struct.Struct(">4sBB")  # its head; what follows is each version's own affair

ERROR_OF_CODE: Final[dict[int, Callable[[str], OutgoingConnectionError]]] = {
    wire.REJECT_BEHAVIOR: RemoteRejected,
    wire.REJECT_IDENTITY_MISMATCH: IdentityMismatch,
    wire.REJECT_VERSION: UnsupportedProtocol,
    wire.REJECT_SELF_CONNECT: SelfConnect,
    wire.REJECT_DUPLICATE_NODE_ID: DuplicateNodeId,
    wire.REJECT_ALREADY_CONNECTED: AlreadyConnected,
    wire.REJECT_AUTHENTICATION: AuthenticationError,
    wire.REJECT_TOO_MANY_CONNECTIONS: TooManyConnections,
}
#: The errors that the other side is told of. A timeout, for example, is none of its business.
CODE_OF_ERROR: Final[dict[type[OutgoingConnectionError], int]] = {
    BehaviorRejected: wire.REJECT_BEHAVIOR,
    IdentityMismatch: wire.REJECT_IDENTITY_MISMATCH,
    UnsupportedProtocol: wire.REJECT_VERSION,
    SelfConnect: wire.REJECT_SELF_CONNECT,
    DuplicateNodeId: wire.REJECT_DUPLICATE_NODE_ID,
    AlreadyConnected: wire.REJECT_ALREADY_CONNECTED,
    AuthenticationError: wire.REJECT_AUTHENTICATION,
    TooManyConnections: wire.REJECT_TOO_MANY_CONNECTIONS,
}


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """What a node says about itself in every handshake.

    Attributes:
        node_id: Its id.
        epoch: Random u64, one per Node object.
        max_frame_bytes: The largest frame body that it takes.
        records: The class of the record layer at level *auth*.
        keys: Its secrets; empty at level *open*. At level *tls* they are proved besides.
        tls: Whether its streams are TLS.
    """

    node_id: int
    epoch: int
    records: type[kernels.Records]
    max_frame_bytes: int = wire.DEFAULT_MAX_FRAME_BYTES
    keys: KeyRing = field(default_factory=KeyRing)
    tls: bool = False

    @property
    def level(self) -> int:
        """The one security level that the node offers and accepts."""
        if self.tls:
            return wire.LEVEL_TLS
        return wire.LEVEL_AUTH if self.keys else wire.LEVEL_OPEN


@final
class PeerInfo(NamedTuple):
    """Who is at the other end; believe it once the handshake is past the proofs.

    Attributes:
        node_id: Its id.
        epoch: Another one than last time: another incarnation.
        link: Its number for this link.
        max_frame_bytes: The smaller of both ends' values: what counts on this link.
        parallel: The initiator asks for a link beside those that there are.
        level: One of ``wire.LEVEL_*``.
    """

    node_id: int
    epoch: int
    link: int
    max_frame_bytes: int
    parallel: bool
    level: int


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """The link stands.

    Attributes:
        peer: The other end.
        records: At level *auth* all further bytes go through these.
        rest: Frame bytes that came behind READY, opened already.
        rest_bytes: How many they were on the way.
    """

    peer: PeerInfo
    records: kernels.Records | None
    rest: bytes = field(default=b"", repr=False)
    rest_bytes: int = 0


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """There will be no link.

    Attributes:
        error: Why.
        code: ``wire.REJECT_*`` when one side told the other so, else 0.
    """

    error: OutgoingConnectionError
    code: int = 0


@final
class Hello(NamedTuple):
    """A HELLO frame of version 1."""

    levels: int
    flags: int
    node_id: int
    expected_node: int
    epoch: int
    link: int
    max_frame_bytes: int
    nonce: bytes
    key_id: bytes
    version_min: int = wire.PROTOCOL_VERSION
    version_max: int = wire.PROTOCOL_VERSION

    def encode(self) -> bytes:
        """Return the whole frame."""
        body = _HELLO.pack(
            wire.MAGIC,
            self.version_min,
            self.version_max,
            self.levels,
            self.flags,
            self.node_id,
            self.expected_node,
            self.epoch,
            self.link,
            self.max_frame_bytes,
            self.nonce,
            self.key_id,
        )
        return frame_of(wire.KIND_HELLO, body)

    @classmethod
    def decode(cls, body: bytes) -> Hello:
        """Return what a HELLO says.

        Raises:
            Refusal: It is none, or none of this version.
        """
        if len(body) < _VERSIONS.size or not body.startswith(wire.MAGIC):
            raise Refusal(UnsupportedProtocol("no netcore node lives there"))
        _, lowest, highest = _VERSIONS.unpack_from(body)
        if not lowest <= wire.PROTOCOL_VERSION <= highest:
            ours = wire.PROTOCOL_VERSION
            text = f"one end speaks versions {lowest}..{highest}, the other {ours}"
            raise Refusal(UnsupportedProtocol(text), tell=True)
        if len(body) < _HELLO.size:
            raise malformed("a HELLO of %d bytes", len(body))
        _, lowest, highest, levels, flags, node, expected, epoch, link, limit, nonce, key_id = (
            _HELLO.unpack_from(body)
        )
        if node > wire.MAX_NODE_ID:
            raise malformed("node id %d", node)
        if not wire.MIN_MAX_FRAME_BYTES <= limit <= wire.MAX_FRAME_BYTES:
            raise malformed("max_frame_bytes %d", limit)
        return cls(
            version_min=lowest,
            version_max=highest,
            levels=levels,
            flags=flags,
            node_id=node,
            expected_node=expected,
            epoch=epoch,
            link=link,
            max_frame_bytes=limit,
            nonce=nonce,
            key_id=key_id,
        )


@final
class Refusal(Exception):
    """How a step of a state machine ends the handshake."""

    def __init__(
        self, error: OutgoingConnectionError, *, code: int = 0, tell: bool = False
    ) -> None:
        """Hold what to report; nothing is decided here."""
        super().__init__(error)
        self.error = error
        self.code = code  # of the REJECT that came
        self.tell = tell  # whether a REJECT goes out


def malformed(what: str, number: int) -> Refusal:
    """Return the refusal of bytes that no node of this version sends; nobody is told."""
    return Refusal(UnsupportedProtocol(f"the handshake holds {what}" % number))


def frame_of(kind: int, body: bytes) -> bytes:
    """Return a frame."""
    return _FRAME.pack(kind << 24 | len(body)) + body


def encode_reject(code: int, text: str) -> bytes:
    """Return the body of a REJECT; of the text at most 200 bytes travel."""
    # The cut may split a character; what is left of it goes too.
    reason = text.encode("utf-8", "replace")[: wire.MAX_REASON_BYTES].decode("utf-8", "ignore")
    return code.to_bytes(2, "big") + reason.encode()


def decode_reject(body: bytes) -> Refusal:
    """Return what a REJECT means to the one who got it."""
    if len(body) < 2:
        return malformed("a REJECT of %d bytes", len(body))
    code = int.from_bytes(body[:2], "big")
    text = body[2 : 2 + wire.MAX_REASON_BYTES].decode("utf-8", "replace")
    return Refusal(ERROR_OF_CODE.get(code, RemoteRejected)(printable(text)), code=code)


def printable(text: str) -> str:
    """Return what the other side wrote, fit for logs and terminals: it may come from anybody."""
    return "".join(char if char.isprintable() else "?" for char in text)
