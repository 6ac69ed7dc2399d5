"""Calls: the caller's table of those that wait, the callee's answer object.

Facts first:

- A call is a routed frame and its answer another one. Nothing here repeats either, so a request
  runs at most once, and an answer that got lost shows as a timeout.
- An entry of `PendingCalls` leaves the table exactly once: taken by its answer, expired, failed
  with all others, or cancelled. Whoever takes it out calls its ``finish``.
- An `RpcAnswer` ends exactly once: answered, let go (the caller is told DROPPED), or closed with
  its node. "Let go" is seen by ``__del__`` and not by ``weakref.finalize``: the registry of the
  latter would hold ``send``, through it the node, and through a behavior that keeps its answer
  objects these again, so that such a cycle would never be collected.
- The garbage collector runs at any allocation, of any thread, also inside of a kernel. So
  ``__del__`` sends nothing itself when it was given a ``defer``.
"""

from __future__ import annotations

import heapq
import sys
import weakref
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Final, NoReturn, final

from . import wire
from .envelope import (
    MAX_CODE,
    Answer,
    BytesLike,
    encode_error,
    encode_ok,
    error_of,
)
from .errors import (
    CallError,
    LocalError,
    MessageTooBigError,
    NodeClosedError,
    QueueFullError,
    SendQueueFullError,
)

__all__ = [
    "CallAnswer",
    "OpenAnswers",
    "PendingCall",
    "PendingCalls",
    "RpcAnswer",
    "RpcRequest",
]

#: A heap with this many more items than twice the live ones is rebuilt (cheap, and rare).
_HEAP_SLACK: Final = 64


# -- the caller's side ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class CallAnswer:
    """What ``on_done`` is given.

    Attributes:
        ok: Whether the other side answered.
        payload: Its answer; empty when there is none.
        error: Why there is none, else None.
    """

    ok: bool
    payload: bytes = b""
    error: CallError | None = None

    @classmethod
    def of(cls, answer: Answer) -> CallAnswer:
        """Return what an answer from the wire means to the caller."""
        if answer.code == 0:
            return cls(ok=True, payload=answer.payload)
        return cls.failed(error_of(answer.code, answer.text))

    @classmethod
    def failed(cls, error: CallError) -> CallAnswer:
        """Return the answer of a call that ended in ``error``."""
        return cls(ok=False, error=error)

    def result(self) -> bytes:
        """Return the payload.

        Raises:
            CallError: There is none; this says why.
        """
        if self.error is not None:
            raise self.error
        return self.payload


OnDone = Callable[[CallAnswer], object]


@final
class PendingCall:
    """One call that has not ended.

    Attributes:
        call_id: Its id on the wire.
        expected_node: The node that was asked; None: whoever answers.
        timeout_ms: What it was given.
        deadline_ms: When it expires.
        number: How many calls were started up to it.
    """

    __slots__ = (
        "_error",
        "_on_done",
        "call_id",
        "deadline_ms",
        "expected_node",
        "number",
        "timeout_ms",
    )

    def __init__(
        self,
        number: int,
        call_id: int,
        expected_node: int | None,
        now_ms: int,
        timeout_ms: int,
        on_done: OnDone,
    ) -> None:
        self.number = number
        self.call_id = call_id
        self.expected_node = expected_node
        self.timeout_ms = timeout_ms
        self.deadline_ms = now_ms + timeout_ms
        self._error: CallError | None = None
        self._on_done: OnDone | None = on_done

    @property
    def error(self) -> CallError:
        """Why no answer came: a timeout, unless ``fail_all`` said something else."""
        if self._error is None:
            text = f"no answer within {self.timeout_ms} ms"
            self._error = error_of(wire.RPC_LOCAL_TIMEOUT, text)
        return self._error

    @error.setter
    def error(self, error: CallError) -> None:
        self._error = error

    def finish(self, answer: CallAnswer | None = None) -> None:
        """Hand the answer to ``on_done``, by default that there is none because of ``error``.

        What ``on_done`` raises comes out; the call is finished nevertheless.

        Raises:
            LocalError: It was finished before; ``on_done`` is not called again.
        """
        on_done, self._on_done = self._on_done, None
        if on_done is None:
            raise LocalError(f"call {self.call_id:#x} is finished already")
        on_done(CallAnswer.failed(self.error) if answer is None else answer)


@final
class PendingCalls:
    """The calls of a node that wait for their answer, at most ``limit``.

    Every operation is O(log n), amortized; the order of what expires depends on the arguments only.

    Attributes:
        limit: How many at a time.
        late: Answers nobody waited for: too late, made up, or from another node than the one asked.
        refused: Calls not started because of the limit.
    """

    # The heap holds numbers, not entries: what a finished call refers to is free at once, although
    # its heap item goes only when it comes up, or when the heap is rebuilt.

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.late = 0
        self.refused = 0
        self._entries: dict[int, PendingCall] = {}
        self._heap: list[tuple[int, int, int]] = []  # deadline, number, call id
        self._numbers = 0

    def __len__(self) -> int:
        return len(self._entries)

    def start(
        self,
        now_ms: int,
        timeout_ms: int,
        call_id: int,
        expected_node: int | None,
        on_done: OnDone,
    ) -> PendingCall:
        """Begin to wait for an answer; when the request then cannot be sent, ``cancel``.

        Args:
            now_ms: The time.
            timeout_ms: 1..2**32 - 1.
            call_id: Random, 64 bits.
            expected_node: The node asked; None when any node may answer.
            on_done: Called by ``PendingCall.finish``.

        Raises:
            QueueFullError: ``limit`` calls wait already; nothing was started.
            LocalError: ``timeout_ms`` is out of range, or ``call_id`` in use.
        """
        if type(timeout_ms) is not int or not 0 < timeout_ms <= wire.MAX_U32:
            raise LocalError(f"timeout_ms must be an int in 1..{wire.MAX_U32}, not {timeout_ms!r}")
        if call_id in self._entries:
            raise LocalError(f"call id {call_id:#x} is in use")
        if len(self._entries) >= self.limit:
            self.refused += 1
            raise QueueFullError("max_pending_calls", self.limit)
        self._numbers += 1
        entry = PendingCall(self._numbers, call_id, expected_node, now_ms, timeout_ms, on_done)
        self._entries[call_id] = entry
        heapq.heappush(self._heap, (entry.deadline_ms, entry.number, call_id))
        return entry

    def take(self, call_id: int, from_node: int | None) -> PendingCall | None:
        """Remove and return the call that an answer from ``from_node`` ends.

        Returns:
            None, counted as ``late``, when nobody waits for it. An answer from another node than
            the one asked leaves the call waiting.
        """
        entry = self._entries.get(call_id)
        if entry is None or entry.expected_node not in (None, from_node):
            self.late += 1
            return None
        del self._entries[call_id]
        self._compact()
        return entry

    def cancel(self, call_id: int) -> bool:
        """Forget a call without finishing it; return whether it was there."""
        found = self._entries.pop(call_id, None) is not None
        self._compact()
        return found

    def expire(self, now_ms: int) -> list[PendingCall]:
        """Remove and return the calls whose deadline has come, the earliest first."""
        due: list[PendingCall] = []
        while (deadline_ms := self.next_deadline_ms()) is not None and deadline_ms <= now_ms:
            due.append(self._entries.pop(heapq.heappop(self._heap)[2]))
        return due

    def next_deadline_ms(self) -> int | None:
        """Return when the next call expires (not: in how long), None when none waits."""
        heap = self._heap
        while heap and not self._is_live(heap[0]):
            heapq.heappop(heap)
        return heap[0][0] if heap else None

    def fail_all(self, error: CallError) -> list[PendingCall]:
        """Remove and return all calls, in the order they were started; they fail with ``error``."""
        entries = list(self._entries.values())
        self._entries.clear()
        self._heap.clear()
        for entry in entries:
            entry.error = error
        return entries

    def _is_live(self, item: tuple[int, int, int]) -> bool:
        entry = self._entries.get(item[2])
        return entry is not None and entry.number == item[1]

    def _compact(self) -> None:
        if len(self._heap) > 2 * len(self._entries) + _HEAP_SLACK:
            self._heap = [item for item in self._heap if self._is_live(item)]
            heapq.heapify(self._heap)


# -- the callee's side ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class RpcRequest:
    """A call, as ``on_rpc`` sees it.

    Attributes:
        payload: The caller's bytes.
        from_node: The node that calls.
        from_service: The service that calls.
        to_service: The service that is called.
        stream_id: As the caller set it.
        deadline_ms: When the caller gives up, on this node's clock (``agent.now_ms``); the time
            the request travelled is not in it.
        sender_verified: Whether ``from_node`` is the other end of the link, or this node.
    """

    payload: bytes
    from_node: int
    from_service: int
    to_service: int
    stream_id: int = 0
    deadline_ms: int = 0
    sender_verified: bool = False


Send = Callable[[bytes], object]
Defer = Callable[[Callable[[], None]], object]

#: After these an answer was not given: it may be given again, or a smaller one instead.
_NOT_GIVEN: Final = (SendQueueFullError, QueueFullError, MessageTooBigError)


@final
class RpcAnswer:
    """The one answer to a call: ``ok`` or ``error``, once, now or later, on the node's thread.

    Let go without either, the caller is told DROPPED. When the answer cannot be sent because a
    queue is full, or because it is too big, it counts as not given and another try may follow;
    after any other error nothing more can be done and it counts as given. The time left is not
    looked at: a late answer is sent, and ignored by the caller.
    """

    __slots__ = ("__weakref__", "_answered", "_call_id", "_defer", "_on_end", "_send")

    def __init__(
        self,
        send: Send,
        call_id: int,
        on_end: Callable[[], object],
        defer: Defer | None = None,
    ) -> None:
        """Make the answer object of one request.

        Args:
            send: Sends an envelope back to the caller.
            call_id: That of the request.
            on_end: Called exactly once, when nothing more can be sent.
            defer: Runs a function soon, on the node's thread; called on any thread at any moment
                when the object is let go (``Loop.post`` will do). Without it DROPPED is sent there
                and then.
        """
        self._answered = False
        self._call_id = call_id
        self._defer = defer
        self._on_end = on_end
        self._send: Send | None = send

    def __repr__(self) -> str:
        state = "answered" if self._answered else "closed" if self._send is None else "open"
        return f"<RpcAnswer {self._call_id:#x} {state}>"

    def __reduce__(self) -> NoReturn:
        # A copy would answer a second time.
        raise TypeError("an RpcAnswer can neither be copied nor pickled")

    @property
    def answered(self) -> bool:
        """Whether the answer was given."""
        return self._answered

    def ok(self, payload: BytesLike = b"") -> None:
        """Answer.

        Raises:
            LocalError: It was answered already.
            NodeClosedError: The node was closed.
            SendQueueFullError, QueueFullError: Try again later.
            MessageTooBigError: Give a smaller answer, or an ``error``.
            NoRouteError: The caller cannot be reached any more.
        """
        self._give(encode_ok(self._call_id, payload))

    def error(self, code: int, text: str = "") -> None:
        """Answer with an error; raises what ``ok`` raises.

        Args:
            code: The application's own, 256..65535; arrives as ``CallError.code``.
            text: At most 200 bytes of its UTF-8 travel.

        Raises:
            ValueError: ``code`` is out of range; below 256 are netcore's own.
        """
        if not wire.RPC_FIRST_APPLICATION_CODE <= code <= MAX_CODE:
            raise ValueError(
                f"an error code is {wire.RPC_FIRST_APPLICATION_CODE}..{MAX_CODE} "
                f"(lower ones are netcore's own), not {code!r}"
            )
        self._give(encode_error(self._call_id, code, text))

    def refuse(self, code: int, text: str = "") -> bool:
        """Answer with one of netcore's own codes, unless answered; for the framework.

        Returns:
            Whether it was sent. When it could not be, the caller learns by its timeout.
        """
        send = self._send
        if send is None:
            return False
        self._answered = True
        self._send = None
        sent = _try_send(send, encode_error(self._call_id, code, text))
        self._end()
        return sent

    def close(self) -> None:
        """End without an answer, because the node is gone; lets go of everything. Idempotent."""
        if self._send is not None:
            self._send = None
            self._end()

    def _give(self, data: bytes) -> None:
        send = self._send
        if send is None:
            raise LocalError("already answered") if self._answered else NodeClosedError()
        # Answered from here on: whatever runs inside of send() must not answer a second time.
        self._answered = True
        self._send = None
        try:
            send(data)
        except _NOT_GIVEN:
            self._answered = False
            self._send = send
            raise
        except BaseException:
            self._end()
            raise
        self._end()

    def _end(self) -> None:
        on_end, self._on_end, self._defer = self._on_end, _nothing, None
        on_end()

    def __del__(self, _is_finalizing: Callable[[], bool] = sys.is_finalizing) -> None:
        send = getattr(self, "_send", None)  # missing when __init__ failed
        if send is None or _is_finalizing():
            return
        self._send = None
        on_end, defer = self._on_end, self._defer
        drop = partial(_send_dropped, send, self._call_id, on_end)
        try:
            (defer or _run)(drop)
        except Exception:  # the loop takes nothing more: full, or closed
            with suppress(Exception):
                on_end()


def _nothing() -> None:
    """Stand in for an ``on_end`` that was called."""


def _run(function: Callable[[], None]) -> None:
    function()


def _try_send(send: Send, data: bytes) -> bool:
    """Send for nobody who could handle an error."""
    try:
        send(data)
    except Exception:
        return False
    return True


def _send_dropped(send: Send, call_id: int, on_end: Callable[[], object]) -> None:
    _try_send(send, encode_error(call_id, wire.RPC_DROPPED))
    with suppress(Exception):
        on_end()


@final
class OpenAnswers:
    """The answer objects of a node that have not ended, at most ``limit``; held weakly.

    Attributes:
        limit: How many at a time.
        refused: Requests beyond it.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.refused = 0
        self._open: dict[int, weakref.ref[RpcAnswer]] = {}
        self._numbers = 0

    def __len__(self) -> int:
        return len(self._open)

    def open(self, send: Send, call_id: int, defer: Defer | None = None) -> RpcAnswer:
        """Return the answer object of a request; the arguments are those of `RpcAnswer`.

        Raises:
            QueueFullError: ``limit`` are open; the caller is to be told BUSY.
        """
        if len(self._open) >= self.limit:
            self.refused += 1
            raise QueueFullError("max_answers_open", self.limit)
        self._numbers += 1
        answer = RpcAnswer(send, call_id, partial(self._open.pop, self._numbers, None), defer)
        self._open[self._numbers] = weakref.ref(answer)
        return answer

    def close(self) -> None:
        """End all of them, so that one kept by a user does not keep the node."""
        for ref in list(self._open.values()):
            if (answer := ref()) is not None:
                answer.close()
        self._open.clear()
