"""What the roles of netcore's contestant share: settings, addresses, joining a network."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any, Final

from netcore import CallTimeout, NetworkBehavior, Node, NodeConfig, NoRouteError, RouteRule
from netcore.router import RouterTable

from .process import Options

__all__ = [
    "RELAY",
    "SERVICE",
    "SINK",
    "SOURCE",
    "join",
    "listen",
    "new_node",
    "offers_busy_polling",
]

SERVICE: Final = 10

#: Node ids. They differ in their lowest byte only: neighbours in one group.
SOURCE: Final = 1
SINK: Final = 2
RELAY: Final = 3

_SECRET: Final = "a secret that only this benchmark uses"
_DEFAULTS: Final = NodeConfig(node_id=0)
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
    return Node(
        node_id,
        behaviors,
        router,
        secret=_SECRET if options.number("secret") else None,
        **config,
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
    while True:
        try:
            node.call(rule, SERVICE, b"", timeout_s=0.2)
        except (CallTimeout, NoRouteError):
            continue  # the way back is not known over there yet
        return
