"""The configuration page and `shared/settings.py` tell the same."""

import json
import re
from pathlib import Path

import pytest

from shared.settings import Settings

PAGE = (Path(__file__).parents[2] / "docs" / "configuration.md").read_text()
PREFIX = "ANTIPHON_"
ROW = re.compile(r"^\| `(ANTIPHON_[A-Z_]+)` \| (.+?) \| (.+?) \| (.+?) \|$", re.MULTILINE)
ROWS = {name: (default, unit, meaning) for name, default, unit, meaning in ROW.findall(PAGE)}


def written(default: object) -> str:
    """A default as the page writes it."""
    match default:
        case None:
            return "unset"
        case "":
            return "empty"
        case str():
            return f"`{default}`"
        case _:
            return f"`{json.dumps(default)}`"


def expected_unit(field: str) -> str | None:
    """The unit that a setting's name ends in; None where the name has none."""
    for ending, unit in (("_s", "seconds"), ("_bytes_max", "bytes"), ("_tokens_max", "tokens")):
        if field.endswith(ending):
            return unit
    return None


@pytest.mark.parametrize("field", list(Settings.model_fields))
def test_a_setting_is_on_the_page_with_its_default_and_unit(field: str) -> None:
    name = PREFIX + field.upper()
    assert name in ROWS, f"docs/configuration.md has no row for {name}"
    default, unit, _meaning = ROWS[name]
    # A list's default may come from a factory.
    assert default == written(Settings.model_fields[field].get_default(call_default_factory=True))
    assert unit == (expected_unit(field) or unit)


def test_the_page_has_one_row_for_each_setting_and_no_other() -> None:
    names = [row[0] for row in ROW.findall(PAGE)]
    assert sorted(names) == sorted(PREFIX + field.upper() for field in Settings.model_fields)


def test_a_setting_is_read_from_the_variable_that_the_page_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTIPHON_MODELS", '["gpt-oss-20b"]')
    monkeypatch.setenv("ANTIPHON_TOOL_TIMEOUT_S", "7.5")
    settings = Settings()
    assert settings.models == ["gpt-oss-20b"]
    assert settings.tool_timeout_s == 7.5
