"""Lab: network namespaces and the links between them, gone when it is closed.

Facts first:

- A namespace is called ``netlab-PID-START-NAME``: whose it is, and when that process began, so that
  a pid used again is not taken for the owner. What an owner left behind that is no more (SIGKILL, a
  crash) is removed when the next lab opens, or by ``python -m tools.netlab clean``.
- Removing a namespace removes its devices, both ends of a cable, and the rules of nftables there.
  Processes in it have to be ended first: it lives as long as they do.
- Addresses are 10.88.x.y, two for each link, and exist in the namespaces only. Nothing outside of
  them is touched.
- A link without a shape is a pair of veth devices; one with a shape is a pair of TUN devices with a
  process between them (``wire.py``).
"""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, final

from .shape import Counts, Shape

__all__ = ["Lab", "LabError", "Link", "Space", "remove_stale", "spaces", "why_not"]

PREFIX: Final = "netlab"
REPO: Final = Path(__file__).resolve().parents[2]
MAX_LINKS: Final = 16_000  # 10.88.0.0/16, four addresses each
#: What ``ip``, ``nft`` or the start of a link's process may take, on a machine with other work.
PATIENCE_S: Final = 30.0
_NAMES: Final = Path("/run/netns")


class LabError(Exception):
    """The lab could not be built: a command failed, or a process of it ended."""


def _run(*command: str, stdin: str | None = None) -> str:
    done = subprocess.run(
        command, input=stdin, capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    if done.returncode:
        raise LabError(f"{' '.join(command)}: {done.stderr.strip() or done.returncode}")
    return done.stdout


# -- whether it can be done ----------------------------------------------------------------------


def why_not() -> str | None:
    """Return why there can be no lab here, None: there can. It tries, and leaves nothing behind."""
    if not sys.platform.startswith("linux"):
        return "network namespaces need Linux"
    if os.geteuid() != 0:
        return "network namespaces need root"
    for command in ("ip", "nft"):
        if shutil.which(command) is None:
            return f"{command} is not installed (packages iproute2, nftables)"
    if not os.access("/dev/net/tun", os.R_OK | os.W_OK):
        return "/dev/net/tun is not there"
    try:
        with Lab() as lab:
            one, two = lab.space("try1"), lab.space("try2")
            lab.link(one, two)
            _run("ip", "-n", one.name, "tuntap", "add", "mode", "tun", "name", "try")
            one.drop("iifname lo")
    except (LabError, OSError, subprocess.TimeoutExpired) as error:
        return f"a namespace cannot be set up: {error}"
    return None


# -- what is there -------------------------------------------------------------------------------


def _start_of(pid: int) -> int | None:
    """Return when a process began, in ticks since boot; None: there is none."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    return int(stat.rpartition(")")[2].split()[19])  # field 22, counted from behind the name


def spaces() -> dict[str, bool]:
    """Return the namespaces of all labs: name -> whether the lab's process still lives."""
    found = {}
    for name in sorted(os.listdir(_NAMES)) if _NAMES.is_dir() else ():
        prefix, _, rest = name.partition("-")
        numbers = rest.split("-", 2)
        if prefix == PREFIX and len(numbers) == 3 and all(n.isdigit() for n in numbers[:2]):
            found[name] = _start_of(int(numbers[0])) == int(numbers[1])
    return found


def remove_stale() -> list[str]:
    """Remove what labs left behind whose process is gone; return the names."""
    stale = [name for name, is_alive in spaces().items() if not is_alive]
    for name in stale:
        with suppress(LabError):  # somebody else may be removing it too
            _remove(name)
    return stale


def _remove(name: str) -> None:
    """End the processes in a namespace, then remove it."""
    give_up = time.monotonic() + PATIENCE_S
    while pids := _run("ip", "netns", "pids", name).split():
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        if time.monotonic() > give_up:
            raise LabError(f"processes in {name} do not end: {' '.join(pids)}")
        time.sleep(0.01)
    _run("ip", "netns", "del", name)


# -- the parts -----------------------------------------------------------------------------------


@final
class Space:
    """A network namespace, with its own loopback.

    Attributes:
        name: As ``ip netns`` knows it.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._devices = 0

    def inside(self, command: Sequence[str]) -> list[str]:
        """Return a command that runs another one in here, with its own pid."""
        return ["ip", "netns", "exec", self.name, *command]

    def run(self, *command: str, stdin: str | None = None) -> str:
        """Run a command in here, and return what it printed.

        Raises:
            LabError: It failed.
        """
        return _run(*self.inside(command), stdin=stdin)

    def popen(self, command: Sequence[str], cwd: Path | None = None) -> subprocess.Popen[bytes]:
        """Start a process in here, with pipes; what is left of it when the lab closes is killed."""
        return subprocess.Popen(
            self.inside(command), stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=cwd
        )

    def drop(self, *matches: str) -> None:
        """Drop arriving packets without a word, all that match any of these from one moment on.

        Args:
            matches: As nftables says it, for example "ip saddr 127.0.5.1" or "iifname lo".
        """
        rules = [
            "add table inet netlab",
            "add chain inet netlab input { type filter hook input priority 0; }",
            *(f"add rule inet netlab input {match} counter drop" for match in matches),
        ]
        self.run("nft", "-f", "-", stdin="\n".join(rules) + "\n")

    def undrop(self) -> None:
        """Let everything through again."""
        self.run("nft", "-f", "-", stdin="add table inet netlab\ndelete table inet netlab\n")

    def new_device(self) -> str:
        """Return a name for a device that is about to be made in here."""
        self._devices += 1
        return f"to{self._devices}"


@dataclass(frozen=True)
class End:
    """One end of a link."""

    space: Space
    device: str
    addr: str


@final
class Link:
    """A link between two namespaces.

    Attributes:
        a: The end in the first.
        b: The end in the second.
    """

    def __init__(self, a: End, b: End, process: subprocess.Popen[bytes] | None) -> None:
        self.a = a
        self.b = b
        self._process = process

    def cut(self, *, one_way: bool = False) -> None:
        """Drop everything, silently; with ``one_way`` only what goes from a to b."""
        for end in (self.b,) if one_way else (self.b, self.a):
            end.space.drop(f"iifname {end.device}")

    def heal(self) -> None:
        """Undo ``cut``, of this link and of all others at the same namespaces."""
        for end in (self.a, self.b):
            end.space.undrop()

    def set_shape(self, there: Shape, back: Shape | None = None) -> None:
        """Change the shape, of packets from a to b and of those from b to a.

        Raises:
            LabError: The link has none: it is a cable.
        """
        self._ask({"there": asdict(there), "back": asdict(back or there)})

    def counts(self) -> tuple[Counts, Counts]:
        """Return what became of the packets from a to b, and of those from b to a.

        Raises:
            LabError: The link has no shape.
        """
        answer = self._ask({})
        return Counts(**answer["there"]), Counts(**answer["back"])

    def _ask(self, what: Mapping[str, object]) -> dict[str, dict[str, int]]:
        process = self._process
        if process is None:
            raise LabError("a link without a shape is a cable: it can be cut, nothing else")
        assert process.stdin is not None
        process.stdin.write(json.dumps(what).encode() + b"\n")
        process.stdin.flush()
        return _read_line(process)

    def close(self) -> None:
        """End the process of the link, if it has one."""
        process = self._process
        if process is not None:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    with suppress(BrokenPipeError):
                        pipe.close()


def _read_line(process: subprocess.Popen[bytes]) -> dict[str, dict[str, int]]:
    """Return what a link's process says next; it says one line at a time."""
    assert process.stdout is not None
    if not select.select([process.stdout], [], [], PATIENCE_S)[0]:
        raise LabError("the process of a link says nothing")
    line = process.stdout.readline()
    if not line:
        raise LabError(f"the process of a link ended ({process.wait()})")
    answer: dict[str, dict[str, int]] = json.loads(line)
    return answer


# -- the whole -----------------------------------------------------------------------------------


@final
class Lab:
    """Namespaces and links, removed at the end of the ``with`` block, whatever ended it.

    Args:
        seed: Of losses and jitter.
    """

    def __init__(self, seed: int = 0) -> None:
        self._seed = seed
        self._owner = f"{PREFIX}-{os.getpid()}-{_start_of(os.getpid())}-{id(self):x}"
        self._spaces: list[Space] = []
        self._links: list[Link] = []

    def __enter__(self) -> Lab:
        remove_stale()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Remove everything; what is gone already does not matter."""
        while self._links:
            self._links.pop().close()
        while self._spaces:
            name = self._spaces.pop().name
            if (_NAMES / name).exists():
                _remove(name)

    def space(self, name: str) -> Space:
        """Make a namespace.

        Args:
            name: A word that says what it is for; it becomes a part of its name.

        Raises:
            LabError: It cannot be made.
        """
        space = Space(f"{self._owner}-{name}")
        self._spaces.append(space)  # first: Ctrl-C may come in between
        _run("ip", "netns", "add", space.name)
        _run("ip", "-n", space.name, "link", "set", "lo", "up")
        return space

    def link(
        self, a: Space, b: Space, there: Shape | None = None, back: Shape | None = None
    ) -> Link:
        """Connect two namespaces.

        Args:
            a: The one.
            b: The other.
            there: What happens to packets from a to b; None: a cable, as fast as the machine.
            back: The same from b to a; None: as ``there``.

        Returns:
            The link; its ends say the addresses.

        Raises:
            LabError: It cannot be made.
        """
        number = len(self._links)
        if number >= MAX_LINKS:
            raise LabError(f"a lab has at most {MAX_LINKS} links")
        base = f"10.88.{number // 64}"
        ends = [
            End(space, space.new_device(), f"{base}.{number % 64 * 4 + at}")
            for at, space in ((1, a), (2, b))
        ]
        if there is None:
            _join(*ends)
        for end in ends:
            if there is not None:
                _ip(end, "tuntap", "add", "mode", "tun", "name", end.device)
            _ip(end, "addr", "add", f"{end.addr}/30", "dev", end.device)
            _ip(end, "link", "set", end.device, "up")
        process = None if there is None else self._start_wire(ends, there, back or there)
        link = Link(ends[0], ends[1], process)
        self._links.append(link)
        if process is not None and _read_line(process) != {}:
            raise LabError("the process of a link says something odd")
        return link

    def _start_wire(
        self, ends: Sequence[End], there: Shape, back: Shape
    ) -> subprocess.Popen[bytes]:
        named = [word for end in ends for word in (end.space.name, end.device)]
        shapes = json.dumps({"there": asdict(there), "back": asdict(back)})
        seed = str(self._seed * MAX_LINKS + len(self._links))
        return subprocess.Popen(
            [sys.executable, "-m", "tools.netlab.wire", *named, shapes, seed],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=REPO,
        )


def _ip(end: End, *words: str) -> None:
    _run("ip", "-n", end.space.name, *words)


def _join(a: End, b: End) -> None:
    _run(
        "ip", "link", "add", a.device, "netns", a.space.name, "type", "veth",
        "peer", "name", b.device, "netns", b.space.name,
    )  # fmt: skip
