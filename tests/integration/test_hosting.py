"""A node inside somebody else's loop, and somebody else's selector inside a node."""

from __future__ import annotations

import asyncio
import select
import selectors
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from netcore import BehaviorAgent, LocalError, NetworkBehavior, Node, RouteRule
from netcore._backend import BackendName
from support.nodes import (
    ADDER,
    ANY,
    DEADLINE_S,
    ECHO,
    SINK,
    Nodes,
    closed_port,
    linked,
    nodes_of,
)

LONG_MS = 3_600_000


@pytest.fixture
def nodes(backend: BackendName) -> Iterator[Nodes]:
    with nodes_of(backend) as nodes:
        yield nodes


# -- hosted --------------------------------------------------------------------------------------


class Ticker(NetworkBehavior):
    """Counts its ticks."""

    service_id = 70

    def __init__(self) -> None:
        self.ticks = 0

    def on_tick(self, agent: BehaviorAgent, ts_ms: int, interval_ms: int) -> None:
        self.ticks += 1


class SelectorsHost:
    """The smallest loop that can host nodes: waits on their fds, at most until their deadlines."""

    def __init__(self, nodes: list[Node]) -> None:
        self._nodes = nodes
        self._selector = selectors.DefaultSelector()
        for node in nodes:
            self._selector.register(node.fileno(), selectors.EVENT_READ, node)

    def until(self, condition: Callable[[], object]) -> None:
        end = time.monotonic() + DEADLINE_S
        while not condition():
            assert time.monotonic() < end, "it did not happen in time"
            deadlines = [node.next_deadline_ms() for node in self._nodes]
            waits = [ms for ms in deadlines if ms is not None]
            ready = self._selector.select(min(waits, default=1_000) / 1_000)
            for node in {key.data for key, _ in ready} | self._due():
                node.poll(0)

    def _due(self) -> set[Node]:
        return {node for node in self._nodes if node.next_deadline_ms() == 0}

    def close(self) -> None:
        self._selector.close()


@pytest.fixture
def hosted(nodes: Nodes) -> Iterator[tuple[Nodes, SelectorsHost]]:
    one, two = nodes.add(1, Ticker(), tick_ms=5), nodes.add(2, tick_ms=LONG_MS)
    host = SelectorsHost([one, two])
    one.connect(two.listen(ANY))
    host.until(lambda: linked(one, two))
    yield nodes, host
    host.close()


def test_nodes_hosted_by_a_selector_echo(hosted: tuple[Nodes, SelectorsHost]) -> None:
    nodes, host = hosted
    one = nodes.all[0]
    payloads = [bytes([i % 256]) * (i * 37) for i in range(200)]
    for payload in payloads:
        one.agent(SINK).send_to_node(2, payload, to_service=ECHO)
    host.until(lambda: len(nodes.sinks[one].messages) == len(payloads))
    assert nodes.sinks[one].payloads == payloads


def test_nodes_hosted_by_a_selector_call(hosted: tuple[Nodes, SelectorsHost]) -> None:
    nodes, host = hosted
    answers: list[bytes] = []
    agent = nodes.all[0].agent(SINK)
    agent.call(RouteRule.node(2), ADDER, b"40 2", lambda answer: answers.append(answer.result()))
    host.until(lambda: answers)
    assert answers == [b"42"]


def test_nodes_hosted_by_a_selector_tick(nodes: Nodes) -> None:
    ticker = Ticker()
    host = SelectorsHost([nodes.add(1, ticker, tick_ms=5)])
    host.until(lambda: ticker.ticks > 5)
    host.close()


def readable(node: Node) -> bool:
    """Say whether a host that waits on the node's fd would wake up now."""
    return bool(select.select([node.fileno()], [], [], 0)[0])


def quiet_pair(nodes: Nodes) -> tuple[Node, Node]:
    """Return two linked nodes, the first of which has nothing to do at the moment."""
    one = nodes.add(1, tick_ms=LONG_MS, ping_interval_ms=60_000, max_ping_interval_ms=60_000,
                    rtt_interval_ms=600_000)  # fmt: skip
    two = nodes.add(2, tick_ms=LONG_MS, ping_interval_ms=60_000, max_ping_interval_ms=60_000,
                    rtt_interval_ms=600_000)  # fmt: skip
    nodes.join(one, two)
    nodes.until(lambda: one.router.path_to_node(2).is_next)
    nodes.until(lambda: not readable(one) and not readable(two))
    return one, two


OUTSIDE: dict[str, Callable[[Node], object]] = {
    "send": lambda node: node.agent(SINK).send_to_node(2, b"x"),
    "send_local": lambda node: node.agent(SINK).send_local(b"x"),
    "send_to_conn": lambda node: node.agent(SINK).send_to_conn(node.connections[0].conn_id, b"x"),
    "call": lambda node: node.agent(SINK).call(RouteRule.node(2), ADDER, b"1", lambda answer: 0),
    "close_conn": lambda node: node.agent(SINK).close_conn(node.connections[0].conn_id),
    "close_node": lambda node: node.agent(SINK).close_node(2),
    "post": lambda node: node.post(lambda: None),
    "connect": lambda node: node.connect(f"3@/ip4/127.0.0.1/tcp/{closed_port()}"),
    "stop": lambda node: node.stop(),
    "call_later": lambda node: node.agent(SINK).call_later(0, lambda: None),
}


@pytest.mark.parametrize("name", OUTSIDE)
def test_what_is_asked_outside_a_hook_makes_the_fd_readable(nodes: Nodes, name: str) -> None:
    one, _ = quiet_pair(nodes)
    OUTSIDE[name](one)
    assert readable(one)
    one.poll(0)
    nodes.until(lambda: not readable(one))


def test_post_of_another_thread_makes_the_fd_readable(nodes: Nodes) -> None:
    one, _ = quiet_pair(nodes)
    done: list[int] = []
    thread = threading.Thread(target=one.post, args=(done.append, 1))
    thread.start()
    assert select.select([one.fileno()], [], [], DEADLINE_S)[0]
    thread.join()
    one.poll(0)
    assert done == [1]


def test_node_without_anything_to_do_is_not_readable(nodes: Nodes) -> None:
    one, _ = quiet_pair(nodes)
    nodes.until(lambda: one.next_deadline_ms() != 0)
    for _ in range(5):
        one.poll(0)
        assert not readable(one)


def test_deadline_before_the_first_turn_is_now(nodes: Nodes) -> None:
    one = nodes.add(1, tick_ms=LONG_MS)
    assert one.next_deadline_ms() == 0
    one.poll(0)
    assert one.next_deadline_ms() != 0


def test_deadline_is_that_of_the_next_timer(nodes: Nodes) -> None:
    one = nodes.add(1, tick_ms=LONG_MS)
    one.poll(0)
    one.agent(SINK).call_later(50, lambda: None)
    deadline = one.next_deadline_ms()
    assert deadline is not None
    assert 0 <= deadline <= 50


# -- asyncio -------------------------------------------------------------------------------------


class AsyncHost:
    """Turns a node inside asyncio."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._loop.add_reader(node.fileno(), self._turn)
        self._turn()

    def _turn(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._node.poll(0)
        deadline_ms = self._node.next_deadline_ms()
        if deadline_ms is not None:
            self._timer = self._loop.call_later(deadline_ms / 1_000, self._turn)

    def close(self) -> None:
        self._loop.remove_reader(self._node.fileno())
        if self._timer is not None:
            self._timer.cancel()


def test_nodes_hosted_by_asyncio_call_each_other(nodes: Nodes) -> None:
    async def main() -> bytes:
        one, two = nodes.add(1), nodes.add(2)
        hosts = [AsyncHost(one), AsyncHost(two)]
        one.connect(two.listen(ANY))
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

        def ask() -> None:
            if not one.router.path_to_node(2).is_next:
                one.agent(SINK).call_later(5, ask)
                return
            one.agent(SINK).call(
                RouteRule.node(2), ADDER, b"40 2", lambda a: answer.set_result(a.result())
            )

        ask()
        try:
            return await asyncio.wait_for(answer, DEADLINE_S)
        finally:
            for host in hosts:
                host.close()

    assert asyncio.run(main()) == b"42"


def test_node_hosted_by_asyncio_sends_from_a_coroutine_and_ticks(nodes: Nodes) -> None:
    """Nothing but the fd tells asyncio that something was sent outside a hook."""
    ticker = Ticker()

    async def main() -> None:
        one, two = nodes.add(1, ticker, tick_ms=5), nodes.add(2)
        hosts = [AsyncHost(one), AsyncHost(two)]
        one.connect(two.listen(ANY))
        end = time.monotonic() + DEADLINE_S
        sent = False
        while not (nodes.sinks[one].messages and ticker.ticks > 3):
            assert time.monotonic() < end
            if not sent and one.router.path_to_node(2).is_next:
                one.agent(SINK).send_to_node(2, b"hello", to_service=ECHO)
                sent = True
            await asyncio.sleep(0)
        for host in hosts:
            host.close()

    asyncio.run(main())
    assert nodes.sinks[nodes.all[0]].payloads == [b"hello"]


# -- selectors of one's own ----------------------------------------------------------------------

SELECTORS = [
    getattr(selectors, name)
    for name in ("SelectSelector", "PollSelector", "EpollSelector", "DefaultSelector")
    if hasattr(selectors, name)
]


def poll_both(one: Node, two: Node, condition: Callable[[], object]) -> None:
    """Turn two nodes of which not both have an fd."""
    end = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        one.poll(0.005)
        two.poll(0.005)


@pytest.mark.parametrize("kind", SELECTORS)
def test_node_with_a_selector_of_ones_own_works(
    nodes: Nodes, kind: type[selectors.BaseSelector]
) -> None:
    with kind() as selector, nodes_of(nodes.backend) as mine:
        one, two = mine.add(1, selector=selector), mine.add(2)
        one.connect(two.listen(ANY))
        poll_both(one, two, lambda: linked(one, two))
        poll_both(one, two, lambda: one.router.path_to_node(2).is_next)
        payloads = [bytes([i % 256]) * (i * 503) for i in range(100)]
        for payload in payloads:
            one.agent(SINK).send_to_node(2, payload, to_service=ECHO)
            poll_both(one, two, lambda: one.connections[0].queued_bytes < 100_000)
        poll_both(one, two, lambda: len(mine.sinks[one].messages) == len(payloads))
        assert mine.sinks[one].payloads == payloads
        one.post(one.stop)
        one.run()
        one.close(timeout_s=0)
        assert len(selector.get_map()) == 0


def test_node_with_a_selector_without_an_fd_says_so(backend: BackendName) -> None:
    with (
        selectors.SelectSelector() as selector,
        Node(1, backend=backend, selector=selector) as node,
        pytest.raises(LocalError, match="SelectSelector"),
    ):
        node.fileno()


def test_selector_of_ones_own_may_watch_other_things_too(backend: BackendName) -> None:
    """What belongs to somebody else neither disturbs the node nor is touched by it."""
    ours, theirs = socket.socketpair()
    with ours, theirs, selectors.DefaultSelector() as selector:
        selector.register(ours, selectors.EVENT_READ, "mine")
        theirs.send(b"x")
        with Node(1, backend=backend, selector=selector) as node:
            for _ in range(3):
                node.poll(0)
            assert node.stats().hook_errors == 0
        assert [key.data for key, _ in selector.select(0)] == ["mine"]
