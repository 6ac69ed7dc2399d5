"""TcpTransport: links over TCP, IPv4 and IPv6."""

from __future__ import annotations

import errno
import socket
import sys

from .. import wire
from .._typing import ClassVar, Final, cast, final
from ..address import Endpoint
from .sockets import LISTEN_BACKLOG, Address, SocketListener, SocketTransport

__all__ = ["TcpTransport"]

#: Unsent bytes in the kernel beyond this make the socket unwritable, so that what waits for it
#: waits in our queue, where control frames can overtake it.
NOTSENT_LOWAT_BYTES: Final = 128 * 1024

#: Without a network in between more than this is never needed, and what a sender has written is
#: still in the cache when the receiver copies it: half of the CPU time of large messages. On a
#: network the kernel adapts the size to the path, which setting it would end.
LOOPBACK_SNDBUF_BYTES: Final = 256 * 1024

#: Linux has had it since 3.12 (netinet/tcp.h), also where the socket module does not name it.
_NOTSENT_LOWAT: Final[int | None] = getattr(
    socket, "TCP_NOTSENT_LOWAT", 25 if sys.platform == "linux" else None
)
_MAPPED: Final = "::ffff:"


@final
class TcpTransport(SocketTransport):
    """Streams over TCP."""

    kinds: ClassVar[frozenset[str]] = frozenset({"ip4", "ip6"})
    protocol: ClassVar[int] = wire.PROTOCOL_TCP

    def listen(self, endpoint: Endpoint) -> SocketListener:
        """Accept connections there; port 0 takes a free one, ``::`` takes IPv4 too.

        Raises:
            OSError: The system does not let us.
        """
        family, address = self.address_of(endpoint)
        sock = self.open_socket(family)
        try:
            # So that a restart need not wait for the old links' TIME_WAIT.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                # Said explicitly: the default is the system's (net.ipv6.bindv6only).
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, endpoint.host != "::")
            sock.bind(address)
            sock.listen(LISTEN_BACKLOG)
            actual = Endpoint(endpoint.kind, endpoint.host, sock.getsockname()[1])
            return self.add_listener(SocketListener(self, sock, actual))
        except BaseException:
            self.forget(sock)
            sock.close()
            raise

    def address_of(self, endpoint: Endpoint) -> tuple[socket.AddressFamily, Address]:
        """Return what the socket module calls it; never looks up a name."""
        if endpoint.kind == "ip4":
            return socket.AF_INET, (endpoint.host, endpoint.port)
        host, _, scope = endpoint.host.partition("%")
        return socket.AF_INET6, (host, endpoint.port, 0, _scope_index(scope))

    def remote_of(self, address: Address, listening: Endpoint) -> Endpoint:
        """Return the other end of an accepted connection; a mapped IPv4 address as ip4."""
        host, port = cast("tuple[str, int]", address[:2])
        if ":" not in host:
            return Endpoint.of_canonical("ip4", host, port)
        if host.startswith(_MAPPED) and "." in host:
            return Endpoint("ip4", host[len(_MAPPED) :], port)
        scope = cast("tuple[str, int, int, int]", address)[3]
        return Endpoint("ip6", f"{host}%{scope}" if scope and "%" not in host else host, port)

    def is_own_end(self, sock: socket.socket, remote: Endpoint) -> bool:
        """Return whether a connected socket is its own other end."""
        try:
            name = sock.getsockname()
            return name[1] == remote.port and bool(name == sock.getpeername())
        except OSError:  # it has ended meanwhile: reading tells
            return False

    def configure(self, sock: socket.socket, remote: Endpoint) -> None:
        """Send at once what is written, and keep little in the kernel."""
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if remote.host == "::1" or remote.host.startswith("127."):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, LOOPBACK_SNDBUF_BYTES)
        if _NOTSENT_LOWAT is not None:
            sock.setsockopt(socket.IPPROTO_TCP, _NOTSENT_LOWAT, NOTSENT_LOWAT_BYTES)


def _scope_index(scope: str) -> int:
    """Return the number of the interface that a link-local address belongs to, 0 for none."""
    if not scope:
        return 0
    if not scope.isdigit():
        return socket.if_nametoindex(scope)
    if int(scope) > wire.MAX_U32:
        raise OSError(errno.ENXIO, f"no interface has the number {scope}")
    return int(scope)
