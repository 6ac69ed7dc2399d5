"""SIGINT and SIGTERM: in a process of its own each, which ends politely and soon."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import pytest

from netcore import BehaviorAgent, ConnectionSender, NetworkBehavior, Node
from netcore._backend import BackendName
from support.nodes import DEADLINE_S
from support.processes import Child, Processes, processes
from tools.chaos.victim import open_fds

#: From the signal to the end of the process on a busy machine, the interpreter's own end included.
SOON_S = 2.0
LONG_MS = 3_600_000

TraceFunction = Callable[[FrameType, str, Any], Any]

#: A node that says when it is stopped; it does nothing by itself for hours.
PROGRAM = """
import signal, sys, threading
from netcore import NetworkBehavior, Node

def say(text):
    print(text, flush=True)

class Talker(NetworkBehavior):
    service_id = 1
    def on_started(self, agent):
        say("started")
    def on_stopped(self, agent):
        say("stopped")

node = Node(1, [Talker()], tick_ms=3_600_000)

def run():
    node.post(say, "running")
    node.run()
"""

RUN = """
with node:
    run()
say("left")
"""

#: The node listens, and a neighbour in a second process would not help: one that never reads.
RUN_WITH_A_DEAF_PEER = """
import socket
with node:
    port = node.listen("/ip4/127.0.0.1/tcp/0").endpoints[0].port
    peer = socket.create_connection(("127.0.0.1", port))
    hello = (b"NETC\\x01\\x01\\x01\\x00\\x00" + bytes([0, 0, 0, 9]) + b"\\xff" * 4 + bytes(8)
             + bytes(4) + b"\\x00\\x10\\x00\\x00" + bytes(36))
    peer.sendall(b"\\x08" + len(hello).to_bytes(3, "big") + hello + b"\\x09\\x00\\x00\\x00")
    while not node.connections:
        node.poll(1)
    run()
peer.close()
say("left")
"""

POLL = """
try:
    with node:
        node.post(say, "polling")
        while True:
            node.poll(None)
except KeyboardInterrupt:
    say("interrupted")
"""

STOP_TWICE = """
with node:
    for _ in range(2):
        run()
        say("ended")
say("left")
"""

RESTORE = """
def mine(number, frame):
    say("mine")

signal.signal(signal.SIGINT, mine)
signal.signal(signal.SIGTERM, signal.SIG_IGN)
fd_before = signal.set_wakeup_fd(-1)
with node:
    node.post(node.stop)
    node.run()
    assert signal.getsignal(signal.SIGINT) is mine
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
    assert signal.set_wakeup_fd(-1) == fd_before == -1
    node.post(lambda: 1 / 0)
    def leave():
        raise SystemExit(7)
    node.post(leave)
    try:
        node.run()
    except SystemExit:
        pass
    assert signal.getsignal(signal.SIGINT) is mine
    assert signal.set_wakeup_fd(-1) == -1
say("left")
"""

THREAD = """
default = signal.getsignal(signal.SIGINT)
done = threading.Event()  # a join that was interrupted takes the thread for dead (bpo-45274)
def run_in_thread():
    node.run()
    done.set()
threading.Thread(target=run_in_thread).start()
ready = threading.Event()
node.post(ready.set)
ready.wait()
assert signal.getsignal(signal.SIGINT) is default
assert signal.set_wakeup_fd(-1) == -1
try:
    say("running")
    while not done.wait(0.05):
        pass
except KeyboardInterrupt:
    say("interrupted")
node.stop()
done.wait()
node.close()
"""

EXIT_IN_A_HOOK = """
def leave():
    raise SystemExit(5)
with node:
    node.post(leave)
    node.run()
"""


@pytest.fixture
def world() -> Iterator[Processes]:
    with processes() as world:
        yield world


def start(world: Processes, backend: BackendName, ending: str, *said: str) -> Child:
    """Start a program and wait until it has said these lines."""
    child = world.script(backend, PROGRAM + ending)
    for line in said:
        assert child.read() == line
    return child


def ends_soon(child: Child, number: signal.Signals) -> int:
    """Send a signal; return the exit code, which must be there soon."""
    begin = time.monotonic()
    child.signal(number)
    code = child.wait(DEADLINE_S)
    assert time.monotonic() - begin < SOON_S
    return code


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_while_waiting_without_a_timer_ends_run(
    world: Processes, backend: BackendName, number: signal.Signals
) -> None:
    child = start(world, backend, RUN, "started", "running")
    assert ends_soon(child, number) == 0
    assert [child.read(), child.read()] == ["stopped", "left"]
    assert child.errors() == ""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_with_a_neighbour_that_does_not_answer_ends_run_in_bounded_time(
    world: Processes, backend: BackendName, number: signal.Signals
) -> None:
    child = start(world, backend, RUN_WITH_A_DEAF_PEER, "started", "running")
    begin = time.monotonic()
    child.signal(number)
    assert child.wait() == 0
    assert time.monotonic() - begin < SOON_S + 1.0  # a second for the neighbour
    assert [child.read(), child.read()] == ["stopped", "left"]


def test_second_signal_while_closing_shortens_it(world: Processes, backend: BackendName) -> None:
    slow = RUN_WITH_A_DEAF_PEER.replace("    run()\n", "    run()\n    node.close(60)\n")
    wait = (
        "from netcore import goodbye\n"
        "wait = goodbye._await_neighbours\n"
        "goodbye._await_neighbours = lambda *a, **k: (say('closing'), wait(*a, **k))\n"
    )
    slow = slow.replace("with node:", wait + "with node:")
    child = start(world, backend, slow, "started", "running")
    child.signal(signal.SIGINT)
    assert child.read() == "closing"
    assert ends_soon(child, signal.SIGINT) == -signal.SIGINT
    assert child.read() == "stopped"
    assert "KeyboardInterrupt" in child.errors()


def test_run_ended_by_a_signal_can_run_again(world: Processes, backend: BackendName) -> None:
    child = start(world, backend, STOP_TWICE, "started", "running")
    child.signal(signal.SIGINT)
    assert [child.read(), child.read()] == ["ended", "running"]
    assert ends_soon(child, signal.SIGTERM) == 0
    assert [child.read() for _ in range(3)] == ["ended", "stopped", "left"]


def test_handlers_are_restored_after_run(world: Processes, backend: BackendName) -> None:
    child = start(world, backend, RESTORE, "started", "stopped", "left")
    assert child.wait() == 0
    assert "ZeroDivisionError" in child.errors()


def test_interrupt_of_a_poll_comes_out_of_it(world: Processes, backend: BackendName) -> None:
    child = start(world, backend, POLL, "started", "polling")
    assert ends_soon(child, signal.SIGINT) == 0
    assert [child.read(), child.read()] == ["stopped", "interrupted"]
    assert child.errors() == ""


def test_run_in_another_thread_leaves_signals_alone(world: Processes, backend: BackendName) -> None:
    child = start(world, backend, THREAD, "started", "running")
    assert ends_soon(child, signal.SIGINT) == 0, child.errors()
    assert [child.read(), child.read()] == ["interrupted", "stopped"]


def test_exit_out_of_a_hook_is_the_exit_code_of_the_process(
    world: Processes, backend: BackendName
) -> None:
    child = start(world, backend, EXIT_IN_A_HOOK, "started", "stopped")
    assert child.wait() == 5


def test_run_in_this_process_restores_handlers_when_stopped_by_another_thread(
    backend: BackendName,
) -> None:
    if threading.current_thread() is not threading.main_thread():
        pytest.skip("the tests run in another thread")
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with Node(1, tick_ms=LONG_MS, backend=backend) as node:
        stopper = threading.Thread(target=node.stop)
        node.post(stopper.start)
        node.run()
        stopper.join()
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


class Interruption:
    """Sends SIGINT to this process at one of the lines that netcore comes by."""

    def __init__(self, at: int) -> None:
        self.at = at
        self.lines = 0

    def trace(self, frame: FrameType, event: str, arg: object) -> TraceFunction | None:
        if f"{os.sep}netcore{os.sep}" not in frame.f_code.co_filename:
            return None
        self.lines += event == "line"
        if event == "line" and self.lines == self.at:
            signal.raise_signal(signal.SIGINT)
        return self.trace


class Farewell(NetworkBehavior):
    """Notes its end and that of its links."""

    service_id = 1

    def __init__(self) -> None:
        self.ends: list[str] = []

    def on_incoming_connection_disconnected(
        self, agent: BehaviorAgent, conn: ConnectionSender
    ) -> None:
        self.ends.append("link")

    on_outgoing_connection_disconnected = on_incoming_connection_disconnected

    def on_stopped(self, agent: BehaviorAgent) -> None:
        self.ends.append("stopped")


def close_interrupted_at(backend: BackendName, at: int) -> tuple[bool, list[str], bool, bool]:
    """Close a node with a link, twice, with a SIGINT at that line of the first time."""
    farewell, interruption, raised = Farewell(), Interruption(at), False
    with Node(2, backend=backend) as other:
        node = Node(1, [farewell], backend=backend)
        node.connect(other.listen("/ip4/127.0.0.1/tcp/0"))
        while not (node.connections and other.connections):
            node.poll(0)
            other.poll(0)
        before = sys.gettrace()
        sys.settrace(interruption.trace)
        try:
            node.close(0)
        except KeyboardInterrupt:
            raised = True
        finally:
            sys.settrace(before)
        node.close(0)
        end = time.monotonic() + DEADLINE_S
        while other.connections and time.monotonic() < end:
            other.poll(0.01)
        return raised, farewell.ends, bool(other.connections), interruption.lines >= at


def test_interrupt_at_any_line_of_close_leaves_nothing_half_done(backend: BackendName) -> None:
    """The node was closed for whoever closed it again, and its links stayed up.

    Their neighbors waited for a second to be told, and descriptors were left behind.
    """
    handler, fds = signal.getsignal(signal.SIGINT), open_fds()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        at, was_there = 1, True
        while was_there:
            raised, ends, is_linked, was_there = close_interrupted_at(backend, at)
            assert raised == was_there, at
            assert (ends, is_linked) == (["link", "stopped"], False), at
            at += 1 + at // 40  # at the start all of them
    finally:
        signal.signal(signal.SIGINT, handler)
    assert at > 100
    assert open_fds() == fds


def test_block_that_an_interrupt_ends_does_not_wait_for_a_deaf_neighbor(
    backend: BackendName,
) -> None:
    begins: list[float] = []

    def live(other: Node) -> None:
        with Node(1, backend=backend) as node:
            node.connect(other.listen("/ip4/127.0.0.1/tcp/0"))
            while not (node.connections and other.connections):
                node.poll(0)
                other.poll(0)
            begins.append(time.monotonic())
            raise KeyboardInterrupt

    with Node(2, backend=backend) as other:
        with pytest.raises(KeyboardInterrupt):
            live(other)
        assert time.monotonic() - begins[0] < 0.9  # it waits for a second else


def test_many_signals_are_as_good_as_one(world: Processes, backend: BackendName) -> None:
    """A full wake-up pair must neither block nor complain."""
    flood = (
        PROGRAM
        + """
import os
def again():
    for _ in range(50):
        signal.raise_signal(signal.SIGINT)
with node:
    node.post(again)
    node.run()
say("left")
"""
    )
    child = world.script(backend, flood)
    assert [child.read() for _ in range(3)] == ["started", "stopped", "left"]
    assert child.wait() == 0
    assert child.errors() == ""
