"""The life of a node: started, stopped, closed, from everywhere and in the middle of everything."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from netcore import (
    BehaviorAgent,
    CallError,
    ConnectionAgent,
    ConnectionHandler,
    ConnectionSender,
    ConnectionStats,
    HandlerRoute,
    LocalError,
    Message,
    NetworkBehavior,
    Node,
    NodeClosedError,
    OutgoingConnectionError,
    QueueFullError,
    RouteRule,
    RpcAnswer,
    RpcRequest,
    SendQueueFullError,
)
from netcore._backend import BackendName
from support.hosts import open_fds
from support.nodes import (
    ADDER,
    ANY,
    DEADLINE_S,
    SINK,
    Nodes,
    RawPeer,
    closed_port,
    linked,
    nodes_of,
)

EVERY = 50
LONG_MS = 3_600_000


@pytest.fixture
def nodes(backend: BackendName) -> Iterator[Nodes]:
    with nodes_of(backend) as nodes:
        yield nodes


# -- every hook ----------------------------------------------------------------------------------


class EveryHandler(ConnectionHandler):
    """A handler all of whose hooks are counted, and that causes those of its service."""

    def __init__(self, every: Every) -> None:
        self.hit = every.hit

    def on_opened(self, agent: ConnectionAgent) -> None:
        agent.send_behavior("hello")
        agent.send_to_handler(HandlerRoute.conn(agent.conn_id), "to myself")
        self.hit("handler.on_opened")

    def on_tick(self, agent: ConnectionAgent, ts_ms: int, interval_ms: int) -> None:
        self.hit("handler.on_tick")

    def on_event(self, agent: ConnectionAgent, event: Message | ConnectionStats) -> None:
        self.hit("handler.on_event")

    def on_other_handler_event(
        self, agent: ConnectionAgent, from_node: int, from_conn: int, event: object
    ) -> None:
        self.hit("handler.on_other_handler_event")

    def on_behavior_event(self, agent: ConnectionAgent, event: object) -> None:
        self.hit("handler.on_behavior_event")

    def on_closed(self, agent: ConnectionAgent) -> None:
        self.hit("handler.on_closed")


class Every(NetworkBehavior):
    """A behavior all of whose hooks are counted; in one of them, it does something, once."""

    service_id = EVERY

    def __init__(self, trigger: str, act: Callable[[], object]) -> None:
        self.hits: dict[str, int] = {}
        self.acted = False
        self._trigger = trigger
        self._act = act

    def hit(self, name: str) -> None:
        self.hits[name] = self.hits.get(name, 0) + 1
        if name == self._trigger and not self.acted:
            self.acted = True
            self._act()

    def on_started(self, agent: BehaviorAgent) -> None:
        self.hit("on_started")

    def on_stopped(self, agent: BehaviorAgent) -> None:
        self.hit("on_stopped")

    def on_tick(self, agent: BehaviorAgent, ts_ms: int, interval_ms: int) -> None:
        self.hit("on_tick")

    def check_incoming_connection(self, node: int, conn_id: int) -> None:
        self.hit("check_incoming_connection")

    def check_outgoing_connection(self, node: int | None, conn_id: int) -> None:
        self.hit("check_outgoing_connection")

    def on_incoming_connection_connected(
        self, agent: BehaviorAgent, conn: ConnectionSender
    ) -> ConnectionHandler:
        self.hit("on_incoming_connection_connected")
        return EveryHandler(self)

    def on_outgoing_connection_connected(
        self, agent: BehaviorAgent, conn: ConnectionSender
    ) -> ConnectionHandler:
        self.hit("on_outgoing_connection_connected")
        return EveryHandler(self)

    def on_incoming_connection_disconnected(
        self, agent: BehaviorAgent, conn: ConnectionSender
    ) -> None:
        self.hit("on_incoming_connection_disconnected")

    def on_outgoing_connection_disconnected(
        self, agent: BehaviorAgent, conn: ConnectionSender
    ) -> None:
        self.hit("on_outgoing_connection_disconnected")

    def on_outgoing_connection_error(
        self, agent: BehaviorAgent, node_id: int | None, conn_id: int, err: OutgoingConnectionError
    ) -> None:
        self.hit("on_outgoing_connection_error")

    def on_connection_writable(self, agent: BehaviorAgent, conn: ConnectionSender) -> None:
        self.hit("on_connection_writable")

    def on_handler_event(
        self, agent: BehaviorAgent, node_id: int, conn_id: int, event: object
    ) -> None:
        agent.send_to_handler(HandlerRoute.conn(conn_id), "to my handler")
        self.hit("on_handler_event")

    def on_message(self, agent: BehaviorAgent, message: Message) -> None:
        self.hit("on_message")

    def on_rpc(self, agent: BehaviorAgent, req: RpcRequest, res: RpcAnswer) -> bool:
        res.ok(b"")
        self.hit("on_rpc")
        return True


#: In the order in which the scenario below brings them about.
HOOKS = [
    "on_started",
    "on_tick",
    "on_message",
    "posted",
    "call_later",
    "check_outgoing_connection",
    "on_outgoing_connection_error",
    "on_outgoing_connection_connected",
    "handler.on_opened",
    "on_handler_event",
    "handler.on_other_handler_event",
    "handler.on_behavior_event",
    "check_incoming_connection",
    "on_incoming_connection_connected",
    "handler.on_tick",
    "handler.on_event",
    "on_rpc",
    "on_done",
    "on_connection_writable",
    "handler.on_closed",
    "on_outgoing_connection_disconnected",
    "on_incoming_connection_disconnected",
    "on_stopped",
]


class Scenario:
    """Node 1, whose every hook is called, and nodes 2 and 3, which help."""

    def __init__(self, nodes: Nodes, trigger: str, act: Callable[[Node], object]) -> None:
        self.nodes = nodes
        self.every = Every(trigger, lambda: act(self.one))
        self.one = nodes.add(1, self.every, tick_ms=5, write_high_bytes=100_000,
                             write_low_bytes=10_000)  # fmt: skip
        self.two, self.three = nodes.add(2), nodes.add(3)
        self.steps = iter(self._steps())
        self._wanted: list[str] = []

    def run(self) -> None:
        """Go on with it until its end, or until node 1 is closed; goes on where it was left."""
        self._await()
        for wanted in self.steps:
            self._wanted = list(wanted)
            self._await()

    def _await(self) -> None:
        self.nodes.until(
            lambda: self.one.closed or all(name in self.every.hits for name in self._wanted)
        )

    def _steps(self) -> Iterator[tuple[str, ...]]:
        one, two, three = self.one, self.two, self.three
        agent = one.agent(EVERY)
        hit = self.every.hit
        yield ("on_started", "on_tick")
        if one.closed:
            return
        agent.send_local(b"to myself")
        yield ("on_message",)
        if one.closed:
            return
        one.post(hit, "posted")
        yield ("posted",)
        if one.closed:
            return
        agent.call_later(0, lambda: hit("call_later"))
        yield ("call_later",)
        if one.closed:
            return
        one.connect(f"9@/ip4/127.0.0.1/tcp/{closed_port()}")
        yield ("check_outgoing_connection", "on_outgoing_connection_error")
        if one.closed:
            return
        one.connect(two.listen(ANY))
        yield ("on_outgoing_connection_connected", "handler.on_opened", "on_handler_event",
               "handler.on_other_handler_event", "handler.on_behavior_event")  # fmt: skip
        if one.closed:
            return
        three.connect(one.listen(ANY))
        yield ("check_incoming_connection", "on_incoming_connection_connected", "handler.on_tick")
        if one.closed:
            return
        self.nodes.until(lambda: one.closed or linked(one, two))
        two.agent(SINK).send_to_node(1, b"x", to_service=EVERY)
        two.agent(SINK).call(RouteRule.node(1), EVERY, b"", lambda answer: None)
        yield ("handler.on_event", "on_rpc")
        if one.closed:
            return
        agent.call(RouteRule.node(2), ADDER, b"1", lambda answer: hit("on_done"))
        yield ("on_done",)
        if one.closed:
            return
        self._fill()
        yield ("on_connection_writable",)
        if one.closed:
            return
        two.agent(SINK).close_node(1)
        yield ("handler.on_closed", "on_outgoing_connection_disconnected")
        if one.closed:
            return
        three.agent(SINK).close_node(1)
        yield ("on_incoming_connection_disconnected",)
        if one.closed:
            return
        one.close()
        yield ("on_stopped",)

    def _fill(self) -> None:
        """Send until a send is refused: node 2 does not read meanwhile."""
        while True:
            try:
                self.one.agent(EVERY).send_to_node(2, bytes(60_000), to_service=SINK)
            except SendQueueFullError:
                return
            self.one.poll(0)


def nothing(node: Node) -> None:
    """Do nothing."""


def test_scenario_reaches_every_hook(nodes: Nodes) -> None:
    scenario = Scenario(nodes, "", nothing)
    scenario.run()
    assert set(HOOKS) == set(scenario.every.hits)
    overridable = {name for name in vars(NetworkBehavior) if name.startswith(("on_", "check_"))}
    overridable |= {f"handler.{n}" for n in vars(ConnectionHandler) if n.startswith("on_")}
    assert overridable <= set(HOOKS)


@pytest.mark.parametrize("hook", HOOKS)
def test_close_inside_a_hook_closes_the_node_after_it(nodes: Nodes, hook: str) -> None:
    before = open_fds()
    scenario = Scenario(nodes, hook, lambda node: node.close(timeout_s=0.02))
    scenario.run()
    one = scenario.one
    assert scenario.every.acted
    assert one.closed
    assert scenario.every.hits["on_stopped"] == 1
    assert nodes.sinks[one].stopped == 1
    stats = one.stats()
    assert (stats.hook_errors, stats.links_opened) == (0, stats.links_closed)
    nodes.close()
    assert open_fds() == before


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt])
@pytest.mark.parametrize("hook", HOOKS)
def test_exit_out_of_a_hook_leaves_a_node_that_closes(
    nodes: Nodes, hook: str, error: type[BaseException]
) -> None:
    def leave(node: Node) -> None:
        raise error

    before = open_fds()
    scenario = Scenario(nodes, hook, leave)
    with pytest.raises(error):
        scenario.run()
    one, sink = scenario.one, nodes.sinks[scenario.one]
    one.close(timeout_s=0.02)
    assert one.closed
    assert one.connections == ()
    assert scenario.every.hits["on_stopped"] == 1
    assert (sink.started, sink.stopped) == (1, 1)
    stats = one.stats()
    assert (stats.hook_errors, stats.links_opened) == (0, stats.links_closed)
    nodes.close()
    assert open_fds() == before


# Not with the hook that returns the handler for which the scenario waits.
@pytest.mark.parametrize("hook", [h for h in HOOKS if h != "on_outgoing_connection_connected"])
def test_exit_out_of_a_hook_leaves_a_node_that_goes_on(nodes: Nodes, hook: str) -> None:
    def leave(node: Node) -> None:
        raise SystemExit

    scenario = Scenario(nodes, hook, leave)
    with pytest.raises(SystemExit):
        scenario.run()
    if hook == "check_incoming_connection":  # it did not allow the link
        scenario.three.connect(scenario.one.addrs[0])
    scenario.run()
    scenario.one.close()
    assert set(scenario.every.hits) == set(HOOKS)
    sink = nodes.sinks[scenario.one]
    assert (sink.started, sink.stopped) == (1, 1)
    assert len(sink.up) == len(sink.down) == 2


@pytest.mark.parametrize("hook", [h for h in HOOKS if h != "on_stopped"])
def test_poll_inside_a_hook_raises(nodes: Nodes, hook: str) -> None:
    raised: list[BaseException] = []

    def attempt(call: Callable[[], object]) -> None:
        try:
            call()
        except BaseException as exc:
            raised.append(exc)

    def reenter(node: Node) -> None:
        for call in (
            lambda: node.poll(0),
            node.run,
            lambda: node.call(RouteRule.node(2), ADDER, b"1"),
            lambda: node.wait_connected(2, 0),
            lambda: node.wait_route(RouteRule.node(2), timeout_s=0),
        ):
            attempt(call)

    scenario = Scenario(nodes, hook, reenter)
    scenario.run()
    assert [type(error) for error in raised] == [RuntimeError] * 5


def test_poll_inside_the_last_hook_says_that_the_node_is_closed(nodes: Nodes) -> None:
    raised: list[BaseException] = []

    def reenter(node: Node) -> None:
        try:
            node.poll(0)
        except NodeClosedError as exc:
            raised.append(exc)

    scenario = Scenario(nodes, "on_stopped", reenter)
    scenario.run()
    assert len(raised) == 1


# -- run and stop --------------------------------------------------------------------------------


class InThread:
    """A node that runs in a thread of its own."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.error: BaseException | None = None
        self.started = threading.Event()
        node.post(self.started.set)
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        assert self.started.wait(DEADLINE_S)

    def _run(self) -> None:
        try:
            self.node.run()
        except BaseException as exc:
            self.error = exc

    def join(self) -> None:
        self._thread.join(DEADLINE_S)
        assert not self._thread.is_alive()
        if self.error is not None:
            raise self.error


def quiet(nodes: Nodes) -> Node:
    """Return a node without anything to do for hours."""
    return nodes.add(1, tick_ms=LONG_MS)


def test_stop_from_another_thread_ends_run(nodes: Nodes) -> None:
    running = InThread(quiet(nodes))
    running.node.stop()
    running.join()
    assert not running.node.closed


def test_stop_inside_a_hook_ends_run(nodes: Nodes) -> None:
    node = quiet(nodes)
    node.post(node.stop)
    node.run()
    assert not node.closed


def test_stop_before_run_makes_it_return_at_once(nodes: Nodes) -> None:
    node = quiet(nodes)
    node.stop()
    node.run()
    node.post(node.stop)
    node.run()  # it holds for one run only


def test_run_inside_a_hook_does_not_take_back_a_stop(nodes: Nodes) -> None:
    node = quiet(nodes)
    raised = []

    def stop_and_run() -> None:
        node.stop()
        try:
            node.run()
        except RuntimeError as exc:
            raised.append(exc)

    node.post(stop_and_run)
    node.run()
    assert len(raised) == 1


def test_close_inside_a_hook_ends_run(nodes: Nodes) -> None:
    node = quiet(nodes)
    node.post(node.close)
    node.run()
    assert node.closed


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt])
def test_exit_out_of_a_hook_comes_out_of_run(nodes: Nodes, error: type[BaseException]) -> None:
    def leave() -> None:
        raise error("out of a hook")

    with quiet(nodes) as node:
        node.post(leave)
        with pytest.raises(error, match="out of a hook"):
            node.run()
        assert not node.closed
        node.post(node.stop)
        node.run()
    assert nodes.sinks[node].stopped == 1


def test_run_in_a_thread_wakes_for_a_post(nodes: Nodes) -> None:
    running = InThread(quiet(nodes))
    done = threading.Event()
    running.node.post(done.set)
    assert done.wait(DEADLINE_S)
    running.node.stop()
    running.join()


def test_posts_of_four_threads_all_arrive_in_their_order(nodes: Nodes) -> None:
    node = quiet(nodes)
    arrived: list[tuple[int, int]] = []

    def post(thread: int) -> None:
        for i in range(10_000):
            node.post(arrived.append, (thread, i))

    running = InThread(node)
    threads = [threading.Thread(target=post, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    done = threading.Event()
    node.post(done.set)
    assert done.wait(DEADLINE_S)
    node.stop()
    running.join()
    for thread_number in range(4):
        mine = [i for number, i in arrived if number == thread_number]
        assert mine == list(range(10_000))
    assert node.stats().posts_refused == 0


def test_posts_beyond_their_bound_raise_and_are_counted(nodes: Nodes) -> None:
    node = nodes.add(1, max_posts=3)
    for _ in range(3):
        node.post(nothing, node)
    with pytest.raises(QueueFullError) as caught:
        node.post(nothing, node)
    assert (caught.value.queue, caught.value.limit) == ("max_posts", 3)
    assert node.stats().posts_refused == 1
    node.poll(0)
    node.post(nothing, node)


def test_post_that_raises_is_counted_and_disturbs_nothing(nodes: Nodes) -> None:
    node = quiet(nodes)
    node.post(lambda: 1 / 0)
    done: list[int] = []
    node.post(done.append, 1)
    nodes.until(lambda: done)
    assert node.stats().hook_errors == 1


# -- close ---------------------------------------------------------------------------------------


def test_close_twice_is_the_same_as_once(nodes: Nodes) -> None:
    node = quiet(nodes)
    node.poll(0)
    node.close()
    node.close()
    assert nodes.sinks[node].stopped == 1


def test_close_of_a_node_that_was_never_turned_calls_no_hook(nodes: Nodes) -> None:
    node = quiet(nodes)
    node.listen(ANY)
    node.close()
    assert (nodes.sinks[node].started, nodes.sinks[node].stopped) == (0, 0)


def test_node_as_a_context_manager_is_closed_by_an_exception_too(nodes: Nodes) -> None:
    node = quiet(nodes)

    def fail() -> None:
        with node:
            node.poll(0)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert node.closed
    assert nodes.sinks[node].stopped == 1


def test_close_delivers_what_was_sent_before(nodes: Nodes) -> None:
    one, two = nodes.add(1), nodes.add(2)
    running = InThread(two)
    one.connect(_listen_in(running))
    nodes.all.remove(two)
    nodes.until(lambda: one.router.path_to_node(2).is_next)
    for i in range(100):
        one.agent(SINK).send_to_node(2, b"%d" % i)
    one.close(timeout_s=DEADLINE_S)
    two.stop()
    running.join()
    two.close()
    assert nodes.sinks[two].payloads == [b"%d" % i for i in range(100)]
    assert one.stats().dropped_link_closed == 0


def test_close_with_a_peer_that_never_reads_keeps_to_its_time(nodes: Nodes) -> None:
    one = nodes.add(1)
    one.listen(ANY)
    peer = RawPeer(nodes, one)
    agent = one.agent(SINK)
    conn = one.connections[0].conn_id

    def fill() -> None:
        while True:
            agent.send_to_conn(conn, bytes(60_000))
            one.poll(0)

    with pytest.raises(SendQueueFullError):
        fill()
    start = time.monotonic()
    one.close(timeout_s=0.2)
    took_s = time.monotonic() - start
    assert 0.1 < took_s < 30
    assert len(nodes.sinks[one].down) == 1
    stats = one.stats()
    assert stats.dropped_link_closed > 0
    assert one.connections == ()
    peer.close()


def test_close_with_time_zero_does_not_wait(nodes: Nodes) -> None:
    one = nodes.add(1)
    one.listen(ANY)
    peer = RawPeer(nodes, one)
    one.close(timeout_s=0)
    assert len(nodes.sinks[one].down) == 1
    peer.close()


def test_close_ends_dials_and_calls_with_errors(nodes: Nodes) -> None:
    one, two = nodes.add(1), nodes.add(2)
    nodes.join(one, two)
    answers: list[Any] = []
    one.agent(SINK).call(RouteRule.node(2), ADDER, b"1", answers.append)
    conn_id = one.connect(f"3@/ip4/127.0.0.1/tcp/{closed_port()}")
    one.close(timeout_s=0)
    assert [isinstance(answer.error, CallError) for answer in answers] == [True]
    assert [failed for _, failed, _ in nodes.sinks[one].errors] == [conn_id]


# -- after close ---------------------------------------------------------------------------------

#: What a closed node still tells, and what may be said to it.
ALLOWED = {"node_id", "config", "router", "addrs", "closed", "connections", "kept", "stats",
           "backend", "stop", "close", "agent"}  # fmt: skip
ARGUMENTS: dict[str, tuple[object, ...]] = {
    "listen": (ANY,),
    "connect": ("2@/ip4/127.0.0.1/tcp/1",),
    "forget": ("2@/ip4/127.0.0.1/tcp/1",),
    "poll": (0,),
    "run": (),
    "post": (nothing, None),
    "fileno": (),
    "next_deadline_ms": (),
    "call": (RouteRule.node(2), ADDER, b"1"),
    "wait_connected": (2, 0),
    "wait_route": (RouteRule.node(2),),
    "routes": (),
    "nodes": (),
    "services": (),
    "services_at": (2,),
}
MESSAGE = b"x"
AGENT_ARGUMENTS: dict[str, tuple[object, ...]] = {
    "send": (RouteRule.node(2), MESSAGE),
    "send_to_node": (2, MESSAGE),
    "send_to_key": (2, MESSAGE),
    "send_to_service": (SINK, MESSAGE),
    "broadcast": (MESSAGE,),
    "send_local": (MESSAGE,),
    "send_to_conn": (1, MESSAGE),
    "call": (RouteRule.node(2), ADDER, MESSAGE, print),
    "call_later": (0, print),
    "connect_to": ("2@/ip4/127.0.0.1/tcp/1",),
    "forget": ("2@/ip4/127.0.0.1/tcp/1",),
    "close_conn": (1,),
    "close_node": (2,),
    "send_to_handler": (HandlerRoute.node(2), None),
    "send_routed": (RouteRule.node(2), MESSAGE),
    "send_behavior": (None,),
    "register_service": (),
    "unregister_service": (),
    "close": (),
}
#: What agents and links tell about themselves.
AGENT_FACTS = {"local_node_id", "service_id", "now_ms", "rtt_ms", "conn_id", "remote_node_id",
               "remote_addr", "is_open", "is_outgoing"}  # fmt: skip


def public_methods(kind: type) -> list[str]:
    """Return the public names of a class."""
    return [name for name in dir(kind) if not name.startswith("_")]


NODE_METHODS = [name for name in public_methods(Node) if name not in ALLOWED]


class Handlers(NetworkBehavior):
    """Gives every link a handler, and remembers its agent."""

    service_id = 60

    def __init__(self) -> None:
        self.agents: list[ConnectionAgent] = []
        self.links: list[ConnectionSender] = []
        self.messages: list[Message] = []

    def on_message(self, agent: BehaviorAgent, message: Message) -> None:
        self.messages.append(message)

    def on_incoming_connection_connected(
        self, agent: BehaviorAgent, conn: ConnectionSender
    ) -> ConnectionHandler:
        agents = self.agents
        self.links.append(conn)

        class Handler(ConnectionHandler):
            def on_opened(self, agent: ConnectionAgent) -> None:
                agents.append(agent)

        return Handler()


def closed_node(nodes: Nodes) -> tuple[Node, Handlers]:
    """Return a node that had a link and a message and was closed, and what its hooks got."""
    handlers = Handlers()
    one, two = nodes.add(1, handlers), nodes.add(2)
    nodes.join(two, one)
    two.agent(SINK).send_to_node(1, b"x", to_service=60)
    nodes.until(lambda: handlers.messages)
    one.close(timeout_s=0)
    return one, handlers


@pytest.mark.parametrize("name", NODE_METHODS)
def test_node_method_after_close_raises(nodes: Nodes, name: str) -> None:
    one, _ = closed_node(nodes)
    with pytest.raises(NodeClosedError):
        getattr(one, name)(*ARGUMENTS[name])


@pytest.mark.parametrize("kind", [BehaviorAgent, ConnectionAgent, ConnectionSender])
def test_agents_after_close_raise_from_every_method(nodes: Nodes, kind: type) -> None:
    one, handlers = closed_node(nodes)
    agent: object = {
        BehaviorAgent: one.agent(60),
        ConnectionAgent: handlers.agents[0],
        ConnectionSender: handlers.links[0],
    }[kind]
    arguments = dict(AGENT_ARGUMENTS, reply=(handlers.messages[0], MESSAGE))
    if kind is not BehaviorAgent:
        arguments["send"] = (MESSAGE,)
    for name in public_methods(kind):
        if name not in AGENT_FACTS:
            with pytest.raises(NodeClosedError):
                getattr(agent, name)(*arguments[name])


def test_closed_node_still_tells_what_it_was(nodes: Nodes) -> None:
    one, _ = closed_node(nodes)
    assert (one.node_id, one.connections, one.closed) == (1, (), True)
    assert one.stats().links_opened == one.stats().links_closed == 1
    assert "closed" in repr(one)
    one.stop()


# -- threads -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [n for n in [*NODE_METHODS, "close"] if n != "post"])
def test_node_method_in_another_thread_raises(nodes: Nodes, name: str) -> None:
    running = InThread(quiet(nodes))
    arguments = ARGUMENTS.get(name, ())
    with pytest.raises(LocalError, match="another thread"):
        getattr(running.node, name)(*arguments)
    running.node.stop()
    running.join()
    assert not running.node.closed


def test_node_whose_thread_has_ended_can_be_closed_by_another(nodes: Nodes) -> None:
    running = InThread(quiet(nodes))
    running.node.stop()
    running.join()
    running.node.close()
    assert nodes.sinks[running.node].stopped == 1


def test_node_made_in_one_thread_may_run_in_another(nodes: Nodes) -> None:
    one = quiet(nodes)
    one.connect(f"3@/ip4/127.0.0.1/tcp/{closed_port()}")
    running = InThread(one)
    two = Nodes(nodes.backend)
    try:
        other = two.add(2)
        other.connect(_listen_in(running))
        two.until(lambda: other.connections)
    finally:
        two.close()
        one.stop()
        running.join()


def _listen_in(running: InThread) -> str:
    """Let a node listen, on its own thread."""
    result: list[str] = []
    done = threading.Event()

    def listen() -> None:
        result.append(str(running.node.listen(ANY)))
        done.set()

    running.node.post(listen)
    assert done.wait(DEADLINE_S)
    return result[0]
