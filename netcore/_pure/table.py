"""The forwarding table: for a node id, a key or a service, the next hop, in constant time.

Facts first:

- A node id has four bytes, its layers; 3 is the highest. The way to a node is the *slot*
  ``(layer, index)``, where ``layer`` is the highest byte in which its id differs from this node's
  and ``index`` is that byte. So layer 0 holds single nodes of this node's group, layer 3 holds
  whole zones, and the slot at this node's own byte of a layer does not exist.
- An entry (slot or service) is a best next hop and, maybe, an alternate: ``(conn, node)`` each.
  Conn 0 means "none". The alternate is there for two moments: a frame must not go back to the
  neighbour that it came from, and a link that goes away must not take the entry with it.
- This is the *forwarding* table only. Paths, metrics and announcements live in
  ``netcore.routing``, which writes its conclusions in here.
- Every argument is checked before anything changes: a call that raises has changed nothing.
"""

from __future__ import annotations

from netcore import wire

from .._typing import Final, NoReturn, final

__all__ = ["RouteTable"]

_MAX_CONN: Final = (1 << 64) - 1
#: Slots come first in the list of entries, services behind them.
_FIRST_SERVICE: Final = wire.LAYERS * wire.SLOTS
_ENTRIES: Final = _FIRST_SERVICE + wire.SERVICES

#: conn, node, alt_conn, alt_node
_Entry = tuple[int, int, int, int]
_NOTHING: Final[_Entry] = (0, wire.NO_NODE, 0, wire.NO_NODE)
_REJECT: Final = (wire.ACTION_REJECT, 0, 0)
_LOCAL: Final = (wire.ACTION_LOCAL, 0, 0)


def _checked(name: str, value: object, low: int, high: int) -> int:
    """Return the value when it is an int in the range."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} must be an int, not {type(value).__name__}")
    if not low <= value <= high:
        raise ValueError(f"{name} must be in {low}..{high}, not {value}")
    return value


def _new_entry(conn_id: int, node_id: int, alt_conn_id: int, alt_node_id: int) -> _Entry:
    """Return the checked entry."""
    _checked("conn_id", conn_id, 1, _MAX_CONN)
    _checked("node_id", node_id, 0, wire.MAX_NODE_ID)
    _checked("alt_conn_id", alt_conn_id, 0, _MAX_CONN)
    _checked("alt_node_id", alt_node_id, 0, wire.NO_NODE)
    if (alt_conn_id == 0) != (alt_node_id == wire.NO_NODE):
        raise ValueError("an alternate has a conn id and a node id, or neither")
    if alt_conn_id == conn_id:
        raise ValueError(f"conn {conn_id} cannot be its own alternate")
    return conn_id, node_id, alt_conn_id, alt_node_id


@final
class RouteTable:
    """Four layers of 256 slots and 256 services, and the three questions about them.

    Answers are tuples ``(action, conn_id, node_id)`` of plain ints: ``wire.ACTION_NEXT`` with the
    link and the neighbour at its other end, or ``wire.ACTION_LOCAL`` or ``wire.ACTION_REJECT``
    with two zeros.

    All methods raise ``TypeError`` for an argument that is not an int (a bool is not one here)
    and ``ValueError`` for one out of range: layers 0..3, indices and services 0..255, conn ids
    1..2**64 - 1, node ids 0..2**32 - 2.
    """

    __slots__ = (
        "_closest",
        "_entries",
        "_is_local",
        "_local_node",
        "_own",
        "_stale",
        "_version",
    )

    def __init__(self, local_node: int) -> None:
        """Make an empty table.

        Args:
            local_node: The id of this node, 0..2**32 - 2.
        """
        self._local_node = _checked("local_node", local_node, 0, wire.MAX_NODE_ID)
        self._own = [local_node >> (8 * layer) & 0xFF for layer in range(wire.LAYERS)]
        self._entries: list[_Entry | None] = [None] * _ENTRIES
        self._is_local = [False] * wire.SERVICES
        # closest[layer][byte of the key] = occupied or own index with the smallest XOR distance;
        # rebuilt when it is asked for after the occupancy of the layer has changed.
        self._closest = [[own] * wire.SLOTS for own in self._own]
        self._stale = [False] * wire.LAYERS
        self._version = 0

    def __init_subclass__(cls) -> NoReturn:
        """Refuse: the compiled twin is final as well."""
        raise TypeError("RouteTable is not an acceptable base type")

    @property
    def local_node(self) -> int:
        """The id of this node."""
        return self._local_node

    @property
    def version(self) -> int:
        """A number that grows with every change of an entry, and only then."""
        return self._version

    # -- questions ------------------------------------------------------------------------------

    def path_to_node(self, dest: int, from_node: int = wire.NO_NODE) -> tuple[int, int, int]:
        """Return the way to a node.

        Args:
            dest: Node id, 0..2**32 - 1 (the highest value is nobody's and is looked up like any).
            from_node: The neighbour that the frame came from; ``wire.NO_NODE`` for none. When the
                best next hop is that neighbour the alternate is answered, if there is one over
                another neighbour; else the best one as it is: the caller sees its ``node_id``
                and drops the frame.

        Returns:
            LOCAL for this node's own id, NEXT for an occupied slot, else REJECT.
        """
        _checked("dest", dest, 0, wire.MAX_U32)
        _checked("from_node", from_node, 0, wire.MAX_U32)
        difference = dest ^ self._local_node
        if not difference:
            return _LOCAL
        layer = (difference.bit_length() - 1) >> 3
        return self._answer(layer << 8 | (dest >> (8 * layer) & 0xFF), from_node)

    def path_to_key(self, key: int, from_node: int = wire.NO_NODE) -> tuple[int, int, int]:
        """Return the way to the node closest to a key, layer by layer.

        From layer 3 down, the occupied slot with the smallest XOR distance to that byte of the
        key is the next hop, unless this node's own index is closer: then the layer below decides.

        Args:
            key: 0..2**32 - 1.
            from_node: As for ``path_to_node``.

        Returns:
            NEXT, or LOCAL when this node is the closest in every layer. Never REJECT.
        """
        _checked("key", key, 0, wire.MAX_U32)
        _checked("from_node", from_node, 0, wire.MAX_U32)
        for layer in range(wire.LAYERS - 1, -1, -1):
            if self._stale[layer]:
                self._rebuild_closest(layer)
            index = self._closest[layer][key >> (8 * layer) & 0xFF]
            if index != self._own[layer]:
                return self._answer(layer << 8 | index, from_node)
        return _LOCAL

    def path_to_service(self, service: int, from_node: int = wire.NO_NODE) -> tuple[int, int, int]:
        """Return the way to a node that offers a service.

        Args:
            service: 0..255.
            from_node: As for ``path_to_node``.

        Returns:
            LOCAL when this node offers it, NEXT when another one does, else REJECT.
        """
        _checked("service", service, 0, wire.MAX_SERVICE)
        _checked("from_node", from_node, 0, wire.MAX_U32)
        if self._is_local[service]:
            return _LOCAL
        return self._answer(_FIRST_SERVICE + service, from_node)

    def _answer(self, at: int, from_node: int) -> tuple[int, int, int]:
        entry = self._entries[at]
        if entry is None:
            return _REJECT
        conn, node, alt_conn, alt_node = entry
        if node == from_node and alt_conn and alt_node != from_node:
            return wire.ACTION_NEXT, alt_conn, alt_node
        return wire.ACTION_NEXT, conn, node

    # -- changes --------------------------------------------------------------------------------

    def set_next(
        self,
        layer: int,
        index: int,
        conn_id: int,
        node_id: int,
        alt_conn_id: int = 0,
        alt_node_id: int = wire.NO_NODE,
    ) -> None:
        """Set the next hop, and the alternate, of a slot.

        Args:
            layer: 0..3.
            index: 0..255, not this node's own byte in that layer.
            conn_id: The link.
            node_id: The neighbour at its other end.
            alt_conn_id: Another link; 0 for none.
            alt_node_id: The neighbour at its other end; ``wire.NO_NODE`` for none.
        """
        at = self._slot(layer, index)
        entry = _new_entry(conn_id, node_id, alt_conn_id, alt_node_id)
        self._put(at, entry)

    def clear_next(self, layer: int, index: int) -> None:
        """Empty a slot; nothing happens when it is empty."""
        self._put(self._slot(layer, index), None)

    def set_service_local(self, service: int, is_local: bool) -> None:
        """Say whether this node offers a service. A next hop is remembered beside it.

        Args:
            service: 0..255.
            is_local: True or False, nothing else.
        """
        _checked("service", service, 0, wire.MAX_SERVICE)
        if not isinstance(is_local, bool):
            raise TypeError(f"is_local must be a bool, not {type(is_local).__name__}")
        if self._is_local[service] is not is_local:
            self._is_local[service] = is_local
            self._version += 1

    def set_service_next(
        self,
        service: int,
        conn_id: int,
        node_id: int,
        alt_conn_id: int = 0,
        alt_node_id: int = wire.NO_NODE,
    ) -> None:
        """Set the next hop, and the alternate, towards a service; arguments as ``set_next``."""
        _checked("service", service, 0, wire.MAX_SERVICE)
        entry = _new_entry(conn_id, node_id, alt_conn_id, alt_node_id)
        self._put(_FIRST_SERVICE + service, entry)

    def clear_service_next(self, service: int) -> None:
        """Forget the next hop towards a service; nothing happens when there is none."""
        _checked("service", service, 0, wire.MAX_SERVICE)
        self._put(_FIRST_SERVICE + service, None)

    def remove_conn(self, conn_id: int) -> int:
        """Let no entry mention a link any more.

        Where it was the best next hop the alternate takes its place, or the entry is emptied;
        where it was the alternate there is none afterwards.

        Args:
            conn_id: 1..2**64 - 1.

        Returns:
            How many entries mentioned it.
        """
        _checked("conn_id", conn_id, 1, _MAX_CONN)
        found = 0
        for at, entry in enumerate(self._entries):
            if entry is None:
                continue
            conn, node, alt_conn, alt_node = entry
            if conn == conn_id:
                self._put(at, (alt_conn, alt_node, 0, wire.NO_NODE) if alt_conn else None)
            elif alt_conn == conn_id:
                self._put(at, (conn, node, 0, wire.NO_NODE))
            else:
                continue
            found += 1
        return found

    def _slot(self, layer: int, index: int) -> int:
        _checked("layer", layer, 0, wire.LAYERS - 1)
        _checked("index", index, 0, wire.SLOTS - 1)
        if index == self._own[layer]:
            raise ValueError(f"slot {index} of layer {layer} is this node's own")
        return layer << 8 | index

    def _put(self, at: int, entry: _Entry | None) -> None:
        before = self._entries[at]
        if entry == before:
            return
        self._entries[at] = entry
        self._version += 1
        if at < _FIRST_SERVICE and (entry is None) != (before is None):
            self._stale[at >> 8] = True

    def _rebuild_closest(self, layer: int) -> None:
        """Recompute the closest index for each byte, by doubling: 8 passes over 256 places.

        After the pass for ``bit`` each block of ``2 * bit`` places is either empty or full, and a
        place holds the occupied index of its block that shares the most leading bits with it.
        """
        base = layer << 8
        table = [
            index if self._entries[base | index] is not None else -1 for index in range(wire.SLOTS)
        ]
        table[self._own[layer]] = self._own[layer]
        for bit in (1, 2, 4, 8, 16, 32, 64, 128):
            for place in range(wire.SLOTS):
                if table[place] < 0:
                    table[place] = table[place ^ bit]
        self._closest[layer] = table
        self._stale[layer] = False

    # -- looking inside -------------------------------------------------------------------------

    def slots(self) -> list[tuple[int, int, int, int, int, int]]:
        """Return the occupied slots, ascending.

        Returns:
            ``(layer, index, conn, node, alt_conn, alt_node)`` each; without an alternate the last
            two are 0 and ``wire.NO_NODE``.
        """
        return [
            (at >> 8, at & 0xFF, *entry)
            for at, entry in enumerate(self._entries[:_FIRST_SERVICE])
            if entry is not None
        ]

    def services(self) -> list[tuple[int, bool, int, int, int, int]]:
        """Return the known services, ascending.

        Returns:
            ``(service, is_local, conn, node, alt_conn, alt_node)`` each; without a next hop, or
            an alternate, its two parts are 0 and ``wire.NO_NODE``.
        """
        found = []
        for service, is_local in enumerate(self._is_local):
            entry = self._entries[_FIRST_SERVICE + service]
            if is_local or entry is not None:
                found.append((service, is_local, *(entry or _NOTHING)))
        return found

    def check(self) -> None:
        """Verify every invariant of the table; for tests.

        Raises:
            AssertionError: The table is broken.
        """
        for at, entry in enumerate(self._entries):
            if entry is None:
                continue
            conn, node, alt_conn, alt_node = entry
            assert conn != 0, at
            assert node != wire.NO_NODE, at
            assert alt_conn != conn, at
            assert (alt_conn == 0) == (alt_node == wire.NO_NODE), at
        for layer, own in enumerate(self._own):
            base = layer << 8
            assert self._entries[base | own] is None, layer
            if self._stale[layer]:
                self._rebuild_closest(layer)
            taken = [i for i in range(wire.SLOTS) if i == own or self._entries[base | i]]
            for byte, index in enumerate(self._closest[layer]):
                assert index ^ byte == min(i ^ byte for i in taken), (layer, byte)
