"""The behaviors of a node by service id, each with its agent."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from . import wire
from ._typing import final
from .agent import BehaviorAgent
from .behavior import NetworkBehavior
from .errors import LocalError
from .ids import check_service_id

__all__ = ["BehaviorTable"]


@final
class BehaviorTable:
    """All behaviors of one node, ascending service id.

    Args:
        behaviors: The user's, 0..239.
        reserved: netcore's own, 0..255.

    Raises:
        ValueError: A service id is missing, out of range, or used twice.
    """

    def __init__(
        self, behaviors: Sequence[NetworkBehavior], reserved: Sequence[NetworkBehavior]
    ) -> None:
        table: dict[int, NetworkBehavior] = {}
        highest = wire.FIRST_RESERVED_SERVICE - 1
        for behavior in behaviors:
            _add(table, behavior, highest)
        for behavior in reserved:
            _add(table, behavior, wire.MAX_SERVICE)
        self._behaviors = {service_id: table[service_id] for service_id in sorted(table)}
        self._agents: dict[int, BehaviorAgent] = {}

    def make_agents(self, make: Callable[[int], BehaviorAgent]) -> None:
        """Give every behavior its agent; once."""
        self._agents = {service_id: make(service_id) for service_id in self._behaviors}

    def __iter__(self) -> Iterator[tuple[NetworkBehavior, BehaviorAgent]]:
        for service_id, behavior in self._behaviors.items():
            yield behavior, self._agents[service_id]

    @property
    def service_ids(self) -> tuple[int, ...]:
        """The services, ascending."""
        return tuple(self._behaviors)

    def find(self, service_id: int) -> tuple[NetworkBehavior, BehaviorAgent] | None:
        """Return the behavior that offers a service, and its agent."""
        behavior = self._behaviors.get(service_id)
        return None if behavior is None else (behavior, self._agents[service_id])

    def agent(self, service_id: int) -> BehaviorAgent:
        """Return the agent of a service.

        Raises:
            LocalError: No behavior has this service id.
        """
        agent = self._agents.get(service_id)
        if agent is None:
            raise LocalError(f"this node has no behavior with service id {service_id}")
        return agent


def _add(table: dict[int, NetworkBehavior], behavior: NetworkBehavior, highest: int) -> None:
    if not isinstance(behavior, NetworkBehavior):
        raise TypeError(f"a behavior is an instance of a NetworkBehavior, not {behavior!r}")
    name = type(behavior).__name__
    try:
        service_id = check_service_id(behavior.service_id, highest)
    except AttributeError:
        raise ValueError(f"{name} has no service_id") from None
    except ValueError as exc:
        raise ValueError(f"{name}: {exc}; 240..255 are reserved for netcore's own") from None
    if service_id in table:
        other = type(table[service_id]).__name__
        raise ValueError(f"service id {service_id} is used by {other} and {name}")
    table[service_id] = behavior
