"""What is promised has tests that exist: the README's tables, the request fields, the rules under chaos."""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from api.bodies.requests import CreateBody

ROOT = Path(__file__).parents[2]
TABLE: dict[str, Any] = tomllib.loads((ROOT / "tests/promises.toml").read_text("utf-8"))


def tables_of(page: str) -> dict[str, list[str]]:
    """Heading -> the first cells of the rows of the tables under it, without their head."""
    tables: dict[str, list[str]] = {}
    heading, is_row = "", False
    for line in (ROOT / page).read_text("utf-8").splitlines():
        if line.startswith("#"):
            heading = line.lstrip("# ")
        if re.fullmatch(r"\|[-:| ]+\|", line):
            is_row = True
        elif not line.startswith("|"):
            is_row = False
        elif is_row:
            tables.setdefault(heading, []).append(line.split(" | ")[0].removeprefix("| "))
    return tables


def held(section: dict[str, Any], path: str) -> Iterator[tuple[str, dict[str, list[str]]]]:
    """Every promise of a section, and its tests by file."""
    for name, entry in section.items():
        if all(isinstance(tests, list) for tests in entry.values()):
            yield f"{path} {name}", entry
        else:
            yield from held(entry, f"{path} {name}")


PROMISES = [promise for section in TABLE for promise in held(TABLE[section], section)]


@pytest.mark.parametrize(("promise", "tests"), PROMISES, ids=[name for name, _ in PROMISES])
def test_a_promise_is_held_by_tests_that_exist(promise: str, tests: dict[str, list[str]]) -> None:
    assert sum(map(len, tests.values())) > 0, f"no test holds: {promise}"
    for file, names in tests.items():
        source = (ROOT / "tests" / file).read_text("utf-8")
        defined = set(re.findall(r"^ *(?:async )?def (test_\w+)", source, re.MULTILINE))
        assert set(names) <= defined, f"{file} does not have {set(names) - defined}"


def test_every_row_of_the_readmes_tables_is_a_promise() -> None:
    tables = tables_of("README.md")
    assert tables
    assert {heading: sorted(rows) for heading, rows in tables.items()} == {
        heading: sorted(rows) for heading, rows in TABLE["readme"].items()
    }


def test_every_field_of_a_request_is_a_promise() -> None:
    assert TABLE["fields"].keys() == CreateBody.model_fields.keys()


def test_every_rule_under_chaos_is_a_promise() -> None:
    rules = tables_of("docs/reliability.md")["The rules"]
    assert rules
    assert sorted(TABLE["rules"]) == sorted(rules)
