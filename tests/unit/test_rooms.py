"""CONTRIBUTING's table of rooms is what the code does: which room imports which, and who speaks to Redis."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROLES = ("api", "worker", "tool_runner", "webhooks", "admin", "shared")
SECTION = (ROOT / "CONTRIBUTING.md").read_text("utf-8").partition("\n## Rooms\n")[2].partition("\n## ")[0]
PURE = "shared (pure)"
ROWS = re.findall(r"^\| (`[^|]+) \| [^|]+ \| ([^|]+) \| [^|]+ \|$", SECTION, re.MULTILINE)
ROOMS = {
    PURE if "(pure)" in cell else room: imports
    for cell, imports in ROWS
    for room in re.findall(r"`([^`]+)`", cell)
}
"""Room -> the cell that says what it imports."""
SENDING = {"command", "transaction", "run", "run_many", "raw"}
"""The attributes of a RedisClient that send commands."""
JOINING = {"api/app.py", "api/__main__.py"}
"""Files that may import more than their room."""


def room_of(path: str) -> str:
    """The innermost room that a file is in. `path`: `api/bodies/tools.py`."""
    found = [room for room in ROOMS if path == room or path.startswith(f"{room}/")]
    return max(found, key=len, default=PURE if path.startswith("shared/") else path)


def stated(room: str) -> set[str]:
    """The rooms that the table lets a room import."""
    rooms: set[str] = set()
    for every, pure, name in re.findall(r"(every room of )?(pure )?`([^`]+)`", ROOMS[room]):
        if pure:
            rooms.add(PURE)
        elif every:
            rooms |= {other for other in ROOMS if other == name or other.startswith(f"{name}/")}
        elif name == "shared":
            rooms |= {PURE, *(other for other in ROOMS if other.startswith("shared/"))}
        else:
            assert name in ROOMS.keys() | JOINING, f"{room} imports {name}, which is no room"
            rooms |= {name} - JOINING
    return rooms


def files() -> Iterator[Path]:
    for role in ROLES:
        yield from sorted((ROOT / role).rglob("*.py"))


def imports_of(path: Path) -> Iterator[str]:
    """The files of ours that a file imports."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)]
        for name in names:
            imported = f"{name.replace('.', '/')}.py"
            if imported.startswith(ROLES) and (ROOT / imported).is_file():
                yield imported


def test_the_table_has_every_room() -> None:
    packages = {path.parent for path in files() if path.parent.name not in ("worker", "engines", "store")}
    named = {str(package.relative_to(ROOT)) for package in packages} - {"shared"}
    assert named | {"worker", PURE} <= ROOMS.keys()
    assert {room for room in ROOMS if room != PURE and not (ROOT / room).exists()} == set()


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_what_the_table_lets_it(room: str) -> None:
    imported = {
        (str(path.relative_to(ROOT)), other)
        for path in files()
        if room_of(str(path.relative_to(ROOT))) == room
        for name in imports_of(path)
        if (other := room_of(name)) != room
    }
    assert {(path, other) for path, other in imported if other not in stated(room)} == set()
    if "every room" not in ROOMS[room] and not re.search(r"(?<!pure )`shared`", ROOMS[room]):
        assert stated(room) == {other for _, other in imported}, "it names a room that is not imported"


def test_only_what_joins_and_starts_the_api_imports_the_routes() -> None:
    importing = {
        str(path.relative_to(ROOT))
        for path in files()
        if any("api/routes/" in name for name in imports_of(path))
    }
    assert {name for name in importing if not name.startswith("api/routes/")} == JOINING


def test_no_role_sends_a_command_to_redis_itself() -> None:
    sending = []
    for path in files():
        name = str(path.relative_to(ROOT))
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            match node:
                case ast.Attribute(
                    value=ast.Name("redis") | ast.Attribute(attr="redis" | "_redis"), attr=attr
                ):
                    if attr in SENDING:
                        sending.append((name, node.lineno))
                case _:
                    pass
    assert [name for name, _ in sending if name.startswith("shared/store/")]
    assert [place for place in sending if not place[0].startswith("shared/store/")] == []


def test_no_file_has_more_than_400_lines() -> None:
    lines = {path.relative_to(ROOT): len(path.read_text("utf-8").splitlines()) for path in files()}
    assert {path: number for path, number in lines.items() if number >= 400} == {}
