"""`python -m bench.polling_worker`: runs the real worker, except that arq polls its queue, as it does by
default.

For comparison only; the worker itself has no such option.
"""

import sys
from typing import Any

from arq.worker import Worker

import worker.__main__
from shared.store import job_queue

_POLL_DELAY_S = 0.5
"""arq's default."""


class _PollingWorker(job_queue._DoorbellWorker):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.poll_delay_s = _POLL_DELAY_S

    async def _poll_iteration(self) -> None:
        await Worker._poll_iteration(self)


if __name__ == "__main__":
    job_queue._DoorbellWorker = _PollingWorker  # type: ignore[misc]
    sys.exit(worker.__main__.main())
