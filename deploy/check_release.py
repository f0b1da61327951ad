"""`check_release.py VERSION [FOLDER]`: says what is missing for a release of this version (docs/release.md).

Owns the comparison; releases nothing. Exit status 0 if nothing is missing, 1 otherwise.
"""

import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

_ROOT = Path(__file__).parent.parent
_COMPOSE = ("compose.yaml", "deploy/compose.cpu.yaml")


def find_missing(version: str, root: Path) -> Iterator[str]:
    """Yields what is not as it should be, each as a sentence."""
    stated = tomllib.loads((root / "pyproject.toml").read_text())["project"]["version"]
    if stated != version:
        yield f"pyproject.toml has the version {stated}."
    yield from _in_changelog(version, (root / "CHANGELOG.md").read_text())
    for name in _COMPOSE:
        tags = re.findall(r"image: antiphon-[a-z-]+(\S*)", (root / name).read_text())
        if set(tags) != {f":${{ANTIPHON_TAG:-{version}}}"}:
            yield f"{name} has images with other tags: {', '.join(sorted(set(tags)))}."
    for path in sorted((root / "deploy/kubernetes/overlays").glob("*/kustomization.yaml")):
        other = set(re.findall(r"newTag: ([^\s}]+)", path.read_text())) - {version}
        if other:
            yield f"{path.relative_to(root)} has images with other tags: {', '.join(sorted(other))}."


def _in_changelog(version: str, text: str) -> Iterator[str]:
    headings = re.findall(r"^## (.+)$", text, re.MULTILINE)
    newest = headings[0] if headings else "no section"
    if not re.fullmatch(rf"{re.escape(version)} \([0-9]{{4}}-[0-9]{{2}}-[0-9]{{2}}\)", newest):
        yield f"CHANGELOG.md begins with '{newest}', not with '{version} (YYYY-MM-DD)'."


def main(arguments: list[str]) -> int:
    if not 1 <= len(arguments) <= 2:
        print("usage: check_release.py VERSION [FOLDER]", file=sys.stderr)
        return 2
    missing = list(find_missing(arguments[0], Path(arguments[1]) if len(arguments) == 2 else _ROOT))
    for each in missing:
        print(each)
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
