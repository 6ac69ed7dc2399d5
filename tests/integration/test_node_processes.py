"""Nodes in real processes: chains, sudden deaths, restarts."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from itertools import pairwise

import pytest

from netcore._backend import BackendName
from support.nodes import ANY
from support.processes import NodeProcess, Processes, processes


@pytest.fixture
def world() -> Iterator[Processes]:
    with processes() as world:
        yield world


def link(one: NodeProcess, addr: str) -> None:
    """Let a process keep a link to an address."""
    one.ask("keep", addr=addr)


def until_route(world: Processes, one: NodeProcess, to: int, over: int | None = None) -> None:
    """Wait until a process knows a way, over a certain neighbour if that is told."""
    if over is None:
        world.until(lambda: one.ask("next_hop", to=to) is not None)
    else:
        world.until(lambda: one.ask("next_hop", to=to) == over)


def echo(world: Processes, one: NodeProcess, to: int, count: int = 100) -> None:
    """Send messages to a node's Echo and wait until all are back, in order."""
    texts = [f"{to}/{i}" for i in range(count)]
    one.ask("forget")
    one.ask("send", to=to, texts=texts)
    world.until(lambda: one.ask("back") == texts)


def call(world: Processes, one: NodeProcess, to: int) -> None:
    """Let a node add."""
    one.ask("forget")
    one.ask("call", to=to, text="1 2 3 36")
    world.until(lambda: one.ask("back"))
    assert one.ask("back") == ["42"]


def test_six_processes_in_a_chain_carry_messages_and_calls(
    world: Processes, backend: BackendName
) -> None:
    chain = [world.node(node_id, backend) for node_id in range(1, 7)]
    assert [node.hello["backend"] for node in chain] == [backend] * 6
    for left, right in pairwise(chain):
        link(right, left.ask("listen", addr=ANY))
    until_route(world, chain[0], 6)
    until_route(world, chain[-1], 1)
    echo(world, chain[0], 6)
    echo(world, chain[-1], 1)
    call(world, chain[0], 6)
    stats = [node.ask("stats") for node in chain]
    assert [each["messages_relayed"] for each in stats[1:-1]] == [402] * 4
    sent = sum(each["messages_sent"] for each in stats)
    assert sent == sum(each["messages_delivered"] for each in stats) == 402


def diamond(world: Processes, backend: BackendName) -> tuple[dict[int, NodeProcess], list[str]]:
    """Return nodes 1 and 4, linked over 2 and over 3, and where 1 and 4 listen."""
    nodes = {node_id: world.node(node_id, backend) for node_id in (1, 2, 3, 4)}
    ends = [nodes[1].ask("listen", addr=ANY), nodes[4].ask("listen", addr=ANY)]
    for relay in (nodes[2], nodes[3]):
        for addr in ends:
            link(relay, addr)
    world.until(lambda: nodes[1].ask("links") == nodes[4].ask("links") == [2, 3])
    until_route(world, nodes[1], 4)
    until_route(world, nodes[4], 1)
    return nodes, ends


def test_routes_move_when_a_relay_is_killed_and_return_when_it_does(
    world: Processes, backend: BackendName
) -> None:
    nodes, ends = diamond(world, backend)
    echo(world, nodes[1], 4)
    victim = nodes[1].ask("next_hop", to=4)
    other = 5 - victim
    nodes[victim].kill()
    until_route(world, nodes[1], 4, over=other)
    until_route(world, nodes[4], 1, over=other)
    echo(world, nodes[1], 4)

    nodes[victim] = again = world.node(victim, backend)
    for addr in ends:
        link(again, addr)
    world.until(lambda: nodes[1].ask("links") == nodes[4].ask("links") == [2, 3])
    until_route(world, nodes[1], victim, over=victim)
    until_route(world, again, 4, over=4)
    nodes[other].kill()
    until_route(world, nodes[1], 4, over=victim)
    until_route(world, nodes[4], 1, over=victim)
    echo(world, nodes[1], 4)
    call(world, nodes[4], 1)


def test_node_restarted_under_its_id_is_dialled_and_reached_again(
    world: Processes, backend: BackendName
) -> None:
    one, two, three = (world.node(node_id, backend) for node_id in (1, 2, 3))
    link(one, two.ask("listen", addr=ANY))
    addr = three.ask("listen", addr=ANY)
    link(two, addr)
    until_route(world, one, 3)
    until_route(world, three, 1)
    echo(world, one, 3)
    three.kill()
    world.until(lambda: one.ask("next_hop", to=3) is None)
    three = world.node(3, backend)
    assert three.ask("listen", addr=addr) == addr
    until_route(world, one, 3)
    until_route(world, three, 1)
    echo(world, one, 3)
    call(world, three, 1)


def test_node_that_ends_politely_takes_its_routes_with_it(
    world: Processes, backend: BackendName
) -> None:
    one, two, three = (world.node(node_id, backend) for node_id in (1, 2, 3))
    link(one, two.ask("listen", addr=ANY))
    link(two, three.ask("listen", addr=ANY))
    until_route(world, one, 3)
    three.signal(signal.SIGTERM)
    assert three.wait() == 0
    world.until(lambda: one.ask("next_hop", to=3) is None)
    assert two.ask("links") == [1]


def test_process_that_is_stopped_and_continued_keeps_its_link(
    world: Processes, backend: BackendName
) -> None:
    one, two = world.node(1, backend), world.node(2, backend)
    link(one, two.ask("listen", addr=ANY))
    until_route(world, one, 2)
    two.signal(signal.SIGSTOP)
    try:
        world.until(lambda: one.ask("stats")["suspects"] == 1)
        assert one.ask("links") == [2]
        assert one.ask("next_hop", to=2) == 2  # there is no other
    finally:
        two.signal(signal.SIGCONT)
    until_route(world, one, 2)
    until_route(world, two, 1)
    echo(world, one, 2)
    assert one.ask("stats")["links_opened"] == 1
