"""Calling user code: isolated, logged once with its traceback, counted."""

from __future__ import annotations

from collections.abc import Callable

from ._typing import TYPE_CHECKING, Final, Protocol, final
from .errors import ConnectionRejected, NodeClosedError
from .logs import logger_of

if TYPE_CHECKING:
    from ._backend import kernels
    from .errors import OutgoingConnectionError
    from .slowhooks import SlowHookLog

__all__ = ["HookRunner", "Observer"]

logger = logger_of("netcore.plane")

#: Tracebacks logged per second; hook errors beyond are only counted.
MAX_TRACEBACKS_PER_S: Final = 20


class Observer(Protocol):
    """Somebody outside of a node who looks on, as the simulator does; calls nothing of it."""

    def link_up(self, conn: kernels.Connection) -> None:
        """A link is about to be reported as connected."""

    def link_down(self, conn: kernels.Connection, code: int, text: str) -> None:
        """A link is about to be reported as disconnected."""

    def dial_failed(
        self, conn_id: int, node_id: int | None, error: OutgoingConnectionError
    ) -> None:
        """A dial ended in an error."""

    def hook_failed(self, hook: str, exc: Exception) -> None:
        """An exception left user code."""


@final
class HookRunner:
    """Runs the user code of one node.

    KeyboardInterrupt, SystemExit and the like come out of ``Node.poll``, but at the end of the turn
    (``raise_interrupt``): what has to follow a hook, for example the same hook of the next
    behavior, must not be lost because one was interrupted.

    Attributes:
        errors: Exceptions that left user code.
        slow: How often it took longer than ``slow_hook_ms``.
        closing: The node closes; a hook that still wants something of it is no error.
        observer: Who is told what becomes of links, dials and hooks, if anybody.
    """

    def __init__(
        self,
        node_id: int,
        loop: kernels.Loop,
        observer: Observer | None = None,
        slow_hook_ms: int = 0,
    ) -> None:
        self._node_id = node_id
        self._loop = loop
        self._second_ms = 0
        self._logged = 0
        self._interrupt: BaseException | None = None
        self._slow_hook_ms = slow_hook_ms
        self._slow_log: SlowHookLog | None = None
        self.errors = 0
        self.slow = 0
        self.closing = False
        self.observer = observer

    def run(self, hook: Callable[..., object], *args: object) -> object:
        """Call ``hook(*args)``; None when it raised."""
        self._loop.enter_hook(hook)
        try:
            return hook(*args)
        except Exception as exc:
            self.on_error(hook, exc)
        except BaseException as exc:
            self.hold(exc)
        finally:
            self._loop.leave_hook()
        return None

    def refusal(self, hook: Callable[..., object], node_id: int | None, conn_id: int) -> str | None:
        """Call a ``check_*`` hook and return its reason to refuse; None when it agrees.

        One that raises anything else than ``ConnectionRejected`` refuses too.
        """
        self._loop.enter_hook(hook)
        try:
            hook(node_id, conn_id)
        except ConnectionRejected as exc:
            return exc.reason
        except Exception as exc:
            self.on_error(hook, exc)
            return "internal error"
        except BaseException as exc:
            self.hold(exc)
            return "internal error"
        finally:
            self._loop.leave_hook()
        return None

    def hold(self, exc: BaseException) -> None:
        """Keep an interrupt until the end of the turn; the first wins."""
        if self._interrupt is None:
            self._interrupt = exc
        self._loop.leave()

    def raise_interrupt(self) -> None:
        """Raise the interrupt that was kept, if there is one; between two turns."""
        if self._interrupt is not None:
            exc, self._interrupt = self._interrupt, None
            raise exc

    def on_error(self, hook: object, exc: Exception) -> None:
        """Log an exception that left user code, with its traceback, and count it."""
        self._loop.leave_hook()  # what comes now is not the hook's time
        if self.closing and isinstance(exc, NodeClosedError):
            return
        self.errors += 1
        name = _name_of(hook)
        if self.observer is not None:
            try:
                self.observer.hook_failed(name, exc)
            except Exception:
                self.errors += 1
        if self._loop.now_ms - self._second_ms >= 1_000:
            self._second_ms, self._logged = self._loop.now_ms, 0
        self._logged += 1
        try:
            self._log_error(name, exc)
        except Exception:  # a handler of the application's log: it must not hurt the node either
            return

    def _log_error(self, name: str, exc: Exception) -> None:
        if self._logged <= MAX_TRACEBACKS_PER_S:
            logger.error("node %s: %s raised", self._node_id, name, exc_info=exc)
        elif self._logged == MAX_TRACEBACKS_PER_S + 1:
            logger.error("node %s: more hook errors this second are only counted", self._node_id)

    def on_slow(self, hook: object, took_ms: int, calls: int, now_ms: int) -> None:
        """Count, and now and then log, that user code took longer than ``slow_hook_ms``."""
        self.slow += 1
        try:
            if self._slow_log is None:
                from .slowhooks import SlowHookLog  # most nodes never need it

                self._slow_log = SlowHookLog(self._node_id, self._slow_hook_ms)
            self._slow_log.tell(hook, took_ms, calls, now_ms)
        except Exception:  # as above; or whatever the hook does when it is asked for its name
            return


def _name_of(hook: object) -> str:
    try:
        return getattr(hook, "__qualname__", None) or repr(hook)
    except Exception:  # an object of the user's with a broken repr
        return type(hook).__qualname__
