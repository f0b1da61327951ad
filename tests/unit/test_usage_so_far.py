"""What is stored of an open response's usage: not with each token, and still to the token."""

import msgspec
import pytest

from shared.responses import Usage
from shared.usage import complete_usage, counted_entries
from tests.memory import MemoryLog, attempt
from tests.requests import make_request
from worker.engines.scripted.engine import ScriptedEngine
from worker.engines.scripted.scene import Pace
from worker.engines.scripted.script import Script
from worker.response import log_writer

SCRIPT = """
[[scene]]
name = "all"
[[scene.turn]]
raw = '''<|channel|>analysis<|message|>{thoughts}<|end|><|start|>assistant<|channel|>commentary \
to=functions.code_interpreter.python <|constrain|>json<|message|>{{"code": "1 + 1"}}<|call|>'''
[[scene.turn]]
raw = '''<|channel|>final<|message|>{answer}<|return|>'''
""".format(thoughts="hm " * 40 + "\u1f9d " * 3, answer="\N{FIREWORKS} two " * 25)
PYTHON = {"type": "mcp", "server_label": "code_interpreter", "require_approval": "never"}


async def run(log: MemoryLog, *, shows_turns: bool) -> None:
    request = make_request("Go", tools=[PYTHON])
    request = msgspec.structs.replace(request, enable_response_messages=shows_turns)
    engine = ScriptedEngine(Script.parse(SCRIPT), pace=Pace(step_s=0.001))
    await attempt(request, log=log, engine=engine)


def usage_at(log: MemoryLog, end: int) -> Usage | None:
    """What a process that closes the response after so many entries comes to."""
    appends = zip(log.usages, log.ends, strict=True)
    stored = [b"", *(usage for usage, at in appends if usage and at <= end)][-1]
    tokens = [0, *(len(entry.tokens) for entry in log.entries[: end - 1])]
    return complete_usage(stored, sum(tokens[counted_entries(stored) :]))


@pytest.mark.parametrize("uncounted_max", [256, 7])
@pytest.mark.parametrize("shows_turns", [False, True])
async def test_usage_is_exact_after_every_append_though_few_appends_store_it(
    monkeypatch: pytest.MonkeyPatch, uncounted_max: int, shows_turns: bool
) -> None:
    monkeypatch.setattr(log_writer, "_UNCOUNTED_MAX", uncounted_max)
    log = MemoryLog()
    await run(log, shows_turns=shows_turns)
    reasoning = [entry for entry in log.entries if b"response.reasoning_text.delta" in entry.frame]
    assert len(reasoning) > 30
    for end in log.ends[:-1]:
        usage = usage_at(log, end)
        logged = sum(len(entry.tokens) for entry in log.entries[: end - 1])
        assert (usage.output_tokens if usage else 0) == logged
        if usage is None:
            continue
        assert usage.total_tokens == usage.input_tokens + usage.output_tokens
        details = usage.output_tokens_details
        if shows_turns:
            assert isinstance(details.output_tokens_per_turn, tuple)
            assert sum(details.output_tokens_per_turn) == usage.output_tokens
        so_far = [entry for entry in log.entries[: end - 1] if entry in reasoning]
        thought = sum(len(entry.tokens) for entry in so_far)
        assert details.reasoning_tokens == pytest.approx(thought, abs=10)
    assert sum(map(bool, log.usages)) < len(log.usages) * 0.5


async def test_the_version_before_reads_what_is_stored_and_the_other_way_round() -> None:
    log = MemoryLog()
    await run(log, shows_turns=True)
    stored = [usage for usage in log.usages if usage][-1]
    before = msgspec.json.decode(stored, type=Usage)
    assert before == complete_usage(stored, 0)
    stored_before = msgspec.json.encode(before)
    assert complete_usage(stored_before, 0) == before
    assert [1, 2, 3][counted_entries(stored_before) :] == []
    assert complete_usage(b"", 5) is None
