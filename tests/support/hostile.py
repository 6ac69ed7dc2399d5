"""Every method of every kernel class with arguments that nobody should give. A program of its own.

``python hostile.py fast|pure NOTE`` calls everything that reflection finds; a new class or method
is covered at once. What is about to be called is in the file NOTE, for whoever finds this process
dead; what raised something else than it may is printed at the end.
"""

from __future__ import annotations

import contextlib
import faulthandler
import importlib
import inspect
import logging
import mmap
import pkgutil
import random
import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

from netcore import RouteRule, _backend
from netcore.errors import NetcoreError, NodeClosedError
from tools.fuzz.rig import LIMITS, NODE, Dice, Rig, Wire

NOTE_BYTES = 4_096
RANDOM_CALLS = 40


class Evil(Exception):
    """What evil arguments raise; it must come out, and nothing else must happen."""


def _evil(*_: object, **__: object) -> Any:
    raise Evil


def quiet(*_: object) -> None:
    """Do nothing, for whoever calls it."""


class EvilInt(int):
    """An int that cannot be compared or converted."""

    __index__ = __int__ = __lt__ = __le__ = __gt__ = __ge__ = __eq__ = __hash__ = _evil
    __and__ = __lshift__ = __rshift__ = __or__ = __repr__ = __str__ = __bool__ = _evil


class EvilBytes(bytes):
    """Bytes that lie about themselves."""

    __iter__ = __bytes__ = __getitem__ = __eq__ = __hash__ = __add__ = __repr__ = _evil

    def __len__(self) -> int:
        return 1 << 40


class EvilText(str):
    """Text that cannot be encoded."""

    encode = __eq__ = __hash__ = __repr__ = __str__ = __len__ = _evil


class EvilIndex:
    """Stands for a number, and does not give it."""

    __index__ = _evil


class HugeIndex:
    """Stands for a number that fits nowhere."""

    def __index__(self) -> int:
        return 1 << 70


class EvilThing:
    """Has every attribute, and all of them raise."""

    def __getattribute__(self, name: str) -> Any:
        raise Evil

    __call__ = __len__ = __iter__ = __bool__ = __eq__ = __hash__ = _evil


class Odd(int):
    """A well-behaved int that is not exactly an int."""


#: The errors that a wrong argument may cause, and what the arguments themselves raise.
ALLOWED = (TypeError, ValueError, OverflowError, NetcoreError, Evil)
#: What Python itself says of an attribute that cannot be written or read; Cython of one deleted.
OF_ATTRIBUTES = (*ALLOWED, AttributeError, NotImplementedError)
ATTRIBUTE_METHODS = ("__setattr__", "__delattr__")
NEVER = (RecursionError,)

#: What is inherited from object and only asks Python itself, or ends the process by design.
SKIPPED = {
    "__class__", "__new__", "__init_subclass__", "__subclasshook__", "__dir__", "__getattribute__",
    "__doc__", "__module__", "__sizeof__", "__pyx_vtable__", "__test__", "__annotations__",
    "__abstractmethods__", "__weakref__", "__dict__",
}  # fmt: skip


def evil_values(kernels: ModuleType) -> list[Any]:
    """Return arguments of all kinds, half-built objects of every class among them."""
    released = memoryview(bytearray(8))
    released.release()
    values: list[Any] = [
        None, True, -1, 0, 1, 255, 256, (1 << 31), (1 << 32) - 1, (1 << 63) - 1, 1 << 63,
        (1 << 64) - 1, 1 << 64, 1 << 70, -(1 << 70), 1.5, float("nan"), "", "x", "\ud800", b"",
        b"x" * 37, bytearray(b"abc"), memoryview(b"abcdef")[::2], released, [], {}, (), (1, 2),
        object(), int, _evil, EvilInt(3), EvilBytes(b"abc"), EvilText("abc"), EvilIndex(),
        HugeIndex(), EvilThing(), Odd(3), RouteRule.closest(1),
    ]  # fmt: skip
    for cls in classes(kernels):
        half = half_built(cls)
        if half is not None:
            values.append(half)
    return values


def classes(kernels: ModuleType) -> list[type]:
    """Return every class that the modules of a backend define, exported or not."""
    found: dict[str, type] = {}
    for module in modules(kernels):
        for name, value in vars(module).items():
            own = isinstance(value, type) and value.__module__ == module.__name__
            if own and is_seen(kernels, name):
                found[f"{module.__name__}.{name}"] = value
    return list(found.values())


def is_seen(kernels: ModuleType, name: str) -> bool:
    """Whether a name is attacked: of the pure kernels, which cannot crash, only what is public."""
    return kernels.NAME == "fast" or name in kernels.__all__


def modules(kernels: ModuleType) -> list[ModuleType]:
    """Return the modules of a backend."""
    names = [info.name for info in pkgutil.iter_modules(kernels.__path__)]
    return [importlib.import_module(f"{kernels.__name__}.{name}") for name in sorted(names)]


def half_built(cls: Any) -> Any:
    """Return an object whose constructor did not run, None if there cannot be one."""
    try:
        return cls.__new__(cls)
    except (TypeError, ValueError):
        return None


# -- whole objects ---------------------------------------------------------------------------------


class World(Rig):
    """One of everything."""

    def __init__(self, kernels: ModuleType) -> None:
        super().__init__(kernels)
        self.closed: list[Any] = []

    def whole(self, name: str) -> Any:
        """Return an object of this class, None where only its owner makes one."""
        kernels = self.kernels
        maker = {
            "Switch": lambda: self.switch,
            "Connection": lambda: self.near[0],
            "Loop": lambda: self.loop,
            "RouteTable": lambda: self.table,
            "CallDesk": lambda: self.desk,
            "BroadcastDesk": lambda: self.casts,
            "Port": lambda: self.port,
            "Records": lambda: kernels.Records(bytes(32), bytes(32)),
            "FrameSplitter": lambda: kernels.FrameSplitter(100),
            "Message": lambda: kernels.Message(b"payload", from_node=3),
            "CallAnswer": lambda: kernels.CallAnswer(ok=True, payload=b"x"),
            "RpcRequest": lambda: kernels.RpcRequest(
                payload=b"x", from_node=1, from_service=2, to_service=3
            ),
            "RpcAnswer": self._open_answer,
            "DuplicateFilter": lambda: kernels.DuplicateFilter(2),
            "Vitals": lambda: kernels.Vitals(1, 2, 3),
            "Timer": lambda: self.loop.call_at(self.now_ms + 5, _evil),
            "Source": kernels.Source,
            "_CallbackSource": lambda: self.loop.make_source(_evil),
        }.get(name)
        return None if maker is None else maker()

    def _open_answer(self) -> Any:
        """Return the answer object of a request that has just come."""
        from tools.fuzz.decoders import frame_bytes
        from tools.fuzz.traffic import CallTarget, request_bytes

        frame = frame_bytes(1, CallTarget.HEADER + request_bytes(5, b"k"))
        self.near[0].receive_data(frame)
        return self.kept.pop() if self.kept else None

    def settle(self) -> None:
        """Let what was left behind come to light."""
        for ms in (0, 1_000):
            with contextlib.suppress(*ALLOWED):
                self.turn(ms)


#: Good arguments, by the name of the parameter; a name that is not here gets 1.
GOOD: dict[str, Callable[[World], Any]] = {
    "rule": lambda world: RouteRule.node(0x0A000001),
    "payload": lambda world: b"payload",
    "body": lambda world: bytes(20),
    "data": lambda world: bytes(20),
    "text": lambda world: "text",
    "on_done": lambda world: quiet,
    "on_ready": lambda world: quiet,
    "hook": lambda world: quiet,
    "fn": lambda world: quiet,
    "agent": lambda world: None,
    "selector": lambda world: None,
    "clock": lambda world: lambda: 1,
    "on_error": lambda world: None,
    "wake": lambda world: lambda: None,
    "loop": lambda world: world.loop,
    "router": lambda world: world.table,
    "sink": lambda world: world,
    "hooks": lambda world: world,
    "rng": lambda world: Dice(),
    "switch": lambda world: world.switch,
    "conn": lambda world: world.near[0],
    "source": lambda world: world.far[0],
    "message": lambda world: world.kernels.Message(b"payload", from_node=3),
    "channel": lambda world: Wire(),
    "sock": lambda world: None,
    "records": lambda world: None,
    "rest": lambda world: b"",
    "unsent": lambda world: b"",
    "owner": lambda world: None,
    "error": lambda world: NodeClosedError(),
    "conn_id": lambda world: 3 << 16,
    "alt_conn_id": lambda world: 0,
    "alt_node_id": lambda world: 0xFFFF_FFFF,
    "from_node": lambda world: 0x0A000001,
    "route": lambda world: RouteRule.closest(1),
    "is_local": lambda world: True,
    "seal_key": lambda world: bytes(32),
    "open_key": lambda world: bytes(32),
    "stream_id": lambda world: 0,
    "meta": lambda world: 0,
    "timeout_ms": lambda world: 0,
    "node_id": lambda world: NODE,
    "to_service": lambda world: 2,
    "events": lambda world: 1,
    "fd": lambda world: 0,
    **{name: lambda world, value=value: value for name, value in LIMITS.items()},  # type: ignore[misc]
}


def parameters(function: Any) -> list[inspect.Parameter] | None:
    """Return the parameters of a function without ``self``; None when nobody knows them."""
    try:
        found = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        return None
    return [p for p in found if p.name != "self" and p.kind is not p.VAR_KEYWORD]


def constructor(kernels: ModuleType, cls: type) -> list[inspect.Parameter] | None:
    """Return the parameters of a constructor: those of the pure twin's."""
    twin = getattr(_backend.load("pure"), cls.__name__, None)
    return None if twin is None else parameters(twin)


Call = tuple[tuple[Any, ...], dict[str, Any]]


def calls_of(
    world: World, known: list[inspect.Parameter] | None, evil: list[Any], rnd: random.Random
) -> Iterator[Call]:
    """Yield arguments: one of them evil at a time, then all of them; and wrong numbers of them."""
    yield (), {}
    if known is None:
        for count in (1, 2, 3):
            for value in evil:
                yield (value,) * count, {}
        return
    good = {p.name: GOOD[p.name](world) if p.name in GOOD else 1 for p in known}
    yield _call(known, good)
    for parameter in known:
        for value in evil:
            yield _call(known, {**good, parameter.name: value})
    for _ in range(RANDOM_CALLS if known else 0):
        yield _call(known, {p.name: rnd.choice(evil) for p in known})
    yield (1,) * (len(known) + 1), {}
    yield (), {"no_such_argument": 1}


def _call(known: list[inspect.Parameter], values: dict[str, Any]) -> Call:
    positional = tuple(values[p.name] for p in known if p.kind is not p.KEYWORD_ONLY)
    named = {p.name: values[p.name] for p in known if p.kind is p.KEYWORD_ONLY}
    return positional, named


class Attack:
    """Calls everything."""

    def __init__(self, kernels: ModuleType, note: mmap.mmap) -> None:
        self.kernels = kernels
        self.count = 0
        self.wrong: dict[str, str] = {}
        self._note = note
        self._rnd = random.Random(1)
        self._world = World(kernels)

    def run(self) -> None:
        """Attack classes, then functions."""
        for cls in classes(self.kernels):
            self._construct(cls)
            for kind in ("whole", "half"):
                self._attack(cls, kind)
        for module in modules(self.kernels):
            for name, function in sorted(vars(module).items()):
                own = getattr(function, "__module__", None) == module.__name__
                if callable(function) and own and not isinstance(function, type):
                    if not is_seen(self.kernels, name):
                        continue
                    self._renew()
                    self._attack_one(f"{module.__name__}.{name}", function, parameters(function))

    def _renew(self) -> None:
        self._world.settle()
        self._world = World(self.kernels)

    def _construct(self, cls: type) -> None:
        self._renew()
        self._attack_one(cls.__qualname__, cls, constructor(self.kernels, cls))

    def _attack(self, cls: type, kind: str) -> None:
        for name in sorted(set(dir(cls)) - SKIPPED):
            if name.startswith("_") and not is_seen(self.kernels, name):
                continue
            self._renew()
            thing = self._world.whole(cls.__name__) if kind == "whole" else half_built(cls)
            if thing is None:
                return
            if cls.__name__ == "Loop" and name == "run":
                thing.close() if kind == "whole" else None  # else it runs on and on
            where = f"{cls.__qualname__}.{name} of a {kind} one"
            attribute = inspect.getattr_static(cls, name)
            if callable(attribute) or isinstance(attribute, (classmethod, staticmethod)):
                known = parameters(getattr(cls, name))
                if name == "__init__":
                    known = constructor(self.kernels, cls)
                self._attack_one(where, self._bound(thing, name), known)
            else:
                self._attack_attribute(where, thing, name)

    @staticmethod
    def _bound(thing: Any, name: str) -> Callable[..., Any]:
        def call(*args: Any, **named: Any) -> Any:
            return getattr(thing, name)(*args, **named)

        call.__name__ = name
        return call

    def _attack_attribute(self, where: str, thing: Any, name: str) -> None:
        self._do(f"{where}, read", OF_ATTRIBUTES, getattr, thing, name)
        for value in evil_values(self.kernels):
            what = f"{where} = {safe_repr(value)}"
            self._do(what, OF_ATTRIBUTES, setattr, thing, name, value)
            self._do(f"{where}, read", OF_ATTRIBUTES, getattr, thing, name)
        self._do(f"del {where}", OF_ATTRIBUTES, delattr, thing, name)
        self._do(f"{where}, read", OF_ATTRIBUTES, getattr, thing, name)

    def _attack_one(
        self, where: str, function: Callable[..., Any], known: list[inspect.Parameter] | None
    ) -> None:
        evil = evil_values(self.kernels)
        # In Python any object with the right methods will do, and it says which one is missing.
        is_lenient = self.kernels.NAME == "pure" or function.__name__ in ATTRIBUTE_METHODS
        allowed = OF_ATTRIBUTES if is_lenient else ALLOWED
        for args, named in calls_of(self._world, known, evil, self._rnd):
            words = ", ".join(map(safe_repr, args))
            words += "".join(f", {name}={safe_repr(value)}" for name, value in named.items())
            self._do(f"{where}({words})", allowed, function, *args, **named)

    def _do(
        self,
        what: str,
        allowed: tuple[type[Exception], ...],
        function: Callable[..., Any],
        *args: Any,
        **named: Any,
    ) -> None:
        self.count += 1
        note = what.encode("utf-8", "replace")[: NOTE_BYTES - 1] + b"\n"
        self._note[: len(note)] = note
        try:
            result = function(*args, **named)
            safe_repr(result)
        except NEVER as error:
            self._tell(what, error)
        except allowed:
            pass
        except BaseException as error:
            self._tell(what, error)

    def _tell(self, what: str, error: BaseException) -> None:
        self.wrong.setdefault(
            f"{what.partition('(')[0]}: {type(error).__name__}", f"{what}: {error!r}"
        )


def safe_repr(value: object) -> str:
    """Return a short text, whatever the object does."""
    kind = type(value).__name__
    if kind.startswith(("Evil", "Huge")):
        return kind
    try:
        text = repr(value)
    except OF_ATTRIBUTES:
        return f"half a {kind}"
    return text if len(text) < 60 else f"{text[:40]}..."


def main() -> int:
    """Attack one backend."""
    faulthandler.enable()
    logging.disable()
    kernels = _backend.load(sys.argv[1])  # type: ignore[arg-type]
    with open(sys.argv[2], "w+b") as file:
        file.truncate(NOTE_BYTES)
        with mmap.mmap(file.fileno(), NOTE_BYTES) as note:
            attack = Attack(kernels, note)
            attack.run()
    for text in attack.wrong.values():
        print(text)
    print(f"{attack.count} calls, {len(attack.wrong)} wrong errors")
    return 1 if attack.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
