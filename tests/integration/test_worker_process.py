"""`python -m worker` as a process: what it reports if it cannot start."""

import asyncio
import os
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("ANTIPHON_LEASE_TTL_S", "soon", "lease_ttl_s"),
        ("ANTIPHON_REDIS_URL", "redis+sentinel://nobody", "redis_url"),
        ("ANTIPHON_DRAIN_GRACE_S", "10", "drain_grace_s must be less than lease_ttl_s"),
    ],
)
async def test_a_worker_with_a_wrong_setting_names_it_in_one_message(
    name: str, value: str, said: str
) -> None:
    assert said in await _refusal(name, value, "worker: 1 validation error")


@pytest.mark.parametrize(
    ("script", "said"),
    [
        (None, "cannot be read"),
        ("[[scene]]", "name"),
        ("x = " + "[" * 5_000, "it is nested too deeply"),
        ('[patterns]\na = "a{99999999999}"\n[[scene]]\nname = "s"\nturn = [{final = "x"}]', "too large"),
    ],
)
async def test_a_worker_with_a_bad_script_says_what_is_wrong_with_it_in_one_message(
    tmp_path: Path, script: str | None, said: str
) -> None:
    path = tmp_path / "bad.toml"
    if script is not None:
        path.write_text(script)
    assert said in await _refusal("ANTIPHON_SCRIPT", str(path), f"worker: script {path}")


async def _refusal(name: str, value: str, begins: str) -> str:
    """What a worker with this setting says on stderr before it ends with 2."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "worker"),
        cwd=ROOT,
        env={**os.environ, name: value},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, errors = await process.communicate()
    said = errors.decode()
    assert process.returncode == 2
    assert said.startswith(begins)
    assert "Traceback" not in said
    assert output == b""
    return said
