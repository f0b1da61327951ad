"""`python -m bench.clock_worker`: runs the real worker, except that its engine tells the time.

For measurements only; the worker itself has no such option.
"""

import sys

import worker.__main__
from bench.clock_engine import ClockEngine
from shared.settings import Settings
from worker.engines.protocol import Engine


def _make_clock(settings: Settings) -> Engine:
    return ClockEngine()


if __name__ == "__main__":
    worker.__main__.make_engine = _make_clock  # type: ignore[attr-defined]
    sys.exit(worker.__main__.main())
