"""A tour of one node through every hook there is; hooks and methods are found by reflection.

So whatever is added to ``NetworkBehavior``, ``ConnectionHandler``, ``Observer``, an agent or
``Node`` is part of the tests at once: a hook that the tour does not cause, or a method for which
``ARGUMENTS`` has no line, fails a test that says so.
"""

from __future__ import annotations

import contextlib
import inspect
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from netcore import (
    BehaviorAgent,
    ConnectionAgent,
    ConnectionHandler,
    ConnectionSender,
    ConnectionStats,
    HandlerRoute,
    NetcoreError,
    NetworkBehavior,
    Node,
    RouteRule,
    RpcAnswer,
)
from netcore.hooks import Observer
from support.virtual import Cluster, until_refused


def public(cls: type) -> list[str]:
    """Return the public names of a class, in order of their definition."""
    return [name for base in reversed(cls.__mro__) for name in vars(base) if name[0] != "_"]


def _places_of(cls: type) -> list[str]:
    names = [name for name in public(cls) if inspect.isfunction(getattr(cls, name))]
    return [f"{cls.__name__}.{name}" for name in dict.fromkeys(names)]


ON_EVENT = "ConnectionHandler.on_event"
#: Every place where user code runs. ``on_event`` is two: for messages, and for measurements.
PLACES = [
    *_places_of(NetworkBehavior),
    *_places_of(ConnectionHandler),
    f"{ON_EVENT}(ConnectionStats)",
    *(place for place in _places_of(Observer) if place != "Observer.hook_failed"),
    "post",
    "call_later",
    "call.on_done",
]

Reaction = Callable[["Tour", dict[str, Any]], object]


class Ran(NamedTuple):
    """One call of user code: where, of which service (-1: of none), about which link."""

    place: str
    service: int = -1
    conn: int | None = None


class Tour:
    """One node that is led through everything, and what its user code saw.

    Args:
        cluster: Where it lives.
        reactions: By place: what is done when it is first called there, for service 10.
        every: Done at every call in every place instead.

    Attributes:
        node: The node.
        other: A neighbour that it dials.
        third: One that dials it.
        observer: Its observer.
        ran: The calls of its user code, in order.
        deepest: How many ran at a time.
        closed_early: Whether a hook closed the node.
        link_agent, sender, answer, message: The latest ones that hooks were given.
    """

    def __init__(
        self,
        cluster: Cluster,
        reactions: dict[str, Reaction] | None = None,
        every: Reaction | None = None,
    ) -> None:
        self.cluster = cluster
        self.ran: list[Ran] = []
        self.deepest = self._depth = 0
        self.closed_early = False
        self.link_agent: Any = None
        self.sender: Any = None
        self.answer: Any = None
        self.message: Any = None
        self._reactions = dict(reactions or {})
        self._every = every
        self.observer = _observer(self)
        make = _behavior_class(self)
        self.node = cluster.add(
            1,
            make(10),
            make(20),
            observer=self.observer,
            write_high_bytes=32_768,
            write_low_bytes=1_024,
            tick_ms=600,
            ping_interval_ms=2_000,
        )
        self.other = cluster.add(2, _Answering(10), _Answering(20), ping_interval_ms=2_000)
        self.third = cluster.add(3, ping_interval_ms=2_000)

    # -- the way -----------------------------------------------------------------------------------

    def go(self) -> Tour:
        """Make the node call every hook there is, as far as it lives, and close it."""
        self._begin()
        self._talk()
        self._fill()
        self._try(lambda: self.node.agent(10).close_conn(self._link_to(2) or UNKNOWN_CONN))
        self.cluster.settle()
        self.check_alive()
        for node in (self.third, self.node):
            self._try(partial(node.close, 0))
        self.cluster.settle()
        return self

    def _begin(self) -> None:
        node, cluster = self.node, self.cluster
        self._try(lambda: node.post(self.callback("post")))
        self._try(lambda: node.connect("/memory/nobody"))
        cluster.settle()
        self._try(lambda: cluster.dial(self.third, node))
        self._try(lambda: cluster.dial(node, self.other))
        cluster.settle()

    def _talk(self) -> None:
        agent = self.node.agent(10)
        link_agent = self.link_agent
        here = HandlerRoute.conn(self._link_to(2) or UNKNOWN_CONN)
        away = RouteRule.node(2)
        for step in (
            lambda: agent.send_local(b""),
            lambda: agent.send_to_handler(here, "down"),
            lambda: link_agent.send_behavior("up"),
            lambda: link_agent.send_to_handler(HandlerRoute.conn(link_agent.conn_id), "across"),
            lambda: self.other.agent(10).send_to_node(1, b""),
            lambda: self.other.agent(10).call(RouteRule.node(1), 10, b"", lambda answer: None),
            lambda: agent.call(away, 20, b"", self.callback("call.on_done")),
            lambda: agent.call_later(10, self.callback("call_later")),
        ):
            if link_agent is not None:
                self._try(step)
        self.cluster.advance(1_200)

    def _fill(self) -> None:
        """Fill the link to the other node until a send is refused, and let it drain."""
        conn_id, agent = self._link_to(2), self.node.agent(10)
        if self.node.closed or not conn_id:
            return

        def send() -> None:
            agent.send_to_conn(conn_id, bytes(16_000))
            self.cluster.settle()

        self.cluster.frozen.add(self.other)
        until_refused(send)
        self.cluster.frozen.clear()
        self.cluster.settle()

    def check_alive(self) -> None:
        """Check that the node, unless it was closed, still serves a post and a message."""
        self.closed_early = self.node.closed
        if self.closed_early:
            return
        came: list[int] = []
        kept = self._reactions, self._every
        self._reactions, self._every = {}, None
        before = len(self.ran)
        self.node.post(came.append, 1)
        self.node.agent(10).send_local(b"still there?")
        self.cluster.settle()
        self._reactions, self._every = kept
        served = [ran.service for ran in self.ran[before:] if ran.place.endswith(".on_message")]
        assert (came, served) == ([1], [10]), "the node does not work any more"

    def _try(self, step: Callable[[], object]) -> None:
        try:
            step()
        except NetcoreError:  # of what hooks did before
            pass
        except (KeyboardInterrupt, SystemExit) as exc:
            if self.cluster.caught is None:
                raise
            self.cluster.caught.append(exc)

    def _link_to(self, node_id: int) -> int:
        links = () if self.node.closed else self.node.connections
        return next((link.conn_id for link in links if link.remote_node_id == node_id), 0)

    # -- user code ---------------------------------------------------------------------------------

    def callback(self, place: str) -> Callable[..., object]:
        """Return a callback that writes itself down."""

        def callback(*args: object) -> None:
            self.run(Ran(place), {}, 10)

        return callback

    def run(self, ran: Ran, given: dict[str, Any], service: int) -> None:
        """Write a call down and react."""
        self.ran.append(ran)
        self._depth += 1
        self.deepest = max(self.deepest, self._depth)
        try:
            if service == 10:
                self._keep(given)
            reaction = self._every
            if reaction is None and service == 10:
                reaction = self._reactions.pop(ran.place, None)
            if reaction is not None:
                reaction(self, given)
        finally:
            self._depth -= 1

    def _keep(self, given: dict[str, Any]) -> None:
        if isinstance(given.get("agent"), ConnectionAgent):
            self.link_agent = given["agent"]
        self.sender = given.get("conn", self.sender)
        self.answer = given.get("res", self.answer)
        self.message = given.get("message", self.message)

    # -- what must hold ----------------------------------------------------------------------------

    def counts(self, service: int) -> Counter[str]:
        """Count the calls of a service's hooks whose number depends on nothing else."""
        vary = ("NetworkBehavior.check_outgoing_connection", f"{ON_EVENT}(ConnectionStats)")
        return Counter(r.place for r in self.ran if r.service == service and r.place not in vary)

    def check(self) -> None:
        """Check what holds whatever hooks did: order, once each, nothing nested, nothing left."""
        assert self.deepest == 1, "a hook ran inside another"
        for service in (10, 20):
            places = [ran.place for ran in self.ran if ran.service == service]
            if places:
                assert (places[0], places.count(places[0])) == ("NetworkBehavior.on_started", 1)
                assert (places[-1], places.count(places[-1])) == ("NetworkBehavior.on_stopped", 1)
            for conn in {ran.conn for ran in self.ran} - {None}:
                _check_link([r.place for r in self.ran if (r.service, r.conn) == (service, conn)])
        stats = self.node.stats()
        left = (stats.links, stats.half_open, stats.calls_pending, stats.kept)
        assert left == ((), 0, 0, 0), stats
        assert stats.links_opened == stats.links_closed
        if self.closed_early:  # what was under way to it is nobody's
            ended = self.cluster.total("messages_delivered") + self.cluster.total("dropped")
            assert self.cluster.total("messages_sent") >= ended
        else:
            self.cluster.assert_nothing_lost()


_ORDER = (
    ("check_incoming_connection", "check_outgoing_connection"),
    ("on_incoming_connection_connected", "on_outgoing_connection_connected"),
    ("on_opened",),
    (),  # everything else about a link
    ("on_closed",),
    ("on_incoming_connection_disconnected", "on_outgoing_connection_disconnected"),
)


def _stage(place: str) -> int:
    name = place.partition(".")[2]
    return next((at for at, names in enumerate(_ORDER) if name in names), 3)


def _check_link(places: list[str]) -> None:
    """Check the life of one link, or of a dial, as one service saw it."""
    free = ("NetworkBehavior.on_handler_event",)  # the last ones come after on_closed
    stages = [_stage(place) for place in places if place not in free]
    if "NetworkBehavior.on_outgoing_connection_error" in places:
        assert stages in ([3], [0, 3]), places
    elif stages and set(stages) != {0}:
        assert stages == sorted(stages), places
        assert (stages.count(1), stages.count(5)) == (1, 1), places
        assert stages.count(2) == stages.count(4) <= 1, places


def _behavior_class(tour: Tour) -> Callable[[int], NetworkBehavior]:
    """Return a behavior class whose every hook writes itself down, by reflection."""
    handler_hooks = {n: _hook(tour, p, ConnectionHandler) for n, p in _named(ConnectionHandler)}

    def handler(service: int) -> ConnectionHandler:
        kind = type("Everything", (ConnectionHandler,), {**handler_hooks, "service_id": service})
        return kind()  # type: ignore[no-any-return]

    def behavior(service: int) -> NetworkBehavior:
        hooks = {n: _hook(tour, p, NetworkBehavior, handler) for n, p in _named(NetworkBehavior)}
        return type("Every", (NetworkBehavior,), {**hooks, "service_id": service})()  # type: ignore[no-any-return]

    return behavior


def _named(cls: type) -> list[tuple[str, str]]:
    return [(place.partition(".")[2], place) for place in _places_of(cls)]


def _hook(
    tour: Tour, place: str, cls: type, handler: Callable[[int], ConnectionHandler] | None = None
) -> Callable[..., Any]:
    name = place.partition(".")[2]
    names = list(inspect.signature(getattr(cls, name)).parameters)[1:]

    def hook(self: Any, *args: Any) -> Any:
        given = dict(zip(names, args, strict=True))
        where = place
        if isinstance(given.get("event"), ConnectionStats):
            where = f"{place}(ConnectionStats)"
        elif place == ON_EVENT:
            given["message"] = given["event"]
        conn = given.get("conn_id", getattr(given.get("conn"), "conn_id", None))
        if isinstance(given.get("agent"), ConnectionAgent):
            conn = given["agent"].conn_id
        tour.run(Ran(where, self.service_id, conn), given, self.service_id)
        if name.endswith("connection_connected") and handler is not None:
            return handler(self.service_id)
        if name == "on_rpc" and not given["res"].answered:
            with contextlib.suppress(NetcoreError):  # the caller may be out of reach by now
                given["res"].ok(b"")
        return name == "on_rpc" or None

    hook.__name__ = hook.__qualname__ = place
    return hook


def _observer(tour: Tour) -> Any:
    def make(place: str) -> Callable[..., None]:
        if place == "Observer.hook_failed":  # runs inside the report of a hook
            return lambda self, *args: None
        return lambda self, *args: tour.run(Ran(place), {}, 10)

    return type("Looking", (), {name: make(place) for name, place in _named(Observer)})()


class _Answering(NetworkBehavior):
    def __init__(self, service_id: int) -> None:
        self.service_id = service_id

    def on_rpc(self, agent: Any, req: Any, res: Any) -> bool:
        res.ok(req.payload)
        return True


# -- methods -------------------------------------------------------------------------------------

#: Whose methods are called from inside every hook.
OWNERS: dict[type, Callable[[Tour], Any]] = {
    BehaviorAgent: lambda tour: tour.node.agent(10),
    ConnectionAgent: lambda tour: tour.link_agent,
    ConnectionSender: lambda tour: tour.sender,
    Node: lambda tour: tour.node,
    RpcAnswer: lambda tour: tour.answer,
}


def _conn(tour: Tour) -> int:
    return UNKNOWN_CONN if tour.sender is None else int(tour.sender.conn_id)


UNKNOWN_CONN = 12_345


def _nothing(*args: object) -> None:
    pass


Arguments = Callable[[Tour], list[tuple[Any, ...]]]


def _same(*args: Any) -> Arguments:
    return lambda tour: [args]


_TO_OTHER = RouteRule.node(2)
#: By method: with which arguments it is called, once with each tuple of the list. A dict at the end
#: of one has keywords.
ARGUMENTS: dict[str, Arguments] = {
    "agent": _same(10),
    "broadcast": _same(b"all"),
    "call": _same(_TO_OTHER, 20, b"", _nothing),
    "call_later": lambda tour: [(0, _nothing), (5, _nothing)],
    "close": _same(),
    "close_conn": lambda tour: [(_conn(tour),), (UNKNOWN_CONN,)],
    "close_node": lambda tour: [(2,), (3,), (77,)],
    "connect": lambda tour: [
        (tour.other.addrs[0],),
        (tour.other.addrs[0], True),
        (tour.third.addrs[0], {"keep": True}),
        ("/memory/nobody",),
    ],
    "connect_to": lambda tour: [
        (tour.other.addrs[0], {"parallel": True}),
        (tour.third.addrs[0], {"keep": True}),
    ],
    "error": _same(300, "no"),
    "fileno": _same(),
    "forget": lambda tour: [(tour.third.addrs[0],), ("/memory/nobody",)],
    "listen": lambda tour: [(f"/memory/tour-{len(tour.ran)}",)],
    "next_deadline_ms": _same(),
    "nodes": _same(),
    "ok": _same(b"yes"),
    "poll": _same(0),
    "post": _same(_nothing),
    "register_service": _same(),
    "reply": lambda tour: [(tour.message, b"back")],
    "routes": _same(),
    "run": _same(),
    "send": _same(_TO_OTHER, b"by a rule"),
    "send_behavior": _same("event"),
    "send_local": _same(b"local"),
    "send_routed": _same(_TO_OTHER, b"by a rule"),
    "send_to_conn": lambda tour: [(_conn(tour), b"there"), (UNKNOWN_CONN, b"nowhere")],
    "send_to_handler": lambda tour: [
        (HandlerRoute.conn(_conn(tour)), "event"),
        (HandlerRoute.node(2), "event"),
    ],
    "send_to_key": _same("key", b"to a key"),
    "send_to_node": lambda tour: [(2, b"near"), (1, b"here"), (99, b"nowhere")],
    "send_to_service": _same(20, b"to a service"),
    "services": _same(),
    "services_at": _same(2),
    "stats": _same(),
    "stop": _same(),
    "unregister_service": _same(),
    "wait_connected": _same(2),
    "wait_route": _same(_TO_OTHER),
}
#: Where a method of the same name takes something else.
SPECIAL: dict[tuple[type, str], Arguments] = {
    (ConnectionAgent, "send"): _same(b"over the link"),
    (ConnectionSender, "send"): _same(b"over the link"),
    (ConnectionAgent, "close_conn"): lambda tour: [(), (_conn(tour),)],
    (Node, "call"): _same(_TO_OTHER, 20, b""),
    (Node, "close"): _same(0),
}
#: What ends links or the node: called in one hook at a time, or the others would not come.
ENDINGS = ("close", "close_conn", "close_node")
#: What would wait for itself inside a hook.
WAITING = ("call", "poll", "run", "wait_connected", "wait_route")


def methods() -> list[tuple[type, str]]:
    """Return every public method of every owner; properties too, which are read."""
    return [(owner, name) for owner in OWNERS for name in dict.fromkeys(public(owner))]


def call_method(tour: Tour, owner: type, name: str) -> None:
    """Call a method with each of its arguments; anything but the errors it may raise comes out."""
    target = OWNERS[owner](tour)
    if target is None or (name == "reply" and tour.message is None):
        return
    try:
        method = getattr(target, name)
    except NetcoreError:
        return
    if not callable(method):
        return
    arguments = SPECIAL.get((owner, name)) or ARGUMENTS.get(name)
    assert arguments is not None, f"{owner.__name__}.{name}: ARGUMENTS has no line for it"
    allowed = (NetcoreError, RuntimeError) if owner is Node and name in WAITING else NetcoreError
    for args in arguments(tour):
        keywords = args[-1] if args and isinstance(args[-1], dict) else {}
        try:
            method(*(args[:-1] if keywords else args), **keywords)
        except allowed:
            continue
        assert owner is not Node or name not in WAITING, f"{name} returned inside a hook"
