"""Redial: the addresses that are to have a link, and when each of them is dialled next.

Facts first:

- An address is *dialing* (an attempt is under way, under a conn id of its own and with the hooks of
  any other dial), *up* (its node has a link), or *waiting* for its next attempt. Up counts whose
  link it is as little as who dialled: while a node has one, nobody dials it. An address without a
  node id takes the id of the node that was found there last. An address of a parallel link wants
  its own link.
- A wait is chosen at random, up to 0.1 s after the first failure and up to twice as long after each
  further one, 30 s at most: full jitter, so that those who lost a node at the same moment come back
  one by one. It is never below 10 ms. A link that held for 10 s takes the waits back to the first;
  one that did not is a failure like the others.
- What another attempt will not change (a wrong secret, a node id in use, the own id, no transport)
  waits up to 30 s at once. Nothing ends the keeping but this node: ``forget``, closing the link or
  the node.
- Every address has a timer at most, and no attempt while it waits.
"""

from __future__ import annotations

from collections.abc import Callable

from ._typing import TYPE_CHECKING, Final, Literal, Protocol, final
from .address import NodeAddr
from .agent import Later
from .errors import (
    AlreadyConnected,
    AuthenticationError,
    DuplicateNodeId,
    OutgoingConnectionError,
    QueueFullError,
    SelfConnect,
    UnsupportedProtocol,
)
from .ids import ConnId, NodeId
from .links import LinkTable
from .logs import logger_of
from .stats import KeptAddr

if TYPE_CHECKING:
    from random import Random

__all__ = ["FIRST_WAIT_MS", "LONGEST_WAIT_MS", "MIN_WAIT_MS", "STABLE_MS", "Redialer", "wait_ms"]

logger = logger_of("netcore.redial")

#: The first wait is at most this long, and each further one at most twice as long as that before.
FIRST_WAIT_MS: Final = 100
LONGEST_WAIT_MS: Final = 30_000
#: Chance must not make a busy loop.
MIN_WAIT_MS: Final = 10
#: A link that held this long was a good one.
STABLE_MS: Final = 10_000

#: After so many waits they grow no more.
_MAX_DOUBLINGS: Final = 9
#: Errors that are there to stay until somebody changes a setting.
_REFUSALS: Final = (AuthenticationError, DuplicateNodeId, SelfConnect, UnsupportedProtocol)


def wait_ms(failures: int, rng: Random) -> int:
    """Return how long to wait before the next attempt, after so many failures before this one."""
    longest = min(LONGEST_WAIT_MS, FIRST_WAIT_MS << min(failures, _MAX_DOUBLINGS))
    return rng.randint(MIN_WAIT_MS, longest)


class Surroundings(Protocol):
    """What redialling asks and causes; the plane."""

    @property
    def now_ms(self) -> int:
        """The loop's time."""

    def connect(self, addr: NodeAddr, *, parallel: bool) -> ConnId:
        """Queue a dial; exactly one of ``on_opened`` and ``on_failed`` follows."""

    def call_later(self, delay_ms: int, fn: Callable[[], object]) -> Later:
        """Call a function after a while."""


@final
class _Kept:
    """One address.

    Attributes:
        addr: As it was given.
        parallel: Whether it wants a link of its own.
        state: See above.
        node_id: Who lives there, None until it is known.
        conn_id: Of the attempt under way, or of the own link.
        attempts: Dials so far.
        failures: Attempts and links that failed since one held.
        error: Why the last attempt failed, None after a success.
        logged: The error that was logged last, as text.
        up_ms: Since when it is up.
        due_ms: When it is dialled next.
        timer: For that.
    """

    __slots__ = (
        "addr", "attempts", "conn_id", "due_ms", "error", "failures", "logged", "node_id",
        "parallel", "state", "timer", "up_ms",
    )  # fmt: skip

    def __init__(self, addr: NodeAddr, parallel: bool) -> None:
        self.addr = addr
        self.parallel = parallel
        self.state: Literal["dialing", "up", "waiting"] = "waiting"
        self.node_id: int | None = None
        self.conn_id: ConnId | None = None
        self.attempts = self.failures = 0
        self.error: OutgoingConnectionError | None = None
        self.logged: str | None = None
        self.up_ms = self.due_ms = 0
        self.timer: Later | None = None

    def stop_timer(self) -> None:
        """Do not dial."""
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None


@final
class Redialer:
    """All addresses of one node that are to have a link.

    Args:
        node_id: Of this node.
        max_kept: How many there may be.
        links: The live links.
        rng: Spreads the attempts.
        around: Dials and tells the time.

    Attributes:
        redials: Attempts after the first one of each address.
        refused: Addresses beyond ``max_kept``.
    """

    def __init__(
        self, node_id: NodeId, max_kept: int, links: LinkTable, rng: Random, around: Surroundings
    ) -> None:
        self._node_id = node_id
        self._max_kept = max_kept
        self._links = links
        self._rng = rng
        self._around = around
        self._all: dict[tuple[NodeAddr, bool], _Kept] = {}
        self._by_conn: dict[int, _Kept] = {}
        self._by_node: dict[int, list[_Kept]] = {}
        self.redials = self.refused = 0

    def __len__(self) -> int:
        return len(self._all)

    # -- what users ask for ------------------------------------------------------------------------

    def check_room(self, addr: NodeAddr, *, parallel: bool) -> None:
        """Make sure that there is room for this address.

        Raises:
            QueueFullError: There is not.
        """
        if len(self._all) >= self._max_kept and (addr, parallel) not in self._all:
            self.refused += 1
            raise QueueFullError("max_kept", self._max_kept, "forget an address")

    def keep(self, addr: NodeAddr, conn_id: ConnId, *, parallel: bool) -> None:
        """Keep an address, whose first attempt was just asked for.

        One that is kept already is not kept twice; if it waits, this attempt is its next.
        """
        kept = self._all.get((addr, parallel))
        if kept is None:
            kept = self._all[addr, parallel] = _Kept(addr, parallel)
            self._learn(kept, addr.node_id)
        if kept.state == "waiting":
            kept.stop_timer()
            self._begin(kept, conn_id)

    def attempts_to(self, addr: NodeAddr) -> list[ConnId]:
        """Return the attempts under way to an address."""
        found = [kept for kept in self._find(addr) if kept.state == "dialing"]
        return [kept.conn_id for kept in found if kept.conn_id is not None]

    def forget(self, addr: NodeAddr) -> bool:
        """Keep an address no more; return whether it was kept."""
        found = self._find(addr)
        for kept in found:
            self._drop(kept)
        return bool(found)

    def on_close_asked(self, conn_id: int, node_id: int | None) -> None:
        """This node's own code closed a dial, or a link to that node: it is not wanted back."""
        kept = self._by_conn.get(conn_id)
        if kept is not None:
            self._drop(kept)
        if node_id is not None and not self._links.is_open_to(node_id):
            for kept in self._of_node(node_id):
                if kept.state == "up" and kept.conn_id is None:
                    self._drop(kept)

    def on_close_node_asked(self, node_id: int) -> list[ConnId]:
        """It closed all links to a node; return the attempts under way, which are to end too."""
        under_way = []
        for kept in self._of_node(node_id):
            if kept.state == "dialing" and kept.conn_id is not None:
                under_way.append(kept.conn_id)
            self._drop(kept)
        return under_way

    def close(self) -> None:
        """Keep nothing any more."""
        for kept in list(self._all.values()):
            self._drop(kept)

    def stats(self) -> tuple[KeptAddr, ...]:
        """Return the addresses and how they are, oldest first."""
        now_ms = self._around.now_ms
        return tuple(
            KeptAddr(
                addr=kept.addr,
                parallel=kept.parallel,
                state=kept.state,
                node_id=kept.node_id,
                conn_id=kept.conn_id,
                attempts=kept.attempts,
                last_error=kept.error,
                next_attempt_ms=max(0, kept.due_ms - now_ms) if kept.state == "waiting" else None,
            )
            for kept in self._all.values()
        )

    # -- what becomes of dials and links -----------------------------------------------------------

    def on_opened(self, conn_id: int, node_id: int) -> None:
        """A link is up."""
        own = self._by_conn.get(conn_id)
        if own is not None:
            self._learn(own, node_id)
            self._up(own)
        for kept in self._of_node(node_id):
            if kept.state == "waiting" and not kept.parallel:
                kept.stop_timer()
                self._up(kept)

    def on_failed(
        self, conn_id: int, error: OutgoingConnectionError, found: int | None = None
    ) -> None:
        """A dial ended without a link; ``found`` is the node that answered."""
        kept = self._by_conn.pop(conn_id, None)
        if kept is None:
            return
        kept.conn_id = None
        if isinstance(error, AlreadyConnected) and found is not None:
            self._learn(kept, found)
        if self._is_linked(kept):
            self._up(kept)
            return
        kept.error = error
        self._log(kept, str(error))
        self._wait(kept, longest=isinstance(error, _REFUSALS))

    def on_closed(self, conn_id: int, node_id: int) -> None:
        """A link is gone."""
        own = self._by_conn.pop(conn_id, None)
        if own is not None:
            own.conn_id = None
        for kept in self._of_node(node_id):
            if kept.state == "up" and kept.conn_id is None and not self._is_linked(kept):
                self._down(kept)

    # -- inside ------------------------------------------------------------------------------------

    def _find(self, addr: NodeAddr) -> list[_Kept]:
        found = (self._all.get((addr, parallel)) for parallel in (False, True))
        return [kept for kept in found if kept is not None]

    def _of_node(self, node_id: int) -> tuple[_Kept, ...]:
        return tuple(self._by_node.get(node_id, ()))

    def _is_linked(self, kept: _Kept) -> bool:
        if kept.parallel or kept.node_id is None:
            return False
        return self._links.is_open_to(kept.node_id)

    def _learn(self, kept: _Kept, node_id: int | None) -> None:
        if node_id == kept.node_id:
            return
        self._unlearn(kept)
        kept.node_id = node_id
        if node_id is not None:
            self._by_node.setdefault(node_id, []).append(kept)

    def _unlearn(self, kept: _Kept) -> None:
        if kept.node_id is None:
            return
        there = self._by_node[kept.node_id]
        there.remove(kept)
        if not there:
            del self._by_node[kept.node_id]

    def _drop(self, kept: _Kept) -> None:
        kept.stop_timer()
        self._unlearn(kept)
        if kept.conn_id is not None:
            self._by_conn.pop(kept.conn_id, None)
        del self._all[kept.addr, kept.parallel]

    def _begin(self, kept: _Kept, conn_id: ConnId) -> None:
        kept.state = "dialing"
        kept.conn_id = conn_id
        kept.attempts += 1
        self._by_conn[conn_id] = kept

    def _up(self, kept: _Kept) -> None:
        kept.state = "up"
        kept.error = None
        kept.up_ms = self._around.now_ms

    def _down(self, kept: _Kept) -> None:
        if self._around.now_ms - kept.up_ms >= STABLE_MS:
            kept.failures = 0
            kept.logged = None
        self._wait(kept)

    def _wait(self, kept: _Kept, *, longest: bool = False) -> None:
        delay_ms = wait_ms(_MAX_DOUBLINGS if longest else kept.failures, self._rng)
        kept.failures += 1
        kept.state = "waiting"
        kept.due_ms = self._around.now_ms + delay_ms
        kept.timer = self._around.call_later(delay_ms, lambda: self._dial(kept))

    def _dial(self, kept: _Kept) -> None:
        kept.timer = None
        try:
            conn_id = self._around.connect(kept.addr, parallel=kept.parallel)
        except QueueFullError:  # of commands; counted there
            self._wait(kept)
            return
        self.redials += 1
        self._begin(kept, conn_id)

    def _log(self, kept: _Kept, error: str) -> None:
        # Once for each change: a node that is away for a week is not worth 40 000 lines.
        if error != kept.logged:
            kept.logged = error
            text = "node %s cannot reach %s: %s; it will be dialled again"
            logger.warning(text, self._node_id, kept.addr, error)
