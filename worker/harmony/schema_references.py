"""Follows the references within a JSON schema, and names what is referred to more than once. Pure.

Owns which references there are, and the names; `schema_resources.py` owns what a reference means, and
`typescript.py` writes each named part once, and its name wherever it comes again. So the length of what is
written grows with the schema and not with the number of ways through it, and a schema that contains itself
ends.
"""

import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

from worker.harmony.schema_resources import REFERRING, SchemaResources, parts_of

_NO_IDENTIFIER = re.compile(r"\W+", re.ASCII)
_NAME_LENGTH_MAX = 64
_NONE: Mapping[str, Any] = {}


class References:
    """The references of one schema, found in one walk over the parts that can be reached."""

    def __init__(self, root: Any) -> None:
        self._targets: dict[int, dict[str, Any]] = {}
        """id() of a schema with references -> the schema that each keyword means."""
        self.names: dict[int, str] = {}
        """id() of a schema that comes more than once -> its name. The root keeps all of them alive."""
        pointers: dict[int, str] = {}
        visited: set[int] = set()
        twice: set[int] = set()
        again: dict[int, Any] = {}
        resources = SchemaResources(root)
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
            waiting += parts_of(schema)
            for keyword in REFERRING:
                if keyword in schema and isinstance(target := resources.find(schema, keyword), dict | bool):
                    self._targets.setdefault(id(schema), {})[keyword] = target
                    pointers.setdefault(id(target), schema[keyword])
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

    def targets_of(self, schema: Mapping[str, Any]) -> Mapping[str, Any]:
        """Returns the schemas to which this one refers, by keyword, without those that are not known."""
        return self._targets.get(id(schema), _NONE)


def _name_of(reference: str, target: dict[str, Any]) -> str:
    """Returns the last word of a reference as an identifier; for one without a fragment, the title of what it
    means, or the last word of its address."""
    address, _, fragment = reference.partition("#")
    title = target.get("title")
    last = fragment.rpartition("/")[2]
    if not fragment:
        last = title if isinstance(title, str) else address.rpartition("/")[2].removesuffix(".json")
    name = _NO_IDENTIFIER.sub("_", last[:_NAME_LENGTH_MAX]).strip("_")
    if not name or name[0].isdigit():
        name = f"Part_{name}".rstrip("_")
    return name
