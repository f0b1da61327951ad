"""The measurement for GPUs runs, on a tiny shape and without one."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_measurement_for_gpus_ends_with_a_table_of_both_ways() -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "bench", "gpu", "--tiny"],
        cwd=ROOT,
        env=os.environ,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert ran.returncode == 0, ran.stderr[-4000:]
    rows = [line.split(" | ") for line in ran.stdout.splitlines() if line.startswith("| ")]
    head, _, *measured = rows
    assert [row[0].strip("| ") for row in measured] == [
        "1, `AsyncLLM` alone",
        "1, whole path, each response read",
        "4, `AsyncLLM` alone",
        "4, whole path, each response read",
    ]
    assert all(len(row) == len(head) for row in measured)
    for row in measured:
        assert float(row[1].split(" ")[0].replace(",", "")) > 0
