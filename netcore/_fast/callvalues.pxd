"""What users see of calls, as other kernels see it."""

cimport cython
from libc.stdint cimport uint8_t, uint32_t


@cython.final
cdef class CallAnswer:
    cdef readonly bint ok
    cdef readonly bytes payload
    cdef readonly object error


@cython.final
cdef class RpcRequest:
    cdef readonly bytes payload
    cdef readonly uint32_t from_node
    cdef readonly uint8_t from_service
    cdef readonly uint8_t to_service
    cdef readonly uint32_t stream_id
    cdef readonly long long deadline_ms
    cdef readonly bint sender_verified
