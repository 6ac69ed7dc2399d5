"""TLS without I/O: contexts, one conversation, and the node that a certificate names.

Facts that this file relies on:

- Who is at the other end is said by its certificate alone: by the one URI ``netcore:node/ID`` among
  its subject alternative names. Host names and common names are not looked at.
- ``ssl`` fills in ``getpeercert`` only for a certificate that it has verified. In TLS 1.3 the
  dialling side is done before the other one has looked at its certificate: a refusal arrives later,
  as an alert in the place of the first bytes.
- With a ``MemoryBIO`` at each end nothing in here waits. ``write`` takes all it is given; that it
  wants to read first cannot happen in TLS 1.3, and is coped with all the same.
- ``unwrap`` reads after it has said its word, and application data that it meets is lost. So it is
  called only when everything that came has been read.
- This module, and ``ssl`` with it, is imported by the first node that is given ``tls``.
"""

from __future__ import annotations

import ssl
from os import PathLike

from .. import wire
from .._typing import TYPE_CHECKING, Any, Final, NoReturn, final
from ..config import TlsFiles
from ..errors import AuthenticationError, LocalError
from .secured import TlsStream

if TYPE_CHECKING:
    from .._backend import kernels
    from .base import Stream

__all__ = ["TlsSession", "TlsSetup", "make_tls", "node_named_by"]

RECORD_BYTES: Final = 16 * 1024  # most plain text of one record (RFC 8446, section 5.1)
MAX_ID_DIGITS: Final = 10
_SIDES: Final = {ssl.PROTOCOL_TLS_SERVER: "listen", ssl.PROTOCOL_TLS_CLIENT: "dial"}


@final
class TlsSession:
    """One side of one TLS conversation: bytes in, bytes out.

    What goes wrong is an ``AuthenticationError`` with the reason; nothing may follow it but
    ``data_to_send``, which holds the alert for the other side.
    """

    __slots__ = ("_in", "_out", "_ssl", "_stuck")

    def __init__(self, context: ssl.SSLContext, *, outgoing: bool) -> None:
        self._in = ssl.MemoryBIO()
        self._out = ssl.MemoryBIO()
        self._ssl = context.wrap_bio(self._in, self._out, server_side=not outgoing)
        self._stuck = b""

    def receive_data(self, data: bytes) -> None:
        """Take bytes from the other side; ``do_handshake`` and ``read`` look at them."""
        self._in.write(data)

    def data_to_send(self) -> bytes:
        """Return what must go to the other side now, and forget it."""
        return self._out.read()

    def do_handshake(self) -> bool:
        """Go on with the handshake; return whether it is done."""
        try:
            self._ssl.do_handshake()
        except ssl.SSLWantReadError:
            return False
        except ssl.SSLError as exc:
            _refuse(exc)
        return True

    def peer_node(self) -> int:
        """Return the node whose certificate the other side has proved to own."""
        version = self._ssl.version()
        if version != "TLSv1.3":  # a context that was changed after it was checked
            raise AuthenticationError(f"TLS: {version} instead of TLSv1.3")
        return node_named_by(self._ssl.getpeercert() or {})

    def read(self) -> bytes | None:
        """Return the next piece of plain text; None: nothing yet; empty: the other side's end."""
        try:
            return self._ssl.read(RECORD_BYTES)
        except ssl.SSLWantReadError:
            return None
        except ssl.SSLZeroReturnError:
            return b""
        except ssl.SSLError as exc:
            _refuse(exc)

    @property
    def may_have_more(self) -> bool:
        """Whether something came that was not read."""
        return bool(self._in.pending or self._ssl.pending())

    def write(self, data: bytes | memoryview) -> int:
        """Seal ``data``; return how much was taken: all of it, or nothing for the time being."""
        if not self._unstick():
            return 0
        if data:
            self._seal(data)
        return len(data)

    def _seal(self, data: bytes | memoryview) -> None:
        try:
            self._ssl.write(data)
        except ssl.SSLWantReadError:
            self._stuck = bytes(data)  # the very same bytes must be offered again
        except ssl.SSLError as exc:
            _refuse(exc)

    def _unstick(self) -> bool:
        if self._stuck:
            stuck, self._stuck = self._stuck, b""
            self._seal(stuck)
        return not self._stuck

    def shutdown(self) -> None:
        """Say that nothing more will be written (close_notify). Reading goes on."""
        try:
            self._ssl.unwrap()
        except ssl.SSLError:
            return  # usually: that the other side has not said so yet


@final
class TlsSetup:
    """What a node's streams become TLS with.

    Attributes:
        close_timeout_ms: How long the end of a stream waits for its last bytes to leave.
        handshakes_failed: TLS handshakes, of either direction, that TLS itself has ended.
        links_broken: Links that ended because what came was not genuine.
    """

    def __init__(
        self, listening: ssl.SSLContext, dialling: ssl.SSLContext, close_timeout_ms: int
    ) -> None:
        self.close_timeout_ms = close_timeout_ms
        self.handshakes_failed = 0
        self.links_broken = 0
        self._listening = listening
        self._dialling = dialling

    def session(self, *, outgoing: bool) -> TlsSession:
        """Return a new conversation."""
        return TlsSession(self._dialling if outgoing else self._listening, outgoing=outgoing)

    def wrap(self, stream: Stream, loop: kernels.Loop, outgoing: bool) -> TlsStream:
        """Return a stream that carries over ``stream`` what is written to it."""
        return TlsStream(self, stream, loop, self.session(outgoing=outgoing), outgoing=outgoing)

    def own_node(self) -> int:
        """Return the node that our own certificate names, by shaking hands with ourselves.

        Raises:
            AuthenticationError: We would not accept it from others.
        """
        dialling, listening = self.session(outgoing=True), self.session(outgoing=False)
        is_done = False
        while not is_done:
            dialling.do_handshake()
            listening.receive_data(dialling.data_to_send())
            is_done = listening.do_handshake()
            dialling.receive_data(listening.data_to_send())
        if dialling.peer_node() != listening.peer_node():
            raise AuthenticationError("the two contexts have certificates of two nodes")
        return dialling.peer_node()


def make_tls(
    tls: TlsFiles | ssl.SSLContext | tuple[ssl.SSLContext, ssl.SSLContext],
    node_id: int,
    close_timeout_ms: int,
) -> TlsSetup:
    """Return what a node's streams become TLS with, once it is clear that they can.

    Raises:
        LocalError: A file cannot be used, a context is weaker than netcore demands, or the own
            certificate is not of this node, or would be refused by this node itself.
    """
    if isinstance(tls, TlsFiles):
        pair = _context_of(tls, ssl.PROTOCOL_TLS_SERVER), _context_of(tls, ssl.PROTOCOL_TLS_CLIENT)
    else:
        pair = tls if isinstance(tls, tuple) else (tls, tls)
    for context, use in zip(pair, ("listen", "dial"), strict=True):
        _check_context(context, use)
    setup = TlsSetup(*pair, close_timeout_ms)
    try:
        own = setup.own_node()
    except AuthenticationError as exc:
        raise LocalError(f"tls: this node would refuse its own certificate: {exc.detail}") from None
    if own != node_id:
        raise LocalError(f"tls: the certificate is of node {own}; this is node {node_id}")
    return setup


def _context_of(files: TlsFiles, protocol: ssl._SSLMethod) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.check_hostname = False  # nodes have ids
    context.verify_mode = ssl.CERT_REQUIRED
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    if protocol == ssl.PROTOCOL_TLS_SERVER:
        context.num_tickets = 0  # nobody here resumes: each link is a new proof
    for path in (files.ca, files.cert, files.key):
        _check_readable(path)
    try:
        context.load_verify_locations(cafile=files.ca)
    except ssl.SSLError:
        raise LocalError(f"tls: {files.ca} holds no certificate in PEM form") from None
    try:
        # Without a password openssl would ask the terminal for one.
        context.load_cert_chain(files.cert, files.key, password=_no_password)
    except ssl.SSLError as exc:
        why = "does not belong to" if exc.reason == "KEY_VALUES_MISMATCH" else "cannot be used with"
        raise LocalError(f"tls: the key {files.key} {why} the certificate {files.cert}") from None
    return context


def _check_readable(path: str | PathLike[str]) -> None:
    try:
        with open(path, "rb"):
            return
    except OSError as exc:  # which of the three it was the ssl module does not say
        raise LocalError(f"tls: cannot read {path}: {exc.strerror}") from None


def _no_password() -> NoReturn:
    raise LocalError("tls: the key is encrypted: decrypt it, or give an ssl.SSLContext")


def _check_context(context: ssl.SSLContext, use: str) -> None:
    if _SIDES.get(context.protocol, use) != use:
        raise LocalError(
            f"tls: this context cannot {use}: give a pair, PROTOCOL_TLS_SERVER to listen with and "
            "PROTOCOL_TLS_CLIENT to dial with"
        )
    if context.verify_mode != ssl.CERT_REQUIRED:
        raise LocalError("tls: the context must have verify_mode = ssl.CERT_REQUIRED")
    if context.minimum_version != ssl.TLSVersion.TLSv1_3:
        raise LocalError("tls: the context must have minimum_version = ssl.TLSVersion.TLSv1_3")
    if context.check_hostname:
        raise LocalError("tls: the context must have check_hostname = False: nodes have ids")


def node_named_by(certificate: dict[str, Any]) -> int:
    """Return the node that a verified certificate names.

    Args:
        certificate: As ``SSLObject.getpeercert`` returns it.

    Raises:
        AuthenticationError: It names none, or several.
    """
    names = [
        value[len(wire.TLS_NODE_URI) :]
        for kind, value in certificate.get("subjectAltName", ())
        if kind == "URI" and value.startswith(wire.TLS_NODE_URI)
    ]
    if len(names) != 1:
        count = "several nodes" if names else "no node"
        raise AuthenticationError(
            f"TLS: the certificate names {count} (one URI {wire.TLS_NODE_URI}ID is needed among "
            "its subject alternative names)"
        )
    text = names[0]
    digits = text if text.isascii() and text.isdigit() and len(text) <= MAX_ID_DIGITS else "-1"
    node_id = int(digits)
    if str(node_id) != text or not 0 <= node_id <= wire.MAX_NODE_ID:
        raise AuthenticationError(f"TLS: the certificate names a node {text[:20]!r}, not a node id")
    return node_id


def _refuse(error: ssl.SSLError) -> NoReturn:
    """Raise what an error of ssl means to users."""
    if isinstance(error, ssl.SSLCertVerificationError):
        text = f"the other end's certificate is refused: {error.verify_message}"
    else:
        text = (error.reason or str(error)).lower().replace("_", " ")
        _, is_alert, word = text.partition(" alert ")
        if is_alert:
            text = f"the other end refuses: {word}"
    raise AuthenticationError(f"TLS: {text}") from None
