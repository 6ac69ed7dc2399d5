"""The callee's side of a call desk: requests, answer objects, what becomes of each."""

from __future__ import annotations

import copy
import gc
import os
import pickle
import random
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest

from netcore import RouteAction, RouteRule, wire
from netcore._backend import BackendName
from netcore.errors import (
    LocalError,
    MessageTooBigError,
    NodeClosedError,
    NoRouteError,
    SendQueueFullError,
)
from support.calls import DeskRig, call_id_of, error_bytes, ok_bytes, request_bytes
from support.sinks import NODE, NODE_A, NODE_B


@pytest.fixture
def rig(kernels: ModuleType) -> Iterator[DeskRig]:
    with DeskRig(kernels) as made:
        yield made


def envelopes(rig: DeskRig) -> list[bytes]:
    return [sent.envelope for sent in rig.sent()]


def codes(rig: DeskRig) -> list[int]:
    return [sent.code for sent in rig.sent()]


DROPPED = error_bytes(1, wire.RPC_DROPPED)


# -- requests --------------------------------------------------------------------------------------


def test_request_says_who_asks_what_and_until_when(rig: DeskRig) -> None:
    rig.keep()
    rig.feed(request_bytes(0x2A, b"1 2", 5_000))
    [request] = rig.requests
    assert (request.payload, request.from_node, request.sender_verified) == (b"1 2", NODE_A, True)
    assert (request.from_service, request.to_service, request.stream_id) == (1, 2, 0)
    assert request.deadline_ms == rig.loop.now_ms + 5_000
    assert call_id_of(rig.kept[0]) == 0x2A
    assert (rig.desk.received, rig.desk.open) == (1, 1)


def test_request_of_a_node_further_away_is_not_verified(rig: DeskRig) -> None:
    rig.keep()
    rig.feed(request_bytes(1), from_node=NODE_B)
    assert (rig.requests[0].from_node, rig.requests[0].sender_verified) == (NODE_B, False)


def test_request_without_a_sender_is_malformed(rig: DeskRig) -> None:
    rig.keep()
    header = bytes([0x08, 64, 1, 2]) + bytes(4) + NODE.to_bytes(4, "big")
    body = header + request_bytes(1)
    rig.conn.receive_data((wire.KIND_CALL << 24 | len(body)).to_bytes(4, "big") + body)
    assert (rig.requests, rig.desk.received, rig.desk.malformed) == ([], 1, 1)


@pytest.mark.parametrize("size", [0, 1_000, 40_000])
def test_request_and_answer_of_any_size_arrive_whole(rig: DeskRig, size: int) -> None:
    payload = random.Random(size).randbytes(size)
    rig.serve(lambda agent, request, answer: answer.ok(request.payload) or True)
    rig.feed(request_bytes(1, payload))
    assert envelopes(rig) == [ok_bytes(1, payload)]


def test_on_rpc_is_given_agent_request_and_answer(rig: DeskRig, kernels: ModuleType) -> None:
    def on_rpc(*args: Any) -> bool:
        seen.append(args)
        return True

    seen: list[tuple[Any, ...]] = []
    rig.serve(on_rpc)
    rig.feed(request_bytes(1))
    [(agent, request, answer)] = seen
    assert agent == "agent"
    assert (type(request), type(answer)) == (kernels.RpcRequest, kernels.RpcAnswer)


def test_service_without_behavior_is_not_found(rig: DeskRig) -> None:
    rig.feed(request_bytes(1))
    [sent] = rig.sent()
    assert (sent.code, sent.text) == (wire.RPC_SERVICE_NOT_FOUND, "node has no service 2")
    assert rig.desk.open == 0


def test_behavior_may_be_taken_away(rig: DeskRig) -> None:
    rig.keep()
    rig.desk.set_behavior(2, None)
    rig.feed(request_bytes(1))
    assert codes(rig) == [wire.RPC_SERVICE_NOT_FOUND]


@pytest.mark.parametrize("handled", [False, None, 0, ""])
def test_falsy_result_is_not_handled(rig: DeskRig, handled: object) -> None:
    rig.serve(lambda *args: handled)
    rig.feed(request_bytes(1))
    [sent] = rig.sent()
    assert (sent.code, sent.text) == (wire.RPC_NOT_HANDLED, "service 2 does not handle this")
    assert rig.desk.open == 0


def test_falsy_result_after_an_answer_changes_nothing(rig: DeskRig) -> None:
    rig.serve(lambda agent, request, answer: answer.ok(b"6"))
    rig.feed(request_bytes(1))
    assert envelopes(rig) == [ok_bytes(1, b"6")]


class Undecided:
    """What cannot tell whether it is true."""

    def __bool__(self) -> bool:
        raise ValueError("undecided")


def raises(exc: BaseException) -> Callable[..., bool]:
    def on_rpc(agent: Any, request: Any, answer: Any) -> bool:
        raise exc

    return on_rpc


@pytest.mark.parametrize(
    ("on_rpc", "errors", "held"),
    [
        (raises(ValueError("swordfish")), 1, 0),
        (raises(KeyboardInterrupt()), 0, 1),
        (lambda *args: Undecided(), 1, 0),
    ],
)
def test_on_rpc_that_raises_is_internal_and_its_text_stays_here(
    rig: DeskRig, on_rpc: Any, errors: int, held: int
) -> None:
    rig.serve(on_rpc)
    rig.feed(request_bytes(1))
    [sent] = rig.sent()
    assert (sent.code, sent.text) == (wire.RPC_INTERNAL, "the service raised an exception")
    assert (len(rig.hooks.errors), len(rig.hooks.held), rig.desk.open) == (errors, held, 0)


def test_kept_answer_of_a_request_that_was_refused_counts_as_answered(rig: DeskRig) -> None:
    def on_rpc(agent: Any, request: Any, answer: Any) -> bool:
        rig.kept.append(answer)
        return False

    rig.serve(on_rpc)
    rig.feed(request_bytes(1))
    assert codes(rig) == [wire.RPC_NOT_HANDLED]
    with pytest.raises(LocalError, match="already answered"):
        rig.kept[0].ok()


def test_requests_beyond_the_limit_get_busy(kernels: ModuleType) -> None:
    with DeskRig(kernels, answers=2) as rig:
        rig.keep()
        for call_id in range(4):
            rig.feed(request_bytes(call_id))
        assert [(s.call_id, s.code, s.text) for s in rig.sent()] == [(2, 5, ""), (3, 5, "")]
        assert (rig.desk.busy, rig.desk.open) == (2, 2)
        rig.kept.pop().ok()
        rig.feed(request_bytes(9))
        assert (len(rig.kept), rig.desk.busy) == (2, 2)


def test_refusal_that_cannot_be_sent_is_silent(rig: DeskRig) -> None:
    rig.feed(request_bytes(1), from_node=NODE_B)  # no way leads back
    assert (rig.sent(), rig.hooks.errors, rig.sink.of("hook error")) == ([], [], [])
    assert rig.switch.counters()["sends_refused"] == 1


# -- answering -------------------------------------------------------------------------------------


def test_ok_leaves_as_the_protocol_says(rig: DeskRig) -> None:
    answer = rig.asked(0x0102030405060708)
    assert not answer.answered
    answer.ok(b"3")
    [sent] = rig.sent()
    assert sent.envelope == bytes.fromhex("02 0102030405060708 33")
    assert (sent.route, sent.from_service, sent.to_service) == (RouteRule.node(NODE_A), 2, 1)
    assert (answer.answered, rig.desk.open) == (True, 0)


def test_error_leaves_as_the_protocol_says(rig: DeskRig) -> None:
    answer = rig.asked(0x0102030405060708)
    answer.error(400, "n\u00f6")
    assert envelopes(rig) == [bytes.fromhex("03 0102030405060708 0190 6EC3B6")]
    assert (answer.answered, rig.desk.open) == (True, 0)


def test_ok_without_payload_sends_an_empty_one(rig: DeskRig) -> None:
    rig.asked().ok()
    assert envelopes(rig) == [ok_bytes(1)]


@pytest.mark.parametrize("make", [bytearray, memoryview])
def test_answer_may_be_any_bytes_like(rig: DeskRig, make: Any) -> None:
    rig.asked().ok(make(b"3"))
    assert envelopes(rig) == [ok_bytes(1, b"3")]


@pytest.mark.parametrize("code", [-1, 0, 1, 255, 65_536, 1 << 70, 256.0, "256", True])
def test_error_with_a_code_that_is_not_the_applications_raises_and_stays_open(
    rig: DeskRig, code: Any
) -> None:
    answer = rig.asked()
    with pytest.raises(ValueError, match=r"256\.\.65535 \(lower ones are netcore's own\), not"):
        answer.error(code)
    assert not answer.answered
    answer.error(256)
    answer = rig.asked()
    answer.error(65_535)
    assert codes(rig) == [256, 65_535]


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("x" * 200, 200),
        ("x" * 201, 200),
        ("\u00e4" * 101, 200),
        ("x" + "\u00e4" * 100, 199),
        ("\U0001f600" * 60, 200),
    ],
)
def test_error_text_is_cut_between_characters(rig: DeskRig, text: str, size: int) -> None:
    rig.asked().error(400, text)
    [sent] = rig.sent()
    assert len(sent.envelope) == wire.RPC_ERROR_HEADER_BYTES + size
    assert text.startswith(sent.text)


def test_error_text_with_a_lone_surrogate_is_replaced(rig: DeskRig) -> None:
    rig.asked().error(400, "\ud800!")
    assert rig.sent()[0].text == "?!"


def test_payload_that_is_not_bytes_raises_and_stays_open(rig: DeskRig) -> None:
    answer = rig.asked()
    with pytest.raises(TypeError, match="a payload is bytes, bytearray or memoryview, not str"):
        answer.ok("text")
    with pytest.raises(TypeError, match="text must be str, not int"):
        answer.error(400, 7)
    answer.ok(b"text")
    assert envelopes(rig) == [ok_bytes(1, b"text")]


@pytest.mark.parametrize("second", [lambda res: res.ok(), lambda res: res.error(400)])
def test_answering_twice_raises_and_sends_once(rig: DeskRig, second: Callable[..., None]) -> None:
    answer = rig.asked()
    answer.ok()
    with pytest.raises(LocalError, match="already answered"):
        second(answer)
    assert len(rig.sent()) == 1


def test_answer_may_come_later(rig: DeskRig) -> None:
    answer = rig.asked()
    rig.clock.now_ms += 60_000
    rig.turn(3)
    answer.ok(b"late")
    assert envelopes(rig) == [ok_bytes(1, b"late")]


class Router:
    """A router that calls a function instead of routing."""

    def __init__(self, function: Callable[[], None]) -> None:
        self.function = function

    def path_to(self, rule: Any, service_id: int) -> RouteAction:
        if rule.argument == NODE:
            return RouteAction.LOCAL
        self.function()
        return RouteAction.REJECT


def test_answering_again_from_inside_the_send_raises(kernels: ModuleType) -> None:
    raised: list[str] = []
    box: list[Any] = []

    def again() -> None:
        try:
            box[0].ok()
        except LocalError as exc:
            raised.append(str(exc))

    with DeskRig(kernels, router=Router(again)) as rig:
        box.append(rig.asked())
        with pytest.raises(NoRouteError):
            box[0].ok()
        assert raised == ["already answered"]
        assert rig.desk.open == 0


def test_answer_over_a_full_link_may_be_given_again(kernels: ModuleType) -> None:
    with DeskRig(kernels, write_high_bytes=1_000, write_low_bytes=500) as rig:
        answer = rig.asked()
        rig.stream.room = 0
        rig.call(bytes(2_000))
        with pytest.raises(SendQueueFullError):
            answer.ok(b"6")
        assert (answer.answered, rig.desk.open) == (False, 1)
        rig.stream.room = 1 << 20
        rig.conn.channel_writable()
        rig.sent()
        answer.ok(b"6")
        assert envelopes(rig) == [ok_bytes(1, b"6")]


def test_answer_that_is_too_big_may_be_given_smaller(kernels: ModuleType) -> None:
    with DeskRig(kernels, max_frame_bytes=4_096) as rig:
        answer = rig.asked()
        with pytest.raises(MessageTooBigError):
            answer.ok(bytes(4_096))
        assert (answer.answered, rig.desk.open) == (False, 1)
        answer.error(500, "too big")
        assert codes(rig) == [500]


def test_answer_without_a_way_back_counts_as_given(rig: DeskRig) -> None:
    rig.keep()
    rig.feed(request_bytes(1), from_node=NODE_B)
    with pytest.raises(NoRouteError, match=f"node {NODE_B}"):
        rig.kept[0].ok()
    assert (rig.kept.pop().answered, rig.desk.open) == (True, 0)
    assert rig.sent() == []


def test_answer_of_a_switch_that_refuses_counts_as_given(rig: DeskRig) -> None:
    answer = rig.asked()
    rig.switch.refuse_sends(NodeClosedError())
    with pytest.raises(NodeClosedError):
        answer.ok()
    assert (answer.answered, rig.desk.open) == (True, 0)


def test_answer_whose_send_is_interrupted_counts_as_given(kernels: ModuleType) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    with DeskRig(kernels, router=Router(interrupt)) as rig:
        answer = rig.asked()
        with pytest.raises(KeyboardInterrupt):
            answer.ok()
        assert (answer.answered, rig.desk.open) == (True, 0)


# -- let go ----------------------------------------------------------------------------------------


def test_answer_let_go_sends_dropped_in_the_next_turn(rig: DeskRig) -> None:
    answer = rig.asked()
    del answer
    assert (bytes(rig.stream.taken), rig.desk.open) == (b"", 1)
    assert envelopes(rig) == [DROPPED]
    assert (rig.desk.open, envelopes(rig)) == (0, [])


def test_answer_given_and_let_go_sends_no_second_one(rig: DeskRig) -> None:
    rig.asked().ok(b"6")
    assert envelopes(rig) == [ok_bytes(1, b"6")]
    assert envelopes(rig) == []


def test_many_answers_let_go_are_told_in_order_by_one_post(kernels: ModuleType) -> None:
    with DeskRig(kernels, answers=100) as rig:
        kept = [rig.asked(call_id) for call_id in range(100)]
        while kept:
            kept.pop(0)
        assert rig.desk.open == 100
        assert rig.loop.run_once(0) == 1
        assert [(s.call_id, s.code) for s in rig.sent()] == [(n, 4) for n in range(100)]
        assert rig.desk.open == 0


def test_answer_let_go_that_was_not_accepted_sends_dropped(kernels: ModuleType) -> None:
    with DeskRig(kernels, max_frame_bytes=4_096) as rig:
        answer = rig.asked()
        with pytest.raises(MessageTooBigError):
            answer.ok(bytes(4_096))
        del answer
        gc.collect()  # the traceback held it
        assert envelopes(rig) == [DROPPED]


def test_answer_in_a_reference_cycle_is_dropped_by_the_collector(rig: DeskRig) -> None:
    cycle: list[object] = [rig.asked()]
    cycle.append(cycle)
    del cycle
    gc.collect()
    assert envelopes(rig) == [DROPPED]
    gc.collect()
    assert envelopes(rig) == []


def test_every_answer_made_and_let_go_again_is_told(rig: DeskRig) -> None:
    # Objects are used again, one must not inherit from another that it was told already.
    for call_id in range(300):
        rig.asked(call_id)
        if call_id % 3 == 0:
            rig.asked(call_id).ok()
        sent = rig.sent()
        assert sum(s.code == wire.RPC_DROPPED for s in sent) == 1
        assert len(sent) == 1 + (call_id % 3 == 0)


def test_answer_let_go_with_a_full_loop_ends_silently(kernels: ModuleType) -> None:
    with DeskRig(kernels) as rig:
        answer = rig.asked()
        for _ in range(65_536):
            rig.loop.post(int)
        del answer
        assert (rig.desk.open, rig.loop.posts_refused) == (0, 1)
        rig.turn()
        rig.asked(2)
        assert [sent.call_id for sent in rig.sent()] == [2]


def test_answer_let_go_without_a_way_back_ends_silently(rig: DeskRig) -> None:
    rig.keep()
    rig.feed(request_bytes(1), from_node=NODE_B)
    rig.kept.clear()
    assert rig.sent() == []
    assert (rig.desk.open, rig.hooks.errors, rig.errors) == (0, [], [])


def test_answer_let_go_on_another_thread_is_told_by_the_loop(rig: DeskRig) -> None:
    kept = [rig.asked()]
    thread = threading.Thread(target=kept.clear)
    thread.start()
    thread.join()
    assert envelopes(rig) == [DROPPED]


def test_answer_let_go_wakes_the_loop(rig: DeskRig) -> None:
    answer = rig.asked()
    thread = threading.Thread(target=rig.loop.run_once, args=(None,))
    thread.start()
    del answer
    thread.join(30)
    assert not thread.is_alive()


def test_answer_kept_does_not_keep_its_desk(kernels: ModuleType) -> None:
    rig = DeskRig(kernels)
    answer, kept = rig.asked(), weakref.ref(rig)
    rig.close()
    del rig
    gc.collect()
    assert kept() is None
    assert repr(answer) in ("<RpcAnswer 0x1 closed>", "<RpcAnswer 0x1 open>")
    with pytest.raises(NodeClosedError):
        answer.ok()


def test_answer_kept_by_what_belongs_to_the_desk_goes_with_it(kernels: ModuleType) -> None:
    rig = DeskRig(kernels)
    rig.keep()
    rig.feed(request_bytes(1))
    kept = weakref.ref(rig.kept[0])
    rig.close()
    del rig
    gc.collect()
    assert kept() is None


def test_answer_alive_at_interpreter_exit_is_silent(backend: BackendName) -> None:
    code = (
        "import sys\n"
        "from netcore import _backend\n"
        "from support.calls import DeskRig\n"
        f"rig = DeskRig(_backend.load({backend!r}))\n"
        "kept = rig.asked()\n"
        "in_cycle = [rig.asked(2)]\n"
        "in_cycle.append(in_cycle)\n"
        "sys.kept = rig.asked(3)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        timeout=60,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


# -- the object ------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [copy.copy, copy.deepcopy, pickle.dumps])
def test_answer_cannot_be_copied(rig: DeskRig, make: Callable[[Any], object]) -> None:
    answer = rig.asked()
    with pytest.raises(TypeError, match="an RpcAnswer can neither be copied nor pickled"):
        make(answer)
    answer.ok()
    assert envelopes(rig) == [ok_bytes(1)]


def test_answer_made_by_hand_is_closed(kernels: ModuleType) -> None:
    answer = kernels.RpcAnswer()
    assert (repr(answer), answer.answered) == ("<RpcAnswer 0x0 closed>", False)
    with pytest.raises(NodeClosedError):
        answer.ok()
    with pytest.raises(TypeError):
        kernels.RpcAnswer(1)


def test_repr_tells_the_state(rig: DeskRig) -> None:
    answer, other = rig.asked(0x2A), rig.asked((1 << 64) - 1)
    assert repr(answer) == "<RpcAnswer 0x2a open>"
    answer.ok()
    rig.desk.close()
    assert repr(answer) == "<RpcAnswer 0x2a answered>"
    assert repr(other) == "<RpcAnswer 0xffffffffffffffff closed>"


def test_answer_can_be_referred_to_weakly(rig: DeskRig) -> None:
    answer = rig.asked()
    kept = weakref.ref(answer)
    assert kept() is answer
    del answer
    assert kept() is None


def test_answer_state_cannot_be_set(rig: DeskRig) -> None:
    answer = rig.asked()
    with pytest.raises(AttributeError):
        answer.answered = True
    answer.ok()


# -- the end ---------------------------------------------------------------------------------------


def test_close_cuts_answers_off_without_a_word(rig: DeskRig) -> None:
    answered, first, second = rig.asked(1), rig.asked(2), rig.asked(3)
    answered.ok()
    rig.sent()
    rig.desk.close()
    assert rig.desk.open == 0
    for answer in (first, second):
        with pytest.raises(NodeClosedError):
            answer.ok()
        assert not answer.answered
    assert answered.answered
    del first, second, answer
    assert rig.sent() == []


def test_close_while_a_drop_is_still_posted_forgets_it(rig: DeskRig) -> None:
    rig.asked()
    assert rig.desk.open == 1
    rig.desk.close()
    assert rig.desk.open == 0
    assert rig.sent() == []


@pytest.mark.parametrize("order", range(6))
def test_answers_end_in_any_order(kernels: ModuleType, order: int) -> None:
    with DeskRig(kernels, answers=1_000) as rig:
        rng = random.Random(order)
        kept = [rig.asked(call_id) for call_id in range(200)]
        rng.shuffle(kept)
        for left in reversed(range(200)):
            answer = kept.pop()
            if rng.random() < 0.5:
                answer.ok()
            del answer
            rig.turn()
            assert rig.desk.open == left
        assert sorted(sent.call_id for sent in rig.sent()) == list(range(200))
