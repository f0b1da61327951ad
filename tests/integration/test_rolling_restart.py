"""The short form of `make rolling`."""

from pathlib import Path

import pytest

from tests.rolling import restart_under_load

pytestmark = pytest.mark.slow


@pytest.mark.timeout(600)
async def test_no_call_ends_short_in_silence_while_everything_is_restarted(tmp_path: Path) -> None:
    tally = await restart_under_load(tmp_path / "data", rounds=1, clients=12)
    assert tally.short == [], tally.describe()
    assert tally.whole > 0, tally.describe()
