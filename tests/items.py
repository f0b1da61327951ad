"""Input items as a record holds them, written as a client would send them."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from shared.input_items import AskedItem, InputItem


def item_of(fields: Mapping[str, Any]) -> InputItem:
    item: InputItem = msgspec.convert(fields, InputItem)
    return item


def items_of(fields: Sequence[Mapping[str, Any]]) -> list[InputItem]:
    return msgspec.convert(fields, list[InputItem])


def asked_of(fields: Sequence[Mapping[str, Any]]) -> list[AskedItem]:
    """Items, references among them."""
    return msgspec.convert(fields, list[AskedItem])


def shown(items: Sequence[AskedItem]) -> Any:
    """Items as they are listed."""
    return msgspec.to_builtins(items)
