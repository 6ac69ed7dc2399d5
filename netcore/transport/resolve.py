"""Resolver: host names to endpoints, off the loop's thread.

Facts that this file relies on:

- ``getaddrinfo`` blocks, for half a minute when name servers are silent, and cannot be stopped. So
  each look-up has a daemon thread: it may outlive the node, and never delays the program's end.
- There are at most ``max_threads`` of them; further look-ups wait for one to end. What waits is
  bounded by ``max_half_open``: each dial has one look-up at a time, and gives it up in time.
- Nothing is cached: a name is looked up for every dial, so that an address change is noticed.
"""

from __future__ import annotations

import socket
import threading
import time
from collections import deque
from collections.abc import Callable

from .._typing import TYPE_CHECKING, Any, Final, final
from ..address import Endpoint
from ..errors import QueueFullError

if TYPE_CHECKING:
    from .._backend import kernels

__all__ = ["Resolver"]

MAX_THREADS: Final = 16
#: A dial tries them one after the other, each with its own timeout.
MAX_ADDRESSES: Final = 16
_POST_RETRY_S: Final = 0.05

OnResult = Callable[["list[Endpoint] | OSError"], None]


@final
class _Lookup:
    """One name under way, or waiting for a thread."""

    def __init__(self, endpoint: Endpoint, on_result: OnResult) -> None:
        self.endpoint = endpoint
        self.on_result: OnResult | None = on_result

    def cancel(self) -> None:
        """Nobody wants to know any more."""
        self.on_result = None


@final
class Resolver:
    """Looks up host names.

    Attributes:
        running: Look-ups that have a thread.
    """

    def __init__(
        self,
        loop: kernels.Loop,
        *,
        getaddrinfo: Callable[..., Any] = socket.getaddrinfo,
        max_threads: int = MAX_THREADS,
    ) -> None:
        """Make a resolver.

        Args:
            loop: Where results are reported.
            getaddrinfo: The function that looks up, called on other threads.
            max_threads: How many of them at a time.
        """
        self.running = 0
        self._loop = loop
        self._getaddrinfo = getaddrinfo
        self._max_threads = max_threads
        self._waiting: deque[_Lookup] = deque()

    @property
    def waiting(self) -> int:
        """Look-ups that wait for a thread."""
        return sum(lookup.on_result is not None for lookup in self._waiting)

    def resolve(self, endpoint: Endpoint, on_result: OnResult) -> _Lookup:
        """Look up a dns endpoint.

        Args:
            endpoint: Name and port.
            on_result: Called once, on the loop's thread and never from inside this call, with ip4
                and ip6 endpoints in the system's order of preference (at least one, at most 16),
                or with the error.

        Returns:
            Its ``cancel`` keeps ``on_result`` from being called.
        """
        lookup = _Lookup(endpoint, on_result)
        self._waiting.append(lookup)
        self._start()
        return lookup

    def _start(self) -> None:
        while self._waiting and self.running < self._max_threads:
            lookup = self._waiting.popleft()
            if lookup.on_result is not None:
                self.running += 1
                name = f"netcore-resolve-{lookup.endpoint.host}"
                threading.Thread(target=self._run, args=(lookup,), name=name, daemon=True).start()

    def _run(self, lookup: _Lookup) -> None:
        """Look up; on a thread of its own."""
        host, port = lookup.endpoint.host, lookup.endpoint.port
        result: list[Endpoint] | OSError
        try:
            result = _endpoints(self._getaddrinfo(host, port, type=socket.SOCK_STREAM))
            if not result:
                result = OSError(f"{host} has no address")
        except OSError as exc:
            result = exc
        except Exception as exc:  # for example UnicodeError, of a name that is none to IDNA
            result = OSError(f"{host}: {exc}")
        while not self._post(lookup, result):
            time.sleep(_POST_RETRY_S)  # a thread of our own: nobody waits for it

    def _post(self, lookup: _Lookup, result: list[Endpoint] | OSError) -> bool:
        try:
            self._loop.post(self._finish, lookup, result)
        except QueueFullError:
            return False
        return True

    def _finish(self, lookup: _Lookup, result: list[Endpoint] | OSError) -> None:
        self.running -= 1
        self._start()
        if lookup.on_result is not None:
            lookup.on_result(result)


def _endpoints(found: list[tuple[Any, ...]]) -> list[Endpoint]:
    """Return what getaddrinfo found, in its order, each address once."""
    endpoints: dict[Endpoint, None] = {}
    for family, *_, address in found:
        if family == socket.AF_INET:
            endpoints[Endpoint("ip4", address[0], address[1])] = None
        elif family == socket.AF_INET6 and len(address) == 4:
            host, port, _, scope = address
            if scope and "%" not in host:
                host = f"{host}%{scope}"
            endpoints[Endpoint("ip6", host, port)] = None
    return list(endpoints)[:MAX_ADDRESSES]
