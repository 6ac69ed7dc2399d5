"""The two ends of a call: requests of this node that wait, requests to this node that are open."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING, Final, final

from . import envelope, wire
from .agent import Later
from .behavior import NetworkBehavior
from .config import NodeConfig
from .errors import CallError, FrameError, QueueFullError
from .hooks import HookFailed, HookRunner
from .registry import BehaviorTable
from .route import RouteRule, check_rule
from .rpc import CallAnswer, OpenAnswers, PendingCall, PendingCalls, RpcAnswer, RpcRequest

if TYPE_CHECKING:
    from ._backend import kernels
    from .agent import BehaviorAgent

__all__ = ["CallDesk"]

#: Code of the error that calls end with when their node closes; never travels.
CLOSED_CODE: Final = -2


@final
class CallDesk:
    """RPC of one node.

    Attributes:
        received: Requests to this node.
        sent: Requests of this node.
        failed: Those that ended in an error.
        malformed: CALL frames whose envelope could not be decoded.
    """

    def __init__(
        self,
        config: NodeConfig,
        loop: kernels.Loop,
        rng: Random,
        behaviors: BehaviorTable,
        hooks: HookRunner,
    ) -> None:
        self._loop = loop
        self._rng = rng
        self._behaviors = behaviors
        self._hooks = hooks
        self._switch: kernels.Switch | None = None
        self._pending = PendingCalls(config.max_pending_calls)
        self._open = OpenAnswers(config.max_answers_open)
        self._timer: Later | None = None
        self._timer_ms = 0
        self.received = self.sent = self.failed = self.malformed = 0

    def bind(self, switch: kernels.Switch) -> None:
        """Use this switch; once, before anything else."""
        self._switch = switch

    @property
    def pending(self) -> int:
        """Calls of this node that have not ended."""
        return len(self._pending)

    @property
    def refused(self) -> int:
        """Calls not started because of ``max_pending_calls``."""
        return self._pending.refused

    @property
    def busy(self) -> int:
        """Requests answered BUSY."""
        return self._open.refused

    @property
    def late(self) -> int:
        """Answers nobody waited for."""
        return self._pending.late

    # -- the caller's side -------------------------------------------------------------------------

    def call(
        self,
        from_service: int,
        rule: RouteRule,
        service_id: int,
        payload: bytes | bytearray | memoryview,
        on_done: Callable[[CallAnswer], object],
        timeout_ms: int,
    ) -> None:
        """Send a request; ``on_done`` follows exactly once unless this raises."""
        if not callable(on_done):
            raise TypeError(f"on_done must be callable, not {type(on_done).__name__}")
        check_rule(rule)
        call_id = self._rng.getrandbits(64)
        asked = rule.argument if rule.kind == wire.ROUTE_NODE else None
        self._pending.start(self._loop.now_ms, timeout_ms, call_id, asked, on_done)
        try:
            request = envelope.encode_request(call_id, timeout_ms, payload)
            self._send(rule.kind, rule.argument, request, from_service, service_id)
        except BaseException:
            self._pending.cancel(call_id)
            raise
        self.sent += 1
        self._arm()

    def _send(self, kind: int, argument: int, data: bytes, from_service: int, to: int) -> None:
        if self._switch is not None:
            self._switch.originate(wire.KIND_CALL, kind, argument, data, from_service, to)

    def _finish(self, call: PendingCall, answer: CallAnswer | None = None) -> None:
        if answer is None or not answer.ok:
            self.failed += 1
        self._hooks.run(call.finish, answer)

    def _expire(self) -> None:
        self._timer = None
        for call in self._pending.expire(self._loop.now_ms):
            self._finish(call)
        self._arm()

    def _arm(self) -> None:
        due_ms = self._pending.next_deadline_ms()
        if self._timer is not None:
            if due_ms is not None and self._timer_ms <= due_ms:
                return  # an early wake-up costs less than a timer per call
            self._timer.cancel()
            self._timer = None
        if due_ms is not None:
            self._timer_ms = due_ms
            self._timer = self._loop.call_at(due_ms, self._expire)

    # -- the callee's side -------------------------------------------------------------------------

    def on_call(self, message: kernels.Message) -> None:
        """Take a CALL frame in: a request or an answer."""
        try:
            decoded = envelope.decode_envelope(message.payload)
        except FrameError:
            self.malformed += 1
            return
        if isinstance(decoded, envelope.Request):
            self._on_request(message, decoded)
        else:
            call = self._pending.take(decoded.call_id, message.from_node)
            if call is not None:
                self._finish(call, CallAnswer.of(decoded))

    def _on_request(self, message: kernels.Message, request: envelope.Request) -> None:
        self.received += 1
        caller = message.from_node
        if caller is None:
            self.malformed += 1
            return
        service_id, to_service = message.to_service, message.from_service

        def send(data: bytes) -> None:
            self._send(wire.ROUTE_NODE, caller, data, service_id, to_service)

        try:
            res = self._open.open(send, request.call_id, self._loop.post)
        except QueueFullError:
            self._refuse(send, request.call_id, wire.RPC_BUSY)
            return
        target = self._behaviors.find(service_id)
        if target is None:
            res.refuse(wire.RPC_SERVICE_NOT_FOUND, f"node has no service {service_id}")
            return
        req = RpcRequest(
            payload=request.payload,
            from_node=caller,
            from_service=to_service,
            to_service=service_id,
            stream_id=message.stream_id,
            deadline_ms=self._loop.now_ms + request.time_left_ms,
            sender_verified=message.sender_verified,
        )
        self._run(target, req, res)

    def _run(
        self,
        target: tuple[NetworkBehavior, BehaviorAgent],
        request: RpcRequest,
        res: RpcAnswer,
    ) -> None:
        behavior, agent = target
        try:
            handled = self._hooks.run_or_fail(behavior.on_rpc, agent, request, res)
        except HookFailed:
            res.refuse(wire.RPC_INTERNAL, "the service raised an exception")
            return
        if not handled:
            res.refuse(wire.RPC_NOT_HANDLED, f"service {request.to_service} does not handle this")

    @staticmethod
    def _refuse(send: Callable[[bytes], None], call_id: int, code: int) -> None:
        # An answer object for the moment only: it knows how to fail in silence.
        RpcAnswer(send, call_id, lambda: None).refuse(code)

    def close(self) -> None:
        """End every call of this node with an error and let go of the open requests."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for call in self._pending.fail_all(CallError(CLOSED_CODE, "the node was closed")):
            self._finish(call)
        self._open.close()
