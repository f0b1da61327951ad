"""Third-party clients are pinned exactly, and no lock file says where they are fetched from."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NODE = ROOT / "tests" / "clients" / "node"


def test_every_package_for_node_is_pinned_by_version_and_hash_and_by_no_address() -> None:
    wanted = json.loads((NODE / "package.json").read_text())["dependencies"]
    assert all(re.fullmatch(r"[0-9]+\.[0-9]+\.[0-9]+", version) for version in wanted.values())
    locked = json.loads((NODE / "package-lock.json").read_text())["packages"]
    root = locked.pop("")
    assert root["dependencies"] == wanted
    assert wanted.keys() <= {path.removeprefix("node_modules/") for path in locked}
    assert [path for path, package in locked.items() if "integrity" not in package] == []
    assert [path for path, package in locked.items() if "resolved" in package] == []


@pytest.mark.parametrize("name", ["clients.txt", "chat-clients.txt"])
def test_every_package_for_python_is_pinned_by_version_and_hash_and_by_no_address(name: str) -> None:
    lines = (ROOT / "requirements" / name).read_text().splitlines()
    pins = [line for line in lines if line and line[0] not in " #"]
    assert all(re.match(r"[a-z0-9._-]+(\[[a-z,]+\])?==\S+ ", pin) and pin.endswith("\\") for pin in pins)
    assert [line for line in lines if "://" in line] == []


@pytest.mark.skipif(shutil.which("npm") is None, reason="needs node, which only the clients need")
def test_with_node_the_target_goes_on() -> None:
    version = subprocess.run(["node", "--version"], capture_output=True, text=True, check=True).stdout
    asked = subprocess.run(["make", "node"], cwd=ROOT, capture_output=True, check=False)
    assert (asked.returncode == 0) == (int(version[1:].split(".")[0]) >= 20)


@pytest.mark.parametrize(
    ("program", "complaint"),
    [
        (None, "needs Node 20 or newer; here is none"),
        ("exit 1", "needs Node 20 or newer"),
        ("exit 0", "needs npm, which is not installed"),
    ],
    ids=["none", "old", "alone"],
)
def test_without_node_the_target_fails_and_says_so(
    tmp_path: Path, program: str | None, complaint: str
) -> None:
    for tool in ("make", "sh", "echo"):
        found = shutil.which(tool)
        assert found is not None
        (tmp_path / tool).symlink_to(found)
    if program is not None:
        (tmp_path / "node").write_text(f"#!{shutil.which('sh')}\n{program}\n")
        (tmp_path / "node").chmod(0o755)
    done = subprocess.run(
        ["make", "test-clients"],
        cwd=ROOT,
        env={"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert complaint in done.stderr
