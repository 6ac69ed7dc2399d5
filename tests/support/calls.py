"""A call desk of one backend over a switch, with a neighbour that is a channel."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable
from types import ModuleType
from typing import Any, NamedTuple

from netcore import RouteRule, wire
from support.sinks import CONN_A, NODE, NODE_A, Rig, to_node

#: The service that calls, and the one that is called.
CALLER = 1
CALLEE = 2


# -- envelopes, as docs/protocol.md has them -------------------------------------------------------


def request_bytes(call_id: int, payload: bytes = b"", left_ms: int = 5_000) -> bytes:
    """Return the envelope of a request."""
    return struct.pack(">BQI", 1, call_id, left_ms) + payload


def ok_bytes(call_id: int, payload: bytes = b"") -> bytes:
    """Return the envelope of an answer."""
    return struct.pack(">BQ", 2, call_id) + payload


def error_bytes(call_id: int, code: int, text: bytes = b"") -> bytes:
    """Return the envelope of an error."""
    return struct.pack(">BQH", 3, call_id, code) + text


def call_id_of(answer: Any) -> int:
    """Return the call id of an answer object, which only its repr tells."""
    return int(repr(answer).split()[1], 16)


class Sent(NamedTuple):
    """A CALL frame that left."""

    route: RouteRule
    from_service: int
    to_service: int
    envelope: bytes

    @property
    def call_id(self) -> int:
        """The id in its envelope."""
        return int.from_bytes(self.envelope[1:9], "big")

    @property
    def code(self) -> int:
        """The code of an error, 0 of an answer."""
        return int.from_bytes(self.envelope[9:11], "big") if self.envelope[0] == 3 else 0

    @property
    def text(self) -> str:
        """The text of an error."""
        assert self.envelope[0] == wire.RPC_ERROR
        return self.envelope[11:].decode()


class RecordingHooks:
    """Writes down what user code raised."""

    def __init__(self) -> None:
        self.errors: list[Exception] = []
        self.held: list[BaseException] = []

    def on_error(self, hook: object, exc: Exception) -> None:
        self.errors.append(exc)

    def hold(self, exc: BaseException) -> None:
        self.held.append(exc)


class DeskRig(Rig):
    """A desk that calls service 2 of node A, and answers for service 2."""

    def __init__(
        self,
        kernels: ModuleType,
        *,
        rng: Any = None,
        router: object = None,
        pending: int = 10,
        answers: int = 10,
        **limits: int,
    ) -> None:
        super().__init__(kernels, router, **limits)
        self.hooks = RecordingHooks()
        self.desk = kernels.CallDesk(
            self.loop, random.Random(1) if rng is None else rng, self.hooks, pending, answers
        )
        self.desk.bind(self.switch)
        self.sink.on_call = lambda conn, message: self.desk.on_call(message)  # type: ignore[method-assign]
        self.conn, self.stream = self.channel()
        self.done: list[Any] = []
        self.requests: list[Any] = []
        self.kept: list[Any] = []

    def __enter__(self) -> DeskRig:
        return self

    # -- as the caller -----------------------------------------------------------------------------

    def call(
        self,
        payload: Any = b"",
        *,
        rule: RouteRule | None = None,
        on_done: Callable[[Any], object] | None = None,
        timeout_ms: Any = 50,
        from_service: Any = CALLER,
        to_service: Any = CALLEE,
    ) -> None:
        """Call service 2 of node A; what comes of it is added to ``done``."""
        rule = RouteRule.node(NODE_A) if rule is None else rule
        on_done = self.done.append if on_done is None else on_done
        self.desk.call(from_service, rule, to_service, payload, on_done, timeout_ms)

    def begin(self, **how: Any) -> int:
        """Call, and return the call id on the wire."""
        self.call(**how)
        return self.sent()[-1].call_id

    # -- as the callee -----------------------------------------------------------------------------

    def serve(self, on_rpc: Callable[[Any, Any, Any], object]) -> None:
        """Let a function answer for service 2."""
        self.desk.set_behavior(CALLEE, on_rpc, "agent")

    def keep(self) -> None:
        """Keep every answer object for later."""

        def on_rpc(agent: Any, request: Any, answer: Any) -> bool:
            self.requests.append(request)
            self.kept.append(answer)
            return True

        self.serve(on_rpc)

    def asked(self, call_id: int = 1, payload: bytes = b"") -> Any:
        """Take a request in, and return its answer object; nobody else has it."""
        self.keep()
        self.feed(request_bytes(call_id, payload))
        return self.kept.pop()

    # -- the wire ----------------------------------------------------------------------------------

    def feed(self, envelope: bytes, *, from_node: int = NODE_A, node: int = NODE) -> None:
        """Take a CALL frame in, as the neighbour brings it."""
        self.conn.receive_data(to_node(node, envelope, from_node=from_node, kind=wire.KIND_CALL))

    def sent(self) -> list[Sent]:
        """Return the CALL frames that left since this was asked last."""
        self.turn()
        data, found = self.stream.taken, []
        while len(data) >= 4 and len(data) >= 4 + int.from_bytes(data[1:4], "big"):
            kind, size = data[0], int.from_bytes(data[1:4], "big")
            body = bytes(data[4 : 4 + size])
            del data[: 4 + size]
            if kind == wire.KIND_CALL:
                assert body[0] & 0xE7 == 0x20  # with the sender's id
                assert int.from_bytes(body[8:12], "big") == NODE
                route = RouteRule(body[0] >> 3 & 3, int.from_bytes(body[12:16], "big"))
                found.append(Sent(route, body[2], body[3], body[16:]))
        return found

    def counts_of_calls(self) -> tuple[int, ...]:
        """Return all counters of the desk."""
        desk = self.desk
        return (
            desk.received, desk.sent, desk.failed, desk.malformed, desk.late, desk.refused,
            desk.busy, desk.pending, desk.open,
        )  # fmt: skip


__all__ = ["CONN_A", "NODE_A", "DeskRig", "RecordingHooks", "Sent"]
