"""Terminal output: lines that stay, and below them a few that are redrawn in place.

Facts first:

- Only a terminal gets escape codes; a file, a pipe and TERM=dumb get the lines that stay.
- NO_COLOR (https://no-color.org) turns colors off, not the redrawing.
- What is redrawn never is wider than the terminal: a wrapped line would break the count of lines
  to go up.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Final, Literal, TextIO, final

__all__ = ["Screen", "Style", "is_live_terminal", "wants_color"]

Style = Literal["", "bold", "dim", "good", "bad"]

_CODES: Final[dict[str, str]] = {"bold": "1", "dim": "2", "good": "32", "bad": "31"}
_ERASE_BELOW: Final = "\x1b[J"


def is_live_terminal(out: TextIO, environ: Mapping[str, str]) -> bool:
    """Return whether lines can be redrawn in place."""
    return out.isatty() and environ.get("TERM", "") not in ("", "dumb")


def wants_color(environ: Mapping[str, str]) -> bool:
    """Return whether the user has nothing against colors."""
    return not environ.get("NO_COLOR")


@final
class Screen:
    """Prints lines that stay (``say``) above lines that are redrawn (``show``).

    Args:
        out: Where to; None: standard output.
        plain: No escape codes, not even on a terminal.
    """

    def __init__(self, out: TextIO | None = None, *, plain: bool = False) -> None:
        self._out = sys.stdout if out is None else out
        self.live = not plain and is_live_terminal(self._out, os.environ)
        self._colored = self.live and wants_color(os.environ)
        self._shown: list[str] = []

    def say(self, text: str = "", style: Style = "") -> None:
        """Print lines that stay."""
        styled = "\n".join(self._styled(line, style) for line in text.split("\n"))
        self._out.write(f"{self._rewind()}{styled}\n{self._block()}")
        self._out.flush()

    def show(self, lines: Sequence[str]) -> None:
        """Replace the lines at the bottom; without effect where that is not possible."""
        if not self.live:
            return
        rewind = self._rewind()
        width = shutil.get_terminal_size().columns - 1
        self._shown = [line[:width] for line in lines]
        self._out.write(rewind + self._block())
        self._out.flush()

    def close(self) -> None:
        """Take the redrawn lines away."""
        self.show(())

    def __enter__(self) -> Screen:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _rewind(self) -> str:
        return f"\x1b[{len(self._shown)}F{_ERASE_BELOW}" if self._shown else ""

    def _block(self) -> str:
        return "".join(f"{line}\n" for line in self._shown)

    def _styled(self, line: str, style: Style) -> str:
        if not style or not line or not self._colored:
            return line
        return f"\x1b[{_CODES[style]}m{line}\x1b[0m"
