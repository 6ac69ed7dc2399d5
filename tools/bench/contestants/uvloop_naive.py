"""uvloop, protocols in the naive style; see `tools.bench.asyncio_protocol`."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

from tools.bench.asyncio_protocol import Naive
from tools.bench.asyncio_roles import roles
from tools.bench.process import main

NAME = "uvloop, naive"
REQUIRES = ("uvloop",)


def run(main: Coroutine[Any, Any, None]) -> None:
    """Run on uvloop."""
    import uvloop

    uvloop.run(main)


ROLES = roles(Naive, run, "uvloop")

if __name__ == "__main__":
    main(ROLES)
