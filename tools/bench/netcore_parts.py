"""What the roles of netcore's contestant share: settings, addresses, joining a network."""

from __future__ import annotations

import importlib.util
import io
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import fields
from pathlib import Path
from typing import Any, Final

from netcore import (
    CallTimeout,
    LocalError,
    Message,
    NetworkBehavior,
    Node,
    NodeConfig,
    NoRouteError,
    RouteRule,
)
from netcore.agent import BehaviorAgent
from netcore.router import RouterTable
from netcore.rpc import RpcAnswer, RpcRequest

from .process import Options, Phase

__all__ = [
    "RELAY",
    "SERVICE",
    "SINK",
    "SOURCE",
    "Sink",
    "join",
    "listen",
    "make_certs",
    "new_node",
    "offers_busy_polling",
    "offers_tls",
]

SERVICE: Final = 10

#: Node ids. They differ in their lowest byte only: neighbours in one group.
SOURCE: Final = 1
SINK: Final = 2
RELAY: Final = 3

_SECRET: Final = "a secret that only this benchmark uses"
_CERTS: Final = Path(tempfile.gettempdir()) / f"netcore-bench-certs-{os.getuid()}"
_DEFAULTS: Final = NodeConfig(node_id=0)
_JOIN_TRIES: Final = 40
_MAX_LINKS: Final = 16_384
_BUSY_POLL_US: Final = 1_000


def new_node(
    options: Options,
    node_id: int,
    behaviors: Sequence[NetworkBehavior] = (),
    router: RouterTable | None = None,
    **settings: int,
) -> Node:
    """Return a node with the settings that the payload's size and the options ask for."""
    frame = options.size + 1_024
    window = max(4, options.window) * frame
    config: dict[str, Any] = {
        "max_frame_bytes": max(_DEFAULTS.max_frame_bytes, frame),
        "write_high_bytes": max(_DEFAULTS.write_high_bytes, window),
        "write_low_bytes": max(_DEFAULTS.write_low_bytes, window // 2),
        "max_links": _MAX_LINKS,
        **settings,
    }
    if options.number("busy") and _has("busy_poll_us"):
        config["busy_poll_us"] = _BUSY_POLL_US
    if options.number("tls"):
        config["tls"] = _tls_files(node_id)
    return Node(
        node_id,
        behaviors,
        router,
        secret=_SECRET if options.number("secret") else None,
        **config,
    )


def offers_tls() -> bool:
    """Return whether this netcore has TLS, and whether certificates can be made here."""
    return _has("tls") and importlib.util.find_spec("cryptography") is not None


def make_certs() -> None:
    """Make an authority, and certificates for all roles; the processes of a run find them."""
    from netcore.cli.certs import run_init, run_issue

    shutil.rmtree(_CERTS, ignore_errors=True)
    with redirect_stdout(io.StringIO()):
        run_init(_CERTS, "netcore benchmark", 2)
        run_issue(_CERTS, range(1, 10), 1)


def _tls_files(node_id: int) -> object:
    from netcore import TlsFiles  # not there in every version that is measured

    return TlsFiles(
        _CERTS / "ca.pem", _CERTS / f"node-{node_id}.pem", _CERTS / f"node-{node_id}.key"
    )


def _has(setting: str) -> bool:
    return setting in {field.name for field in fields(NodeConfig)}


def offers_busy_polling() -> bool:
    """Return whether this netcore can wait for messages without sleeping."""
    return _has("busy_poll_us")


@contextmanager
def listen(node: Node, options: Options) -> Iterator[str]:
    """Listen where other processes reach the node; give the address to dial."""
    if not options.number("unix"):
        yield str(node.listen("/ip4/127.0.0.1/tcp/0"))
        return
    path = Path(tempfile.gettempdir()) / f"netcore-bench-{os.getpid()}.sock"
    try:
        yield str(node.listen(f"/unix{path}"))
    finally:
        path.unlink(missing_ok=True)


def join(node: Node, addr: str, node_id: int) -> None:
    """Dial, and wait until messages find their way to a node and back."""
    node.connect(addr)
    rule = RouteRule.node(node_id)
    node.wait_route(rule, timeout_s=10)
    for _ in range(_JOIN_TRIES):  # the way back may not be known over there yet
        if _answers(node, rule):
            return
        node.poll(0.05)
    raise SystemExit(f"node {node_id} does not answer")


def _answers(node: Node, rule: RouteRule) -> bool:
    try:
        node.call(rule, SERVICE, b"", timeout_s=0.2)
    except (CallTimeout, NoRouteError):
        return False
    return True


class Sink(NetworkBehavior):
    """Counts what comes; tells a source behind a relay how far it is."""

    service_id = SERVICE

    def __init__(self, options: Options, phase: Phase) -> None:
        self._size = options.size
        self._marks = (options.warmup, options.total)
        self._ack_every = options.window // 4 if options.window > 1 else 0
        self._phase = phase
        self._seen = 0
        self._stop = self._next_stop()

    def on_message(self, agent: BehaviorAgent, message: Message) -> None:
        """Count one."""
        self._seen = seen = self._seen + 1
        if seen == self._stop:
            self._at_stop(agent, message)

    def _at_stop(self, agent: BehaviorAgent, message: Message) -> None:
        seen = self._seen
        if seen in self._marks:
            if len(message.payload) != self._size:
                raise ValueError(f"a payload of {len(message.payload)} bytes")
            self._phase.count(seen - self._phase.seen)
        if self._ack_every and seen % self._ack_every == 0:
            with suppress(LocalError):  # the source may have sent all it had, and left
                agent.reply(message, b"%d" % seen)
        self._stop = self._next_stop()

    def _next_stop(self) -> int:
        stops = [mark for mark in self._marks if mark > self._seen]
        if self._ack_every:
            stops.append((self._seen // self._ack_every + 1) * self._ack_every)
        return min(stops, default=0)

    def on_tick(self, agent: BehaviorAgent, ts_ms: int, interval_ms: int) -> None:
        """Show that messages come, when nothing else does."""
        if not self._phase.done:
            self._phase.count(self._seen - self._phase.seen)

    def on_rpc(self, agent: BehaviorAgent, req: RpcRequest, res: RpcAnswer) -> bool:
        """Answer the source's question whether there is a way."""
        res.ok(b"")
        return True
