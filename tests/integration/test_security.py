"""Secrets, strangers and hostile peers on real sockets."""

from __future__ import annotations

import logging
import random
import select
import socket
import traceback
from collections.abc import Callable, Iterator
from functools import partial

import pytest

from netcore import (
    AuthenticationError,
    ConnectionRejected,
    DestinationNotFound,
    HandshakeTimeout,
    InsecureListenError,
    LocalError,
    NetworkBehavior,
    Node,
    NodeConfig,
    OutgoingConnectionError,
    RemoteRejected,
    wire,
)
from netcore._backend import BackendName
from support.nodes import (
    ANY,
    OTHER_SECRET,
    SECRET,
    SINK,
    Nodes,
    RawPeer,
    closed_port,
    frame,
    linked,
    nodes_of,
    open_hello,
    stranger,
)

THIRD_SECRET = b"the third one: 22 bytes"


@pytest.fixture
def nodes(backend: BackendName) -> Iterator[Nodes]:
    with nodes_of(backend) as nodes:
        yield nodes


def dial_error(nodes: Nodes, one: Node, address: object) -> OutgoingConnectionError:
    """Return how a dial fails."""
    one.connect(str(address))
    nodes.until(lambda: nodes.sinks[one].errors)
    return nodes.sinks[one].errors.pop()[2]


# -- level auth ----------------------------------------------------------------------------------


def test_nodes_with_one_secret_link_up(nodes: Nodes) -> None:
    one, two = nodes.add(1, secret=SECRET), nodes.add(2, secret=SECRET)
    nodes.join(one, two)
    assert nodes.send_until_echoed(one, 2, [b"hello"]) == [b"hello"]


@pytest.mark.parametrize(
    ("dialling", "dialled"),
    [
        (SECRET, OTHER_SECRET),
        (SECRET, None),
        (None, SECRET),
        ([SECRET, THIRD_SECRET], [OTHER_SECRET]),
        # Each names its first one, and the other does not have it.
        ([OTHER_SECRET, SECRET], [THIRD_SECRET, SECRET]),
    ],
    ids=["another", "dialling only", "dialled only", "nothing in common", "no first in common"],
)
def test_nodes_without_a_common_secret_fail_to_authenticate(
    nodes: Nodes, dialling: bytes | None, dialled: bytes | None
) -> None:
    one, two = nodes.add(1, secret=dialling), nodes.add(2, secret=dialled)
    assert type(dial_error(nodes, one, two.listen(ANY))) is AuthenticationError
    nodes.until(lambda: two.stats().handshakes_failed == 1)
    assert (one.connections, two.connections) == ((), ())


@pytest.mark.parametrize(
    ("dialling", "dialled"),
    [
        ([SECRET], [SECRET, OTHER_SECRET]),
        ([SECRET], [OTHER_SECRET, SECRET]),
        ([OTHER_SECRET, SECRET], [SECRET]),
        ([OTHER_SECRET, SECRET], [SECRET, OTHER_SECRET]),
    ],
)
def test_nodes_in_a_rotation_link_up_by_a_common_secret(
    nodes: Nodes, dialling: list[bytes], dialled: list[bytes]
) -> None:
    one, two = nodes.add(1, secret=dialling), nodes.add(2, secret=dialled)
    nodes.join(one, two)
    assert nodes.send_until_echoed(one, 2, [b"hello"]) == [b"hello"]


class Refuser(NetworkBehavior):
    """Lets nobody in."""

    service_id = 40

    def check_incoming_connection(self, node: int, conn_id: int) -> None:
        raise ConnectionRejected("not today")


@pytest.mark.parametrize("secret", [None, SECRET], ids=["open", "auth"])
def test_silence_refusal_and_wrong_secret_are_three_errors(
    nodes: Nodes, secret: bytes | None
) -> None:
    one = nodes.add(1, secret=secret, handshake_timeout_ms=100)
    refuser = nodes.add(2, Refuser(), secret=secret).listen(ANY)
    wrong = nodes.add(3, secret=OTHER_SECRET).listen(ANY)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        errors = [
            dial_error(nodes, one, refuser),
            dial_error(nodes, one, wrong),
            dial_error(nodes, one, f"/ip4/127.0.0.1/tcp/{silent.getsockname()[1]}"),
            dial_error(nodes, one, f"/ip4/127.0.0.1/tcp/{closed_port()}"),
        ]
    assert [type(error) for error in errors] == [
        RemoteRejected,
        AuthenticationError,
        HandshakeTimeout,
        DestinationNotFound,
    ]
    assert isinstance(errors[0], RemoteRejected)
    assert errors[0].reason == "not today"


def test_secret_from_the_environment_is_used(nodes: Nodes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NETCORE_SECRET", SECRET.decode())
    one = nodes.add(1)
    monkeypatch.delenv("NETCORE_SECRET")
    two = nodes.add(2, secret=SECRET)
    nodes.join(one, two)


def test_secret_from_the_environment_holds_for_a_whole_config_too(
    backend: BackendName, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NETCORE_SECRET", SECRET.decode())
    with Node(NodeConfig(node_id=1), backend=backend) as node:
        assert node.config.secrets == (SECRET,)


def test_secret_given_comes_before_that_of_the_environment(
    backend: BackendName, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NETCORE_SECRET", OTHER_SECRET.decode())
    with Node(1, secret=SECRET, backend=backend) as node:
        assert node.config.secrets == (SECRET,)
    with Node(NodeConfig(node_id=1, secret=SECRET), backend=backend) as node:
        assert node.config.secrets == (SECRET,)


@pytest.mark.parametrize("text", ["", "short"])
def test_secret_from_the_environment_that_is_too_short_raises_unless_empty(
    backend: BackendName, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setenv("NETCORE_SECRET", text)
    if text:
        with pytest.raises(LocalError, match="at least 16 bytes") as caught:
            Node(1, backend=backend)
        assert text not in str(caught.value)
    else:
        with Node(1, backend=backend) as node:
            assert node.config.secrets == ()


@pytest.mark.parametrize("size", [65_537, wire.DEFAULT_MAX_FRAME_BYTES - 16])
def test_large_messages_pass_an_authenticated_link(nodes: Nodes, size: int) -> None:
    one, two = nodes.add(1, secret=SECRET), nodes.add(2, secret=SECRET)
    nodes.join(one, two)
    payloads = [random.Random(i).randbytes(size) for i in range(3)]
    assert nodes.send_until_echoed(one, 2, payloads) == payloads


def test_stream_of_messages_passes_authenticated_hops_in_order(nodes: Nodes) -> None:
    chain = nodes.chain(3, secret=SECRET)
    payloads = [b"%d" % i + bytes(i % 700) for i in range(2_000)]
    assert nodes.send_until_echoed(chain[0], 3, payloads) == payloads


# -- listening -----------------------------------------------------------------------------------


@pytest.mark.parametrize("address", ["/ip4/0.0.0.0/tcp/0", "/ip6/::/tcp/0", "/ip4/10.1.2.3/tcp/0"])
def test_listen_beyond_loopback_without_a_secret_raises(nodes: Nodes, address: str) -> None:
    with pytest.raises(InsecureListenError) as caught:
        nodes.add(1).listen(address)
    assert caught.value.address == address


def test_listen_beyond_loopback_in_one_alternative_raises_for_all(nodes: Nodes) -> None:
    one = nodes.add(1)
    with pytest.raises(InsecureListenError):
        one.listen("/ip4/127.0.0.1/tcp/0/ip4/0.0.0.0/tcp/0")
    assert one.addrs == ()


@pytest.mark.parametrize("options", [{"secret": SECRET}, {"insecure": True}], ids=str)
def test_listen_beyond_loopback_with_a_secret_or_consent_is_allowed(
    nodes: Nodes, options: dict[str, object]
) -> None:
    one, two = nodes.add(1, **options), nodes.add(2, **options)
    port = one.listen("/ip4/0.0.0.0/tcp/0").endpoints[0].port
    two.connect(f"1@/ip4/127.0.0.1/tcp/{port}")
    nodes.until(lambda: linked(one, two))


# -- in the middle -------------------------------------------------------------------------------


class Proxy:
    """Passes bytes on between a dialling and a dialled node, bends and remembers them."""

    def __init__(self, target: tuple[str, int]) -> None:
        self.bend: Callable[[int, bytes], bytes] = lambda direction, data: data
        self.seen = (bytearray(), bytearray())  # from the dialling side, from the dialled side
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.setblocking(False)
        self._ends: list[socket.socket] = []

    @property
    def address(self) -> str:
        return f"/ip4/127.0.0.1/tcp/{self._listener.getsockname()[1]}"

    def turn(self) -> None:
        if not self._ends:
            if select.select([self._listener], [], [], 0)[0]:
                self._ends = [self._listener.accept()[0], socket.create_connection(self._target)]
            return
        for sock in select.select(self._ends, [], [], 0)[0]:
            direction = self._ends.index(sock)
            try:
                data = sock.recv(65_536)
                self.seen[direction].extend(data)
                if data:
                    self._ends[1 - direction].sendall(self.bend(direction, data))
            except OSError:
                data = b""
            if not data:
                self.close()
                return

    def close(self) -> None:
        self._listener.close()
        for sock in self._ends:
            sock.close()
        self._ends = []

    @property
    def closed(self) -> bool:
        return self._listener.fileno() < 0


MakeProxy = Callable[[Node, Node], Proxy]


@pytest.fixture
def through_proxy() -> Iterator[MakeProxy]:
    """Return what makes a proxy, and lets the first node dial the second through it."""
    proxies: list[Proxy] = []

    def make(one: Node, two: Node) -> Proxy:
        endpoint = (two.addrs or [two.listen(ANY)])[0].endpoints[0]
        proxies.append(Proxy((endpoint.host, endpoint.port)))
        one.connect("2@" + proxies[-1].address)
        return proxies[-1]

    yield make
    for proxy in proxies:
        proxy.close()


def until(nodes: Nodes, proxy: Proxy, condition: Callable[[], object]) -> None:
    """Turn nodes and proxy until the condition holds."""

    def turn() -> object:
        if not proxy.closed:
            proxy.turn()
        return condition()

    nodes.until(turn)


def record_around(data: bytes, at: int) -> tuple[int, int]:
    """Return where the record begins and ends that holds a byte of whole records."""
    start = end = 0
    while end <= at:
        start = end
        body = int.from_bytes(data[start : start + wire.RECORD_LENGTH_BYTES], "big")
        end += wire.RECORD_LENGTH_BYTES + body + wire.RECORD_TAG_BYTES
    return start, end


@pytest.mark.parametrize("direction", [0, 1])
@pytest.mark.parametrize("where", ["first", "middle", "last"])
def test_byte_bent_on_an_authenticated_link_ends_it_and_delivers_nothing(
    nodes: Nodes, through_proxy: MakeProxy, direction: int, where: str
) -> None:
    one, two = nodes.add(1, secret=SECRET), nodes.add(2, secret=SECRET)
    proxy = through_proxy(one, two)
    until(nodes, proxy, lambda: linked(one, two))
    bent: list[int] = []

    def bend(to: int, data: bytes) -> bytes:
        if to != direction or b"precious" not in data or bent:
            return data
        first, end = record_around(data, data.index(b"precious"))
        at = {"first": first, "middle": data.index(b"precious"), "last": end - 1}[where]
        bent.append(at)
        return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]

    proxy.bend = bend
    sender, receiver = (one, two) if direction == 0 else (two, one)
    sender.agent(SINK).send_to_node(receiver.node_id, b"precious" * 100)
    until(nodes, proxy, lambda: bent)
    # Were the first byte, which is the record's length, made larger, the rest of the record would
    # be waited for: something must follow.
    sender.agent(SINK).send_to_node(receiver.node_id, bytes(70_000))
    until(nodes, proxy, lambda: not receiver.connections)
    assert nodes.sinks[receiver].messages == []
    assert receiver.stats().protocol_errors == 1
    proxy.close()
    nodes.until(lambda: not sender.connections)
    assert [len(nodes.sinks[node].down) for node in (one, two)] == [1, 1]


@pytest.mark.parametrize("direction", [0, 1])
def test_byte_bent_in_the_handshake_never_makes_a_link(
    nodes: Nodes, through_proxy: MakeProxy, direction: int
) -> None:
    one = nodes.add(1, secret=SECRET, handshake_timeout_ms=100)
    two = nodes.add(2, secret=SECRET, handshake_timeout_ms=100)
    # HELLO is the 4 byte head and 64 bytes; the kind and length of AUTH follow, then its proof.
    for at in (0, 3, 4, 9, 12, 20, 30, 60, 67, 68, 72, 103):
        proxy = through_proxy(one, two)

        def bend(to: int, data: bytes, proxy: Proxy = proxy, at: int = at) -> bytes:
            start = len(proxy.seen[to]) - len(data)
            if to == direction and start <= at < start + len(data):
                return data[: at - start] + bytes([data[at - start] ^ 4]) + data[at - start + 1 :]
            return data

        proxy.bend = bend
        until(nodes, proxy, lambda: nodes.sinks[one].errors or linked(one, two))
        assert not linked(one, two), at
        nodes.sinks[one].errors.clear()
        proxy.close()
        nodes.until(lambda: not two.stats().half_open and not two.connections)
    # Who was dialled has its link when its own proof is out, and loses it when that was bent.
    assert nodes.sinks[one].up == []
    assert len(nodes.sinks[two].up) == len(nodes.sinks[two].down) <= 2 * direction


def test_handshake_played_again_is_refused(nodes: Nodes, through_proxy: MakeProxy) -> None:
    one, two = nodes.add(1, secret=SECRET), nodes.add(2, secret=SECRET)
    proxy = through_proxy(one, two)
    until(nodes, proxy, lambda: linked(one, two))
    one.agent(SINK).send_to_node(2, b"pay me 5")
    until(nodes, proxy, lambda: nodes.sinks[two].messages)
    recorded = bytes(proxy.seen[0])
    one.close(timeout_s=0)
    proxy.close()
    nodes.until(lambda: not two.connections)
    with stranger(two) as replayer:
        replayer.sendall(recorded)
        nodes.until(lambda: two.stats().handshakes_failed == 1)
    nodes.settle()
    assert nodes.sinks[two].payloads == [b"pay me 5"]
    assert len(nodes.sinks[two].up) == 1


def test_records_played_again_end_the_link(nodes: Nodes, through_proxy: MakeProxy) -> None:
    one, two = nodes.add(1, secret=SECRET), nodes.add(2, secret=SECRET)
    proxy = through_proxy(one, two)
    until(nodes, proxy, lambda: linked(one, two))
    proxy.bend = lambda to, data: data * (1 + (to == 0 and b"pay me 5" in data))
    one.agent(SINK).send_to_node(2, b"pay me 5")
    until(nodes, proxy, lambda: not two.connections)
    assert nodes.sinks[two].payloads in ([], [b"pay me 5"])  # never twice
    assert two.stats().protocol_errors == 1


# -- secrets stay secret -------------------------------------------------------------------------


def test_secret_shows_in_no_text(nodes: Nodes, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    one, two = nodes.add(1, secret=SECRET), nodes.add(2, secret=OTHER_SECRET)
    error = dial_error(nodes, one, two.listen(ANY))
    texts = [repr(thing) for thing in (one, one.config, one.stats(), one._host.identity, error)]
    texts += [
        repr(vars(thing)) for thing in (one._host.identity.keys,) if hasattr(thing, "__dict__")
    ]
    texts.append(caplog.text)
    texts.extend(traceback.format_exception(error))
    for secret in (SECRET, OTHER_SECRET):
        for text in texts:
            assert secret.decode() not in text
            assert secret.hex() not in text
    assert texts


@pytest.mark.parametrize("secret", ["tiny secret", b"tiny secret", [SECRET, b"tiny secret"], []])
def test_bad_secret_raises_without_showing_it(backend: BackendName, secret: object) -> None:
    with pytest.raises(LocalError) as caught:
        Node(1, secret=secret, backend=backend)  # type: ignore[arg-type]
    shown = "".join(traceback.format_exception(caught.value))
    assert "tiny secret" not in str(caught.value)
    assert SECRET.decode() not in shown


# -- hostile peers -------------------------------------------------------------------------------

#: Bytes that are no HELLO, each from the first byte of a connection.
GARBAGE = {
    "http": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "tls": bytes.fromhex("16030100c8010000c40303") + bytes(200),
    "zeros": bytes(600),
    "ones": b"\xff" * 600,
    "too long at once": b"\x08\xff\xff\xff",
    "257 bytes": b"\x08\x00\x01\x01",
    "message": frame(0x00, bytes(8)),
    "auth first": frame(0x09, b""),
    "ready first": frame(0x0A, b""),
    "wrong magic": frame(0x08, b"NETD" + bytes(60)),
    "empty hello": frame(0x08, b""),
    "another version": frame(0x08, b"NETC\x63\x63" + bytes(58)),
    "two hellos": open_hello(66) * 2,
    "full of small frames": frame(0x80, b"") * 200,
}


@pytest.mark.parametrize("secret", [None, SECRET], ids=["open", "auth"])
@pytest.mark.parametrize("name", GARBAGE)
def test_garbage_instead_of_a_handshake_is_shut_out_and_counted(
    nodes: Nodes, name: str, secret: bytes | None
) -> None:
    one = nodes.add(1, secret=secret)
    one.listen(ANY)
    with stranger(one) as sock:
        sock.sendall(GARBAGE[name])
        nodes.until(lambda: one.stats().handshakes_failed == 1)
        nodes.until(lambda: _is_over(sock))
    assert one.stats().half_open == 0
    assert nodes.sinks[one].up == []
    nodes.join(nodes.add(2, secret=secret), one)


def _is_over(sock: socket.socket) -> bool:
    """Read what there is; say whether that was the end."""
    sock.setblocking(False)
    try:
        return not sock.recv(4_096)
    except BlockingIOError:
        return False
    except OSError:
        return True


#: Bytes of a neighbour at level open that break the protocol.
BROKEN_FRAMES = {
    "too long": b"\x00\xff\xff\xff",
    "one byte too long": b"\x00" + (wire.DEFAULT_MAX_FRAME_BYTES + 1).to_bytes(3, "big"),
    "unknown control kind": frame(0x13, b""),
    "hello again": open_hello(66),
    "ready again": frame(0x0A, b""),
    "empty message": frame(0x00, b""),
    "message of 7 bytes": frame(0x00, bytes(7)),
    "another version": frame(0x00, b"\x40" + bytes(7)),
    "sealed": frame(0x00, b"\x04" + bytes(7)),
    "node missing": frame(0x00, b"\x08\x40\x0c\x0c" + bytes(4)),
    "short ping": frame(0x10, b""),
    "long ping": frame(0x10, bytes(100)),
    "short pong": frame(0x11, b"\x00"),
    "empty close": frame(0x12, b""),
    "long close": frame(0x12, bytes(300)),
}


@pytest.mark.parametrize("name", BROKEN_FRAMES)
def test_broken_frame_on_a_link_ends_it_and_is_counted(nodes: Nodes, name: str) -> None:
    one = nodes.add(1)
    one.listen(ANY)
    peer = RawPeer(nodes, one)
    peer.send(BROKEN_FRAMES[name])
    nodes.until(lambda: not one.connections)
    assert one.stats().protocol_errors == 1
    assert len(nodes.sinks[one].down) == 1
    peer.close()
    nodes.join(nodes.add(2), one)


def test_unknown_extension_frames_are_ignored_and_counted(nodes: Nodes) -> None:
    one = nodes.add(1)
    one.listen(ANY)
    peer = RawPeer(nodes, one)
    peer.send(frame(0x80, b"what") + frame(0xFF, bytes(1_000)) + frame(0x81, bytes(3)))
    nodes.until(lambda: one.stats().frames_ignored == 3)
    peer.send(frame(0x00, b"\x00\x40\x0c\x0c" + bytes(4) + b"still here"))
    nodes.until(lambda: nodes.sinks[one].messages)
    assert nodes.sinks[one].payloads == [b"still here"]
    peer.close()


def test_handshake_cut_at_every_byte_leaves_the_node_alive(nodes: Nodes) -> None:
    one = nodes.add(1)
    one.listen(ANY)
    said = open_hello(66) + frame(0x09, b"")
    for cut in range(len(said)):
        with stranger(one) as sock:
            sock.sendall(said[:cut])
            sock.shutdown(socket.SHUT_WR)
            nodes.until(partial(_is_over, sock))
    nodes.until(lambda: one.stats().handshakes_failed == len(said))
    assert nodes.sinks[one].up == []
    nodes.join(nodes.add(2), one)


def test_frames_cut_at_every_byte_leave_the_node_alive(nodes: Nodes) -> None:
    one = nodes.add(1)
    one.listen(ANY)
    message = frame(0x00, b"\x00\x40\x0c\x0c" + bytes(4) + b"cut")
    said = message + frame(0x10, bytes(11)) + frame(0x12, b"\x00\x00bye")
    for cut in range(len(said) + 1):
        peer = RawPeer(nodes, one)
        peer.send(said[:cut])
        peer.sock.shutdown(socket.SHUT_WR)
        nodes.until(lambda: not one.connections)
        peer.close()
    stats = one.stats()
    assert stats.links_opened == stats.links_closed == len(said) + 1
    assert nodes.sinks[one].payloads == [b"cut"] * (len(said) + 1 - len(message))
    assert (stats.protocol_errors, stats.hook_errors, stats.handshakes_failed) == (0, 0, 0)


def test_random_bytes_behind_a_handshake_never_raise(nodes: Nodes) -> None:
    one = nodes.add(1)
    one.listen(ANY)
    rnd = random.Random(3)
    for _ in range(40):
        peer = RawPeer(nodes, one)
        size = rnd.randrange(1, 400)
        noise = b"".join(
            frame(rnd.choice([0, 1, 1, 0x10, 0x11, 0x12]), rnd.randbytes(rnd.randrange(40)))
            for _ in range(10)
        )
        peer.send(noise + rnd.randbytes(size))
        peer.sock.shutdown(socket.SHUT_WR)
        nodes.until(lambda: not one.connections)
        peer.close()
    assert one.stats().hook_errors == 0
    nodes.join(nodes.add(2), one)


def test_byte_now_and_then_does_not_extend_the_handshake(nodes: Nodes) -> None:
    one = nodes.add(1, handshake_timeout_ms=100)
    one.listen(ANY)
    trickle = iter(open_hello(66))
    with stranger(one) as sock:

        def turn() -> bool:
            if (byte := next(trickle, None)) is not None:
                sock.send(bytes([byte]))
            return one.stats().handshakes_failed == 1

        nodes.until(lambda: turn() or select.select([], [], [], 0.01)[0])
    assert one.stats().half_open == 0


def test_half_open_connections_are_bounded_and_time_out(nodes: Nodes) -> None:
    limit = 50
    one = nodes.add(1, max_half_open=limit, handshake_timeout_ms=300)
    one.listen(ANY)
    crowd = []
    most = 0
    for _ in range(1_000):
        crowd.append(stranger(one))
        one.poll(0)
        most = max(most, one.stats().half_open)
    nodes.until(lambda: one.stats().half_open_refused + one.stats().handshakes_failed == 1_000)
    assert 0 < most <= limit
    assert one.stats().half_open_refused > 0
    nodes.until(lambda: one.stats().half_open == 0)
    two = nodes.add(2)
    two.connect(one.addrs[0])
    nodes.until(lambda: linked(one, two))
    for sock in crowd:
        sock.close()


def test_peer_that_never_reads_costs_one_bounded_queue(nodes: Nodes) -> None:
    one = nodes.add(1, write_high_bytes=100_000, write_low_bytes=10_000)
    one.listen(ANY)
    peer = RawPeer(nodes, one)
    # Calls for a service that is not there: each one is answered.
    request = b"\x01" + bytes(8) + b"\x00\x00\x13\x88"
    call = frame(0x01, b"\x20\x40\x0c\x63" + bytes(4) + (66).to_bytes(4, "big") + request)
    peer.sock.setblocking(False)

    def flood() -> bool:
        try:
            peer.sock.send(call * 100)
        except BlockingIOError:
            return True
        return one.stats().sends_refused > 0 and one.stats().calls_received > 50_000

    nodes.until(flood, 30)
    assert all(link.queued_bytes < 100_000 + 500 for link in one.connections)
    nodes.join(nodes.add(2), one)
    peer.close()


def test_open_node_is_not_served_by_a_node_with_a_secret(nodes: Nodes) -> None:
    """A HELLO that offers level open only, played by hand, learns nothing but the refusal."""
    one = nodes.add(1, secret=SECRET)
    one.listen(ANY)
    with stranger(one) as sock:
        sock.sendall(open_hello(66) + frame(0x09, b"") + frame(0x00, bytes(8)))
        nodes.until(lambda: one.stats().handshakes_failed == 1)
        answer = sock.recv(4_096)
    assert answer[0] == wire.KIND_REJECT
    assert int.from_bytes(answer[4:6], "big") == wire.REJECT_AUTHENTICATION
