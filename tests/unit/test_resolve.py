from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest

from netcore.address import Endpoint
from netcore.errors import QueueFullError
from netcore.transport.resolve import MAX_ADDRESSES, Resolver
from support.hosts import World

NAME = Endpoint("dns", "node.example", 7)
INET4 = (socket.AF_INET, socket.SOCK_STREAM, 6, "")
INET6 = (socket.AF_INET6, socket.SOCK_STREAM, 6, "")


@pytest.fixture
def world(kernels: ModuleType) -> Iterator[World]:
    world = World(kernels)
    yield world
    world.close()


def result_of(world: World, found: list[Any] | Exception) -> list[Endpoint] | OSError:
    """Return what a look-up reports when getaddrinfo does this."""

    def getaddrinfo(*args: Any, **kwargs: Any) -> list[Any]:
        if isinstance(found, Exception):
            raise found
        return found

    results: list[list[Endpoint] | OSError] = []
    Resolver(world.loop, getaddrinfo=getaddrinfo).resolve(NAME, results.append)
    assert not results
    world.until(lambda: results)
    return results[0]


def test_resolve_keeps_the_order_and_drops_repeats(world: World) -> None:
    found = [
        (*INET6, ("::1", 7, 0, 0)),
        (*INET4, ("127.0.0.1", 7)),
        (*INET6, ("::1", 7, 0, 0)),
    ]
    assert result_of(world, found) == [Endpoint("ip6", "::1", 7), Endpoint("ip4", "127.0.0.1", 7)]


def test_resolve_keeps_the_scope_of_link_local_addresses(world: World) -> None:
    found = [(*INET6, ("fe80::1", 7, 0, 3)), (*INET6, ("fe80::2%eth0", 7, 0, 3))]
    assert result_of(world, found) == [
        Endpoint("ip6", "fe80::1%3", 7),
        Endpoint("ip6", "fe80::2%eth0", 7),
    ]


def test_resolve_ignores_other_families(world: World) -> None:
    found = [(socket.AF_UNIX, 1, 0, "", "/x"), (*INET6, ("odd", 7)), (*INET4, ("127.0.0.1", 7))]
    assert result_of(world, found) == [Endpoint("ip4", "127.0.0.1", 7)]


def test_resolve_reports_a_bounded_number_of_addresses(world: World) -> None:
    found = [(*INET4, (f"10.0.0.{index}", 7)) for index in range(100)]
    result = result_of(world, found)
    assert isinstance(result, list)
    assert len(result) == MAX_ADDRESSES


@pytest.mark.parametrize(
    "found",
    [
        [],
        socket.gaierror(socket.EAI_NONAME, "Name or service not known"),
        UnicodeError("label too long"),
        RuntimeError("a bug in what was injected"),
    ],
    ids=repr,
)
def test_resolve_without_an_address_reports_an_os_error(
    world: World, found: list[Any] | Exception
) -> None:
    assert isinstance(result_of(world, found), OSError)


def test_resolve_of_localhost_by_the_system_finds_an_address(world: World) -> None:
    results: list[list[Endpoint] | OSError] = []
    Resolver(world.loop).resolve(Endpoint("dns", "localhost", 7), results.append)
    world.until(lambda: results)
    assert isinstance(results[0], list)
    assert all(endpoint.port == 7 for endpoint in results[0])


class Gate:
    """A getaddrinfo that answers when the test opens it."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.asked: list[str] = []

    def __call__(self, host: str, port: int, **kwargs: Any) -> list[Any]:
        self.asked.append(host)
        assert self.open.wait(30)
        return [(*INET4, ("127.0.0.1", port))]


def test_resolve_runs_a_bounded_number_of_threads_and_all_in_the_end(world: World) -> None:
    gate = Gate()
    results: list[object] = []
    resolver = Resolver(world.loop, getaddrinfo=gate, max_threads=2)
    for _ in range(5):
        resolver.resolve(NAME, results.append)
    assert (resolver.running, resolver.waiting) == (2, 3)
    gate.open.set()
    world.until(lambda: len(results) == 5)
    assert (resolver.running, resolver.waiting) == (0, 0)


def test_cancelled_look_up_reports_nothing(world: World) -> None:
    gate = Gate()
    results: list[object] = []
    resolver = Resolver(world.loop, getaddrinfo=gate, max_threads=1)
    running = resolver.resolve(Endpoint("dns", "first.example", 7), results.append)
    waiting = resolver.resolve(Endpoint("dns", "second.example", 7), results.append)
    running.cancel()
    waiting.cancel()
    assert resolver.waiting == 0
    gate.open.set()
    world.until(lambda: not resolver.running)
    assert results == []
    assert gate.asked == ["first.example"]


class FullLoop:
    """A loop whose queue of posts is full the first time."""

    def __init__(self) -> None:
        self.posts = 0
        self.taken = threading.Event()

    def post(self, fn: object, *args: object) -> None:
        self.posts += 1
        if self.posts == 1:
            raise QueueFullError("max_posts", 1)
        self.taken.set()


def test_result_that_the_loop_does_not_take_is_posted_again() -> None:
    loop: Any = FullLoop()
    Resolver(loop, getaddrinfo=lambda *args, **kwargs: []).resolve(NAME, lambda result: None)
    assert loop.taken.wait(5)
    assert loop.posts == 2
