"""Let a node suffer and measure what it costs: ``python -m tools.chaos SCENARIO``.

    python -m tools.chaos list              what there is
    python -m tools.chaos reader --help     the options of one scenario

A scenario shows how far it is, ends with a table of figures, and with status 1 when something that
must hold did not. docs/reliability.md has the figures and says what they mean.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence

from netcore.cli.screen import Screen

from .scenario import SCENARIOS, Scenario, Table


def main(argv: Sequence[str] | None = None) -> int:
    """Run what the arguments ask for."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.chaos",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("scenario", choices=("list", *SCENARIOS))
    parser.add_argument("options", nargs=argparse.REMAINDER, help="of the scenario")
    given = parser.parse_args(argv)
    if given.scenario == "list":
        for name in SCENARIOS:
            print(f"{name:12} {summary(load(name))}")
        return 0
    return run(given.scenario, given.options)


def load(name: str) -> Scenario:
    """Return the module of a scenario; the others are not imported."""
    module: Scenario = importlib.import_module(f"{__package__}.{SCENARIOS[name]}")
    return module


def summary(scenario: Scenario) -> str:
    """Return the first line of what a scenario says about itself."""
    return (scenario.__doc__ or "").partition("\n")[0]


def run(name: str, arguments: Sequence[str]) -> int:
    """Run one scenario; return the exit status."""
    scenario = load(name)
    parser = argparse.ArgumentParser(
        prog=f"python -m tools.chaos {name}",
        description=scenario.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    scenario.add_options(parser)
    options = parser.parse_args(list(arguments))
    table = Table(summary(scenario))
    with Screen() as screen:
        try:
            scenario.run(options, screen, table)
        finally:
            screen.show(())
            table.print_to(screen)
    return 0 if table.holds else 1


if __name__ == "__main__":
    sys.exit(main())
