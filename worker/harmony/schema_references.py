"""Follows the references within a JSON schema, and names what is referred to more than once. Pure.

Owns which part of a schema a reference means, and its name; `typescript.py` writes each named part once, and
its name wherever it comes again. So the length of what is written grows with the schema and not with the
number of ways through it, and a schema that contains itself ends. Nothing outside the schema is fetched.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from shared.json_schema_form import find_part, inner_schemas

_DEFINITIONS = ("$defs", "definitions")
_NO_IDENTIFIER = re.compile(r"\W+", re.ASCII)
_NAME_LENGTH_MAX = 64


class References:
    """The references of one schema, found in one walk over the parts that can be reached."""

    def __init__(self, root: Any) -> None:
        self._targets: dict[int, Any] = {}
        """id() of a schema with a reference -> the schema that it means."""
        self.names: dict[int, str] = {}
        """id() of a schema that comes more than once -> its name. The root keeps all of them alive."""
        pointers: dict[int, str] = {}
        visited: set[int] = set()
        twice: set[int] = set()
        again: dict[int, Any] = {}
        waiting = [root]
        while waiting:
            schema = waiting.pop()
            if not isinstance(schema, dict):
                continue
            if id(schema) in visited:
                again[id(schema)] = schema
                if id(schema) in pointers or id(schema) in twice:
                    continue
                twice.add(id(schema))  # one object at two places is written at both, with its references
            visited.add(id(schema))
            waiting += _parts_of(schema)
            reference = schema.get("$ref")
            if isinstance(reference, str) and isinstance(target := find_part(reference, root), dict | bool):
                self._targets[id(schema)] = target
                pointers.setdefault(id(target), reference)
                waiting.append(target)
        self._name(pointers, again)

    def _name(self, pointers: dict[int, str], again: dict[int, Any]) -> None:
        taken: Counter[str] = Counter()
        for place, pointer in pointers.items():
            if place in again:
                name = _name_of(pointer, again[place])
                while taken[name]:
                    taken[name] += 1
                    name = f"{name}_{taken[name]}"
                taken[name] += 1
                self.names[place] = name

    def target_of(self, schema: Mapping[str, Any]) -> Any:
        """Returns the schema to which this one refers, or None."""
        return self._targets.get(id(schema))


def _parts_of(schema: dict[str, Any]) -> Iterator[Any]:
    """Yields the schemas within a schema, without its definitions, which count where they are referred to."""
    for keyword, part in schema.items():
        if keyword in _DEFINITIONS:
            continue
        for _, inner in inner_schemas(keyword, part):
            if isinstance(inner, list):  # the tuple of an earlier draft
                yield from inner
                yield schema.get("additionalItems")
            else:
                yield inner


def _name_of(pointer: str, target: dict[str, Any]) -> str:
    """Returns the last word of a reference as an identifier; for the root, which has none, its title."""
    title = target.get("title")
    last = pointer.rpartition("/")[2] if "/" in pointer else title if isinstance(title, str) else ""
    name = _NO_IDENTIFIER.sub("_", last[:_NAME_LENGTH_MAX]).strip("_")
    if not name or name[0].isdigit():
        name = f"Part_{name}".rstrip("_")
    return name
