"""Prompts for the scripted engine, at least one for every shipped scene, and functions that play them."""

import asyncio
import itertools
from dataclasses import dataclass
from typing import Any

from shared.compaction import DEFAULT_PROMPT
from tests.engines import read_chunks
from worker.engines.protocol import Sampling
from worker.engines.scripted.engine import ScriptedEngine
from worker.engines.scripted.prompt import read_prompt
from worker.engines.scripted.scene import Cue, Pace, find_cue
from worker.engines.scripted.script import Script
from worker.engines.scripted.turn import continue_turn
from worker.harmony.signatures import ToolSignature
from worker.harmony.tokens import (
    ChatMessage,
    DeveloperPart,
    HarmonyMessage,
    SystemPart,
    decode,
    render,
)

SCRIPT = Script.load()
SEED = "Multiply 123*456 using the mcp.code_interpreter tool."

PYTHON = SystemPart("medium", "2025-11-05", {"python": None})
NO_PYTHON = SystemPart("medium", "2025-11-05")
BROWSER = SystemPart("medium", "2025-11-05", {"browser": None})
FOUND = ("browser.search", "[0] leases\n**viewing lines [0 - 1] of 1**\n\nL0: \nL1: URL: ")
OPENED = ("browser.open", "[1] Leases (https://a.example/)\n**viewing lines [0 - 1] of 1**\n\nL0: ")
MATCHED = ("browser.find", "[2] Find results (https://a.example/)\n**viewing lines [0 - 1] of 1**\n\nL0: ")
CITY = {
    "type": "object",
    "properties": {"location": {"type": "string"}, "unit": {"type": "string", "enum": ["celsius", "kelvin"]}},
    "required": ["location", "unit"],
}
QUESTION = {"type": "object", "properties": {"q": {"type": "string"}}}
TOOLS = DeveloperPart(
    "Be brief.",
    {
        "functions": (None, (ToolSignature("get_weather", "Weather of a place", CITY),)),
        "deepwiki": ("A wiki", (ToolSignature("ask", "Ask it", QUESTION),)),
        "test-server": (None, (ToolSignature("echo", "Says it again", QUESTION),)),
    },
)


class Mute(ScriptedEngine):
    """Never answers."""

    async def generate(self, *_arguments: Any, **_options: Any) -> None:
        await asyncio.Event().wait()


@dataclass(frozen=True)
class Case:
    """A prompt for one scene of the shipped script: the tools on offer, the messages and the results."""

    scene: str
    message: str
    results: tuple[tuple[str, str], ...] = ()
    offered: tuple[HarmonyMessage, ...] = (PYTHON, TOOLS)

    @property
    def prompt(self) -> list[int]:
        said = [ChatMessage("user", self.message)]
        for author, text in self.results:
            said.append(ChatMessage("tool", text, "commentary", "assistant", name=author))
        return render([*self.offered, *said])


def python_says(*texts: str) -> tuple[tuple[str, str], ...]:
    return tuple(("python", text) for text in texts)


MALFORMED = {
    scene.name: f"Emit malformed Harmony: {scene.name.removeprefix('malformed: ')}"
    for scene in SCRIPT.scenes
    if scene.name.startswith("malformed: ") and "bad arguments" not in scene.name
}
ONLY_MCP = DeveloperPart(None, {"deepwiki": TOOLS.namespaces["deepwiki"]})
CASES = [
    Case("compaction", DEFAULT_PROMPT),
    Case("after a compaction", "# Summary of the conversation so far\n\nIt stands for it.\n\nHello."),
    Case("multiply", SEED),
    Case("multiply", SEED, python_says("56088\n")),
    Case("multiply", SEED, python_says("Traceback (most recent call last):\nMemoryError\n")),
    Case("two products at once", "Multiply 3*4 and 5*6 at once"),
    Case("two products at once", "Multiply 3*4 and 5*6 at once", python_says("12\n", "30\n")),
    Case("add", "Add 1,000 and 2.5"),
    Case("add", "What is 3 plus 4?", python_says("7\n")),
    Case("subtract", "Subtract 4 from 10"),
    Case("subtract", "what's 10 - 3?", python_says("7")),
    Case("divide", "Divide 1 by 8"),
    Case("divide", "7/2", python_says("3.5")),
    Case("expression", "What is (2+3)*4?"),
    Case("arithmetic without python", SEED, offered=(NO_PYTHON,)),
    Case("run python", "Run this:\n```python\nprint('a')\nprint('ü')\n```"),
    Case("run python", "Run this python code: print(1)", python_says("1\n")),
    Case("python many times", "Call python 3 times"),
    Case("python many times", "Call python 3 times", python_says("1", "2")),
    Case("python many times", "Call python 3 times", python_says("1", "2", "3")),
    Case("MCP tool", 'Use deepwiki.ask with {"q": "Wer spricht? 🜨"}'),
    Case("MCP tool", "Use deepwiki.ask", (("deepwiki.ask", "Nobody."),)),
    Case("function", 'Call get_weather with {"location": "Rome"}'),
    Case("weather", "What is the weather like in São Paulo today?"),
    Case("weather", "Weather in Paris", (("functions.get_weather", '{"sky": "grey", "celsius": 9}'),)),
    Case("weather where", "How is the weather?"),
    Case("weather without a function", "What is the weather in Rome?", offered=(NO_PYTHON,)),
    *(
        Case("search the web", "Search the web for leases", results, (BROWSER,))
        for results in ((), (FOUND,), (FOUND, OPENED))
    ),
    *(
        Case("search the web, open and find", "Search for leases and find token.", results, (BROWSER,))
        for results in ((), (FOUND,), (FOUND, OPENED), (FOUND, OPENED, MATCHED))
    ),
    Case("count", "Count from 1 to 100"),
    Case("count slowly", "Count slowly to 5"),
    Case("repeat", "Repeat hello world 30 times"),
    Case("long reasoning", "Reason in 20 steps"),
    Case("greeting", "Hello!"),
    Case("malformed", "Emit malformed Harmony"),
    Case("anything else", "What is love? <|return|> Baby don't hurt me"),
    Case("malformed: bad arguments for a function", "Emit malformed Harmony: bad arguments"),
    Case("malformed: bad arguments for an MCP tool", "Malformed Harmony: bad arguments", (), (ONLY_MCP,)),
    *(Case(name, message) for name, message in MALFORMED.items()),
]


def cue_of(prompt: list[int], script: Script = SCRIPT) -> Cue:
    return find_cue(script.scenes, read_prompt(prompt))


def continuation(prompt: list[int], script: Script = SCRIPT) -> list[int]:
    """Returns all tokens that follow the prompt, without an engine."""
    turn_begin = read_prompt(prompt).turn_begin
    return list(itertools.chain(*continue_turn(prompt, turn_begin, cue_of(prompt, script))))


def said(message: str, *results: tuple[str, str], offered: tuple[HarmonyMessage, ...] = (PYTHON,)) -> str:
    """Returns the turn that the shipped script says, with its special tokens as text."""
    return decode(continuation(Case("", message, results, offered).prompt))


async def play(
    engine: ScriptedEngine, prompt: list[int], max_tokens: int = 10**7, request_id: str = "r"
) -> list[int]:
    chunks = read_chunks(engine, prompt, Sampling(max_tokens), request_id=request_id)
    return [token async for chunk in chunks for token in chunk.token_ids]


async def started(pace: Pace | None = None) -> ScriptedEngine:
    engine = ScriptedEngine(SCRIPT, pace=pace)
    await engine.start()
    return engine
