"""eclipse-zenoh: sessions over loopback TCP, a router as the relay, queryables for calls.

Listeners are peers, those who connect are clients; scouting and gossip are off, so that links are
those asked for, and so is shared memory, which would leave the TCP loopback that all are measured
on. Publishers block when their queue is full. Closing a session drops what is queued, so a stream's
source waits for the sink's word that all has come. Callbacks run as they do by default, each
handler's in a thread of its own (several times cheaper here than zenoh's receiving thread, which
would have to enter Python for every message), but for a query's replies: a handler a query would
be a thread a query.
"""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Mapping
from os import getpid
from typing import Any

from tools.bench.process import (
    CallLoad,
    IdleMemory,
    Options,
    Phase,
    RoundTrips,
    cpu_seconds,
    importing,
    main,
    ready,
    report_opaque_relay,
    wait_for_go,
)

NAME = "eclipse-zenoh"
REQUIRES = ("zenoh",)

KEY = "bench"
BACK = "back"

Settings = Mapping[str, object] | None


def open_session(mode: str, listen: str = "", connect: str = "", settings: Settings = None) -> Any:
    """Return a session that has only these links."""
    import zenoh

    config = zenoh.Config()
    every: dict[str, object] = {
        "mode": mode,
        "listen/endpoints": [listen] if listen else [],
        "connect/endpoints": connect.split(",") if connect else [],
        "scouting/multicast/enabled": False,
        "scouting/gossip/enabled": False,
        "timestamping/enabled": False,
        "transport/shared_memory/enabled": False,
        **(settings or {}),
    }
    for key, value in every.items():
        config.insert_json5(key, json.dumps(value))
    return zenoh.open(config)


def quick(options: Options) -> Settings:
    """Return the settings for one small message in flight: no batches, no priorities."""
    if options.size > 32_768:
        return {}
    return {"transport/unicast/lowlatency": True, "transport/unicast/qos/enabled": False}


def free_endpoint() -> str:
    """Return an endpoint to listen at."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"tcp/127.0.0.1:{server.getsockname()[1]}"


def listen(settings: Settings = None) -> tuple[Any, str]:
    """Return a listening session and its address, with the pid for relays that await its end."""
    endpoint = free_endpoint()
    return open_session("peer", listen=endpoint, settings=settings), f"{endpoint} {getpid()}"


def dial(options: Options, settings: Settings = None) -> Any:
    """Return a session connected to what `listen` returned elsewhere."""
    return open_session("client", connect=options.addr.split()[0], settings=settings)


def subscribe(session: Any, key: str, on_message: Callable[[bytes], object]) -> None:
    """Have on_message called with every payload."""
    import zenoh

    def on_sample(sample: Any) -> None:
        on_message(sample.payload.to_bytes())

    session.declare_subscriber(key, zenoh.handlers.Callback(on_sample))


def publish(session: Any, key: str, *, express: bool = False) -> Any:
    """Return a publisher that blocks rather than drops."""
    import zenoh

    block = zenoh.CongestionControl.BLOCK
    return session.declare_publisher(key, congestion_control=block, express=express)


def await_match(of: Any) -> None:
    """Wait until the other side of a publisher or querier is known."""
    while not of.matching_status.matching:
        time.sleep(0.005)


def finishing() -> tuple[threading.Event, Callable[[], None]]:
    """Return an event and what sets it."""
    done = threading.Event()
    return done, done.set


def sink(options: Options) -> None:
    """Receive a stream."""
    done, finish = finishing()
    phase = Phase(options, finish)
    session, addr = listen()
    subscribe(session, KEY, phase.on_message)
    acknowledge = publish(session, BACK, express=True)
    ready(addr)
    done.wait()
    finish_stream(acknowledge, phase)


def finish_stream(acknowledge: Any, phase: Phase) -> None:
    """Tell the source that all has come; report when it has left."""
    acknowledge.put(b"all")
    while acknowledge.matching_status.matching:
        time.sleep(0.005)
    phase.report()


def source(options: Options) -> None:
    """Send a stream."""
    session = dial(options)
    publisher = publish(session, KEY)
    await_match(publisher)
    stream(options, session, publisher, options.warmup, options.messages)


def stream(options: Options, session: Any, publisher: Any, warmup: int, messages: int) -> None:
    """Publish all, and report."""
    payload = options.payload
    put = publisher.put
    done = threading.Event()
    subscribe(session, BACK, lambda _: done.set())
    ready()
    wait_for_go()
    phase = Phase(options, watch=False)
    for _ in range(warmup):
        put(payload)
    phase.start()
    for _ in range(messages):
        put(payload)
    done.wait()
    phase.stop()
    phase.report()
    session.close()


def relay(options: Options) -> None:
    """Run a router until the sink has ended."""
    endpoint = free_endpoint()
    sink, pid = options.addr.split()
    session = open_session("router", listen=endpoint, connect=sink)
    ready(f"{endpoint} {pid}")
    report_opaque_relay(options, cpu_seconds, int(pid))
    session.close()


def echo(options: Options) -> None:
    """Send every message back."""
    done, finish = finishing()
    phase = Phase(options, finish)
    session, addr = listen(quick(options))
    publisher = publish(session, BACK, express=True)

    def on_message(payload: bytes) -> None:
        publisher.put(payload)
        phase.on_message(payload)

    subscribe(session, KEY, on_message)
    ready(addr)
    done.wait()
    session.close()
    phase.report()


class PingPong:
    """One message in flight over a session."""

    def __init__(self, session: Any, options: Options) -> None:
        self._payload = options.payload
        self._publisher = publish(session, KEY, express=True)
        self._trips = RoundTrips(None, 0, 1)
        self._done = threading.Event()
        subscribe(session, BACK, self._on_reply)
        await_match(self._publisher)

    def run(self, trips: RoundTrips) -> None:
        """Keep one message in flight until trips has enough."""
        self._trips = trips
        self._done.clear()
        trips.begin()
        self._publisher.put(self._payload)
        self._done.wait()

    def _on_reply(self, reply: bytes) -> None:
        if self._trips.again(reply):
            self._publisher.put(self._payload)
        else:
            self._done.set()


def pinger(options: Options) -> None:
    """Keep one message in flight."""
    session = dial(options, quick(options))
    game = PingPong(session, options)
    ready()
    wait_for_go()
    phase = Phase(options)
    trips = RoundTrips(phase, options.warmup)
    game.run(trips)
    phase.report(**trips.fields())


def callee(options: Options) -> None:
    """Answer queries."""
    import zenoh

    done, finish = finishing()
    phase = Phase(options, finish)
    session, addr = listen()

    def on_query(query: Any) -> None:
        payload = query.payload.to_bytes()
        query.reply(KEY, payload, express=options.window == 1)
        query.drop()
        phase.on_message(payload)

    callback = zenoh.handlers.Callback(on_query)
    session.declare_queryable(KEY, callback, complete=True)
    ready(addr)
    done.wait()
    session.close()
    phase.report()


def caller(options: Options) -> None:
    """Keep a window of queries in flight."""
    import zenoh

    session = dial(options)
    querier = session.declare_querier(
        KEY,
        target=zenoh.QueryTarget.BEST_MATCHING,
        consolidation=zenoh.ConsolidationMode.NONE,
        congestion_control=zenoh.CongestionControl.BLOCK,
        express=options.window == 1,
        timeout=30,
    )
    await_match(querier)
    ready()
    wait_for_go()
    done, finish = finishing()
    phase = Phase(options, finish)

    def call(payload: bytes, callback: Callable[[bytes], object]) -> None:
        def on_reply(reply: Any) -> None:
            callback(reply.ok.payload.to_bytes())

        querier.get(zenoh.handlers.Callback(on_reply, indirect=False), payload=payload)

    load = CallLoad(options, phase, call)
    load.begin()
    done.wait()
    phase.report(**load.fields())


def fan_sink(options: Options) -> None:
    """Receive from many links: as many sessions."""
    done, finish = finishing()
    phase = Phase(options, finish)
    addrs = []
    sessions = []
    for _ in range(options.links):
        session, addr = listen()
        subscribe(session, KEY, phase.on_message)
        sessions.append(session)
        addrs.append(addr.split()[0])
    acknowledge = publish(sessions[0], BACK, express=True)
    ready(",".join(addrs))
    done.wait()
    finish_stream(acknowledge, phase)


def fan_source(options: Options) -> None:
    """Send every message to all links with one put."""
    session = open_session("peer", connect=options.addr)
    while len(list(session.info.peers_zid())) < options.links:
        time.sleep(0.01)
    publisher = publish(session, KEY)
    await_match(publisher)
    time.sleep(0.5)  # matching tells of the first subscriber only
    warmup, rounds = options.fan_rounds()
    stream(options, session, publisher, warmup, rounds)


def idle_server(options: Options) -> None:
    """Hold many links and echo, until the busy one ends."""
    import zenoh

    phase = Phase(options, watch=False)
    memory = IdleMemory(options)
    session, addr = listen(
        {
            "transport/unicast/max_sessions": options.links + 8,
            "transport/unicast/accept_pending": 1000,
        }
    )
    publisher = publish(session, BACK, express=True)
    done = threading.Event()
    subscribe(session, KEY, publisher.put)

    def on_transport(event: Any) -> None:
        if event.kind == zenoh.SampleKind.PUT:
            memory.opened()
        else:
            done.set()

    callback = zenoh.handlers.Callback(on_transport, indirect=False)
    session.info.declare_transport_events_listener(callback)
    ready(addr)
    done.wait()
    phase.report(**memory.fields())


def idle_client(options: Options) -> None:
    """Time one link, connect the others, time it again."""
    ready()
    wait_for_go()
    phase = Phase(options, watch=False)
    busy = dial(options)
    game = PingPong(busy, options)
    alone = RoundTrips(None, options.warmup, options.total)
    game.run(alone)
    started = time.perf_counter()
    links = [dial(options) for _ in range(options.links - 1)]
    seconds = time.perf_counter() - started
    trips = RoundTrips(phase, options.warmup)
    game.run(trips)
    fields = {**trips.fields(), "alone": alone.fields()["latency_ns"]}
    phase.report(connect_seconds=seconds, **fields)
    del links


def churn_server(options: Options) -> None:
    """Answer one query a session."""
    callee(options)


def churn_client(options: Options) -> None:
    """Open a session, make one query, close it, again and again."""
    ready()
    wait_for_go()
    phase = Phase(options)
    while not phase.done:
        with dial(options) as session:
            for reply in session.get(KEY, payload=b"x"):
                phase.on_message(reply.ok.payload.to_bytes())
    phase.report()


ROLES = {
    "sink": sink,
    "source": source,
    "relay": relay,
    "echo": echo,
    "pinger": pinger,
    "callee": callee,
    "caller": caller,
    "fan_sink": fan_sink,
    "fan_source": fan_source,
    "idle_server": idle_server,
    "idle_client": idle_client,
    "churn_server": churn_server,
    "churn_client": churn_client,
    "importing": importing("import zenoh\nzenoh.Config"),
}

if __name__ == "__main__":
    main(ROLES)
