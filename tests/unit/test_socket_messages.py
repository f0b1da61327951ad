"""What is sent and read on a WebSocket, byte by byte; the library that clients use is the judge."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.client import ClientProtocol
from websockets.frames import Frame, Opcode
from websockets.protocol import OPEN
from websockets.uri import parse_uri

from api.bodies.messages import Cancel, Create, Invalid, Processed, Steer, call_of, read_message
from api.errors import RETRY_AFTER, ClientError, envelope
from api.socket_messages import error_message, event_messages, headers_message, lane_member, text_message
from api.sockets import Latest, Remembered
from api.sse import keep_alive_line
from shared.events import OutputTextDelta
from shared.frames import data_of, frame
from shared.store.keys import ResponseKey
from shared.store.records.response_store import State, Stored

VALUES_MAX = 1_000


def received(sent: bytes) -> list[bytes]:
    """The texts that a client reads."""
    client = ClientProtocol(parse_uri("ws://localhost/"), state=OPEN, max_size=None)
    client.receive_data(sent)
    frames = client.events_received()
    assert client.parser_exc is None
    for each in frames:
        assert isinstance(each, Frame)
        assert (each.opcode, each.fin) == (Opcode.TEXT, True)
    return [bytes(each.data) for each in frames if isinstance(each, Frame)]


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 65_535, 65_536, 200_000])
def test_a_message_of_any_length_is_read_as_it_was_sent(size: int) -> None:
    body = b"x" * size
    assert received(text_message(body) * 2) == [body, body]


@settings(max_examples=20)
@given(st.lists(st.text(), max_size=5), st.sampled_from([None, "a", "A.b-c_1"]))
def test_stored_frames_become_one_message_each_with_the_same_json(
    texts: list[str], stream_id: str | None
) -> None:
    frames = [frame(OutputTextDelta(0, 0, "msg_1", text), number) for number, text in enumerate(texts)]
    messages = received(event_messages(b"".join(frames), lane_member(stream_id)))
    if stream_id is None:
        assert messages == [data_of(each) for each in frames]
    else:
        named = [json.loads(data_of(each)) | {"stream_id": stream_id} for each in frames]
        assert list(map(json.loads, messages)) == named


def test_of_keep_alives_only_events_are_messages() -> None:
    assert event_messages(keep_alive_line("comment"), b"") == b""
    assert event_messages(keep_alive_line("comment"), b"", headers_message({"a": "b"}, b"")) == b""
    assert received(event_messages(keep_alive_line("event"), b"")) == [b'{"type":"keepalive"}']


def test_an_error_is_that_of_an_http_answer_with_its_status_and_lane() -> None:
    answer = envelope(400, "No.", "invalid_value", "input")
    (message,) = received(error_message(answer, lane_member("a")))
    assert json.loads(message) == {
        "type": "error",
        "status": 400,
        "error": {
            "message": "No.",
            "type": "invalid_request_error",
            "param": "input",
            "code": "invalid_value",
        },
        "stream_id": "a",
    }
    (message,) = received(error_message(envelope(429, "Later.", "busy", None, RETRY_AFTER), b""))
    assert json.loads(message)["error"]["headers"] == {"retry-after": "1"}


def test_what_a_client_may_say_is_read() -> None:
    read = {
        b'{"type": "response.create"}': Create(None, generates=True, previous_response_id=None),
        b'{"generate": false, "type": "response.create", "stream_id": "a.b", "input": 1}': Create(
            "a.b", generates=False, previous_response_id=None
        ),
        b'{"type": "response.create", "previous_response_id": "resp_1"}': Create(
            None, generates=True, previous_response_id="resp_1"
        ),
        b'{"type": "response.cancel", "response_id": "resp_1"}': Cancel(None, "resp_1"),
        b'{"type": "response.cancel", "stream_id": "a"}': Cancel("a", None),
        b'{"type": "response.steer", "previous_response_id": "resp_1", "input": [1]}': Steer(
            "resp_1", b"[1]"
        ),
        b'{"type": "response.processed", "response_id": "resp_1"}': Processed(),
    }
    assert {raw: read_message(raw, VALUES_MAX) for raw in read} == read


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        (b"", "invalid_json"),
        (b'"text"', "invalid_json"),
        (b'{"type": "\xff"}', "invalid_json"),
        (b'{"type": "response.create", "input": ' + b"[" * 100_000, "too_many_values"),
        (b'{"type": "' + b"x" * 1_000 + b'"}', "unknown_event_type"),
        (b'{"type": ["response.create"]}', "invalid_type"),
        (b'{"type": "response.create", "stream_id": {}}', "invalid_stream_id"),
        (b'{"type": "response.create", "stream_id": "' + b"x" * 257 + b'"}', "invalid_stream_id"),
    ],
)
def test_anything_else_is_refused_and_named(raw: bytes, code: str) -> None:
    message = read_message(raw, VALUES_MAX)
    assert isinstance(message, Invalid)
    assert (message.error.code, message.error.status) == (code, 400)
    assert len(str(message.error)) < 400


@settings(max_examples=30)
@given(
    st.binary(max_size=60) | st.recursive(st.text() | st.integers(), st.lists).map(json.dumps).map(str.encode)
)
def test_no_bytes_break_the_reading(raw: bytes) -> None:
    assert isinstance(read_message(raw, VALUES_MAX), Invalid)


def test_a_message_is_a_create_call_without_its_envelope() -> None:
    members = {"type": "response.create", "stream_id": "a", "generate": True, "input": "x", "stream": True}
    assert call_of(members) == {"input": "x", "stream": True}
    for refused in ({"stream": False}, {"background": True}):
        with pytest.raises(ClientError):
            call_of(refused)


def test_the_oldest_records_give_way_and_a_huge_one_to_all() -> None:
    remembered = Remembered(250)
    kept = [Latest(ResponseKey("default", f"resp_{number}")) for number in range(4)]
    for latest in kept:
        remembered.keep(latest, record(100))
    assert [latest.record is not None for latest in kept] == [False, False, True, True]
    assert remembered.kept_bytes == 200
    remembered.keep(kept[0], record(251))
    assert kept[0].record is None
    for latest in kept:
        remembered.forget(latest)
    assert remembered.kept_bytes == 0


def record(size_bytes: int) -> Stored:
    return Stored(
        State(is_stored=False, is_background=False, closed="completed"), b"x" * size_bytes, b"", b""
    )
