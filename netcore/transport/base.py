"""What a node and its transports know of each other.

Everything here happens on the loop's thread. The names are protocols: a test, or a simulator, may
stand in on either side.
"""

from __future__ import annotations

import abc
from collections.abc import Callable

from .._typing import TYPE_CHECKING, ClassVar, NamedTuple, Protocol, final

if TYPE_CHECKING:
    import socket

    from .._backend import kernels
    from ..address import Endpoint
    from ..config import NodeConfig
    from ..errors import OutgoingConnectionError
    from ..handshake import Accepted, Identity, PeerInfo
    from ..ids import ConnId
    from .half_open import HalfOpen
    from .negotiation import Negotiation
    from .tls import TlsSetup

__all__ = [
    "Attempt",
    "Cancel",
    "Channel",
    "ChannelTarget",
    "Detached",
    "Host",
    "Listener",
    "SecuredTarget",
    "Sink",
    "Stream",
    "StreamTarget",
    "Transport",
]


# -- what a node offers --------------------------------------------------------------------------


class Attempt(Protocol):
    """What ``Host.failed`` is told about: an incoming negotiation or a dial."""

    @property
    def conn_id(self) -> int:
        """What the link would have been called."""

    @property
    def outgoing(self) -> bool:
        """Whether this node dialled."""

    @property
    def expected_node(self) -> int | None:
        """Who was to be reached; None for incoming ones and where any node will do."""

    @property
    def peer(self) -> PeerInfo | None:
        """Who was there, if it came to that; not necessarily verified."""

    @property
    def remote(self) -> Endpoint | None:
        """Where it was."""

    @property
    def hello_sent(self) -> bool:
        """Whether our HELLO is, or was, out."""

    @property
    def done(self) -> bool:
        """Whether it has ended."""


class Sink(Protocol):
    """Who is told how a negotiation ended."""

    def established(self, negotiation: Negotiation, accepted: Accepted) -> None:
        """Take over the stream by ``negotiation.detach()``."""

    def failed(self, attempt: Attempt, error: OutgoingConnectionError) -> None:
        """There is no link."""


class Host(Sink, Protocol):
    """What transports get from their node. ``established`` or ``failed`` comes once per conn id."""

    @property
    def loop(self) -> kernels.Loop:
        """The loop that everything runs on."""

    @property
    def config(self) -> NodeConfig:
        """Timeouts and bounds."""

    @property
    def identity(self) -> Identity:
        """Who this node is."""

    @property
    def half_open(self) -> HalfOpen:
        """The node's one account of handshakes under way."""

    @property
    def tls(self) -> TlsSetup | None:
        """What its streams become TLS with, None for a node without it."""

    def random_bytes(self, count: int) -> bytes:
        """Return bytes that nobody can guess."""

    def next_conn_id(self, protocol: int, *, outgoing: bool) -> ConnId:
        """Return a fresh conn id; dials bring their own."""

    def next_link_number(self) -> int:
        """Return the next value of the counter for HELLO.link, u32."""

    def allow_auth(self, negotiation: Negotiation) -> OutgoingConnectionError | None:
        """Return why our AUTH must not go to the peer that answered, or None."""

    def decide(self, negotiation: Negotiation) -> None:
        """Settle an incoming attempt whose initiator was verified, now or later.

        By ``answer`` and ``accept``, or by ``reject``.
        """

    def accept_failed(self, error: OSError) -> None:
        """A listener could not accept; it goes on after a pause."""


# -- streams without a descriptor ----------------------------------------------------------------


class ChannelTarget(Protocol):
    """Who hears what comes through a channel: a connection, or a stream during the handshake."""

    def receive_data(self, data: bytes) -> None:
        """Bytes came."""

    def receive_eof(self) -> None:
        """Nothing will come any more."""

    def channel_writable(self) -> None:
        """A write that was cut short may go on."""


class Channel(Protocol):
    """One end of a stream inside the process."""

    def set_target(self, target: ChannelTarget | None) -> None:
        """Tell this object what arrives; with None it waits in the channel."""

    def write(self, data: bytes | bytearray | memoryview) -> int:
        """Take some of ``data`` and return how much; ``channel_writable`` tells when to go on."""

    def shutdown(self) -> None:
        """End our direction after what was written."""

    def close(self) -> None:
        """End both directions; what was written still arrives. Idempotent."""


# -- what a transport offers ---------------------------------------------------------------------


class Cancel(Protocol):
    """Something that was begun and may be stopped."""

    def cancel(self) -> None:
        """Stop it; nothing is reported any more. Idempotent."""


@final
class Detached(NamedTuple):
    """A stream without its transport: either a socket or a channel.

    Attributes:
        sock: Connected, non-blocking, watched by nobody.
        channel: A stream without a descriptor.
        unsent: Bytes of the handshake that must leave before anything else.
    """

    sock: socket.socket | None
    channel: Channel | None
    unsent: bytes = b""


class StreamTarget(Protocol):
    """Who hears what comes over a stream."""

    def on_data(self, data: bytes) -> None:
        """Bytes came."""

    def on_eof(self, error: OSError | None) -> None:
        """Nothing will come any more; ``error`` says why if it is not the other side's wish."""


class SecuredTarget(StreamTarget, Protocol):
    """Who hears what comes over a stream that is TLS."""

    def on_secured(self, node_id: int) -> None:
        """From now on bytes may be written; the other side's certificate names this node."""

    def on_insecure(self, error: OutgoingConnectionError) -> None:
        """TLS has failed: nothing will come any more, and nothing can be said."""


class Stream(Protocol):
    """A connected byte stream as the handshake needs it."""

    @property
    def protocol(self) -> int:
        """One of ``wire.PROTOCOL_*``."""

    @property
    def remote(self) -> Endpoint | None:
        """Where the other end is."""

    def set_target(self, target: StreamTarget) -> None:
        """Begin to receive."""

    def write(self, data: bytes) -> None:
        """Send; what the system does not take now is kept, at most 32 KiB."""

    def finish(self) -> None:
        """Close as soon as what was written has had its chance to arrive."""

    def close(self) -> None:
        """Close now. Idempotent."""

    def detach(self) -> Detached:
        """Hand over the stream and know nothing of it any more."""

    def detach_channel(self) -> Detached:
        """Hand over the stream as a channel, whatever it is."""


class Listener(Protocol):
    """An endpoint that others can dial."""

    @property
    def endpoint(self) -> Endpoint:
        """The actual one, with its port filled in."""

    def close(self) -> None:
        """Stop listening; what was accepted lives on. Idempotent."""


class Transport(abc.ABC):
    """A kind of stream.

    Attributes:
        kinds: The kinds of endpoints that it takes.
        protocol: One of ``wire.PROTOCOL_*``.
    """

    kinds: ClassVar[frozenset[str]]
    protocol: ClassVar[int]

    def bind(self, host: Host) -> None:
        """Belong to this node from now on; called once, before anything else."""
        self.host = host

    @abc.abstractmethod
    def listen(self, endpoint: Endpoint) -> Listener:
        """Accept connections there; a Negotiation is started for each one.

        Raises:
            OSError: The system, or whoever listens there already, does not let us.
        """

    @abc.abstractmethod
    def connect(self, endpoint: Endpoint, on_result: Callable[[Stream | OSError], None]) -> Cancel:
        """Connect; ``on_result`` is called once, later, and never from inside this call."""

    @abc.abstractmethod
    def close(self) -> None:
        """Close all listeners. Idempotent."""

    @abc.abstractmethod
    def abandon(self) -> None:
        """Close descriptors and nothing else: for the child after a fork.

        The loop is not touched either: its epoll instance is still the parent's.
        """
