from __future__ import annotations

import contextlib
import errno
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest

from netcore import wire
from netcore.address import Endpoint
from netcore.errors import (
    AlreadyConnected,
    AuthenticationError,
    DestinationNotFound,
    HandshakeTimeout,
    IdentityMismatch,
    OutgoingConnectionError,
    RemoteRejected,
    SelfConnect,
    TooManyConnections,
    UnsupportedProtocol,
)
from netcore.transport import Negotiation, Resolver, TcpTransport
from netcore.transport.sockets import (
    ACCEPT_PAUSE_MS,
    MAX_ACCEPT_SKIPS,
    MAX_LINGER_READS,
    READ_BYTES,
    SocketStream,
)
from support.hosts import FakeHost, World, accept, open_fds

SECRET = b"a secret of 23 bytes ok"
OTHER_SECRET = b"another one of 24 bytes."
ANY = "/ip4/127.0.0.1/tcp/0"


@pytest.fixture
def world(kernels: ModuleType) -> Iterator[World]:
    world = World(kernels)
    yield world
    world.close()


def pair(world: World, **config: Any) -> tuple[FakeHost, FakeHost]:
    return world.host(1, TcpTransport(), **config), world.host(2, TcpTransport(), **config)


def raw_connection(world: World, endpoint: Endpoint) -> socket.socket:
    """Return a stranger's connection."""
    sock = socket.create_connection((endpoint.host, endpoint.port))
    sock.settimeout(5)
    return sock


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as sock:
            sock.bind(("::1", 0))
    except OSError:
        return False
    return True


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")


# -- links ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("secret", [None, SECRET], ids=["open", "auth"])
@pytest.mark.parametrize(
    "text", [ANY, pytest.param("/ip6/::1/tcp/0", marks=needs_ipv6)], ids=["ip4", "ip6"]
)
def test_dial_ends_in_one_link_on_both_sides(world: World, text: str, secret: bytes | None) -> None:
    a, b = pair(world, secret=secret)
    listener = b.listen(text)
    dial = a.dial(listener.endpoint, node=2)
    world.until(lambda: a.up and b.up)
    assert (a.up[0].accepted.peer.node_id, b.up[0].accepted.peer.node_id) == (2, 1)
    assert a.up[0].negotiation.conn_id == dial.conn_id
    assert dial.done
    assert dial.remote == listener.endpoint
    assert not a.down
    assert not b.down
    assert (a.half_open.outgoing, b.half_open.incoming) == (0, 0)


def test_link_carries_bytes_after_it_was_handed_over(world: World) -> None:
    a, b = pair(world)
    a.dial(b.listen(ANY).endpoint)
    world.until(lambda: a.up and b.up)
    assert world.loop.sources == 1  # the listener: both streams have left the loop
    a.up[0].write(b"hello")
    sock = b.up[0].stream.sock
    assert sock is not None
    sock.settimeout(5)
    assert sock.recv(100) == b"hello"


def test_incoming_conn_id_says_tcp_and_incoming(world: World) -> None:
    a, b = pair(world)
    a.dial(b.listen(ANY).endpoint)
    world.until(lambda: b.up)
    assert b.up[0].negotiation.conn_id & 0xFFFF == wire.PROTOCOL_TCP << 8 | 1


def test_bytes_behind_ready_are_handed_over_with_the_link(world: World) -> None:
    a, b = pair(world)

    def accept_and_write(negotiation: Negotiation) -> None:
        accept(negotiation)
        b.up[0].write(b"!")

    b.decision = accept_and_write
    a.dial(b.listen(ANY).endpoint)
    world.until(lambda: a.up)
    sock = a.up[0].stream.sock
    assert sock is not None
    sock.settimeout(5)
    assert a.up[0].accepted.rest + (b"" if a.up[0].accepted.rest else sock.recv(9)) == b"!"


@needs_ipv6
def test_dual_stack_listener_shows_an_ipv4_peer_as_ip4(world: World) -> None:
    a, b = pair(world)
    port = b.listen("/ip6/::/tcp/0").endpoint.port
    a.dial(f"/ip4/127.0.0.1/tcp/{port}")
    world.until(lambda: b.up)
    remote = b.up[0].negotiation.remote
    assert remote is not None
    assert (remote.kind, remote.host) == ("ip4", "127.0.0.1")


@needs_ipv6
def test_dual_stack_listener_shows_an_ipv6_peer_as_ip6(world: World) -> None:
    a, b = pair(world)
    port = b.listen("/ip6/::/tcp/0").endpoint.port
    a.dial(f"/ip6/::1/tcp/{port}")
    world.until(lambda: b.up)
    remote = b.up[0].negotiation.remote
    assert remote is not None
    assert (remote.kind, remote.host) == ("ip6", "::1")


def test_remote_of_a_link_local_peer_keeps_its_scope() -> None:
    remote = TcpTransport().remote_of(("fe80::1", 5, 0, 3), Endpoint("ip6", "::", 0))
    assert remote == Endpoint("ip6", "fe80::1%3", 5)


def test_address_of_a_scope_is_its_number() -> None:
    name = socket.if_nameindex()[0]
    transport = TcpTransport()
    for scope in (str(name[0]), name[1]):
        family, address = transport.address_of(Endpoint("ip6", f"fe80::1%{scope}", 5))
        assert (family, address) == (socket.AF_INET6, ("fe80::1", 5, 0, name[0]))


@pytest.mark.parametrize("scope", ["999999999999", "no-such-if"])
def test_dial_with_an_impossible_scope_finds_nobody(world: World, scope: str) -> None:
    a, _ = pair(world)
    a.dial(f"/ip6/fe80::1%{scope}/tcp/5")
    world.until(lambda: a.down)
    assert isinstance(a.error, DestinationNotFound)


def test_dns_name_is_resolved_for_every_dial(world: World) -> None:
    a, b = pair(world)
    endpoint = b.listen(ANY).endpoint
    asked: list[tuple[Any, ...]] = []

    def getaddrinfo(*args: Any, **kwargs: Any) -> list[tuple[Any, ...]]:
        asked.append(args)
        family = socket.AF_INET
        return [(family, socket.SOCK_STREAM, 6, "", ("127.0.0.1", endpoint.port))]

    a.resolver = Resolver(world.loop, getaddrinfo=getaddrinfo)
    for links in (1, 2):
        a.dial(f"/dns/node.example/tcp/{endpoint.port}")
        world.until(lambda links=links: len(a.up) == links)  # type: ignore[misc]
    assert asked == [("node.example", endpoint.port)] * 2


def test_dns_name_with_a_dead_address_first_reaches_the_second(world: World) -> None:
    a, b = pair(world)
    endpoint = b.listen(ANY).endpoint
    dead = closed_port()
    found = [(socket.AF_INET, 1, 6, "", ("127.0.0.1", port)) for port in (dead, endpoint.port)]
    a.resolver = Resolver(world.loop, getaddrinfo=lambda *args, **kwargs: found)
    a.dial("/dns/node.example/tcp/5")
    world.until(lambda: a.up)
    assert not a.down


def test_dns_name_that_does_not_resolve_finds_nobody(world: World) -> None:
    def getaddrinfo(*args: Any, **kwargs: Any) -> list[tuple[Any, ...]]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    a, _ = pair(world)
    a.resolver = Resolver(world.loop, getaddrinfo=getaddrinfo)
    a.dial("/dns/node.example/tcp/5")
    world.until(lambda: a.down)
    assert isinstance(a.error, DestinationNotFound)
    assert "/dns/node.example/tcp/5: Name or service not known" in str(a.error)


def test_rtt_is_measured_by_the_dialling_side_only(world: World) -> None:
    a, b = pair(world)
    a.dial(b.listen(ANY).endpoint)
    world.until(lambda: a.up and b.up)
    assert a.up[0].negotiation.rtt_ms is not None
    assert a.up[0].negotiation.rtt_ms >= 0
    assert b.up[0].negotiation.rtt_ms is None


def test_sockets_of_a_link_send_at_once_and_keep_little_in_the_kernel(world: World) -> None:
    a, b = pair(world)
    a.dial(b.listen(ANY).endpoint)
    world.until(lambda: a.up and b.up)
    for host in (a, b):
        sock = host.up[0].stream.sock
        assert sock is not None
        assert not sock.getblocking()
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        if sys.platform == "linux":
            assert sock.getsockopt(socket.IPPROTO_TCP, 25) == 128 * 1024


# -- errors --------------------------------------------------------------------------------------


def closed_port() -> int:
    """Return a port that nobody listens at."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def test_connection_refused_finds_nobody(world: World) -> None:
    a, _ = pair(world)
    dial = a.dial(f"/ip4/127.0.0.1/tcp/{closed_port()}")
    world.until(lambda: a.down)
    assert isinstance(a.error, DestinationNotFound)
    assert a.down[0].attempt is dial
    assert dial.peer is None
    assert dial.remote is None
    assert not dial.hello_sent


@pytest.mark.parametrize(
    ("secret_a", "secret_b"),
    [(SECRET, OTHER_SECRET), (SECRET, None), (None, SECRET)],
    ids=["wrong", "dialling side only", "dialled side only"],
)
def test_wrong_secret_is_told_to_both_sides(
    world: World, secret_a: bytes | None, secret_b: bytes | None
) -> None:
    a = world.host(1, TcpTransport(), secret=secret_a)
    b = world.host(2, TcpTransport(), secret=secret_b)
    a.dial(b.listen(ANY).endpoint)
    world.until(lambda: a.down and b.down)
    assert isinstance(a.error, AuthenticationError)
    assert isinstance(b.error, AuthenticationError)


@pytest.mark.parametrize("secret", [None, SECRET], ids=["open", "auth"])
@pytest.mark.parametrize("answered", [False, True])
def test_refusal_reaches_the_dialling_side_with_its_reason(
    world: World, secret: bytes | None, answered: bool
) -> None:
    def refuse(negotiation: Negotiation) -> None:
        if answered:
            negotiation.answer()
        negotiation.reject(wire.REJECT_BEHAVIOR, "full for today")

    a, b = pair(world, secret=secret)
    b.decision = refuse
    a.dial(b.listen(ANY).endpoint)
    world.until(lambda: a.down and b.down)
    assert isinstance(a.error, RemoteRejected)
    assert a.error.reason == "full for today"


def test_another_node_than_expected_is_an_identity_mismatch(world: World) -> None:
    a, b = pair(world)
    a.dial(b.listen(ANY).endpoint, node=3)
    world.until(lambda: a.down)
    assert isinstance(a.error, IdentityMismatch)


def test_dial_to_oneself_is_a_self_connect(world: World) -> None:
    a, _ = pair(world)
    a.dial(a.listen(ANY).endpoint)
    world.until(lambda: len(a.down) == 2)  # both ends of it
    assert all(isinstance(down.error, SelfConnect) for down in a.down)


def test_refusal_before_auth_by_the_dialling_side_is_told_to_the_other(world: World) -> None:
    a, b = pair(world)
    a.refusal = AlreadyConnected("there is one")
    dial = a.dial(b.listen(ANY).endpoint)
    world.until(lambda: a.down and b.down)
    assert isinstance(b.error, AlreadyConnected)
    assert not b.asked
    assert dial.peer is not None


def test_silence_of_the_dialled_side_is_a_handshake_timeout(world: World) -> None:
    a, _ = pair(world, handshake_timeout_ms=50)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        a.dial(Endpoint("ip4", "127.0.0.1", silent.getsockname()[1]))
        world.until(lambda: a.down)
    assert isinstance(a.error, HandshakeTimeout)


def test_silence_of_the_dialling_side_is_a_handshake_timeout(world: World) -> None:
    _, b = pair(world, handshake_timeout_ms=50)
    with raw_connection(world, b.listen(ANY).endpoint) as sock:
        world.until(lambda: b.down)
        assert sock.recv(100) == b""
    assert isinstance(b.error, HandshakeTimeout)
    assert b.half_open.incoming == 0


def test_decision_that_never_comes_ends_in_a_timeout_on_both_sides(world: World) -> None:
    a, b = pair(world, handshake_timeout_ms=50)
    b.decision = lambda negotiation: None
    a.dial(b.listen(ANY).endpoint)
    world.until(lambda: a.down and b.down)
    assert isinstance(a.error, HandshakeTimeout)
    assert b.asked[0].done
    b.asked[0].answer()  # too late: nothing happens
    b.asked[0].accept()
    b.asked[0].reject(wire.REJECT_BEHAVIOR, "")
    assert not b.up
    assert len(b.down) == 1


def test_decision_may_come_later(world: World) -> None:
    a, b = pair(world)
    b.decision = lambda negotiation: None
    a.dial(b.listen(ANY).endpoint)
    world.until(lambda: b.asked)
    b.asked[0].answer()
    world.turn()
    assert not a.up
    b.asked[0].accept()
    world.until(lambda: a.up and b.up)


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", UnsupportedProtocol),
        (b"\x08\xff\xff\xff", UnsupportedProtocol),
        (b"", DestinationNotFound),  # closes at once
    ],
)
def test_stranger_is_shut_out(
    world: World, data: bytes, error: type[OutgoingConnectionError]
) -> None:
    _, b = pair(world)
    with raw_connection(world, b.listen(ANY).endpoint) as sock:
        sock.sendall(data)
        if not data:
            sock.close()
        world.until(lambda: b.down)
    assert isinstance(b.error, error)
    assert not b.asked
    assert b.half_open.incoming == 0


def test_reset_in_the_handshake_finds_nobody(world: World) -> None:
    _, b = pair(world)
    sock = raw_connection(world, b.listen(ANY).endpoint)
    world.until(lambda: b.half_open.incoming)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
    sock.close()
    world.until(lambda: b.down)
    assert isinstance(b.error, DestinationNotFound)


def test_dialled_side_that_closes_at_once_finds_nobody(world: World) -> None:
    a, _ = pair(world)
    with socket.create_server(("127.0.0.1", 0)) as server:
        a.dial(Endpoint("ip4", "127.0.0.1", server.getsockname()[1]))
        world.turn()
        server.accept()[0].close()
        world.until(lambda: a.down)
    assert isinstance(a.error, DestinationNotFound)


# -- the last words of a refusal -----------------------------------------------------------------

HELLO_OF_ANOTHER_VERSION = bytes.fromhex("08000006 4e455443 0909")


def test_refusal_arrives_although_the_other_side_is_still_sending(world: World) -> None:
    _, b = pair(world)
    with raw_connection(world, b.listen(ANY).endpoint) as sock:
        # More than is ever read: closed with it unread, the socket would be reset.
        sock.sendall(HELLO_OF_ANOTHER_VERSION + bytes(READ_BYTES * 3))
        world.until(lambda: b.down)
        for _ in range(10):
            world.turn()
        said = sock.recv(100)
        assert (said[0], said[4:6]) == (wire.KIND_REJECT, b"\x00\x03")  # VERSION
        assert b.half_open.lingering == 1
        sock.close()
        world.until(lambda: not b.half_open.lingering)


def test_lingering_stream_is_closed_when_its_time_is_over(kernels: ModuleType) -> None:
    now = [0]
    world = World(kernels, lambda: now[0])
    b = world.host(2, TcpTransport())
    with raw_connection(world, b.listen(ANY).endpoint) as sock:
        sock.sendall(HELLO_OF_ANOTHER_VERSION)
        world.until(lambda: b.half_open.lingering)
        now[0] += 500
        world.until(lambda: not b.half_open.lingering)
        sock.settimeout(5)
        assert sock.recv(100)
        assert sock.recv(100) == b""
    world.close()


def test_lingering_stream_does_not_read_for_ever(world: World) -> None:
    _, b = pair(world)
    with raw_connection(world, b.listen(ANY).endpoint) as sock:
        sock.sendall(HELLO_OF_ANOTHER_VERSION)
        world.until(lambda: b.half_open.lingering)
        sock.setblocking(False)
        sent = 0

        def flood() -> bool:
            nonlocal sent
            with contextlib.suppress(OSError):  # full, or closed
                sent += sock.send(bytes(65536))
            return not b.half_open.lingering

        world.until(flood)
        assert sent > READ_BYTES * (MAX_LINGER_READS - 2)


def test_lingering_streams_are_bounded(world: World) -> None:
    _, b = pair(world, max_half_open=1)
    endpoint = b.listen(ANY).endpoint
    with raw_connection(world, endpoint) as first:
        first.sendall(HELLO_OF_ANOTHER_VERSION)
        world.until(lambda: b.half_open.lingering)
        with raw_connection(world, endpoint) as second:
            second.sendall(HELLO_OF_ANOTHER_VERSION)
            world.until(lambda: len(b.down) == 2)
            assert b.half_open.lingering == 1


def test_close_ends_handshakes_and_lingering_streams(world: World) -> None:
    _, b = pair(world)
    endpoint = b.listen(ANY).endpoint
    with raw_connection(world, endpoint) as first, raw_connection(world, endpoint) as second:
        first.sendall(HELLO_OF_ANOTHER_VERSION)
        world.until(lambda: b.half_open.lingering and b.half_open.incoming)
        b.half_open.close()
        assert (b.half_open.lingering, b.half_open.incoming) == (0, 0)
        assert second.recv(100) == b""
        assert len(b.down) == 2


# -- bounds --------------------------------------------------------------------------------------


def test_incoming_handshakes_beyond_the_bound_are_closed_and_counted(world: World) -> None:
    a, b = pair(world, max_half_open=2)
    endpoint = b.listen(ANY).endpoint
    strangers = [raw_connection(world, endpoint) for _ in range(5)]
    world.until(lambda: b.half_open.refused == 3)
    assert b.half_open.incoming == 2
    assert [sock.recv(1) for sock in strangers[2:]] == [b""] * 3
    for sock in strangers:
        sock.close()
    world.until(lambda: not b.half_open.incoming)
    a.dial(endpoint)
    world.until(lambda: a.up)


def test_dials_beyond_the_bound_fail(world: World) -> None:
    a, b = pair(world, max_half_open=2)
    endpoint = b.listen(ANY).endpoint
    b.half_open.limit = 10
    for _ in range(3):
        a.dial(endpoint)
    world.until(lambda: len(a.up) == 2 and a.down)
    assert isinstance(a.error, TooManyConnections)
    assert a.half_open.outgoing == 0


class FailingAccept:
    """A listening socket whose accept fails with these errors first."""

    def __init__(self, sock: socket.socket, *codes: int) -> None:
        self._sock = sock
        self.codes = list(codes)
        self.calls = 0

    def accept(self) -> tuple[socket.socket, Any]:
        self.calls += 1
        if self.codes:
            raise OSError(self.codes.pop(0), "from the test")
        return self._sock.accept()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)


@pytest.mark.parametrize("code", [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM])
def test_accept_without_resources_pauses_and_goes_on(kernels: ModuleType, code: int) -> None:
    now = [0]
    world = World(kernels, lambda: now[0])
    b = world.host(2, TcpTransport())
    listener: Any = b.listen(ANY)
    fake = listener._sock = FailingAccept(listener._sock, code)
    with raw_connection(world, listener.endpoint):
        world.until(lambda: b.accept_errors)
        for _ in range(20):
            world.turn()
        assert fake.calls == 1  # no spin, although the connection still waits
        now[0] += ACCEPT_PAUSE_MS
        world.until(lambda: b.half_open.incoming == 1)
    assert len(b.accept_errors) == 1
    world.close()


def test_accept_of_a_connection_that_died_goes_on_at_once(world: World) -> None:
    _, b = pair(world)
    listener: Any = b.listen(ANY)
    listener._sock = FailingAccept(listener._sock, errno.ECONNABORTED, errno.EPROTO)
    with raw_connection(world, listener.endpoint):
        world.until(lambda: b.half_open.incoming == 1)
    assert not b.accept_errors


def test_listener_closed_while_it_pauses_stays_closed(kernels: ModuleType) -> None:
    now = [0]
    world = World(kernels, lambda: now[0])
    b = world.host(2, TcpTransport())
    listener: Any = b.listen(ANY)
    listener._sock = FailingAccept(listener._sock, errno.EMFILE)
    with raw_connection(world, listener.endpoint):
        world.until(lambda: b.accept_errors)
        listener.close()
        listener.close()
        now[0] += ACCEPT_PAUSE_MS
        world.turn()
    assert world.loop.sources == 0
    world.close()


EMFILE_SCRIPT = """
import resource, socket, sys
from netcore import _backend
from netcore.transport import TcpTransport
from support.hosts import World

world = World(_backend.load(sys.argv[1]))
host = world.host(1, TcpTransport())
endpoint = host.listen("/ip4/127.0.0.1/tcp/0").endpoint
clients = [socket.socket() for _ in range(20)]
fillers = []
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (clients[-1].fileno() + 3, hard))
for client in clients:
    client.connect((endpoint.host, endpoint.port))
world.until(lambda: host.accept_errors)
calls = world.loop.run_once(0) + world.loop.run_once(0)
assert calls == 0, calls  # readable, and not served
held = host.half_open.incoming
for client in clients:
    client.close()
world.until(lambda: len(host.down) == 20)
print(held, len(host.accept_errors) < 10)
"""


def test_accept_at_the_limit_of_descriptors_takes_everybody_in_the_end(backend: str) -> None:
    script = [sys.executable, "-c", EMFILE_SCRIPT, backend]
    done = subprocess.run(
        script, check=False, capture_output=True, text=True, env=environment(), timeout=60
    )
    assert done.returncode == 0, done.stderr
    held, few = done.stdout.split()
    assert int(held) < 20
    assert few == "True"


def environment() -> dict[str, str]:
    """Return an environment in which a child finds what we import."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}


# -- ends ----------------------------------------------------------------------------------------


def test_listen_where_somebody_listens_raises(world: World) -> None:
    a, b = pair(world)
    endpoint = a.listen(ANY).endpoint
    before = open_fds()
    with pytest.raises(OSError, match="in use"):
        b.listen(str(endpoint))
    assert open_fds() == before


def test_close_of_a_transport_stops_listening(world: World) -> None:
    a, b = pair(world)
    endpoint = b.listen(ANY).endpoint
    b.transports[0].close()
    a.dial(endpoint)
    world.until(lambda: a.down)
    assert isinstance(a.error, DestinationNotFound)


def test_listener_closed_by_the_host_inside_accept_stops(world: World) -> None:
    _, b = pair(world, max_half_open=1)
    listener = b.listen(ANY)
    admit = b.half_open.admit_incoming

    def close_and_admit(remote: Endpoint | None, now_ms: int) -> bool:
        listener.close()
        return admit(remote, now_ms)

    b.half_open.admit_incoming = close_and_admit  # type: ignore[method-assign]
    with raw_connection(world, listener.endpoint), raw_connection(world, listener.endpoint):
        world.until(lambda: b.half_open.incoming)
        world.turn()
    assert b.half_open.refused == 0  # the second one was never taken


def test_abandon_closes_descriptors_and_leaves_the_loop_alone(world: World) -> None:
    a, b = pair(world)
    listener = b.listen(ANY)
    a.dial(listener.endpoint)
    world.until(lambda: b.half_open.incoming)
    sources = world.loop.sources
    before = open_fds()
    for host in (a, b):
        host.transports[0].abandon()
    assert open_fds() == before - 3  # the listener and both streams
    assert world.loop.sources == sources


def test_many_links_leave_no_descriptor_behind(world: World) -> None:
    def refuse(negotiation: Negotiation) -> None:
        negotiation.reject(wire.REJECT_BEHAVIOR, "no")

    a, b = pair(world)
    endpoint = b.listen(ANY).endpoint
    refused = f"/ip4/127.0.0.1/tcp/{closed_port()}"
    before = open_fds()
    for count in range(1, 51):
        b.decision = accept if count % 2 else refuse
        a.dial(endpoint)
        a.dial(refused)
        a.dial(refused).cancel(DestinationNotFound("changed my mind"))
        world.until(lambda count=count: len(a.up) + len(a.down) == 3 * count)  # type: ignore[misc]
    world.until(lambda: not b.half_open.incoming and len(b.up) == 25 and not b.half_open.lingering)
    world.until(lambda: not a.half_open.lingering)
    for up in a.up + b.up:
        assert up.stream.sock is not None
        up.stream.sock.close()
    assert open_fds() == before
    assert world.loop.sources == 1


def test_dial_that_tcp_connects_to_itself_finds_nobody_and_frees_the_port(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel may choose the port that is dialled, while nobody listens there, for our end."""
    a, b = pair(world)
    port = closed_port()
    transport: Any = a.transports[0]
    open_socket = transport.open_socket

    def open_there(family: socket.AddressFamily) -> socket.socket:
        sock: socket.socket = open_socket(family)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("127.0.0.1", port))
        return sock

    monkeypatch.setattr(transport, "open_socket", open_there)
    before = open_fds()
    a.dial(f"/ip4/127.0.0.1/tcp/{port}")
    world.until(lambda: a.down)
    assert isinstance(a.error, DestinationNotFound)
    assert open_fds() == before
    b.listen(f"/ip4/127.0.0.1/tcp/{port}")  # no longer taken by the dial


@pytest.mark.parametrize("secret", [None, SECRET], ids=["open", "auth"])
@pytest.mark.parametrize("expected", [False, True], ids=["any", "expected"])
def test_two_dials_that_tcp_joins_to_one_connection_make_no_link(
    world: World, secret: bytes | None, expected: bool
) -> None:
    """Both ends opened at the same time: two initiators, each waits for the other's answer."""
    hosts = pair(world, handshake_timeout_ms=100, secret=secret)
    before = open_fds()
    for host, other, sock in zip(hosts, reversed(hosts), socket.socketpair(), strict=True):
        transport: Any = host.transports[0]
        sock.setblocking(False)
        stream = SocketStream(transport, sock, Endpoint("ip4", "127.0.0.1", 1))
        node_id = other.identity.node_id if expected else None
        conn_id = host.next_conn_id(transport.protocol, outgoing=True)
        Negotiation(host, stream, conn_id=conn_id, outgoing=True, expected_node=node_id).start()
    world.until(lambda: all(host.down for host in hosts))
    world.until(lambda: not any(host.half_open.lingering for host in hosts))
    assert not any(host.up for host in hosts)
    assert open_fds() == before


def test_accept_that_is_refused_again_and_again_pauses(kernels: ModuleType) -> None:
    """A security module refuses before the queue is looked at: the listener stays readable."""
    now = [0]
    world = World(kernels, lambda: now[0])
    b = world.host(2, TcpTransport())
    listener: Any = b.listen(ANY)
    fake = listener._sock = FailingAccept(listener._sock, *[errno.EPERM] * 100)
    with raw_connection(world, listener.endpoint):
        world.until(lambda: b.accept_errors)
        for _ in range(20):
            world.turn()
        assert fake.calls == MAX_ACCEPT_SKIPS + 1
        fake.codes.clear()
        now[0] += ACCEPT_PAUSE_MS
        world.until(lambda: b.half_open.incoming == 1)
    world.close()
