"""asyncio, protocols in the naive style; see `tools.bench.asyncio_protocol`."""

from __future__ import annotations

import asyncio

from tools.bench.asyncio_protocol import Naive
from tools.bench.asyncio_roles import roles
from tools.bench.process import main

NAME = "asyncio, naive"
REQUIRES: tuple[str, ...] = ()
ROLES = roles(Naive, asyncio.run, "asyncio")

if __name__ == "__main__":
    main(ROLES)
