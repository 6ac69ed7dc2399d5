"""A node that dials another one again and again, and knows how long that takes."""

from __future__ import annotations

import time
from typing import Final

from netcore import Node, OutgoingConnectionError
from netcore.behavior import NetworkBehavior

__all__ = ["Dialler", "percentile"]

PATIENCE_S: Final = 10.0


class Patient(NetworkBehavior):
    """Writes down how each dial ended."""

    service_id = 1

    def __init__(self) -> None:
        self.up = 0
        self.errors: list[OutgoingConnectionError] = []

    def on_outgoing_connection_connected(self, agent: object, conn: object) -> None:
        """It became a link."""
        self.up += 1

    def on_outgoing_connection_error(
        self, agent: object, node_id: object, conn_id: object, err: OutgoingConnectionError
    ) -> None:
        """It did not."""
        self.errors.append(err)


class Dialler:
    """The node; ``dial`` is one dial, up to its link and the link's end.

    Attributes:
        times_s: Of the dials that became links.
        failed: Dials that did not.
    """

    def __init__(self, node_id: int, address: str, secret: str | None = None) -> None:
        self._patient = Patient()
        self._address = address
        self.node = Node(node_id, [self._patient], secret=secret)
        self.times_s: list[float] = []
        self.failed = 0

    def dial(self) -> bool:
        """Dial once; return whether it became a link."""
        patient = self._patient
        ended = patient.up + len(patient.errors)
        before = patient.up
        begin = time.perf_counter()
        conn_id = self.node.connect(self._address)
        while patient.up + len(patient.errors) == ended:
            self._turn(begin)
        if patient.up == before:
            self.failed += 1
            return False
        self.times_s.append(time.perf_counter() - begin)
        self.node.agent(1).close_conn(conn_id)
        while self.node.connections:
            self._turn(begin)
        return True

    def rest(self, seconds: float) -> None:
        """Let time pass."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self.node.poll(left)

    def _turn(self, begin: float) -> None:
        if time.perf_counter() - begin > PATIENCE_S:
            raise TimeoutError("a dial neither succeeded nor failed")
        self.node.poll(0.1)


def percentile(values: list[float], share: float) -> float:
    """Return the value below which this share lies; 0 of none."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))] if values else 0.0
