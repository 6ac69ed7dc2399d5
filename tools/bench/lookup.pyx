# cython: language_level=3, boundscheck=False, wraparound=False
"""Asks a table from C, as the switch does, with an argument that changes each time."""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec

from netcore._fast.table cimport NO_NODE, RouteTable

cdef enum:
    ARGUMENTS = 1024
    LOOP = 0
    NODE = 1
    KEY = 2
    SERVICE = 3


cdef int64_t now_ns() noexcept nogil:
    cdef timespec time
    clock_gettime(CLOCK_MONOTONIC, &time)
    return <int64_t>time.tv_sec * 1000000000 + time.tv_nsec


cdef uint64_t ask(RouteTable table, int what, const uint32_t* args, int64_t times) noexcept:
    """Ask so many times; the sum of the answers keeps the compiler from leaving any out."""
    cdef uint64_t total = 0
    cdef int64_t i
    if what == NODE:
        for i in range(times):
            total += table.c_path_to_node(args[i & (ARGUMENTS - 1)], NO_NODE).conn
    elif what == KEY:
        for i in range(times):
            total += table.c_path_to_key(args[i & (ARGUMENTS - 1)], NO_NODE).conn
    elif what == SERVICE:
        for i in range(times):
            total += table.c_path_to_service(<uint8_t>args[i & (ARGUMENTS - 1)], NO_NODE).conn
    else:
        for i in range(times):
            total += args[i & (ARGUMENTS - 1)]
    return total


def nanoseconds(RouteTable table not None, str question, list arguments, int64_t times):
    """Return the time of one question, the loop included; "loop" asks nothing."""
    cdef uint32_t args[ARGUMENTS]
    cdef int what = {"loop": LOOP, "node": NODE, "key": KEY, "service": SERVICE}[question]
    cdef int i
    cdef int64_t start
    cdef uint64_t total
    for i in range(ARGUMENTS):
        args[i] = arguments[i]
    ask(table, what, args, 100_000)
    start = now_ns()
    total = ask(table, what, args, times)
    return (now_ns() - start) / <double>times, total
