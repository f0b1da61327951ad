"""The exception that ends an attempt whose response must fail.

Owns the exception only; `worker/ownership.py` closes the response.
"""

from shared.responses import ResponseError


class Hopeless(Exception):
    """The response cannot be completed; `error` is its error as the client reads it."""

    def __init__(self, error: ResponseError) -> None:
        super().__init__(error.message)
        self.error = error
