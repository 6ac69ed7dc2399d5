"""What links whose neighbours never read cost in memory: their bound, not more."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

from netcore._backend import BackendName
from support.processes import Processes
from support.processes import processes as started

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")

LINKS = 10
HIGH = 1 << 20
#: A small message is an object in the pure backend; in the compiled one a chunk may end early.
OVERHEAD = 6

SCRIPT = f"""
import sys
from pathlib import Path
from netcore import SendQueueFullError, _backend
from support.sinks import NODE_B, Rig, to_node

def anonymous():
    fields = Path("/proc/self/status").read_text("ascii").split()
    return int(fields[fields.index("RssAnon:") + 1]) * 1024

backend, sizes, relayed = sys.argv[1], [int(s) for s in sys.argv[2].split(",")], sys.argv[3] == "1"
with Rig(_backend.load(backend), write_high_bytes={HIGH}) as rig:
    source, _ = rig.channel()
    links = [rig.link((0x20 + i) << 16, (0x20 + i) << 24)[0] for i in range({LINKS})]
    before, high = anonymous(), 0
    for conn in links:
        full = False
        while not full:
            for size in 50 * sizes:
                if relayed:
                    source.receive_data(to_node(conn.remote_node_id, bytes(size)))
                    continue
                try:
                    rig.switch.send_on(conn, bytes(size), 1, 2)
                except SendQueueFullError:
                    pass
            full = conn.queued_bytes >= {HIGH}
            rig.turn()
    assert all(conn.queued_bytes < {HIGH} + max(sizes) + 20 for conn in links)
    print(anonymous() - before, flush=True)
"""


@pytest.fixture
def processes() -> Iterator[Processes]:
    with started() as made:
        yield made


@pytest.mark.parametrize("relayed", [False, True], ids=["sent", "relayed"])
@pytest.mark.parametrize("sizes", ["0", "300", "4200,16384", "33000", "100000"])
def test_links_that_are_never_read_cost_a_multiple_of_their_bound(
    processes: Processes, backend: BackendName, sizes: str, relayed: bool
) -> None:
    child = processes.script(backend, SCRIPT, backend, sizes, str(int(relayed)))
    grown = int(child.read())
    assert LINKS * HIGH // 2 < grown < OVERHEAD * LINKS * (HIGH + 100_000)
