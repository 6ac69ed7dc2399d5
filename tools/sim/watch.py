"""Watch: looks at a node after each of its turns."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, final

from netcore import LayeredRouter, Node, wire
from netcore.sim import Network
from netcore.sim.nodes import SimNode

from .crew import Crew

if TYPE_CHECKING:
    from netcore._backend import kernels

__all__ = ["watch"]

#: What is sealed already stands beside the data queue; see docs/protocol.md, "Queues and order".
SEALED_BYTES: Final = 131_072 + 4 * 65_536
_OPEN: Final = 0


def watch(network: Network, crew: Crew) -> None:
    """Look at all nodes that there are, after each of their turns."""
    for node in network._fabric.nodes.values():
        if "turn" not in vars(node):
            node.turn = _Watch(network, crew, node)  # type: ignore[method-assign]


@final
class _Watch:
    """Takes the place of a node's ``turn``."""

    def __init__(self, network: Network, crew: Crew, node: SimNode) -> None:
        self._network = network
        self._crew = crew
        self._node = node
        self._turn = node.turn
        self._before: tuple[Any, ...] = ()

    def __call__(self) -> None:
        """Let the node have its turn, and look."""
        self._turn()
        if self._node.is_running:
            node = self._node.node
            conns = node._switch.connections()
            for conn in conns:
                self._check_queues(node, conn)
            self._check_tables(node)
            state = (self._node.routing_state(), *[(c.conn_id, c.state) for c in conns])
            if state != self._before:
                self._before = state
                live = {c.conn_id: c.remote_node_id for c in conns if c.state == _OPEN}
                self._check_sessions(list(live.values()))
                self._check_routes(node, live)
        if self._network.hook_errors:
            self._crew.fail("hooks", str(self._network.hook_errors[0]))
        if self._crew.violation is not None:
            raise self._crew.violation

    def _check_queues(self, node: Node, conn: kernels.Connection) -> None:
        config = node.config
        most = config.write_high_bytes + config.max_frame_bytes + 4
        if config.secret:
            most += SEALED_BYTES
        queued, control = conn.queued_bytes, conn.control_queued_bytes
        if queued > most:
            self._crew.fail("bounds", f"{node!r}: {queued} bytes wait on a link, of {most}")
        if control > config.control_queue_bytes + config.max_frame_bytes:
            self._crew.fail("bounds", f"{node!r}: {control} bytes of control frames wait")

    def _check_tables(self, node: Node) -> None:
        config, calls = node.config, node._plane.calls
        if calls.pending > config.max_pending_calls or calls.open > config.max_answers_open:
            self._crew.fail("bounds", f"{node!r}: {calls.pending} calls, {calls.open} answers wait")
        if len(node._plane.commands) > config.max_commands + config.max_links:
            self._crew.fail("bounds", f"{node!r}: {len(node._plane.commands)} commands wait")

    def _check_sessions(self, peers: list[int]) -> None:
        if len(set(peers)) != len(peers):
            doubled = sorted({peer for peer in peers if peers.count(peer) > 1})
            self._crew.fail("sessions", f"node {self._node.node_id}: two links to {doubled}")

    def _check_routes(self, node: Node, live: dict[int, int]) -> None:
        router = node.router
        if not isinstance(router, LayeredRouter):
            return
        if router.routes_refused:
            self._crew.fail("refused", f"{node!r} was announced {router.routes_refused} bad routes")
        for layer, index, conn, peer, alt_conn, alt_peer in router.table.slots():
            self._check_hop(live, f"slot {layer}/{index}", conn, peer)
            if alt_peer != wire.NO_NODE:
                self._check_hop(live, f"slot {layer}/{index}", alt_conn, alt_peer)
        for service, _, conn, peer, alt_conn, alt_peer in router.table.services():
            if conn:
                self._check_hop(live, f"service {service}", conn, peer)
            if alt_peer != wire.NO_NODE:
                self._check_hop(live, f"service {service}", alt_conn, alt_peer)

    def _check_hop(self, live: dict[int, int], where: str, conn: int, peer: int) -> None:
        if live.get(conn) != peer:
            node_id = self._node.node_id
            self._crew.fail("next-hop", f"node {node_id}: {where} leads to {peer}, without a link")
