"""Which layer each module of the package belongs to (docs/architecture.md)."""

from __future__ import annotations

#: Layer of each module or package; the longest matching prefix counts.
LAYERS = {
    "netcore": 5,
    "netcore.__main__": 5,
    "netcore.cli": 5,
    "netcore.goodbye": 4,
    "netcore.host": 4,
    "netcore.node": 4,
    "netcore.process": 4,
    "netcore.router_binding": 4,
    "netcore.sim": 4,
    "netcore.transport": 4,
    "netcore.wiring": 4,
    "netcore.services": 3,
    "netcore.admission": 2,
    "netcore.agent": 2,
    "netcore.behavior": 2,
    "netcore.commands": 2,
    "netcore.dials": 2,
    "netcore.events": 2,
    "netcore.explain": 2,
    "netcore.handshake": 2,
    "netcore.hello": 2,
    "netcore.hooks": 2,
    "netcore.keys": 2,
    "netcore.linklife": 2,
    "netcore.links": 2,
    "netcore.liveness": 2,
    "netcore.monitor": 2,
    "netcore.pingpong": 2,
    "netcore.plane": 2,
    "netcore.redial": 2,
    "netcore.registry": 2,
    "netcore.roundtrips": 2,
    "netcore.router": 2,
    "netcore.choices": 2,
    "netcore.learned": 2,
    "netcore.routing": 2,
    "netcore.rpc": 2,
    "netcore.slowhooks": 2,
    "netcore._backend": 1,
    "netcore._fast": 1,
    "netcore._pure": 1,
    "netcore._typing": 0,
    "netcore.address": 0,
    "netcore.config": 0,
    "netcore.errors": 0,
    "netcore.ids": 0,
    "netcore.logs": 0,
    "netcore.route": 0,
    "netcore.stats": 0,
    "netcore.values": 0,
    "netcore.wire": 0,
}


def layer_of(module: str) -> int:
    """Return the layer of a module; one without any counts as topmost until it is given one."""
    return LAYERS.get(_entry(module), LAYERS["netcore"])


def has_layer(module: str) -> bool:
    """Say whether LAYERS covers a module; the root package stands only for itself."""
    return _entry(module) in LAYERS


def _entry(module: str) -> str:
    """Return the longest prefix that LAYERS has, else the module itself."""
    prefix = module
    while "." in prefix:
        if prefix in LAYERS:
            return prefix
        prefix = prefix.rpartition(".")[0]
    return module
