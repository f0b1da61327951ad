"""Fifty JSON schemas of various kinds, for a model that answers at random.

Numbers are bounded, since random digits need never end; some texts are bounded, others not.
"""

from typing import Any

DIGIT = {"type": "integer", "minimum": 0, "maximum": 9}
WORD = {"type": "string", "maxLength": 12}
TEXT = {"type": "string"}


def an_object(**properties: Any) -> dict[str, Any]:
    """Returns an object schema; properties whose name ends in an underscore are optional."""
    return {
        "type": "object",
        "properties": properties,
        "required": [name for name in properties if not name.endswith("_")],
        "additionalProperties": False,
    }


def a_list(items: Any, shortest: int = 0, longest: int = 3) -> dict[str, Any]:
    return {"type": "array", "items": items, "minItems": shortest, "maxItems": longest}


MEETING = an_object(
    title=WORD,
    room={"enum": ["blue", "green", None]},
    guests=a_list(an_object(name=WORD, age={"type": "integer", "minimum": 0, "maximum": 120}), 1),
    is_public={"type": "boolean"},
)
_NODE = an_object(value=DIGIT, left_={"anyOf": [{"type": "null"}, {"$ref": "#/$defs/node"}]})
_FORMATS = ("date", "time", "date-time", "ipv4", "uuid")
_RANGES = ((0, 9), (-5, 5), (10, 99), (1, 1), (-1_000, 1_000), (0, 2**31 - 1))
_PATTERNS = ("^[a-z]{1,8}$", "^[A-Z]{3}-[0-9]{4}$", "^(red|green|blue)$", "^[0-9a-f]{8}$", "^x.{0,10}y$")

SCHEMAS: list[Any] = [
    MEETING,
    an_object(),
    an_object(text=TEXT),
    an_object(text=WORD),
    an_object(a=TEXT, b=TEXT, c=TEXT),
    an_object(flag={"type": "boolean"}, nothing={"type": "null"}),
    an_object(a_=DIGIT, b_=DIGIT, c=DIGIT),
    an_object(a_=DIGIT, b_=WORD, c_={"type": "boolean"}),
    an_object(maybe={"type": ["string", "null"]}),
    an_object(maybe={"type": ["integer", "null"], "minimum": 0, "maximum": 9}),
    an_object(either={"anyOf": [DIGIT, WORD, {"type": "boolean"}]}),
    an_object(
        either={"anyOf": [an_object(kind={"const": "a"}, x=DIGIT), an_object(kind={"const": "b"}, y=WORD)]}
    ),
    an_object(deep=an_object(deeper=an_object(deepest=an_object(end=DIGIT)))),
    an_object(items=a_list(TEXT)),
    an_object(items=a_list(DIGIT, 5, 5)),
    an_object(items=a_list(a_list(a_list(DIGIT, 1, 2), 1, 2), 1, 2)),
    an_object(items=a_list(an_object(key=WORD, value=DIGIT), 1, 4)),
    an_object(pair={"type": "array", "prefixItems": [DIGIT, WORD], "minItems": 2, "maxItems": 2}),
    an_object(choice={"enum": ["one", "two", "three"]}),
    an_object(choice={"enum": [1, "two", None, True]}),
    an_object(choice={"type": "string", "enum": [f"value {number}" for number in range(40)]}),
    an_object(fixed={"const": "always"}, also={"const": 7}),
    an_object(**{"name with spaces": DIGIT, 'a "quoted" one': DIGIT, "ünïcödé": DIGIT}),
    an_object(**{f"field_{number}": DIGIT for number in range(30)}),
    an_object(short={"type": "string", "minLength": 2, "maxLength": 4}),
    an_object(at_least={"type": "string", "minLength": 20}),
    an_object(long={"type": "string", "maxLength": 100}),
    an_object(ratio={"type": "number", "minimum": 0, "maximum": 1}),
    an_object(above={"type": "integer", "exclusiveMinimum": 10, "exclusiveMaximum": 20}),
    {**an_object(tree={"$ref": "#/$defs/node"}), "$defs": {"node": _NODE}},
    {**an_object(a={"$ref": "#/definitions/d"}, b={"$ref": "#/definitions/d"}), "definitions": {"d": DIGIT}},
    {**an_object(a=DIGIT), "title": "Annotated", "description": "All of it.", "default": {"a": 1}},
    {"type": "object", "properties": {"a": DIGIT}, "required": ["a"], "additionalProperties": WORD},
    {"type": "array", "items": WORD, "minItems": 2, "maxItems": 3},
    TEXT,
    WORD,
    DIGIT,
    {"enum": ["yes", "no"]},
    {"anyOf": [an_object(a=DIGIT), an_object(b=DIGIT)]},
    *(an_object(when={"type": "string", "format": name}) for name in _FORMATS),
    *(an_object(n={"type": "integer", "minimum": low, "maximum": high}) for low, high in _RANGES),
    *(an_object(text={"type": "string", "pattern": pattern}) for pattern in _PATTERNS),
]
