"""From what a user gives to the parts of a node: settings, seconds, the switch."""

from __future__ import annotations

import math
import os
import time

from . import wire
from ._typing import TYPE_CHECKING, Any
from .config import NodeConfig, Secret, SecurityLevel
from .errors import LocalError

if TYPE_CHECKING:
    from ._backend import kernels
    from .plane import Plane
    from .routing import RouterTable

__all__ = ["clock_us", "config_of", "make_switch", "milliseconds"]


def config_of(
    node: int | NodeConfig,
    secret: Secret | None,
    fields: dict[str, Any],
    tls: object = None,
    min_security: SecurityLevel | None = None,
) -> NodeConfig:
    """Return the settings of a node made from an id and keywords, or from a ``NodeConfig``.

    Without a secret, ``NETCORE_SECRET`` of the environment is taken.

    Raises:
        LocalError: Both ways were used at once, a setting is out of range, or the links would be
            less secure than ``min_security``.
    """
    given = {"tls": tls, "min_security": min_security}
    fields = fields | {name: value for name, value in given.items() if value is not None}
    config = _config_of(node, secret, fields)
    config.require_security()
    return config


def _config_of(node: int | NodeConfig, secret: Secret | None, fields: dict[str, Any]) -> NodeConfig:
    if isinstance(node, NodeConfig):
        if secret is not None or fields:
            raise LocalError("give settings in the NodeConfig, or with a node id; not both")
        from_env = _secret_from(node.secret)
        if node.secret == from_env:
            return node
        from dataclasses import replace  # costs more than all of netcore

        return replace(node, secret=from_env)
    return NodeConfig(node_id=node, secret=_secret_from(secret), **fields)


def _secret_from(secret: Secret | None) -> Secret | None:
    """Return the secret given, else that of the environment."""
    return secret if secret is not None else os.environ.get("NETCORE_SECRET") or None


def make_switch(
    switch: type[kernels.Switch],
    loop: kernels.Loop,
    router: RouterTable | kernels.RouteTable,
    plane: Plane,
    config: NodeConfig,
) -> kernels.Switch:
    """Return the switch of a node, whose sink is its plane."""
    return switch(
        loop,
        router,
        plane,
        node_id=config.node_id,
        max_frame_bytes=config.max_frame_bytes,
        read_budget_bytes=config.read_budget_bytes,
        write_high_bytes=config.write_high_bytes,
        write_low_bytes=config.write_low_bytes,
        control_queue_bytes=config.control_queue_bytes,
        local_queue_bytes=config.local_queue_bytes,
        close_timeout_ms=config.close_timeout_ms,
        send_queue_policy=config.send_queue_policy,
        max_queued_bytes=config.total_queue_bytes,
    )


def milliseconds(seconds: float) -> int:
    """Return milliseconds, rounded up; ``inf`` is the longest time that can be said."""
    if not isinstance(seconds, int | float) or math.isnan(seconds):
        raise LocalError(f"a timeout is a number of seconds, not {seconds!r}")
    return math.ceil(min(max(0, seconds) * 1_000, wire.MAX_U32))


def clock_us() -> int:
    """Return the system's monotonic microseconds."""
    return time.monotonic_ns() // 1_000
