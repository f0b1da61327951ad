"""What `docs/security.md` promises is held by tests that exist."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "security.md").read_text()
ROWS = re.findall(r"^\| (.+) \| (.+) \|$", PAGE, re.MULTILINE)
TESTS = {
    name
    for path in (ROOT / "tests").rglob("test_*.py")
    for name in re.findall(r"^ *(?:async )?def (test_\w+)", path.read_text(), re.MULTILINE)
}


def test_every_promise_of_the_security_page_names_tests_that_exist() -> None:
    promises = [row for row in ROWS if row[0] != "promise"]
    assert len(promises) >= 10
    for promise, tests in promises:
        named = re.findall(r"`(test_\w+)`", tests)
        assert named, f"no test holds {promise!r}"
        assert set(named) <= TESTS, f"{promise!r} names tests that do not exist: {set(named) - TESTS}"
