"""The ``netcore`` command: argument parsing only; what the commands do is in ``netcore.cli``."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from netcore import NetcoreError, TlsFiles, __version__
from netcore.cli import CommandError
from netcore.cli.certs import DEFAULT_CA_DAYS, DEFAULT_NODE_DAYS, run_init, run_issue
from netcore.cli.demo import run_demo
from netcore.cli.demo_scenario import Settings
from netcore.cli.demo_worker import run_worker
from netcore.cli.info import run_info
from netcore.cli.keygen import run_keygen
from netcore.cli.node import CallOptions, NodeOptions, run_node
from netcore.config import SECURITY_LEVELS

__all__ = ["main", "make_parser"]

Run = Callable[[argparse.Namespace], int]

MAX_DAYS = 36_500


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: Without the program's name; None: those of the process.

    Returns:
        The exit code: 0 success, 1 the demo found something wrong, 2 an error, 130 Ctrl-C.
    """
    options = make_parser().parse_args(arguments)
    run: Run = options.run
    try:
        return run(options)
    except (CommandError, NetcoreError, OSError) as exc:
        print(f"netcore {options.command}: {exc}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"netcore {options.command}: interrupted", file=sys.stderr)
        return 130


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    parser = argparse.ArgumentParser(
        prog="netcore", description="Nodes that reach each other by id, key and service."
    )
    parser.add_argument("--version", action="version", version=f"netcore {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    _add_info(commands.add_parser("info", help="say what runs here: version, backend, limits"))
    _add_keygen(commands.add_parser("keygen", help="make a secret for the nodes of a network"))
    _add_certs(commands.add_parser("certs", help="make certificates for the nodes of a network"))
    _add_node(commands.add_parser("node", help="run one node until Ctrl-C, or make one call"))
    _add_demo(commands.add_parser("demo", help="run six nodes, kill one, check every message"))
    # Without a help text it is not listed: it is the demo's own.
    commands.add_parser("demo-worker").set_defaults(run=lambda options: run_worker())
    return parser


def _add_info(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print it for programs")
    parser.set_defaults(run=lambda options: run_info(as_json=options.json))


def _add_keygen(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, metavar="FILE", help="put it into a new file, 0600")
    parser.set_defaults(run=lambda options: run_keygen(options.out))


def _add_certs(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    init = actions.add_parser("init", help="make the authority: ca.pem and ca.key")
    init.add_argument("--name", default="netcore cluster", help="for people (%(default)s)")
    init.set_defaults(
        run=lambda options: run_init(options.dir, options.name, options.days),
    )
    issue = actions.add_parser("issue", help="make certificates: node-ID.pem and node-ID.key")
    issue.add_argument("ids", type=int, nargs="+", metavar="ID", help="node ids")
    issue.set_defaults(
        run=lambda options: run_issue(options.dir, options.ids, options.days),
    )
    for action, days in ((init, DEFAULT_CA_DAYS), (issue, DEFAULT_NODE_DAYS)):
        action.add_argument("--dir", type=Path, default=Path("certs"), metavar="DIR",
            help="where the files are (%(default)s)")  # fmt: skip
        action.add_argument("--days", type=_days, default=days, metavar="N",
            help="how long they are valid (%(default)s)")  # fmt: skip


def _days(text: str) -> int:
    value = int(text)
    if not 1 <= value <= MAX_DAYS:
        raise argparse.ArgumentTypeError(f"{text} is not in 1..{MAX_DAYS} days")
    return value


def _add_node(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--id", type=int, required=True, metavar="N", help="node id, 0..2**32 - 2")
    add("--listen", action="extend", nargs="+", default=[], metavar="ADDR",
        help="accept links there, for example /ip4/127.0.0.1/tcp/4000")  # fmt: skip
    add("--connect", action="extend", nargs="+", default=[], metavar="ADDR",
        help="keep a link to it, for example 1@/ip4/127.0.0.1/tcp/4000")  # fmt: skip
    add("--secret-file", type=Path, metavar="F", help="the network's secret (else NETCORE_SECRET)")
    add("--service", type=int, action="append", default=[], metavar="N",
        help="echo messages and answer calls on this service id")  # fmt: skip
    add("--tls-ca", type=Path, metavar="F", help="TLS: certificates of the network's authority")
    add("--tls-cert", type=Path, metavar="F", help="TLS: this node's certificate")
    add("--tls-key", type=Path, metavar="F", help="TLS: its key (netcore certs makes all three)")
    add("--min-security", choices=SECURITY_LEVELS, metavar="LEVEL",
        help="do not run with less: open, auth or tls")  # fmt: skip
    add("--insecure", action="store_true", help="listen beyond loopback without secret and TLS")
    add(
        "--stats-every",
        type=_seconds(0.001, 86_400),
        metavar="S",
        help="print the counters every S seconds",
    )
    add(
        "--routes-every",
        type=_seconds(0.001, 86_400),
        metavar="S",
        help="print every S seconds where messages go, and why",
    )
    add("-v", "--verbose", action="count", default=0, help="log more; twice: everything")
    add("--call", metavar="TEXT", help="call a service, print the answer, and end")
    add("--call-service", type=int, metavar="N", help="the service to call")
    add("--call-node", type=int, metavar="ID", help="on this node; else the nearest offering it")
    add(
        "--timeout",
        type=_seconds(0.001, 86_400),
        default=10.0,
        metavar="S",
        help="of the call (%(default)s)",
    )
    parser.set_defaults(run=_run_node)


def _run_node(options: argparse.Namespace) -> int:
    return run_node(
        NodeOptions(
            node_id=options.id,
            listen=options.listen,
            connect=options.connect,
            secret_file=options.secret_file,
            services=options.service,
            tls=_tls_files(options),
            min_security=options.min_security,
            insecure=options.insecure,
            stats_every_s=options.stats_every,
            routes_every_s=options.routes_every,
            log_level=(logging.WARNING, logging.INFO, logging.DEBUG)[min(options.verbose, 2)],
            call=_call_options(options),
        )
    )


def _tls_files(options: argparse.Namespace) -> TlsFiles | None:
    files = (options.tls_ca, options.tls_cert, options.tls_key)
    if not any(files):
        return None
    if not all(files):
        raise CommandError("TLS needs all of --tls-ca, --tls-cert and --tls-key")
    return TlsFiles(*files)


def _call_options(options: argparse.Namespace) -> CallOptions | None:
    if options.call is None and options.call_service is None and options.call_node is None:
        return None
    if options.call is None or options.call_service is None:
        raise CommandError("a call needs both --call TEXT and --call-service N")
    return CallOptions(
        text=options.call,
        service_id=options.call_service,
        node_id=options.call_node,
        timeout_s=options.timeout,
    )


def _add_demo(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--seconds", type=_seconds(1, 120), default=10.0, metavar="S",
        help="of traffic, 1..120 (%(default)s); starting and ending come on top")  # fmt: skip
    add("--seed", type=int, default=1, metavar="N", help="of the keys used (%(default)s)")
    add("--plain", action="store_true", help="no redrawing and no colors")
    add("--backend", choices=("fast", "pure"), help="kernels to use (default: as for any node)")
    add("--freeze", action="store_true", help="let the relay hang before it dies")
    add(
        "--deadline",
        type=_seconds(0.001, 86_400),
        metavar="S",
        help="give up after this (60 + --seconds)",
    )
    parser.set_defaults(run=_run_demo)


def _run_demo(options: argparse.Namespace) -> int:
    settings = Settings(
        seconds=options.seconds,
        seed=options.seed,
        backend=options.backend,
        deadline_s=options.deadline or 60 + options.seconds,
        freeze=options.freeze,
    )
    return run_demo(settings, plain=options.plain)


def _seconds(lowest: float, highest: float) -> Callable[[str], float]:
    """Return what reads a number of seconds in this range."""

    def seconds(text: str) -> float:
        value = float(text)
        if not lowest <= value <= highest:
            raise argparse.ArgumentTypeError(f"{text} is not in {lowest:g}..{highest:g} seconds")
        return value

    return seconds


if __name__ == "__main__":
    sys.exit(main())
