"""Why a response cannot go on, on its way from whoever finds that out to whoever ends it.

Owns the exception only: ending a response is `ownership`'s.
"""

from shared.responses import ResponseError


class Hopeless(Exception):
    """The response cannot go on, and the reason is for the client to read."""

    def __init__(self, error: ResponseError) -> None:
        super().__init__(error.message)
        self.error = error
