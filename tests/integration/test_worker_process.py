"""`python -m worker` as a process: what it says when it cannot start."""

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
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "worker"),
        cwd=ROOT,
        env={**os.environ, name: value},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, errors = await process.communicate()
    assert process.returncode == 2
    assert errors.decode().startswith("worker: 1 validation error")
    assert said in errors.decode()
    assert "Traceback" not in errors.decode()
    assert output == b""
