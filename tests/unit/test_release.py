"""What a release needs (docs/release.md): one version in every place that names it."""

import re
import shutil
import tomllib
from pathlib import Path

import pytest

from deploy.check_release import find_missing

ROOT = Path(__file__).parents[2]
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The files that name a version, with a changelog as a release has it."""
    overlays = [str(path.relative_to(ROOT)) for path in ROOT.glob("deploy/kubernetes/overlays/*/*")]
    for name in ("pyproject.toml", "CHANGELOG.md", "compose.yaml", "deploy/compose.cpu.yaml", *overlays):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    changelog = (tmp_path / "CHANGELOG.md").read_text()
    (tmp_path / "CHANGELOG.md").write_text(
        changelog.replace("## Unreleased", f"## {VERSION} (2026-12-01)", 1)
    )
    return tmp_path


def test_nothing_but_a_date_is_missing_for_a_release_of_this_version(copy: Path) -> None:
    assert [each for each in find_missing(VERSION, ROOT) if "CHANGELOG" not in each] == []
    assert list(find_missing(VERSION, copy)) == []


def test_each_place_that_has_another_version_is_named(copy: Path) -> None:
    named = " ".join(find_missing("9.9.9", copy))
    for name in ("pyproject.toml", "CHANGELOG.md", "compose.yaml", "compose.cpu.yaml", "overlays/gpu"):
        assert name in named
    path = copy / "deploy/kubernetes/overlays/gpu/kustomization.yaml"
    path.write_text(re.sub(r"newTag: \S+}", "newTag: latest}", path.read_text(), count=1))
    (missing,) = find_missing(VERSION, copy)
    assert "latest" in missing
