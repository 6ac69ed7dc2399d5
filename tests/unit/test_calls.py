"""Calls between nodes: every way they end, exactly once, and every bound."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from netcore import (
    AnswerDropped,
    Busy,
    CallAnswer,
    CallError,
    CallTimeout,
    LocalError,
    MessageTooBigError,
    NetworkBehavior,
    Node,
    NodeClosedError,
    NoRouteError,
    NotHandled,
    QueueFullError,
    RemoteFailure,
    RouteRule,
    ServiceNotFound,
    wire,
)
from netcore._backend import BackendName
from support.calls import call_id_of, ok_bytes, request_bytes
from support.virtual import Cluster, Log, Spy, check_log, cluster_of

Answers = list[CallAnswer]


@pytest.fixture
def cluster(backend: BackendName) -> Iterator[Cluster]:
    with cluster_of(backend) as made:
        yield made


def echo(agent: Any, req: Any, res: Any) -> bool:
    res.ok(req.payload)
    return True


def keep(kept: list[Any]) -> Any:
    """Return an ``on_rpc`` that leaves the answer for later."""

    def on_rpc(agent: Any, req: Any, res: Any) -> bool:
        kept.append(res)
        return True

    return on_rpc


def pair(cluster: Cluster, rpc: Any, **config: Any) -> tuple[Node, Node]:
    """Return a caller and a callee of service 10, linked."""
    caller, callee = cluster.add(1, Spy()), cluster.add(2, Spy(rpc=rpc), **config)
    cluster.join(caller, callee)
    return caller, callee


def call(cluster: Cluster, node: Node, rule: RouteRule | None = None, **how: Any) -> CallAnswer:
    """Call service 10 and return the answer once it is there, at most the timeout later."""
    answers: Answers = []
    service = how.pop("service", 10)
    rule = RouteRule.node(2) if rule is None else rule
    payload = how.pop("payload", b"x")
    node.agent(10).call(rule, service, payload, answers.append, **how)
    assert not answers  # never inside the call
    cluster.until(lambda: answers)
    cluster.settle()
    (answer,) = answers
    return answer


# -- answers -------------------------------------------------------------------------------------


def test_call_is_answered_with_a_payload(cluster: Cluster) -> None:
    caller, callee = pair(cluster, echo)
    answer = call(cluster, caller, payload=b"hello")
    assert (answer.ok, answer.payload, answer.error) == (True, b"hello", None)
    assert answer.result() == b"hello"
    stats = caller.stats()
    assert (stats.calls_sent, stats.calls_failed, stats.calls_pending) == (1, 0, 0)
    assert callee.stats().calls_received == 1


def test_call_is_answered_over_many_hops(cluster: Cluster) -> None:
    nodes = [cluster.add(node_id, Spy(rpc=echo)) for node_id in range(1, 6)]
    cluster.chain(*nodes)
    assert call(cluster, nodes[0], RouteRule.node(5), payload=b"far").payload == b"far"
    assert nodes[4].stats().calls_received == 1


def test_call_to_the_node_closest_to_a_key(cluster: Cluster) -> None:
    caller, callee = pair(cluster, echo)
    cluster.advance(500)
    assert call(cluster, caller, RouteRule.closest(2)).payload == b"x"
    assert callee.stats().calls_received == 1


def test_call_to_the_nearest_node_with_a_service(cluster: Cluster) -> None:
    caller = cluster.add(1, Spy())
    middle, callee = cluster.add(2), cluster.add(3, Spy(77, rpc=echo))
    cluster.chain(caller, middle, callee)
    assert call(cluster, caller, RouteRule.service(), service=77).payload == b"x"


def test_call_to_the_own_node(cluster: Cluster) -> None:
    node = cluster.add(1, Spy(rpc=echo))
    for rule in (RouteRule.node(1), RouteRule.service(), RouteRule.direct(), RouteRule.closest(1)):
        assert call(cluster, node, rule).payload == b"x"
    assert node.stats().messages_sent == node.stats().messages_delivered == 8


def test_request_says_who_asks_what_and_until_when(cluster: Cluster) -> None:
    def on_rpc(agent: Any, req: Any, res: Any) -> bool:
        seen.append(req)
        left.append(req.deadline_ms - agent.now_ms)
        res.ok()
        return True

    seen: list[Any] = []
    left: list[int] = []
    caller, _ = pair(cluster, on_rpc)
    assert call(cluster, caller, timeout_ms=1_234).payload == b""
    (req,) = seen
    assert (req.payload, req.from_node, req.from_service, req.to_service) == (b"x", 1, 10, 10)
    assert req.sender_verified
    assert left == [1_234]


def test_call_may_be_answered_later(cluster: Cluster) -> None:
    def on_rpc(agent: Any, req: Any, res: Any) -> bool:
        agent.call_later(300, lambda: res.ok(b"later"))
        return True

    caller, _ = pair(cluster, on_rpc)
    begin = cluster.now_ms
    assert call(cluster, caller).payload == b"later"
    assert cluster.now_ms == begin + 300


def test_call_from_a_handler(cluster: Cluster) -> None:
    answers: Answers = []
    caller = cluster.add(
        1, Spy(opened=lambda agent: agent.call(RouteRule.node(2), 10, b"x", answers.append))
    )
    cluster.join(caller, cluster.add(2, Spy(rpc=echo)))
    assert [answer.payload for answer in answers] == [b"x"]


def test_many_calls_in_flight_get_each_its_own_answer(cluster: Cluster) -> None:
    def on_rpc(agent: Any, req: Any, res: Any) -> bool:
        delay_ms = (int(req.payload) * 7919) % 500
        agent.call_later(delay_ms, lambda: res.ok(b"<" + req.payload + b">"))
        return True

    caller, _ = pair(cluster, on_rpc)
    got: dict[int, list[bytes]] = {}
    for number in range(500):
        got[number] = []
        caller.agent(10).call(
            RouteRule.node(2),
            10,
            b"%d" % number,
            lambda answer, into=got[number]: into.append(answer.payload),  # type: ignore[misc]
        )
    cluster.advance(1_000)
    assert got == {number: [b"<%d>" % number] for number in range(500)}
    assert caller.stats().calls_pending == 0


def test_service_without_handlers_and_service_with_them_are_called_alike(cluster: Cluster) -> None:
    caller = cluster.add(1, Spy())
    spy = Spy(10, rpc=echo)
    cluster.join(caller, cluster.add(2, spy))
    call(cluster, caller)
    assert spy.log.details("rpc") == [b"x"]
    assert not spy.log.of("event", "message")


# -- errors --------------------------------------------------------------------------------------


def test_error_of_the_application_arrives_as_call_error(cluster: Cluster) -> None:
    def on_rpc(agent: Any, req: Any, res: Any) -> bool:
        res.error(400, "numbers, please")
        return True

    caller, _ = pair(cluster, on_rpc)
    answer = call(cluster, caller)
    assert type(answer.error) is CallError
    assert (answer.ok, answer.error.code, answer.error.text) == (False, 400, "numbers, please")
    with pytest.raises(CallError, match="numbers, please"):
        answer.result()
    assert caller.stats().calls_failed == 1


def test_false_means_not_handled(cluster: Cluster) -> None:
    caller, _ = pair(cluster, lambda agent, req, res: False)
    assert isinstance(call(cluster, caller).error, NotHandled)


def test_default_on_rpc_does_not_handle(cluster: Cluster) -> None:
    class Plain(NetworkBehavior):
        service_id = 10

    caller = cluster.add(1, Spy())
    cluster.join(caller, cluster.add(2, Plain()))
    assert isinstance(call(cluster, caller).error, NotHandled)


def test_false_after_an_answer_changes_nothing(cluster: Cluster) -> None:
    def on_rpc(agent: Any, req: Any, res: Any) -> bool:
        res.ok(b"answered")
        return False

    caller, _ = pair(cluster, on_rpc)
    assert call(cluster, caller).payload == b"answered"
    assert caller.stats().answers_late == 0


def test_unknown_service_is_service_not_found(cluster: Cluster) -> None:
    caller, callee = pair(cluster, echo)
    error = call(cluster, caller, service=99).error
    assert isinstance(error, ServiceNotFound)
    assert "99" in error.text
    cluster.settle()
    assert len(callee.connections) == 1


def test_unknown_service_of_the_own_node_is_service_not_found(cluster: Cluster) -> None:
    node = cluster.add(1, Spy())
    assert isinstance(call(cluster, node, RouteRule.node(1), service=99).error, ServiceNotFound)


def test_exception_is_remote_failure_and_its_text_stays_there(
    cluster: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    def on_rpc(agent: Any, req: Any, res: Any) -> bool:
        raise ValueError("the password is swordfish")

    caller, callee = pair(cluster, on_rpc)
    error = call(cluster, caller).error
    assert isinstance(error, RemoteFailure)
    assert "swordfish" not in str(error)
    assert callee.stats().hook_errors == 1
    (record,) = caplog.records
    assert "swordfish" in caplog.text
    assert record.name == "netcore.plane"


def test_exception_after_the_answer_does_not_change_it(cluster: Cluster) -> None:
    def on_rpc(agent: Any, req: Any, res: Any) -> bool:
        res.ok(b"answered")
        raise ValueError

    caller, _ = pair(cluster, on_rpc)
    assert call(cluster, caller).payload == b"answered"


def test_answer_object_let_go_is_answer_dropped(cluster: Cluster) -> None:
    caller, _ = pair(cluster, lambda agent, req, res: True)
    assert isinstance(call(cluster, caller).error, AnswerDropped)


def test_answer_object_in_a_cycle_is_dropped_by_the_collector(cluster: Cluster) -> None:
    def on_rpc(agent: Any, req: Any, res: Any) -> bool:
        cycle: list[object] = [res]
        cycle.append(cycle)
        return True

    caller, _ = pair(cluster, on_rpc)
    answers: Answers = []
    caller.agent(10).call(RouteRule.node(2), 10, b"", answers.append)
    cluster.settle()
    gc.collect()
    cluster.settle()
    (answer,) = answers
    assert isinstance(answer.error, AnswerDropped)


def test_no_answer_is_call_timeout_at_the_deadline(cluster: Cluster) -> None:
    kept: list[Any] = []
    caller, _ = pair(cluster, keep(kept))
    begin = cluster.now_ms
    error = call(cluster, caller, timeout_ms=700).error
    assert isinstance(error, CallTimeout)
    assert "700 ms" in str(error)
    assert cluster.now_ms == begin + 700
    assert caller.stats().calls_failed == 1


def test_timeouts_come_in_the_order_of_their_deadlines(cluster: Cluster) -> None:
    kept: list[Any] = []
    caller, _ = pair(cluster, keep(kept))
    order: list[int] = []
    for timeout_ms in (500, 100, 900, 300):
        caller.agent(10).call(
            RouteRule.node(2),
            10,
            b"",
            lambda answer, ms=timeout_ms: order.append(ms),  # type: ignore[misc]
            timeout_ms,
        )
    cluster.advance(1_000)
    assert order == [100, 300, 500, 900]


def test_call_over_a_link_that_dies_is_a_timeout(cluster: Cluster) -> None:
    caller, callee = pair(cluster, echo)
    cluster.frozen.add(callee)
    assert isinstance(call(cluster, caller, timeout_ms=2_000).error, CallTimeout)


def test_late_answer_is_counted_and_otherwise_ignored(cluster: Cluster) -> None:
    def on_rpc(agent: Any, req: Any, res: Any) -> bool:
        agent.call_later(500, res.ok)
        return True

    caller, _ = pair(cluster, on_rpc)
    assert isinstance(call(cluster, caller, timeout_ms=100).error, CallTimeout)
    cluster.advance(1_000)
    assert caller.stats().answers_late == 1


def test_answer_of_another_node_than_the_one_asked_is_ignored(cluster: Cluster) -> None:
    kept: list[Any] = []
    caller, _ = pair(cluster, keep(kept))
    liar = cluster.add(3, Spy())
    cluster.join(liar, caller)
    answers: Answers = []
    caller.agent(10).call(RouteRule.node(2), 10, b"", answers.append)
    cluster.settle()
    forged = ok_bytes(call_id_of(kept[0]), b"forged")
    liar._switch.originate(wire.KIND_CALL, wire.ROUTE_NODE, 1, forged, 10, 10)
    cluster.settle()
    assert not answers
    assert caller.stats().answers_late == 1
    kept[0].ok(b"true")
    cluster.settle()
    assert [answer.payload for answer in answers] == [b"true"]


def test_answer_seen_twice_ends_the_call_once(cluster: Cluster) -> None:
    kept: list[Any] = []
    caller, callee = pair(cluster, keep(kept))
    answers: Answers = []
    caller.agent(10).call(RouteRule.node(2), 10, b"", answers.append)
    cluster.settle()
    for _ in range(3):
        answer = ok_bytes(call_id_of(kept[0]), b"again")
        callee._switch.originate(wire.KIND_CALL, wire.ROUTE_NODE, 1, answer, 10, 10)
    cluster.settle()
    assert len(answers) == 1
    assert caller.stats().answers_late == 2


def test_request_seen_twice_runs_twice_but_ends_the_call_once(cluster: Cluster) -> None:
    # netcore itself never repeats a request; a network that does must not confuse the caller.
    kept: list[Any] = []
    spy = Spy(rpc=keep(kept))
    caller, callee = cluster.add(1, Spy()), cluster.add(2, spy)
    cluster.join(caller, callee)
    answers: Answers = []
    caller.agent(10).call(RouteRule.node(2), 10, b"x", answers.append)
    cluster.settle()
    request = request_bytes(call_id_of(kept[0]), b"x")
    caller._switch.originate(wire.KIND_CALL, wire.ROUTE_NODE, 2, request, 10, 10)
    cluster.settle()
    assert len(spy.log.of("rpc")) == 2
    for answer in kept:
        answer.ok()
    cluster.settle()
    assert len(answers) == 1
    assert caller.stats().answers_late == 1


@pytest.mark.parametrize(
    "payload", [b"", b"\x09", b"\x01\x00", b"\x03" + bytes(8), b"\x02"], ids=bytes.hex
)
def test_malformed_call_is_counted_and_the_link_lives(cluster: Cluster, payload: bytes) -> None:
    caller, callee = pair(cluster, echo)
    caller._switch.originate(wire.KIND_CALL, wire.ROUTE_NODE, 2, payload, 10, 10)
    cluster.settle()
    assert callee.stats().calls_malformed == 1
    assert callee.stats().protocol_errors == 0
    assert call(cluster, caller).ok


# -- the answer object ---------------------------------------------------------------------------


def test_second_answer_raises_and_is_not_sent(cluster: Cluster) -> None:
    def on_rpc(agent: Any, req: Any, res: Any) -> bool:
        res.ok(b"first")
        with pytest.raises(LocalError, match="already answered"):
            res.ok(b"second")
        with pytest.raises(LocalError, match="already answered"):
            res.error(400)
        return True

    caller, callee = pair(cluster, on_rpc)
    assert call(cluster, caller).payload == b"first"
    assert callee.stats().hook_errors == 0


def test_answer_that_is_too_big_may_be_given_smaller(cluster: Cluster) -> None:
    def on_rpc(agent: Any, req: Any, res: Any) -> bool:
        with pytest.raises(MessageTooBigError):
            res.ok(bytes(5_000))
        res.error(413, "too big")
        return True

    caller, callee = pair(cluster, on_rpc, max_frame_bytes=4_096)
    error = call(cluster, caller).error
    assert error is not None
    assert error.code == 413
    assert callee.stats().hook_errors == 0


def test_answer_to_a_caller_that_is_gone_raises_no_route(cluster: Cluster) -> None:
    kept: list[Any] = []
    caller, _ = pair(cluster, keep(kept))
    caller.agent(10).call(RouteRule.node(2), 10, b"", lambda answer: None)
    cluster.settle()
    caller.close()
    cluster.settle()
    with pytest.raises(NoRouteError):
        kept[0].ok()


def test_answer_of_a_closed_node_raises(cluster: Cluster) -> None:
    kept: list[Any] = []
    caller, callee = pair(cluster, keep(kept))
    caller.agent(10).call(RouteRule.node(2), 10, b"", lambda answer: None)
    cluster.settle()
    callee.close()
    with pytest.raises(NodeClosedError):
        kept[0].ok()


def test_interrupted_on_rpc_is_remote_failure(cluster: Cluster) -> None:
    def on_rpc(agent: Any, req: Any, res: Any) -> bool:
        raise KeyboardInterrupt

    caller, _ = pair(cluster, on_rpc)
    cluster.caught = []
    assert isinstance(call(cluster, caller).error, RemoteFailure)
    assert len(cluster.caught) == 1


# -- on_done -------------------------------------------------------------------------------------


def test_on_done_follows_exactly_once_when_the_node_closes(cluster: Cluster) -> None:
    kept: list[Any] = []
    caller, _ = pair(cluster, keep(kept))
    answers: Answers = []
    for _ in range(5):
        caller.agent(10).call(RouteRule.node(2), 10, b"", answers.append)
    cluster.settle()
    caller.close()
    assert len(answers) == 5
    assert {type(answer.error) for answer in answers} == {CallError}
    assert "closed" in str(answers[0].error)


def test_call_begun_in_the_last_on_done_is_refused(cluster: Cluster) -> None:
    def again(answer: CallAnswer) -> None:
        answers.append(answer)
        caller.agent(10).call(RouteRule.node(1), 10, b"", again)

    answers: Answers = []
    kept: list[Any] = []
    log = Log()
    caller = cluster.add(1, Spy(10, log, rpc=keep(kept)))
    caller.agent(10).call(RouteRule.node(1), 10, b"", again)
    cluster.settle()
    caller.close()
    assert len(answers) == 1
    assert caller.stats().hook_errors == 0
    check_log(log, [10])


def test_on_done_that_raises_is_counted_and_the_others_follow(cluster: Cluster) -> None:
    def fail(answer: CallAnswer) -> None:
        raise ValueError

    kept: list[Any] = []
    caller, _ = pair(cluster, keep(kept))
    answers: Answers = []
    for on_done in (fail, answers.append, fail, answers.append):
        caller.agent(10).call(RouteRule.node(2), 10, b"", on_done, 100)
    cluster.advance(200)
    assert len(answers) == 2
    assert caller.stats().hook_errors == 2


def test_on_done_is_not_called_when_call_raises(cluster: Cluster) -> None:
    answers: Answers = []
    node = cluster.add(1, Spy(), max_frame_bytes=4_096)
    agent = node.agent(10)
    for error, rule, payload, timeout_ms in (
        (NoRouteError, RouteRule.node(9), b"", 100),
        (MessageTooBigError, RouteRule.node(1), bytes(5_000), 100),
        (LocalError, RouteRule.node(1), b"", 0),
        (LocalError, RouteRule.node(1), b"", 1 << 32),
        (TypeError, RouteRule.node(1), "text", 100),
    ):
        with pytest.raises(error):
            agent.call(rule, 10, payload, answers.append, timeout_ms)  # type: ignore[arg-type]
    cluster.advance(1_000)
    assert not answers
    assert node.stats().calls_pending == 0


def test_on_done_that_cannot_be_called_raises(cluster: Cluster) -> None:
    node = cluster.add(1, Spy())
    with pytest.raises(TypeError, match="on_done"):
        node.agent(10).call(RouteRule.node(1), 10, b"", None)  # type: ignore[arg-type]


# -- bounds --------------------------------------------------------------------------------------


def test_calls_beyond_max_pending_calls_are_refused(cluster: Cluster) -> None:
    kept: list[Any] = []
    caller = cluster.add(1, Spy(), max_pending_calls=3)
    callee = cluster.add(2, Spy(rpc=keep(kept)))
    cluster.join(caller, callee)
    answers: Answers = []
    for _ in range(3):
        caller.agent(10).call(RouteRule.node(2), 10, b"", answers.append)
    with pytest.raises(QueueFullError) as caught:
        caller.agent(10).call(RouteRule.node(2), 10, b"", answers.append)
    assert (caught.value.queue, caught.value.limit) == ("max_pending_calls", 3)
    assert (caller.stats().calls_refused, caller.stats().calls_pending) == (1, 3)
    cluster.settle()
    kept[0].ok()
    cluster.settle()
    caller.agent(10).call(RouteRule.node(2), 10, b"", answers.append)
    assert caller.stats().calls_refused == 1


def test_requests_beyond_max_answers_open_get_busy(cluster: Cluster) -> None:
    kept: list[Any] = []
    caller, callee = pair(cluster, keep(kept), max_answers_open=2)
    answers: Answers = []
    for _ in range(4):
        caller.agent(10).call(RouteRule.node(2), 10, b"", answers.append)
    cluster.settle()
    assert [type(answer.error) for answer in answers] == [Busy, Busy]
    assert callee.stats().calls_busy == 2
    kept.pop().ok()
    cluster.settle()
    assert answers[-1].ok
    caller.agent(10).call(RouteRule.node(2), 10, b"", answers.append)
    cluster.settle()
    assert len(kept) == 2
    assert callee.stats().calls_busy == 2


# -- Node.call -----------------------------------------------------------------------------------


def test_node_call_returns_the_answer_of_the_own_node(cluster: Cluster) -> None:
    node = cluster.add(1, Spy(rpc=echo))
    assert node.call(RouteRule.node(1), 10, b"payload") == b"payload"


def test_node_call_raises_the_error(cluster: Cluster) -> None:
    node = cluster.add(1, Spy())
    with pytest.raises(NotHandled):
        node.call(RouteRule.service(), 10, b"")
    with pytest.raises(NoRouteError):
        node.call(RouteRule.node(2), 10, b"")


def test_node_call_inside_a_hook_raises(cluster: Cluster) -> None:
    def on_message(agent: Any, message: Any) -> None:
        with pytest.raises(RuntimeError, match=r"call\(\) inside a hook"):
            node.call(RouteRule.node(1), 10, b"")

    node = cluster.add(1, Spy(message=on_message))
    node.agent(10).send_local(b"")
    cluster.settle()
    assert node.stats().hook_errors == 0


def test_node_call_whose_node_closes_meanwhile_raises(cluster: Cluster) -> None:
    def on_rpc(agent: Any, req: Any, res: Any) -> bool:
        kept.append(res)
        node.close()
        return True

    kept: list[Any] = []
    node = cluster.add(1, Spy(rpc=on_rpc))
    with pytest.raises(CallError, match="closed"):
        node.call(RouteRule.node(1), 10, b"")
    assert node.closed


def test_node_call_drives_the_node_until_the_answer_of_another(backend: BackendName) -> None:
    callee = Node(2, [Spy(rpc=echo)], backend=backend)
    addr = callee.listen("/ip4/127.0.0.1/tcp/0")
    thread = threading.Thread(target=callee.run)
    thread.start()
    try:
        with Node(1, backend=backend) as node:
            node.connect(addr)
            node.wait_connected(2)
            assert node.call(RouteRule.node(2), 10, b"over tcp") == b"over tcp"
            with pytest.raises(ServiceNotFound):
                node.call(RouteRule.node(2), 11, b"")
    finally:
        callee.stop()
        thread.join()
        callee.close()
