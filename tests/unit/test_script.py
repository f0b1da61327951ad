"""Scripts as their authors see them: the page's examples play as written, mistakes are named."""

import re
from pathlib import Path

import pytest

from tests.scripted import continuation
from worker.engines.scripted.script import SHIPPED, Script, ScriptError
from worker.engines.scripted.text import FILTERS, parse_template
from worker.harmony.signatures import ToolSignature
from worker.harmony.tokens import (
    ChatMessage,
    DeveloperPart,
    HarmonyMessage,
    SystemPart,
    decode,
    render,
)

PAGE = (Path(__file__).parents[2] / "docs" / "scripted_engine.md").read_text("utf-8")
BLOCK = re.compile(r"^```(toml|play)\n(.*?)^```$", re.M | re.S)


# --- the page ---------------------------------------------------------------------------------


def examples_of_the_page() -> list[tuple[str, str]]:
    """(script, dialogue): each `play` block belongs to the `toml` block before it."""
    examples: list[tuple[str, str]] = []
    script = ""
    for kind, text in BLOCK.findall(PAGE):
        if kind == "toml":
            script = text
        else:
            examples += [(script, dialogue) for dialogue in text.split("\n\n")]
    return examples


def offer(recipients: str) -> list[HarmonyMessage]:
    schema = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    trained: dict[str, str | None] = {}
    namespaces: dict[str, tuple[str | None, tuple[ToolSignature, ...]]] = {}
    for recipient in filter(None, recipients.split(", ")):
        namespace, _, name = recipient.partition(".")
        if name:
            namespaces[namespace] = (None, (ToolSignature(name, "", schema),))
        else:
            trained[namespace] = None
    return [SystemPart("medium", "2025-11-05", trained), DeveloperPart(None, namespaces)]


@pytest.mark.parametrize(("script", "dialogue"), examples_of_the_page())
def test_an_example_of_the_page_plays_as_it_is_written(script: str, dialogue: str) -> None:
    lines = [line.partition(": ")[::2] for line in dialogue.strip().splitlines()]
    offered = lines.pop(0)[1] if lines[0][0] == "offered" else ""
    messages = offer(offered)
    answers = 0
    for speaker, written in lines:
        text = written.replace("\\n", "\n")
        if speaker == "user":
            messages.append(ChatMessage("user", text))
        elif speaker == "assistant":
            assert decode(continuation(render(messages), Script.parse(script))) == text
            answers += 1
        else:
            messages.append(ChatMessage("tool", text, "commentary", "assistant", name=speaker))
    assert answers > 0


def test_the_page_has_examples() -> None:
    assert len(examples_of_the_page()) >= 10


def test_the_page_names_every_filter_and_no_other() -> None:
    section = PAGE.split("| filter | makes |")[1].split("Instead of a text")[0]
    cells = [row.split("|")[1] for row in section.splitlines() if row.startswith("| `")]
    assert {name for cell in cells for name in re.findall(r"`(\w+)", cell)} == {"or", *FILTERS}


def test_the_example_mistake_of_the_page_is_reported_as_shown() -> None:
    shown = re.findall(r"^`script my.toml: (.*)`\.$", PAGE, re.M)
    text = """
        [[scene]]
        name = "square"
        match = "x"
        [[scene.turn]]
        final = "{m}"
        [[scene]]
        name = "rest"
        [[scene.turn]]
        final = "."
    """
    with pytest.raises(ScriptError) as refused:
        Script.parse(text, name="my.toml")
    assert [str(refused.value)] == [f"script my.toml: {message}" for message in shown]


# --- mistakes ---------------------------------------------------------------------------------

REST = '\n[[scene]]\nname = "rest"\n[[scene.turn]]\nfinal = "."\n'


def scene(turn: str, head: str = "") -> str:
    return f'[[scene]]\nname = "first"\nmatch = "(?P<n>[0-9]+)"\n{head}\n[[scene.turn]]\n{turn}\n{REST}'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[[scene", "(at end of document)"),
        ("", "`scene`"),
        ("scene = []", "$.scene"),
        ("[pase]\n" + REST, "`pase`"),
        ("[pace]\ntokens_per_s = -1\n" + REST, "[pace]: "),
        ('[[scene]]\n[[scene.turn]]\nfinal = "."', "scene 'number 1': "),
        ('[[scene]]\nname = "empty"', "scene 'empty': "),
        (
            '[[scene]]\nname = "only"\nmatch = "x"\n[[scene.turn]]\nfinal = "."',
            "scene 'only': the last scene",
        ),
        (REST + REST, "scene 'rest': the name is used twice"),
        ('[patterns]\na = "("\n' + REST, "[patterns] `a`: "),
        ('[patterns]\na = "(?&b)"\nb = "x"\n' + REST, "[patterns] `a`: there is no pattern 'b'"),
        (scene('finale = "."'), "scene 'first': Object contains unknown field `finale` - at `$.turn[0]`"),
        (scene("final = 1"), "scene 'first': "),
        (scene('final = "."', 'pace = { first_token_s = "x" }'), "scene 'first': `pace`: "),
        (scene('final = "."', "when = {}"), "scene 'first': `when`: give exactly one of `function`"),
        (scene('final = "."', 'when = { function = "{x}" }'), "scene 'first': `when`: nothing is called {x}"),
        (scene('final = "{x}"'), "scene 'first': turn 1: `final`: nothing is called {x} here"),
        (scene('final = "{tool}"'), "scene 'first': turn 1: `final`: nothing is called {tool} here"),
        (scene('final = "{n|loud}"'), "scene 'first': turn 1: `final`: no filter is called 'loud'"),
        (scene("final = {}"), "scene 'first': turn 1: `final`: give either `repeat` or `count_to`"),
        (scene('times = "{x}"\nfinal = "."'), "scene 'first': turn 1: `times`: nothing is called {x}"),
        (scene("times = 2"), "scene 'first': turn 1: says nothing"),
        (scene('raw = "x"\nfinal = ""'), "scene 'first': turn 1: `raw` stands alone"),
        (scene('raw = "<|stop|>"'), "scene 'first': turn 1: `raw`: <|stop|> is no token"),
        (scene('raw = "<|id:201088|>"'), "scene 'first': turn 1: `raw`: <|id:201088|> is no token"),
        (scene('raw = "<|return|>more"'), "scene 'first': turn 1: `raw`: nothing comes after a stop token"),
        (
            scene('raw = "<|start|>user<|message|>"'),
            "scene 'first': turn 1: `raw`: only the assistant speaks",
        ),
        (scene('raw = "<|start|>assistant{n}"'), "scene 'first': turn 1: `raw`: only the assistant speaks"),
        (scene('raw = "<|start|><|id:1428|>"'), "scene 'first': turn 1: `raw`: only the assistant speaks"),
        (scene('raw = "<|call|>"'), "scene 'first': the last turn calls a tool"),
        (scene('call = { tool = "python", code = "1" }'), "scene 'first': the last turn calls a tool"),
        (scene('call = { tool = "python" }'), "scene 'first': turn 1: `call`: give exactly one of `code`"),
        (
            scene('call = { tool = "f", fill = { a = "b" } }'),
            "scene 'first': turn 1: `call`: `fill` needs a `when`",
        ),
        (
            scene('final = "."\ncall = { tool = "python", code = "1" }'),
            "scene 'first': turn 1: a turn ends with `final` or with `call`, not with both",
        ),
        (
            scene('final = "."').replace("<n>", "<tool>"),
            "scene 'first': `match`: a group cannot be called 'tool'",
        ),
        (scene('final = "."').replace("[0-9]+)", "[0-9]+"), "scene 'first': `match`: "),
        (scene('final = "."').replace("(?P", "(?&x)(?P"), "scene 'first': `match`: there is no pattern 'x'"),
        ('[error]\nmatch = "("\nfinal = "."\n' + REST, "scene 'rest': `error`: "),
    ],
)
def test_a_mistake_is_reported_with_its_place(text: str, message: str) -> None:
    with pytest.raises(ScriptError) as refused:
        Script.parse(text, name="my.toml")
    assert str(refused.value).startswith("script my.toml: ")
    assert message in str(refused.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ScriptError, match=r"nowhere\.toml cannot be read"):
        Script.load(tmp_path / "nowhere.toml")
    (tmp_path / "latin.toml").write_bytes(b"# caf\xe9")
    with pytest.raises(ScriptError, match=r"latin\.toml cannot be read"):
        Script.load(tmp_path / "latin.toml")


def test_without_a_path_the_shipped_script_is_played() -> None:
    names = [scene.name for scene in Script.load().scenes]
    assert names == [scene.name for scene in Script.load(SHIPPED).scenes]
    assert "multiply" in names


# --- texts ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("template", "value", "text"),
    [
        ("{x}", "a", "a"),
        ("{{x}} {x }{ x}{} {1}", "a", "{x} {x }{ x}{} {1}"),
        ('{"q": {x|json}}', 'say "ü"', '{"q": "say \\"ü\\""}'),
        ("{x|or:none}", "", "none"),
        ("{y}|", "a", "|"),
        ("{x|thousands}", "56088\n", "56,088"),
        ("{x|thousands}", "-1234567.25", "-1,234,567.25"),
        ("{x|thousands}", "1e+30", "1e+30"),
        ("{x|thousands}", "a = 1\n1234", "1,234"),
        ("{x|thousands}", "None\n", "None"),
        ("{x|number}", "it is 7 now", "7"),
        ("{x|plain}", "+1,234.50", "1234.50"),
        ("{x|plain}", "\N{MINUS SIGN}.5", "-0.5"),
        ("{x|plain}", "000", "0"),
        ("{x|plain}", "ten", "ten"),
        ("{x|json_object}", 'a { b } {"c": {"d": 1}} {"e": 2}', '{"c": {"d": 1}}'),
        ("{x|json_object}", "nothing", "{}"),
        ("{x|facts}", '{"a": 1, "b": "x", "c": [2]}', "a: 1, b: x, c: [2]"),
        ("{x|facts}", " [1] ", "[1]"),
        ("{x|short}", "a" * 501, "a" * 500 + " …"),
        ("{x|quoted}", "a\nb", "> a\n> b"),
        ("{x|strip|upper}", " a ", "A"),
    ],
)
def test_a_text_stands_for_its_values(template: str, value: str, text: str) -> None:
    assert parse_template(template).expand({"x": value}) == text
