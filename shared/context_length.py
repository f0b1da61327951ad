"""The error of an input that does not fit into the model's context, and a bound that shows it by length.
Pure.

Owns the error's text and the bound; only a worker can count the tokens of an input.
"""

from shared.responses import ResponseError

TOKEN_CHARS_MAX = 128
"""No token of the vocabulary has more bytes, and therefore none has more characters."""
TOO_LONG = ResponseError(
    "context_length_exceeded",
    "Your input exceeds the context window of this model. Please adjust your input and try again.",
)
"""The hosted API's code and message, which clients compare."""
TOO_LONG_PARAM = "input"


def tokens_min(chars: int) -> int:
    """Returns a lower bound on the tokens of a text with this many characters."""
    return chars // TOKEN_CHARS_MAX
