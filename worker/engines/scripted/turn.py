"""Turns a cue into Harmony tokens, and finds where to continue if the prompt already contains some of them.

The tokens of a turn depend on its cue alone, never on where a continuation begins. Knows nothing of time.
"""

import json
from collections.abc import Generator, Iterator
from functools import lru_cache

from shared import hosted_tools
from worker.engines.scripted.prompt import Parameter, Tool, index_of
from worker.engines.scripted.scene import Cue, Filled, JsonTemplate, Raw, ScriptedCall
from worker.engines.scripted.text import Template, Values
from worker.harmony.tokens import (
    CALL,
    END,
    NEXT_TURN,
    RETURN,
    START,
    STOP_TOKENS,
    ChatMessage,
    encode,
    render_message,
)

Pieces = Iterator[list[int]]


def turn_pieces(cue: Cue) -> Pieces:
    """Yields the tokens from `<|start|>assistant` to the stop token, in pieces made on demand."""
    turn, values = cue.turn, cue.values
    if turn.raw:
        yield from _raw(turn.raw, values)
        return
    said = [("analysis", turn.analysis), ("commentary", turn.commentary), ("final", turn.final)]
    messages = [(channel, text) for channel, text in said if text]
    for index, (channel, text) in enumerate(messages):
        is_last = index == len(messages) - 1 and not turn.calls
        yield _header(channel)
        yield from text.pieces(values)
        yield [RETURN if is_last else END]
    for call in turn.calls:
        yield from _call(call, cue, CALL if call is turn.calls[-1] else END)


def _raw(raw: Raw, values: Values) -> Pieces:
    yield NEXT_TURN
    last = None
    for part in raw.parts:
        if isinstance(part, int):
            yield [part]
        else:
            yield from part.pieces(values)
        last = part
    if last not in STOP_TOKENS:
        yield [RETURN]


def _call(call: ScriptedCall, cue: Cue, end: int) -> Pieces:
    recipient = call.tool.expand(cue.values)
    hosted = hosted_tools.by_recipient(recipient)
    channel, content_type = (hosted.channel, hosted.content_type) if hosted else ("commentary", "json")
    yield _header(channel, recipient, content_type)
    yield encode(_call_content(call, cue))
    yield [end]


@lru_cache(maxsize=256)
def _header(channel: str, recipient: str | None = None, content_type: str | None = None) -> list[int]:
    message = ChatMessage("assistant", "", channel, recipient, content_type)
    return render_message(message)[:-1]


# --- what a call carries ----------------------------------------------------------------------


def _call_content(call: ScriptedCall, cue: Cue) -> str:
    match call.content:
        case Template() as text:
            return text.expand(cue.values)
        case JsonTemplate(tree):
            return json.dumps(_expand(tree, cue.values), ensure_ascii=False)
        case Filled() as filled:
            return json.dumps(_fill(filled, cue.tool, cue.values), ensure_ascii=False)


def _expand(tree: object, values: Values) -> object:
    match tree:
        case Template():
            return tree.expand(values)
        case dict():
            return {name: _expand(branch, values) for name, branch in tree.items()}
        case list():
            return [_expand(branch, values) for branch in tree]
        case leaf:
            return leaf


def _fill(filled: Filled, tool: Tool | None, values: Values) -> dict[str, object]:
    """Returns the call's arguments. A parameter takes the first value whose pattern matches its name. If none
    matches any and the first required parameter is a string, that one takes the first value. Other required
    parameters get a plain value of their type."""
    parameters = tool.parameters if tool else ()
    arguments = {p.name: _typed(p, v) for p in parameters if (v := _value_for(p, filled, values)) is not None}
    first = filled.values[0][1].expand(values)
    for parameter in parameters:
        if parameter.is_required and parameter.name not in arguments:
            is_free = not arguments and parameter.type == "string"
            arguments[parameter.name] = first if is_free else _plain_value(parameter.type)
    return arguments


def _value_for(parameter: Parameter, filled: Filled, values: Values) -> str | None:
    return next((value.expand(values) for name, value in filled.values if name.search(parameter.name)), None)


def _typed(parameter: Parameter, value: str) -> object:
    """Returns the value as the parameter's type: a number, one of its choices, or the text itself."""
    if '"' in parameter.type:
        choices = _choices(parameter.type)
        return next((choice for choice in choices if choice.lower() == value.lower()), choices[0])
    if parameter.type.startswith("number"):
        try:
            return int(value) if value.lstrip("-").isdigit() else float(value)
        except ValueError:
            return 0
    return value


def _choices(type_text: str) -> list[str]:
    return type_text.split('"')[1::2]


def _plain_value(type_text: str) -> object:
    if '"' in type_text:
        return _choices(type_text)[0]
    if type_text.endswith("[]"):
        return []
    plain: dict[str, object] = {"number": 0, "boolean": False, "{": {}}
    return plain.get(type_text.partition(" ")[0], "")


# --- going on ---------------------------------------------------------------------------------


def continue_turn(prompt: list[int], turn_begin: int, cue: Cue) -> Pieces:
    """Yields the rest of the turn, given how much of it the prompt contains from `turn_begin` on.

    Yields empty pieces while it searches for its place. If the prompt contains something other than this turn
    there (an earlier message of the assistant, another engine's output), the turn is said from its beginning,
    after ending any open message.
    """
    begin = turn_begin
    while begin < len(prompt):
        rest = yield from _follow(prompt, begin, turn_pieces(cue))
        if rest is not None:
            yield from rest
            return
        begin = index_of(prompt, START, begin + 1)
    if turn_begin < len(prompt) and prompt[-1] not in (END, *STOP_TOKENS):
        yield [END]
    yield from turn_pieces(cue)


def _follow(prompt: list[int], begin: int, pieces: Pieces) -> Generator[list[int], None, Pieces | None]:
    """Compares the pieces with the prompt; returns those that follow its end, or None if the two differ."""
    for piece in pieces:
        end = begin + len(piece)
        if prompt[begin:end] != piece[: len(prompt) - begin]:
            return None
        if end >= len(prompt):
            yield piece[len(prompt) - begin :]
            return pieces
        begin = end
        yield []
    return None
