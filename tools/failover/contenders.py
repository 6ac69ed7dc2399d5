"""The systems that are compared: what a node of each is told, and which way its messages take."""

from __future__ import annotations

import importlib.metadata
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import netcore
from tools.bench.contestants.nats_broker import find_server

from .actor import Part
from .layout import SOURCE, Addresses, Layout
from .stage import Stage, StageError

__all__ = ["CONTENDERS", "Contender", "Way", "part_of"]

#: For so long relays are watched to see which of them work; twice in a row must say the same.
WATCH_S: Final = 0.3
WATCHES: Final = 40
#: Relays that work use this many times the CPU of those that do not.
CLEARLY: Final = 2.0


@dataclass(frozen=True)
class Way:
    """Where the messages go now.

    Attributes:
        relays: Those that carry them.
        links: Numbers of the links that do.
        spare: A relay without which there is no other way.
        vital: The relays that all messages need once that one is gone.
    """

    relays: tuple[int, ...]
    links: tuple[int, ...]
    spare: int
    vital: tuple[int, ...]


@dataclass(frozen=True)
class Contender:
    """One system.

    Attributes:
        name: As the report has it.
        module: What its processes run.
        modules: What its processes import.
        programs: What they run.
        settle_s: For so long the network is left alone after its first messages.
        patience_s: How long a gap may be; beyond it is called "more than that".
        extra: What its nodes are told beyond their ``Part``.
        find_way: Where the messages go.
        dials_last: Whether source and sink dial after the relays, because they are clients.
    """

    name: str
    module: str
    modules: Sequence[str]
    programs: Sequence[str]
    settle_s: float
    patience_s: float
    extra: Callable[[Layout, int, Addresses], dict[str, Any]]
    find_way: Callable[[Layout, Stage], Way]
    dials_last: bool = False

    @property
    def missing(self) -> str | None:
        """What is not installed, None: nothing."""
        missing = [name for name in self.modules if find_spec(name) is None]
        missing += [name for name in self.programs if find_server() is None]
        return f"{', '.join(missing)} not installed (extra: bench)" if missing else None

    @property
    def version(self) -> str:
        """Which one is measured; a report may be made where it is not installed any more."""
        try:
            return _VERSIONS[self.name]()
        except (importlib.metadata.PackageNotFoundError, OSError):
            return "not installed"


def part_of(
    contender: Contender, layout: Layout, node: int, addresses: Addresses, rate: int
) -> dict[str, Any]:
    """Return what the process of a node is told."""

    def listens_at(peer: int, link: int) -> tuple[int, str, int]:
        return (peer, *addresses.of(layout, link, peer))

    links = layout.links_of(node)
    listen = [addresses.of(layout, link, node) for link in links.values()]
    return asdict(
        Part(
            node=node,
            role=layout.role(node),
            sink=layout.sink,
            rate=rate,
            listen=list(dict.fromkeys(listen)),
            dial=[
                listens_at(p, link) for p, link in links.items() if layout.links[link][0] == node
            ],
            neighbours=[listens_at(peer, link) for peer, link in links.items()],
            extra=contender.extra(layout, node, addresses),
        )
    )


# -- those that relay from node to node ----------------------------------------------------------


def _nothing(layout: Layout, node: int, addresses: Addresses) -> dict[str, Any]:
    return {}


def _busier_way(layout: Layout, stage: Stage) -> Way:
    """Return the way whose relays work, once messages stay on one of them.

    Which one it is may change at first, while round trips are measured on a machine that has just
    started all these processes.
    """
    used = None
    for _ in range(WATCHES):
        before = _cpu_ns(layout, stage)
        time.sleep(WATCH_S)
        first, second = (b - a for a, b in zip(before, _cpu_ns(layout, stage), strict=True))
        seen = None
        if max(first, second) > CLEARLY * min(first, second):
            seen = layout.ways[0 if first > second else 1]
        if seen is not None and seen == used:
            spare = layout.ways[0 if first < second else 1]
            return Way(seen, tuple(layout.links_on(seen)), spare[len(spare) // 2], seen)
        used = seen
    raise StageError("no telling which way messages take")


def _cpu_ns(layout: Layout, stage: Stage) -> list[int]:
    return [sum(stage[node].cpu_ns() for node in way) for way in layout.ways]


# -- NATS ----------------------------------------------------------------------------------------


def _cluster(layout: Layout, node: int, addresses: Addresses) -> dict[str, Any]:
    relays = [other for other in layout.nodes if layout.role(other) == "relay"]
    return {
        "config": str(
            Path(tempfile.gettempdir()) / f"netcore-nats-{addresses.ports[node][0]}.conf"
        ),
        "isolated": addresses.isolated,
        "cluster_port": addresses.ports[node][1],
        "cluster": [addresses.ports[other][1] for other in relays if other != node],
    }


def _servers_in_use(layout: Layout, stage: Stage) -> Way:
    """Return the servers that source and sink use."""
    ends = {node: stage[node].ask("where")["at"] for node in (SOURCE, layout.sink)}
    if None in ends.values():
        raise StageError("a client has no server")
    spare = next(node for node in layout.links_of(SOURCE) if node != ends[SOURCE])
    links = tuple(layout.links_of(end)[server] for end, server in ends.items())
    # The sink may have another server to go to.
    return Way(tuple(dict.fromkeys(ends.values())), links, spare, vital=(ends[SOURCE],))


def _nats_version() -> str:
    server = subprocess.run(
        [find_server() or "nats-server", "--version"], capture_output=True, text=True, check=True
    ).stdout.split()[-1]
    return f"nats-server {server}, nats-py {importlib.metadata.version('nats-py')}"


_VERSIONS: Final[dict[str, Callable[[], str]]] = {
    "netcore": lambda: f"{netcore.__version__} ({netcore.BACKEND})",
    "zenoh": partial(importlib.metadata.version, "eclipse-zenoh"),
    "NATS": _nats_version,
}

_ALL: Final = (
    Contender(
        name="netcore",
        module="tools.failover.systems.netcore_node",
        modules=(),
        programs=(),
        # The first round trips of processes that have just started are long, and not equally so:
        # of two ways as good as each other the better one changes until they are measured again.
        settle_s=3.0,
        patience_s=15.0,
        extra=_nothing,
        find_way=_busier_way,
    ),
    Contender(
        name="zenoh",
        module="tools.failover.systems.zenoh_router",
        modules=("zenoh",),
        programs=(),
        settle_s=1.0,
        patience_s=15.0,
        extra=_nothing,
        find_way=_busier_way,
    ),
    Contender(
        name="NATS",
        module="tools.failover.systems.nats_cluster",
        modules=("nats",),
        programs=("nats-server",),
        settle_s=0.5,
        patience_s=15.0,
        extra=_cluster,
        find_way=_servers_in_use,
        dials_last=True,
    ),
)
CONTENDERS: Final = {contender.name: contender for contender in _ALL}
