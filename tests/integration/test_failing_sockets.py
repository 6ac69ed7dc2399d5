"""Sockets whose calls fail now and then, under the pure backend: what is lost is counted."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from netcore import LocalError, Node
from support.nodes import ANY, SINK, Nodes, linked, nodes_of

LATER = {errno.EAGAIN, errno.EINTR}
CODES = (
    *(errno.EAGAIN, errno.EINTR, errno.EPERM, errno.EIO, errno.ENOMEM, errno.EBADF),
    *(errno.ENOBUFS, errno.EPIPE, errno.ECONNRESET, errno.ENOTCONN, errno.ETIMEDOUT),
)
MESSAGES = 60


class FlakySocket:
    """A socket one of whose methods fails at every seventh call."""

    def __init__(self, sock: socket.socket, method: str, code: int) -> None:
        self._sock = sock
        self._method = method
        self._code = code
        self.calls = 0

    def _call(self, method: str, argument: Any) -> Any:
        if method == self._method:
            self.calls += 1
            if self.calls % 7 == 0:
                raise OSError(self._code, "from the test")
        return getattr(self._sock, method)(argument)

    def send(self, data: bytes) -> int:
        return int(self._call("send", data))

    def recv(self, size: int) -> bytes:
        return bytes(self._call("recv", size))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)


@pytest.fixture
def nodes() -> Iterator[Nodes]:
    with nodes_of("pure") as nodes:
        yield nodes


def make_flaky(node: Node, method: str, code: int) -> None:
    """Let the sockets of all links of a node fail from now on, also those of later links."""
    conn: Any
    for conn in node._switch.connections():
        if not isinstance(conn._sock, FlakySocket):
            conn._sock = FlakySocket(conn._sock, method, code)


def gone(nodes: Nodes) -> int:
    """Return the bytes that one end wrote and the other has not read."""
    return sum(node.stats().bytes_sent - node.stats().bytes_received for node in nodes.all)


@pytest.mark.parametrize("method", ["recv", "send"])
@pytest.mark.parametrize("code", CODES, ids=[errno.errorcode[code] for code in CODES])
def test_failing_socket_ends_its_link_at_most_and_loses_nothing_uncounted(
    nodes: Nodes, method: str, code: int
) -> None:
    one, two = nodes.add(1), nodes.add(2)
    two.connect(one.listen(ANY), keep=True)
    nodes.until(lambda: linked(one, two))
    sent = 0
    while sent < MESSAGES:
        make_flaky(one, method, code)
        for node, to in ((one, 2), (two, 1)):
            try:
                node.agent(SINK).send_to_node(to, bytes(1_000), to_service=SINK)
            except LocalError:  # no route, until the link is up again
                continue
            sent += 1
        nodes.turn()
    nodes.settle(20)
    nodes.until(lambda: not any(link.queued_bytes for n in nodes.all for link in n.connections))
    if code in LATER:  # but for a PING of each, which may be under way at any time
        nodes.until(lambda: gone(nodes) <= 2 * 15)
    stats = [node.stats() for node in nodes.all]
    assert [each.hook_errors for each in stats] == [0, 0]
    lost = sum(each.messages_sent - each.messages_delivered - each.dropped for each in stats)
    if code in LATER:
        assert (lost, stats[0].links_closed) == (0, 0)
        assert stats[1].messages_delivered >= MESSAGES // 2 - 1
    else:
        assert stats[0].links_closed > 0
        # What one end had written and the other had not read when the link broke.
        assert 0 <= lost <= gone(nodes) // 1_000 + stats[0].links_closed
