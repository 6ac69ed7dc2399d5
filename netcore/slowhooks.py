"""What is said of hooks that take too long: whose they are, where they are written, how long."""

from __future__ import annotations

from ._typing import TYPE_CHECKING, Final, final
from .logs import logger_of

if TYPE_CHECKING:
    from types import CodeType

__all__ = ["SlowHookLog", "describe_hook"]

logger = logger_of("netcore.plane")

LOG_INTERVAL_MS: Final = 1_000  # a line at most; the hooks between are counted in the next one
MAX_WRAPPERS: Final = 16  # of decorators and partials, looked through


@final
class SlowHookLog:
    """Writes about the slow hooks of one node, one line a second at most.

    Args:
        node_id: Whose.
        limit_ms: ``slow_hook_ms``.
    """

    __slots__ = ("_left_out", "_limit_ms", "_node_id", "_told_ms")

    def __init__(self, node_id: int, limit_ms: int) -> None:
        self._node_id = node_id
        self._limit_ms = limit_ms
        self._told_ms: int | None = None
        self._left_out = 0

    def tell(self, hook: object, took_ms: int, calls: int, now_ms: int) -> None:
        """Write of a hook, or count it for the next line.

        Args:
            hook: What was called.
            took_ms: How long it took.
            calls: How often it was called in that time.
            now_ms: When it returned.
        """
        if self._told_ms is not None and now_ms - self._told_ms < LOG_INTERVAL_MS:
            self._left_out += 1
            return
        self._told_ms = now_ms
        left_out, self._left_out = self._left_out, 0
        logger.warning(
            "node %s: %s took %s ms%s; slow_hook_ms is %s%s",
            self._node_id,
            describe_hook(hook),
            took_ms,
            f" in {calls} calls" if calls > 1 else "",
            self._limit_ms,
            f"; {left_out} slow hooks since the last line" if left_out else "",
        )


def describe_hook(hook: object) -> str:
    """Return the class, the name, and the file and line of a hook: whatever of it there is."""
    name, place = _name(hook), ""
    for _ in range(MAX_WRAPPERS):
        function = getattr(hook, "__func__", hook)
        inner = getattr(function, "__wrapped__", None) or getattr(function, "func", None)
        if inner is None:
            break
        hook, name = inner, _name(inner)
    code = _code_of(hook)
    if code is not None:
        place = f" ({code.co_filename}:{code.co_firstlineno})"
    return name + place


def _name(hook: object) -> str:
    owner = getattr(hook, "__self__", None)
    name = getattr(hook, "__name__", None)
    if name is None:
        return type(hook).__qualname__
    if owner is None or isinstance(owner, type):
        return str(getattr(hook, "__qualname__", name))
    # Its own class, which may inherit the method: that is the service that somebody looks for.
    return f"{type(owner).__qualname__}.{name}"


def _code_of(hook: object) -> CodeType | None:
    found = getattr(getattr(hook, "__func__", hook), "__code__", None)
    if found is None:  # an object with a method of that name
        found = getattr(getattr(type(hook), "__call__", None), "__code__", None)  # noqa: B004
    return found
