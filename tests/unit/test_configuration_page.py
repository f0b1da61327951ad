"""The configuration page and `shared/settings.py` agree."""

import json
import re
from pathlib import Path

import pytest
from pydantic import ValidationError

from shared.compaction import DEFAULT_PROMPT
from shared.settings import FORMER_NAMES, Settings

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


def test_the_prompt_of_a_compaction_is_on_the_page_as_it_ships() -> None:
    shown = PAGE.partition("## The prompt of a compaction")[2].partition("```text\n")[2].partition("```")[0]
    assert shown.split() == DEFAULT_PROMPT.split()


def test_a_setting_is_read_from_the_variable_that_the_page_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTIPHON_MODELS", '["gpt-oss-20b"]')
    monkeypatch.setenv("ANTIPHON_TOOL_TIMEOUT_S", "7.5")
    settings = Settings()
    assert settings.models == ["gpt-oss-20b"]
    assert settings.tool_timeout_s == 7.5


def test_a_renamed_setting_is_read_under_its_former_name_with_a_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("ANTIPHON_ATTEMPTS_MAX", "7")
    assert Settings().owners_lost_max == 7
    assert "ANTIPHON_ATTEMPTS_MAX is now called ANTIPHON_OWNERS_LOST_MAX" in caplog.text
    monkeypatch.setenv("ANTIPHON_OWNERS_LOST_MAX", "3")
    assert Settings().owners_lost_max == 3


def test_a_bad_value_under_a_former_name_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTIPHON_ATTEMPTS_MAX", "0")
    with pytest.raises(ValidationError, match="owners_lost_max"):
        Settings()


def test_a_former_name_leads_to_a_setting_and_is_none_itself() -> None:
    for former, present in FORMER_NAMES.items():
        assert former not in Settings.model_fields
        assert present in Settings.model_fields


def test_a_tenants_retention_is_no_less_than_a_second() -> None:
    """With none, each response would be gone when it ends, under its readers' eyes."""
    assert Settings(tenant_retention_s={"acme": 1}).tenant_retention_s == {"acme": 1}
    with pytest.raises(ValidationError, match=r"tenant_retention_s\.acme"):
        Settings(tenant_retention_s={"acme": 0})
