"""What a hook keeps stays as it was sent, whatever its way's buffers are used for next."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from netcore import NetworkBehavior, Node, RouteRule
from netcore._backend import BackendName
from support.nodes import ANY, SECRET, Nodes, nodes_of

KEEPER = 30
#: Around: none, a small chunk, by reference, room of its own, a chunk, the read budget, most.
SIZES = (
    0, 1, 60, 61, 4_075, 4_076, 16_363, 16_371, 16_383, 16_384, 16_385, 32_747, 32_756, 32_768,
    32_769, 65_515, 65_516, 65_536, 131_072, 262_143, 262_144, 500_000, (1 << 20) - 100,
)  # fmt: skip
MESSAGES = 1_500
CALLS = 600


class Keeper(NetworkBehavior):
    """Keeps the payload of every message, and of every request, which it answers with it."""

    service_id = KEEPER

    def __init__(self) -> None:
        self.kept: list[bytes] = []
        self.asked: list[bytes] = []

    def on_message(self, agent: Any, message: Any) -> None:
        self.kept.append(message.payload)

    def on_rpc(self, agent: Any, req: Any, res: Any) -> bool:
        self.asked.append(req.payload)
        res.ok(req.payload)
        return True


class Story:
    """Makes payloads, most of them small, and remembers what they were."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.digests: list[bytes] = []
        self.buffer = bytearray(1 << 20)

    def make(self) -> Any:
        """Return bytes, or a buffer that is used again for the next one."""
        rng = self.rng
        size = rng.choice(SIZES) if rng.random() < 0.15 else rng.randrange(200)
        data = rng.randbytes(size)
        self.digests.append(digest(data))
        if rng.random() < 0.5:
            return data
        if rng.random() < 0.5:
            return bytearray(data)
        self.buffer[:size] = data
        return memoryview(self.buffer)[:size]

    def spoil(self, payload: Any) -> None:
        """Change what was sent, where that can be changed."""
        if not isinstance(payload, bytes):
            payload[:] = b"\xee" * len(payload)


def digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=16).digest()


@pytest.fixture
def nodes(backend: BackendName) -> Iterator[Nodes]:
    with nodes_of(backend) as made:
        yield made


def open_link(nodes: Nodes, path: Path, how: str) -> tuple[Node, Node, Keeper]:
    keeper = Keeper()
    secret = SECRET if how == "auth" else None
    one, two = (nodes.add(number, kept, secret=secret, write_high_bytes=1 << 24) for number, kept in
                ((1, Keeper()), (2, keeper)))  # fmt: skip
    nodes.join(one, two, f"/unix{path / 's'}" if how == "unix" else ANY)
    rule = RouteRule.node(2)
    nodes.until(lambda: one.router.path_to(rule, KEEPER).is_next)
    nodes.until(lambda: two.router.path_to(RouteRule.node(1), KEEPER).is_next)
    return one, two, keeper


@pytest.mark.parametrize("how", ["tcp", "unix", "auth"])
def test_payloads_kept_by_hooks_are_what_was_sent(nodes: Nodes, tmp_path: Path, how: str) -> None:
    one, _, keeper = open_link(nodes, tmp_path, how)
    story = Story(len(how))
    agent = one.agent(KEEPER)
    for _ in range(MESSAGES):
        payload = story.make()
        agent.send_to_node(2, payload)
        story.spoil(payload)
        nodes.until(lambda: one.connections[0].queued_bytes < 1_000_000)
    nodes.until(lambda: len(keeper.kept) == MESSAGES, 60)
    assert [digest(payload) for payload in keeper.kept] == story.digests


@pytest.mark.parametrize("how", ["tcp", "auth"])
def test_payloads_kept_of_calls_are_what_was_sent(nodes: Nodes, tmp_path: Path, how: str) -> None:
    one, _, keeper = open_link(nodes, tmp_path, how)
    story = Story(7 + len(how))
    answers: dict[int, bytes] = {}
    agent = one.agent(KEEPER)
    for number in range(CALLS):
        payload = story.make()
        agent.call(RouteRule.node(2), KEEPER, payload, keep_answer(answers, number), 60_000)
        story.spoil(payload)
        nodes.until(lambda: one.connections[0].queued_bytes < 1_000_000)
    nodes.until(lambda: len(answers) == CALLS, 60)
    assert [digest(payload) for payload in keeper.asked] == story.digests
    assert [digest(answers[number]) for number in range(CALLS)] == story.digests


def keep_answer(answers: dict[int, bytes], number: int) -> Callable[[Any], None]:
    def on_done(answer: Any) -> None:
        answers[number] = answer.result()

    return on_done


def test_payloads_kept_of_local_messages_are_what_was_sent(backend: BackendName) -> None:
    keeper, story = Keeper(), Story(9)
    with Node(1, [keeper], backend=backend) as node:
        for _ in range(MESSAGES):
            payload = story.make()
            node.agent(KEEPER).send_local(payload)
            story.spoil(payload)
            node.poll(0)
    assert [digest(payload) for payload in keeper.kept] == story.digests
