# cython: overflowcheck=True
"""What is known about one link, as plain numbers: a few hundred bytes less per idle link."""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.math cimport ceil
from libc.stdint cimport int64_t, uint32_t, uint64_t

__all__ = ["Vitals"]

cdef enum:
    SUSPECT_INTERVALS = 3       # two PINGs may be late before the third is missed
    SUSPECT_RTTS = 4
    UNKNOWN_RTT_LIMIT_MS = 1000  # RFC 6298 section 2.1: the RTO before the first measurement
    SHARED_TURNS = 64           # per interval: PINGs of many links go out together
    PING_BYTES = 11
    PING_FLAG_SUSPECT = 1

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

    def silence_ms(self, int64_t received_ms, int64_t now_ms, int64_t excused_ms):
        """Return for how long the link has been silent, our own lateness subtracted."""
        cdef int64_t here_ms = now_ms - excused_ms
        cdef int64_t silence_ms
        if received_ms > self.received_ms:
            self.received_ms = received_ms
            self.heard_ms = received_ms - self.excused_ms
        self.excused_ms = excused_ms
        silence_ms = here_ms - self.heard_ms
        if silence_ms < 0:  # what was excused since the last visit is older than the byte
            self.heard_ms = here_ms
            return 0
        return silence_ms

    def limit_ms(self, int64_t now_ms):
        """Return how long the link may be silent now."""
        cdef uint32_t interval_ms = self.interval_ms
        if now_ms < self.granted_until_ms and self.granted_ms > interval_ms:
            interval_ms = self.granted_ms
        return self._base_limit_ms(interval_ms)

    cdef int64_t _base_limit_ms(self, uint32_t interval_ms) noexcept:
        cdef int64_t by_rtt = UNKNOWN_RTT_LIMIT_MS
        cdef int64_t by_interval = <int64_t>SUSPECT_INTERVALS * interval_ms
        if self._srtt_ms == self._srtt_ms:
            by_rtt = <int64_t>ceil(SUSPECT_RTTS * self._srtt_ms)
        return by_rtt if by_rtt > by_interval else by_interval

    def update_interval(self, int64_t now_ms):
        """Take the larger of both announced intervals; return whether it shrank."""
        cdef uint32_t before = self.interval_ms
        cdef uint32_t after = max(self.announced_ms, self.peer_ms)
        self.interval_ms = after
        if after >= before:
            return False
        if now_ms < self.granted_until_ms and self.granted_ms > before:
            before = self.granted_ms
        self.granted_ms = before
        self.granted_until_ms = now_ms + self._base_limit_ms(after)
        return True

    def ping_due_ms(self, int64_t sent_ms, int64_t rtt_interval_ms):
        """Return when a PING is owed: for our silence, or for the measurement."""
        cdef int64_t due_ms = sent_ms if sent_ms > self.pinged_ms else self.pinged_ms
        cdef int64_t grid_ms = self.interval_ms // SHARED_TURNS
        cdef int64_t token_due_ms, over_ms
        due_ms += self.interval_ms - <int64_t>(self.interval_ms * self.early)
        if grid_ms > 1:
            over_ms = due_ms % grid_ms
            due_ms -= over_ms + grid_ms if over_ms < 0 else over_ms  # as Python divides
        if self.unheard:
            return due_ms
        token_due_ms = self.token_ms + rtt_interval_ms + self.interval_ms
        return token_due_ms if token_due_ms < due_ms else due_ms

    def is_known_ping(self, bytes body not None):
        """Return whether a PING says only what the one before it said, and wants no answer."""
        cdef const unsigned char* at = <const unsigned char*>PyBytes_AS_STRING(body)
        cdef int i
        if PyBytes_GET_SIZE(body) != PING_BYTES or self.unheard:
            return False
        for i in range(8):
            if at[i]:
                return False
        return (
            (<uint32_t>at[8] << 8 | at[9]) == self.peer_ms
            and bool(at[10] & PING_FLAG_SUSPECT) == self.flagged
        )
