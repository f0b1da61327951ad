"""What one turn of the model may say, as data: the engine makes it impossible to say anything else.

Pure. Owns which constraint a request calls for; how tokens are kept to it is the engine's business
(`engines/turn_grammar.py`; docs/adr/0012-constraints-of-our-own.md).
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Body:
    """What the text of a message must be. `schema`: JSON text of a JSON schema; None with `is_json`: any
    JSON object."""

    is_json: bool = False
    schema: str | None = None


@dataclass(frozen=True, slots=True)
class Call:
    """A call that may be made: the header's tokens, up to and with `<|message|>`, and its arguments."""

    recipient: str
    header: tuple[int, ...]
    arguments: Body


@dataclass(frozen=True, slots=True)
class Constraint:
    """A turn: any reasoning, then one of `calls`, or a final message if `final` says what it must be."""

    calls: tuple[Call, ...] = ()
    final: Body | None = Body()
    """None: the turn must end with a call."""
    free_tokens_max: int | None = None
    """So many of the turn's tokens may be spent before the call's or the final message's header begins:
    then reasoning is ended, so that there is room for the answer. None: any number."""
