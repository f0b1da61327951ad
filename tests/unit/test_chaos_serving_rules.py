"""The checker finds what served wrongly: a broken history for each rule of `tests/chaos/serving_rules.py`."""

from dataclasses import replace

import msgspec

from shared import events as ev
from shared.frames import frame
from shared.responses import McpCall, Response
from tests.chaos import figures
from tests.chaos.doors import KEY, chat_of, frame_of, refusal_in
from tests.chaos.history import Asked, Chatted, Looked, Observation
from tests.chaos.plans import LABEL, PLANS, make_key
from tests.unit.test_chaos_checker import CALL, PIECES, Run, make_log, struck


def asked_of(run: Run, **fields: str) -> list[Observation]:
    return [
        msgspec.structs.replace(seen, **fields) if isinstance(seen, Asked) and seen.call == CALL else seen
        for seen in run.history
    ]


def test_another_tier_or_model_than_was_asked_for_is_found() -> None:
    run, rule = Run(), {"what serves is what was asked for"}
    assert run.rules(asked_of(run, tier="auto")) == set()
    assert run.rules(asked_of(run, tier="flex")) == rule
    assert run.rules(asked_of(run, model="second")) == rule


def test_a_chat_that_says_something_else_than_its_response_is_found() -> None:
    run = Run()
    run.more = [Chatted(8.0, CALL, "".join(PIECES))]
    assert run.rules() == set()
    run.more = [Chatted(8.0, CALL, "one, ")]
    assert run.rules() == {"a chat is its response"}


def test_attempts_in_two_traces_are_found() -> None:
    run = Run()
    one, two = "1" * 32, "2" * 32
    assert run.rules(store=replace(run.store, traces={run.log.response_id: frozenset({one})})) == set()
    twice = replace(run.store, traces={run.log.response_id: frozenset({one, two})})
    assert run.rules(store=twice) == {"a response is one trace"}


def test_an_operator_who_is_refused_without_a_cause_is_found() -> None:
    run, rule = Run(), {"who looks on is answered"}
    run.more = [Looked(8.0, "/metrics", 200), Looked(8.0, "/console/responses", 404)]
    assert run.rules() == set()
    run.more = [Looked(8.0, "/console/cluster", 500)]
    assert run.rules() == rule
    run.more = [Looked(8.0, "/console/cluster", 503)]
    assert run.rules() == rule
    run.more.append(struck("valkey", at_s=7.0))
    assert run.rules() == set()
    run.more = [Looked(8.0, "/v1/models", 200, ("second",))]
    assert run.rules() == rule


def test_a_response_of_a_socket_that_was_lost_before_its_first_event_is_not_invented() -> None:
    run = Run()
    begun = Response(
        id="resp_0_x", created_at=1, status="in_progress", model="default", metadata={KEY: make_key(CALL)}
    )
    orphan = make_log([ev.ResponseCreated(begun), *run.events[1:]], response_id="resp_0_x")
    store = replace(run.store, logs={**run.store.logs, "resp_0_x": orphan})
    assert run.rules(asked_of(run, way="stream"), store) == {"nothing is invented"}
    assert run.rules(asked_of(run, way="socket"), store) == set()


def test_a_message_on_a_socket_is_the_frame_of_its_event() -> None:
    begun = Response(id="resp_0_x", created_at=1, status="in_progress", model="default")
    whole = frame(ev.ResponseCreated(begun), 7)
    message = whole.split(b"data: ")[1].rstrip()
    assert (frame_of(message), refusal_in(message)) == (whole, None)
    assert frame_of(b'{"type":"response.metadata","headers":{}}') is None
    assert refusal_in(b'{"type":"error","status":503,"error":{}}') == 503


def test_a_call_that_was_approved_has_its_arguments_from_the_beginning() -> None:
    arguments = '{"key": "k"}'
    begun = McpCall("mcp_0", "in_progress", LABEL, "count", arguments, approval_request_id="mcpr_1")
    done = msgspec.structs.replace(begun, status="completed", output="it")
    whole: list[ev.StreamEvent] = [
        ev.OutputItemAdded(0, begun),
        ev.McpCallArgumentsDone(0, begun.id, arguments),
        ev.OutputItemDone(0, done),
    ]
    run = Run("approved", lambda _: whole)
    run.counted = {"k": 1}
    assert run.rules() == set()
    unapproved = msgspec.structs.replace(begun, approval_request_id=None)
    run = Run("approved", lambda _: [ev.OutputItemAdded(0, unapproved), *whole[1:]])
    run.counted = {"k": 1}
    found = {violation.rule for violation in run.check()}
    assert "the pieces make the text" in found


def test_flex_that_is_handed_over_although_no_worker_was_told_to_stop_gave_way() -> None:
    run = Run()
    run.fields = {"attempt": 2}
    assert figures.measure(asked_of(run, tier="flex"), run.store).gave_way == 1
    assert figures.measure(run.history, run.store).gave_way == 0, "not flex"
    run.more = [struck("worker", at_s=1.0, action="drain")]
    assert figures.measure(asked_of(run, tier="flex"), run.store).gave_way == 0
    run.more, run.fields = [], {"attempt": 2, "deaths": 1}
    assert figures.measure(asked_of(run, tier="flex"), run.store).gave_way == 0


def test_a_chat_asks_for_what_a_create_call_asks_for() -> None:
    body = PLANS["short"].make_body("k1", None, model="second", service_tier="flex")
    assert chat_of(body) == {
        "model": "second",
        "service_tier": "flex",
        "messages": [{"role": "user", "content": body["input"]}],
        "stream": True,
        "store": True,
    }
    by_any_door = {name for name, plan in PLANS.items() if plan.is_plain}
    assert by_any_door == {"quick", "short", "middle", "long", "characters", "endless"}
