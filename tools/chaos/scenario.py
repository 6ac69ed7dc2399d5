"""What a scenario is, which ones there are, and the table that each of them fills."""

from __future__ import annotations

import argparse
from typing import Final, Protocol

from netcore.cli.screen import Screen

#: name -> module of this package; each has ``add_options`` and ``run``.
SCENARIOS: Final[dict[str, str]] = {
    "loris": "loris",
    "burst": "burst",
    "wrongkey": "wrongkey",
    "frames": "frames",
    "errno": "errnos",
    "emfile": "emfile",
    "sigint": "sigint",
    "churn": "churn",
    "memory": "memcap",
    "reader": "reader",
    "readers": "readers",
    "soak": "soak",
}


class Table:
    """Figures, and whether what must hold did.

    Attributes:
        holds: Nothing failed yet.
    """

    def __init__(self, title: str) -> None:
        self._title = title
        self._rows: list[tuple[str, str, str, bool]] = []
        self.holds = True

    def add(self, what: str, figure: object, limit: str = "", *, holds: bool = True) -> None:
        """Add a row: what was measured, what it was, what it must be, and whether it is."""
        self._rows.append((what, str(figure), limit, holds))
        self.holds = self.holds and holds

    @property
    def rows(self) -> list[tuple[str, str, str, bool]]:
        """All rows, in the order they were added."""
        return list(self._rows)

    def print_to(self, screen: Screen) -> None:
        """Print all rows, those that do not hold so marked."""
        if not self._rows:
            return
        widths = [max(len(str(row[column])) for row in self._rows) for column in range(3)]
        screen.say(self._title, "bold")
        for what, figure, limit, holds in self._rows:
            line = f"  {what:{widths[0]}}  {figure:>{widths[1]}}  {limit:{widths[2]}}"
            screen.say(line.rstrip() if holds else f"{line}  FAILED", "" if holds else "bad")


class Scenario(Protocol):
    """A module of this package."""

    __doc__: str | None

    def add_options(self, parser: argparse.ArgumentParser) -> None:
        """Add the options."""

    def run(self, options: argparse.Namespace, screen: Screen, table: Table) -> None:
        """Do it: show progress on the screen, put the figures into the table."""
