"""What a script's file declares is what its callers pass and what its text uses."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from shared.store.redis.joint_scripts import JointScript
from shared.store.redis.scripts import LuaScript, StoredScript

ROOT = Path(__file__).parents[2]
STORE = ROOT / "shared" / "store"
TEXTS = {str(path.relative_to(STORE).with_suffix("")): path.read_text() for path in STORE.rglob("*.lua")}
JOINT = {name for name, text in TEXTS.items() if "\n-- EACH KEYS " in text}
SCRIPTS = sorted(JOINT | {name for name, text in TEXTS.items() if re.search(r"\n-- (KEYS|ARGV) ", text)})
PARTS = sorted(TEXTS.keys() - set(SCRIPTS))
FUNCTION = re.compile(r"^local function (\w+)", re.MULTILINE)


def script_of(name: str) -> StoredScript:
    return JointScript(name) if name in JOINT else LuaScript(name)


def body_of(name: str) -> str:
    """Its code, without comments."""
    return re.sub(r"--.*", "", TEXTS[name])


def script_named_in(call: ast.expr) -> str | None:
    match call:
        case ast.Call(func=ast.Name("LuaScript" | "JointScript" as kind), args=[ast.Constant(str(name))]):
            assert (kind == "JointScript") == (name in JOINT)
            return name
        case _:
            return None


def scripts_in(tree: ast.Module) -> dict[str, str]:
    """Names of variables -> the scripts that they hold."""
    found: dict[str, str] = {}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Assign):
            continue
        pairs = [(node.targets[0], node.value)]
        if isinstance(node.targets[0], ast.Tuple) and isinstance(node.value, ast.Tuple):
            pairs = list(zip(node.targets[0].elts, node.value.elts, strict=True))
        for target, value in pairs:
            name = script_named_in(value)
            if name is not None and isinstance(target, ast.Name):
                found[target.id] = name
    return found


def calls() -> Iterator[tuple[str, str, ast.Call]]:
    """Every call of a script by its variable's name: where, which, how."""
    for folder in ("api", "worker", "tool_runner", "webhooks", "shared"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            tree = ast.parse(path.read_text())
            held = scripts_in(tree)
            for node in ast.walk(tree):
                match node:
                    case ast.Call(func=ast.Name(name) | ast.Attribute(value=ast.Name(name), attr="bind")):
                        if name in held:
                            yield f"{path.relative_to(ROOT)}:{node.lineno}", held[name], node
                    case _:
                        pass


CALLS = list(calls())


@pytest.mark.parametrize(("name", "call"), [pytest.param(name, call, id=at) for at, name, call in CALLS])
def test_a_caller_passes_what_the_file_declares_and_nothing_else(name: str, call: ast.Call) -> None:
    script = script_of(name)
    passed = [keyword.arg for keyword in call.keywords]
    assert None not in passed, "names that are not written out cannot be compared"
    is_bound = isinstance(call.func, ast.Attribute)
    args = script.args[: len(passed) - len(script.keys)] if is_bound else script.args
    assert sorted(map(str, passed)) == sorted([*script.keys, *args])
    assert script.is_open_ended or not call.args


def test_every_script_has_a_caller_that_is_compared() -> None:
    assert sorted({name for _, name, _ in CALLS}) == SCRIPTS


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_declared_name_is_used_and_means_one_thing(name: str) -> None:
    script, body = script_of(name), body_of(name)
    declared = [*script.keys, *script.args]
    assert len(set(declared)) == len(declared)
    assert [word for word in declared if not re.search(rf"\b{word}\b", body)] == []
    functions = {function for part in PARTS for function in FUNCTION.findall(body_of(part))}
    assert not functions & set(declared), "a name hides a function"


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_goes_by_names_and_not_by_places(name: str) -> None:
    assert re.findall(r"\bKEYS\b|\bARGV\[\d", body_of(name)) == []


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_lists_its_replies(name: str) -> None:
    assert re.search(r"^-- -> \S", (STORE / f"{name}.lua").read_text(), re.MULTILINE)


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_declares_the_parts_whose_functions_it_calls(name: str) -> None:
    script = script_of(name)
    called = {
        part
        for part in PARTS
        for function in FUNCTION.findall(body_of(part))
        if re.search(rf"\b{function}\(", body_of(name))
    }
    assert called == set(script.uses)


def test_a_call_with_another_name_is_refused() -> None:
    script = LuaScript("records/delete")
    with pytest.raises(TypeError, match="records/delete"):
        script(state="s", log="l")
    given = dict.fromkeys([*script.keys, *script.args], "x")
    with pytest.raises(TypeError):
        script(**given, other="x")
    with pytest.raises(TypeError):
        script("more", **given)
    assert script(**given).command()[2] == len(script.keys)
