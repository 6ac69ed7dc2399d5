"""TLS peers that are not what they should be, and openssl, on real sockets."""

from __future__ import annotations

import os
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator

import pytest

from netcore import (
    AuthenticationError,
    DestinationNotFound,
    HandshakeTimeout,
    IdentityMismatch,
    Node,
    OutgoingConnectionError,
    TlsFiles,
    UnsupportedProtocol,
    wire,
)
from netcore._backend import BackendName
from support.certs import DAY, cluster, context, files, other_cluster
from support.nodes import (
    ANY,
    ECHO,
    SECRET,
    SINK,
    Nodes,
    frame,
    nodes_of,
    open_hello,
    stranger,
    tcp_address,
)
from support.tls_peer import AUTH, READY, TlsPeer, hello, served

#: Of the scripted side.
PEER = 66


@pytest.fixture
def nodes(backend: BackendName) -> Iterator[Nodes]:
    with nodes_of(backend) as nodes:
        yield nodes


@pytest.fixture
def node(nodes: Nodes) -> Node:
    """Return a node that listens."""
    node = nodes.add(1, tls=files(1))
    node.listen(ANY)
    return node


def good(*, outgoing: bool = True, node_id: int = PEER) -> ssl.SSLContext:
    """Return what a node of the cluster would speak with."""
    return context(files(node_id), outgoing=outgoing, ca=cluster())


def dial_error(nodes: Nodes, node: Node) -> OutgoingConnectionError:
    """Return how the one dial of a node has failed."""
    nodes.until(lambda: nodes.sinks[node].errors)
    return nodes.sinks[node].error


def assert_shut_out(nodes: Nodes, node: Node, *, by_tls: int) -> None:
    """Check that the stranger came in nowhere, was counted, and that the node serves others."""
    nodes.until(lambda: node.stats().handshakes_failed == 1)
    stats = node.stats()
    assert (stats.tls_handshakes_failed, stats.tls_links_broken) == (by_tls, 0)
    assert (stats.links, stats.links_opened, stats.hook_errors) == ((), 0, 0)
    nodes.join(nodes.add(7, tls=files(7)), node)


# -- certificates --------------------------------------------------------------------------------


def _foreign(outgoing: bool) -> ssl.SSLContext:
    return context(other_cluster().node(PEER), outgoing=outgoing)


def _expired(outgoing: bool) -> ssl.SSLContext:
    made = cluster().issue([f"netcore:node/{PEER}"], valid=(-2 * DAY, -DAY))
    return context(made, outgoing=outgoing)


def _early(outgoing: bool) -> ssl.SSLContext:
    made = cluster().issue([f"netcore:node/{PEER}"], valid=(DAY, 2 * DAY))
    return context(made, outgoing=outgoing)


def _named(*uris: str) -> Callable[[bool], ssl.SSLContext]:
    def make(outgoing: bool) -> ssl.SSLContext:
        made = cluster().issue(uris, common_name=f"netcore:node/{PEER}")
        return context(made, outgoing=outgoing)

    return make


def _old(outgoing: bool) -> ssl.SSLContext:
    made = good(outgoing=outgoing)
    made.maximum_version = ssl.TLSVersion.TLSv1_2
    return made


def _signed_by_a_member(outgoing: bool) -> ssl.SSLContext:
    return context(cluster().issue_by(files(5), f"netcore:node/{PEER}"), outgoing=outgoing)


BAD = {
    "another CA": (_foreign, "certificate is refused"),
    "expired": (_expired, "certificate has expired"),
    "not valid yet": (_early, "certificate is not yet valid"),
    "no netcore name": (_named(), "names no node"),
    "another scheme": (_named(f"https://node/{PEER}"), "names no node"),
    "two names": (_named("netcore:node/66", "netcore:node/67"), "names several nodes"),
    "no number": (_named("netcore:node/x"), "not a node id"),
    "leading zero": (_named("netcore:node/066"), "not a node id"),
    "sign": (_named("netcore:node/+66"), "not a node id"),
    "too large": (_named("netcore:node/4294967295"), "not a node id"),
    "far too large": (_named("netcore:node/" + "9" * 300), "not a node id"),
    "empty": (_named("netcore:node/"), "not a node id"),
    "signed by a member": (_signed_by_a_member, "certificate is refused"),
    "TLS 1.2": (_old, "protocol|version"),
}


@pytest.mark.parametrize("name", BAD)
def test_dialling_peer_with_a_bad_certificate_is_shut_out(
    nodes: Nodes, node: Node, name: str
) -> None:
    peer = TlsPeer.dial(nodes, node, BAD[name][0](True)).shake_hands()
    if peer.error is None:  # in TLS 1.3 the refusal comes later
        peer.send(hello(PEER) + AUTH)
    assert peer.await_end() == b""
    assert_shut_out(nodes, node, by_tls=1)


@pytest.mark.parametrize("name", BAD)
def test_dialled_peer_with_a_bad_certificate_is_refused(nodes: Nodes, name: str) -> None:
    make, words = BAD[name]
    node = nodes.add(1, tls=files(1))
    peer = served(nodes, node, make(False))
    peer.shake_hands()
    assert peer.await_end() == b""  # no HELLO: who that is we do not know
    error = dial_error(nodes, node)
    assert type(error) is AuthenticationError
    assert any(word in str(error) for word in words.split("|")), error
    assert node.stats().tls_handshakes_failed == 1


def test_dialling_peer_without_a_certificate_is_shut_out(nodes: Nodes, node: Node) -> None:
    peer = TlsPeer.dial(nodes, node, context(None, outgoing=True)).shake_hands()
    peer.send(hello(PEER) + AUTH)
    assert peer.await_end() == b""
    assert "CERTIFICATE_REQUIRED" in str(peer.error)
    assert_shut_out(nodes, node, by_tls=1)


def test_dialling_node_hears_why_its_certificate_is_refused(nodes: Nodes) -> None:
    node = nodes.add(1, tls=files(1))
    peer = served(nodes, node, context(files(2), outgoing=False, ca=other_cluster()))
    peer.shake_hands()
    assert "the other end refuses: unknown ca" in str(dial_error(nodes, node))


# -- names ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("secret", [None, SECRET], ids=["tls", "tls and secret"])
def test_dialling_peer_that_claims_another_id_is_refused(
    nodes: Nodes, secret: bytes | None
) -> None:
    node = nodes.add(1, tls=files(1), secret=secret)
    node.listen(ANY)
    peer = TlsPeer.dial(nodes, node, good()).shake_hands()
    peer.send(hello(PEER + 1) + AUTH)
    said = peer.await_end()
    assert said[:6] == frame(wire.KIND_REJECT, bytes(len(said) - 4))[:4] + b"\x00\x07"
    assert b"node 67 came with the certificate of node 66" in said
    nodes.until(lambda: node.stats().handshakes_failed == 1)


def test_dialled_peer_that_claims_another_id_is_refused(nodes: Nodes) -> None:
    node = nodes.add(1, tls=files(1))
    peer = served(nodes, node, good(outgoing=False)).shake_hands()
    assert len(peer.receive(len(hello(1)))) == len(hello(1))
    peer.send(hello(PEER + 1, expected=1))
    error = dial_error(nodes, node)
    assert type(error) is AuthenticationError
    assert "node 67 came with the certificate of node 66" in str(error)


def test_node_that_was_not_dialled_learns_nothing(nodes: Nodes) -> None:
    node = nodes.add(1, tls=files(1))
    peer = served(nodes, node, good(outgoing=False), node_id=5).shake_hands()
    said = peer.await_end()
    assert said[:6] == frame(wire.KIND_REJECT, bytes(len(said) - 4))[:4] + b"\x00\x02"
    assert type(dial_error(nodes, node)) is IdentityMismatch


@pytest.mark.parametrize("level", [0, wire.LEVEL_OPEN, wire.LEVEL_AUTH, 0x80])
def test_other_level_inside_tls_is_refused(nodes: Nodes, node: Node, level: int) -> None:
    peer = TlsPeer.dial(nodes, node, good()).shake_hands()
    peer.send(hello(PEER, level=level) + AUTH)
    assert b"the dialled node takes only links over TLS" in peer.await_end()
    assert_shut_out(nodes, node, by_tls=0)


def test_answer_with_a_lower_level_inside_tls_is_refused(nodes: Nodes) -> None:
    node = nodes.add(1, tls=files(1))
    peer = served(nodes, node, good(outgoing=False)).shake_hands()
    peer.receive(len(hello(1)))
    peer.send(hello(PEER, level=wire.LEVEL_OPEN, expected=1) + AUTH + READY)
    assert type(dial_error(nodes, node)) is AuthenticationError


def test_level_tls_outside_of_tls_is_refused(nodes: Nodes) -> None:
    node = nodes.add(1)
    node.listen(ANY)
    with stranger(node) as sock:
        sock.sendall(hello(PEER) + AUTH)
        nodes.until(lambda: node.stats().handshakes_failed == 1)
        assert b"the dialled node takes no secrets" in sock.recv(1_000)


# -- streams that go wrong before the link -------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.0\r\n\r\n",
        bytes(1_000),
        b"\x16",
        b"\x16\x03\x01\xff\xff" + bytes(70_000),
        b"\x16\x03\x01\x02\x00" + bytes(512),
        b"\x15\x03\x03\x00\x02\x02\x28",
        b"\x17\x03\x03\x00\x10" + bytes(16),
        b"\x80\x2e\x01\x00\x02" + bytes(44),  # a CLIENT-HELLO of SSL 2
    ],
    ids=["http", "zeros", "one byte", "long record", "empty hello", "alert", "data", "ssl2"],
)
def test_garbage_instead_of_tls_is_shut_out(nodes: Nodes, node: Node, data: bytes) -> None:
    with stranger(node) as sock:
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)
        nodes.until(lambda: node.stats().handshakes_failed == 1)
        assert_shut_out(nodes, node, by_tls=node.stats().tls_handshakes_failed)


def test_frames_in_clear_are_answered_in_clear_and_not_looked_at(nodes: Nodes, node: Node) -> None:
    with stranger(node) as sock:
        sock.sendall(open_hello(PEER) + AUTH)
        nodes.until(lambda: node.stats().handshakes_failed == 1)
        assert b"the dialled node takes only links over TLS" in sock.recv(1_000)
    assert_shut_out(nodes, node, by_tls=1)


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.0 400 no\r\n", frame(wire.KIND_HELLO, b"NETC")])
def test_dialled_peer_that_speaks_no_tls_is_an_error(nodes: Nodes, answer: bytes) -> None:
    node = nodes.add(1, tls=files(1))
    peer = served(nodes, node, good(outgoing=False))
    peer.send_raw(answer)
    peer.close()
    wanted = UnsupportedProtocol if answer else DestinationNotFound
    assert type(dial_error(nodes, node)) is wanted


@pytest.mark.parametrize("cut", [1, 5, 100, 200])
def test_stream_cut_in_the_tls_handshake_leaves_nothing(nodes: Nodes, node: Node, cut: int) -> None:
    first = ssl.MemoryBIO()
    client = good().wrap_bio(ssl.MemoryBIO(), first)
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    with stranger(node) as sock:
        sock.sendall(first.read()[:cut])
    assert_shut_out(nodes, node, by_tls=0)


@pytest.mark.parametrize("said", [b"", hello(PEER)[:30], hello(PEER), hello(PEER) + AUTH[:2]])
def test_close_notify_in_the_handshake_leaves_nothing(
    nodes: Nodes, node: Node, said: bytes
) -> None:
    peer = TlsPeer.dial(nodes, node, good()).shake_hands()
    peer.send(said)
    peer.say_end()
    peer.await_end()
    assert_shut_out(nodes, node, by_tls=0)


def test_frames_before_the_handshake_are_refused(nodes: Nodes, node: Node) -> None:
    peer = TlsPeer.dial(nodes, node, good()).shake_hands()
    peer.send(frame(wire.KIND_MESSAGE, b"\x00\x40\x0a\x0a\x00\x00\x00\x00early"))
    assert peer.await_end() == b""
    assert nodes.sinks[node].messages == []
    assert_shut_out(nodes, node, by_tls=0)


def test_endless_tls_handshake_is_refused_at_its_bound(nodes: Nodes, node: Node) -> None:
    # A ClientHello of 100,000 bytes, in records of 1,000: openssl alone would take it all.
    body = b"\x01" + (100_000).to_bytes(3, "big") + bytes(100_000)
    pieces = [body[at : at + 1_000] for at in range(0, len(body), 1_000)]
    peer = TlsPeer(nodes, stranger(node), good())
    sent = 0
    for piece in pieces:
        record = b"\x16\x03\x01" + len(piece).to_bytes(2, "big") + piece
        peer.send_raw(record)
        sent += len(record)
        nodes.settle(2)
        if node.stats().handshakes_failed:
            break
    assert wire.MAX_TLS_HANDSHAKE_BYTES <= sent <= wire.MAX_TLS_HANDSHAKE_BYTES + 3 * 1_005
    assert_shut_out(nodes, node, by_tls=1)


@pytest.mark.parametrize("stage", ["connect", "hello", "secured", "greeted"])
def test_one_deadline_holds_for_tls_and_handshake_together(nodes: Nodes, stage: str) -> None:
    node = nodes.add(1, tls=files(1), handshake_timeout_ms=400)
    node.listen(ANY)
    began = time.monotonic()
    peer = TlsPeer(nodes, stranger(node), good())
    if stage == "hello":
        peer.send_raw(b"\x16\x03\x01")
    if stage in ("secured", "greeted"):
        peer.shake_hands()
    if stage == "greeted":
        peer.send(hello(PEER))
        peer.receive(len(hello(PEER)))
    peer.await_end()
    assert 0.39 < time.monotonic() - began < 5
    nodes.until(lambda: node.stats().handshakes_failed == 1)
    assert node.stats().half_open == 0


def test_byte_now_and_then_does_not_extend_the_tls_handshake(nodes: Nodes) -> None:
    node = nodes.add(1, tls=files(1), handshake_timeout_ms=300)
    node.listen(ANY)
    first = ssl.MemoryBIO()
    client = good().wrap_bio(ssl.MemoryBIO(), first)
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    data = first.read()
    began = time.monotonic()
    with stranger(node) as sock:
        at = 0
        while not node.stats().handshakes_failed:
            due = began + 0.02 * at
            if time.monotonic() >= due and at < len(data) - 1:
                sock.send(data[at : at + 1])
                at += 1
            nodes.turn()
            assert time.monotonic() - began < 10
    assert 0 < at < len(data) - 1


def test_dial_to_a_silent_peer_times_out(nodes: Nodes) -> None:
    node = nodes.add(1, tls=files(1), handshake_timeout_ms=100)
    peer = served(nodes, node, good(outgoing=False))
    assert type(dial_error(nodes, node)) is HandshakeTimeout
    peer.close()


def test_half_open_tls_handshakes_are_bounded(nodes: Nodes) -> None:
    node = nodes.add(1, tls=files(1), max_half_open=4)
    node.listen(ANY)
    socks = [stranger(node) for _ in range(10)]
    nodes.until(lambda: node.stats().half_open_refused == 6)
    assert node.stats().half_open == 4
    for sock in socks:
        sock.close()
    nodes.until(lambda: node.stats().half_open == 0)


# -- links ---------------------------------------------------------------------------------------


def message(payload: bytes, *, service: int = SINK) -> bytes:
    """Return a direct message as a frame."""
    head = bytes([0x00, 0x40, service, service, 0, 0, 0, 0])
    return frame(wire.KIND_MESSAGE, head + payload)


@pytest.mark.parametrize("chunk", [1, 7])
def test_bytes_that_come_one_by_one_make_a_link_and_messages(
    nodes: Nodes, node: Node, chunk: int
) -> None:
    peer = TlsPeer.dial(nodes, node, good(), chunk=chunk).link(PEER)
    peer.send(message(b"a") + message(b"b" * 300))
    nodes.until(lambda: len(nodes.sinks[node].messages) == 2)
    assert nodes.sinks[node].payloads == [b"a", b"b" * 300]
    assert all(m.from_node == PEER and m.sender_verified for m in nodes.sinks[node].messages)


def test_frames_behind_the_handshake_in_the_same_segment_arrive(nodes: Nodes, node: Node) -> None:
    # All of it is read from the socket at once and then waits in TLS, not in the socket.
    peer = TlsPeer.dial(nodes, node, good()).shake_hands()
    sealed = b"".join(
        peer.seal(part)
        for part in (hello(PEER), AUTH, message(b"1"), message(b"2"), message(b"3" * 40_000))
    )
    peer.send_raw(sealed)
    nodes.until(lambda: len(nodes.sinks[node].messages) == 3)


def test_dialled_peer_that_answers_all_at_once_has_a_link(nodes: Nodes) -> None:
    node = nodes.add(1, tls=files(1))
    peer = served(nodes, node, good(outgoing=False), node_id=PEER).shake_hands()
    peer.receive(len(hello(1)))
    peer.send_raw(
        b"".join(
            peer.seal(part)
            for part in (
                hello(PEER, expected=1),
                AUTH + READY + message(b"1"),
                message(b"2"),
                message(b"3" * 50_000)[:10],
            )
        )
    )
    nodes.until(lambda: len(nodes.sinks[node].messages) == 2)
    peer.send(message(b"3" * 50_000)[10:])
    nodes.until(lambda: len(nodes.sinks[node].messages) == 3)


def test_bent_record_ends_the_link_and_delivers_nothing_of_it(nodes: Nodes, node: Node) -> None:
    peer = TlsPeer.dial(nodes, node, good()).link(PEER)
    peer.send(message(b"good"))
    bent = bytearray(peer.seal(message(b"bad")))
    bent[-1] ^= 1
    peer.send_raw(bytes(bent) + peer.seal(message(b"behind")))
    nodes.until(lambda: not node.connections)
    assert nodes.sinks[node].payloads == [b"good"]
    stats = node.stats()
    assert (stats.tls_links_broken, stats.links_closed, stats.hook_errors) == (1, 1, 0)
    peer.await_end()
    assert "BAD_RECORD_MAC" in str(peer.error).upper()


def test_record_sent_twice_ends_the_link(nodes: Nodes, node: Node) -> None:
    peer = TlsPeer.dial(nodes, node, good()).link(PEER)
    sealed = peer.seal(message(b"once"))
    peer.send_raw(sealed + sealed)
    nodes.until(lambda: not node.connections)
    assert nodes.sinks[node].payloads == [b"once"]
    assert node.stats().tls_links_broken == 1


def test_clear_bytes_on_a_link_end_it(nodes: Nodes, node: Node) -> None:
    peer = TlsPeer.dial(nodes, node, good()).link(PEER)
    peer.send_raw(message(b"in clear"))
    nodes.until(lambda: not node.connections)
    assert nodes.sinks[node].messages == []
    assert node.stats().tls_links_broken == 1


def test_broken_frame_inside_tls_is_told_in_a_close(nodes: Nodes, node: Node) -> None:
    peer = TlsPeer.dial(nodes, node, good()).link(PEER)
    peer.send(frame(0x07, b""))
    said = peer.await_end()
    assert frame(wire.KIND_CLOSE, b"")[:1] + b"\x00" in said
    assert b"bad_kind" in said
    assert (node.stats().protocol_errors, node.stats().tls_links_broken) == (1, 0)


@pytest.mark.parametrize("ending", ["close_notify", "end of stream", "both"])
@pytest.mark.parametrize("cut", [0, 3, 20], ids=["between frames", "in a header", "in a frame"])
def test_end_in_the_middle_ends_the_link_and_nothing_else(
    nodes: Nodes, node: Node, ending: str, cut: int
) -> None:
    peer = TlsPeer.dial(nodes, node, good()).link(PEER)
    peer.send(message(b"whole") + message(b"not whole, not whole")[:cut])
    if ending != "end of stream":
        peer.say_end()
    if ending != "close_notify":
        peer.sock.shutdown(socket.SHUT_WR)
    nodes.until(lambda: not node.connections)
    assert nodes.sinks[node].payloads == [b"whole"]
    stats = node.stats()
    assert (stats.links_closed, stats.tls_links_broken, stats.protocol_errors) == (1, 0, 0)
    peer.await_end()


def test_what_comes_behind_close_notify_does_not_count(nodes: Nodes, node: Node) -> None:
    peer = TlsPeer.dial(nodes, node, good()).link(PEER)
    before = peer.seal(message(b"before"))
    peer.say_end()
    peer.send_raw(before)  # a record that was made before and comes behind
    nodes.until(lambda: not node.connections)
    assert node.stats().tls_links_broken <= 1
    assert len(nodes.sinks[node].messages) == 0


def test_polite_end_from_either_side_is_one_in_tls_too(nodes: Nodes, node: Node) -> None:
    peer = TlsPeer.dial(nodes, node, good()).link(PEER)
    peer.send(message(b"the last one") + frame(wire.KIND_CLOSE, b"\x00\x00"))
    said = peer.await_end()  # until close_notify: ssl would say if it were missing
    assert peer.error is None
    assert said.endswith(frame(wire.KIND_CLOSE, b"\x00\x00"))
    peer.say_end()
    peer.sock.shutdown(socket.SHUT_WR)
    nodes.until(lambda: not node.connections)
    assert nodes.sinks[node].payloads == [b"the last one"]


def test_half_of_a_link_goes_on_when_the_other_half_has_ended(nodes: Nodes, node: Node) -> None:
    peer = TlsPeer.dial(nodes, node, good()).link(PEER)
    # The node ends its direction; what we still send has to arrive.
    node.agent(SINK).close_conn(node.connections[0].conn_id)
    peer.await_end()
    for number in range(50):
        peer.send(message(b"%d" % number))
    peer.send(frame(wire.KIND_CLOSE, b"\x00\x00"))
    peer.say_end()
    peer.sock.shutdown(socket.SHUT_WR)
    nodes.until(lambda: not node.connections)
    assert nodes.sinks[node].payloads == [b"%d" % number for number in range(50)]


def test_peer_that_never_reads_costs_one_bounded_queue(nodes: Nodes, node: Node) -> None:
    peer = TlsPeer.dial(nodes, node, good()).link(PEER)
    for _ in range(300):  # of 100 kB each, to be sent back
        if peer.ended:
            break
        peer.send(message(b"x" * 100_000, service=ECHO))
    nodes.settle()
    (link,) = node.connections
    assert link.queued_bytes < (1 << 20) + 200_000
    assert link.sends_refused > 0
    assert node.stats().hook_errors > 0  # the echo's sends raise


def test_control_frames_overtake_what_is_not_sealed_yet(nodes: Nodes) -> None:
    node = nodes.add(1, tls=files(1), ping_interval_ms=20, dead_ms=60_000)
    node.listen(ANY)
    peer = TlsPeer.dial(nodes, node, good()).link(PEER)
    agent = node.agent(SINK)
    sent = 0
    while node.connections[0].queued_bytes < 900_000:
        agent.send_to_node(PEER, bytes(10_000))
        sent += 1
        if node.connections[0].queued_bytes > 200_000:
            node.poll(0)
    stuck = node.connections[0].queued_bytes
    begin = node.stats().control_sent
    nodes.until(lambda: node.stats().control_sent > begin + 2)
    assert node.connections[0].queued_bytes == stuck
    kinds: list[int] = []
    data = b""

    def take() -> bool:
        nonlocal data
        data += peer.read(1 << 20)
        while len(data) >= 4 and len(data) >= 4 + int.from_bytes(data[1:4], "big"):
            kinds.append(data[0])
            data = data[4 + int.from_bytes(data[1:4], "big") :]
        return kinds.count(wire.KIND_MESSAGE) >= sent

    nodes.until(take)
    behind_first_ping = kinds[kinds.index(wire.KIND_PING) :]
    assert behind_first_ping.count(wire.KIND_MESSAGE) > 80  # 900 kB of 10 kB each, less some


# -- openssl -------------------------------------------------------------------------------------

openssl = shutil.which("openssl")
needs_openssl = pytest.mark.skipif(openssl is None, reason="openssl is not installed")


def s_client(node: Node, *options: str, files: TlsFiles | None) -> subprocess.Popen[bytes]:
    """Start openssl s_client against a node; its input ends at once."""
    own = [] if files is None else ["-cert", str(files.cert), "-key", str(files.key)]
    host, port = tcp_address(node)
    return subprocess.Popen(
        ["openssl", "s_client", "-connect", f"{host}:{port}", "-CAfile", str(cluster().cert),
         "-verify_return_error", "-brief", *own, *options],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        env={**os.environ, "LC_ALL": "C"},
    )  # fmt: skip


def said_by(nodes: Nodes, process: subprocess.Popen[bytes]) -> str:
    nodes.until(lambda: process.poll() is not None)
    assert process.stdout is not None
    with process.stdout as stdout:
        return stdout.read().decode()


@needs_openssl
def test_openssl_finds_tls_1_3_and_our_certificate(nodes: Nodes, node: Node) -> None:
    said = said_by(nodes, s_client(node, files=files(PEER)))
    assert "Protocol version: TLSv1.3" in said
    assert "Verification: OK" in said
    assert_shut_out(nodes, node, by_tls=0)


@needs_openssl
@pytest.mark.parametrize(
    ("options", "own", "words"),
    [
        (("-tls1_2",), True, "alert protocol version"),
        (("-tls1_1", "-cipher", "DEFAULT@SECLEVEL=0"), True, "alert"),
        (("-ciphersuites", "TLS_AES_128_CCM_8_SHA256"), True, "alert"),
    ],
    ids=["TLS 1.2", "TLS 1.1", "a weak suite"],
)
def test_openssl_is_refused(
    nodes: Nodes, node: Node, options: tuple[str, ...], own: bool, words: str
) -> None:
    process = s_client(node, *options, files=files(PEER) if own else None)
    said = said_by(nodes, process)
    assert process.returncode != 0
    assert words in said
    assert_shut_out(nodes, node, by_tls=1)


@needs_openssl
def test_openssl_without_a_certificate_gets_nothing(nodes: Nodes, node: Node) -> None:
    said_by(nodes, s_client(node, files=None))
    assert_shut_out(nodes, node, by_tls=1)


@needs_openssl
def test_keys_are_changed_on_a_link_and_it_goes_on(nodes: Nodes, node: Node) -> None:
    own = files(PEER)
    host, port = tcp_address(node)
    process = subprocess.Popen(
        ["openssl", "s_client", "-connect", f"{host}:{port}", "-CAfile", str(cluster().cert),
         "-brief", "-cert", str(own.cert), "-key", str(own.key)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(hello(PEER) + AUTH)
        process.stdin.flush()
        nodes.until(lambda: node.connections)
        for number in range(3):
            process.stdin.write(b"K\n")  # asks for new keys in both directions
            process.stdin.flush()
            nodes.settle(5)  # openssl reads a command from the start of a chunk only
            process.stdin.write(message(b"key %d" % number, service=ECHO))
            process.stdin.flush()
            nodes.until(lambda: node.stats().messages_sent > number)  # noqa: B023 - called at once
        answers = b""
        os.set_blocking(process.stdout.fileno(), False)

        def answered() -> bool:
            nonlocal answers
            answers += process.stdout.read() or b""  # type: ignore[union-attr]
            return all(b"key %d" % n in answers for n in range(3))

        nodes.until(answered)
        assert node.stats().tls_links_broken == 0
    finally:
        process.kill()
        _, errors = process.communicate()
    assert errors.count(b"KEYUPDATE") == 3
