"""Node: loop, switch, plane and transports of one node, and the calls that drive them."""

from __future__ import annotations

import time
from _thread import get_ident  # threading's, without importing all of it
from collections.abc import Callable, Sequence

from . import _backend, wire
from ._typing import TYPE_CHECKING, Final, Literal, final
from .address import NodeAddr, is_loopback, parse_addr
from .agent import BehaviorAgent
from .behavior import NetworkBehavior
from .config import NodeConfig, Secret, SecurityLevel, TlsFiles
from .errors import (
    ForkedNodeError,
    InsecureListenError,
    LocalError,
    NodeClosedError,
    WaitTimeoutError,
)
from .goodbye import say_goodbye
from .host import Host
from .ids import ConnId, NodeId, ServiceId, check_node_id
from .plane import Plane
from .route import RouteRule, check_rule
from .router_binding import BoundRouter, bind_router
from .routing import RouterTable
from .rpc import CallAnswer
from .stats import KeptAddr, LinkStats, NodeStats
from .wiring import clock_us, config_of, make_switch, milliseconds

if TYPE_CHECKING:
    import random
    import selectors
    from ssl import SSLContext
    from types import ModuleType, TracebackType

    from .explain import KnownNode, KnownService, Route
    from .hooks import Observer
    from .process import HeldInterrupt
    from .routing import LayeredRouter
    from .transport import Transport

__all__ = ["Node"]

BackendName = Literal["fast", "pure"]

#: For the goodbyes of a ``with`` block that Ctrl-C ended.
HURRY_S: Final = 0.05


@final
class Node:
    """One node of the overlay network.

    Driven by the thread that calls ``run`` or ``poll``; only ``post`` and ``stop`` may be called
    from other threads and from signal handlers.

    Args:
        node: The node's id, 0..2**32 - 2, or a whole ``NodeConfig``.
        behaviors: The services of this node; each service id once.
        router: Who routes; None: a ``LayeredRouter``, which learns the network by itself.
        transports: None: tcp, unix and memory.
        secret: Shared by all nodes, >= 16 bytes; a list during a rotation.
        backend: "fast" or "pure" instead of what was chosen at import.
        selector: Any ``selectors.BaseSelector`` instead of epoll; it stays yours to close.
        clock_ms: Milliseconds that never go back, instead of the system's; for simulated time.
        rng: Randomness, instead of the system's; for repeatable tests.
        wake: Called when there is work for ``poll``, instead of any file descriptor; for simulated
            time, with ``clock_ms``.
        observer: Told what becomes of links, dials and hooks.
        tls: ``TlsFiles(ca, cert, key)``, an ``ssl.SSLContext``, or a pair of them: every link is
            TLS, and who is at its other end is said by a certificate.
        min_security: "open", "auth" or "tls": refuse to be made with less.
        config: Fields of ``NodeConfig``, when ``node`` is an id.

    Raises:
        ValueError: Two behaviors have the same service id, or one is out of 0..239.
        LocalError: A setting is out of range, or a certificate cannot be used.
    """

    def __init__(
        self,
        node: int | NodeConfig,
        behaviors: Sequence[NetworkBehavior] = (),
        router: RouterTable | None = None,
        transports: Sequence[Transport] | None = None,
        secret: Secret | None = None,
        *,
        backend: BackendName | None = None,
        selector: selectors.BaseSelector | None = None,
        clock_ms: Callable[[], int] | None = None,
        rng: random.Random | None = None,
        wake: Callable[[], object] | None = None,
        observer: Observer | None = None,
        tls: TlsFiles | SSLContext | tuple[SSLContext, SSLContext] | None = None,
        min_security: SecurityLevel | None = None,
        **config: int | bool,
    ) -> None:
        self._config = config_of(node, secret, config, tls, min_security)
        kernels = _backend.kernels if backend is None else _backend.load(backend)
        self.backend: BackendName = kernels.NAME
        if rng is None:
            from random import SystemRandom

            rng = SystemRandom()
        self._rng = rng
        self._virtual = clock_ms is not None
        self._wake = wake
        micros = clock_us if clock_ms is None else lambda: clock_ms() * 1_000
        bound = bind_router(router, self._config.node_id, kernels.RouteTable)
        self._router = bound.router
        self._loop: _backend.kernels.Loop = kernels.Loop(
            selector,
            clock=clock_ms,
            on_error=self._on_loop_error,
            max_posts=self._config.max_posts,
            busy_poll_us=self._config.busy_poll_us,
            wake=wake,
            slow_hook_ms=self._config.slow_hook_ms,
            on_slow=self._on_slow_hook,
        )
        try:
            self._assemble(kernels, bound, behaviors, transports, micros, observer)
        except BaseException:
            self._loop.close()
            raise
        self._addrs: list[NodeAddr] = []
        self._started = False
        self._starting = False
        self._running = False
        self._stop = False
        self._closed = False
        self._close_in_turn: float | None = None
        self._forked = False
        self._thread: int | None = None
        from .process import watch_fork  # brings threading, weakref and contextlib

        watch_fork(self)

    def _assemble(
        self,
        kernels: ModuleType,
        bound: BoundRouter,
        behaviors: Sequence[NetworkBehavior],
        transports: Sequence[Transport] | None,
        clock_us: Callable[[], int],
        observer: Observer | None,
    ) -> None:
        self._host = Host(self._config, self._loop, kernels.Records, self._rng, self._shut)
        self._plane = Plane(
            self._config,
            behaviors,
            self._router,
            self._host,
            loop=self._loop,
            port=kernels.Port,
            calls=kernels.CallDesk,
            vitals=kernels.Vitals,
            rng=self._rng,
            clock_us=clock_us,
            reserved=bound.services(self._rng),
            observer=observer,
        )
        self._switch = make_switch(
            kernels.Switch, self._loop, bound.for_switch, self._plane, self._config
        )
        self._plane.bind(self._switch)
        kernels.BroadcastDesk(self._host.identity.epoch, self._config.max_broadcast_origins).bind(
            self._switch
        )
        self._bound = bound
        if transports is None:
            from .transport import MemoryTransport, TcpTransport, UnixTransport

            transports = (TcpTransport(), UnixTransport(), MemoryTransport())
        self._host.bind(self._plane, transports)
        for service_id in self._plane.service_ids:
            if service_id < wire.FIRST_RESERVED_SERVICE:
                self._router.register_service(service_id)

    # -- identity and state ------------------------------------------------------------------------

    @property
    def node_id(self) -> NodeId:
        """This node's id."""
        return NodeId(self._config.node_id)

    @property
    def config(self) -> NodeConfig:
        """The settings in force."""
        return self._config

    @property
    def router(self) -> RouterTable:
        """Who routes."""
        return self._router

    @property
    def addrs(self) -> tuple[NodeAddr, ...]:
        """What this node listens on."""
        return tuple(self._addrs)

    @property
    def closed(self) -> bool:
        """Whether the node was closed."""
        return self._closed

    @property
    def connections(self) -> tuple[LinkStats, ...]:
        """The live links, oldest first."""
        return self._host.link_stats()

    @property
    def kept(self) -> tuple[KeptAddr, ...]:
        """The addresses whose link is kept up, oldest first."""
        return self._plane.redialer.stats()

    def stats(self) -> NodeStats:
        """Return all counters as they are now."""
        return self._host.stats(self.backend, self._loop, self._bound.refused())

    # -- what the router knows (imported by the first who asks) ------------------------------------

    def routes(self) -> list[Route]:
        """Return where messages go and why: a row for every destination, with all candidates.

        Raises:
            LocalError: The router is not a ``LayeredRouter``; likewise in the next three.
        """
        from .explain import known_routes

        return known_routes(self._layered())

    def nodes(self) -> list[KnownNode]:
        """Return the nodes that can be reached, as far as they are known by name, ascending.

        There may be others: the ``nodes`` of each row of ``routes`` are reachable if they exist.
        """
        from .explain import known_nodes

        return known_nodes(self._layered())

    def services(self) -> list[KnownService]:
        """Return the services that can be reached, ascending, with the providers known."""
        from .explain import known_services

        return known_services(self._layered())

    def services_at(self, node_id: int) -> tuple[ServiceId, ...]:
        """Return the services that a node is known to offer, ascending; maybe not all it does."""
        from .explain import services_at

        return services_at(self._layered(), node_id)

    def _layered(self) -> LayeredRouter:
        self._check()
        return self._bound.layered

    def __repr__(self) -> str:
        state = "closed" if self._closed else f"{len(self._plane.links)} links"
        return f"<Node {self.node_id} {self.backend} {state}>"

    # -- links -------------------------------------------------------------------------------------

    def listen(self, addr: NodeAddr | str) -> NodeAddr:
        """Accept links at an address, all of its alternatives.

        Args:
            addr: tcp (port 0: any), unix or memory; a node id in it must be this node's.

        Returns:
            The address to dial, with this node's id and the real port.

        Raises:
            InsecureListenError: Other machines can reach it, and there is neither a secret nor
                ``tls`` nor ``insecure=True``.
            LocalError: No transport listens on that kind of address.
            OSError: The system refuses, for example because the port is in use.
        """
        self._check()
        wanted = parse_addr(addr)
        if wanted.node_id not in (None, self.node_id):
            raise LocalError(f"{wanted} names node {wanted.node_id}; this is node {self.node_id}")
        if self._config.security == "open" and not self._config.insecure:
            for endpoint in wanted.endpoints:
                if not is_loopback(endpoint):
                    raise InsecureListenError(str(wanted))
        actual = NodeAddr(self.node_id, self._host.listen(wanted.endpoints))
        self._addrs.append(actual)
        return actual

    def connect(
        self, addr: NodeAddr | str, parallel: bool = False, *, keep: bool = False
    ) -> ConnId:
        """Dial; the outcome arrives in the hooks, under the conn id returned here.

        Args:
            addr: Whom; several alternatives are tried in order.
            parallel: Also when there is a link to that node already.
            keep: Dial again, under another conn id, when that fails or when the link ends, and so
                on until ``forget``, until this node closes the link, or until it is closed itself.

        Raises:
            AddressError: ``addr`` is not an address.
            QueueFullError: ``max_commands`` wait already, or ``max_kept`` addresses are kept.
        """
        self._check()
        return self._plane.connect(parse_addr(addr), parallel=parallel, keep=keep)

    def forget(self, addr: NodeAddr | str) -> bool:
        """Keep no link to an address any more; return whether it was kept.

        A link that is up stays; an attempt under way ends in an error.

        Args:
            addr: As it was given to ``connect``.
        """
        self._check()
        return self._plane.forget(parse_addr(addr))

    # -- turning -----------------------------------------------------------------------------------

    def poll(self, timeout_s: float | None = None) -> int:
        """Make one turn: wait for work, do it, return how much there was.

        Args:
            timeout_s: Longest wait in seconds; None: until something happens; 0: do not wait.

        Raises:
            NodeClosedError: The node was closed.
            RuntimeError: Called from inside a hook.
        """
        self._check()
        if self._in_turn:
            raise RuntimeError("poll() inside a hook: the node is in a turn already")
        return self._turn(None if timeout_s is None else milliseconds(timeout_s))

    def _turn(self, timeout_ms: int | None = 0) -> int:
        """Make one turn; unchecked, for a simulator that knows its nodes."""
        try:
            if not self._started:
                self._start()
            served = self._loop.run_once(timeout_ms)
        finally:
            if self._close_in_turn is not None:
                self._close_if_asked()
        self._plane.raise_interrupt()
        return served

    def _run_turns(self) -> None:
        """Make turns until somebody asks the loop to leave."""
        self._check()
        try:
            if not self._started:
                self._start()
            self._loop.run()
        finally:
            self._close_if_asked()
        self._plane.raise_interrupt()

    def run(self) -> None:
        """Poll until ``stop`` or ``close`` is called, or SIGINT or SIGTERM comes.

        In the main thread the two signals are handled as ``stop`` meanwhile, and what was there
        before is restored. What a hook raises beyond ``Exception`` (KeyboardInterrupt, SystemExit)
        comes out of here; the node can still be closed, or run on.
        """
        self._check_outside("run")
        self._running = True
        try:
            from .process import stop_on_signals

            with stop_on_signals(self.stop, self._loop.wakeup_fd):
                while not (self._stop or self._closed):
                    self._run_turns()
        finally:
            self._running = self._stop = False

    def stop(self) -> None:
        """Make ``run`` return; from any thread, hook or signal handler."""
        self._stop = True
        self._loop.leave()

    def post(self, fn: Callable[..., object], *args: object) -> None:
        """Call ``fn(*args)`` on the node's thread, soon; from any thread or signal handler.

        Raises:
            QueueFullError: ``max_posts`` wait already.
            NodeClosedError: The node was closed.
        """
        if self._closed or self._forked:
            self._check()
        if not callable(fn):
            raise TypeError(f"fn must be callable, not {type(fn).__name__}")
        self._loop.post(self._plane.run_posted, fn, args)

    def fileno(self) -> int:
        """Return a descriptor that is readable when ``poll(0)`` has work.

        Raises:
            LocalError: The selector passed in has none.
        """
        self._check()
        return self._loop.fileno()

    def next_deadline_ms(self) -> int | None:
        """Return in how many milliseconds ``poll(0)`` is due at the latest; None: no timer."""
        self._check()
        return self._loop.next_deadline_ms() if self._started else 0

    # -- for scripts -------------------------------------------------------------------------------

    def agent(self, service_id: int) -> BehaviorAgent:
        """Return the agent of the behavior of that service, for code outside hooks.

        Raises:
            LocalError: No behavior has this service id.
        """
        return self._plane.agent(service_id)

    def call(
        self,
        route: RouteRule,
        service_id: int,
        payload: bytes | bytearray | memoryview,
        timeout_s: float = 5.0,
    ) -> bytes:
        """Call a service and drive the node until its answer is there.

        Returns:
            The answer's payload.

        Raises:
            CallError: And its kinds: the call failed.
            LocalError: It could not be sent.
            RuntimeError: Called from inside a hook; use ``agent.call`` there.
        """
        self._check_outside("call")
        answers = self._begin_call(route, service_id, payload, milliseconds(timeout_s))
        while not answers:
            self.poll(None)
        return answers[0].result()

    def _begin_call(
        self,
        route: RouteRule,
        service_id: int,
        payload: bytes | bytearray | memoryview,
        timeout_ms: int,
    ) -> list[CallAnswer]:
        """Call a service; the answer will be in the list returned."""
        answers: list[CallAnswer] = []
        self._plane.calls.call(service_id, route, service_id, payload, answers.append, timeout_ms)
        return answers

    def wait_connected(self, node_id: int, timeout_s: float = 5.0) -> None:
        """Drive the node until it has a link to that node.

        Raises:
            WaitTimeoutError: It did not come up in time.
        """
        check_node_id(node_id)
        self._wait(
            lambda: any(link.is_open for link in self._plane.links.to_node(node_id)),
            f"a link to node {node_id}",
            timeout_s,
        )

    def wait_route(self, rule: RouteRule, service_id: int = 0, timeout_s: float = 5.0) -> None:
        """Drive the node until the router knows a way.

        Args:
            rule: Where to.
            service_id: Of the message; decides for ``RouteRule.service()``.
            timeout_s: Give up after this long.

        Raises:
            WaitTimeoutError: There was none in time.
        """
        check_rule(rule)
        self._wait(
            lambda: not self._router.path_to(rule, service_id).is_reject,
            f"a route for {rule} (service {service_id})",
            timeout_s,
        )

    def _wait(self, condition: Callable[[], bool], what: str, timeout_s: float) -> None:
        self._check_outside("wait")
        deadline = time.monotonic() + timeout_s
        while not condition():
            left = deadline - time.monotonic()
            if left <= 0:
                raise WaitTimeoutError(what, timeout_s)
            self.poll(min(left, 0.1))

    # -- the end -----------------------------------------------------------------------------------

    def close(self, timeout_s: float = 1.0) -> None:
        """End all links politely, call ``on_stopped``, give everything back. Idempotent.

        Args:
            timeout_s: For the neighbours to take what is queued; afterwards it is dropped.

        Inside a hook the closing happens at the end of the turn.

        Raises:
            LocalError: Another thread is driving the node: ``stop`` it first.
        """
        if self._closed or self._forked:
            return
        if self._running or self._in_turn:
            self._check()
        if self._in_turn:
            self._close_in_turn = timeout_s
            self.stop()
            return
        self._close_now(timeout_s)

    def __enter__(self) -> Node:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if exc_type is not None and issubclass(exc_type, KeyboardInterrupt):
            self.close(HURRY_S)
        else:
            self.close()

    def _close_if_asked(self) -> None:
        if self._close_in_turn is not None and not self._closed:
            timeout_s, self._close_in_turn = self._close_in_turn, None
            self._close_now(timeout_s)

    def _close_now(self, timeout_s: float) -> None:
        from .process import HeldInterrupt, forget_fork

        # Half closed it would stay so: who closes it again finds it closed.
        with HeldInterrupt(self._loop.wake) as held:
            self._close_held(timeout_s, held)
            forget_fork(self)
            self._plane.raise_interrupt()

    def _close_held(self, timeout_s: float, held: HeldInterrupt) -> None:
        if not self._started and self._plane.dials > self._plane.dials_failed:
            self._start()  # conn ids were given out: their hooks are still owed
        self._closed = True
        self._plane.refuse_new()
        self._take_steps(
            lambda: say_goodbye(
                self._plane, self._host, self._loop, timeout_s, held=held, virtual=self._virtual
            ),
            self._plane.stop,
            lambda: self._switch.refuse_sends(NodeClosedError()),
            self._switch.drop_local,
            self._loop.close,
        )

    def _take_steps(self, *steps: Callable[[], object]) -> None:
        """Take each step whatever becomes of those before it, Ctrl-C included; that is kept."""
        for step in steps:
            self._take_step(step)

    def _take_step(self, step: Callable[[], object]) -> None:
        try:
            step()
        except BaseException as exc:
            self._plane.hold_interrupt(exc)

    # -- inside ------------------------------------------------------------------------------------

    def _start(self) -> None:
        self._started = self._starting = True
        self._thread = get_ident()
        self._loop.update_now()
        try:
            self._plane.start()
        finally:
            self._starting = False

    @property
    def _in_turn(self) -> bool:
        """Whether a hook may be running: ``on_started`` runs before the loop's first turn."""
        return self._starting or self._loop.in_turn

    def _shut(self) -> bool:
        return self._closed

    def _on_slow_hook(self, hook: object, took_ms: int, calls: int, now_ms: int) -> None:
        self._plane.on_slow_hook(hook, took_ms, calls, now_ms)

    def _on_loop_error(self, where: str, exc: BaseException) -> None:
        if where == "wait" and isinstance(exc, OSError):
            self._host.wait_failed(exc)
        elif isinstance(exc, Exception):
            self._plane.on_hook_error(where, exc)

    def _check(self) -> None:
        if self._forked:
            raise ForkedNodeError
        if self._closed:
            raise NodeClosedError
        if self._thread is not None and self._thread != get_ident():
            raise LocalError(
                "this node is driven by another thread: only post() and stop() may be called here"
            )

    def _check_outside(self, name: str) -> None:
        self._check()
        if self._in_turn:
            raise RuntimeError(f"{name}() inside a hook would wait for itself")
        if self._wake is not None:
            raise LocalError(f"{name}() waits in real time; a simulated network has its own")

    def _vanish(self) -> None:
        """End as a killed process does: no hook, no byte to anybody. For simulated time."""
        self._abandon(NodeClosedError)
        self._forked, self._closed = False, True
        from .process import forget_fork

        forget_fork(self)

    def _abandon(self, error: type[NodeClosedError] = ForkedNodeError) -> None:
        """Close what a fork copied, without a byte to anybody: the parent still uses it."""
        self._forked = True
        self._switch.refuse_sends(error())
        self._plane.abandon(error)
        self._loop.abandon()
        self._host.abandon()
        for conn in self._switch.connections():
            conn.abandon()
