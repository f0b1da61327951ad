"""Cuts a conversation that is too long to be summarised at once into pieces that are not. Pure.

Owns where it is cut: between messages, and within one only if it is longer than a whole piece.
`compacting.py` owns how long a piece may be. Long work is a generator that yields after each short step, for
`stepper.py`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from worker.harmony.pieces import divide
from worker.harmony.tokens import ChatMessage, encode_piece, render_message
from worker.response.prompt import encode_message
from worker.response.stepper import Steps

_CHAR_TOKENS_MAX = 4
"""No character has more bytes in UTF-8, and therefore none has more tokens."""


def cut(said: Sequence[ChatMessage], tokens_max: int) -> Steps[list[list[ChatMessage]]]:
    """Returns the messages in pieces of at most so many tokens. Each text is encoded once, or twice if its
    message is cut."""
    pieces: list[list[ChatMessage]] = [[]]
    left = tokens_max
    for message in said:
        for part, tokens in (yield from _parts_of(message, tokens_max)):
            if tokens > left:
                pieces.append([])
                left = tokens_max
            pieces[-1].append(part)
            left -= tokens
    return [piece for piece in pieces if piece]


def _parts_of(message: ChatMessage, tokens_max: int) -> Steps[list[tuple[ChatMessage, int]]]:
    """Returns the message, or if it is too long messages with its text in parts, each with its tokens."""
    tokens = len((yield from encode_message(message)))
    if tokens <= tokens_max:
        return [(message, tokens)]
    header = len(render_message(replace(message, text="")))
    parts: list[tuple[ChatMessage, int]] = []
    held: list[str] = []
    held_tokens = header
    for text, size in _slices(message.text, tokens_max - header):
        if held and held_tokens + size > tokens_max:
            parts.append((replace(message, text="".join(held)), held_tokens))
            held, held_tokens = [], header
        held.append(text)
        held_tokens += size
        yield
    parts.append((replace(message, text="".join(held)), held_tokens))
    return parts


def _slices(text: str, tokens_max: int) -> Iterator[tuple[str, int]]:
    """Yields the text in slices of at most so many tokens, with their number."""
    chars = max(tokens_max // _CHAR_TOKENS_MAX, 1)
    for piece in divide([text]):
        size = len(encode_piece(piece))
        step = len(piece) if size <= tokens_max else chars
        for begin in range(0, len(piece), step):
            part = piece[begin : begin + step]
            yield part, size if step == len(piece) else len(encode_piece(part))
