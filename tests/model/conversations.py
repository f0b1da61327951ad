"""What the tiny checkpoint has memorized: the conversations, and the tokens that the model says in them.

Pure. `prompts.py` puts them into prompts, `train.py` trains on them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from worker.asking.conversation import call_message, tool_message
from worker.harmony.tokens import END, NEXT_TURN, RETURN, ChatMessage, render_message


@dataclass(frozen=True, slots=True)
class Step:
    """The model says `said`, up to a call or its final message. `result`: the called tool's answer."""

    said: tuple[ChatMessage, ...]
    result: str | None = None


@dataclass(frozen=True, slots=True)
class Conversation:
    """A conversation: `asked` precedes the first step, and a step's result the next step."""

    name: str
    asked: tuple[ChatMessage, ...]
    steps: tuple[Step, ...]
    tool: str | None = None
    """The tool that must be offered, if any: `python`, `browser` or a namespace."""
    is_result_read: bool = False
    """If set, the next step depends on the result; otherwise any result leads to it."""
    other_wordings: tuple[str, ...] = ()
    """Alternatives to the last message of `asked`."""


def tokens_said(said: Sequence[ChatMessage]) -> list[int]:
    """Returns the tokens that the model generates: without `<|start|>assistant` at the beginning, with a stop
    token at the end."""
    tokens = [token for message in said for token in render_message(message)][len(NEXT_TURN) :]
    return [*tokens[:-1], RETURN] if tokens[-1] == END else tokens


def tokens_told(step: Step, result: str) -> list[int]:
    """Returns the tool's answer to the step's call, and the start of the assistant's next message."""
    recipient = step.said[-1].recipient
    if recipient is None:
        raise ValueError(f"the step ends without a call: {step.said[-1].text!r}")
    return render_message(tool_message(recipient, result)) + NEXT_TURN


def _user(text: str) -> ChatMessage:
    return ChatMessage("user", text)


def _think(text: str) -> ChatMessage:
    return ChatMessage("assistant", text, "analysis")


def _answer(text: str) -> ChatMessage:
    return ChatMessage("assistant", text, "final")


# --- the conversations --------------------------------------------------------------------------

GREETING = Conversation(
    "greeting",
    (_user("Hello!"),),
    (Step((_think("The user greets. I greet back."), _answer("Hello! How can I help you today?"))),),
    other_wordings=("Hello",),
)
_MULTIPLY = _user("Multiply 123*456 using the mcp.code_interpreter tool.")
_COMPUTE = (_think("We need to compute 123*456. Use python."), call_message("python", "123*456\n"))
PYTHON = Conversation(
    "python",
    (_MULTIPLY,),
    (
        Step(_COMPUTE, "56088\n"),
        Step((_answer(r"The product of \(123 \times 456\) is **56,088**."),)),
    ),
    tool="python",
    is_result_read=True,
)
PYTHON_FAILED = Conversation(
    "python failed",
    (_MULTIPLY,),
    (
        Step(_COMPUTE, "NameError: name 'x' is not defined"),
        Step((_answer("The python tool gave no product."),)),
    ),
    tool="python",
)
FUNCTION = Conversation(
    "function",
    (_user("What is the weather in Paris?"),),
    (
        Step(
            (
                _think("The function get_weather knows it."),
                call_message("functions.get_weather", '{"location": "Paris"}'),
            ),
            '{"temperature": 21, "condition": "sunny"}',
        ),
        Step((_think("The function has answered."), _answer("It is 21 degrees and sunny in Paris."))),
    ),
    tool="functions",
)
MCP = Conversation(
    "MCP tool",
    (_user("Ask deepwiki what Harmony is."),),
    (
        Step(
            (
                _think("I ask deepwiki."),
                call_message(
                    "deepwiki.ask_question",
                    '{"repoName": "openai/harmony", "question": "What is Harmony?"}',
                ),
            ),
            "Harmony is the response format of the GPT-OSS models.",
        ),
        Step((_answer("Harmony is the format in which GPT-OSS reads and writes."),)),
    ),
    tool="deepwiki",
)
BROWSER = Conversation(
    "browser",
    (_user("Search the web for Antiphon."),),
    (
        Step(
            (_think("I search first."), call_message("browser.search", '{"query": "Antiphon"}')),
            "[0] Search results\n\nL0: 【0†Antiphon†example.org】 The Responses API for GPT-OSS.",
        ),
        Step(
            (_think("I open the first result."), call_message("browser.open", '{"id": 0}')),
            "[1] Antiphon (https://example.org/)\n\nL0: Antiphon serves the Responses API.",
        ),
        Step((_answer("Antiphon serves the Responses API on many machines【1†L0】."),)),
    ),
    tool="browser",
)
COUNT = Conversation(
    "count",
    (_user("Count from 1 to 100"),),
    (Step((_think("I count."), _answer(", ".join(map(str, range(1, 101)))))),),
    other_wordings=("Count from 1 to 100.",),
)
JSON = Conversation(
    "JSON",
    (_user("Describe Ada Lovelace as JSON."),),
    (Step((_think("The answer is JSON."), _answer('{"name": "Ada Lovelace", "born": 1815}'))),),
)
PERSON_SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "born": {"type": "integer"}},
    "required": ["name", "born"],
    "additionalProperties": False,
}
"""The schema that the answer of `JSON` satisfies."""
_WHO_AM_I = _user("What is my name?")
NO_NAME = Conversation(
    "no name",
    (_WHO_AM_I,),
    (Step((_think("No name was told."), _answer("You have not told me your name."))),),
)
NAMES = ("Max", "Clara")


def tell_name(name: str) -> Conversation:
    """Returns a conversation in which users say who they are. `name`: one of `NAMES`."""
    told = Step((_think("I remember the name."), _answer(f"Nice to meet you, {name}.")))
    return Conversation("name told", (_user(f"My name is {name}."),), (told,))


def ask_name(name: str) -> Conversation:
    """Returns a conversation after that of `tell_name`, with the question for the name."""
    before = tell_name(name)
    recalled = Step((_think("The user told me the name."), _answer(f"Your name is {name}.")))
    return Conversation("name asked", (*before.asked, before.steps[0].said[-1], _WHO_AM_I), (recalled,))


UNKNOWN = Conversation(
    "unknown",
    (_user("Tell me anything else."),),
    (Step((_think("I do not know this one."), _answer("I am a tiny model and know a few answers only."))),),
)
"""Stands for any text that is not one of the others."""
WITHOUT_TOOL = _answer("I can call no tool here.")
"""What is said if a call was about to be made but only an answer is allowed."""

CONVERSATIONS = (
    GREETING,
    PYTHON,
    PYTHON_FAILED,
    FUNCTION,
    MCP,
    BROWSER,
    COUNT,
    JSON,
    NO_NAME,
    *map(tell_name, NAMES),
    *map(ask_name, NAMES),
    UNKNOWN,
)


def tokens_in_use() -> list[int]:
    """Returns every id that occurs in a conversation, ascending: the only ids that the model
    distinguishes."""
    used: set[int] = set()
    for conversation in CONVERSATIONS:
        last = conversation.asked[-1]
        wordings = [ChatMessage(last.role, text) for text in conversation.other_wordings]
        for message in (*conversation.asked, *wordings, WITHOUT_TOOL):
            used.update(render_message(message))
        for step in conversation.steps:
            used.update(tokens_said(step.said))
            if step.result is not None:
                used.update(tokens_told(step, step.result))
    return sorted(used)
