"""Round trips of links: smoothed against jitter, believed quickly where a link has changed.

Facts first:

- Smoothing by an eighth needs a dozen measurements to follow a link that has become slower for
  good, and there is one a second. So a round trip far from the average is *odd*, and odd ones in a
  row, all on the same side, are no jitter: the average becomes the one nearest to it.
- An odd one is followed by the next measurement as soon as there is a PING to carry it. So they
  span several hundred milliseconds: a stall that is over by then changes little.
- What is odd follows the same rule as the latency in use in ``services.router_sync``.
"""

from __future__ import annotations

from ._typing import TYPE_CHECKING, Final, final

if TYPE_CHECKING:
    from ._backend import kernels

__all__ = ["RoundTrips", "is_other_latency"]

SRTT_GAIN: Final = 1 / 8  # RFC 6298 section 2.3: alpha
ODD_IN_A_ROW: Final = 3


def is_other_latency(used_ms: float, rtt_ms: float) -> bool:
    """Return whether a measured RTT is a reason to change the latency in use.

    Only a difference of more than 25 % and of more than 2 ms is one.
    """
    difference = abs(rtt_ms - used_ms)
    return difference > 2 and difference * 4 > used_ms


@final
class RoundTrips:
    """Averages the round trips of all links of a node; the averages are in their ``Vitals``."""

    def __init__(self) -> None:
        self._odd: dict[int, tuple[float, ...]] = {}  # slot -> the odd ones in a row, if any

    def take(self, link: kernels.Vitals, rtt_ms: float) -> bool:
        """Take a measurement in.

        Returns:
            Whether it is odd, so that another one is wanted soon.
        """
        srtt_ms = link.srtt_ms
        odd = self._odd.pop(link.slot, ())
        if srtt_ms is None or link.is_guess:
            # What the handshake took measured the start of two processes more than the link.
            link.srtt_ms = rtt_ms
            link.is_guess = False
            return False
        is_odd = is_other_latency(srtt_ms, rtt_ms)
        if is_odd:
            odd = (*(trip for trip in odd if (trip > srtt_ms) is (rtt_ms > srtt_ms)), rtt_ms)
            if len(odd) == ODD_IN_A_ROW:
                link.srtt_ms = min(odd) if rtt_ms > srtt_ms else max(odd)
                return False
            self._odd[link.slot] = odd
        link.srtt_ms = srtt_ms + (rtt_ms - srtt_ms) * SRTT_GAIN
        return is_odd

    def forget(self, link: kernels.Vitals) -> None:
        """Forget a link, before it loses its slot."""
        self._odd.pop(link.slot, None)
