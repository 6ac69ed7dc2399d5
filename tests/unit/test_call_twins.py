"""The two call desks against each other, with random input."""

from __future__ import annotations

import random
from typing import Any

import pytest

from netcore import RouteRule, _backend
from netcore.errors import NodeClosedError
from support.calls import DeskRig, call_id_of, error_bytes, ok_bytes, request_bytes
from support.sinks import NODE, NODE_A, NODE_B, outcome

PAYLOADS: tuple[Any, ...] = (
    b"", b"x" * 64, bytearray(b"y"), memoryview(b"z"), bytes(17_000), bytes(70_000), "text", None,
)  # fmt: skip
NUMBERS: tuple[Any, ...] = (0, 1, 2, 255, 256, -1, True, None, 2.0, "1")
RULES: tuple[Any, ...] = (
    RouteRule.node(NODE_A), RouteRule.node(NODE_A), RouteRule.node(NODE_B), RouteRule.node(NODE),
    RouteRule.service(), RouteRule.direct(), RouteRule.closest(NODE_A), "node",
)  # fmt: skip
TIMES: tuple[Any, ...] = (1, 5, 20, 20, 20, 100, 5_000, 0, -1, 1 << 32, 1.5, None)


class Side:
    """One desk, driven by number only, and everything that can be seen of it."""

    def __init__(self, backend: _backend.BackendName, seed: int) -> None:
        self.rig = DeskRig(
            _backend.load(backend),
            rng=random.Random(seed),
            pending=20,
            answers=8,
            max_frame_bytes=65_536,
            write_high_bytes=200_000,
            write_low_bytes=1_000,
            local_queue_bytes=40_000,
        )
        self.rig.table.set_service_next(2, self.rig.conn.conn_id, NODE_A)
        self.rig.table.set_service_local(9, True)
        self.seen: list[object] = []
        self.kept: list[Any] = []
        self.ids: list[int] = [1]
        self.reaction: list[str] = ["keep"]
        for service in (2, 9):
            self.rig.desk.set_behavior(service, self.on_rpc, service)

    def on_rpc(self, agent: object, request: Any, answer: Any) -> object:
        self.seen.append(("rpc", agent, repr(request), repr(answer)))
        reaction = self.reaction.pop() if len(self.reaction) > 1 else self.reaction[0]
        if reaction == "keep":
            self.kept.append(answer)
        elif reaction == "ok":
            answer.ok(request.payload)
        elif reaction == "raise":
            raise ValueError("on_rpc")
        elif reaction == "interrupt":
            raise KeyboardInterrupt
        return reaction != "refuse"

    def on_done(self, answer: Any) -> None:
        self.seen.append(("done", answer.ok, answer.payload, repr(answer.error)))
        if answer.payload == b"raise":
            raise ValueError("on_done")

    def call(self, rule: Any, payload: Any, own: Any, to: Any, timeout_ms: Any) -> object:
        return outcome(self.rig.desk.call, own, rule, to, payload, self.on_done, timeout_ms)

    def answer(self, at: int, how: str, payload: Any, number: Any) -> object:
        if not self.kept:
            return None
        answer = self.kept.pop(at % len(self.kept))
        if how == "let go":
            return repr(answer)
        if how == "ok":
            result = outcome(answer.ok, payload)
        else:
            result = outcome(answer.error, number, "why" if payload is None else str(payload)[:300])
        if not answer.answered and number:
            self.kept.append(answer)  # another time
        return result, repr(answer)

    def feed(self, envelope: bytes, from_node: int) -> None:
        self.rig.feed(envelope, from_node=from_node)

    def look(self) -> tuple[object, ...]:
        """Return everything that can be seen since the last time."""
        sent = self.rig.sent()
        self.ids += [one.call_id for one in sent if one.envelope[0] == 1]
        self.ids += [call_id_of(answer) for answer in self.kept]
        del self.ids[:-30]
        seen, self.seen = self.seen, []
        errors = [repr(error) for error in self.rig.hooks.errors]
        return (
            seen, sent, errors, len(self.rig.hooks.held), self.rig.counts_of_calls(),
            self.rig.counts(), [repr(answer) for answer in self.kept], self.rig.loop.timers,
        )  # fmt: skip


def step(rng: random.Random, sides: list[Side]) -> tuple[object, object]:
    """Do one random thing to both and return what each said."""
    doing = rng.choices(
        ["call", "answer", "reply", "request", "forge", "noise", "wait", "react", "block"],
        [8, 6, 6, 6, 2, 2, 3, 2, 1],
    )[0]
    args: tuple[Any, ...]
    if doing == "call":
        good = rng.random() < 0.7
        args = (
            rng.choice(RULES[:4] if good else RULES),
            rng.choice(PAYLOADS[:5] if good else PAYLOADS),
            1 if good else rng.choice(NUMBERS),
            rng.choice([2, 9]) if good else rng.choice(NUMBERS),
            rng.choice(TIMES[:7] if good else TIMES),
        )
        results = [side.call(*args) for side in sides]
    elif doing == "answer":
        how = rng.choice(["ok", "ok", "error", "let go"])
        args = (rng.randrange(100), how, rng.choice(PAYLOADS), rng.choice([256, 400, *NUMBERS]))
        results = [side.answer(*args) for side in sides]
    elif doing in ("reply", "forge", "request", "noise"):
        envelope = frame_of(rng, doing, sides[0].ids)
        node = NODE_A if doing in ("reply", "noise") else rng.choice([NODE_A, NODE_B])
        results = [outcome(side.feed, envelope, node) for side in sides]
    elif doing == "wait":
        results = [None, None]
        step_ms = rng.choice([0, 1, 7, 30])
        for side in sides:
            side.rig.clock.now_ms += step_ms
    elif doing == "react":
        reaction = rng.choice(["keep", "ok", "raise", "interrupt", "refuse", "drop"])
        for side in sides:
            side.reaction.append(reaction)
        results = [None, None]
    else:
        room = rng.choice([0, 100, 1 << 30])
        for side in sides:
            side.rig.stream.room = room
            side.rig.conn.channel_writable()
        results = [None, None]
    return results[0], results[1]


def frame_of(rng: random.Random, doing: str, ids: list[int]) -> bytes:
    """Return an envelope: an answer, a request, or something like them."""
    call_id = rng.choice(ids)
    payload = rng.choice([b"", b"raise", b"x" * 64, bytes(40_000)])
    if doing == "request":
        return request_bytes(rng.getrandbits(64), payload, rng.getrandbits(32))
    if doing == "noise":
        whole = rng.choice(
            [request_bytes(1), ok_bytes(call_id), error_bytes(call_id, 400, b"\xff")]
        )
        cut = whole[: rng.randrange(len(whole) + 1)]
        return bytes([rng.randrange(5)]) + cut[1:] if rng.random() < 0.5 else cut
    code = rng.choice([1, 2, 3, 4, 5, 200, 400, 65_535])
    return rng.choice([ok_bytes(call_id, payload), error_bytes(call_id, code, payload[:64])])


@pytest.mark.parametrize("seed", range(12))
def test_desks_agree_on_random_calls(seed: int) -> None:
    try:
        _backend.load("fast")
    except ModuleNotFoundError as exc:
        pytest.skip(f"compiled kernels not built: {exc}")
    rng = random.Random(seed)
    sides = [Side("pure", seed), Side("fast", seed)]
    seen_kinds: set[object] = set()
    try:
        for _ in range(500):
            ours, theirs = step(rng, sides)
            assert ours == theirs
            views = [side.look() for side in sides]
            assert views[0] == views[1]
            seen_kinds |= {type(ours).__name__, *(event[0] for event in views[0][0])}  # type: ignore[attr-defined]
        for side in sides:
            side.rig.desk.refuse(NodeClosedError())
            side.rig.desk.close()
        assert sides[0].look() == sides[1].look()
        assert {"rpc", "done", "tuple"} <= seen_kinds
    finally:
        for side in sides:
            side.rig.close()
