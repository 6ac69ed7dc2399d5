"""The dials of a node, from the call of ``connect`` to exactly one of connected and error."""

from __future__ import annotations

from ._typing import Protocol, final
from .address import NodeAddr
from .admission import Admission
from .commands import Connect
from .errors import BehaviorRejected, OutgoingConnectionError
from .hooks import HookRunner
from .ids import ConnId, format_conn
from .logs import logger_of
from .redial import Redialer
from .registry import BehaviorTable

__all__ = ["DialBook", "Shell"]

logger = logger_of("netcore.plane")


class Shell(Protocol):
    """What dials ask of the node around the plane."""

    def new_conn_id(self, addr: NodeAddr) -> ConnId:
        """Return a fresh id for a dial to this address."""

    def dial(self, command: Connect) -> None:
        """Begin to dial; ``Plane.handle_connected`` or ``handle_dial_failed`` follows."""

    def cancel_dial(self, conn_id: int, error: OutgoingConnectionError) -> None:
        """End a dial; ``Plane.handle_dial_failed`` follows if it had begun."""

    def is_dialing(self, node_id: int) -> bool:
        """Return whether a HELLO to that node is out and its dial has not ended."""


@final
class DialBook:
    """Every conn id that was given out and has not ended.

    Attributes:
        made: Conn ids given out.
        failed: Those that ended in an error.
    """

    def __init__(
        self,
        shell: Shell,
        admission: Admission,
        redialer: Redialer,
        behaviors: BehaviorTable,
        hooks: HookRunner,
    ) -> None:
        self._shell = shell
        self._admission = admission
        self._redialer = redialer
        self._behaviors = behaviors
        self._hooks = hooks
        self._open: dict[int, Connect] = {}
        self.made = self.failed = 0

    def add(self, command: Connect) -> None:
        """Note a dial that was asked for."""
        self.made += 1
        self._open[command.conn_id] = command

    def begin(self, command: Connect) -> None:
        """Dial, unless a rule or a behavior refuses, or it was closed before."""
        if command.conn_id not in self._open:
            return
        node_id = command.addr.node_id
        error = self._admission.refuse_dial(node_id, parallel=command.parallel)
        if error is None:
            error = self._ask_behaviors(node_id, command.conn_id)
        if error is not None:
            self.fail(command.conn_id, node_id, error)
        else:
            self._shell.dial(command)

    def _ask_behaviors(self, node_id: int | None, conn_id: int) -> BehaviorRejected | None:
        for behavior, _ in self._behaviors:
            hook = behavior.check_outgoing_connection
            reason = self._hooks.refusal(hook, node_id, conn_id)
            if reason is not None:
                return BehaviorRejected(reason)
        return None

    def cancel(self, conn_id: int, text: str) -> None:
        """End a dial for a reason of this node; unknown ids are ignored."""
        command = self._open.get(conn_id)
        if command is not None:
            error = OutgoingConnectionError(text)
            self._shell.cancel_dial(conn_id, error)
            self.fail(conn_id, command.addr.node_id, error)  # if it had not begun

    def cancel_all(self, text: str) -> None:
        """End every dial."""
        for conn_id in list(self._open):
            self.cancel(conn_id, text)

    def succeed(self, conn_id: int) -> None:
        """A dial became a link."""
        self._open.pop(conn_id, None)

    def fail(
        self,
        conn_id: int,
        node_id: int | None,
        error: OutgoingConnectionError,
        found: int | None = None,
    ) -> None:
        """A dial ended without a link; later calls for the same id are ignored.

        Args:
            conn_id: Of the dial.
            node_id: Who was expected, None for anybody.
            error: Why.
            found: Who answered at the address, None when nobody did.
        """
        if self._open.pop(conn_id, None) is None:
            return
        self.failed += 1
        if self._hooks.observer is not None:
            self._hooks.run(self._hooks.observer.dial_failed, conn_id, node_id, error)
        logger.debug("%s failed: %s", format_conn(conn_id), error)
        self._redialer.on_failed(conn_id, error, found)  # first: hooks may ask when it goes on
        for behavior, agent in self._behaviors:
            self._hooks.run(behavior.on_outgoing_connection_error, agent, node_id, conn_id, error)
        self._admission.on_dial_ended(conn_id)
