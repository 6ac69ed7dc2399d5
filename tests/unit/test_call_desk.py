"""The caller's side of a call desk: ids, envelopes, answers, deadlines, bounds."""

from __future__ import annotations

import gc
import random
import weakref
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest

from netcore import RouteRule, errors, wire
from netcore.errors import (
    CallError,
    CallTimeout,
    ForkedNodeError,
    LocalError,
    MessageTooBigError,
    NodeClosedError,
    NoRouteError,
    QueueFullError,
    SendQueueFullError,
)
from netcore.route import RouteAction
from support.calls import CALLER, DeskRig, error_bytes, ok_bytes, request_bytes
from support.sinks import NODE, NODE_A, NODE_B

SERVICE = RouteRule.service()


@pytest.fixture
def rig(kernels: ModuleType) -> Iterator[DeskRig]:
    with DeskRig(kernels) as made:
        yield made


class Ids:
    """A source of randomness that says which call ids come."""

    def __init__(self, *ids: int) -> None:
        self.ids = ids
        self.draws = 0

    def randbytes(self, n: int) -> bytes:
        self.draws += 1
        ids = [*self.ids, *range(1 << 32, (1 << 32) + n // 8)][: n // 8]
        return b"".join(number.to_bytes(8, "big") for number in ids)


# -- requests --------------------------------------------------------------------------------------


def test_request_leaves_as_the_protocol_says(kernels: ModuleType) -> None:
    with DeskRig(kernels, rng=Ids(0x0102030405060708)) as rig:
        rig.call(b"1 2", timeout_ms=5_000)
        [sent] = rig.sent()
        assert sent.envelope == bytes.fromhex("01 0102030405060708 00001388 312032")
        assert (sent.route, sent.from_service, sent.to_service) == (RouteRule.node(NODE_A), 1, 2)
        assert rig.desk.sent == 1


def test_call_ids_are_what_the_injected_randomness_says(kernels: ModuleType) -> None:
    rng = Ids(7, 5, 0, (1 << 64) - 1)
    with DeskRig(kernels, rng=rng) as rig:
        assert [rig.begin() for _ in range(4)] == [7, 5, 0, (1 << 64) - 1]
        assert rng.draws == 1


def test_call_ids_come_from_a_new_block_when_one_is_used_up(kernels: ModuleType) -> None:
    rng = random.Random(3)
    expected = random.Random(3)
    blocks = [expected.randbytes(4096) for _ in range(2)]
    with DeskRig(kernels, rng=rng, pending=1_000) as rig:
        for _ in range(600):
            rig.call()
        ids = b"".join(sent.call_id.to_bytes(8, "big") for sent in rig.sent())
    assert ids == b"".join(blocks)[: 600 * 8]


def test_desk_that_never_calls_draws_nothing(kernels: ModuleType) -> None:
    rng = Ids()
    with DeskRig(kernels, rng=rng) as rig:
        rig.serve(lambda agent, request, answer: answer.ok() or True)
        rig.feed(request_bytes(1))
    assert rng.draws == 0


@pytest.mark.parametrize("make", [bytearray, memoryview])
def test_payload_may_be_any_bytes_like(rig: DeskRig, make: Any) -> None:
    rig.call(make(b"3"))
    assert rig.sent()[0].envelope[13:] == b"3"


@pytest.mark.parametrize("size", [0, 16_370, 16_384, 100_000])
def test_payload_of_any_size_leaves_whole(rig: DeskRig, size: int) -> None:
    payload = random.Random(size).randbytes(size)
    rig.call(payload)
    assert rig.sent()[0].envelope[13:] == payload


def test_call_by_key_and_service_go_where_the_table_says(rig: DeskRig) -> None:
    rig.table.set_service_next(2, rig.conn.conn_id, NODE_A)
    for rule in (SERVICE, RouteRule.closest(NODE_A), RouteRule.service(7)):
        rig.call(rule=rule)
    assert [sent.route for sent in rig.sent()] == [
        SERVICE, RouteRule.closest(NODE_A), RouteRule.service(7)
    ]  # fmt: skip


def test_call_to_the_own_node_is_answered_by_it(rig: DeskRig) -> None:
    rig.serve(lambda agent, request, answer: answer.ok(b"<" + request.payload + b">") or True)
    for rule in (RouteRule.node(NODE), RouteRule.direct()):
        rig.call(b"x", rule=rule)
    assert not rig.done
    rig.turn(2)
    assert [answer.payload for answer in rig.done] == [b"<x>", b"<x>"]
    assert rig.switch.counters()["messages_sent"] == 4


# -- what a call refuses ---------------------------------------------------------------------------


def refuses(rig: DeskRig, error: type[Exception], text: str, **how: Any) -> None:
    with pytest.raises(error, match=text):
        rig.call(**how)
    assert (rig.sent(), rig.done, rig.desk.pending, rig.desk.sent) == ([], [], 0, 0)
    assert rig.loop.timers == 0


@pytest.mark.parametrize("timeout_ms", [0, -1, 1 << 32, 1 << 80, 2.5, True, None])
def test_bad_timeout_raises_local_error(rig: DeskRig, timeout_ms: Any) -> None:
    refuses(rig, LocalError, "timeout_ms must be an int in 1", timeout_ms=timeout_ms)


def test_on_done_that_cannot_be_called_raises(rig: DeskRig) -> None:
    refuses(rig, TypeError, "on_done must be callable, not int", on_done=3)


def test_rule_that_is_none_raises(rig: DeskRig) -> None:
    refuses(rig, TypeError, "a rule is a RouteRule, not str", rule="node 7")


def test_payload_that_is_not_bytes_raises(rig: DeskRig) -> None:
    refuses(rig, TypeError, "a payload is bytes, bytearray or memoryview, not str", payload="x")


@pytest.mark.parametrize("service_id", [-1, 256, 1 << 70])
def test_service_out_of_range_raises(rig: DeskRig, service_id: int) -> None:
    refuses(rig, ValueError, r"to_service must be an int in 0\.\.255", to_service=service_id)
    refuses(rig, ValueError, r"from_service must be an int in 0\.\.255", from_service=service_id)


def test_call_to_nowhere_raises_no_route(rig: DeskRig) -> None:
    refuses(rig, NoRouteError, f"node {NODE_B}", rule=RouteRule.node(NODE_B))
    refuses(rig, NoRouteError, "service 2", rule=SERVICE)


def test_call_that_is_too_big_raises(kernels: ModuleType) -> None:
    with DeskRig(kernels, max_frame_bytes=4_096) as rig:
        refuses(rig, MessageTooBigError, "4097 bytes", payload=bytes(4_096 - 16 - 13 + 1))
        rig.call(bytes(4_096 - 16 - 13))


def test_call_over_a_full_link_raises(kernels: ModuleType) -> None:
    with DeskRig(kernels, write_high_bytes=1_000, write_low_bytes=500) as rig:
        rig.stream.room = 0
        rig.call(bytes(1_000))
        with pytest.raises(SendQueueFullError):
            rig.call()
        assert (rig.desk.pending, rig.conn.sends_refused) == (1, 1)


def test_calls_to_the_own_node_beyond_its_queue_raise(kernels: ModuleType) -> None:
    with DeskRig(kernels, local_queue_bytes=100) as rig:
        rig.call(bytes(100), rule=RouteRule.node(NODE))
        with pytest.raises(QueueFullError, match="local_queue_bytes"):
            rig.call(rule=RouteRule.node(NODE))
        assert rig.desk.pending == 1


def test_calls_beyond_the_limit_raise_and_are_counted(kernels: ModuleType) -> None:
    with DeskRig(kernels, pending=2) as rig:
        first = rig.begin()
        rig.call()
        with pytest.raises(QueueFullError) as caught:
            rig.call()
        assert (caught.value.queue, caught.value.limit) == ("max_pending_calls", 2)
        assert (rig.desk.refused, rig.desk.pending) == (1, 2)
        rig.feed(ok_bytes(first))
        rig.call()
        assert rig.desk.refused == 1


def test_call_id_in_use_raises_and_keeps_the_first(kernels: ModuleType) -> None:
    with DeskRig(kernels, rng=Ids(1, 1)) as rig:
        rig.call()
        with pytest.raises(LocalError, match="call id 0x1 is in use"):
            rig.call(on_done=print)
        rig.feed(ok_bytes(1, b"first"))
        assert [answer.payload for answer in rig.done] == [b"first"]


@pytest.mark.parametrize("error", [NodeClosedError(), ForkedNodeError()])
def test_desk_told_to_refuse_raises_that(rig: DeskRig, error: NodeClosedError) -> None:
    rig.desk.refuse(error)
    refuses(rig, type(error), str(error))


def test_desk_without_a_switch_refuses(kernels: ModuleType) -> None:
    with DeskRig(kernels) as rig:
        desk = kernels.CallDesk(rig.loop, random.Random(), rig.hooks, 1, 1)
        with pytest.raises(NodeClosedError):
            desk.call(1, SERVICE, 2, b"", print, 50)


def test_port_calls_in_the_name_of_its_service(rig: DeskRig, kernels: ModuleType) -> None:
    kernels.Port(rig.switch, CALLER).call(RouteRule.node(NODE_A), 9, b"x", rig.done.append, 70)
    [sent] = rig.sent()
    assert (sent.from_service, sent.to_service, sent.envelope[9:]) == (1, 9, b"\0\0\0\x46x")


def test_port_of_a_switch_without_a_desk_refuses(kernels: ModuleType) -> None:
    with DeskRig(kernels) as rig:
        rig.switch = kernels.Switch(
            rig.loop, rig.table, rig.sink, node_id=1, max_frame_bytes=1, read_budget_bytes=1,
            write_high_bytes=1, write_low_bytes=1, control_queue_bytes=1, local_queue_bytes=1,
            close_timeout_ms=1,
        )  # fmt: skip
        with pytest.raises(LocalError, match="nobody takes calls"):
            kernels.Port(rig.switch, 1).call(SERVICE, 1, b"", print)


# -- answers ---------------------------------------------------------------------------------------


def test_answer_ends_the_call_once(rig: DeskRig) -> None:
    call_id = rig.begin()
    rig.feed(ok_bytes(call_id, b"6"))
    rig.feed(ok_bytes(call_id, b"again"))
    [answer] = rig.done
    assert (answer.ok, answer.payload, answer.error) == (True, b"6", None)
    assert (rig.desk.pending, rig.desk.late, rig.desk.failed) == (0, 1, 0)


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (wire.RPC_SERVICE_NOT_FOUND, errors.ServiceNotFound),
        (wire.RPC_NOT_HANDLED, errors.NotHandled),
        (wire.RPC_INTERNAL, errors.RemoteFailure),
        (wire.RPC_DROPPED, errors.AnswerDropped),
        (wire.RPC_BUSY, errors.Busy),
        (200, CallError),
        (256, CallError),
        (65_535, CallError),
    ],
)
def test_error_ends_the_call_with_its_own_type(
    rig: DeskRig, code: int, kind: type[CallError]
) -> None:
    rig.feed(error_bytes(rig.begin(), code, "n\u00f6".encode()))
    [answer] = rig.done
    assert (answer.ok, answer.payload) == (False, b"")
    assert type(answer.error) is kind
    assert (answer.error.code, answer.error.text) == (code, "n\u00f6")
    assert rig.desk.failed == 1


def test_answer_with_an_id_nobody_waits_for_is_late(rig: DeskRig) -> None:
    call_id = rig.begin()
    rig.feed(ok_bytes(call_id ^ 1))
    rig.feed(error_bytes(call_id ^ 2, 3))
    assert (rig.done, rig.desk.late, rig.desk.pending) == ([], 2, 1)


def test_answer_of_another_node_leaves_the_call_waiting(rig: DeskRig) -> None:
    call_id = rig.begin()
    rig.feed(ok_bytes(call_id, b"forged"), from_node=NODE_B)
    rig.feed(error_bytes(call_id, 3), from_node=NODE_B)
    assert (rig.done, rig.desk.late) == ([], 2)
    rig.feed(ok_bytes(call_id, b"true"))
    assert [answer.payload for answer in rig.done] == [b"true"]


def test_answer_without_a_sender_does_not_end_a_call_to_a_node(rig: DeskRig) -> None:
    call_id = rig.begin()
    header = bytes([0x08, 64, 2, 1]) + bytes(4) + NODE.to_bytes(4, "big")
    body = header + ok_bytes(call_id, b"forged")
    rig.conn.receive_data((wire.KIND_CALL << 24 | len(body)).to_bytes(4, "big") + body)
    assert (rig.done, rig.desk.late) == ([], 1)


def test_direct_answer_without_a_sender_is_from_the_link(rig: DeskRig) -> None:
    body = bytes([0x00, 64, 2, 1]) + bytes(4) + ok_bytes(rig.begin(), b"6")
    rig.conn.receive_data((wire.KIND_CALL << 24 | len(body)).to_bytes(4, "big") + body)
    assert [answer.payload for answer in rig.done] == [b"6"]


@pytest.mark.parametrize("from_node", [NODE_A, NODE_B, 0])
def test_call_to_a_service_takes_an_answer_of_any_node(rig: DeskRig, from_node: int) -> None:
    rig.table.set_service_next(2, rig.conn.conn_id, NODE_A)
    rig.feed(ok_bytes(rig.begin(rule=SERVICE), b"6"), from_node=from_node)
    assert [answer.payload for answer in rig.done] == [b"6"]


@pytest.mark.parametrize("size", [0, 1_000, 40_000])
def test_answer_of_any_size_arrives_whole(rig: DeskRig, size: int) -> None:
    payload = random.Random(size).randbytes(size)
    rig.feed(ok_bytes(rig.begin(), payload))
    assert rig.done[0].payload == payload


MALFORMED = [
    *[ok_bytes(1)[:size] for size in range(9)],
    *[request_bytes(1)[:size] for size in range(1, 13)],
    *[error_bytes(1, 400)[:size] for size in range(1, 11)],
    *[bytes([kind]) + ok_bytes(1)[1:] + bytes(9) for kind in (0, 4, 255)],
    error_bytes(1, 0),
    error_bytes(1, 400, b"x" * 201),
    error_bytes(1, 400, b"ab\xff"),
]


@pytest.mark.parametrize("envelope", MALFORMED, ids=lambda envelope: envelope[:14].hex())
def test_malformed_envelope_is_counted_and_the_link_lives(
    kernels: ModuleType, envelope: bytes
) -> None:
    with DeskRig(kernels, rng=Ids(1)) as rig:
        rig.call()
        rig.feed(envelope)
        assert (rig.desk.malformed, rig.desk.late, rig.desk.pending) == (1, 0, 1)
        rig.feed(ok_bytes(1))
        assert len(rig.done) == 1
        assert rig.switch.counters()["protocol_errors"] == 0


def test_longest_error_text_arrives(rig: DeskRig) -> None:
    rig.feed(error_bytes(rig.begin(), 400, b"x" * 200))
    assert rig.done[0].error.text == "x" * 200


def test_message_object_is_taken_like_a_frame(rig: DeskRig, kernels: ModuleType) -> None:
    call_id = rig.begin()
    rig.desk.on_call(kernels.Message(ok_bytes(call_id), from_node=NODE_B, to_service=1))
    assert rig.desk.late == 1
    rig.desk.on_call(kernels.Message(ok_bytes(call_id, b"6"), from_node=NODE_A, to_service=1))
    assert [answer.payload for answer in rig.done] == [b"6"]


# -- on_done ---------------------------------------------------------------------------------------


def test_on_done_may_call_again(rig: DeskRig) -> None:
    def again(answer: Any) -> None:
        rig.done.append(answer)
        rig.call(on_done=again)

    rig.call(on_done=again)
    for _ in range(200):
        rig.feed(ok_bytes(rig.sent()[0].call_id))
    assert (len(rig.done), rig.desk.pending, rig.desk.sent) == (200, 1, 201)


def test_on_done_that_raises_is_reported_and_the_call_has_ended(rig: DeskRig) -> None:
    def fail(answer: Any) -> None:
        raise RuntimeError("on_done")

    rig.feed(ok_bytes(rig.begin(on_done=fail)))
    assert [str(error) for error in rig.hooks.errors] == ["on_done"]
    assert (rig.desk.pending, rig.hooks.held) == (0, [])


def test_on_done_that_is_interrupted_is_held(rig: DeskRig) -> None:
    def fail(answer: Any) -> None:
        raise KeyboardInterrupt

    rig.feed(ok_bytes(rig.begin(on_done=fail)))
    rig.feed(ok_bytes(rig.begin()))
    assert [type(exc) for exc in rig.hooks.held] == [KeyboardInterrupt]
    assert (len(rig.done), rig.hooks.errors) == (1, [])


class Callback:
    """An ``on_done`` that can be watched."""

    def __call__(self, answer: Any) -> None:
        """Do nothing."""


@pytest.mark.parametrize("end", ["answer", "timeout", "close", "refused"])
def test_ended_call_lets_go_of_its_on_done(rig: DeskRig, end: str) -> None:
    callback = Callback()
    kept = weakref.ref(callback)
    if end == "refused":
        with pytest.raises(NoRouteError):
            rig.call(on_done=callback, rule=SERVICE)
    else:
        call_id = rig.begin(on_done=callback)
        del callback
        assert kept() is not None
        if end == "answer":
            rig.feed(ok_bytes(call_id))
        elif end == "close":
            rig.desk.close()
        else:
            rig.clock.now_ms += 50
            rig.turn()
    callback = None  # type: ignore[assignment]
    assert kept() is None


def test_pending_call_does_not_keep_a_node_that_was_let_go(kernels: ModuleType) -> None:
    rig = DeskRig(kernels)
    kept = weakref.ref(rig)
    rig.call(on_done=lambda answer, rig=rig: None)  # type: ignore[misc]
    rig.close()
    del rig
    gc.collect()
    assert kept() is None


# -- deadlines -------------------------------------------------------------------------------------


def noting(order: list[int], number: int) -> Callable[[Any], None]:
    """Return an ``on_done`` that notes a number."""
    return lambda answer: order.append(number)


def pass_ms(rig: DeskRig, ms: int) -> None:
    rig.clock.now_ms += ms
    rig.turn()


def test_call_expires_at_its_deadline_and_not_before(rig: DeskRig) -> None:
    call_id = rig.begin(timeout_ms=50)
    pass_ms(rig, 49)
    assert not rig.done
    pass_ms(rig, 1)
    [answer] = rig.done
    assert type(answer.error) is CallTimeout
    assert (answer.error.code, answer.error.text) == (-1, "no answer within 50 ms")
    assert (rig.desk.failed, rig.desk.pending, rig.loop.timers) == (1, 0, 0)
    rig.feed(ok_bytes(call_id))
    assert (rig.desk.late, len(rig.done)) == (1, 1)


def test_calls_expire_by_deadline_and_equal_ones_as_started(rig: DeskRig) -> None:
    order: list[int] = []
    for number, timeout_ms in ((5, 30), (4, 10), (3, 20), (2, 10), (1, 99)):
        rig.call(on_done=noting(order, number), timeout_ms=timeout_ms)
    pass_ms(rig, 30)
    assert order == [4, 2, 3, 5]
    pass_ms(rig, 68)
    assert len(order) == 4
    pass_ms(rig, 1)
    assert order == [4, 2, 3, 5, 1]


def test_later_call_with_an_earlier_deadline_is_not_late(rig: DeskRig) -> None:
    rig.call(timeout_ms=1_000)
    rig.call(timeout_ms=10)
    assert rig.loop.timers == 1
    pass_ms(rig, 10)
    assert len(rig.done) == 1
    pass_ms(rig, 990)
    assert len(rig.done) == 2


def test_on_done_of_a_timeout_that_raises_delays_no_other(rig: DeskRig) -> None:
    def fail(answer: Any) -> None:
        raise RuntimeError

    for on_done in (fail, rig.done.append, fail, rig.done.append):
        rig.call(on_done=on_done)
    pass_ms(rig, 50)
    assert (len(rig.done), len(rig.hooks.errors), rig.desk.failed) == (2, 2, 4)


def test_call_begun_in_the_on_done_of_a_timeout_gets_its_own_time(rig: DeskRig) -> None:
    rig.call(on_done=lambda answer: rig.call())
    pass_ms(rig, 50)
    assert (rig.desk.pending, rig.done) == (1, [])
    pass_ms(rig, 50)
    assert len(rig.done) == 1


def test_answered_calls_cost_no_timer_each(rig: DeskRig) -> None:
    for _ in range(1_000):
        rig.feed(ok_bytes(rig.begin(timeout_ms=1_000_000)))
    assert rig.loop.timers == 1


@pytest.mark.parametrize("seed", range(10))
def test_many_random_calls_end_exactly_once(kernels: ModuleType, seed: int) -> None:
    rng = random.Random(seed)
    ended: dict[int, list[bool]] = {}
    open_ids: list[int] = []
    with DeskRig(kernels, rng=rng, pending=300) as rig:
        for number in range(2_000):
            pass_ms(rig, rng.randrange(3))
            ended[number] = []
            try:
                open_ids.append(
                    rig.begin(
                        on_done=lambda answer, n=number: ended[n].append(answer.ok),
                        timeout_ms=rng.randrange(1, 600),
                    )
                )
            except QueueFullError:
                assert rig.desk.pending == 300
                del ended[number]
            for _ in range(rng.randrange(3)):
                if open_ids:
                    rig.feed(ok_bytes(open_ids.pop(rng.randrange(len(open_ids)))))
        waiting = sum(not ends for ends in ended.values())
        assert waiting == rig.desk.pending
        pass_ms(rig, 1_000)
        assert {len(ends) for ends in ended.values()} == {1}
        assert (rig.desk.pending, rig.desk.sent) == (0, len(ended))
        assert rig.desk.failed == sum(not ok for [ok] in ended.values())


def test_table_that_was_large_and_empty_works_again(kernels: ModuleType) -> None:
    with DeskRig(kernels, pending=10_000, write_high_bytes=1 << 30) as rig:
        for _ in range(2):
            for _ in range(10_000):
                rig.call()
            for sent in rig.sent():
                rig.feed(ok_bytes(sent.call_id))
            assert rig.desk.pending == 0
        assert len(rig.done) == 20_000
        assert all(answer.ok for answer in rig.done)


# -- the end ---------------------------------------------------------------------------------------


def test_close_fails_every_call_in_the_order_of_their_start(rig: DeskRig) -> None:
    order: list[int] = []
    answered = rig.begin()
    for number in range(5):
        rig.call(on_done=noting(order, number), timeout_ms=100 - number)
    rig.feed(ok_bytes(answered))
    rig.call()
    rig.desk.close()
    assert order == [0, 1, 2, 3, 4]
    error = rig.done[-1].error
    assert (type(error), error.code, error.text) == (CallError, -2, "the node was closed")
    assert (rig.desk.pending, rig.desk.failed, rig.loop.timers) == (0, 6, 0)


def test_close_twice_ends_calls_once(rig: DeskRig) -> None:
    rig.call()
    rig.desk.close()
    rig.desk.close()
    assert len(rig.done) == 1


def test_on_done_of_a_closing_desk_cannot_call_again(rig: DeskRig) -> None:
    rig.call(on_done=lambda answer: rig.call())
    rig.desk.refuse(NodeClosedError())
    rig.desk.close()
    assert [type(error) for error in rig.hooks.errors] == [NodeClosedError]
    assert rig.desk.pending == 0


@pytest.mark.parametrize("action", [RouteAction.REJECT, RouteAction.LOCAL])
def test_desk_closed_by_the_router_ends_the_call_once(
    kernels: ModuleType, action: RouteAction
) -> None:
    class Router:
        def path_to(self, rule: RouteRule, service_id: int) -> RouteAction:
            made.desk.close()
            return action

    with DeskRig(kernels, router=Router()) as made:
        made.call()
        assert [str(answer.error) for answer in made.done] == [
            "call failed with code -2: the node was closed"
        ]
        assert made.desk.pending == made.loop.timers == 0
