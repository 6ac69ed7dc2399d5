from __future__ import annotations

import errno
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from netcore import wire
from netcore.address import Endpoint
from netcore.errors import DestinationNotFound, HandshakeTimeout, RemoteRejected
from netcore.transport import Negotiation, UnixTransport
from netcore.transport.sockets import CONNECT_RETRY_MS
from support.hosts import FakeHost, World, open_fds

SECRET = b"a secret of 23 bytes ok"


@pytest.fixture
def world(kernels: ModuleType) -> Iterator[World]:
    world = World(kernels)
    yield world
    world.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "s"


def pair(world: World, **config: Any) -> tuple[FakeHost, FakeHost]:
    return world.host(1, UnixTransport(), **config), world.host(2, UnixTransport(), **config)


def stale_socket(path: Path) -> None:
    """Leave a socket file behind, as a process that died does."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))


@pytest.mark.parametrize("secret", [None, SECRET], ids=["open", "auth"])
def test_dial_ends_in_one_link_on_both_sides(
    world: World, path: Path, secret: bytes | None
) -> None:
    a, b = pair(world, secret=secret)
    listener = b.listen(f"/unix{path}")
    a.dial(listener.endpoint, node=2)
    world.until(lambda: a.up and b.up)
    assert a.up[0].negotiation.remote == b.up[0].negotiation.remote == listener.endpoint
    assert b.up[0].negotiation.conn_id & 0xFFFF == wire.PROTOCOL_UNIX << 8 | 1


def test_refusal_reaches_the_dialling_side_with_its_reason(world: World, path: Path) -> None:
    def refuse(negotiation: Negotiation) -> None:
        negotiation.reject(wire.REJECT_BEHAVIOR, "full for today")

    a, b = pair(world)
    b.decision = refuse
    a.dial(b.listen(f"/unix{path}").endpoint)
    world.until(lambda: a.down)
    assert isinstance(a.error, RemoteRejected)
    assert a.error.reason == "full for today"


def test_silence_is_a_handshake_timeout(world: World, path: Path) -> None:
    a, _ = pair(world, handshake_timeout_ms=50)
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(path))
        silent.listen()
        a.dial(f"/unix{path}")
        world.until(lambda: a.down)
    assert isinstance(a.error, HandshakeTimeout)


def test_dial_to_a_path_without_a_file_finds_nobody(world: World, path: Path) -> None:
    a, _ = pair(world)
    a.dial(f"/unix{path}")
    world.until(lambda: a.down)
    assert isinstance(a.error, DestinationNotFound)


def test_dial_to_a_path_too_long_finds_nobody(world: World) -> None:
    a, _ = pair(world)
    a.dial("/unix/" + "x" * 200)
    world.until(lambda: a.down)
    assert isinstance(a.error, DestinationNotFound)
    assert "too long" in str(a.error)


def test_listen_makes_a_file_for_its_owner_only(world: World, path: Path) -> None:
    _, b = pair(world)
    b.listen(f"/unix{path}")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_listen_replaces_the_file_of_a_dead_process(world: World, path: Path) -> None:
    a, b = pair(world)
    stale_socket(path)
    a.dial(b.listen(f"/unix{path}").endpoint)
    world.until(lambda: a.up)


def test_listen_where_somebody_listens_raises_and_leaves_the_file(world: World, path: Path) -> None:
    a, b = pair(world)
    a.listen(f"/unix{path}")
    before = open_fds()
    with pytest.raises(OSError, match="in use"):
        b.listen(f"/unix{path}")
    assert open_fds() == before
    assert path.exists()


def test_listen_where_the_queue_of_a_living_one_is_full_raises(world: World, path: Path) -> None:
    _, b = pair(world)
    with socket.socket(socket.AF_UNIX) as busy, socket.socket(socket.AF_UNIX) as waiting:
        busy.bind(str(path))
        busy.listen(0)
        waiting.connect(str(path))
        with pytest.raises(OSError, match="in use"):
            b.listen(f"/unix{path}")


def test_listen_where_another_kind_of_file_is_raises_and_leaves_it(
    world: World, path: Path
) -> None:
    _, b = pair(world)
    path.write_text("precious")
    with pytest.raises(OSError, match="in use"):
        b.listen(f"/unix{path}")
    assert path.read_text() == "precious"


@pytest.mark.parametrize("moment", ["before it is looked at", "before it is tried"])
def test_listen_where_the_file_vanishes_meanwhile_succeeds(
    world: World, path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    _, b = pair(world)
    stale_socket(path)
    lstat = os.lstat
    looked = False

    def lstat_of_a_vanishing_file(name: str) -> os.stat_result:
        nonlocal looked
        if looked:
            return lstat(name)
        looked = True
        if moment == "before it is tried":
            found = lstat(name)
            path.unlink()
            return found
        path.unlink()
        return lstat(name)

    monkeypatch.setattr("netcore.transport.unix.os.lstat", lstat_of_a_vanishing_file)
    b.listen(f"/unix{path}")
    assert path.exists()


def test_listen_in_a_folder_that_is_not_there_raises(world: World, path: Path) -> None:
    _, b = pair(world)
    with pytest.raises(FileNotFoundError):
        b.listen(f"/unix{path}/s")


def test_close_removes_the_file(world: World, path: Path) -> None:
    _, b = pair(world)
    listener = b.listen(f"/unix{path}")
    listener.close()
    listener.close()
    assert not path.exists()


def test_close_leaves_a_file_that_is_somebody_else_s(world: World, path: Path) -> None:
    _, b = pair(world)
    listener = b.listen(f"/unix{path}")
    path.rename(path.with_name("kept"))  # so that its inode is not used again
    stale_socket(path)
    listener.close()
    assert path.exists()


def test_close_after_the_file_was_removed_is_silent(world: World, path: Path) -> None:
    _, b = pair(world)
    listener = b.listen(f"/unix{path}")
    path.unlink()
    listener.close()


def test_abandon_leaves_the_file(world: World, path: Path) -> None:
    _, b = pair(world)
    b.listen(f"/unix{path}")
    b.transports[0].abandon()
    assert path.exists()


def test_connect_to_a_full_queue_is_tried_again(kernels: ModuleType, path: Path) -> None:
    now = [0]
    world = World(kernels, lambda: now[0])
    a = world.host(1, UnixTransport())
    with socket.socket(socket.AF_UNIX) as busy, socket.socket(socket.AF_UNIX) as waiting:
        busy.bind(str(path))
        busy.listen(0)
        waiting.connect(str(path))
        dial = a.dial(f"/unix{path}")
        for _ in range(3):
            world.turn()
            now[0] += CONNECT_RETRY_MS
        assert not dial.hello_sent
        busy.accept()[0].close()
        world.turn()
        world.turn()
        assert dial.hello_sent
    world.close()


def test_connect_cancelled_while_it_waits_to_try_again_leaves_nothing(
    world: World, path: Path
) -> None:
    a, _ = pair(world)
    with socket.socket(socket.AF_UNIX) as busy, socket.socket(socket.AF_UNIX) as waiting:
        busy.bind(str(path))
        busy.listen(0)
        waiting.connect(str(path))
        before = open_fds()
        dial = a.dial(f"/unix{path}")
        world.turn()
        world.turn()
        assert open_fds() == before + 1
        dial.cancel(DestinationNotFound("changed my mind"))
        assert open_fds() == before
    assert world.loop.timers == 0


def test_listener_s_file_and_endpoint_agree(world: World, path: Path) -> None:
    _, b = pair(world)
    assert b.listen(f"/unix/{path}").endpoint == Endpoint("unix", str(path))


def test_many_links_leave_no_descriptor_behind(world: World, path: Path) -> None:
    a, b = pair(world)
    endpoint = b.listen(f"/unix{path}").endpoint
    before = open_fds()
    for count in range(1, 31):
        a.dial(endpoint)
        a.dial(f"/unix{path}.none")
        world.until(lambda count=count: len(a.up) + len(a.down) == 2 * count)  # type: ignore[misc]
    world.until(lambda: len(b.up) == 30)
    for up in a.up + b.up:
        assert up.stream.sock is not None
        up.stream.sock.close()
    assert open_fds() == before


def test_error_of_a_missing_file_says_so(world: World, path: Path) -> None:
    a, _ = pair(world)
    a.dial(f"/unix{path}")
    world.until(lambda: a.down)
    assert os.strerror(errno.ENOENT) in str(a.error)
