"""UnixTransport: links between processes of one machine, over socket files.

Facts about socket files that this file relies on:

- The file outlives its socket. Connecting to one that nobody listens at is refused; that is how a
  stale one is known. Connecting to a file that is no socket is refused as well, so the type is
  looked at first: nothing but a dead socket is ever removed.
- Between bind and listen nobody can connect, so that is when the mode is narrowed.
- The file at our path may be another process's by the time we close; it is removed only while it is
  still the one that our bind made.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat

from .. import wire
from .._typing import ClassVar, Final, final
from ..address import Endpoint
from .sockets import LISTEN_BACKLOG, Address, SocketListener, SocketTransport

__all__ = ["UnixTransport"]

SOCKET_MODE: Final = 0o600
_HAS_UNIX: Final = hasattr(socket, "AF_UNIX")


@final
class _UnixListener(SocketListener):
    def __init__(self, transport: UnixTransport, sock: socket.socket, endpoint: Endpoint) -> None:
        self._file = _identity_of(endpoint.host)
        super().__init__(transport, sock, endpoint)

    def close(self) -> None:
        if not self._closed:
            super().close()
            _unlink(self.endpoint.host, self._file)


@final
class UnixTransport(SocketTransport):
    """Streams over unix sockets."""

    kinds: ClassVar[frozenset[str]] = frozenset({"unix"} if _HAS_UNIX else ())
    protocol: ClassVar[int] = wire.PROTOCOL_UNIX

    def listen(self, endpoint: Endpoint) -> SocketListener:
        """Accept connections at the path; a file that a dead process left there is replaced.

        Raises:
            OSError: Somebody listens there, something else is there, or the path cannot be used.
        """
        family, address = self.address_of(endpoint)
        sock = self.open_socket(family)
        try:
            try:
                sock.bind(address)
            except OSError as exc:
                if exc.errno != errno.EADDRINUSE or not self._remove_stale(endpoint.host):
                    raise
                sock.bind(address)
            os.chmod(endpoint.host, SOCKET_MODE)
            sock.listen(LISTEN_BACKLOG)
            return self.add_listener(_UnixListener(self, sock, endpoint))
        except BaseException:
            self.forget(sock)
            sock.close()
            raise

    def address_of(self, endpoint: Endpoint) -> tuple[socket.AddressFamily, Address]:
        """Return family and path."""
        return socket.AF_UNIX, endpoint.host

    def remote_of(self, address: Address, listening: Endpoint) -> Endpoint:
        """Return the path dialled: the dialling side has no name of its own."""
        return listening

    def _remove_stale(self, path: str) -> bool:
        """Remove a socket file that nobody listens at; return whether bind may be tried again."""
        try:
            found = os.lstat(path)
        except FileNotFoundError:  # its owner was just closing
            return True
        if not stat.S_ISSOCK(found.st_mode):
            return False
        probe = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        with probe:
            probe.setblocking(False)
            code = probe.connect_ex(path)
        if code == errno.ECONNREFUSED:
            _unlink(path, (found.st_dev, found.st_ino))
            return True
        return code == errno.ENOENT


def _identity_of(path: str) -> tuple[int, int]:
    found = os.lstat(path)
    return found.st_dev, found.st_ino


def _unlink(path: str, identity: tuple[int, int]) -> None:
    with contextlib.suppress(OSError):
        if _identity_of(path) == identity:
            os.unlink(path)
