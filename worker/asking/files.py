"""Puts the text of attached files in their place, for the model to read. Pure.

Owns how a file is shown; `shared/text_files.py` owns which files are text. Others are named by
`conversation.py`, and so are those that an earlier version accepted although they cannot be decoded.
"""

from collections.abc import Iterable
from typing import TypeVar

import msgspec

from shared.input_items import (
    CustomToolCallOutput,
    FunctionCallOutput,
    InputFile,
    InputItem,
    InputMessage,
    InputText,
)
from shared.text_files import UnreadableFile, text_of_file
from worker.asking.tool_names import one_line

_P = TypeVar("_P")


def read_files(items: Iterable[InputItem]) -> list[InputItem]:
    """Returns the items with text in place of each text file."""
    return [_read_in(item) for item in items]


def _read_in(item: InputItem) -> InputItem:
    match item:
        case InputMessage(content=list() as parts):
            return msgspec.structs.replace(item, content=list(map(_read, parts)))
        case FunctionCallOutput(output=list() as parts) | CustomToolCallOutput(output=list() as parts):
            return msgspec.structs.replace(item, output=list(map(_read, parts)))
        case _:
            return item


def _read(part: _P) -> _P | InputText:
    if not isinstance(part, InputFile) or not isinstance(part.file_data, str):
        return part
    try:
        text = text_of_file(part.file_data)
    except UnreadableFile:
        return part
    if text is None:
        return part
    name = one_line(part.filename or "unnamed")
    return InputText(f"[The file {name} was attached here. It reads:]\n{text}\n[End of the file {name}.]")
