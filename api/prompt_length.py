"""Refuses a prompt that exceeds the model's context, if its length alone shows it. Pure.

Owns which texts are certain to be in the prompt. A worker, which counts tokens, may refuse what is accepted
here.
"""

from api.errors import context_length_exceeded
from shared.context_length import tokens_min
from shared.input_items import EarlierText, FunctionCallOutput, InputItem, InputMessage, InputText
from shared.responses import ResponseRequest


def check_prompt_length(request: ResponseRequest, context_tokens_max: int) -> None:
    """Raises ClientError if the prompt is too long. With `truncation: auto`, only the instructions and the
    last user message must fit."""
    items = [*request.context, *request.input]
    if request.response.truncation == "auto":
        items = next(([item] for item in reversed(items) if _is_users(item)), [])
    instructions = request.response.instructions
    chars = len(instructions) if isinstance(instructions, str) else 0
    if tokens_min(chars + sum(map(_chars_of, items))) >= context_tokens_max:
        raise context_length_exceeded()


def _is_users(item: InputItem) -> bool:
    return isinstance(item, InputMessage) and item.role == "user"


def _chars_of(item: InputItem) -> int:
    match item:
        case InputMessage(content=content) | FunctionCallOutput(output=content):
            if isinstance(content, str):
                return len(content)
            return sum(len(part.text) for part in content if isinstance(part, InputText | EarlierText))
        case _:
            return 0
