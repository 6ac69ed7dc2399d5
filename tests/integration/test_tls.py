"""Nodes whose links are TLS, on real sockets."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from netcore import (
    AuthenticationError,
    DuplicateNodeId,
    IdentityMismatch,
    LocalError,
    NodeConfig,
    SelfConnect,
    SendQueueFullError,
    TlsFiles,
)
from netcore._backend import BackendName
from support.backends import fast_is_built
from support.certs import DAY, cluster, contexts, files, other_cluster
from support.nodes import ANY, ECHO, OTHER_SECRET, SECRET, SINK, Nodes, linked, nodes_of
from support.processes import Processes, processes


@pytest.fixture
def nodes(backend: BackendName) -> Iterator[Nodes]:
    with nodes_of(backend) as nodes:
        yield nodes


def dial_error(nodes: Nodes, one: object, address: object) -> Exception:
    """Return how a dial fails."""
    one.connect(str(address))  # type: ignore[attr-defined]
    nodes.until(lambda: nodes.sinks[one].errors)  # type: ignore[index]
    return nodes.sinks[one].errors.pop()[2]  # type: ignore[index]


# -- links ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["tcp", "unix", "memory"])
def test_nodes_of_one_cluster_link_up_over_every_transport(
    nodes: Nodes, kind: str, tmp_path: Path
) -> None:
    address = {"tcp": ANY, "unix": f"/unix{tmp_path}/s", "memory": f"/memory/{tmp_path.name}"}[kind]
    one, two = nodes.add(1, tls=files(1)), nodes.add(2, tls=files(2))
    nodes.join(one, two, address)
    payloads = [b"", b"a", b"b" * 70_000, b"c" * 1_000_000, b"d"]
    assert nodes.send_until_echoed(one, 2, payloads) == payloads
    assert all(message.sender_verified for message in nodes.sinks[one].messages)
    stats = one.stats()
    assert (stats.tls_handshakes_failed, stats.tls_links_broken, stats.protocol_errors) == (0, 0, 0)


def test_messages_are_relayed_in_order_over_tls(nodes: Nodes) -> None:
    ends = [nodes.add(n, tls=files(n)) for n in (1, 2, 3)]
    ends[0].connect(ends[1].listen(ANY))
    ends[2].connect(ends[1].addrs[0])
    nodes.until(lambda: ends[0].router.path_to_node(3).is_next)
    nodes.until(lambda: ends[2].router.path_to_node(1).is_next)
    payloads = [b"%d" % number * (number % 700) for number in range(1_500)]
    assert nodes.send_until_echoed(ends[0], 3, payloads) == payloads
    assert not any(message.sender_verified for message in nodes.sinks[ends[0]].messages)


@pytest.mark.skipif(not fast_is_built(), reason="compiled kernels not built")
def test_two_backends_speak_tls_to_each_other() -> None:
    with nodes_of("fast") as nodes:
        one = nodes.add(1, tls=files(1))
        two = nodes.add(2, tls=files(2), backend="pure")
        nodes.join(one, two)
        payloads = [b"x" * 100_000, b"y"]
        assert nodes.send_until_echoed(one, 2, payloads) == payloads
        assert nodes.send_until_echoed(two, 1, payloads) == payloads


def test_contexts_of_the_users_do_as_well_as_files(nodes: Nodes) -> None:
    one, two = nodes.add(1, tls=contexts(files(1))), nodes.add(2, tls=files(2))
    nodes.join(one, two)
    nodes.join(nodes.add(3, tls=contexts(files(3))), one)
    assert nodes.send_until_echoed(two, 1, [b"hello"]) == [b"hello"]


def test_whole_config_may_carry_tls(nodes: Nodes) -> None:
    config = NodeConfig(node_id=1, tls=files(1), min_security="tls")
    one = nodes.add(config, tls=None)  # type: ignore[arg-type]
    nodes.join(one, nodes.add(2, tls=files(2)))
    assert one.config.security == "tls"


def test_tls_node_may_listen_beyond_loopback(nodes: Nodes) -> None:
    assert nodes.add(1, tls=files(1)).listen("/ip4/0.0.0.0/tcp/0").node_id == 1


def test_link_that_ends_politely_has_delivered_everything(nodes: Nodes) -> None:
    one, two = nodes.add(1, tls=files(1)), nodes.add(2, tls=files(2), close_timeout_ms=9_000)
    nodes.join(one, two)
    payloads = [bytes([number]) * 50_000 for number in range(20)]
    for payload in payloads:
        two.agent(SINK).send_to_node(1, payload)
    # Both ends at the same time, while the other one reads nothing.
    two.agent(SINK).close_conn(two.connections[0].conn_id)
    for _ in range(5):
        two.poll(0)
    one.agent(SINK).close_conn(one.connections[0].conn_id)
    nodes.until(lambda: not (one.connections or two.connections))
    assert nodes.sinks[one].payloads == payloads
    assert two.stats().dropped == 0


def test_queue_fills_drains_and_keeps_its_order_when_the_other_end_rests(nodes: Nodes) -> None:
    one, two = nodes.add(1, tls=files(1)), nodes.add(2, tls=files(2))
    nodes.join(one, two)
    agent, sent = one.agent(SINK), 0
    while True:
        try:
            agent.send_to_node(2, sent.to_bytes(4, "big") * 4_096)
        except SendQueueFullError:
            break
        sent += 1
        if one.connections[0].queued_bytes < 500_000:
            one.poll(0)
    # The bound of the queue, what is sealed, and what the system takes.
    assert sent * 16_384 < (1 << 20) + (128 << 10) + (8 << 20)
    nodes.until(lambda: len(nodes.sinks[two].messages) == sent, 30)
    assert nodes.sinks[two].payloads == [n.to_bytes(4, "big") * 4_096 for n in range(sent)]
    assert one.stats().dropped == two.stats().dropped == 0


def test_closing_a_node_says_goodbye_over_tls(nodes: Nodes) -> None:
    one, two = nodes.add(1, tls=files(1)), nodes.add(2, tls=files(2))
    nodes.join(one, two)
    one.agent(SINK).send_to_node(2, b"last words")
    one.close(timeout_s=0)
    nodes.until(lambda: not two.connections)
    assert nodes.sinks[two].payloads == [b"last words"]


# -- identities ----------------------------------------------------------------------------------


def test_dialled_id_must_be_that_of_the_certificate(nodes: Nodes) -> None:
    one, two = nodes.add(1, tls=files(1)), nodes.add(2, tls=files(2))
    address = str(two.listen(ANY)).replace("2@", "5@")
    error = dial_error(nodes, one, address)
    assert type(error) is IdentityMismatch
    assert "found the certificate of node 2" in str(error)
    nodes.until(lambda: two.stats().handshakes_failed == 1)


def test_node_that_dials_itself_is_told_so(nodes: Nodes) -> None:
    one = nodes.add(1, tls=files(1))
    address = str(one.listen(ANY)).partition("@")[2]
    assert type(dial_error(nodes, one, address)) is SelfConnect


def test_two_nodes_with_one_certificate_do_not_link(nodes: Nodes) -> None:
    one, again = nodes.add(1, tls=files(1)), nodes.add(1, tls=files(1))
    address = str(one.listen(ANY)).partition("@")[2]
    assert type(dial_error(nodes, again, address)) is DuplicateNodeId


def test_node_of_another_cluster_is_refused_by_both(nodes: Nodes) -> None:
    one, two = nodes.add(1, tls=files(1)), nodes.add(2, tls=other_cluster().node(2))
    error = dial_error(nodes, one, two.listen(ANY))
    assert type(error) is AuthenticationError
    assert "the other end's certificate is refused" in str(error)
    nodes.until(lambda: two.stats().tls_handshakes_failed == 1)
    assert one.stats().tls_handshakes_failed == 1
    assert two.stats().handshakes_failed == 1


# -- levels --------------------------------------------------------------------------------------


@pytest.mark.parametrize("secret", [None, SECRET], ids=["open", "auth"])
def test_plain_node_and_tls_node_refuse_each_other(nodes: Nodes, secret: bytes | None) -> None:
    plain, tls = nodes.add(1, secret=secret), nodes.add(2, tls=files(2))
    error = dial_error(nodes, plain, tls.listen(ANY))
    assert type(error) is AuthenticationError
    assert "the dialled node takes only links over TLS" in str(error)
    error = dial_error(nodes, tls, plain.listen(ANY))
    assert type(error) is AuthenticationError
    assert "the dialled node does not speak TLS" in str(error)
    nodes.until(lambda: plain.stats().handshakes_failed == tls.stats().handshakes_failed == 1)
    assert tls.stats().tls_handshakes_failed == 2


def test_secret_is_proved_inside_tls(nodes: Nodes) -> None:
    one, two = nodes.add(1, tls=files(1), secret=SECRET), nodes.add(2, tls=files(2), secret=SECRET)
    nodes.join(one, two)
    assert nodes.send_until_echoed(one, 2, [b"x" * 100_000]) == [b"x" * 100_000]


@pytest.mark.parametrize(
    ("dialling", "dialled"), [(SECRET, None), (None, SECRET), (SECRET, OTHER_SECRET)]
)
def test_certificate_alone_is_not_enough_where_there_is_a_secret(
    nodes: Nodes, dialling: bytes | None, dialled: bytes | None
) -> None:
    one = nodes.add(1, tls=files(1), secret=dialling)
    two = nodes.add(2, tls=files(2), secret=dialled)
    assert type(dial_error(nodes, one, two.listen(ANY))) is AuthenticationError
    nodes.until(lambda: two.stats().handshakes_failed == 1)
    assert two.stats().tls_handshakes_failed == 0


@pytest.mark.parametrize(
    ("wanted", "given", "remedy"),
    [
        ("auth", {}, "give secret= or tls="),
        ("tls", {}, "give tls="),
        ("tls", {"secret": SECRET}, "give tls="),
    ],
)
def test_node_below_its_min_security_is_not_made(
    nodes: Nodes, wanted: str, given: dict[str, object], remedy: str
) -> None:
    with pytest.raises(LocalError, match=remedy):
        nodes.add(1, min_security=wanted, **given)


def test_min_security_counts_the_secret_of_the_environment(
    nodes: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NETCORE_SECRET", SECRET.decode())
    config = NodeConfig(node_id=1, min_security="auth")
    assert nodes.add(config).config.security == "auth"  # type: ignore[arg-type]
    assert nodes.add(2, tls=files(2), min_security="auth").config.security == "tls"


# -- what a node does not take -------------------------------------------------------------------


def _other_nodes() -> TlsFiles:
    return files(2)


def _not_its_key() -> TlsFiles:
    return TlsFiles(cluster().cert, files(1).cert, files(2).key)


def _missing() -> TlsFiles:
    return TlsFiles(cluster().cert, "/nowhere/node.pem", files(1).key)


def _no_pem() -> TlsFiles:
    return TlsFiles(__file__, files(1).cert, files(1).key)


def _encrypted() -> TlsFiles:
    return cluster().issue(["netcore:node/1"], password=b"a password")


def _expired() -> TlsFiles:
    return cluster().issue(["netcore:node/1"], valid=(-2 * DAY, -DAY))


def _nameless() -> TlsFiles:
    return cluster().issue([], common_name="netcore:node/1")


def _untrusted() -> TlsFiles:
    return TlsFiles(other_cluster().cert, files(1).cert, files(1).key)


def _only_listens() -> ssl.SSLContext:
    return contexts(files(1))[0]


def _wrong_way_round() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    listening, dialling = contexts(files(1))
    return dialling, listening


def _takes_older() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    pair = contexts(files(1))
    pair[0].minimum_version = ssl.TLSVersion.TLSv1_2
    return pair


def _asks_nobody() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    pair = contexts(files(1))
    pair[1].verify_mode = ssl.CERT_NONE
    return pair


def _wants_host_names() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    pair = contexts(files(1))
    pair[1].check_hostname = True
    return pair


def _two_nodes() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    return contexts(files(1))[0], contexts(files(2))[1]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (_other_nodes, "the certificate is of node 2; this is node 1"),
        (_not_its_key, "does not belong to"),
        (_missing, "cannot read /nowhere/node.pem: No such file"),
        (_no_pem, "holds no certificate"),
        (_encrypted, "the key is encrypted"),
        (_expired, "certificate has expired"),
        (_nameless, "names no node"),
        (_untrusted, "would refuse its own certificate"),
        (_only_listens, "cannot dial: give a pair"),
        (_wrong_way_round, "cannot listen: give a pair"),
        (_takes_older, "minimum_version = ssl.TLSVersion.TLSv1_3"),
        (_asks_nobody, "verify_mode = ssl.CERT_REQUIRED"),
        (_wants_host_names, "check_hostname = False"),
        (_two_nodes, "certificates of two nodes"),
        (lambda: "ca.pem", "tls is TlsFiles"),
        (lambda: ("a", "b", "c"), "tls is TlsFiles"),
    ],
)
def test_tls_that_cannot_work_is_an_error_at_once(
    nodes: Nodes, make: Callable[[], object], words: str
) -> None:
    with pytest.raises(LocalError, match=words):
        nodes.add(1, tls=make())


# -- processes -----------------------------------------------------------------------------------


@pytest.fixture
def world() -> Iterator[Processes]:
    with processes() as world:
        yield world


def test_fork_leaves_a_tls_link_to_the_parent(world: Processes, backend: BackendName) -> None:
    child = world.script(
        backend,
        """
import os, warnings
from netcore import BACKEND
from support.certs import files
from support.nodes import *

warnings.simplefilter("ignore", DeprecationWarning)
nodes = Nodes(BACKEND)
one, two = nodes.add(1, tls=files(1)), nodes.add(2, tls=files(2))
nodes.join(one, two)
pid = os.fork()
if not pid:
    links = [os.readlink(f"/dev/fd/{fd}") for fd in os.listdir("/dev/fd")
             if os.path.exists(f"/dev/fd/{fd}")]
    os._exit(sum(link.startswith("socket:") for link in links))
code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
assert nodes.send_until_echoed(one, 2, [b"x" * 5000] * 3) == [b"x" * 5000] * 3
nodes.close()
print("sockets in the child:", code, flush=True)
""",
    )
    assert child.read() == "sockets in the child: 0"
    assert child.wait() == 0, child.errors()


def test_descriptors_come_back_when_links_end(nodes: Nodes) -> None:
    from support.hosts import open_fds

    one, two = nodes.add(1, tls=files(1)), nodes.add(2, tls=files(2))
    address = two.listen(ANY)
    before = open_fds()
    for _ in range(3):
        one.connect(address)
        nodes.until(lambda: linked(one, two))
        one.agent(ECHO).close_conn(one.connections[0].conn_id)
        nodes.until(lambda: not (one.connections or two.connections))
    nodes.until(lambda: open_fds() == before)
