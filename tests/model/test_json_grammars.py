"""Grammars of JSON schemas over our vocabulary, without a model: what they let through, and their cache."""

import json
from collections.abc import Sequence
from concurrent.futures import Future, wait
from typing import Any

import pytest

from tests.model.constrained import VOCABULARY_SIZE, Asked
from worker.engines.protocol import Body, Call, Constraint, Unfulfillable
from worker.harmony.tokens import RETURN

pytestmark = pytest.mark.filterwarnings("default")  # what vLLM and torch deprecate is theirs

STRINGS: list[dict[str, Any]] = [
    {},
    {"maxLength": 128},
    {"minLength": 128},
    {"minLength": 1, "maxLength": 500},
    {"minLength": 129},
    *({"pattern": pattern} for pattern in (r"^.{1,9}$", r"^\S+$", r"^[^a]+$", r"^\W+$", "^[!-~]+$", "^\t$")),
    *(
        {"format": name}
        for name in ("json-pointer", "relative-json-pointer", "uri", "uri-reference", "uri-template")
    ),
]
WRONG = ['"', "\t", "\x00", "\n", "\x1f", "\\x"]


@pytest.fixture(scope="module")
def grammars() -> Any:
    from worker.engines.vllm.json_grammar import JsonGrammars

    return JsonGrammars(VOCABULARY_SIZE)


def body_of(schema: object, *, is_strict: bool = False) -> Body:
    return Body(True, json.dumps(schema), is_strict)


def is_allowed(grammars: Any, body: Body, text: str) -> bool:
    from worker.engines.vllm.json_grammar import JsonMatcher

    matcher = JsonMatcher(grammars.begin(body).result(), RETURN)
    return bool(matcher.matcher.accept_string(text)) and matcher.accept(RETURN)


@pytest.mark.parametrize("of_string", STRINGS, ids=str)
def test_no_string_holds_a_raw_quote_or_control_character(grammars: Any, of_string: dict[str, Any]) -> None:
    body = body_of({"type": "array", "items": {"type": "string", **of_string}})
    for wrong in WRONG:
        for text in (wrong, f"b{wrong}b", f"/b{wrong}", f"0/b{wrong}b", f"{wrong}{'b' * 130}"):
            assert not is_allowed(grammars, body, f'["{text}"]')


def test_a_value_that_the_type_excludes_is_not_generated(grammars: Any) -> None:
    body = body_of({"type": "string", "enum": ["x", 1]}, is_strict=True)
    assert is_allowed(grammars, body, '"x"')
    assert not is_allowed(grammars, body, "1")


@pytest.mark.parametrize(
    "schema", [{"required": [{}]}, {"enum": [*range(20_000)]}], ids=lambda v: str(v)[:20]
)
def test_what_is_no_schema_or_too_large_is_refused_or_any_object(grammars: Any, schema: Any) -> None:
    with pytest.raises(Unfulfillable, match=r"^The JSON schema cannot be enforced: "):
        grammars.begin(body_of(schema, is_strict=True)).result()
    assert is_allowed(grammars, body_of(schema), '{"any": 1}')
    assert not is_allowed(grammars, body_of(schema), "5")


def test_what_is_in_the_making_is_never_begun_again(grammars: Any) -> None:
    bodies = [body_of({"const": number}) for number in range(700)]
    first = [grammars.begin(body) for body in bodies]
    unfinished = [n for n, grammar in enumerate(first) if not grammar.done()]
    for _ in range(3):
        again = [grammars.begin(bodies[n]) for n in unfinished]
        assert all(one is first[n] for one, n in zip(again, unfinished, strict=True) if not first[n].done())
    wait(first, timeout=60)
    grammars.begin(body_of({"const": "new"})).result()
    assert len(grammars) <= 512, "what is finished is forgotten"


def offering(bodies: Sequence[Body]) -> Constraint:
    return Constraint(tuple(Call(f"functions.f{n}", (), body) for n, body in enumerate(bodies)), None)


class Counting:
    """Grammars that are compiled whenever nothing further is requested."""

    def __init__(self) -> None:
        self.batches: list[list[tuple[Body, Future[Any]]]] = [[]]

    def begin(self, body: Body) -> "Future[Any]":
        compiled: Future[Any] = Future()
        self.batches[-1].append((body, compiled))
        return compiled

    def compile(self) -> None:
        batch = self.batches[-1]
        self.batches.append([])
        for _, compiled in batch:
            compiled.set_result(None)


def asked_for(constraint: Constraint) -> list[Body]:
    grammars = Counting()
    request = Asked(constraint, (), grammars)
    while not request.may_start:
        grammars.compile()
    assert max(map(len, grammars.batches)) <= 16
    return [body for batch in grammars.batches for body, _ in batch]


def test_beyond_a_bound_calls_that_are_not_strict_share_any_object() -> None:
    strict = [body_of({"const": n}, is_strict=True) for n in range(10)]
    lax = [body_of({"const": n}) for n in range(2_000)]
    asked = asked_for(offering([*lax, *strict]))
    assert len(asked) == 128
    assert asked[:10] == strict
    assert asked[-1].schema is None


def test_more_strict_schemas_than_the_bound_are_refused() -> None:
    strict = [body_of({"const": n}, is_strict=True) for n in range(129)]
    assert len(asked_for(offering(strict[:128]))) == 128
    assert "different strict JSON schemas" in str(Asked(offering(strict), (), Counting()).refusal)
