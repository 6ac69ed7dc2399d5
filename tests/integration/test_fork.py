"""A fork copies a node; only the parent may go on using it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from netcore._backend import BackendName
from support.processes import Processes, processes

#: Two linked nodes in one process; ``turn`` turns both.
PROGRAM = """
import os, sys, threading, time, warnings
from netcore import *
from support.nodes import ADDER, ANY, ECHO, SINK, Nodes, linked

warnings.simplefilter("ignore", DeprecationWarning)  # of os.fork, when there are threads

def say(text):
    print(text, flush=True)

def wait_for(pid):
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

nodes = Nodes(BACKEND)
one, two = nodes.add(1, {options}), nodes.add(2, {options})

def still_works():
    assert linked(one, two)
    assert nodes.send_until_echoed(one, 2, [b"x" * 5000] * 3) == [b"x" * 5000] * 3
    assert nodes.send_until_echoed(two, 1, [b"y"]) == [b"y"]
    for node in (one, two):
        stats = node.stats()
        assert (stats.links_closed, stats.protocol_errors, stats.hook_errors) == (0, 0, 0), stats
"""


@pytest.fixture
def world() -> Iterator[Processes]:
    with processes() as world:
        yield world


def run(world: Processes, backend: BackendName, code: str, options: str = "") -> None:
    """Run a program that says "done" last."""
    program = PROGRAM.replace("{options}", options) + code + "\nnodes.close()\nsay('done')\n"
    child = world.script(backend, program)
    assert child.read() == "done"
    assert child.wait() == 0, child.errors()


@pytest.mark.parametrize("options", ["", "secret='a secret of 23 bytes ok'"], ids=["open", "auth"])
@pytest.mark.parametrize(
    "ending", ["os._exit(3)", "sys.exit(3)", "one.close(); two.close(); sys.exit(3)"]
)
def test_link_survives_a_child_that_ends(
    world: Processes, backend: BackendName, options: str, ending: str
) -> None:
    code = f"""
nodes.join(one, two)
still_works()
pid = os.fork()
if not pid:
    {ending}
assert wait_for(pid) == 3
nodes.settle(20)
still_works()
"""
    run(world, backend, code, options)


def test_every_use_in_a_child_raises_and_reaches_nobody(
    world: Processes, backend: BackendName
) -> None:
    code = """
from netcore import BehaviorAgent, HandlerRoute
nodes.join(one, two)
still_works()
agent, sender = one.agent(SINK), nodes.sinks[one].up[0]
message = nodes.sinks[one].messages[0]
before = len(nodes.sinks[two].messages)
uses = {
    "poll": lambda: one.poll(0),
    "run": one.run,
    "listen": lambda: one.listen(ANY),
    "connect": lambda: one.connect("3@/ip4/127.0.0.1/tcp/1"),
    "forget": lambda: one.forget("3@/ip4/127.0.0.1/tcp/1"),
    "post": lambda: one.post(print),
    "fileno": one.fileno,
    "next_deadline_ms": one.next_deadline_ms,
    "call": lambda: one.call(RouteRule.node(2), ADDER, b"1"),
    "wait_connected": lambda: one.wait_connected(2, 0),
    "wait_route": lambda: one.wait_route(RouteRule.node(2)),
    "send": lambda: agent.send(RouteRule.node(2), b"x"),
    "send_to_node": lambda: agent.send_to_node(2, b"x"),
    "send_to_key": lambda: agent.send_to_key(2, b"x"),
    "send_to_service": lambda: agent.send_to_service(SINK, b"x"),
    "send_local": lambda: agent.send_local(b"x"),
    "send_to_conn": lambda: agent.send_to_conn(sender.conn_id, b"x"),
    "reply": lambda: agent.reply(message, b"x"),
    "agent.call": lambda: agent.call(RouteRule.node(2), ADDER, b"1", print),
    "call_later": lambda: agent.call_later(0, print),
    "connect_to": lambda: agent.connect_to("3@/ip4/127.0.0.1/tcp/1"),
    "agent.forget": lambda: agent.forget("3@/ip4/127.0.0.1/tcp/1"),
    "close_conn": lambda: agent.close_conn(sender.conn_id),
    "close_node": lambda: agent.close_node(2),
    "send_to_handler": lambda: agent.send_to_handler(HandlerRoute.node(2), None),
    "conn.send": lambda: sender.send(b"x"),
    "conn.close": sender.close,
}
pid = os.fork()
if not pid:
    wrong = []
    for name, use in uses.items():
        try:
            use()
        except ForkedNodeError:
            continue
        except BaseException as exc:
            wrong.append((name, repr(exc)))
        else:
            wrong.append((name, "nothing"))
    one.stop()
    one.close()
    one.stats(), one.connections, repr(one)
    if wrong:
        print(wrong, file=sys.stderr, flush=True)
    os._exit(bool(wrong))
assert wait_for(pid) == 0
nodes.settle(20)
assert len(nodes.sinks[two].messages) == before
still_works()
"""
    run(world, backend, code)


def test_fork_inside_a_hook_ends_the_childs_run(world: Processes, backend: BackendName) -> None:
    """What the parent received with the same read must be delivered in the parent only."""
    code = """
parent = os.getpid()
pids = []
class Forker(NetworkBehavior):
    service_id = 33
    seen = 0
    def on_message(self, agent, message):
        self.seen += 1
        if os.getpid() != parent and self.seen > 1:
            os.write(2, b"delivered in the child")
            os._exit(1)
        if self.seen == 1:
            pid = os.fork()
            if pid:
                pids.append(pid)
forker = Forker()
three = nodes.add(3, forker)
nodes.join(one, three)
for i in range(200):
    one.agent(SINK).send_to_node(3, b"x" * (i * 10), to_service=33)
try:
    nodes.until(lambda: forker.seen == 200)
except ForkedNodeError:
    os._exit(4)
assert wait_for(pids[0]) == 4
assert three.stats().links_closed == 0
nodes.join(one, two)
"""
    run(world, backend, code)


def test_fork_while_dialling_and_listening_leaves_both_to_the_parent(
    world: Processes, backend: BackendName
) -> None:
    code = """
addr = two.listen(ANY)
one.connect(addr)
one.poll(0)  # under way
two.poll(0)
pid = os.fork()
if not pid:
    sys.exit(3)
assert wait_for(pid) == 3
nodes.until(lambda: linked(one, two))
still_works()
pid = os.fork()
if not pid:
    # The copies of the listening sockets are closed here, so the parent's end is the end.
    assert len(os.listdir("/dev/fd")) <= 5, os.listdir("/dev/fd")
    os._exit(3)
assert wait_for(pid) == 3
"""
    run(world, backend, code)


def test_child_makes_a_node_of_its_own_and_reaches_its_parent(
    world: Processes, backend: BackendName
) -> None:
    code = """
addr = str(two.listen(ANY))
nodes.join(one, two)
pid = os.fork()
if not pid:
    with Node(7) as mine:
        mine.connect(addr)
        mine.wait_route(RouteRule.node(1))
        os._exit(0 if mine.call(RouteRule.node(1), ADDER, b"40 2") == b"42" else 1)
ended = []
threading.Thread(target=lambda: ended.append(wait_for(pid))).start()
nodes.until(lambda: ended)
assert ended == [0]
nodes.until(lambda: len(two.connections) == 1)
assert linked(one, two)
"""
    run(world, backend, code)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_multiprocessing_leaves_the_parents_link_alone(
    world: Processes, backend: BackendName, method: str
) -> None:
    code = f"""
import multiprocessing
context = multiprocessing.get_context("{method}")
nodes.join(one, two)
workers = [context.Process(target=os.getpid) for _ in range(3)]
for worker in workers:
    worker.start()
ended = []
for worker in workers:
    worker.join()
    ended.append(worker.exitcode)
assert ended == [0, 0, 0], ended
nodes.settle(20)
still_works()
"""
    run(world, backend, code)


def test_multiprocessing_child_that_uses_the_parents_node_fails(
    world: Processes, backend: BackendName
) -> None:
    code = """
import multiprocessing
context = multiprocessing.get_context("fork")
nodes.join(one, two)
def use():
    try:
        one.agent(SINK).send_to_node(2, b"x")
    except ForkedNodeError:
        sys.exit(9)
worker = context.Process(target=use)
worker.start()
worker.join()
assert worker.exitcode == 9
nodes.settle(20)
still_works()
assert nodes.sinks[two].payloads == [b"y"]
"""
    run(world, backend, code)


def test_fork_by_another_thread_while_the_node_waits(
    world: Processes, backend: BackendName
) -> None:
    code = """
addr = str(one.listen(ANY))
nodes.all.remove(one)
thread = threading.Thread(target=one.run)
thread.start()
two.connect(addr)
nodes.until(lambda: two.connections)
pid = os.fork()
if not pid:
    try:
        one.poll(0)
    except ForkedNodeError:
        os._exit(3)
    os._exit(1)
assert wait_for(pid) == 3
nodes.until(lambda: two.router.path_to_node(1).is_next)
assert nodes.send_until_echoed(two, 1, [b"y"]) == [b"y"]
one.stop()
thread.join()
one.close()
"""
    run(world, backend, code)


def test_closed_node_is_not_touched_in_a_child(world: Processes, backend: BackendName) -> None:
    code = """
one.poll(0)
one.close()
pid = os.fork()
if not pid:
    try:
        one.poll(0)
    except ForkedNodeError:
        os._exit(1)
    except NodeClosedError:
        os._exit(3)
assert wait_for(pid) == 3
"""
    run(world, backend, code)
