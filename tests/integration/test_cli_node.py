"""``netcore node`` as users run it: processes, real sockets, signals."""

from __future__ import annotations

import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from netcore import _backend
from support.cli import Command, run_command

LOOPBACK = "/ip4/127.0.0.1/tcp/0"


def address_in(line: str) -> str:
    """Return the address in "node 1 (fast) listens at 1@/ip4/..."."""
    return line.rpartition(" ")[2]


@pytest.fixture
def secret_file(tmp_path: Path) -> Path:
    file = tmp_path / "secret"
    file.write_text("00112233445566778899aabbccddeeff\n", "ascii")
    file.chmod(0o600)
    return file


@pytest.fixture
def refused_addr() -> Iterator[str]:
    """Return an address that refuses: its port is bound, so nobody else gets it, but not open."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"/ip4/127.0.0.1/tcp/{bound.getsockname()[1]}"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_node_ends_well_on_a_signal(
    tmp_path: Path, backend: _backend.BackendName, number: signal.Signals
) -> None:
    with Command("node", "--id", "1", "--listen", LOOPBACK, cwd=tmp_path, backend=backend) as node:
        node.line_with("listens at")
        node.send(number)
        code, out, err = node.finish()
    assert (code, err) == (0, "")
    assert out == "node 1: links none; sent 0, delivered 0, relayed 0, dropped 0\n"


def test_node_prints_its_routes_and_why(tmp_path: Path, backend: _backend.BackendName) -> None:
    with Command(
        "node", "--id", "1", "--listen", LOOPBACK, "--service", "10", cwd=tmp_path, backend=backend
    ) as one:
        addr = address_in(one.line_with("listens at"))
        with Command(
            "node", "--id", "2", "--connect", addr, "--routes-every", "0.05",
            cwd=tmp_path, backend=backend,
        ) as two:  # fmt: skip
            two.line_with("node 2 knows no way to anybody")
            assert two.line_with("node 1: ").startswith("node 1: over node 1, score ")
            assert two.line_with("over 1: ").endswith(": best")
            assert two.line_with("service 10: ").startswith("service 10: over node 1, score ")
            two.send(signal.SIGINT)
            assert two.finish()[0] == 0


def test_call_is_answered_over_a_relay(
    tmp_path: Path, secret_file: Path, backend: _backend.BackendName
) -> None:
    secret = ("--secret-file", str(secret_file))
    with Command(
        "node", "--id", "1", "--listen", LOOPBACK, *secret, cwd=tmp_path, backend=backend
    ) as relay:
        addr = address_in(relay.line_with("listens at"))
        with Command(
            "node", "--id", "2", "--connect", addr, "--service", "10", *secret,
            cwd=tmp_path, backend=backend,
        ) as callee:  # fmt: skip
            callee.line_with("link up: node 1 at")
            code, out, err = run_command(
                "node", "--id", "3", "--connect", addr, *secret,
                "--call", "grüezi", "--call-service", "10", "--call-node", "2",
                cwd=tmp_path, backend=backend,
            )  # fmt: skip
            heard = callee.line_with("service 10")
    assert code == 0, err
    assert out.startswith("grüezi  (")
    assert heard == f"service 10: call of node 3: {'grüezi'.encode()!r}"


def test_call_of_a_service_nobody_offers_fails_with_one_line(
    tmp_path: Path, backend: _backend.BackendName
) -> None:
    with Command("node", "--id", "1", "--listen", LOOPBACK, cwd=tmp_path, backend=backend) as node:
        addr = address_in(node.line_with("listens at"))
        code, out, err = run_command(
            "node", "--id", "2", "--connect", addr,
            "--call", "x", "--call-service", "10", "--call-node", "1",
            cwd=tmp_path, backend=backend,
        )  # fmt: skip
    assert (code, out) == (2, "")
    assert err.endswith("netcore node: call failed with code 1: node has no service 10\n")


def test_node_with_another_secret_is_told_so(tmp_path: Path, secret_file: Path) -> None:
    backend = _backend.BACKEND
    with Command(
        "node", "--id", "1", "--listen", LOOPBACK, "--secret-file", str(secret_file),
        cwd=tmp_path, backend=backend,
    ) as node:  # fmt: skip
        addr = address_in(node.line_with("listens at"))
        with Command(
            "node", "--id", "2", "--connect", addr, cwd=tmp_path, backend=backend,
            NETCORE_SECRET="quite another secret, long enough",
        ) as stranger:  # fmt: skip
            line = stranger.line_with("cannot reach")
    assert "authentication failed" in line


def test_dial_that_fails_is_told(tmp_path: Path, refused_addr: str) -> None:
    with Command(
        "node", "--id", "2", "--connect", refused_addr, cwd=tmp_path, backend=_backend.BACKEND
    ) as node:
        line = node.line_with("cannot reach")
    assert f"node 2 cannot reach {refused_addr}: nobody answers there: " in line
    assert line.endswith("; it will be dialled again")


def test_node_dials_again_when_a_link_ends(tmp_path: Path) -> None:
    backend = _backend.BACKEND
    path = f"/unix/{tmp_path / 'node.sock'}"
    with Command("node", "--id", "2", "--connect", path, cwd=tmp_path, backend=backend) as dialler:
        dialler.line_with("cannot reach")
        for _ in range(2):
            with Command(
                "node", "--id", "1", "--listen", path, cwd=tmp_path, backend=backend
            ) as node:
                dialler.line_with("link up: node 1")
                node.send(signal.SIGTERM)
                node.finish()
            dialler.line_with("link down: node 1")


def test_node_prints_its_counters_regularly(tmp_path: Path) -> None:
    with Command(
        "node", "--id", "1", "--listen", LOOPBACK, "--stats-every", "0.01",
        cwd=tmp_path, backend=_backend.BACKEND,
    ) as node:  # fmt: skip
        lines = [node.line_with("links none") for _ in range(3)]
    assert lines == ["node 1: links none; sent 0, delivered 0, relayed 0, dropped 0"] * 3


def test_node_with_a_port_in_use_fails_with_one_line(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        addr = f"/ip4/127.0.0.1/tcp/{taken.getsockname()[1]}"
        code, out, err = run_command(
            "node", "--id", "1", "--listen", addr, cwd=tmp_path, backend=_backend.BACKEND
        )
    assert (code, out) == (2, "")
    assert err == f"netcore node: cannot listen at {addr}: Address already in use\n"


@pytest.mark.parametrize("services", [("240",), ("3", "3")])
def test_node_with_impossible_services_fails_with_one_line(
    tmp_path: Path, services: tuple[str, ...]
) -> None:
    options = [part for service in services for part in ("--service", service)]
    code, out, err = run_command(
        "node", "--id", "1", "--listen", LOOPBACK, *options, cwd=tmp_path, backend=_backend.BACKEND
    )
    assert (code, out) == (2, "")
    assert err.startswith("netcore node: ")
    assert err.count("\n") == 1


def test_call_over_tls_with_certificates_of_the_command(
    tmp_path: Path, backend: _backend.BackendName
) -> None:
    assert run_command("certs", "init", cwd=tmp_path, backend=backend)[0] == 0
    code, out, err = run_command("certs", "issue", "1", "2", cwd=tmp_path, backend=backend)
    assert (code, err) == (0, "")
    one_runs, two_runs = (line.split()[1:] for line in out.splitlines())
    with Command(
        *one_runs, "--listen", LOOPBACK, "--service", "10", "--min-security", "tls",
        cwd=tmp_path, backend=backend,
    ) as one:  # fmt: skip
        addr = address_in(one.line_with("listens at"))
        call = ("--connect", addr, "--call", "hello", "--call-service", "10", "--call-node", "1")
        code, out, err = run_command(*two_runs, *call, cwd=tmp_path, backend=backend)
        assert out.startswith("hello  ("), err
        code, _, err = run_command(
            "node", "--id", "2", *call, "--timeout", "0.5", cwd=tmp_path, backend=backend
        )
        assert code == 2
        assert "found no way" in err
        one.send(signal.SIGINT)
        assert one.finish()[0] == 0


def test_node_below_its_min_security_does_not_run(
    tmp_path: Path, backend: _backend.BackendName
) -> None:
    code, _, err = run_command(
        "node", "--id", "1", "--listen", LOOPBACK, "--min-security", "auth",
        cwd=tmp_path, backend=backend,
    )  # fmt: skip
    assert code == 2
    assert "min_security is 'auth'" in err
