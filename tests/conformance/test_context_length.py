"""A prompt that is too long is reported as by the hosted API, with the code on which clients shorten it."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from openai import APIError, BadRequestError, OpenAI

from tests.patience import PATIENCE_S, wait_until
from tests.running import PATIENT, RunningCluster, start_cluster
from tests.streams import Frame, read_frames

CODE = "context_length_exceeded"
MESSAGE = "Your input exceeds the context window of this model. Please adjust your input and try again."
COUNTED = "word " * 4_000
"""Only a worker finds out."""
OBVIOUS = "word " * 100_000
"""A prompt so long that its length alone shows it."""


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningCluster]:
    """A model with a small context."""
    running = start_cluster(
        tmp_path_factory.mktemp("small") / "data", ANTIPHON_CONTEXT_TOKENS_MAX="2000", **PATIENT
    )
    yield running
    running.stop()


@pytest.fixture
def client(small: RunningCluster) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{small.urls[0]}/v1", api_key="any", max_retries=0) as client:
        yield client


@pytest.mark.parametrize("text", [COUNTED, OBVIOUS])
def test_a_call_that_waits_is_answered_with_400(client: OpenAI, text: str) -> None:
    for _ in range(2):  # the key repeats the answer, as it repeats any other
        with pytest.raises(BadRequestError) as caught:
            client.responses.create(
                model="default", input=text, extra_headers={"idempotency-key": f"too long {len(text)}"}
            )
        assert (caught.value.code, caught.value.param) == (CODE, "input")
        assert caught.value.type == "invalid_request_error"
        assert caught.value.body["message"] == MESSAGE  # type: ignore[index]


@pytest.mark.parametrize("text", [COUNTED, OBVIOUS])
def test_a_stream_reports_it_in_an_event_of_both_shapes_and_fails(small: RunningCluster, text: str) -> None:
    frames = stream(small, {"model": "default", "input": text, "stream": True})
    assert [frame.event for frame in frames] == [
        "response.created",
        "response.in_progress",
        "error",
        "response.failed",
    ]
    told = frames[2].data
    envelope = {"type": "invalid_request_error", "code": CODE, "message": MESSAGE, "param": "input"}
    assert told == {
        "type": "error",
        "sequence_number": 2,
        "code": CODE,
        "message": MESSAGE,
        "param": "input",
        "error": envelope,
    }
    failed = frames[3].data["response"]
    assert failed["status"] == "failed"
    assert (failed["error"]["code"], failed["error"]["message"]) == (CODE, MESSAGE)
    with httpx.Client(base_url=small.urls[0], headers={"authorization": "Bearer any"}) as again:
        resumed = again.get(f"/v1/responses/{failed['id']}?stream=true&starting_after=1")
        assert read_frames(resumed.content) == frames[2:]
        assert again.get(f"/v1/responses/{failed['id']}").json() == failed


def test_the_public_client_raises_it_from_a_stream(client: OpenAI) -> None:
    with pytest.raises(APIError) as caught:
        for _ in client.responses.create(model="default", input=COUNTED, stream=True):
            pass
    assert caught.value.code == CODE


def test_a_chat_is_told_too(client: OpenAI) -> None:
    """With a status, if it does not stream or its length alone shows it."""
    for text, is_streamed in ((COUNTED, False), (OBVIOUS, False), (OBVIOUS, True)):
        with pytest.raises(BadRequestError) as refused:
            client.chat.completions.create(
                model="default", messages=[{"role": "user", "content": text}], stream=is_streamed
            )
        assert (refused.value.code, refused.value.param) == (CODE, "messages")
    with pytest.raises(APIError) as caught:
        for _ in client.chat.completions.create(
            model="default", messages=[{"role": "user", "content": COUNTED}], stream=True
        ):
            pass
    assert (caught.value.code, caught.value.param) == (CODE, "messages")


def test_a_poll_shows_it(client: OpenAI) -> None:
    response = client.responses.create(model="default", input=COUNTED, background=True)
    wait_until(lambda: client.responses.retrieve(response.id).status not in ("queued", "in_progress"))
    response = client.responses.retrieve(response.id)
    assert response.status == "failed"
    assert response.error is not None
    assert response.error.code == CODE


def test_truncation_drops_what_is_oldest_and_answers(client: OpenAI) -> None:
    said: Any = [{"role": "user", "content": f"{i} " + "word " * 100} for i in range(200)]
    asked: Any = [*said, {"role": "user", "content": "Count from 1 to 3"}]
    response = client.responses.create(model="default", input=asked, truncation="auto")
    assert response.output_text == "1, 2, 3"
    assert response.usage is not None
    assert 800 < response.usage.input_tokens <= 1_000, "half the context is left to the answer"
    with pytest.raises(BadRequestError) as caught:
        client.responses.create(model="default", input=[*said, *said[:1], asked[-1]])
    assert caught.value.code == CODE
    with pytest.raises(BadRequestError) as caught:  # the last message stays, and does not fit
        client.responses.create(model="default", input=COUNTED, truncation="auto")
    assert caught.value.code == CODE


def test_a_count_returns_how_long_it_is(client: OpenAI) -> None:
    counted = client.responses.input_tokens.count(model="default", input=COUNTED)
    assert 4_000 < counted.input_tokens < 4_200


def stream(cluster: RunningCluster, body: dict[str, Any]) -> list[Frame]:
    headers = {"authorization": "Bearer any"}
    answer = httpx.post(f"{cluster.urls[0]}/v1/responses", json=body, headers=headers, timeout=PATIENCE_S)
    assert answer.status_code == 200
    return read_frames(answer.content)
