"""A simulator: many nodes in one process, on virtual time, with faults, all from one seed.

    from netcore.sim import Network

    with Network(seed=7) as net:
        net.topology.line([1, 2, 3], behaviors=[Echo])
        net.settle()
        net.cut(2, 3)
        net.run(20_000)

The nodes are real: plane, routing, handshakes and services are those that run over sockets. Only
their clock, their sockets and their randomness are the simulator's.
"""

from __future__ import annotations

from .clock import SimulationError
from .faults import random_faults
from .links import Link
from .network import Network
from .nodes import HookError, address_of

__all__ = ["HookError", "Link", "Network", "SimulationError", "address_of", "random_faults"]
