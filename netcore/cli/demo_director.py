"""Time in the demo: let the workers work, listen to them, wait for what must become true."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Final, final

from .demo_cluster import Cluster, DemoError
from .demo_ledger import Ledger
from .demo_records import Event, Explained, Linked, Listening
from .screen import Screen, Style

__all__ = ["Director"]

#: While something is waited for, every node is asked for a report this often.
ASK_EVERY_S: Final = 0.01
REDRAW_EVERY_S: Final = 0.2
#: Any single step takes milliseconds; a step that takes longer than this will never be done.
STEP_TIMEOUT_S: Final = 20.0
#: Whoever has no terminal gets a line at least this often.
SIGN_OF_LIFE_S: Final = 2.0


@final
class Director:
    """Reads what workers say, keeps the screen up to date, and watches the deadline.

    Args:
        cluster: The workers.
        ledger: Gets their reports.
        screen: Where to tell.
        deadline_s: For the whole demo.
        draw: Returns the lines below the story.
        status: Returns one line for those who cannot see them.
    """

    def __init__(
        self,
        cluster: Cluster,
        ledger: Ledger,
        screen: Screen,
        deadline_s: float,
        draw: Callable[[], Sequence[str]],
        status: Callable[[], str],
    ) -> None:
        self.addrs: dict[int, Listening] = {}
        self._explained: dict[int, Explained] = {}
        self._cluster = cluster
        self._ledger = ledger
        self._screen = screen
        self._deadline_s = deadline_s
        self._draw = draw
        self._status = status
        self._began = time.monotonic()
        self._redraw_at = self._sign_at = self._ask_at = self._began
        self._asked = 0

    @property
    def elapsed_s(self) -> float:
        """Seconds since the beginning."""
        return time.monotonic() - self._began

    def say(self, text: str, style: Style = "") -> None:
        """Tell the next part of the story."""
        self._sign_at = time.monotonic() + SIGN_OF_LIFE_S
        self._screen.say(f"{self.elapsed_s:5.1f} s  {text}", style)

    def watch(self, seconds: float) -> None:
        """Let time pass."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            self._turn("the traffic to run", min(left, REDRAW_EVERY_S))

    def wait(self, what: str, condition: Callable[[], bool]) -> float:
        """Wait until something is true; return how many seconds that took.

        Raises:
            DemoError: It did not become true.
        """
        began = time.monotonic()
        while not condition():
            if time.monotonic() - began > STEP_TIMEOUT_S:
                raise DemoError(f"waited {STEP_TIMEOUT_S:.0f} s in vain for {what}")
            if time.monotonic() >= self._ask_at:
                self._ask()
            self._turn(what, ASK_EVERY_S)
        return time.monotonic() - began

    def ask_all(self) -> None:
        """Wait until every living node has reported what it knew after this call, or later."""
        number = self._ask()
        reports = self._ledger.reports
        living = self._cluster.living
        self.wait(
            "the nodes' reports",
            lambda: all(n in reports and reports[n].asked >= number for n in living),
        )

    def explain(self, node: int, to: int) -> list[str]:
        """Return how a node sends to another one at the moment, and why so."""
        self._explained.pop(node, None)
        self._cluster.tell(node, "explain", to=to)
        self.wait(f"the reasons of node {node}", lambda: node in self._explained)
        return list(self._explained[node].lines)

    def _ask(self) -> int:
        self._asked += 1
        self._ask_at = time.monotonic() + ASK_EVERY_S
        self._cluster.tell_all("report", asked=self._asked)
        return self._asked

    def _turn(self, what: str, timeout_s: float) -> None:
        if self.elapsed_s > self._deadline_s:
            raise DemoError(f"not done within {self._deadline_s:g} s: still waiting for {what}")
        told = self._cluster.next_event(timeout_s)
        if told is not None:
            self._take(told.node_id, told.event)
        now = time.monotonic()
        if now >= self._redraw_at:
            self._redraw_at = now + REDRAW_EVERY_S
            self._screen.show(self._draw())
        if now >= self._sign_at:
            self._sign_at = now + SIGN_OF_LIFE_S
            if not self._screen.live:
                self.say(self._status())

    def _take(self, node_id: int, event: Event) -> None:
        if isinstance(event, Listening):
            self.addrs[node_id] = event
        elif isinstance(event, Linked):
            self._ledger.links.append((node_id, event))
        elif isinstance(event, Explained):
            self._explained[node_id] = event
        else:
            self._ledger.take(node_id, event)
