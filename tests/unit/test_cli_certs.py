"""``netcore certs``: an authority and certificates, in two commands."""

from __future__ import annotations

import os
import stat
import sys
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from cryptography import x509

from netcore import Node, TlsFiles
from netcore.__main__ import main
from netcore._backend import BackendName
from support.nodes import nodes_of


def run(*arguments: object) -> int:
    return main(["certs", *map(str, arguments)])


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Return a directory with an authority."""
    home = tmp_path / "certs"
    assert run("init", "--dir", home) == 0
    return home


def mode_of(file: Path) -> int:
    return stat.S_IMODE(file.stat().st_mode)


def load(file: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(file.read_bytes())


def node_files(home: Path, node_id: int) -> TlsFiles:
    return TlsFiles(home / "ca.pem", home / f"node-{node_id}.pem", home / f"node-{node_id}.key")


def test_two_commands_make_a_cluster(home: Path, backend: BackendName) -> None:
    assert run("issue", 1, 2, 4294967294, "--dir", home) == 0
    with nodes_of(backend) as nodes:
        one = nodes.add(1, tls=node_files(home, 1), min_security="tls")
        nodes.join(one, nodes.add(2, tls=node_files(home, 2)))
        nodes.join(nodes.add(4294967294, tls=node_files(home, 4294967294)), one)


def test_keys_are_private_and_certificates_are_not(tmp_path: Path) -> None:
    previous = os.umask(0)
    try:
        assert run("init", "--dir", tmp_path / "c") == run("issue", 1, "--dir", tmp_path / "c") == 0
    finally:
        os.umask(previous)
    modes = {file.name: mode_of(file) for file in (tmp_path / "c").iterdir()}
    assert modes == {"ca.pem": 0o644, "ca.key": 0o600, "node-1.pem": 0o644, "node-1.key": 0o600}
    assert mode_of(tmp_path / "c") == 0o700


def test_certificates_say_what_they_are_for(home: Path) -> None:
    assert run("issue", 7, "--dir", home, "--days", 3) == 0
    ca, node = load(home / "ca.pem"), load(home / "node-7.pem")
    constraints = ca.extensions.get_extension_for_class(x509.BasicConstraints)
    assert (constraints.critical, constraints.value.ca, constraints.value.path_length) == (
        True,
        True,
        0,
    )
    assert not node.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    names = node.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert list(names) == [x509.UniformResourceIdentifier("netcore:node/7")]
    now = datetime.now(timezone.utc)
    assert now - timedelta(hours=1) < node.not_valid_before_utc < now
    assert now < node.not_valid_after_utc < now + timedelta(days=3, minutes=1)
    assert ca.not_valid_after_utc > now + timedelta(days=3_600)
    node.verify_directly_issued_by(ca)


def test_issue_prints_how_to_run_the_node(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert run("issue", 7, "--dir", home) == 0
    line = capsys.readouterr().out
    assert line == (
        f"netcore node --id 7 --tls-ca {home}/ca.pem --tls-cert {home}/node-7.pem "
        f"--tls-key {home}/node-7.key\n"
    )


@pytest.mark.parametrize("name", ["ca.pem", "ca.key"])
def test_init_overwrites_nothing(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / name).write_text("precious", "ascii")
    assert run("init", "--dir", tmp_path) == 2
    assert f"{name} exists already" in capsys.readouterr().err
    assert [file.name for file in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text("ascii") == "precious"


@pytest.mark.parametrize("name", ["node-2.pem", "node-2.key"])
def test_issue_overwrites_nothing_and_then_makes_nothing(
    home: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (home / name).symlink_to(home / "nowhere")  # not even through a link that leads nowhere
    assert run("issue", 1, 2, "--dir", home) == 2
    assert f"{name} exists already" in capsys.readouterr().err
    assert {file.name for file in home.iterdir()} == {"ca.pem", "ca.key", name}


def test_pair_is_written_whole_or_not_at_all(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # Somebody else takes the second name between the check and the writing.
    from netcore.cli import certs

    monkeypatch.setattr(certs, "_refuse_existing", lambda files: None)
    (home / "node-1.pem").write_text("precious", "ascii")
    assert run("issue", 1, "--dir", home) == 2
    assert "exists already" in capsys.readouterr().err
    assert not (home / "node-1.key").exists()
    assert (home / "node-1.pem").read_text("ascii") == "precious"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--", -1), "-1 is no node id"),
        ((1, 2**32 - 1), "4294967295 is no node id"),
        ((1, "--days", 3_650), "is valid for 3649 days: give --days"),
    ],
)
def test_issue_refuses_what_makes_no_sense(
    home: Path,
    arguments: tuple[object, ...],
    words: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run("issue", "--dir", home, *arguments) == 2
    assert words in capsys.readouterr().err
    assert {file.name for file in home.iterdir()} == {"ca.pem", "ca.key"}


@pytest.mark.parametrize("days", ["0", "36501", "x"])
def test_days_are_a_number_in_reason(days: str, tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        run("init", "--dir", tmp_path, "--days", days)


def test_issue_without_an_authority_says_what_makes_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("issue", 1, "--dir", tmp_path) == 2
    assert "`netcore certs init` makes it" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["ca.pem", "ca.key"])
def test_issue_with_a_broken_authority_is_an_error(
    home: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (home / name).write_text("nothing", "ascii")
    assert run("issue", 1, "--dir", home) == 2
    assert "are not what certs init makes" in capsys.readouterr().err


def test_issue_with_the_key_of_another_authority_is_an_error(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("init", "--dir", tmp_path / "other") == 0
    (tmp_path / "other" / "ca.key").replace(home / "ca.key")
    assert run("issue", 1, "--dir", home) == 2
    assert "is not the key of" in capsys.readouterr().err


def test_issue_warns_of_a_key_that_others_can_read(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (home / "ca.key").chmod(0o644)
    assert run("issue", 1, "--dir", home) == 0
    assert f"chmod 600 {home / 'ca.key'}" in capsys.readouterr().err


@pytest.mark.parametrize("action", [("init",), ("issue", "1")])
def test_missing_extra_is_said_in_one_line(
    action: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "cryptography"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "cryptography", None)
    assert run(*action, "--dir", tmp_path) == 2
    assert "pip install 'netcore[tls]'" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_tls_options_come_all_three_or_none(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["node", "--id", "1", "--listen", "/memory/x", "--tls-ca", "ca.pem"]
    assert main(arguments) == 2
    assert "all of --tls-ca, --tls-cert and --tls-key" in capsys.readouterr().err


def test_node_needs_no_cryptography(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run("issue", 1, "--dir", home) == 0
    monkeypatch.setitem(sys.modules, "cryptography", None)
    with Node(1, tls=node_files(home, 1)) as node:
        assert node.config.security == "tls"
