"""Who is linked with whom, and where everybody listens."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

__all__ = ["DIAMOND", "LAYOUTS", "RING", "SOURCE", "Addresses", "Layout"]

SOURCE: Final = 0

Addr = tuple[str, int]


@dataclass(frozen=True)
class Layout:
    """A network with two ways from its source, node 0, to its sink.

    Attributes:
        key: As the command line knows it.
        title: As the report names it.
        sink: Who receives.
        links: (who dials, who listens) each.
        ways: The relays of both ways, from source to sink.
    """

    key: str
    title: str
    sink: int
    links: tuple[tuple[int, int], ...]
    ways: tuple[tuple[int, ...], tuple[int, ...]]

    @property
    def nodes(self) -> list[int]:
        """All nodes."""
        return sorted({node for link in self.links for node in link})

    def role(self, node: int) -> str:
        """Return "source", "sink" or "relay"."""
        return {SOURCE: "source", self.sink: "sink"}.get(node, "relay")

    def links_of(self, node: int) -> dict[int, int]:
        """Return neighbour -> the number of the link to it."""
        return {b if node == a else a: at for at, (a, b) in enumerate(self.links) if node in (a, b)}

    def links_on(self, way: tuple[int, ...]) -> list[int]:
        """Return the numbers of the links that a way consists of, from source to sink."""
        nodes = (SOURCE, *way, self.sink)
        return [self.links_of(a)[b] for a, b in pairwise(nodes)]


DIAMOND: Final = Layout(
    "diamond",
    "diamond: source, two relays, sink",
    sink=3,
    links=((1, 0), (1, 3), (2, 0), (2, 3)),
    ways=((1,), (2,)),
)
RING: Final = Layout(
    "ring",
    "ring of 12, the sink opposite to the source",
    sink=6,
    links=tuple((node, (node + 1) % 12) for node in range(12)),
    ways=((1, 2, 3, 4, 5), (11, 10, 9, 8, 7)),
)
LAYOUTS: Final = {layout.key: layout for layout in (DIAMOND, RING)}


@dataclass(frozen=True)
class Addresses:
    """Where each node listens: one port for all its links, and one to spare.

    Attributes:
        isolated: The network has a namespace of its own: then each link has addresses of its own,
            so that packets of one link can be told from others.
        ports: Node -> two free ports.
    """

    isolated: bool
    ports: Mapping[int, tuple[int, int]]

    @classmethod
    def choose(cls, layout: Layout, isolated: bool) -> Addresses:
        """Return addresses that nobody uses now."""
        ports = [_free_port() for _ in range(2 * len(layout.nodes))]
        pairs = zip(ports[::2], ports[1::2], strict=True)
        return cls(isolated, dict(zip(layout.nodes, pairs, strict=True)))

    def of(self, layout: Layout, link: int, node: int) -> Addr:
        """Return where a node listens for the other end of a link."""
        if not self.isolated:
            return "127.0.0.1", self.ports[node][0]
        return f"{self.net(link)}.{1 + layout.links[link].index(node)}", self.ports[node][0]

    def net(self, link: int) -> str:
        """Return how the addresses of a link begin."""
        return f"127.0.{link + 1}"


#: Ports that were given out: two networks that begin at once must not get the same.
_given: set[int] = set()


def _free_port() -> int:
    while True:
        with socket.create_server(("127.0.0.1", 0)) as server:
            port: int = server.getsockname()[1]
        if port not in _given:
            _given.add(port)
            return port
