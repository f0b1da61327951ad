"""An input that the model's context cannot hold: its error, and when the length alone shows it. Pure.

Owns the words and the bound; how many tokens an input really has only a worker knows.
"""

from shared.responses import ResponseError

TOKEN_CHARS_MAX = 128
"""No token of the vocabulary stands for more bytes, nor then for more characters."""
TOO_LONG = ResponseError(
    "context_length_exceeded",
    "Your input exceeds the context window of this model. Please adjust your input and try again.",
)
"""The hosted API's words and code, which clients compare."""
TOO_LONG_PARAM = "input"


def tokens_min(chars: int) -> int:
    """Returns a lower bound on the tokens of a text with this many characters."""
    return chars // TOKEN_CHARS_MAX
