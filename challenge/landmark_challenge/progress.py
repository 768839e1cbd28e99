"""Progress and notes on stderr: one line that renews itself on a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Iterator, Sequence
from typing import TypeVar

Item = TypeVar("Item")

TERMINAL_PERIOD_S = 0.2
PLAIN_PERIOD_S = 10.0


def track(items: Sequence[Item], label: str) -> Iterator[Item]:
    """Yield `items` one by one and say how many are done and how long the rest will take.

    Elsewhere than on a terminal a line comes every ten seconds and at the end, so that a log stays readable.
    """
    terminal = sys.stderr.isatty()
    start = last = time.monotonic()
    for done, item in enumerate(items, start=1):
        yield item
        now = time.monotonic()
        finished = done == len(items)
        if finished or now - last >= (TERMINAL_PERIOD_S if terminal else PLAIN_PERIOD_S):
            last = now
            elapsed_s = now - start
            left_s = elapsed_s / done * (len(items) - done)
            when = f"{elapsed_s:.0f} s" if finished else f"{left_s:.0f} s left"
            text = f"{label}: {done}/{len(items)}, {when}"
            print(f"\r{text:<60}" if terminal else text, end="\n" if finished or not terminal else "", file=sys.stderr)
            sys.stderr.flush()


def note(text: str) -> None:
    """Say on stderr, in one line, what was read in a way that the user may want to know of."""
    print(f"note: {text}", file=sys.stderr, flush=True)
