"""uvloop, protocols in the batched style; see `tools.bench.asyncio_protocol`."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

from tools.bench.asyncio_protocol import Batched
from tools.bench.asyncio_roles import roles
from tools.bench.process import main

NAME = "uvloop, hand-batched"
REQUIRES = ("uvloop",)


def run(main: Coroutine[Any, Any, None]) -> None:
    """Run on uvloop."""
    import uvloop

    uvloop.run(main)


ROLES = roles(Batched, run, "uvloop")

if __name__ == "__main__":
    main(ROLES)
