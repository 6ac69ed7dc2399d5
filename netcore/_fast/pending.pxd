"""The calls of a node that wait for their answer, in C: by id and by deadline.

Facts first:

- A call has a place (``wait_t``) as long as it waits. ``index`` finds it by id: open addressing,
  linear probing, at most half full, and no tombstones. Ids are random, but which ones are looked
  for is up to peers: they meet the ids that are there, and nothing else they could aim at.
- The heap holds places with their numbers. An item whose place has another number by now is
  forgotten when it comes up, or when most items are like that.
- What a call refers to is not here but in a list of the desk, where the garbage collector sees it.
"""

from cpython.mem cimport PyMem_Free, PyMem_Malloc, PyMem_Realloc
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memset

cdef enum:
    FIRST_PLACES = 64       # a power of two, as all their numbers
    KEPT_PLACES = 4096      # given back beyond, when nobody waits any more
    HEAP_SLACK = 64         # a heap with this many more items than twice the live ones is rebuilt
    NO_PLACE = 0x7FFFFFFF

cdef struct wait_t:
    uint64_t call_id
    uint64_t number         # how many calls were started up to it; 0: the place is free
    uint32_t timeout_ms
    uint32_t expected       # the node asked, unless ``anybody`` may answer
    uint32_t next           # free place behind this one
    bint anybody

cdef struct due_t:
    long long deadline_ms
    uint64_t number
    uint32_t place

cdef struct pending_t:
    wait_t* places
    uint32_t* index         # 1 + place, 0: none; twice as many as places
    due_t* heap             # as many as fit: 2 * places + HEAP_SLACK + 1
    uint32_t room           # places
    uint32_t count          # of them, that are taken
    uint32_t free           # the first free one
    size_t due              # items of the heap
    uint64_t numbers


cdef inline void pending_clear(pending_t* calls) noexcept:
    """Forget everything and give the memory back."""
    PyMem_Free(calls.places)
    PyMem_Free(calls.index)
    PyMem_Free(calls.heap)
    calls.places = NULL
    calls.index = NULL
    calls.heap = NULL
    calls.room = calls.count = 0
    calls.free = NO_PLACE
    calls.due = 0


# -- by id -----------------------------------------------------------------------------------------

cdef inline uint32_t pending_slot(const pending_t* calls, uint64_t call_id) noexcept:
    """Return where the search for an id begins."""
    return <uint32_t>((call_id * <uint64_t>0x9E3779B97F4A7C15) >> 32) & (2 * calls.room - 1)


cdef inline uint32_t pending_find(const pending_t* calls, uint64_t call_id) noexcept:
    """Return the place of a call, NO_PLACE when nobody waits for this id."""
    cdef uint32_t mask = 2 * calls.room - 1
    cdef uint32_t slot, entry
    if calls.count == 0:
        return NO_PLACE
    slot = pending_slot(calls, call_id)
    while True:
        entry = calls.index[slot]
        if entry == 0:
            return NO_PLACE
        if calls.places[entry - 1].call_id == call_id:
            return entry - 1
        slot = (slot + 1) & mask


cdef inline void index_put(pending_t* calls, uint32_t place) noexcept:
    """Enter a place into the index."""
    cdef uint32_t mask = 2 * calls.room - 1
    cdef uint32_t slot = pending_slot(calls, calls.places[place].call_id)
    while calls.index[slot] != 0:
        slot = (slot + 1) & mask
    calls.index[slot] = place + 1


cdef inline void index_drop(pending_t* calls, uint32_t place) noexcept:
    """Take a place out of the index, and close the gap."""
    cdef uint32_t mask = 2 * calls.room - 1
    cdef uint32_t gap = pending_slot(calls, calls.places[place].call_id)
    cdef uint32_t slot, home
    while calls.index[gap] != place + 1:
        gap = (gap + 1) & mask
    slot = (gap + 1) & mask
    while calls.index[slot] != 0:
        home = pending_slot(calls, calls.places[calls.index[slot] - 1].call_id)
        if ((slot - home) & mask) >= ((slot - gap) & mask):  # the gap is on its way from home
            calls.index[gap] = calls.index[slot]
            gap = slot
        slot = (slot + 1) & mask
    calls.index[gap] = 0


# -- by deadline -----------------------------------------------------------------------------------

cdef inline bint is_before(const due_t* a, const due_t* b) noexcept:
    if a.deadline_ms != b.deadline_ms:
        return a.deadline_ms < b.deadline_ms
    return a.number < b.number


cdef inline void heap_up(due_t* heap, size_t at, due_t item) noexcept:
    """Put an item at a place that is free, or above it."""
    cdef size_t parent
    while at != 0:
        parent = (at - 1) >> 1
        if not is_before(&item, &heap[parent]):
            break
        heap[at] = heap[parent]
        at = parent
    heap[at] = item


cdef inline void heap_down(due_t* heap, size_t n, size_t at, due_t item) noexcept:
    """Put an item at a place that is free, or below it."""
    cdef size_t child = 2 * at + 1
    while child < n:
        if child + 1 < n and is_before(&heap[child + 1], &heap[child]):
            child += 1
        if not is_before(&heap[child], &item):
            break
        heap[at] = heap[child]
        at = child
        child = 2 * at + 1
    heap[at] = item


cdef inline bint heap_is_live(const pending_t* calls, const due_t* item) noexcept:
    return calls.places[item.place].number == item.number


cdef inline void heap_sweep(pending_t* calls) noexcept:
    """Forget the items of calls that have ended."""
    cdef size_t at
    cdef size_t n = 0
    for at in range(calls.due):
        if heap_is_live(calls, &calls.heap[at]):
            calls.heap[n] = calls.heap[at]
            n += 1
    calls.due = n
    at = n // 2
    while at != 0:
        at -= 1
        heap_down(calls.heap, n, at, calls.heap[at])


cdef inline due_t* pending_first(pending_t* calls) noexcept:
    """Return the first item of the heap whose call still waits, NULL when there is none."""
    while calls.due != 0:
        if heap_is_live(calls, &calls.heap[0]):
            return &calls.heap[0]
        calls.due -= 1
        heap_down(calls.heap, calls.due, 0, calls.heap[calls.due])
    return NULL


# -- both ------------------------------------------------------------------------------------------

cdef inline int pending_grow(pending_t* calls) except -1:
    """Double the places; on failure everything stays as it is."""
    cdef uint32_t room = 2 * calls.room if calls.room != 0 else FIRST_PLACES
    cdef uint32_t place
    cdef void* memory
    memory = PyMem_Realloc(calls.places, room * sizeof(wait_t))
    if memory == NULL:
        raise MemoryError
    calls.places = <wait_t*>memory
    memory = PyMem_Realloc(calls.heap, (2 * <size_t>room + HEAP_SLACK + 1) * sizeof(due_t))
    if memory == NULL:
        raise MemoryError
    calls.heap = <due_t*>memory
    memory = PyMem_Malloc(2 * <size_t>room * sizeof(uint32_t))
    if memory == NULL:
        raise MemoryError
    PyMem_Free(calls.index)
    calls.index = <uint32_t*>memory
    memset(calls.index, 0, 2 * <size_t>room * sizeof(uint32_t))
    for place in range(calls.room, room):
        calls.places[place].number = 0
        calls.places[place].next = place + 1
    calls.places[room - 1].next = NO_PLACE
    calls.free = calls.room
    calls.room = room
    for place in range(calls.count):  # it was full
        index_put(calls, place)
    return 0


cdef inline uint32_t pending_add(
    pending_t* calls, uint64_t call_id, long long deadline_ms, uint32_t timeout_ms
) except NO_PLACE:
    """Begin to wait for an id that is not in use; return its place, whose node is still to set."""
    cdef wait_t* wait
    cdef due_t item
    cdef uint32_t place
    if calls.count == calls.room:
        pending_grow(calls)
    place = calls.free
    wait = &calls.places[place]
    calls.free = wait.next
    calls.count += 1
    calls.numbers += 1
    wait.call_id = call_id
    wait.number = item.number = calls.numbers
    wait.timeout_ms = timeout_ms
    index_put(calls, place)
    item.deadline_ms = deadline_ms
    item.place = place
    calls.due += 1
    heap_up(calls.heap, calls.due - 1, item)
    return place


cdef inline void pending_remove(pending_t* calls, uint32_t place) noexcept:
    """Forget a call."""
    cdef wait_t* wait = &calls.places[place]
    index_drop(calls, place)
    wait.number = 0
    wait.next = calls.free
    calls.free = place
    calls.count -= 1
    if calls.due > 2 * <size_t>calls.count + HEAP_SLACK:
        heap_sweep(calls)
