"""asyncio, protocols in the batched style; see `tools.bench.asyncio_protocol`."""

from __future__ import annotations

import asyncio

from tools.bench.asyncio_protocol import Batched
from tools.bench.asyncio_roles import roles
from tools.bench.process import main

NAME = "asyncio, hand-batched"
REQUIRES: tuple[str, ...] = ()
ROLES = roles(Batched, asyncio.run, "asyncio")

if __name__ == "__main__":
    main(ROLES)
