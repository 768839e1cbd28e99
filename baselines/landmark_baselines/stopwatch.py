"""Where the time of a case goes: methods enter `with span("network"):`, and whoever measures collects the seconds."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from types import TracebackType

import torch

PARTS = ("read", "resample", "network", "decode", "write")


class Stopwatch:
    """Seconds by span while it is active. A span inside another counts for itself alone, so the parts add up.

    On a CUDA device every span waits for the work that it has queued: measuring costs a little there.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._open: list[str] = []
        self._since = 0.0

    def enter(self, name: str) -> None:
        """A span begins; the one around it stands still."""
        self._count()
        self._open.append(name)

    def leave(self) -> None:
        """The innermost span ends."""
        self._count()
        self._open.pop()

    def _count(self) -> None:
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()
        now = time.perf_counter()
        if self._open:
            name = self._open[-1]
            self.seconds[name] = self.seconds.get(name, 0.0) + now - self._since
        self._since = now


_active: ContextVar[Stopwatch | None] = ContextVar("stopwatch", default=None)


class span:  # noqa: N801 - used like a function
    """`with span("network"):` counts for the active stopwatch; without one it does nothing (well under 1 us)."""

    __slots__ = ("_name", "_watch")

    def __init__(self, name: str) -> None:
        self._name = name
        self._watch = _active.get()

    def __enter__(self) -> None:
        if self._watch is not None:
            self._watch.enter(self._name)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._watch is not None:
            self._watch.leave()


@contextmanager
def measured() -> Iterator[Stopwatch]:
    """A stopwatch that is active in this thread for the length of the block."""
    watch = Stopwatch()
    token = _active.set(watch)
    try:
        yield watch
    finally:
        _active.reset(token)
