"""Compiled and pure nodes in one network."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import pytest

from netcore import Node
from netcore._backend import BackendName
from support.backends import fast_is_built
from support.nodes import ANY, SECRET, Nodes, nodes_of
from support.processes import NodeProcess, Processes, processes

pytestmark = pytest.mark.skipif(not fast_is_built(), reason="compiled kernels not built")

MIXES: list[tuple[BackendName, ...]] = [
    ("pure", "fast", "pure"),
    ("fast", "pure", "fast"),
    ("pure", "pure", "fast", "fast", "pure"),
]


@pytest.fixture
def nodes() -> Iterator[Nodes]:
    with nodes_of("pure") as nodes:
        yield nodes


def chain(nodes: Nodes, mix: tuple[BackendName, ...], **options: object) -> list[Node]:
    """Return a chain of nodes with these backends."""
    made = [nodes.add(i + 1, backend=name, **options) for i, name in enumerate(mix)]
    for left, right in pairwise(made):
        nodes.join(right, left)
    last = len(made)
    nodes.until(lambda: made[0].router.path_to_node(last).is_next)
    nodes.until(lambda: made[-1].router.path_to_node(1).is_next)
    return made


@pytest.mark.parametrize("secret", [None, SECRET], ids=["open", "auth"])
@pytest.mark.parametrize("mix", MIXES, ids="-".join)
def test_mixed_chain_echoes_and_its_sums_agree(
    nodes: Nodes, mix: tuple[BackendName, ...], secret: bytes | None
) -> None:
    made = chain(nodes, mix, secret=secret)
    assert [node.stats().backend for node in made] == list(mix)
    payloads = [bytes([i]) * size for i in range(5) for size in (0, 1, 64, 4_096, 65_537, 300_000)]
    last = len(made)
    assert nodes.send_until_echoed(made[0], last, payloads) == payloads
    assert nodes.send_until_echoed(made[-1], 1, payloads) == payloads
    stats = [node.stats() for node in made]
    count = 4 * len(payloads)
    assert [each.messages_relayed for each in stats[1:-1]] == [count] * (last - 2)
    assert sum(each.messages_sent for each in stats) == count
    assert sum(each.messages_delivered for each in stats) == count


def test_mixed_processes_carry_messages_and_calls() -> None:
    with processes() as world:
        mix: list[BackendName] = ["fast", "pure", "fast"]
        one, two, three = (world.node(i + 1, name) for i, name in enumerate(mix))
        assert [each.hello["backend"] for each in (one, two, three)] == mix
        two.ask("keep", addr=one.ask("listen", addr=ANY))
        three.ask("keep", addr=two.ask("listen", addr=ANY))
        _until_routes(world, one, three)
        texts = [str(i) * (i % 50) for i in range(500)]
        one.ask("send", to=3, texts=texts)
        world.until(lambda: one.ask("back") == texts)
        three.ask("call", to=1, text="40 2")
        world.until(lambda: three.ask("back") == ["42"])


def _until_routes(world: Processes, one: NodeProcess, three: NodeProcess) -> None:
    world.until(lambda: one.ask("next_hop", to=3) == 2)
    world.until(lambda: three.ask("next_hop", to=1) == 2)
