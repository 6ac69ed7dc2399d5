"""Pending calls at the caller, answer objects at the callee."""

from __future__ import annotations

import copy
import gc
import pickle
import random
import subprocess
import sys
import weakref
from collections.abc import Callable
from dataclasses import FrozenInstanceError

import pytest

from netcore import wire
from netcore.envelope import Answer, decode_envelope, error_of
from netcore.errors import (
    AnswerDropped,
    CallError,
    CallTimeout,
    LocalError,
    MessageTooBigError,
    NodeClosedError,
    NoRouteError,
    QueueFullError,
    RemoteFailure,
    SendQueueFullError,
)
from netcore.rpc import (
    CallAnswer,
    OpenAnswers,
    PendingCall,
    PendingCalls,
    RpcAnswer,
    RpcRequest,
)

NODE_A = 7
NODE_B = 8


def ignore(answer: CallAnswer) -> None:
    """Be an on_done that does nothing."""


def ids(entries: list[PendingCall]) -> list[int]:
    return [entry.call_id for entry in entries]


# -- CallAnswer ----------------------------------------------------------------------------------


def test_call_answer_of_an_ok_has_the_payload() -> None:
    answer = CallAnswer.of(Answer(1, 0, b"6", ""))
    assert answer == CallAnswer(ok=True, payload=b"6", error=None)
    assert answer.result() == b"6"


def test_call_answer_of_an_error_has_the_error_and_raises_it() -> None:
    answer = CallAnswer.of(Answer(1, wire.RPC_INTERNAL, b"", ""))
    assert not answer.ok
    assert answer.payload == b""
    assert isinstance(answer.error, RemoteFailure)
    with pytest.raises(RemoteFailure):
        answer.result()


def test_call_answer_is_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        CallAnswer(ok=True).ok = False  # type: ignore[misc]


# -- PendingCalls: start -------------------------------------------------------------------------


def test_start_returns_an_entry_with_its_deadline() -> None:
    calls = PendingCalls(10)
    entry = calls.start(1_000, 50, 1, NODE_A, ignore)
    assert (entry.call_id, entry.expected_node, entry.deadline_ms) == (1, NODE_A, 1_050)
    assert len(calls) == 1
    assert calls.next_deadline_ms() == 1_050


def test_start_at_the_limit_raises_and_starts_nothing() -> None:
    calls = PendingCalls(2)
    calls.start(0, 50, 1, None, ignore)
    calls.start(0, 50, 2, None, ignore)
    with pytest.raises(QueueFullError) as caught:
        calls.start(0, 10, 3, None, ignore)
    assert (caught.value.queue, caught.value.limit) == ("max_pending_calls", 2)
    assert (len(calls), calls.refused, calls.next_deadline_ms()) == (2, 1, 50)
    assert calls.take(3, None) is None


def test_start_after_the_limit_was_left_works_again() -> None:
    calls = PendingCalls(1)
    calls.start(0, 50, 1, None, ignore)
    calls.take(1, NODE_A)
    assert calls.start(0, 50, 2, None, ignore).call_id == 2


@pytest.mark.parametrize("timeout_ms", [0, -1, 1 << 32, 2.5, True])
def test_start_with_a_bad_timeout_raises_local_error(timeout_ms: int) -> None:
    calls = PendingCalls(10)
    with pytest.raises(LocalError, match="timeout_ms"):
        calls.start(0, timeout_ms, 1, None, ignore)
    assert len(calls) == 0


def test_start_with_an_id_in_use_raises_and_keeps_the_first() -> None:
    calls = PendingCalls(10)
    first = calls.start(0, 50, 1, None, ignore)
    with pytest.raises(LocalError, match="0x1 is in use"):
        calls.start(0, 50, 1, None, ignore)
    assert calls.take(1, NODE_A) is first


# -- PendingCalls: take --------------------------------------------------------------------------


def test_take_by_the_node_asked_removes_the_entry() -> None:
    calls = PendingCalls(10)
    entry = calls.start(0, 50, 1, NODE_A, ignore)
    assert calls.take(1, NODE_A) is entry
    assert (len(calls), calls.late, calls.next_deadline_ms()) == (0, 0, None)


def test_take_twice_finds_nothing_and_counts_late() -> None:
    calls = PendingCalls(10)
    calls.start(0, 50, 1, NODE_A, ignore)
    calls.take(1, NODE_A)
    assert calls.take(1, NODE_A) is None
    assert calls.late == 1


@pytest.mark.parametrize("from_node", [NODE_B, None])
def test_take_by_another_node_leaves_the_call_waiting(from_node: int | None) -> None:
    calls = PendingCalls(10)
    entry = calls.start(0, 50, 1, NODE_A, ignore)
    assert calls.take(1, from_node) is None
    assert calls.late == 1
    assert calls.take(1, NODE_A) is entry


@pytest.mark.parametrize("from_node", [NODE_A, NODE_B, 0, None])
def test_take_of_a_call_to_anybody_accepts_any_node(from_node: int | None) -> None:
    calls = PendingCalls(10)
    entry = calls.start(0, 50, 1, None, ignore)
    assert calls.take(1, from_node) is entry


def test_take_of_an_expired_call_counts_late() -> None:
    calls = PendingCalls(10)
    calls.start(0, 50, 1, NODE_A, ignore)
    calls.expire(50)
    assert calls.take(1, NODE_A) is None
    assert calls.late == 1


# -- PendingCalls: expire, cancel, fail_all --------------------------------------------------------


def test_expire_before_the_deadline_returns_nothing() -> None:
    calls = PendingCalls(10)
    calls.start(0, 50, 1, None, ignore)
    assert calls.expire(49) == []
    assert ids(calls.expire(50)) == [1]
    assert calls.expire(1_000) == []


def test_expire_returns_the_earliest_deadline_first_and_equal_ones_as_started() -> None:
    calls = PendingCalls(10)
    for call_id, timeout_ms in ((5, 30), (4, 10), (3, 20), (2, 10), (1, 99)):
        calls.start(0, timeout_ms, call_id, None, ignore)
    assert ids(calls.expire(30)) == [4, 2, 3, 5]
    assert calls.next_deadline_ms() == 99


def test_expired_entry_finishes_with_a_timeout() -> None:
    answers: list[CallAnswer] = []
    calls = PendingCalls(10)
    calls.start(0, 50, 1, None, answers.append)
    for entry in calls.expire(50):
        entry.finish()
    assert [answer.ok for answer in answers] == [False]
    assert isinstance(answers[0].error, CallTimeout)
    assert answers[0].error.text == "no answer within 50 ms"


def test_cancel_forgets_the_call() -> None:
    calls = PendingCalls(10)
    calls.start(0, 50, 1, None, ignore)
    assert calls.cancel(1)
    assert not calls.cancel(1)
    assert calls.next_deadline_ms() is None
    assert calls.expire(100) == []
    assert calls.late == 0


def test_id_used_again_keeps_its_own_deadline() -> None:
    calls = PendingCalls(10)
    calls.start(0, 50, 1, None, ignore)
    calls.cancel(1)
    calls.start(0, 80, 1, None, ignore)
    assert calls.next_deadline_ms() == 80
    assert calls.expire(50) == []
    assert ids(calls.expire(80)) == [1]


def test_fail_all_returns_every_entry_once_with_the_error() -> None:
    answers: list[CallAnswer] = []
    calls = PendingCalls(10)
    for call_id in (3, 1, 2):
        calls.start(0, 50 - call_id, call_id, None, answers.append)
    error = CallError(-2, "the node is closed")
    entries = calls.fail_all(error)
    assert ids(entries) == [3, 1, 2]
    for entry in entries:
        entry.finish()
    assert [answer.error for answer in answers] == [error] * 3
    assert (len(calls), calls.next_deadline_ms(), calls.fail_all(error)) == (0, None, [])


# -- PendingCall.finish ----------------------------------------------------------------------------


def test_finish_hands_the_answer_over_exactly_once() -> None:
    answers: list[CallAnswer] = []
    entry = PendingCalls(1).start(0, 50, 1, None, answers.append)
    entry.finish(CallAnswer(ok=True, payload=b"x"))
    with pytest.raises(LocalError, match="finished already"):
        entry.finish()
    assert [answer.payload for answer in answers] == [b"x"]


def test_finish_whose_callback_raises_is_finished_nevertheless() -> None:
    def fail(answer: CallAnswer) -> None:
        raise RuntimeError("on_done")

    entry = PendingCalls(1).start(0, 50, 1, None, fail)
    with pytest.raises(RuntimeError, match="on_done"):
        entry.finish()
    with pytest.raises(LocalError):
        entry.finish()


# -- PendingCalls: cost ----------------------------------------------------------------------------


def test_answered_calls_with_long_deadlines_do_not_pile_up() -> None:
    calls = PendingCalls(100)
    for call_id in range(10_000):
        calls.start(0, 1_000_000, call_id, None, ignore)
        if call_id >= 10:
            calls.take(call_id - 10, None)
    assert len(calls) == 10
    assert len(calls._heap) <= 2 * len(calls) + 64 + 1


def test_taken_entry_is_not_kept_alive_by_the_heap() -> None:
    class Callback:
        def __call__(self, answer: CallAnswer) -> None:
            """Do nothing."""

    calls = PendingCalls(100)
    callback = Callback()
    kept = weakref.ref(callback)
    calls.start(0, 50, 1, None, callback)
    del callback
    assert kept() is not None
    calls.take(1, None)
    assert kept() is None


@pytest.mark.parametrize("seed", range(20))
def test_random_operations_end_every_call_exactly_once(seed: int) -> None:
    rng = random.Random(seed)
    calls = PendingCalls(50)
    ended: dict[int, int] = {}
    started: set[int] = set()
    cancelled = 0
    now_ms = 0
    for call_id in range(2_000):
        now_ms += rng.randrange(5)
        try:
            calls.start(now_ms, rng.randrange(1, 300), call_id, rng.choice([None, 1]), ignore)
        except QueueFullError:
            assert len(calls) == 50
        else:
            started.add(call_id)
        due = calls.expire(now_ms)
        assert [e.deadline_ms for e in due] == sorted(e.deadline_ms for e in due)
        taken = calls.take(rng.randrange(call_id + 1), rng.choice([1, 2]))
        for entry in [*due, taken] if taken else due:
            ended[entry.call_id] = ended.get(entry.call_id, 0) + 1
        cancelled += calls.cancel(rng.randrange(call_id + 1))
        deadline_ms = calls.next_deadline_ms()
        assert (deadline_ms is None) == (len(calls) == 0)
        assert deadline_ms is None or deadline_ms > now_ms
    rest = calls.fail_all(error_of(wire.RPC_BUSY))
    assert set(ended.values()) == {1}
    assert not set(ended) & set(ids(rest))
    assert len(ended) + len(rest) + cancelled == len(started)


# -- RpcRequest ------------------------------------------------------------------------------------


def test_rpc_request_is_a_frozen_value() -> None:
    request = RpcRequest(payload=b"1", from_node=7, from_service=1, to_service=2)
    assert request == RpcRequest(payload=b"1", from_node=7, from_service=1, to_service=2)
    with pytest.raises(FrozenInstanceError):
        request.payload = b""  # type: ignore[misc]


# -- RpcAnswer: answering --------------------------------------------------------------------------


class Channel:
    """Stands for the node below an answer object: records what is sent, fails on demand."""

    def __init__(self) -> None:
        self.sent: list[Answer] = []
        self.ends = 0
        self.errors: list[BaseException] = []
        self.posted: list[Callable[[], None]] = []

    def send(self, data: bytes) -> None:
        if self.errors:
            raise self.errors.pop(0)
        answer = decode_envelope(data)
        assert isinstance(answer, Answer)
        self.sent.append(answer)

    def on_end(self) -> None:
        self.ends += 1

    def post(self, function: Callable[[], None]) -> None:
        self.posted.append(function)

    def answer(self, call_id: int = 1) -> RpcAnswer:
        return RpcAnswer(self.send, call_id, self.on_end)

    def deferring_answer(self, call_id: int = 1) -> RpcAnswer:
        return RpcAnswer(self.send, call_id, self.on_end, self.post)


DROPPED = Answer(1, wire.RPC_DROPPED, b"", "")


def test_ok_sends_the_payload_and_ends() -> None:
    channel = Channel()
    res = channel.answer()
    assert not res.answered
    res.ok(b"6")
    assert res.answered
    assert (channel.sent, channel.ends) == ([Answer(1, 0, b"6", "")], 1)


def test_ok_without_payload_sends_an_empty_one() -> None:
    channel = Channel()
    channel.answer().ok()
    assert channel.sent == [Answer(1, 0, b"", "")]


def test_error_sends_code_and_text_and_ends() -> None:
    channel = Channel()
    res = channel.answer()
    res.error(400, "numbers, please")
    assert res.answered
    assert (channel.sent, channel.ends) == ([Answer(1, 400, b"", "numbers, please")], 1)


@pytest.mark.parametrize("code", [-1, 0, 1, 255, 65_536])
def test_error_with_a_code_that_is_not_the_applications_raises_and_stays_open(code: int) -> None:
    channel = Channel()
    res = channel.answer()
    with pytest.raises(ValueError, match=r"256\.\.65535"):
        res.error(code)
    assert not res.answered
    res.error(256)
    assert [answer.code for answer in channel.sent] == [256]


def test_payload_that_is_not_bytes_raises_and_stays_open() -> None:
    channel = Channel()
    res = channel.answer()
    with pytest.raises(TypeError):
        res.ok("text")  # type: ignore[arg-type]
    res.ok(b"text")
    assert channel.sent == [Answer(1, 0, b"text", "")]


@pytest.mark.parametrize("second", [lambda res: res.ok(), lambda res: res.error(400)])
def test_answering_twice_raises_and_sends_once(second: Callable[[RpcAnswer], None]) -> None:
    channel = Channel()
    res = channel.answer()
    res.ok()
    with pytest.raises(LocalError, match="already answered"):
        second(res)
    assert (len(channel.sent), channel.ends) == (1, 1)


def test_answering_again_from_inside_the_send_raises() -> None:
    raised: list[LocalError] = []
    box: list[RpcAnswer] = []

    def send(data: bytes) -> None:
        try:
            box[0].ok()
        except LocalError as exc:
            raised.append(exc)

    channel = Channel()
    box.append(RpcAnswer(send, 1, channel.on_end))
    box[0].ok()
    assert [str(exc) for exc in raised] == ["already answered"]
    assert channel.ends == 1


@pytest.mark.parametrize(
    "error",
    [
        SendQueueFullError(1, 2, 1),
        QueueFullError("max_commands", 1),
        MessageTooBigError(2, 1),
    ],
)
def test_answer_that_was_not_accepted_may_be_given_again(error: LocalError) -> None:
    channel = Channel()
    channel.errors.append(error)
    res = channel.answer()
    with pytest.raises(type(error)):
        res.ok(b"big")
    assert (res.answered, channel.ends) == (False, 0)
    res.error(500, "too big")
    assert (channel.sent, channel.ends) == ([Answer(1, 500, b"", "too big")], 1)


@pytest.mark.parametrize(
    "error", [NoRouteError("node 7"), NodeClosedError(), RuntimeError("bug"), KeyboardInterrupt()]
)
def test_answer_that_failed_for_good_counts_as_given(error: BaseException) -> None:
    channel = Channel()
    channel.errors.append(error)
    res = channel.answer()
    with pytest.raises(type(error)):
        res.ok()
    assert (res.answered, channel.ends) == (True, 1)
    del res
    assert (channel.sent, channel.ends) == ([], 1)


def test_answered_object_lets_go_of_the_node() -> None:
    channel = Channel()
    kept = weakref.ref(channel)
    res = channel.deferring_answer()
    res.ok()
    del channel
    assert kept() is None
    assert res.answered


# -- RpcAnswer: refusing ---------------------------------------------------------------------------


def test_refuse_sends_one_of_netcores_own_codes() -> None:
    channel = Channel()
    res = channel.answer()
    assert res.refuse(wire.RPC_NOT_HANDLED)
    assert res.answered
    assert (channel.sent, channel.ends) == ([Answer(1, wire.RPC_NOT_HANDLED, b"", "")], 1)


def test_refuse_after_an_answer_does_nothing() -> None:
    channel = Channel()
    res = channel.answer()
    res.ok()
    assert not res.refuse(wire.RPC_INTERNAL)
    assert (len(channel.sent), channel.ends) == (1, 1)


def test_refuse_that_cannot_be_sent_ends_silently() -> None:
    channel = Channel()
    channel.errors.append(SendQueueFullError(1, 2, 1))
    res = channel.answer()
    assert not res.refuse(wire.RPC_INTERNAL)
    assert (channel.sent, channel.ends) == ([], 1)


# -- RpcAnswer: let go -----------------------------------------------------------------------------


def test_answer_let_go_sends_dropped_once() -> None:
    channel = Channel()
    res = channel.answer()
    del res
    assert (channel.sent, channel.ends) == ([DROPPED], 1)


def test_answer_given_and_let_go_sends_no_second_one() -> None:
    channel = Channel()
    channel.answer().ok(b"6")
    assert (channel.sent, channel.ends) == ([Answer(1, 0, b"6", "")], 1)


def test_answer_let_go_after_a_full_queue_sends_dropped() -> None:
    channel = Channel()
    channel.errors.append(SendQueueFullError(1, 2, 1))
    res = channel.answer()
    with pytest.raises(SendQueueFullError):
        res.ok()
    del res
    assert (channel.sent, channel.ends) == ([DROPPED], 1)


def test_answer_in_a_reference_cycle_is_dropped_by_the_collector() -> None:
    class Holder:
        res: RpcAnswer
        self_: Holder

    channel = Channel()
    holder = Holder()
    holder.self_ = holder
    holder.res = channel.answer()
    del holder
    gc.collect()
    assert (channel.sent, channel.ends) == ([DROPPED], 1)
    gc.collect()
    assert (channel.sent, channel.ends) == ([DROPPED], 1)


def test_answer_kept_by_the_node_it_belongs_to_does_not_keep_that_node() -> None:
    class Node(Channel):
        res: RpcAnswer

    node = Node()
    node.res = node.deferring_answer()
    kept = weakref.ref(node)
    del node
    gc.collect()
    assert kept() is None


def test_answer_let_go_with_defer_sends_nothing_until_the_loop_runs_it() -> None:
    channel = Channel()
    res = channel.deferring_answer()
    del res
    assert (channel.sent, channel.ends) == ([], 0)
    [posted] = channel.posted
    posted()
    assert (channel.sent, channel.ends) == ([DROPPED], 1)


def test_answer_let_go_with_a_full_loop_ends_silently() -> None:
    def post(function: Callable[[], None]) -> None:
        raise QueueFullError("max_posts", 1)

    channel = Channel()
    res = RpcAnswer(channel.send, 1, channel.on_end, post)
    del res
    assert (channel.sent, channel.ends) == ([], 1)


@pytest.mark.parametrize("error", [NodeClosedError(), NoRouteError("node 7"), RuntimeError("bug")])
def test_answer_let_go_that_cannot_be_sent_ends_silently(error: Exception) -> None:
    channel = Channel()
    channel.errors.append(error)
    res = channel.answer()
    del res
    assert (channel.sent, channel.ends) == ([], 1)


def test_answer_let_go_whose_on_end_raises_is_silent() -> None:
    def fail() -> None:
        raise RuntimeError("on_end")

    channel = Channel()
    res = RpcAnswer(channel.send, 1, fail)
    del res  # a warning would fail the test: filterwarnings = error
    assert channel.sent == [DROPPED]


def test_answer_let_go_that_is_closed_meanwhile_ends_once() -> None:
    channel = Channel()
    refs: list[weakref.ref[RpcAnswer]] = []

    def send(data: bytes) -> None:
        if (answer := refs[0]()) is not None:
            answer.close()

    res = RpcAnswer(send, 1, channel.on_end)
    refs.append(weakref.ref(res))
    del res
    assert channel.ends == 1


def test_answer_half_built_is_let_go_silently() -> None:
    with pytest.raises(TypeError):
        RpcAnswer()  # type: ignore[call-arg]
    gc.collect()


def test_answer_alive_at_interpreter_exit_is_silent() -> None:
    code = (
        "import netcore.rpc as rpc, sys\n"
        "def send(data): print('sent', file=sys.stderr)\n"
        "kept = rpc.RpcAnswer(send, 1, print)\n"
        "kept_in_cycle = [rpc.RpcAnswer(send, 2, print)]\n"
        "kept_in_cycle.append(kept_in_cycle)\n"
        "sys.kept = rpc.RpcAnswer(send, 3, print)\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, timeout=60, check=False
    )
    assert done.returncode == 0
    assert b"Traceback" not in done.stderr
    assert b"Exception ignored" not in done.stderr


def test_finalizer_at_interpreter_exit_sends_nothing() -> None:
    channel = Channel()
    res = channel.answer()
    res.__del__(lambda: True)
    assert (channel.sent, channel.ends) == ([], 0)
    res.close()


@pytest.mark.parametrize("make", [copy.copy, copy.deepcopy, pickle.dumps])
def test_answer_cannot_be_copied(make: Callable[[RpcAnswer], object]) -> None:
    channel = Channel()
    res = channel.answer()
    with pytest.raises(TypeError, match="neither be copied nor pickled"):
        make(res)
    res.ok()
    assert channel.ends == 1


# -- RpcAnswer: closed with its node ---------------------------------------------------------------


def test_closed_answer_raises_node_closed_and_is_not_answered() -> None:
    channel = Channel()
    res = channel.answer()
    res.close()
    res.close()
    with pytest.raises(NodeClosedError):
        res.ok()
    assert not res.answered
    assert not res.refuse(wire.RPC_INTERNAL)
    del res
    assert (channel.sent, channel.ends) == ([], 1)


def test_close_of_an_answered_object_changes_nothing() -> None:
    channel = Channel()
    res = channel.answer()
    res.ok()
    res.close()
    assert (res.answered, channel.ends) == (True, 1)


def test_repr_tells_the_state() -> None:
    channel = Channel()
    res, other = channel.answer(0x2A), channel.answer()
    assert repr(res) == "<RpcAnswer 0x2a open>"
    res.ok()
    other.close()
    assert repr(res) == "<RpcAnswer 0x2a answered>"
    assert repr(other) == "<RpcAnswer 0x1 closed>"


# -- OpenAnswers -----------------------------------------------------------------------------------


def test_open_answers_counts_until_answered_or_dropped() -> None:
    channel = Channel()
    answers = OpenAnswers(10)
    first = answers.open(channel.send, 1)
    second = answers.open(channel.send, 2)
    assert len(answers) == 2
    first.ok()
    assert len(answers) == 1
    del second
    assert len(answers) == 0
    assert [answer.code for answer in channel.sent] == [0, wire.RPC_DROPPED]


def test_open_answers_at_the_limit_raises_and_counts() -> None:
    channel = Channel()
    answers = OpenAnswers(1)
    first = answers.open(channel.send, 1)
    with pytest.raises(QueueFullError) as caught:
        answers.open(channel.send, 2)
    assert (caught.value.queue, caught.value.limit) == ("max_answers_open", 1)
    assert answers.refused == 1
    first.ok()
    answers.open(channel.send, 3).ok()
    assert len(channel.sent) == 2


def test_open_answers_defers_what_is_let_go() -> None:
    channel = Channel()
    answers = OpenAnswers(10)
    answers.open(channel.send, 1, channel.post)  # let go at once
    assert (len(answers), channel.sent) == (1, [])
    channel.posted[0]()
    assert (len(answers), channel.sent) == (0, [DROPPED])


def test_open_answers_closed_cuts_the_kept_ones_off_the_node() -> None:
    channel = Channel()
    kept = weakref.ref(channel)
    answers = OpenAnswers(10)
    first = answers.open(channel.send, 1, channel.post)
    second = answers.open(channel.send, 2, channel.post)
    answers.close()
    assert len(answers) == 0
    assert channel.sent == []
    del channel
    assert kept() is None
    for res in (first, second):
        with pytest.raises(NodeClosedError):
            res.ok()


def test_open_answers_closed_while_a_drop_is_still_posted_stays_empty() -> None:
    channel = Channel()
    answers = OpenAnswers(10)
    answers.open(channel.send, 1, channel.post)  # let go at once
    answers.close()
    assert len(answers) == 0
    channel.errors.append(NodeClosedError())
    channel.posted[0]()
    assert (len(answers), channel.sent) == (0, [])


# -- both sides ------------------------------------------------------------------------------------


def test_answer_let_go_arrives_as_answer_dropped() -> None:
    answers: list[CallAnswer] = []
    calls = PendingCalls(10)
    calls.start(0, 50, 1, NODE_A, answers.append)
    channel = Channel()
    channel.answer()  # let go at once
    entry = calls.take(channel.sent[0].call_id, NODE_A)
    assert entry is not None
    entry.finish(CallAnswer.of(channel.sent[0]))
    assert isinstance(answers[0].error, AnswerDropped)
    assert len(calls) == 0
