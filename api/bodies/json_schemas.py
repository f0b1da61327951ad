"""Checks that a value is a JSON schema, so that a client learns of a mistake before anything runs.

Pure. Owns the walk through a schema, its references and the wording of refusals; `shared/json_schema_form.py`
owns the form of each keyword, and the engine decides what can be enforced.
"""

from api.bodies.validation import Path, spell
from api.errors import invalid_value
from shared.json_schema_form import FORMS, find_part, inner_schemas


def check_schema(value: object, path: Path) -> None:
    """Raises ClientError naming the first part that does not have the form of a schema."""
    _check(value, path, value)


def _check(value: object, path: Path, root: object) -> None:
    if isinstance(value, bool):
        return
    if not isinstance(value, dict):
        raise invalid_value(spell(path), "it should be a JSON schema: an object")
    for keyword, part in value.items():
        place = (*path, keyword)
        if keyword in FORMS:
            is_right, wanted = FORMS[keyword]
            if not is_right(part):
                raise invalid_value(spell(place), f"in a JSON schema it should be {wanted}")
        if keyword == "$ref" and not isinstance(find_part(part, root), dict | bool):
            raise invalid_value(spell(place), "it should lead to a part of this schema, as in '#/$defs/name'")
        for step, inner in inner_schemas(keyword, part):
            _check(inner, (*place, *step), root)
