"""Calls: both ends of one node, and the answer object at the callee.

Facts first:

- A call is a routed frame and its answer another one. Nothing here repeats either, so a request
  runs at most once, and an answer that got lost shows as a timeout.
- A call leaves `PendingCalls` exactly once: taken by its answer, expired, failed with all others,
  or because its request could not be sent. Whoever takes it out calls ``on_done``.
- An answer object ends exactly once: answered, let go (the caller is told DROPPED), or closed with
  its node. It does not keep the node: the desk knows the open ones, they know it weakly.
- The garbage collector runs at any allocation, of any thread, also inside of a kernel. So letting
  go of an answer object sends nothing itself; the loop is asked to, soon.
- A peer that can guess a call id can answer for another: ids are 64 random bits, drawn in blocks
  because a system call for each would cost more than the rest of a call.
"""

from __future__ import annotations

import struct
import sys
import weakref
from collections import deque
from collections.abc import Callable

from .. import wire
from .._typing import TYPE_CHECKING, Any, Final, NamedTuple, NoReturn, Protocol, final
from ..errors import (
    CallError,
    LocalError,
    MessageTooBigError,
    NodeClosedError,
    QueueFullError,
    SendQueueFullError,
)
from ..ids import check_service_id
from ..route import RouteRule, check_one, check_rule
from .callvalues import CallAnswer, RpcRequest
from .codec import Message
from .envelope import (
    Answer,
    Request,
    cut_text,
    decode_envelope,
    encode_error,
    encode_ok,
    encode_request,
    error_of,
)
from .loop import Loop, Timer
from .pending import OnDone, PendingCalls
from .switch import Payload, Switch, as_payload

if TYPE_CHECKING:
    from random import Random

__all__ = ["CallDesk", "RpcAnswer"]

_IDS: Final = struct.Struct("!512Q")
#: After these an answer was not given: it may be given again, or a smaller one instead.
_NOT_GIVEN: Final = (SendQueueFullError, QueueFullError, MessageTooBigError)


class Hooks(Protocol):
    """Who is told what user code raised."""

    def on_error(self, hook: object, exc: Exception) -> None:
        """An exception left a hook: log it, count it."""

    def hold(self, exc: BaseException) -> None:
        """KeyboardInterrupt or the like left a hook: raise it at the end of the turn."""


#: ``on_rpc`` of a behavior, bound.
OnRpc = Callable[[Any, RpcRequest, "RpcAnswer"], object]


class _Caller(NamedTuple):
    """Where an answer goes, and as what.

    Attributes:
        call_id: Of the request.
        node: That called.
        from_service: That was called, and answers.
        to_service: That called.
    """

    call_id: int
    node: int
    from_service: int
    to_service: int


_NOBODY: Final = _Caller(0, 0, 0, 0)


@final
class RpcAnswer:
    """The one answer to a call: ``ok`` or ``error``, once, now or later, on the node's thread.

    Let go without either, the caller is told DROPPED. When the answer cannot be sent because a
    queue is full, or because it is too big, it counts as not given and another try may follow;
    after any other error nothing more can be done and it counts as given. The time left is not
    looked at: a late answer is sent, and ignored by the caller.

    Only a node makes one that is open.
    """

    __slots__ = ("__weakref__", "_answered", "_caller", "_desk", "_number")

    def __init__(self) -> None:
        self._answered = False
        self._caller = _NOBODY
        self._desk: weakref.ref[CallDesk] | None = None  # None: nothing more can be sent
        self._number = 0

    def __repr__(self) -> str:
        state = "answered" if self._answered else "closed" if self._desk is None else "open"
        return f"<RpcAnswer {self._caller.call_id:#x} {state}>"

    def __reduce__(self) -> NoReturn:
        # A copy would answer a second time.
        raise TypeError("an RpcAnswer can neither be copied nor pickled")

    @property
    def answered(self) -> bool:
        """Whether the answer was given."""
        return self._answered

    def ok(self, payload: Payload = b"") -> None:
        """Answer.

        Raises:
            LocalError: It was answered already.
            NodeClosedError: The node was closed.
            SendQueueFullError, QueueFullError: Try again later.
            MessageTooBigError: Give a smaller answer, or an ``error``.
            NoRouteError: The caller cannot be reached any more.
        """
        self._give(encode_ok(self._caller.call_id, as_payload(payload)))

    def error(self, code: int, text: str = "") -> None:
        """Answer with an error; raises what ``ok`` raises.

        Args:
            code: The application's own, 256..65535; arrives as ``CallError.code``.
            text: At most 200 bytes of its UTF-8 travel.

        Raises:
            ValueError: ``code`` is out of range; below 256 are netcore's own.
        """
        lowest, highest = wire.RPC_FIRST_APPLICATION_CODE, wire.MAX_RPC_CODE
        if not isinstance(code, int) or not lowest <= code <= highest:
            raise ValueError(
                f"an error code is {lowest}..{highest} (lower ones are netcore's own), not {code!r}"
            )
        self._give(encode_error(self._caller.call_id, code, cut_text(text)))

    def _give(self, data: bytes) -> None:
        if self._answered:
            raise LocalError("already answered")
        desk = None if self._desk is None else self._desk()
        if desk is None:
            raise NodeClosedError
        # Answered from here on: whatever runs inside of send() must not answer a second time.
        self._answered = True
        try:
            desk._send_back(self._caller, data)
        except _NOT_GIVEN:
            self._answered = False
            raise
        except BaseException:
            desk._end(self)
            raise
        desk._end(self)

    def __del__(self, _is_finalizing: Callable[[], bool] = sys.is_finalizing) -> None:
        known = getattr(self, "_desk", None)  # __init__ may have failed
        desk = None if known is None else known()
        if desk is not None and not _is_finalizing():
            desk._let_go(self)


@final
class CallDesk:
    """RPC of one node.

    Args:
        loop: Of the node.
        rng: Call ids come from here.
        hooks: Who is told what user code raised.
        max_pending_calls: Calls of this node at a time.
        max_answers_open: Answer objects at a time.
    """

    def __init__(
        self, loop: Loop, rng: Random, hooks: Hooks, max_pending_calls: int, max_answers_open: int
    ) -> None:
        self._loop = loop
        self._rng = rng
        self._hooks = hooks
        self._max_pending = max_pending_calls
        self._max_open = max_answers_open
        self._switch: Switch | None = None
        self._closed: NodeClosedError | None = NodeClosedError()  # until there is a switch
        self._behaviors: list[tuple[OnRpc, object] | None] = [None] * wire.SERVICES
        self._pending = PendingCalls()
        self._ids: list[int] = []
        self._timer: Timer | None = None
        self._timer_ms = 0
        # One for all answers, held here: the collector clears a weak reference that goes together
        # with its answer before it calls __del__.
        self._self = weakref.ref(self)
        self._open: dict[int, weakref.ref[RpcAnswer]] = {}
        self._numbers = 0
        self._dropped: deque[tuple[int, _Caller]] = deque()
        self._drop_posted = False
        #: Requests to this node.
        self.received = 0
        #: Requests of this node.
        self.sent = 0
        #: Those that ended in an error.
        self.failed = 0
        #: CALL frames that made no sense.
        self.malformed = 0
        #: Answers nobody waited for: too late, made up, or from another node than the one asked.
        self.late = 0
        #: Calls not started because of ``max_pending_calls``.
        self.refused = 0
        #: Requests answered BUSY because of ``max_answers_open``.
        self.busy = 0

    def bind(self, switch: Switch) -> None:
        """Use this switch, and be its desk; once, before anything else."""
        self._switch = switch
        self._closed = None
        switch._calls = self

    def set_behavior(self, service_id: int, hook: OnRpc | None, agent: object = None) -> None:
        """Give requests for a service to ``hook(agent, request, answer)``; None ends that."""
        self._behaviors[check_service_id(service_id)] = None if hook is None else (hook, agent)

    @property
    def pending(self) -> int:
        """Calls of this node that have not ended."""
        return len(self._pending)

    @property
    def open(self) -> int:
        """Answer objects that have not ended."""
        return len(self._open)

    # -- the caller's side -------------------------------------------------------------------------

    def call(
        self,
        from_service: int,
        rule: RouteRule,
        service_id: int,
        payload: Payload,
        on_done: OnDone,
        timeout_ms: int,
    ) -> None:
        """Send a request; ``on_done`` follows exactly once unless this raises.

        Args:
            from_service: In whose name.
            rule: Which node.
            service_id: Whose ``on_rpc`` there.
            payload: Bytes-like.
            on_done: Is given a ``CallAnswer``.
            timeout_ms: 1..2**32 - 1.

        Raises:
            QueueFullError: ``max_pending_calls`` wait already, or ``Switch.originate`` says so.
            NodeClosedError: No more calls are taken.
            LocalError: ``timeout_ms`` is out of range, or what ``Switch.originate`` raises.
        """
        if self._closed is not None or self._switch is None:
            raise self._closed_error()
        if not callable(on_done):
            raise TypeError(f"on_done must be callable, not {type(on_done).__name__}")
        check_rule(rule)
        if type(timeout_ms) is not int or not 0 < timeout_ms <= wire.MAX_U32:
            raise LocalError(f"timeout_ms must be an int in 1..{wire.MAX_U32}, not {timeout_ms!r}")
        if len(self._pending) >= self._max_pending:
            self.refused += 1
            raise QueueFullError("max_pending_calls", self._max_pending)
        call_id = self._draw_id()
        if not self._loop.in_turn:
            self._loop.update_now()  # the last turn may be long ago
        deadline_ms = self._loop.now_ms + timeout_ms
        asked = rule.argument if rule.kind == wire.ROUTE_NODE else None
        self._pending.add(call_id, deadline_ms, timeout_ms, asked, on_done)
        try:
            check_one(rule)
            request = encode_request(call_id, timeout_ms, as_payload(payload))
            self._switch.originate(
                wire.KIND_CALL, rule.kind, rule.argument, request, from_service, service_id
            )
        except BaseException as exc:
            if call_id in self._pending:
                self._pending.remove(call_id)
            elif isinstance(exc, Exception):
                return  # what ran inside closed the desk, which told on_done
            raise
        self.sent += 1
        if self._pending:
            self._arm(deadline_ms)

    def _closed_error(self) -> NodeClosedError:
        # Without the traceback of the last time, else it grows with every call.
        return (self._closed or NodeClosedError()).with_traceback(None)

    def _draw_id(self) -> int:
        if not self._ids:
            self._ids = [*reversed(_IDS.unpack(self._rng.randbytes(_IDS.size)))]
        return self._ids.pop()

    def _finish(self, on_done: OnDone, answer: CallAnswer) -> None:
        if not answer.ok:
            self.failed += 1
        self._loop.enter_hook(on_done)
        try:
            on_done(answer)
        except Exception as exc:
            self._hooks.on_error(on_done, exc)
        except BaseException as exc:
            self._hooks.hold(exc)
        self._loop.leave_hook()

    def _expire(self) -> None:
        self._timer = None
        while (call := self._pending.take_due(self._loop.now_ms)) is not None:
            text = f"no answer within {call.timeout_ms} ms"
            error = error_of(wire.RPC_LOCAL_TIMEOUT, text)
            self._finish(call.on_done, CallAnswer(ok=False, error=error))
        due_ms = self._pending.next_deadline_ms()
        if due_ms is not None:
            self._arm(due_ms)

    def _arm(self, due_ms: int) -> None:
        if self._timer is not None:
            if self._timer_ms <= due_ms:
                return  # an early wake-up costs less than a timer per call
            self._timer.cancel()
        self._timer_ms = due_ms
        self._timer = self._loop.call_at(due_ms, self._expire)

    # -- the callee's side -------------------------------------------------------------------------

    def on_call(self, message: Message) -> None:
        """Take a CALL frame in: a request or an answer."""
        decoded = decode_envelope(message.payload)
        if decoded is None:
            self.malformed += 1
        elif isinstance(decoded, Request):
            self._on_request(message, decoded)
        else:
            self._on_answer(message.from_node, decoded)

    def _on_answer(self, from_node: int | None, answer: Answer) -> None:
        call = self._pending.take(answer.call_id, from_node)
        if call is None:
            self.late += 1
        elif answer.code == 0:
            self._finish(call.on_done, CallAnswer(ok=True, payload=answer.payload))
        else:
            error = error_of(answer.code, answer.text)
            self._finish(call.on_done, CallAnswer(ok=False, error=error))

    def _on_request(self, message: Message, request: Request) -> None:
        self.received += 1
        node = message.from_node
        if node is None:
            self.malformed += 1
            return
        service_id = message.to_service
        caller = _Caller(request.call_id, node, service_id, message.from_service)
        if len(self._open) >= self._max_open:
            self.busy += 1
            self._refuse(caller, wire.RPC_BUSY)
            return
        target = self._behaviors[service_id]
        if target is None:
            self._refuse(caller, wire.RPC_SERVICE_NOT_FOUND, f"node has no service {service_id}")
            return
        req = RpcRequest(
            payload=request.payload,
            from_node=node,
            from_service=message.from_service,
            to_service=service_id,
            stream_id=message.stream_id,
            deadline_ms=self._loop.now_ms + request.time_left_ms,
            sender_verified=message.sender_verified,
        )
        self._run(target, req, self._new_answer(caller))

    def _run(self, target: tuple[OnRpc, object], request: RpcRequest, answer: RpcAnswer) -> None:
        hook, agent = target
        code, text = wire.RPC_INTERNAL, "the service raised an exception"
        self._loop.enter_hook(hook)
        try:
            if hook(agent, request, answer):
                return
            text = f"service {request.to_service} does not handle this"
            code = wire.RPC_NOT_HANDLED
        except Exception as exc:
            self._hooks.on_error(hook, exc)
        except BaseException as exc:
            self._hooks.hold(exc)
        finally:
            self._loop.leave_hook()
        if answer._desk is not None:
            answer._answered = True
            self._end(answer)
            self._refuse(answer._caller, code, text)

    # -- answer objects ----------------------------------------------------------------------------

    def _new_answer(self, caller: _Caller) -> RpcAnswer:
        answer = RpcAnswer()
        self._numbers += 1
        answer._number = self._numbers
        answer._caller = caller
        answer._desk = self._self
        self._open[self._numbers] = weakref.ref(answer)
        return answer

    def _send_back(self, caller: _Caller, data: bytes) -> None:
        if self._switch is not None:
            self._switch.originate(
                wire.KIND_CALL, wire.ROUTE_NODE, caller.node, data, caller.from_service,
                caller.to_service,
            )  # fmt: skip

    def _refuse(self, caller: _Caller, code: int, text: str = "") -> None:
        """Answer with one of netcore's own codes; when that fails, the caller's timeout tells."""
        try:
            self._send_back(caller, encode_error(caller.call_id, code, cut_text(text)))
        except Exception:
            return

    def _end(self, answer: RpcAnswer) -> None:
        answer._desk = None
        self._open.pop(answer._number, None)

    def _let_go(self, answer: RpcAnswer) -> None:
        """Tell the caller soon; on any thread, at any moment. It stays counted until then."""
        self._dropped.append((answer._number, answer._caller))
        if self._drop_posted:
            return
        self._drop_posted = True
        try:
            self._loop.post(self._send_dropped)
        except Exception:  # the loop takes nothing more
            self._drop_posted = False
            self._forget_dropped()

    def _send_dropped(self) -> None:
        self._drop_posted = False  # first: whoever finds it set is before the end of the queue
        while self._dropped:
            number, caller = self._dropped.popleft()
            self._open.pop(number, None)
            self._refuse(caller, wire.RPC_DROPPED)

    def _forget_dropped(self) -> None:
        while self._dropped:
            self._open.pop(self._dropped.popleft()[0], None)

    # -- the end -----------------------------------------------------------------------------------

    def refuse(self, error: NodeClosedError) -> None:
        """Raise ``error`` from every call from now on."""
        self._closed = error

    def close(self) -> None:
        """End every call of this node with an error and let go of the open requests."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for call in self._pending.take_all():
            error = CallError(wire.RPC_LOCAL_CLOSED, "the node was closed")
            self._finish(call.on_done, CallAnswer(ok=False, error=error))
        for ref in list(self._open.values()):
            if (answer := ref()) is not None:
                self._end(answer)
        self._open.clear()
        self._dropped.clear()
