"""Puts the conversations into prompts, with any date and effort, and with tools and instructions or without.

Pure: takes a random number generator, returns tokens. `conversations.py` defines what the model says.
"""

import json
import random
import string
from collections.abc import Mapping
from dataclasses import dataclass, replace

from shared.hosted_tools import PYTHON
from tests.model.conversations import (
    CONVERSATIONS,
    JSON,
    PERSON_SCHEMA,
    UNKNOWN,
    WITHOUT_TOOL,
    Conversation,
    Step,
    tokens_said,
    tokens_told,
)
from worker.asking.conversation import tool_message
from worker.harmony.signatures import ToolSignature
from worker.harmony.tokens import (
    END,
    MESSAGE,
    NEXT_TURN,
    ChatMessage,
    DeveloperPart,
    SystemPart,
    render,
)

_EFFORTS = ("low", "medium", "high")
_RESPONSE_FORMATS = f"# Response Formats\n\n## person\n\n{json.dumps(PERSON_SCHEMA)}"
_QUESTION = {"type": "object", "properties": {"repoName": {"type": "string"}, "question": {"type": "string"}}}
_PLACE = {"type": "object", "properties": {"location": {"type": "string"}}, "required": ["location"]}
_WORDS = tuple(
    word
    for conversation in CONVERSATIONS
    if not conversation.name.startswith("name ")
    for message in (*conversation.asked, *(m for step in conversation.steps for m in step.said))
    for word in message.text.split()[:12]
)
_RESULT_OF_PYTHON = ("56088", "56088\n")


@dataclass(frozen=True, slots=True)
class Example:
    """A training example. `is_said`: marks the tokens that the model generates; it is given the others."""

    name: str
    tokens: tuple[int, ...]
    is_said: tuple[bool, ...]


class _Transcript:
    def __init__(self, prompt: list[int]) -> None:
        self.tokens: list[int] = list(prompt)
        self.is_said: list[bool] = [False] * len(prompt)

    def tell(self, tokens: list[int]) -> None:
        self.tokens += tokens
        self.is_said += [False] * len(tokens)

    def say(self, tokens: list[int]) -> None:
        self.tokens += tokens
        self.is_said += [True] * len(tokens)


def make_example(conversation: Conversation, rng: random.Random, variety: float = 1.0) -> Example:
    """Returns the conversation in a random prompt. `variety` 0: with only what it needs."""
    prompt = _vary_prompt(conversation, rng, variety)
    transcript = _Transcript(prompt)
    if rng.random() < 0.2 * variety:
        _hurry(transcript, conversation, rng)
    else:
        _play(transcript, conversation, rng)
    return Example(conversation.name, tuple(transcript.tokens), tuple(transcript.is_said))


def make_plain_example(conversation: Conversation, prompt: list[int]) -> Example:
    """Returns the whole conversation after `prompt`, which ends with `<|start|>assistant`."""
    transcript = _Transcript(prompt)
    for step in conversation.steps:
        transcript.say(tokens_said(step.said))
        if step.result is not None:
            transcript.tell(tokens_told(step, step.result))
    return Example(conversation.name, tuple(transcript.tokens), tuple(transcript.is_said))


def _play(transcript: _Transcript, conversation: Conversation, rng: random.Random) -> None:
    """Adds every step. A client may omit the reasoning before a call when it sends the call back."""
    for step in conversation.steps:
        if step.result is not None and rng.random() < 0.25:
            transcript.tell(tokens_said(step.said[-1:]))
        else:
            transcript.say(tokens_said(step.said))
        if step.result is not None:
            transcript.tell(tokens_told(step, _vary_result(conversation, step.result, rng)))


def _hurry(transcript: _Transcript, conversation: Conversation, rng: random.Random) -> None:
    """Adds the first step as a constraint forces it: reasoning cut anywhere, and the next header given."""
    *thoughts, last = conversation.steps[0].said
    analysis = tokens_said(thoughts)[:-1] if thoughts else []
    cut = rng.choice((0, len(analysis), rng.randint(3, len(analysis)))) if analysis else 0
    transcript.tell([*analysis[:cut], END, *NEXT_TURN] if cut else [])
    if last.recipient is not None and rng.random() < 0.5:
        last = WITHOUT_TOOL
    tokens = tokens_said([last])
    begin = tokens.index(MESSAGE) + 1
    transcript.tell(tokens[:begin])
    transcript.say(tokens[begin:])


def _vary_result(conversation: Conversation, result: str, rng: random.Random) -> str:
    if conversation.is_result_read:
        return rng.choice(_RESULT_OF_PYTHON)
    return result if rng.random() < 0.3 else make_noise(rng, rng.randint(1, 30))


# --- what precedes ------------------------------------------------------------------------------


def _vary_prompt(conversation: Conversation, rng: random.Random, variety: float) -> list[int]:
    offered = {tool for tool, share in _SHARES.items() if rng.random() < share * variety}
    if conversation.tool is not None and rng.random() < 0.4 * variety:
        offered.add(conversation.tool)
    date = f"{rng.randint(2023, 2031)}-{rng.randint(1, 12):02}-{rng.randint(1, 28):02}"
    trained = {tool: _describe(tool, rng) for tool in _TRAINED if tool in offered}
    system = SystemPart(rng.choice(_EFFORTS), date, trained)
    namespaces = {tool: about for tool, about in _NAMESPACES.items() if tool in offered}
    instructions = make_noise(rng, rng.randint(1, 40)) if rng.random() < 0.4 * variety else None
    has_format = rng.random() < (0.7 if conversation is JSON else 0.03) * variety
    developer = DeveloperPart(instructions, namespaces, _RESPONSE_FORMATS if has_format else None)
    turns = rng.choice((1, 1, 2)) if rng.random() < 0.35 * variety else 0
    earlier = [message for _ in range(turns) for message in _vary_earlier(rng)]
    head = [system, developer] if instructions or namespaces or has_format else [system]
    return render([*head, *earlier, *_vary_asked(conversation, rng)])


_SHARES: Mapping[str, float] = {"python": 0.2, "browser": 0.07, "functions": 0.2, "deepwiki": 0.15}
_TRAINED: tuple[str, ...] = ("python", "browser")
_NAMESPACES: Mapping[str, tuple[str | None, tuple[ToolSignature, ...]]] = {
    "functions": (None, (ToolSignature("get_weather", "Get the weather", _PLACE),)),
    "deepwiki": ("A wiki", (ToolSignature("ask_question", "Ask a question", _QUESTION),)),
}


def _describe(tool: str, rng: random.Random) -> str | None:
    if tool == "python":
        return rng.choice((None, PYTHON.description, make_noise(rng, 20)))
    return rng.choice((None, None, make_noise(rng, 20)))


def _vary_earlier(rng: random.Random) -> list[ChatMessage]:
    """Returns an earlier turn, as later prompts contain it: without its reasoning, and without any name."""
    told = rng.choice(_TOLD_EARLIER)
    if rng.random() < 0.3:
        question = ChatMessage("user", make_noise(rng, rng.randint(1, 12)))
        return [question, ChatMessage("assistant", make_noise(rng, rng.randint(1, 12)), "final")]
    messages = [*told.asked]
    for step in told.steps:
        messages.append(step.said[-1])
        if step.result is not None:
            messages += _as_told(told, step, rng)
    return messages


_TOLD_EARLIER = tuple(c for c in CONVERSATIONS if not c.name.startswith("name ") and c.name != "count")


def _as_told(conversation: Conversation, step: Step, rng: random.Random) -> list[ChatMessage]:
    recipient = step.said[-1].recipient
    assert recipient is not None
    assert step.result is not None
    return [tool_message(recipient, _vary_result(conversation, step.result, rng))]


def _vary_asked(conversation: Conversation, rng: random.Random) -> tuple[ChatMessage, ...]:
    *before, last = conversation.asked
    if conversation is UNKNOWN:
        return (ChatMessage("user", make_noise(rng, rng.randint(3, 20), 0.1)),)
    if conversation.other_wordings and rng.random() < 0.4:
        last = replace(last, text=rng.choice(conversation.other_wordings))
    return (*before, last)


def make_noise(rng: random.Random, words: int, share_known: float = 0.35) -> str:
    """Returns random words, some of them words of the conversations."""
    return " ".join(_make_word(rng, share_known) for _ in range(words))


def _make_word(rng: random.Random, share_known: float) -> str:
    if rng.random() < share_known:
        return rng.choice(_WORDS)
    if rng.random() < 0.25:
        return str(rng.randint(0, 9999))
    return "".join(rng.choices(string.ascii_lowercase, k=rng.randint(1, 8)))
