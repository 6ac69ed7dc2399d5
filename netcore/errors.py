"""The exception tree: the type says whose fault it is, the fields say what and how much."""

from __future__ import annotations

__all__ = [
    "AddressError",
    "AlreadyConnected",
    "AnswerDropped",
    "AuthenticationError",
    "BehaviorRejected",
    "Busy",
    "CallError",
    "CallTimeout",
    "ConnectionRejected",
    "DestinationNotFound",
    "DuplicateNodeId",
    "ForkedNodeError",
    "FrameError",
    "HandshakeTimeout",
    "IdentityMismatch",
    "InsecureListenError",
    "LocalError",
    "MessageTooBigError",
    "NetcoreError",
    "NoRouteError",
    "NodeClosedError",
    "NotHandled",
    "OutgoingConnectionError",
    "QueueFullError",
    "RemoteError",
    "RemoteFailure",
    "RemoteRejected",
    "SelfConnect",
    "SendQueueFullError",
    "ServiceNotFound",
    "TooManyConnections",
    "UnsupportedProtocol",
    "WaitTimeoutError",
]


class NetcoreError(Exception):
    """Base of everything netcore raises on purpose."""

    def __reduce__(self) -> tuple[object, ...]:
        # The default calls the class with ``args``, which is the text and not what __init__ takes:
        # an error raised in a process pool could not come back to its caller.
        return _restore, (type(self), self.args, self.__dict__)


def _restore(
    cls: type[NetcoreError], args: tuple[object, ...], fields: dict[str, object]
) -> NetcoreError:
    error = cls.__new__(cls)
    error.args = args
    error.__dict__.update(fields)
    return error


class LocalError(NetcoreError):
    """The caller broke the contract or met a limit; nothing was sent."""


class RemoteError(NetcoreError):
    """The neighbour broke the protocol; its link is closed and the event counted."""


# -- local ---------------------------------------------------------------------------------------


class AddressError(LocalError, ValueError):
    """A text is not an address.

    Attributes:
        text: The whole text.
        offset: Where it goes wrong, in characters.
        reason: What was expected there.
    """

    def __init__(self, text: str, offset: int, reason: str) -> None:
        super().__init__(f"bad address {text!r} at character {offset}: {reason}")
        self.text = text
        self.offset = offset
        self.reason = reason


class InsecureListenError(LocalError):
    """Listening beyond loopback was asked for without a secret and without TLS.

    Attributes:
        address: The address as text.
    """

    def __init__(self, address: str) -> None:
        super().__init__(
            f"{address} can be reached from other machines and this node has no secret: "
            "give Node(secret=...) or Node(tls=...), or insecure=True if everybody there may join"
        )
        self.address = address


class NoRouteError(LocalError):
    """No link leads to the destination.

    Attributes:
        destination: What was asked for, for example "node 7" or "link Conn(...)".
    """

    def __init__(self, destination: str) -> None:
        super().__init__(
            f"no route to {destination}; wait_route() waits for one, routes come with links"
        )
        self.destination = destination


class QueueFullError(LocalError):
    """A queue or table inside this node is at its bound.

    Attributes:
        queue: Its name, as in ``NodeConfig``.
        limit: The bound.
    """

    def __init__(self, queue: str, limit: int, remedy: str = "send less at a time") -> None:
        super().__init__(f"{queue} is full ({limit}): {remedy}, or raise {queue}")
        self.queue = queue
        self.limit = limit


class SendQueueFullError(LocalError):
    """The send queue of a link is at its high watermark.

    Attributes:
        conn: Conn id of the link.
        queued: Bytes waiting.
        limit: ``write_high_bytes``.
    """

    def __init__(self, conn: int, queued: int, limit: int) -> None:
        super().__init__(
            f"send queue of link {conn:#x} is full: {queued} bytes wait, the limit is {limit} "
            "(write_high_bytes); send again after on_connection_writable"
        )
        self.conn = conn
        self.queued = queued
        self.limit = limit


class MessageTooBigError(LocalError):
    """A message would not fit into a frame.

    Attributes:
        size: Bytes of the frame's body: header and payload.
        limit: What the link, or this node, takes.
    """

    def __init__(self, size: int, limit: int) -> None:
        super().__init__(
            f"message of {size} bytes with its header, the limit is {limit} (max_frame_bytes, "
            "the smaller of both ends): send it in pieces"
        )
        self.size = size
        self.limit = limit


class NodeClosedError(LocalError):
    """The node was closed."""

    def __init__(self, text: str = "the node is closed") -> None:
        super().__init__(text)


class ForkedNodeError(NodeClosedError):
    """The node belongs to the parent of this process."""

    def __init__(self) -> None:
        super().__init__("this node belongs to the parent process: make a new one after fork")


class WaitTimeoutError(LocalError, TimeoutError):
    """A ``wait_*`` call did not see its condition in time.

    Attributes:
        condition: What was waited for.
        timeout_s: For how long.
    """

    def __init__(self, condition: str, timeout_s: float) -> None:
        super().__init__(f"{condition} did not happen within {timeout_s} s")
        self.condition = condition
        self.timeout_s = timeout_s


# -- remote --------------------------------------------------------------------------------------


class FrameError(RemoteError):
    """Bytes from a neighbour are not what the protocol allows.

    Attributes:
        reason: One of ``wire.FRAME_ERRORS``, for example "truncated".
        offset: Bytes from the start of what was decoded to the offending field.
    """

    def __init__(self, reason: str, offset: int) -> None:
        super().__init__(f"{reason} at byte {offset}")
        self.reason = reason
        self.offset = offset


# -- connecting ----------------------------------------------------------------------------------


class ConnectionRejected(NetcoreError):
    """What a ``check_*_connection`` hook raises to refuse a link.

    Attributes:
        reason: Told to the other side; at most 200 bytes of UTF-8 travel.
    """

    def __init__(self, reason: str = "") -> None:
        super().__init__(reason)
        self.reason = str(reason)  # it has to travel, whatever a hook gave


class OutgoingConnectionError(NetcoreError):
    """Why a dial ended without a link."""


class BehaviorRejected(OutgoingConnectionError):
    """A behavior of this node refused.

    Attributes:
        reason: Its words.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(f"a behavior of this node refused: {reason}")
        self.reason = reason


class RemoteRejected(OutgoingConnectionError):
    """A behavior of the other node refused.

    Attributes:
        reason: Its words.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(f"the other node refused: {reason}")
        self.reason = reason


class _DialError(OutgoingConnectionError):
    """A dial failed; ``detail`` says more."""

    summary = "the dial failed"

    def __init__(self, detail: str = "") -> None:
        super().__init__(f"{self.summary}: {detail}" if detail else self.summary)
        self.detail = detail


class DestinationNotFound(_DialError):
    """Nobody answers at the address: refused, unreachable, or the name does not resolve."""

    summary = "nobody answers there"


class AuthenticationError(_DialError):
    """The two nodes do not share a secret or do not trust each other's certificates."""

    summary = "authentication failed"


class UnsupportedProtocol(_DialError):
    """No transport takes the address, or the other side speaks another protocol version."""

    summary = "unsupported protocol"


class TooManyConnections(_DialError):
    """One of the two nodes is at its bound of links or handshakes."""

    summary = "too many connections"


class AlreadyConnected(_DialError):
    """There is a link to that node already; ``parallel=True`` asks for another."""

    summary = "already connected"


class DuplicateNodeId(_DialError):
    """Another living node uses the same node id."""

    summary = "another living node has this node id"


class IdentityMismatch(_DialError):
    """Another node than the expected one lives at the address."""

    summary = "another node lives there"


class SelfConnect(_DialError):
    """The address leads back to this node."""

    summary = "the address leads to this node itself"


class HandshakeTimeout(_DialError):
    """The other side was silent for too long."""

    summary = "no answer in time"


# -- calls ---------------------------------------------------------------------------------------


class CallError(NetcoreError):
    """A call failed.

    Attributes:
        code: ``wire.RPC_*``; 256 and above are the application's own; negative ones never travel.
        text: What the other side said.
    """

    def __init__(self, code: int, text: str = "") -> None:
        super().__init__(f"call failed with code {code}: {text}" if text else f"code {code}")
        self.code = code
        self.text = text


class CallTimeout(CallError):
    """No answer came by the deadline; whether the call ran is unknown."""


class ServiceNotFound(CallError):
    """The node reached does not offer the service."""


class NotHandled(CallError):
    """The service does not handle this call."""


class RemoteFailure(CallError):
    """The service raised an exception; its text stays there."""


class AnswerDropped(CallError):
    """The service let the answer object go without answering."""


class Busy(CallError):
    """The service, or this node's table of pending calls, is full."""
