"""How an injected router is used: which object the switch asks, and which services come with it."""

from __future__ import annotations

from collections.abc import Callable

from ._typing import TYPE_CHECKING, final
from .behavior import NetworkBehavior
from .errors import LocalError
from .routing import LayeredRouter, RouterTable
from .values import dataclass

if TYPE_CHECKING:
    from random import Random

    from ._backend import kernels

__all__ = ["BoundRouter", "bind_router"]

_LOOKUPS = ("path_to", "path_to_node", "path_to_key", "path_to_service")


@final
@dataclass(frozen=True, slots=True)
class BoundRouter:
    """A router and how the switch asks it.

    Attributes:
        router: What the user injected, or the default.
        for_switch: Its table, asked without a Python frame, or the router itself.
    """

    router: RouterTable
    for_switch: RouterTable | kernels.RouteTable

    def services(self, rng: Random) -> list[NetworkBehavior]:
        """Return the behaviors that keep the router informed."""
        if isinstance(self.router, LayeredRouter):
            from .services.router_sync import RouterSyncService  # with the first that needs it

            return [RouterSyncService(self.router, rng=rng)]
        return []

    @property
    def layered(self) -> LayeredRouter:
        """The router, when it is one whose ways can be shown.

        Raises:
            LocalError: It is another one.
        """
        if isinstance(self.router, LayeredRouter):
            return self.router
        name = type(self.router).__name__
        raise LocalError(f"only a LayeredRouter can show its ways; this node uses {name}")

    def refused(self) -> int:
        """Return how many announced routes broke a rule."""
        return self.router.routes_refused if isinstance(self.router, LayeredRouter) else 0


def bind_router(
    router: RouterTable | None, node_id: int, table: Callable[[int], kernels.RouteTable]
) -> BoundRouter:
    """Return how a node uses this router; None means a new ``LayeredRouter``.

    Args:
        router: Injected by the user.
        node_id: The node's.
        table: Makes a forwarding table of the node's backend.

    Raises:
        LocalError: The router was made for another node.
        TypeError: It is no router.
    """
    if router is None:
        router = LayeredRouter(node_id, table=table(node_id))
    if not isinstance(router, LayeredRouter):
        for name in ("path_to", "register_service"):  # all that a node asks of it
            if not callable(getattr(router, name, None)):
                raise TypeError(f"{router!r} is no router: it lacks {name}(); derive RouterTable")
        return BoundRouter(router, router)
    if router.node_id != node_id:
        raise LocalError(f"the router is node {router.node_id}'s, this is node {node_id}")
    router.use_table(table(node_id))
    # A subclass that answers by itself must be asked itself.
    own = all(getattr(type(router), name) is getattr(LayeredRouter, name) for name in _LOOKUPS)
    return BoundRouter(router, router.table if own else router)
