"""Nodes over socket files in one process."""

from __future__ import annotations

import os
import random
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from netcore import DestinationNotFound, wire
from netcore._backend import BackendName
from support.nodes import ANY, SINK, Nodes, closed_port, linked, nodes_of

needs_unix = pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="no unix sockets here")
pytestmark = needs_unix


@pytest.fixture
def nodes(backend: BackendName) -> Iterator[Nodes]:
    with nodes_of(backend) as nodes:
        yield nodes


@pytest.mark.parametrize("size", [0, 64, 4_096, 65_537, wire.DEFAULT_MAX_FRAME_BYTES - 16])
def test_echo_over_a_socket_file_returns_every_byte(
    nodes: Nodes, tmp_path: Path, size: int
) -> None:
    one, two = nodes.add(1), nodes.add(2)
    nodes.join(one, two, f"/unix/{tmp_path}/two")
    payload = random.Random(size).randbytes(size)
    assert nodes.send_until_echoed(one, 2, [payload]) == [payload]


def test_message_travels_over_unix_and_tcp_hops(nodes: Nodes, tmp_path: Path) -> None:
    one, two, three = nodes.add(1), nodes.add(2), nodes.add(3)
    nodes.join(one, two, f"/unix/{tmp_path}/two")
    nodes.join(two, three, ANY)
    nodes.until(lambda: one.router.path_to_node(3).is_next and three.router.path_to_node(1).is_next)
    assert nodes.send_until_echoed(one, 3, [b"far"]) == [b"far"]


def test_socket_file_is_private_and_goes_with_the_node(nodes: Nodes, tmp_path: Path) -> None:
    path = tmp_path / "one"
    one = nodes.add(1)
    addr = one.listen(f"/unix/{path}")
    assert str(addr) == f"1@/unix{path}"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    one.close()
    assert not path.exists()


def test_listen_where_a_living_node_listens_raises(nodes: Nodes, tmp_path: Path) -> None:
    nodes.add(1).listen(f"/unix/{tmp_path}/one")
    with pytest.raises(OSError, match="in use"):
        nodes.add(2).listen(f"/unix/{tmp_path}/one")


def test_listen_where_a_dead_process_listened_takes_over(nodes: Nodes, tmp_path: Path) -> None:
    path = tmp_path / "one"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(os.fspath(path))
    one, two = nodes.add(1), nodes.add(2)
    nodes.join(two, one, f"/unix/{path}")
    assert nodes.send_until_echoed(two, 1, [b"hello"]) == [b"hello"]


def test_connect_to_a_missing_socket_file_finds_nobody(nodes: Nodes, tmp_path: Path) -> None:
    one = nodes.add(1)
    one.connect(f"2@/unix/{tmp_path}/nobody")
    nodes.until(lambda: nodes.sinks[one].errors)
    assert type(nodes.sinks[one].error) is DestinationNotFound


def test_connect_with_a_dead_tcp_alternative_takes_the_socket_file(
    nodes: Nodes, tmp_path: Path
) -> None:
    one, two = nodes.add(1), nodes.add(2)
    two.listen(f"/unix/{tmp_path}/two")
    one.connect(f"2@/ip4/127.0.0.1/tcp/{closed_port()}/unix/{tmp_path}/two")
    nodes.until(lambda: linked(one, two))
    assert nodes.sinks[one].errors == []


def test_listen_on_a_path_that_is_too_long_raises(nodes: Nodes, tmp_path: Path) -> None:
    with pytest.raises(OSError, match="too long"):
        nodes.add(1).listen(f"/unix/{tmp_path}/{'x' * 200}")


def test_connect_to_a_path_that_is_too_long_finds_nobody(nodes: Nodes, tmp_path: Path) -> None:
    one = nodes.add(1)
    one.connect(f"2@/unix/{tmp_path}/{'x' * 200}")
    nodes.until(lambda: nodes.sinks[one].errors)
    assert type(nodes.sinks[one].error) is DestinationNotFound


def test_message_over_a_socket_file_shows_its_path_as_remote(nodes: Nodes, tmp_path: Path) -> None:
    one, two = nodes.add(1), nodes.add(2)
    nodes.join(one, two, f"/unix/{tmp_path}/two")
    one.agent(SINK).send_to_node(2, b"x")
    nodes.until(lambda: nodes.sinks[two].messages)
    assert one.connections[0].remote_addr == f"/unix{tmp_path}/two"
