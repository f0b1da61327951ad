"""Every promise names tests that exist, and every test of clients is named by a promise.

Forward: every row of the README's tables, every request field and every rule under chaos has an entry in
`promises.toml`. Every entry names at least one test in each of its files, every test that is named exists,
and `make test` or `make test-slow` runs at least one of them. A rule has a test of the chaos checker and one
of the system.

Backward: every test in `tests/conformance` is named by an entry, because each states what a client may rely
on. Tests in the other folders also state what holds inside the system, which nobody was promised, so they
need no entry.
"""

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


RUN_BY_MAKE_TEST = ("unit", "integration", "conformance")


def defined_in(file: str) -> set[str]:
    source = (ROOT / "tests" / file).read_text("utf-8")
    return set(re.findall(r"^ *(?:async )?def (test_\w+)", source, re.MULTILINE))


@pytest.mark.parametrize(("promise", "tests"), PROMISES, ids=[name for name, _ in PROMISES])
def test_a_promise_is_held_by_tests_that_exist(promise: str, tests: dict[str, list[str]]) -> None:
    assert any(file.split("/")[0] in RUN_BY_MAKE_TEST for file in tests), (
        f"make test does not hold: {promise}"
    )
    for file, names in tests.items():
        assert names, f"{promise} names no test of {file}"
        assert len(set(names)) == len(names)
        assert set(names) <= defined_in(file), f"{file} does not have {set(names) - defined_in(file)}"


def test_every_test_of_conformance_holds_a_promise() -> None:
    named: dict[str, set[str]] = {}
    for _, tests in PROMISES:
        for file, names in tests.items():
            named.setdefault(file, set()).update(names)
    files = [f"conformance/{path.name}" for path in (ROOT / "tests/conformance").glob("test_*.py")]
    assert files
    unnamed = {file: missing for file in files if (missing := defined_in(file) - named.get(file, set()))}
    assert not unnamed


def test_the_table_has_the_sections_that_are_checked_here() -> None:
    assert TABLE.keys() == {"readme", "prose", "fields", "rules"}


def test_what_the_readme_is_said_to_promise_stands_there() -> None:
    text = " ".join((ROOT / "README.md").read_text("utf-8").split())
    assert [words for words in TABLE["prose"] if words not in text] == []


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


@pytest.mark.parametrize("rule", TABLE["rules"])
def test_a_rule_is_held_in_the_checker_and_in_the_system(rule: str) -> None:
    """A test of the checker shows that a breach would be found; another shows that there is none."""
    files = set(TABLE["rules"][rule])
    of_the_checker = {file for file in files if file.startswith("unit/test_chaos_")}
    assert of_the_checker
    assert files - of_the_checker
