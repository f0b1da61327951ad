"""Makes input items as a record has them, from what a client would send."""

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
    """Returns items, which may include references."""
    return msgspec.convert(fields, list[AskedItem])


def shown(items: Sequence[AskedItem]) -> Any:
    """Returns items as they are listed."""
    return msgspec.to_builtins(items)
