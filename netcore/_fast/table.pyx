"""The forwarding table: for a node id, a key or a service, the next hop, in constant time."""

cimport cython
from cpython.long cimport PyLong_AsLongLongAndOverflow, PyLong_CheckExact
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memset

from netcore import wire

__all__ = ["RouteTable"]

cdef object MAX_CONN = (1 << 64) - 1
cdef object MAX_NODE_ID = wire.MAX_NODE_ID
cdef object MAX_U32 = wire.MAX_U32


cdef uint64_t checked(str name, object value, object low, object high) except? 0xDEAD:
    """Return the value when it is an int in the range."""
    if not PyLong_CheckExact(value) and (
        not isinstance(value, int) or isinstance(value, bool)
    ):
        raise TypeError(f"{name} must be an int, not {type(value).__name__}")
    if not low <= value <= high:
        raise ValueError(f"{name} must be in {low}..{high}, not {value}")
    return <uint64_t>value


cdef inline uint32_t checked_u32(str name, object value) except? 0xDEAD:
    """Do the same for 0..2**32 - 1, without Python arithmetic in the usual case."""
    cdef int overflow = 0
    cdef long long number
    if PyLong_CheckExact(value):
        number = PyLong_AsLongLongAndOverflow(value, &overflow)
        if overflow == 0 and 0 <= number <= 0xFFFFFFFF:
            return <uint32_t>number
    return <uint32_t>checked(name, value, 0, MAX_U32)


cdef entry_t new_entry(
    object conn_id, object node_id, object alt_conn_id, object alt_node_id
) except *:
    """Return the checked entry."""
    cdef entry_t entry
    entry.conn = checked("conn_id", conn_id, 1, MAX_CONN)
    entry.node = <uint32_t>checked("node_id", node_id, 0, MAX_NODE_ID)
    entry.alt_conn = checked("alt_conn_id", alt_conn_id, 0, MAX_CONN)
    entry.alt_node = <uint32_t>checked("alt_node_id", alt_node_id, 0, MAX_U32)
    if (entry.alt_conn == 0) != (entry.alt_node == NO_NODE):
        raise ValueError("an alternate has a conn id and a node id, or neither")
    if entry.alt_conn == entry.conn:
        raise ValueError(f"conn {conn_id} cannot be its own alternate")
    return entry


cdef inline entry_t empty_entry() noexcept nogil:
    cdef entry_t entry
    entry.conn = entry.alt_conn = 0
    entry.node = entry.alt_node = NO_NODE
    return entry


cdef inline route_t route(int action, uint64_t conn, uint32_t node) noexcept nogil:
    cdef route_t answer
    answer.action = action
    answer.conn = conn
    answer.node = node
    return answer


@cython.final
cdef class RouteTable:
    """Four layers of 256 slots and 256 services, and the three questions about them."""

    def __cinit__(self, local_node):
        """Make an empty table."""
        cdef int at
        self._local_node = <uint32_t>checked("local_node", local_node, 0, MAX_NODE_ID)
        self._version = 0
        memset(self._is_local, 0, sizeof(self._is_local))
        for at in range(ENTRIES):
            self._entries[at] = empty_entry()
        for at in range(LAYERS):
            self._own[at] = self._local_node >> (8 * at) & 0xFF
            memset(self._closest[at], self._own[at], SLOTS)

    @property
    def local_node(self):
        """The id of this node."""
        return self._local_node

    @property
    def version(self):
        """A number that grows with every change of an entry, and only then."""
        return self._version

    # -- questions ----------------------------------------------------------------------------

    def path_to_node(self, dest, from_node=wire.NO_NODE):
        """Return the way to a node."""
        cdef uint32_t to = checked_u32("dest", dest)
        cdef route_t answer = self.c_path_to_node(to, checked_u32("from_node", from_node))
        return answer.action, answer.conn, answer.node

    def path_to_key(self, key, from_node=wire.NO_NODE):
        """Return the way to the node closest to a key, layer by layer."""
        cdef uint32_t to = checked_u32("key", key)
        cdef route_t answer = self.c_path_to_key(to, checked_u32("from_node", from_node))
        return answer.action, answer.conn, answer.node

    def path_to_service(self, service, from_node=wire.NO_NODE):
        """Return the way to a node that offers a service."""
        cdef uint8_t to = <uint8_t>checked("service", service, 0, SERVICES - 1)
        cdef route_t answer = self.c_path_to_service(to, checked_u32("from_node", from_node))
        return answer.action, answer.conn, answer.node

    cdef route_t c_path_to_node(self, uint32_t dest, uint32_t from_node) noexcept nogil:
        cdef uint32_t difference = dest ^ self._local_node
        if difference == 0:
            return route(ACTION_LOCAL, 0, 0)
        if difference < 0x100:
            return self._answer(dest & 0xFF, from_node)
        if difference < 0x10000:
            return self._answer(0x100 | (dest >> 8 & 0xFF), from_node)
        if difference < 0x1000000:
            return self._answer(0x200 | (dest >> 16 & 0xFF), from_node)
        return self._answer(0x300 | (dest >> 24), from_node)

    cdef route_t c_path_to_key(self, uint32_t key, uint32_t from_node) noexcept nogil:
        cdef int layer
        cdef uint8_t index
        for layer in range(LAYERS - 1, -1, -1):
            index = self._closest[layer][key >> (8 * layer) & 0xFF]
            if index != self._own[layer]:
                return self._answer(layer << 8 | index, from_node)
        return route(ACTION_LOCAL, 0, 0)

    cdef route_t c_path_to_service(self, uint8_t service, uint32_t from_node) noexcept nogil:
        if self._is_local[service]:
            return route(ACTION_LOCAL, 0, 0)
        return self._answer(FIRST_SERVICE + service, from_node)

    cdef route_t _answer(self, int at, uint32_t from_node) noexcept nogil:
        cdef const entry_t* entry = &self._entries[at]
        if entry.conn == 0:
            return route(ACTION_REJECT, 0, 0)
        if entry.node == from_node and entry.alt_conn != 0 and entry.alt_node != from_node:
            return route(ACTION_NEXT, entry.alt_conn, entry.alt_node)
        return route(ACTION_NEXT, entry.conn, entry.node)

    # -- changes ------------------------------------------------------------------------------

    def set_next(
        self, layer, index, conn_id, node_id, alt_conn_id=0, alt_node_id=wire.NO_NODE
    ):
        """Set the next hop, and the alternate, of a slot."""
        cdef int at = self._slot(layer, index)
        self._put(at, new_entry(conn_id, node_id, alt_conn_id, alt_node_id))

    def clear_next(self, layer, index):
        """Empty a slot; nothing happens when it is empty."""
        self._put(self._slot(layer, index), empty_entry())

    def set_service_local(self, service, is_local):
        """Say whether this node offers a service."""
        cdef int at = <int>checked("service", service, 0, SERVICES - 1)
        if not isinstance(is_local, bool):
            raise TypeError(f"is_local must be a bool, not {type(is_local).__name__}")
        cdef uint8_t flag = is_local is True
        if self._is_local[at] != flag:
            self._is_local[at] = flag
            self._version += 1

    def set_service_next(
        self, service, conn_id, node_id, alt_conn_id=0, alt_node_id=wire.NO_NODE
    ):
        """Set the next hop, and the alternate, towards a service."""
        cdef int at = FIRST_SERVICE + <int>checked("service", service, 0, SERVICES - 1)
        self._put(at, new_entry(conn_id, node_id, alt_conn_id, alt_node_id))

    def clear_service_next(self, service):
        """Forget the next hop towards a service; nothing happens when there is none."""
        cdef int at = FIRST_SERVICE + <int>checked("service", service, 0, SERVICES - 1)
        self._put(at, empty_entry())

    def remove_conn(self, conn_id):
        """Let no entry mention a link any more."""
        cdef uint64_t conn = checked("conn_id", conn_id, 1, MAX_CONN)
        cdef entry_t entry
        cdef int at
        cdef int found = 0
        for at in range(ENTRIES):
            entry = self._entries[at]
            if entry.conn == conn:
                entry.conn = entry.alt_conn
                entry.node = entry.alt_node
            elif entry.conn == 0 or entry.alt_conn != conn:
                continue
            entry.alt_conn = 0
            entry.alt_node = NO_NODE
            self._put(at, entry)
            found += 1
        return found

    cdef int _slot(self, object layer, object index) except -1:
        cdef int row = <int>checked("layer", layer, 0, LAYERS - 1)
        cdef int column = <int>checked("index", index, 0, SLOTS - 1)
        if column == self._own[row]:
            raise ValueError(f"slot {index} of layer {layer} is this node's own")
        return row << 8 | column

    cdef void _put(self, int at, entry_t entry) noexcept nogil:
        cdef entry_t before = self._entries[at]
        if (
            before.conn == entry.conn
            and before.node == entry.node
            and before.alt_conn == entry.alt_conn
            and before.alt_node == entry.alt_node
        ):
            return
        self._entries[at] = entry
        self._version += 1
        if at < FIRST_SERVICE and (entry.conn == 0) != (before.conn == 0):
            self._rebuild_closest(at >> 8)

    cdef void _rebuild_closest(self, int layer) noexcept nogil:
        # At once, not lazily as in the twin: it takes about a microsecond here.
        cdef int place
        cdef int bit = 1
        cdef int table[SLOTS]
        for place in range(SLOTS):
            table[place] = place if self._entries[layer << 8 | place].conn != 0 else -1
        table[self._own[layer]] = self._own[layer]
        while bit < SLOTS:
            for place in range(SLOTS):
                if table[place] < 0:
                    table[place] = table[place ^ bit]
            bit <<= 1
        for place in range(SLOTS):
            self._closest[layer][place] = <uint8_t>table[place]

    # -- looking inside -----------------------------------------------------------------------

    def slots(self):
        """Return the occupied slots, ascending."""
        cdef int at
        cdef entry_t e
        found = []
        for at in range(FIRST_SERVICE):
            e = self._entries[at]
            if e.conn != 0:
                found.append((at >> 8, at & 0xFF, e.conn, e.node, e.alt_conn, e.alt_node))
        return found

    def services(self):
        """Return the known services, ascending."""
        cdef int at
        cdef entry_t e
        found = []
        for at in range(SERVICES):
            e = self._entries[FIRST_SERVICE + at]
            if self._is_local[at] or e.conn != 0:
                is_local = self._is_local[at] != 0
                found.append((at, is_local, e.conn, e.node, e.alt_conn, e.alt_node))
        return found

    def check(self):
        """Verify every invariant of the table; for tests."""
        cdef int at, layer, place, index, best
        cdef entry_t e
        for at in range(ENTRIES):
            e = self._entries[at]
            assert (e.conn == 0) == (e.node == NO_NODE), at
            assert (e.alt_conn == 0) == (e.alt_node == NO_NODE), at
            assert e.alt_conn == 0 or (e.conn != 0 and e.alt_conn != e.conn), at
        for layer in range(LAYERS):
            assert self._entries[layer << 8 | self._own[layer]].conn == 0, layer
            for place in range(SLOTS):
                best = self._own[layer]
                for index in range(SLOTS):
                    if self._entries[layer << 8 | index].conn != 0:
                        if (index ^ place) < (best ^ place):
                            best = index
                assert self._closest[layer][place] == best, (layer, place)
