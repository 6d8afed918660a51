"""The worker threads of a process: each repeats one step; what is away is waited for, a dead one ends the process."""

import gc
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from core.errors import Unavailable

BACK_OFF_S_MAX = 5.0
JOIN_S = 20.0

_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class _Loop:
    name: str
    step: Callable[[], object]
    idle_s: float


class Loops:
    """Threads that run until ``stop``. A step that gives something true is repeated at once, else after its pause."""

    def __init__(self, on_failure: Callable[[], None] = lambda: None) -> None:
        self.failure: BaseException | None = None
        self._on_failure = on_failure
        self._loops: list[_Loop] = []
        self._threads: list[threading.Thread] = []
        self._stop = threading.Event()

    def add(self, name: str, step: Callable[[], object], *, idle_s: float) -> None:
        """One more thread; ``idle_s`` seconds of pause after a step that found nothing to do."""
        self._loops.append(_Loop(name, step, idle_s))

    def start(self) -> None:
        """Start every thread that was added and does not run yet."""
        for loop in self._loops[len(self._threads) :]:
            thread = threading.Thread(target=self._run, args=(loop,), name=loop.name, daemon=True)
            self._threads.append(thread)
            thread.start()

    def ask_to_stop(self) -> None:
        """Ask every thread to end after its step."""
        self._stop.set()

    def stop(self) -> None:
        """Ask every thread to end after its step, and wait for it."""
        self._stop.set()
        for thread in self._threads:
            thread.join(JOIN_S)

    @property
    def is_stopping(self) -> bool:
        """Whether the threads were asked to end."""
        return self._stop.is_set()

    def wait(self) -> None:
        """Return when the threads were asked to end or one of them died."""
        self._stop.wait()

    def _run(self, loop: _Loop) -> None:
        back_off = 0.25
        while not self._stop.is_set():
            try:
                is_busy = bool(loop.step())
                back_off = 0.25
            except Unavailable as error:
                _log.warning("part is away", loop=loop.name, code=error.code, reason=error.message)
                self._stop.wait(back_off)
                back_off = min(back_off * 2, BACK_OFF_S_MAX)
                continue
            except Exception as error:  # noqa: BLE001 - whatever it is, the process must end with it
                _log.error("thread died", loop=loop.name, error=repr(error), exc_info=error)
                self.failure = error
                self._stop.set()
                self._on_failure()
                return
            if not is_busy:
                self._stop.wait(loop.idle_s)


def calm_collector() -> None:
    """Let the cycle collector look at 50,000 new objects at once, not at 700.

    A batch makes hundreds of thousands of objects that live until its commit; the usual thresholds go through them
    again and again and take half of a worker's time. Nearly nothing here is a cycle: counting references frees it.
    """
    gc.set_threshold(50_000, 20, 50)


def now_s() -> int:
    """The wall clock in unix seconds; the edge reads it, decisions get it as an argument."""
    return int(time.time())


def now_ms() -> int:
    """The wall clock in unix milliseconds."""
    return time.time_ns() // 1_000_000
