"""Show or remove what labs left behind: ``python -m tools.netlab [show|clean|check]``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from .lab import remove_stale, spaces, why_not


def main(argv: Sequence[str] | None = None) -> int:
    """Do it, and say what was done."""
    parser = argparse.ArgumentParser(prog="python -m tools.netlab", description=__doc__)
    parser.add_argument(
        "do",
        nargs="?",
        choices=("show", "clean", "check"),
        default="show",
        help="show the namespaces of all labs (default); clean: remove those whose process is "
        "gone; check: say whether a lab can be built here",
    )
    do = parser.parse_args(argv).do
    if do == "check":
        reason = why_not()
        print(reason or "a lab can be built here")
        return 0 if reason is None else 1
    if do == "clean":
        for name in remove_stale():
            print(f"removed {name}")
        return 0
    for name, is_alive in spaces().items():
        print(f"{name}  {'in use' if is_alive else 'left behind'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
