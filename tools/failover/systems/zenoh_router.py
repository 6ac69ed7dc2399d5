"""zenoh: every process is a router, which is how zenoh relays over several hops.

Settings are its defaults; only scouting is off, so that links are those asked for. A router redials
by itself what it was configured to connect to.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Mapping
from typing import Any

from tools.failover.actor import Arrivals, Pace, Part, answer_orders, end_with_parent, payload

KEY = "bench"


class Session:
    """A session that opens when the process is to dial: zenoh does both at once."""

    def __init__(self, part: Part) -> None:
        self.part = part
        self.arrivals = Arrivals()
        self.pace = Pace(part.rate)
        self._session: Any = None
        self._receiver: Any = None

    def open(self, whom: list[tuple[int, str, int]]) -> Mapping[str, object]:
        """Listen and dial."""
        import zenoh

        settings: dict[str, object] = {
            "mode": "router",
            "listen/endpoints": [f"tcp/{host}:{port}" for host, port in self.part.listen],
            "connect/endpoints": [f"tcp/{host}:{port}" for _, host, port in whom],
            "scouting/multicast/enabled": False,
        }
        config = zenoh.Config()
        for key, value in settings.items():
            config.insert_json5(key, json.dumps(value))
        stamp_ns = time.monotonic_ns()
        self._session = zenoh.open(config)
        if self.part.role == "sink":
            self._receiver = self._session.declare_subscriber(KEY, self._on_sample)
        return {"dial_ns": stamp_ns}

    def _on_sample(self, sample: Any) -> None:
        self.arrivals.take(sample.payload.to_bytes())

    def send(self) -> Mapping[str, object]:
        """Begin to send."""
        publisher = self._session.declare_publisher(KEY)

        def run() -> None:
            while True:
                for number in self.pace.due():
                    publisher.put(payload(number))
                time.sleep(max(0.0002, self.pace.wait_s()))

        threading.Thread(target=run, daemon=True).start()
        return {}


def main() -> None:
    """Be one router."""
    end_with_parent()
    part = Part.of(sys.argv[1])
    session = Session(part)
    orders = {
        "dial": lambda: session.open(part.dial),
        "dial_all": lambda: session.open(part.neighbours),
    }
    if part.role == "source":
        orders |= {"send": session.send, **session.pace.orders()}
    elif part.role == "sink":
        orders |= session.arrivals.orders()
    answer_orders(orders)


if __name__ == "__main__":
    main()
