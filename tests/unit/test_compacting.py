"""Compactions within an attempt: what is left of a context, what is kept whole, where a takeover goes on."""

import asyncio
import base64
from collections.abc import Sequence
from typing import Any, cast

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import SecretStr

from shared import events as ev
from shared.compaction import DEFAULT_PROMPT, Compacted, as_shown, read_compacted
from shared.containers import continued_container
from shared.context_length import TOO_LONG
from shared.input_items import InputCompaction, InputItem, InputMessage
from shared.lifecycle import fold
from shared.responses import Compaction, CompactionRules, FunctionCall, Message, Response, ResponseRequest
from shared.sealing import COMPACTION, Seal
from shared.settings import Settings
from shared.store.log.closing import WholeAnswer
from tests.items import items_of
from tests.memory import MemoryLog, attempt
from tests.requests import make_request
from worker.asking.conversation import render_items
from worker.engines.scripted.engine import ScriptedEngine
from worker.engines.scripted.script import Script
from worker.harmony.tokens import ChatMessage, render_message
from worker.response.hopeless import Hopeless
from worker.response.stepper import Stepper
from worker.response.summary_pieces import cut

KEYS = [SecretStr(base64.urlsafe_b64encode(bytes([n] * 32)).decode()) for n in (1, 2)]
SETTINGS = Settings(seal_keys=KEYS[:1])
RULES = CompactionRules(DEFAULT_PROMPT, share_max=0.25, tokens_min=256)
SCRIPT = r"""
[[scene]]
name = "summary"
match = '\ASummarise'
[[scene.turn]]
analysis = "A summary is wanted."
final = "All in all: é 𓀀. {conversation}"

[[scene]]
name = "after"
match = '\A# Summary'
[[scene.turn]]
final = "I go on."

[[scene]]
name = "search"
match = 'Search'
when = { trained_tool = "python" }
[[scene.turn]]
call = { tool = "python", code = "'found ' * 600" }
[[scene.turn]]
final = "Never said: the context is compacted first."

[[scene]]
name = "much"
match = 'Much'
when = { trained_tool = "python" }
[[scene.turn]]
call = { tool = "python", code = "'found ' * 1300" }
[[scene.turn]]
final = "Never said: it does not fit."

[[scene]]
name = "any"
[[scene.turn]]
analysis = "Think."
final = "Say."
"""


def said(*texts: str) -> list[dict[str, Any]]:
    """Messages of the user and the assistant in turn."""
    return [
        {"role": ("user", "assistant")[place % 2], "content": text, "type": "message", "id": f"msg_{place}"}
        for place, text in enumerate(texts)
    ]


def asking(items: Sequence[dict[str, Any]], rules: CompactionRules = RULES, **fields: Any) -> ResponseRequest:
    request = make_request(**fields)
    return msgspec.structs.replace(request, input=items_of(list(items)), compaction=rules)


def opened(log: MemoryLog) -> list[Compacted]:
    done = [event.item for event in log.events if isinstance(event, ev.OutputItemDone)]
    seal = Seal(KEYS, "default", COMPACTION)
    texts = [seal.open(item.encrypted_content) for item in done if isinstance(item, Compaction)]
    return [read_compacted(text) for text in texts if text is not None]


def response_of(log: MemoryLog) -> Response:
    last = log.events[-1]
    assert isinstance(last, ev.ResponseCompleted)
    return last.response


def tokens_of(items: Sequence[InputItem]) -> int:
    return sum(len(render_message(message)) for message in render_items(items))


async def compacted(items: Sequence[dict[str, Any]], rules: CompactionRules = RULES) -> Compacted:
    log = await attempt(asking(items, rules), script=SCRIPT, settings=SETTINGS)
    (only,) = opened(log)
    return only


@given(st.lists(st.integers(1, 300), min_size=1, max_size=9), st.floats(0.05, 0.6))
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_is_left_is_at_most_the_share_and_has_the_newest_messages_whole(
    words: list[int], share: float
) -> None:
    texts = said(*(f"word{place} " * count for place, count in enumerate(words)))
    items, rules = items_of(texts), CompactionRules(DEFAULT_PROMPT, share, tokens_min=256)
    made = asyncio.run(compacted(texts, rules))
    left = tokens_of([*made.kept, InputCompaction(encrypted_content="", summary=made.summary)])
    assert made.summary
    of_user = [item for item in items if isinstance(item, InputMessage) and item.role == "user"]
    tokens_max, last = max(int(share * tokens_of(items)) + 2, 256), tokens_of(of_user[-1:])
    assert left <= tokens_max + last
    assert left <= tokens_max or last > tokens_max - 128, "the last message may take more"
    assert made.kept == of_user[len(of_user) - len(made.kept) :]
    assert made.kept, "the user's last message, however long"


async def test_the_users_last_message_comes_before_a_long_summary() -> None:
    made = await compacted(said(*["word " * 100] * 9))
    assert [item.id for item in made.kept] == ["msg_8"]
    assert made.summary.startswith("All in all: é 𓀀. user: word")
    assert made.is_whole


async def test_a_long_last_message_is_kept_whole_also_before_instructions_that_came_later() -> None:
    later = {"type": "message", "role": "developer", "content": "Rule. " * 400, "id": "msg_d"}
    made = await compacted([*said("Hi.", "Hello.", "step " * 1_500), later])
    assert [item.id for item in made.kept] == ["msg_2"]
    assert made.summary


async def test_messages_are_kept_without_the_images_and_files_that_the_model_does_not_read() -> None:
    parts: list[dict[str, Any]] = [
        {"type": "input_text", "text": "Look:"},
        {"type": "input_image", "image_url": "data:image/png;base64," + "A" * 100_000},
        {"type": "input_file", "filename": "a.bin", "file_data": "data:x/y;base64," + "/w" * 50_000},
        {"type": "input_file", "filename": "a.txt", "file_data": "data:text/plain;base64,SGVsbG8="},
    ]
    texts = [{"role": role, "content": parts, "type": "message"} for role in ("developer", "user")]
    made = await compacted(texts)
    assert len(made.kept) == 2
    assert render_items(made.kept) == render_items(items_of(texts)), "the model reads the same"
    assert len(made.encode()) < 2_000


async def test_calls_that_wait_are_kept_even_if_they_are_more_than_the_share() -> None:
    long = "x " * 2_000
    calls: list[dict[str, Any]] = [
        {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}", "id": "fc_1"},
        {"type": "function_call_output", "call_id": "c1", "output": "done"},
        {"type": "function_call", "call_id": "c2", "name": "f", "arguments": long, "id": "fc_2"},
        {"type": "mcp_approval_request", "id": "mcpr_1", "server_label": "l", "name": "n", "arguments": "{}"},
        {"type": "mcp_approval_request", "id": "mcpr_2", "server_label": "l", "name": "n", "arguments": "{}"},
        {"type": "mcp_approval_response", "approval_request_id": "mcpr_2", "approve": False, "id": "mcpa_1"},
        {"type": "mcp_approval_request", "id": "mcpr_3", "server_label": "l", "name": "n", "arguments": "{}"},
        {"type": "mcp_approval_response", "approval_request_id": "mcpr_3", "approve": True, "id": "mcpa_2"},
    ]
    made = await compacted([*said("Go."), *calls])
    assert [item.id for item in made.waiting] == ["fc_2", "mcpr_1", "mcpr_3", "mcpa_2"]
    assert made.summary


async def test_instructions_stay_and_an_earlier_summary_is_summarised_with_the_rest() -> None:
    texts: list[dict[str, Any]] = [
        {"type": "message", "role": "system", "content": "Be brief. " * 300, "id": "msg_s"},
        {"type": "message", "role": "user", "content": "Old.", "id": "msg_o"},
        {"type": "compaction", "encrypted_content": "-", "summary": "Earlier.", "id": "cmp_1"},
        {"type": "message", "role": "user", "content": "New.", "id": "msg_n"},
    ]
    made = await compacted(texts)
    assert [item.id for item in made.kept] == ["msg_s", "msg_n"]
    assert "Earlier." in made.summary
    made = await compacted(texts[:3])
    assert [item.id for item in made.kept] == ["msg_s", "msg_o"], "the user's last one, however old"


async def test_code_goes_on_in_its_container_after_it_was_summarised() -> None:
    container = f"cntr_0_{'a' * 32}"
    code: dict[str, Any] = {
        "type": "code_interpreter_call",
        "id": "ci_1",
        "container_id": container,
        "code": "1",
        "status": "completed",
    }
    made = await compacted([*said("Run it."), code])
    item = InputCompaction(id="cmp_1", encrypted_content="-")
    request = msgspec.structs.replace(
        make_request(previous_response_id="resp_1"), context=made.in_place_of(item)
    )
    assert continued_container(request) == container
    (shown,) = [each for each in as_shown(request.context) if isinstance(each, InputCompaction)]
    assert shown == item


@pytest.mark.parametrize(
    ("turn", "summary"),
    [
        ("<|channel|>analysis<|message|>Only thought.<|return|>", "Only thought."),
        ('<|channel|>commentary to=functions.f<|message|>{"a": 1}<|call|>', "user: Please go."),
        ("<|return|>", "user: Please go."),
        ("<|channel|>final<|message|>1<|end|><|start|>assistant<|channel|>final<|message|>2", "1\n\n2"),
    ],
)
async def test_a_model_that_writes_no_summary_loses_nothing(turn: str, summary: str) -> None:
    script = f"[[scene]]\nname = 'all'\n[[scene.turn]]\nraw = '''{turn}'''\n"
    if turn.endswith("<|call|>"):
        script += "[[scene.turn]]\nfinal = 'x'\n"
    log = await attempt(asking(said("Please  go.")), script=script, settings=SETTINGS)
    (made,) = opened(log)
    assert made.summary == summary


# --- within a response ----------------------------------------------------------------------------

PYTHON: Any = {"type": "mcp", "server_label": "code_interpreter", "require_approval": "never"}


def managed(text: str, threshold: int, **fields: Any) -> ResponseRequest:
    rules = msgspec.structs.replace(RULES, threshold=threshold)
    return msgspec.structs.replace(make_request(text, tools=[PYTHON], **fields), compaction=rules)


def kinds(log: MemoryLog) -> list[str]:
    return [str(event.__struct_config__.tag).removeprefix("response.") for event in log.events]


async def test_a_context_beyond_the_threshold_is_compacted_after_the_answer() -> None:
    request = managed("Hello " * 100, 150)
    log = await attempt(request, script=SCRIPT, settings=SETTINGS)
    response = response_of(log)
    assert [item.__struct_config__.tag for item in response.output] == ["reasoning", "message", "compaction"]
    told = kinds(log)[kinds(log).index("output_text.done") + 2 : -1]
    assert told[:2] == ["output_item.done", "output_item.added"]
    assert set(told[2:-1]) == {"compaction.compacting"}
    assert told[-1] == "output_item.done"
    events = [ev.ResponseCreated(request.response), *log.events]
    assert fold(events[:-1]).output == response.output, "what is streamed is what is returned"
    (made,) = opened(log)
    assert [item.id for item in made.kept] == [request.input[0].id]
    plain = msgspec.structs.replace(request, compaction=None)
    alone = response_of(await attempt(plain, script=SCRIPT, settings=SETTINGS)).usage
    assert alone is not None
    assert response.usage is not None
    assert response.usage.output_tokens > alone.output_tokens, "the summary counts"


async def test_whoever_ends_a_response_while_it_is_compacted_has_its_whole_answer() -> None:
    """And nothing of it before that."""
    request = managed("Hello " * 100, 150)
    log = await attempt(request, script=SCRIPT, settings=SETTINGS)
    answered = msgspec.json.decode(log.answered, type=WholeAnswer)
    *answer, _ = response_of(log).output
    assert list(answered.response.output) == answer
    assert answered.response.status == "completed"
    assert kinds(log)[answered.entries - 1 :][:2] == ["output_item.added", "compaction.compacting"]
    assert (await attempt(managed("Hello", 5_000), script=SCRIPT, settings=SETTINGS)).answered == b""


async def test_below_the_threshold_nothing_is_different() -> None:
    request = managed("Hello", 5_000)
    plain = msgspec.structs.replace(request, compaction=None)
    logs = [await attempt(each, script=SCRIPT, settings=SETTINGS) for each in (request, plain)]
    assert logs[0].frames == logs[1].frames


async def test_the_model_goes_on_from_what_a_compaction_has_left() -> None:
    log = await attempt(managed("Search", 500), script=SCRIPT, settings=SETTINGS)
    response = response_of(log)
    tags = [item.__struct_config__.tag for item in response.output]
    assert tags == ["mcp_call", "compaction", "message"]
    assert isinstance(response.output[-1], Message)
    assert response.output[-1].content[0].text == "I go on."


async def test_a_call_that_the_client_is_to_run_is_within_the_item() -> None:
    weather: Any = {"type": "function", "name": "f", "parameters": {"type": "object"}}
    script = SCRIPT.replace("python", "f").replace("trained_tool", "function")
    request = msgspec.structs.replace(managed("Search " * 200, 150), tools=[weather])
    calling = script.replace("code = \"'found ' * 600\"", "arguments = {}").replace(
        'tool = "f"', 'tool = "functions.f"'
    )
    log = await attempt(request, script=calling, settings=SETTINGS)
    call, item = response_of(log).output
    assert isinstance(call, FunctionCall)
    assert isinstance(item, Compaction)
    (made,) = opened(log)
    assert [each.id for each in made.waiting] == [call.id]


async def test_the_limit_of_an_answer_does_not_limit_a_summary() -> None:
    log = await attempt(managed("Hello " * 100, 150, max_output_tokens=20), script=SCRIPT, settings=SETTINGS)
    (made,) = opened(log)
    assert made.summary.startswith("All in all")
    assert response_of(log).status == "completed"


async def test_instructions_beyond_the_threshold_do_not_have_every_response_compacted() -> None:
    rules = msgspec.structs.replace(RULES, threshold=200)
    instructions: dict[str, Any] = {"type": "message", "role": "developer", "content": "Rule. " * 400}
    for texts, count in ((said("Hi."), 0), (said("Hello " * 100), 1)):
        request = asking([instructions, *texts], rules)
        log = await attempt(request, script=SCRIPT, settings=SETTINGS)
        assert len(opened(log)) == count


async def test_what_an_earlier_response_has_compacted_is_not_compacted_at_once_again() -> None:
    rules = msgspec.structs.replace(RULES, threshold=50)
    left: dict[str, Any] = {"type": "compaction", "encrypted_content": "-", "summary": "Said. " * 30}
    for text, count in (("Hi.", 0), ("Hello " * 200, 1)):
        log = await attempt(asking([left, *said(text)], rules), script=SCRIPT, settings=SETTINGS)
        assert len(opened(log)) == count


@pytest.mark.parametrize("tokens_max", [2, 4, 10])
async def test_a_context_is_compacted_after_a_turn_that_was_cut_off(tokens_max: int) -> None:
    request = managed("Hello " * 100, 120, max_output_tokens=tokens_max)
    log = await attempt(request, script=SCRIPT, settings=SETTINGS)
    last = log.events[-1]
    assert isinstance(last, ev.ResponseIncomplete)
    assert isinstance(last.response.output[-1], Compaction)
    assert [len(made.kept) for made in opened(log)] == [1]


async def test_without_room_for_a_summary_a_context_stays_as_it_is() -> None:
    narrow = SETTINGS.model_copy(update={"context_tokens_max": 330})
    log = await attempt(managed("Hello " * 100, 150), script=SCRIPT, settings=narrow)
    assert opened(log) == []
    assert response_of(log).status == "completed"


NARROW = SETTINGS.model_copy(update={"context_tokens_max": 1_200})


def outgrown(*texts: str, **fields: Any) -> ResponseRequest:
    rules = msgspec.structs.replace(RULES, threshold=900)
    request = asking(said(*texts), rules, **fields)
    return msgspec.structs.replace(request, enable_response_messages=True)


FULL = SETTINGS.model_copy(update={"context_tokens_max": 1_540})


def filling(growth_share: float | None = 0.25) -> ResponseRequest:
    """Leaves a few tokens of FULL."""
    rules = msgspec.structs.replace(RULES, threshold=500, growth_share=growth_share)
    return msgspec.structs.replace(managed("Much", 500), compaction=rules)


LONG_CHAIN = ["old " * 600, "answer " * 900, "older " * 300, "noted " * 300, "Please go on."]


def nearly_full(*texts: str, answer_tokens: int | None = 1_024, **fields: Any) -> ResponseRequest:
    """Asked with the room that an answer should have. `None` is what earlier records have."""
    rules = msgspec.structs.replace(RULES, threshold=900, answer_tokens=answer_tokens)
    return asking(said(*texts), rules, **fields)


async def with_context_for(request: ResponseRequest) -> Settings:
    """Returns settings whose context has three tokens more than the request's prompt."""
    without = msgspec.structs.replace(request, compaction=None)
    last = (await attempt(without, script=SCRIPT, settings=SETTINGS)).events[-1]
    assert isinstance(last, ev.ResponseCompleted | ev.ResponseIncomplete)
    usage = last.response.usage
    assert usage is not None
    return SETTINGS.model_copy(update={"context_tokens_max": usage.input_tokens + 3})


BARELY_FITTING = ["old " * 400, "answer " * 600, "older " * 200, "noted " * 300, "Please go on."]


async def test_an_input_that_leaves_no_room_for_an_answer_is_compacted_first() -> None:
    request = nearly_full(*BARELY_FITTING)
    log = await attempt(request, script=SCRIPT, settings=await with_context_for(request))
    assert [item.__struct_config__.tag for item in response_of(log).output] == ["compaction", "message"]


@pytest.mark.parametrize(
    "request_",
    [
        nearly_full(*BARELY_FITTING, max_output_tokens=2),
        nearly_full("Old.", "x", "new " * 1_200),
        nearly_full(*BARELY_FITTING, answer_tokens=None),
    ],
    ids=["which is short", "because it must be kept", "in an earlier record"],
)
async def test_an_input_that_is_not_compacted_gets_the_answer_for_which_it_leaves_room(
    request_: ResponseRequest,
) -> None:
    log = await attempt(request_, script=SCRIPT, settings=await with_context_for(request_))
    assert (opened(log), kinds(log)[-1]) == ([], "incomplete")


@pytest.mark.parametrize("texts", [LONG_CHAIN, ["word " * 5_000, "noted", "Go."]], ids=["many", "one"])
async def test_a_context_that_has_outgrown_the_model_is_compacted_before_the_answer(texts: list[str]) -> None:
    """In pieces, of which each is read once, with the summary of those before it."""
    request = outgrown(*texts)
    log = await attempt(request, script=SCRIPT, settings=NARROW)
    response = response_of(log)
    assert [item.__struct_config__.tag for item in response.output] == ["compaction", "message"]
    assert isinstance(response.output[-1], Message)
    assert response.output[-1].content[0].text == "I go on."
    (made,) = opened(log)
    assert [each.id for each in made.kept][-1:] == [request.input[-1].id]
    assert response.usage is not None
    *read, answered = cast(tuple[int, ...], response.usage.input_tokens_details.input_tokens_per_turn)
    assert len(read) > 2
    assert max(read) < 1_200
    assert answered < 600
    assert sum(read) < 3 * tokens_of(request.input), "the cost is linear"
    shown = response.input_messages
    assert isinstance(shown, list)
    assert "# Summary" in str(shown[-1])


async def test_what_must_be_kept_and_is_too_long_is_refused_before_anything_is_summarised() -> None:
    log = MemoryLog()
    with pytest.raises(Hopeless) as hopeless:
        await attempt(outgrown("Old. " * 900, "x", "new " * 1_200), log=log, script=SCRIPT, settings=NARROW)
    assert hopeless.value.error == TOO_LONG
    assert kinds(log) == ["in_progress"]


async def test_a_context_that_a_tool_makes_too_long_is_compacted_before_the_model_goes_on() -> None:
    log = await attempt(managed("Much", 500), script=SCRIPT, settings=NARROW)
    tags = [item.__struct_config__.tag for item in response_of(log).output]
    assert tags == ["mcp_call", "compaction", "message"]


@pytest.mark.parametrize(("growth_share", "count"), [(None, 0), (0.25, 1)])
async def test_a_context_in_which_a_tool_leaves_no_room_for_a_summary_is_compacted_in_pieces(
    growth_share: float | None, count: int
) -> None:
    """None is what earlier records have: the model goes on with what room there is."""
    log = await attempt(filling(growth_share), script=SCRIPT, settings=FULL)
    assert len(opened(log)) == count
    assert kinds(log)[-1] == ("completed" if count else "incomplete")


async def test_pieces_have_room_beside_the_summary_however_much_may_be_left() -> None:
    rules = msgspec.structs.replace(RULES, threshold=900, share_max=1.0)
    request = msgspec.structs.replace(outgrown(*LONG_CHAIN), compaction=rules)
    log = await attempt(request, script=SCRIPT, settings=NARROW)
    assert len(opened(log)) == 1
    assert response_of(log).status == "completed"


async def test_the_endpoint_compacts_what_is_too_long_for_the_model() -> None:
    log = await attempt(asking(said(*LONG_CHAIN)), script=SCRIPT, settings=NARROW)
    (made,) = opened(log)
    assert made.summary.startswith("All in all")


@given(st.lists(st.text(st.characters(codec="utf-8"), max_size=200), max_size=8), st.integers(12, 80))
@settings(max_examples=25, deadline=None)
def test_pieces_have_all_that_was_said_and_are_no_longer_than_allowed(
    texts: list[str], tokens_max: int
) -> None:
    messages = [ChatMessage("user", text) for text in texts]
    steps = cut(messages, tokens_max)
    pieces = asyncio.run(Stepper().run(steps, 0))
    assert all(sum(len(render_message(part)) for part in piece) <= tokens_max for piece in pieces)
    assert "".join(part.text for piece in pieces for part in piece) == "".join(texts)


@pytest.mark.parametrize(("growth_share", "count"), [(None, 0), (0.25, 1)])
async def test_a_long_message_that_was_kept_does_not_put_off_the_next_compaction(
    growth_share: float | None, count: int
) -> None:
    """None is what earlier records have."""
    rules = msgspec.structs.replace(RULES, threshold=900, growth_share=growth_share)
    kept, summary = said("word " * 700)[0], {"type": "compaction", "encrypted_content": "-", "summary": "So."}
    request = asking([kept, {**summary, "id": "cmp_1"}, {**said("more " * 400)[0], "id": "msg_n"}], rules)
    log = await attempt(request, script=SCRIPT, settings=SETTINGS)
    assert len(opened(log)) == count


# --- takeovers ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("request_", "own"),
    [
        (asking(said(*["word " * 100] * 9)), SETTINGS),
        (managed("Search", 500), SETTINGS),
        (managed("Hello " * 100, 150), SETTINGS),
        (msgspec.structs.replace(managed("Hello " * 100, 150), dialect="open-responses"), SETTINGS),
        (managed("Hello " * 100, 120, max_output_tokens=2), SETTINGS),
        (managed("Hello " * 100, 120, max_output_tokens=10), SETTINGS),
        (outgrown(*LONG_CHAIN), NARROW),
        (msgspec.structs.replace(outgrown(*LONG_CHAIN), dialect="open-responses"), NARROW),
        (managed("Much", 500), NARROW),
        (filling(), FULL),
        (nearly_full(*LONG_CHAIN), NARROW),
        (nearly_full(*BARELY_FITTING), SETTINGS.model_copy(update={"context_tokens_max": 1_700})),
    ],
    ids=[
        "alone",
        "between two turns",
        "at the end",
        "without reports",
        "cut off in a header",
        "cut off",
        "in pieces",
        "in pieces without reports",
        "what a tool made too long",
        "what a tool made too long for a summary",
        "with room for an answer",
        "what leaves no room for an answer",
    ],
)
async def test_the_next_owner_goes_on_from_every_event_byte_for_byte(
    request_: ResponseRequest, own: Settings
) -> None:
    """Once a text is sealed, also with another key, and with settings of its own."""
    whole = await attempt(request_, script=SCRIPT, settings=own)
    assert opened(whole)
    assert request_.dialect == "openai" or "compaction.compacting" not in kinds(whole)
    changed = {"seal_keys": KEYS[::-1], "compaction_prompt": "Other.", "compaction_share_max": 0.9}
    later = own.model_copy(update=changed)
    for length in range(len(whole.entries)):
        log = MemoryLog(whole.read()[:length])
        is_sealed = any(b'"encrypted_content":"antiphon1' in frame for frame in log.frames)
        again = await attempt(request_, log=log, script=SCRIPT, settings=later if is_sealed else own)
        assert again.frames == whole.frames, length


async def test_a_summary_goes_on_where_its_last_owner_was() -> None:
    """With what that one had of it in the log, although the next one's model would write something else."""
    request = asking(said(*["word " * 100] * 9))
    whole = await attempt(request, script=SCRIPT, settings=SETTINGS)
    reported = [place for place, kind in enumerate(kinds(whole)) if kind == "compaction.compacting"]
    log = MemoryLog(whole.read()[: reported[1] + 1])
    other = ScriptedEngine(Script.parse(SCRIPT.replace("All in all:", "Something else:")))
    await attempt(request, log=log, engine=other, settings=SETTINGS)
    (made,) = opened(log)
    assert made.summary.startswith("All in all: é 𓀀. user: word")


async def test_a_worker_without_keys_fails_the_response_and_says_why() -> None:
    with pytest.raises(Hopeless) as hopeless:
        await attempt(managed("Hello", 10), script=SCRIPT, settings=Settings())
    assert "seal_keys" in hopeless.value.error.message
