"""TlsStream and TlsChannel: a stream, and then a link's channel, with TLS over another one.

Facts first:

- Below is any stream: its handshake runs over a ``Stream``, its link over a ``Channel``. To a link,
  TLS is a channel like that of the memory transport, so that kernels know nothing of it.
- What a link hands over is sealed at once, 128 KiB at most, and kept until the stream below takes
  it; only then more is taken. So no more than that is out of reach of control frames, and the
  queue's own bound and policy hold for all the rest.
- Everything that came is read out of TLS before anything else happens: readiness of the socket
  says nothing of what TLS still holds. An exception out of a hook leaves the rest to a timer.
- The end of the other side's stream is passed on only when what was sealed has left, or has had
  ``close_timeout_ms`` to: a link that has seen both ends closes its channel, and a polite end must
  lose nothing.
- A stream that ends without close_notify is one that ended. Whether that was an end in order is
  said by CLOSE, inside; who cuts the stream can pretend nothing else.
- Before it is known who is there at most ``MAX_TLS_HANDSHAKE_BYTES`` are taken. A first byte that
  cannot be TLS ends it at once; a netcore node without TLS is told why in its own language.
"""

from __future__ import annotations

import contextlib
import errno
import os

from .. import wire
from .._typing import TYPE_CHECKING, Final, Protocol, cast, final
from ..errors import AuthenticationError, OutgoingConnectionError, UnsupportedProtocol
from ..hello import encode_reject, frame_of
from .base import ChannelTarget, Detached

if TYPE_CHECKING:
    from .._backend import kernels
    from ..address import Endpoint
    from .base import Channel, SecuredTarget, Stream
    from .tls import TlsSession, TlsSetup

__all__ = ["TlsChannel", "TlsStream"]

SEAL_BYTES: Final = 128 * 1024  # sealed at most before it is written, as at level auth
#: That, sealed, and what TLS itself has to answer: a peer that asks for answers and does not take
#: them is not one.
MAX_UNSENT_BYTES: Final = 2 * SEAL_BYTES

_NOT_TLS: Final = "the dialling node does not speak TLS"
_ONLY_TLS: Final = "the dialled node takes only links over TLS"


@final
class TlsStream:
    """TLS over a stream during its handshakes: first that of TLS, then the node's own inside it."""

    __slots__ = (
        "_alerted",
        "_failed",
        "_loop",
        "_outgoing",
        "_secured",
        "_session",
        "_setup",
        "_stream",
        "_taken",
        "_target",
    )

    def __init__(
        self,
        setup: TlsSetup,
        stream: Stream,
        loop: kernels.Loop,
        session: TlsSession,
        *,
        outgoing: bool,
    ) -> None:
        """Wrap a stream; ``TlsSetup.wrap`` does."""
        self._setup = setup
        self._stream = stream
        self._loop = loop
        self._session = session
        self._outgoing = outgoing
        self._target: SecuredTarget | None = None
        self._taken = 0  # bytes that came, until it is known who is there
        self._secured = False
        self._failed = False
        self._alerted = False  # the other side was told why

    @property
    def protocol(self) -> int:
        """One of ``wire.PROTOCOL_*``."""
        return self._stream.protocol

    @property
    def remote(self) -> Endpoint | None:
        """Where the other end is."""
        return self._stream.remote

    def set_target(self, target: SecuredTarget) -> None:
        """Begin: first comes ``on_secured``, or ``on_insecure``."""
        self._target = target
        self._stream.set_target(self)
        self._go_on()

    def write(self, data: bytes) -> None:
        """Send; without effect where TLS does not stand."""
        if self._secured and not self._failed:
            self._session.write(data)
            self._flush()

    def finish(self) -> None:
        """Close as soon as what was written has had its chance to arrive."""
        if self._secured and not self._failed:
            self._session.shutdown()
            self._flush()
            self._target = None
            self._stream.finish()
        else:
            self.close()

    def close(self) -> None:
        """Close now, but for an alert that tells the other side why. Idempotent."""
        self._target = None
        if self._alerted:
            self._stream.finish()
        else:
            self._stream.close()

    def detach(self) -> Detached:
        """Hand over what has become a channel, and know nothing of it any more."""
        self._target = None
        below = self._stream.detach_channel()
        if below.channel is None:  # closed already
            return Detached(None, None)
        channel = TlsChannel(self._loop, self._setup, below.channel, self._session, below.unsent)
        return Detached(None, channel)

    # -- what the stream below tells ---------------------------------------------------------------

    def on_data(self, data: bytes) -> None:
        """Handle bytes as they travel."""
        if self._target is None:
            return
        try:
            if not self._secured:
                self._admit(data)
            self._session.receive_data(data)
        except OutgoingConnectionError as exc:
            self._fail(exc)
        else:
            self._go_on()

    def on_eof(self, error: OSError | None) -> None:
        """Handle the end of the other side's stream."""
        if self._target is not None:
            self._target.on_eof(error)

    # -- inside ------------------------------------------------------------------------------------

    def _admit(self, data: bytes) -> None:
        """Refuse what cannot be, or is too long for, a TLS handshake."""
        if not self._taken:
            self._admit_first(data[0])
        self._taken += len(data)
        if self._taken > wire.MAX_TLS_HANDSHAKE_BYTES:
            limit = wire.MAX_TLS_HANDSHAKE_BYTES
            raise AuthenticationError(f"TLS: a handshake of more than {limit} bytes")

    def _admit_first(self, first: int) -> None:
        if first == wire.TLS_HANDSHAKE or (self._outgoing and first == wire.TLS_ALERT):
            return
        if self._outgoing and first == wire.KIND_REJECT:
            raise AuthenticationError("the dialled node does not speak TLS")
        if first == wire.KIND_HELLO and not self._outgoing:
            reject = encode_reject(wire.REJECT_AUTHENTICATION, _ONLY_TLS)
            self._stream.write(frame_of(wire.KIND_REJECT, reject))
            self._alerted = True
            raise AuthenticationError(_NOT_TLS)
        raise UnsupportedProtocol("what is at the other end does not speak TLS")

    def _go_on(self) -> None:
        try:
            if self._secured or self._shake_hands():
                self._read_all()
        except AuthenticationError as exc:
            self._fail(exc)

    def _shake_hands(self) -> bool:
        """Go on with the TLS handshake; return whether it is over."""
        done = self._session.do_handshake()
        if not done:
            self._flush()
            return False
        node_id = self._session.peer_node()
        self._secured = True
        self._flush()
        if self._target is not None:
            self._target.on_secured(node_id)
        return True

    def _read_all(self) -> None:
        """Pass on what came, until it turns out that the stream is somebody else's."""
        while self._target is not None:
            data = self._session.read()
            if data is None:
                return
            if not data:
                self._target.on_eof(None)
                return
            self._target.on_data(data)

    def _fail(self, error: OutgoingConnectionError) -> None:
        self._failed = True
        self._setup.handshakes_failed += 1
        self._flush()
        target, self._target = self._target, None
        if target is not None:
            target.on_insecure(error)

    def _flush(self) -> None:
        data = self._session.data_to_send()
        if data:
            self._alerted = self._alerted or self._failed
            self._stream.write(data)


class _Link(ChannelTarget, Protocol):
    """The target of a link's channel: the connection."""

    def fail(self, code: int, text: str) -> None:
        """End the link now."""


@final
class TlsChannel:
    """TLS over a channel: what a link writes to and hears from."""

    __slots__ = (
        "_below",
        "_blocked",
        "_closed",
        "_ended",
        "_eof",
        "_eof_timer",
        "_eof_told",
        "_failure",
        "_loop",
        "_resume_timer",
        "_said_end",
        "_session",
        "_setup",
        "_shut",
        "_target",
        "_unsent",
    )

    def __init__(
        self,
        loop: kernels.Loop,
        setup: TlsSetup,
        below: Channel,
        session: TlsSession,
        unsent: bytes,
    ) -> None:
        """Take over where the handshake has ended.

        Args:
            loop: The node's.
            setup: Its counters and timeout.
            below: What sealed bytes travel over.
            session: The conversation; it may hold what came behind the handshake.
            unsent: Sealed bytes of the handshake.
        """
        self._loop = loop
        self._setup = setup
        self._below = below
        self._session = session
        self._unsent = unsent
        self._target: _Link | None = None
        self._failure = ""  # why TLS cannot go on
        self._blocked = False  # a write was cut short
        self._ended = False  # our direction, by the owner's wish;
        self._said_end = False  # close_notify is on its way;
        self._shut = False  # all has left
        self._eof = False  # the other direction
        self._eof_told = False
        self._closed = False
        self._resume_timer: kernels.Timer | None = None
        self._eof_timer: kernels.Timer | None = None

    # -- for the owner -----------------------------------------------------------------------------

    def set_target(self, target: ChannelTarget | None) -> None:
        """Tell this object what arrives; with None it waits here."""
        self._target = cast("_Link | None", target)
        self._below.set_target(None if target is None else self)
        if target is not None:
            self._go_on_soon()  # with what came behind the handshake

    def write(self, data: bytes | bytearray | memoryview) -> int:
        """Take some of ``data`` and return how much; ``channel_writable`` tells when to go on.

        Raises:
            OSError: Our direction was ended, or TLS or the stream below has failed.
        """
        if self._ended or self._failure:
            raise BrokenPipeError(errno.EPIPE, self._failure or os.strerror(errno.EPIPE))
        taken = 0
        view = memoryview(data)
        while taken < len(view):
            step = 0 if self._unsent else self._seal(view[taken : taken + SEAL_BYTES])
            if not step:
                self._blocked = True
                break
            taken += step
            self._send()
        return taken

    def shutdown(self) -> None:
        """End our direction after what was written."""
        if not self._ended:
            self._ended = True
            self._end_output()

    def close(self) -> None:
        """End both directions now; what was not taken by the stream below is lost. Idempotent."""
        if self._closed:
            return
        self._closed = True
        self._ended = True
        self._target = None
        for timer in (self._resume_timer, self._eof_timer):
            if timer is not None:
                timer.cancel()
        with contextlib.suppress(OSError):
            self._send()
        self._below.close()

    # -- what the stream below tells ---------------------------------------------------------------

    def receive_data(self, data: bytes) -> None:
        """Handle bytes as they travel."""
        if self._eof or self._failure:
            return  # nothing counts behind the end
        self._session.receive_data(data)
        self._go_on()

    def receive_eof(self) -> None:
        """Handle the end of the stream below."""
        self._eof = True
        self._tell_eof()

    def channel_writable(self) -> None:
        """Go on sending."""
        try:
            self._send()
            self._end_output()
        except OSError:  # it broke: its end is on the way to us
            self._unsent = b""
        if self._unsent:
            return
        self._tell_eof()
        if self._blocked and self._target is not None:
            self._blocked = False
            self._target.channel_writable()

    # -- inside ------------------------------------------------------------------------------------

    def _seal(self, data: memoryview) -> int:
        try:
            return self._session.write(data)
        except AuthenticationError as exc:
            self._failure = exc.detail
            raise BrokenPipeError(errno.EPIPE, exc.detail) from None

    def _send(self) -> None:
        """Hand to the stream below what is sealed, as much of it as it takes."""
        if not self._shut:
            self._unsent += self._session.data_to_send()
            if self._unsent:
                self._unsent = self._unsent[self._below.write(self._unsent) :]

    def _end_output(self) -> None:
        """Say that our direction ends, behind all that was sealed and when all has been read."""
        if not self._ended or self._shut or self._closed or self._unsent:
            return
        if not self._said_end:
            if self._session.may_have_more and not (self._eof or self._failure):
                return
            self._said_end = True
            self._session.shutdown()
            self._send()
        if not self._unsent:
            self._shut = True
            self._below.shutdown()

    def _go_on_soon(self) -> None:
        if self._resume_timer is None or not self._resume_timer.active:
            self._resume_timer = self._loop.call_at(self._loop.now_ms, self._go_on)

    def _go_on(self) -> None:
        """Read all that TLS holds; then send what it has to say for itself."""
        try:
            self._read_all()
        except AuthenticationError as exc:
            self._break(wire.CLOSE_PROTOCOL_ERROR, exc.detail)
        except MemoryError:
            self._break(wire.CLOSE_LOST, "no memory for a record")
            raise
        except BaseException:  # KeyboardInterrupt out of a hook: the socket tells nothing again
            if not self._closed:
                self._go_on_soon()
            raise
        if not (self._closed or self._failure):
            self._answer()

    def _read_all(self) -> None:
        while self._target is not None and not self._eof:
            data = self._session.read()
            if data is None:
                return
            if data:
                self._target.receive_data(data)
            else:
                self._eof = True

    def _answer(self) -> None:
        """Send what TLS itself had to answer, and end what can be ended now."""
        try:
            self._send()
            self._end_output()
        except OSError:  # it broke: its end is on the way to us
            self._unsent = b""
        if len(self._unsent) > MAX_UNSENT_BYTES:
            self._break(wire.CLOSE_PROTOCOL_ERROR, "TLS: the other end asks and never listens")
        self._tell_eof()

    def _break(self, code: int, text: str) -> None:
        """What came is not what the other side has sent, or cannot be read."""
        self._failure = text
        self._setup.links_broken += 1
        if self._target is not None:
            self._target.fail(code, text)

    def _tell_eof(self) -> None:
        if not self._eof or self._eof_told or self._target is None:
            return
        if self._unsent and not self._failure:
            if self._eof_timer is None:
                when_ms = self._loop.now_ms + self._setup.close_timeout_ms
                self._eof_timer = self._loop.call_at(when_ms, self._give_up_the_rest)
            return
        self._eof_told = True
        self._target.receive_eof()

    def _give_up_the_rest(self) -> None:
        self._unsent = b""
        self._tell_eof()
