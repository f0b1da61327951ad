"""One word for one thing: no two types of the product share a name."""

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
PRODUCT = ["api", "worker", "tool_runner", "webhooks", "admin", "shared", "local"]


def types_of(tree: ast.Module) -> Iterator[str]:
    """Names of classes anywhere in a module, and of the unions and other aliases at its top."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            yield node.name
    for node in tree.body:
        match node:
            case ast.Assign(targets=[ast.Name(id=name)]) if is_type_name(name):
                yield name


def is_type_name(name: str) -> bool:
    bare = name.lstrip("_")
    return bare[:1].isupper() and not bare.isupper()


def test_no_type_name_is_defined_twice() -> None:
    places: defaultdict[str, list[str]] = defaultdict(list)
    for folder in PRODUCT:
        for file in (ROOT / folder).rglob("*.py"):
            for name in types_of(ast.parse(file.read_text("utf-8"))):
                places[name].append(str(file.relative_to(ROOT)))
    assert len(places) > 100
    assert {name: files for name, files in places.items() if len(files) > 1} == {}
