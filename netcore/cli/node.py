"""``netcore node``: one node, until Ctrl-C; or one call, and its answer."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from netcore import (
    BehaviorAgent,
    InsecureListenError,
    Node,
    NodeAddr,
    RouteRule,
    TlsFiles,
    WaitTimeoutError,
)
from netcore.config import SecurityLevel

from . import CommandError
from .node_services import Dialer, Echo
from .screen import Screen

__all__ = [
    "CallOptions",
    "NodeOptions",
    "free_service",
    "read_secrets",
    "routes_text",
    "run_node",
    "status_line",
]

#: The highest service id that is the user's.
LAST_SERVICE: Final = 239
REDRAW_S: Final = 0.5
#: What the shell reports for a command that Ctrl-C ended.
INTERRUPTED: Final = 130


@dataclass(frozen=True, slots=True, kw_only=True)
class CallOptions:
    """A call to be made instead of running on.

    Attributes:
        text: What to send.
        service_id: Whom to call.
        node_id: Where; None: the nearest node that offers the service.
        timeout_s: For a route, and then for the answer.
    """

    text: str
    service_id: int
    node_id: int | None = None
    timeout_s: float = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeOptions:
    """What the command line says.

    Attributes:
        node_id: This node.
        listen: Addresses to accept links at.
        connect: Addresses to dial.
        secret_file: The network's secret; a line each during a rotation.
        services: Service ids to echo and answer on.
        tls: The files that make every link TLS.
        min_security: Do not run with less than this.
        insecure: Listen beyond loopback without a secret and without TLS.
        stats_every_s: Print the counters this often; None: never.
        routes_every_s: Print all routes, and why they were chosen, this often; None: never.
        log_level: Of what is logged.
        call: Make one call and end; None: run.
    """

    node_id: int
    listen: Sequence[str] = ()
    connect: Sequence[str] = ()
    secret_file: Path | None = None
    services: Sequence[int] = ()
    tls: TlsFiles | None = None
    min_security: SecurityLevel | None = None
    insecure: bool = False
    stats_every_s: float | None = None
    routes_every_s: float | None = None
    log_level: int = logging.WARNING
    call: CallOptions | None = None


def run_node(options: NodeOptions) -> int:
    """Run the node until Ctrl-C or SIGTERM, or until its call was answered.

    Raises:
        CommandError: The options make no sense together, or the secret cannot be read.
        NetcoreError: The node refuses them, or the call failed.
    """
    if not (options.listen or options.connect):
        raise CommandError("a node without links is alone: give --listen or --connect, or both")
    # With --call, standard output is for the answer.
    with Screen(sys.stdout if options.call is None else sys.stderr) as screen:
        logging.basicConfig(level=options.log_level, handlers=[_LogLines(screen)])
        dialer = Dialer(
            free_service(options.services),
            [NodeAddr.parse(text) for text in options.connect],
            screen.say,
        )
        with _make_node(options, dialer, screen) as node:
            for addr in options.listen:
                _listen(node, addr)
            try:
                return _run(node, options, screen, node.agent(dialer.service_id))
            finally:
                dialer.end()


def _make_node(options: NodeOptions, dialer: Dialer, screen: Screen) -> Node:
    secret = None if options.secret_file is None else read_secrets(options.secret_file)
    behaviors = [dialer, *(Echo(service, screen.say) for service in options.services)]
    try:
        return Node(
            options.node_id,
            behaviors,
            secret=secret,
            insecure=options.insecure,
            tls=options.tls,
            min_security=options.min_security,
        )
    except ValueError as exc:  # a service id twice, or out of range
        raise CommandError(str(exc)) from None


def _listen(node: Node, addr: str) -> None:
    try:
        node.listen(addr)
    except InsecureListenError:
        raise CommandError(
            f"{addr} can be reached from other machines: give --secret-file (netcore keygen makes "
            "a secret) or --tls-ca, --tls-cert and --tls-key, or --insecure if everybody there may "
            "join"
        ) from None
    except OSError as exc:
        raise CommandError(f"cannot listen at {addr}: {exc.strerror or exc}") from None


def _run(node: Node, options: NodeOptions, screen: Screen, agent: BehaviorAgent) -> int:
    for addr in node.addrs:
        # In the first turn: who reads it may send a signal, which only then ends the node well.
        node.post(screen.say, f"node {node.node_id} ({node.backend}) listens at {addr}")
    if options.call is not None:
        return _call(node, options.call)

    def repeat(every_ms: int, show: Callable[[], None]) -> None:
        agent.call_later(every_ms, lambda: repeat(every_ms, show))
        show()

    def begin(every_s: float, show: Callable[[], None]) -> None:
        agent.call_later(0, lambda: repeat(round(every_s * 1_000), show))

    if screen.live:
        begin(REDRAW_S, lambda: screen.show([status_line(node)]))
    if options.stats_every_s is not None:
        begin(options.stats_every_s, lambda: screen.say(status_line(node)))
    if options.routes_every_s is not None:
        begin(options.routes_every_s, lambda: screen.say(routes_text(node)))
    node.run()
    screen.close()
    screen.say(status_line(node))
    return 0


def _call(node: Node, call: CallOptions) -> int:
    rule = RouteRule.service() if call.node_id is None else RouteRule.node(call.node_id)
    try:
        node.wait_route(rule, call.service_id, call.timeout_s)
        began = time.perf_counter()
        answer = node.call(rule, call.service_id, call.text.encode(), call.timeout_s)
    except WaitTimeoutError:
        where = "any node" if call.node_id is None else f"node {call.node_id}"
        raise CommandError(
            f"found no way to service {call.service_id} of {where} within {call.timeout_s:g} s"
        ) from None
    except KeyboardInterrupt:
        return INTERRUPTED
    took_ms = (time.perf_counter() - began) * 1_000
    print(f"{answer.decode('utf-8', 'backslashreplace')}  ({took_ms:.2f} ms)")
    return 0


def status_line(node: Node) -> str:
    """Return the state of a node in one line."""
    stats = node.stats()
    peers = " ".join(str(link.remote_node_id) for link in stats.links) or "none"
    return (
        f"node {node.node_id}: links {peers}; sent {stats.messages_sent:,}, delivered "
        f"{stats.messages_delivered:,}, relayed {stats.messages_relayed:,}, "
        f"dropped {stats.dropped:,}"
    )


def routes_text(node: Node) -> str:
    """Return where messages go and why, a paragraph for each destination."""
    lines = [line for route in node.routes() for line in route.lines()]
    return "\n".join(lines or [f"node {node.node_id} knows no way to anybody"])


def free_service(taken: Sequence[int]) -> int:
    """Return the highest service id that is not taken."""
    return next(number for number in range(LAST_SERVICE, -1, -1) if number not in taken)


def read_secrets(file: Path) -> list[str]:
    """Return the secrets in a file, a line each, the one to dial with first.

    Raises:
        CommandError: The file cannot be read or is empty.
    """
    try:
        text = file.read_text("utf-8")
        is_open = os.name == "posix" and file.stat().st_mode & 0o077
    except OSError as exc:
        raise CommandError(f"cannot read the secret file {file}: {exc.strerror}") from None
    except UnicodeDecodeError:
        raise CommandError(f"the secret file {file} is not text") from None
    secrets = [line.strip() for line in text.splitlines() if line.strip()]
    if not secrets:
        raise CommandError(f"the secret file {file} is empty: `netcore keygen` makes a secret")
    if is_open:
        print(f"warning: others can read {file}; chmod 600 {file}", file=sys.stderr)
    return secrets


class _LogLines(logging.Handler):
    """Logs above the status line instead of through it."""

    def __init__(self, screen: Screen) -> None:
        super().__init__()
        self._screen = screen
        self.setFormatter(logging.Formatter("%(asctime)s %(name)s: %(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        """Print a record."""
        self._screen.say(self.format(record))
