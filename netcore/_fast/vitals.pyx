"""What is known about one link, as plain numbers: a few hundred bytes less per idle link."""

cimport cython
from libc.stdint cimport int64_t, uint32_t, uint64_t

__all__ = ["Vitals"]

cdef int64_t NEVER_MS = -(<int64_t>1 << 62)     # before any time a clock may show


@cython.auto_pickle(False)
@cython.final
@cython.no_gc  # tokens are tuples of ints
cdef class Vitals:
    """The numbers of one link. ``Liveness`` keeps most of them, its node the rest."""

    cdef readonly uint64_t key
    cdef readonly uint64_t epoch
    cdef public int64_t due_ms
    cdef public int64_t received_ms
    cdef public int64_t heard_ms
    cdef public int64_t excused_ms
    cdef public int64_t granted_until_ms
    cdef public int64_t pinged_ms
    cdef public int64_t token_ms
    cdef public int64_t fit_from_us
    cdef public int64_t measured_ms
    cdef public uint64_t measured_sent
    cdef public uint64_t measured_received
    cdef public double early
    cdef double _srtt_ms            # NaN: unknown
    cdef public tuple tokens
    cdef public int slot
    cdef public uint32_t numbers
    cdef public uint32_t answered
    cdef public uint32_t announced_ms
    cdef public uint32_t peer_ms
    cdef public uint32_t interval_ms
    cdef public uint32_t granted_ms
    cdef public bint is_guess
    cdef public bint unheard
    cdef public bint flagged
    cdef public bint suspect

    def __cinit__(self, key, epoch, now_ms):
        """Make the numbers of a link that came up just now."""
        self.key = key
        self.epoch = epoch
        self.slot = -1
        self.due_ms = self.pinged_ms = self.token_ms = NEVER_MS
        self.received_ms = self.heard_ms = self.measured_ms = now_ms
        self._srtt_ms = float("nan")
        self.tokens = ()

    @property
    def srtt_ms(self):
        """Smoothed round-trip time; None while unknown."""
        return None if self._srtt_ms != self._srtt_ms else self._srtt_ms

    @srtt_ms.setter
    def srtt_ms(self, value):
        self._srtt_ms = float("nan") if value is None else value
