"""Links that are silent for a while: nothing is lost over them, and nothing else is as bad."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from netcore import NetworkBehavior, RouteRule
from netcore._backend import BackendName
from netcore.sim import Network

SERVICE = 10
SILENCE_MS = 2_000


class Sink(NetworkBehavior):
    """Keeps what it gets, and answers."""

    service_id = SERVICE

    def __init__(self) -> None:
        self.got: list[int] = []

    def on_message(self, agent: Any, message: Any) -> None:
        self.got.append(int(message.payload))

    def on_rpc(self, agent: Any, req: Any, res: Any) -> bool:
        res.ok(req.payload)
        return True


@pytest.fixture
def net(backend: BackendName) -> Iterator[Network]:
    with Network(seed=7, backend=backend) as made:
        yield made


def linked(net: Network, *links: tuple[int, int]) -> None:
    """Make nodes and links, and wait until all is settled."""
    for node in sorted({node for link in links for node in link}):
        net.add_node(node, [Sink])
    for a, b in links:
        net.link(a, b, latency_ms=5)
    net.settle()


def is_suspect(net: Network, a: int, b: int) -> bool:
    return any(c.suspect for c in net[a].connections if c.remote_node_id == b)


def suspected(net: Network, a: int, b: int) -> None:
    """Let one link fall silent in both directions, until both ends suspect it."""
    net.cut(a, b)
    net.run_until(lambda: is_suspect(net, a, b) and is_suspect(net, b, a), 2_000)


def test_messages_over_a_suspect_link_without_any_other_way_arrive(net: Network) -> None:
    linked(net, (1, 2), (2, 3))
    suspected(net, 2, 3)
    net.run(200)  # everybody has been told
    for number in range(40):
        for source in (1, 2):  # relayed ones, and the relay's own
            net[source].agent(SERVICE).send_to_node(3, b"%d" % (2 * number + source))
        net[3].agent(SERVICE).send_to_node(1, b"%d" % number)
        net.run(SILENCE_MS // 40)
    assert is_suspect(net, 2, 3)
    net.heal(2, 3)
    assert net.call(1, RouteRule.node(3), SERVICE, b"still there") == b"still there"
    net.settle()
    assert sorted(net.behavior(3, Sink).got) == list(range(1, 81))
    assert net.behavior(1, Sink).got == list(range(40))
    assert (net.total("dropped"), net.total("links_closed")) == (0, 0)
    assert net.total("suspects") == 2


def test_traffic_leaves_a_suspect_link_in_the_same_turn(net: Network) -> None:
    linked(net, (1, 2), (2, 4), (1, 3), (3, 4))
    net.cut(2, 4)
    net.run_until(lambda: is_suspect(net, 2, 4), 2_000)
    assert net[2].router.path_to_node(4).node_id == 1  # no time has passed since
    net.run(50)
    assert net[1].router.path_to_node(4).node_id == 3
    for number in range(40):
        for source in (1, 2, 3):
            net[source].agent(SERVICE).send_to_node(4, b"%d" % (3 * number + source))
        net.run(SILENCE_MS // 40)
    # All of them have come round while the link was silent.
    assert is_suspect(net, 2, 4)
    assert sorted(net.behavior(4, Sink).got) == list(range(1, 121))
    net.heal(2, 4)
    net.settle()
    assert net[2].router.path_to_node(4).node_id == 4
    assert (net.total("dropped"), net.total("links_closed")) == (0, 0)


def test_silence_that_ends_the_link_ends_the_last_resort_everywhere(net: Network) -> None:
    linked(net, (1, 2), (2, 3))
    suspected(net, 2, 3)
    net.run(200)
    assert net[1].router.path_to_node(3).is_next
    net.run_until(lambda: net.total("links_closed") == 2, 20_000)
    net.run(50)
    assert net[1].router.path_to_node(3).is_reject
    assert net[2].router.path_to_node(3).is_reject


def test_node_that_dies_behind_a_suspect_link_is_gone_with_the_word_of_others(
    net: Network,
) -> None:
    linked(net, (1, 2), (2, 4), (4, 3), (4, 1))
    suspected(net, 1, 2)
    net.kill(3)
    net.run(1_000)
    assert is_suspect(net, 1, 2)
    assert net[1].router.path_to_node(3).is_reject
    assert net[2].router.path_to_node(3).is_reject
