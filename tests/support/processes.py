"""Nodes in processes of their own, told what to do by lines of JSON.

Run as a script it is such a process: ``processes.py NODE_ID OPTIONS``, the options a JSON object
for ``Node``. Each line on stdin is an object with a "do"; the answer is one line on stdout.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import netcore
from netcore import (
    BehaviorAgent,
    CallAnswer,
    Message,
    NetworkBehavior,
    Node,
    RouteRule,
    RpcAnswer,
    RpcRequest,
)
from netcore._backend import BackendName

DEADLINE_S = 40.0
REPO = Path(netcore.__file__).resolve().parents[1]

ECHO = 10
PROBE = 11
ADDER = 20


# -- the parent's side ---------------------------------------------------------------------------


def environment(backend: BackendName) -> dict[str, str]:
    """Return the environment of a process that uses this backend and this tree."""
    return {
        **os.environ,
        "NETCORE_PURE": "1" if backend == "pure" else "0",
        "PYTHONPATH": os.pathsep.join([str(REPO), str(REPO / "tests")]),
        "PYTHONWARNINGS": "error",
    }


class Child:
    """A process that talks in lines."""

    def __init__(self, backend: BackendName, *args: str, **options: Any) -> None:
        self.process: subprocess.Popen[bytes] = subprocess.Popen(
            [sys.executable, *args],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment(backend),
            **options,
        )
        self._buffer = b""

    def write(self, line: str) -> None:
        """Tell it one line."""
        assert self.process.stdin is not None
        self.process.stdin.write(line.encode() + b"\n")
        self.process.stdin.flush()

    def read(self) -> str:
        """Return the next line that it says."""
        assert self.process.stdout is not None
        fd = self.process.stdout.fileno()
        end = time.monotonic() + DEADLINE_S
        while b"\n" not in self._buffer:
            ready = select.select([fd], [], [], max(0.0, end - time.monotonic()))[0]
            assert ready, "the process says nothing"
            data = os.read(fd, 65_536)
            assert data, f"the process ended: {self.errors()}"
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line.decode()

    def errors(self) -> str:
        """Return what an ended process wrote to stderr."""
        assert self.process.stderr is not None
        return self.process.stderr.read().decode()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to it, and to nobody else."""
        self.process.send_signal(number)

    def wait(self, timeout_s: float = DEADLINE_S) -> int:
        """Return its exit code."""
        return self.process.wait(timeout_s)

    def close(self) -> None:
        """End it, however it is."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            if pipe is not None:
                with suppress(BrokenPipeError):
                    pipe.close()


class NodeProcess(Child):
    """A node in a process."""

    def __init__(self, node_id: int, backend: BackendName, **options: Any) -> None:
        super().__init__(backend, __file__, str(node_id), json.dumps(options))
        self.node_id = node_id
        self.hello = json.loads(self.read())

    def ask(self, do: str, **fields: object) -> Any:
        """Tell it what to do; return what it says to that."""
        self.write(json.dumps({"do": do, **fields}))
        answer = json.loads(self.read())
        assert "error" not in answer, answer["error"]
        return answer["value"]

    def kill(self) -> None:
        """End it as a power cut would."""
        self.process.kill()
        self.process.wait()


class Processes:
    """The processes of one test."""

    def __init__(self) -> None:
        self.all: list[Child] = []

    def node(self, node_id: int, backend: BackendName, **options: Any) -> NodeProcess:
        """Start a node."""
        process = NodeProcess(node_id, backend, **options)
        self.all.append(process)
        return process

    def script(self, backend: BackendName, code: str, *args: str) -> Child:
        """Start a program that is given as text."""
        child = Child(backend, "-c", code, *args)
        self.all.append(child)
        return child

    @staticmethod
    def until(condition: Callable[[], object]) -> None:
        """Ask again and again until the condition holds."""
        end = time.monotonic() + DEADLINE_S
        while not condition():
            assert time.monotonic() < end, "it did not happen in time"
            select.select([], [], [], 0.005)

    def close(self) -> None:
        for child in self.all:
            child.close()


@contextmanager
def processes() -> Iterator[Processes]:
    """End all processes of a test with it."""
    each = Processes()
    try:
        yield each
    finally:
        each.close()


# -- the process's side --------------------------------------------------------------------------


class Echo(NetworkBehavior):
    """Sends everything back."""

    service_id = ECHO

    def on_message(self, agent: BehaviorAgent, message: Message) -> None:
        agent.reply(message, message.payload)


class Adder(NetworkBehavior):
    """Adds numbers."""

    service_id = ADDER

    def on_rpc(self, agent: BehaviorAgent, req: RpcRequest, res: RpcAnswer) -> bool:
        res.ok(str(sum(map(int, req.payload.split()))).encode())
        return True


class Probe(NetworkBehavior):
    """Keeps what comes back."""

    service_id = PROBE

    def __init__(self) -> None:
        self.back: list[bytes] = []

    def on_message(self, agent: BehaviorAgent, message: Message) -> None:
        self.back.append(message.payload)


class Worker:
    """A node that does what it is told."""

    def __init__(self, node_id: int, options: dict[str, Any]) -> None:
        self.probe = Probe()
        self.node = Node(node_id, [Echo(), self.probe, Adder()], **options)
        self.agent = self.node.agent(PROBE)

    def do(self, command: dict[str, Any]) -> None:
        """Carry out one command, on the node's thread."""
        action: Callable[..., object] = getattr(self, "do_" + command.pop("do"))
        try:
            say(value=action(**command))
        except Exception as exc:
            say(error=repr(exc))

    def do_listen(self, addr: str) -> str:
        return str(self.node.listen(addr))

    def do_keep(self, addr: str) -> None:
        """Dial, and dial again whenever that link ends."""
        self.agent.connect_to(addr, keep=True)

    def do_links(self) -> list[int]:
        return sorted(c.remote_node_id for c in self.node.connections if not c.closing)

    def do_next_hop(self, to: int) -> int | None:
        action = self.node.router.path_to_node(to)
        return action.node_id if action.is_next else None

    def do_send(self, to: int, texts: list[str]) -> None:
        for text in texts:
            self.agent.send_to_node(to, text.encode(), to_service=ECHO)

    def do_back(self) -> list[str]:
        return [payload.decode() for payload in self.probe.back]

    def do_forget(self) -> None:
        self.probe.back.clear()

    def do_call(self, to: int, text: str) -> None:
        """Call; the answer is kept like an echo."""

        def on_done(answer: CallAnswer) -> None:
            self.probe.back.append(answer.payload if answer.ok else repr(answer.error).encode())

        self.agent.call(RouteRule.node(to), ADDER, text.encode(), on_done)

    def do_fds(self) -> int:
        return len(os.listdir("/dev/fd"))

    def do_stats(self) -> dict[str, object]:
        return self.node.stats().as_dict()


def say(**fields: object) -> None:
    """Answer the parent."""
    sys.stdout.write(json.dumps(fields) + "\n")
    sys.stdout.flush()


def main() -> None:
    """Be a node until the parent closes stdin."""
    worker = Worker(int(sys.argv[1]), json.loads(sys.argv[2]))

    def read() -> None:
        for line in sys.stdin:
            worker.node.post(worker.do, json.loads(line))
        worker.node.stop()

    with worker.node as node:
        reader = threading.Thread(target=read, daemon=True)
        reader.start()
        say(pid=os.getpid(), backend=node.backend)
        node.run()


if __name__ == "__main__":
    main()
