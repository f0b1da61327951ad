"""Finds what the references within a JSON schema mean: pointers, anchors and schemas with an `$id`. Pure.

A schema with an `$id` is a resource of its own: its base resolves relative references within it, and `#` is
that schema. Nothing outside the whole schema is fetched. Found in one walk, in proportion to its length.
Source: JSON Schema 2020-12, the core vocabulary; `$recursiveRef` of 2019-09, `$id: "#name"` of draft 7.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote, urljoin

from shared.json_schema_form import find_part, inner_schemas

REFERRING = ("$ref", "$dynamicRef", "$recursiveRef")
"""Keywords that mean another schema."""
_ADDRESS_LENGTH_MAX = 1_000
"""A longer address is not followed: joining two costs both of them, for each reference."""


@dataclass(slots=True)
class _Resource:
    schema: Any
    address: str = ""
    anchors: dict[str, Any] = field(default_factory=dict)
    dynamic: dict[str, Any] = field(default_factory=dict)
    """Those of the anchors that `$dynamicRef` looks for from outside."""


class SchemaResources:
    """The resources of one schema, which must stay as it is, and alive."""

    def __init__(self, root: Any) -> None:
        self._root = _Resource(root)
        self._within: dict[int, _Resource] = {}
        """id() of a schema -> its resource, if that is not the root's."""
        self._addressed: dict[str, _Resource] = {}
        self._dynamic = Counter[str]()
        """In how many resources a name is a dynamic anchor."""
        seen: set[int] = set()
        waiting = [(root, self._root)]
        while waiting:
            schema, resource = waiting.pop()
            if isinstance(schema, dict) and id(schema) not in seen:
                seen.add(id(schema))
                resource = self._enter(schema, resource)
                waiting += [(part, resource) for part in parts_of(schema, has_definitions=True)]

    def _enter(self, schema: dict[str, Any], around: _Resource) -> _Resource:
        """Notes the names of a schema, and returns the resource to which it belongs."""
        resource = self._begin(schema, around)
        if resource is not self._root:
            self._within[id(schema)] = resource
        former = _text(schema, "$id").partition("#")[2]
        for name in (former, _text(schema, "$anchor")):
            if name and not name.startswith("/"):
                resource.anchors.setdefault(name, schema)
        if (name := _text(schema, "$dynamicAnchor")) and name not in resource.dynamic:
            resource.anchors.setdefault(name, schema)
            resource.dynamic[name] = schema
            self._dynamic[name] += 1
        return resource

    def _begin(self, schema: dict[str, Any], around: _Resource) -> _Resource:
        address = _join(around.address, _text(schema, "$id").partition("#")[0])
        if not address:
            return around
        if schema is self._root.schema:
            self._root.address = address
            return self._addressed.setdefault(address, self._root)
        return self._addressed.setdefault(address, _Resource(schema, address))

    def find(self, schema: Mapping[str, Any], keyword: str) -> Any:
        """Returns the schema that a keyword of REFERRING means, or None if it is not part of the whole, or
        if that depends on the way by which the reference is reached."""
        reference = schema.get(keyword)
        if not isinstance(reference, str):
            return None
        around = self._within.get(id(schema), self._root)
        address, _, fragment = reference.partition("#")
        resource = self._addressed.get(_join(around.address, address)) if address else around
        if resource is None:
            return None
        if keyword == "$recursiveRef":
            return self._recursive(resource) if reference == "#" else None
        if fragment[:1] in ("", "/"):
            found = find_part(f"#{fragment}", resource.schema)
            # Generators embed schemas with an `$id` of their own, and refer to the whole all the same.
            return find_part(f"#{fragment}", self._root.schema) if found is None and not address else found
        name = unquote(fragment)
        if keyword == "$dynamicRef" and name in resource.dynamic:
            return self._dynamically(name, resource)
        return resource.anchors.get(name)

    def _dynamically(self, name: str, resource: _Resource) -> Any:
        """The outermost resource with the anchor counts; the root is outside of all."""
        is_alone = self._dynamic[name] == 1
        return self._root.dynamic.get(name, resource.dynamic[name] if is_alone else None)

    def _recursive(self, resource: _Resource) -> Any:
        marked = [_is_marked(one.schema) for one in (resource, self._root)]
        return self._root.schema if all(marked) else resource.schema


def parts_of(schema: dict[str, Any], *, has_definitions: bool = False) -> Iterator[Any]:
    """Yields the schemas within a schema; definitions count where they are referred to, and are left out
    without `has_definitions`."""
    for keyword, part in schema.items():
        if keyword in ("$defs", "definitions") and not has_definitions:
            continue
        if keyword == "contentSchema":
            yield part
        for _, inner in inner_schemas(keyword, part):
            if isinstance(inner, list):  # the tuple of an earlier draft
                yield from inner
                yield schema.get("additionalItems")
            else:
                yield inner


def _text(schema: Mapping[str, Any], keyword: str) -> str:
    value = schema.get(keyword)
    return value if isinstance(value, str) else ""


def _is_marked(schema: Any) -> bool:
    return isinstance(schema, dict) and schema.get("$recursiveAnchor") is True


def _join(base: str, address: str) -> str:
    """Returns an absolute address, as far as the base is one; empty for one that cannot be followed."""
    if not address or len(address) > _ADDRESS_LENGTH_MAX:
        return ""
    try:
        joined = urljoin(base, address)
    except ValueError:
        return ""
    return joined if len(joined) <= _ADDRESS_LENGTH_MAX else ""
