"""grpcio: unary calls of raw bytes, without protobuf.

The synchronous API on both sides: with 64 in flight it makes 1.5 to 1.8 times the calls of
``grpc.aio`` on both; one thread serves, more would only wait for the interpreter. One call in
flight is made with the blocking form, more with futures.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from tools.bench.process import (
    CallLoad,
    Options,
    Phase,
    RoundTrips,
    importing,
    main,
    ready,
    wait_for_go,
)

NAME = "grpcio"
REQUIRES = ("grpc",)

SERVICE = "bench.Echo"
NO_LIMITS = (("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1))


def callee(options: Options) -> None:
    """Answer calls."""
    import grpc

    done = threading.Event()
    phase = Phase(options, done.set)

    def answer(request: bytes, context: Any) -> bytes:
        phase.on_message(request)
        return request

    methods = {"Call": grpc.unary_unary_rpc_method_handler(answer)}
    handler = grpc.method_handlers_generic_handler(SERVICE, methods)
    server = grpc.server(ThreadPoolExecutor(1), handlers=(handler,), options=NO_LIMITS)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    ready(f"127.0.0.1:{port}")
    done.wait()
    server.stop(2.0).wait()  # the last reply leaves
    phase.report()


def caller(options: Options) -> None:
    """Keep a window of calls in flight."""
    import grpc

    channel = grpc.insecure_channel(options.addr, options=NO_LIMITS)
    grpc.channel_ready_future(channel).result()
    method = channel.unary_unary(f"/{SERVICE}/Call")
    ready()
    wait_for_go()
    if options.window == 1:
        call_in_turn(options, method)
    else:
        call_ahead(options, method)


def call_in_turn(options: Options, method: Any) -> None:
    """Make one blocking call after another."""
    phase = Phase(options)
    trips = RoundTrips(phase, options.warmup)
    payload = options.payload
    trips.begin()
    while trips.again(method(payload)):
        pass
    phase.report(**trips.fields())


def call_ahead(options: Options, method: Any) -> None:
    """Keep a window of futures."""
    done = threading.Event()
    phase = Phase(options, done.set)

    def call(payload: bytes, callback: Callable[[bytes], object]) -> None:
        method.future(payload).add_done_callback(lambda future: callback(future.result()))

    load = CallLoad(options, phase, call)
    load.begin()
    done.wait()
    phase.report(**load.fields())


def churn_client(options: Options) -> None:
    """Open a channel, make one call, close it, again and again."""
    import grpc

    ready()
    wait_for_go()
    phase = Phase(options)
    # A subchannel pool of its own: else channels to one address share a connection.
    settings = (("grpc.use_local_subchannel_pool", 1),)
    while not phase.done:
        with grpc.insecure_channel(options.addr, options=settings) as channel:
            phase.on_message(channel.unary_unary(f"/{SERVICE}/Call")(b"x"))
    phase.report()


ROLES = {
    "callee": callee,
    "caller": caller,
    "churn_server": callee,
    "churn_client": churn_client,
    "importing": importing("import grpc"),
}

if __name__ == "__main__":
    main(ROLES)
