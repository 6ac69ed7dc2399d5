"""The command line: arguments, info, keygen, and what ``netcore node`` is made of."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

import netcore
from netcore import (
    BehaviorAgent,
    MemoryNetwork,
    MemoryTransport,
    Message,
    NetworkBehavior,
    Node,
    NodeAddr,
    _backend,
)
from netcore.__main__ import main, make_parser
from netcore.cli import CommandError, info
from netcore.cli.node import free_service, read_secrets
from netcore.cli.node_services import Dialer, Echo
from netcore.cli.screen import Screen

# -- arguments -----------------------------------------------------------------------------------


def test_command_missing_exits_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main([])
    assert caught.value.code == 2
    assert "COMMAND" in capsys.readouterr().err


def test_help_lists_the_commands_but_not_the_workers(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    text = capsys.readouterr().out
    assert all(f"\n    {name} " in text for name in ("info", "keygen", "node", "demo"))
    assert "worker" not in text


def test_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out == f"netcore {netcore.__version__}\n"


def test_listen_takes_several_addresses_in_both_ways() -> None:
    options = make_parser().parse_args(
        ["node", "--id", "1", "--listen", "/a", "/b", "--listen", "/c"]
    )
    assert options.listen == ["/a", "/b", "/c"]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--id", "1"], "give --listen or --connect, or both"),
        (["--id", "1", "--listen", "/ip4/x"], "bad address '/ip4/x'"),
        (["--id", "-1", "--listen", "/memory/a"], "a node id is an int in"),
        (["--id", "1", "--listen", "/ip4/0.0.0.0/tcp/0"], "give --secret-file"),
        (["--id", "1", "--listen", "/memory/a", "--call", "x"], "--call-service"),
        (["--id", "1", "--listen", "/memory/a", "--call-node", "2"], "--call TEXT"),
        (["--id", "1", "--listen", "/memory/a", "--secret-file", "/no/file"], "/no/file"),
    ],
)
def test_node_with_bad_arguments_exits_with_2_and_one_line(
    arguments: list[str], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["node", *arguments]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith("netcore node: ")
    assert text in err


@pytest.mark.parametrize("seconds", ["0.5", "121", "nan", "soon"])
def test_demo_with_senseless_seconds_exits_with_2(
    seconds: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["demo", "--seconds", seconds])
    assert caught.value.code == 2
    assert "argument --seconds" in capsys.readouterr().err


# -- info ----------------------------------------------------------------------------------------


def test_info_as_json_has_every_limit(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["backend"] == netcore.BACKEND
    assert found["limits"]["write_high_bytes"] == 1 << 20
    assert set(found["limits"]) == set(netcore.NodeConfig.__dataclass_fields__) - {
        "node_id",
        "secret",
    }


def test_info_as_text_shows_limits_in_readable_units(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info"]) == 0
    assert re.search(r"write_high_bytes +1048576  1 MiB\n", capsys.readouterr().out)


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("dead_ms", 10_000, "10 s"),
        ("dead_ms", 1_500, "1.5 s"),
        ("dead_ms", 200, ""),
        ("read_budget_bytes", 262_144, "256 KiB"),
        ("read_budget_bytes", 16 << 20, "16 MiB"),
        ("read_budget_bytes", 1_000, ""),
        ("max_links", 16_384, ""),
    ],
)
def test_limit_is_shown_in_the_unit_of_its_name(name: str, value: int, text: str) -> None:
    assert info.readable(name, value) == text


@pytest.mark.parametrize(
    ("backend", "switch", "text"),
    [
        ("fast", "", "compiled kernels"),
        ("fast", "0", "compiled kernels, demanded by NETCORE_PURE=0"),
        ("pure", "1", "asked for by NETCORE_PURE=1"),
    ],
)
def test_reason_for_the_backend_names_the_switch(backend: str, switch: str, text: str) -> None:
    assert info.why_backend(backend, {"NETCORE_PURE": switch}) == text


def test_reason_for_the_backend_names_the_missing_module(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(name: str) -> None:
        raise ModuleNotFoundError("No module named 'netcore._fast.codec'")

    monkeypatch.setattr(_backend, "load", load)
    assert info.why_backend("pure", {}).endswith("No module named 'netcore._fast.codec'")


# -- keygen and secrets --------------------------------------------------------------------------


def test_keygen_prints_32_random_bytes_in_hex(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["keygen"]) == main(["keygen"]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert re.fullmatch("[0-9a-f]{64}", first)
    assert first != second


def test_keygen_into_a_file_makes_it_private(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "secret"
    assert main(["keygen", "--out", str(file)]) == 0
    assert file.stat().st_mode & 0o777 == 0o600
    assert re.fullmatch("[0-9a-f]{64}\n", file.read_text("ascii"))
    assert file.read_text("ascii").strip() not in capsys.readouterr().out


def test_keygen_never_overwrites(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "secret"
    file.write_text("precious")
    assert main(["keygen", "--out", str(file)]) == 2
    assert file.read_text() == "precious"
    assert "exists already" in capsys.readouterr().err


def test_secret_file_holds_a_secret_per_line(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text("\n the new one \nthe old one\n\n")
    file.chmod(0o600)
    assert read_secrets(file) == ["the new one", "the old one"]


def test_secret_file_without_a_secret_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text("\n")
    with pytest.raises(CommandError, match="is empty"):
        read_secrets(file)


def test_secret_file_that_others_can_read_is_warned_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "secret"
    file.write_text("a secret")
    file.chmod(0o644)
    read_secrets(file)
    assert "others can read" in capsys.readouterr().err


# -- screen --------------------------------------------------------------------------------------


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "20")
    monkeypatch.delenv("NO_COLOR", raising=False)
    return Terminal()


def test_screen_redraws_its_lines_below_what_stays(terminal: Terminal) -> None:
    screen = Screen(terminal)
    screen.show(["a", "b"])
    screen.say("stays")
    screen.close()
    assert terminal.getvalue() == "a\nb\n" + "\x1b[2F\x1b[Jstays\na\nb\n" + "\x1b[2F\x1b[J"


def test_screen_cuts_redrawn_lines_to_the_width(terminal: Terminal) -> None:
    Screen(terminal).show(["x" * 50])
    assert terminal.getvalue() == "x" * 19 + "\n"


def test_screen_colors_what_stays(terminal: Terminal) -> None:
    Screen(terminal).say("well done", "good")
    assert terminal.getvalue() == "\x1b[32mwell done\x1b[0m\n"


def test_screen_with_no_color_has_none(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    Screen(terminal).say("well done", "good")
    assert terminal.getvalue() == "well done\n"


@pytest.mark.parametrize("case", ["pipe", "plain", "dumb"])
def test_screen_without_a_terminal_prints_what_stays_only(
    case: str, terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    if case == "dumb":
        monkeypatch.setenv("TERM", "dumb")
    out = io.StringIO() if case == "pipe" else terminal
    screen = Screen(out, plain=case == "plain")
    screen.show(["a"])
    screen.say("stays", "bold")
    assert out.getvalue() == "stays\n"


# -- the services of a node ----------------------------------------------------------------------


def test_free_service_is_the_highest_not_taken() -> None:
    assert free_service([239, 238, 7]) == 237


class World:
    """Nodes in one process, on one clock that only moves when told to."""

    def __init__(self) -> None:
        self.now_ms = 0
        self.network = MemoryNetwork()
        self.nodes: list[Node] = []
        self.said: list[str] = []

    def node(self, node_id: int, *behaviors: NetworkBehavior) -> Node:
        node = Node(
            node_id,
            behaviors,
            transports=[MemoryTransport(self.network)],
            clock_ms=lambda: self.now_ms,
            rng=Random(node_id),
        )
        self.nodes.append(node)
        return node

    def dialler(self, node_id: int, addr: str) -> Dialer:
        return Dialer(239, [NodeAddr.parse(addr)], self.said.append)

    def run(self, ms: int) -> list[str]:
        """Let time pass; return what was said meanwhile."""
        self.said.clear()
        for _ in range(ms):
            self.now_ms += 1
            for node in self.nodes:
                for _ in range(4):
                    node.poll(0)
        return list(self.said)

    def end(self, node: Node) -> None:
        self.nodes.remove(node)
        node.close()


@pytest.fixture
def world() -> Iterator[World]:
    world = World()
    yield world
    for node in world.nodes:
        node.close()


def test_dialer_keeps_its_link(world: World) -> None:
    world.node(1, world.dialler(1, "/memory/b"))
    assert world.run(500) == []
    for _ in range(2):
        other = world.node(2)
        other.listen("/memory/b")
        assert world.run(3_000) == ["link up: node 2 at /memory/b"]
        world.end(other)
        assert world.run(100) == ["link down: node 2 at /memory/b"]


def test_dialer_leaves_what_fails_to_the_log(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.node(1, world.dialler(1, "/memory/b"))
    assert world.run(2_000) == []
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith("node 1 cannot reach /memory/b: nobody answers there")


def test_two_dialers_of_each_other_have_one_link(world: World) -> None:
    world.node(1, world.dialler(1, "2@/memory/b")).listen("/memory/a")
    world.node(2, world.dialler(2, "1@/memory/a")).listen("/memory/b")
    said = world.run(60_000)
    assert len(said) == 2
    assert all(line.startswith("link up") for line in said)


def test_dialer_after_its_end_is_silent(world: World) -> None:
    dialer = world.dialler(1, "/memory/b")
    world.node(1, dialer)
    world.run(100)
    dialer.end()
    assert world.run(60_000) == []


class Caller(NetworkBehavior):
    """Sends one message to the echo of node 2, and keeps what comes back."""

    service_id = 5

    def __init__(self) -> None:
        self.got: list[tuple[bytes, int]] = []

    def on_message(self, agent: BehaviorAgent, message: Message) -> None:
        self.got.append((message.payload, message.stream_id))


def test_echo_sends_back_what_came(world: World) -> None:
    caller = Caller()
    node = world.node(1, caller, world.dialler(1, "/memory/b"))
    world.node(2, Echo(10, world.said.append)).listen("/memory/b")
    world.run(100)
    node.agent(5).send_to_node(2, b"hello", to_service=10, stream_id=7)
    assert world.run(100) == ["service 10: message of node 1: b'hello'"]
    assert caller.got == [(b"hello", 7)]


def test_echo_does_not_answer_another_echo(world: World) -> None:
    echo = Echo(10, world.said.append)
    node = world.node(1, echo, world.dialler(1, "/memory/b"))
    world.node(2, Echo(10, world.said.append)).listen("/memory/b")
    world.run(100)
    node.agent(10).send_to_node(2, b"hello")
    assert world.run(100) == [
        "service 10: message of node 1: b'hello'",
        "service 10: message of node 2: b'hello'",
    ]


def test_echo_shows_the_beginning_of_a_long_payload(world: World) -> None:
    node = world.node(1, Echo(10, world.said.append))
    node.agent(10).send_local(b"x" * 1_000, meta=1)
    (said,) = world.run(10)
    assert said.endswith("x' and 800 bytes more")
