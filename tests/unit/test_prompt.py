"""A prompt fits into the context, and nothing that cannot fit is encoded."""

from collections.abc import Sequence
from itertools import pairwise
from typing import TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.asking.conversation import call_message, tool_message
from worker.harmony import tokens as harmony
from worker.harmony.tokens import ChatMessage, DeveloperPart, HarmonyMessage, SystemPart, render
from worker.response.prompt import TooLong, count, fit
from worker.response.stepper import Steps

HEAD: list[HarmonyMessage] = [SystemPart("low", "2026-01-01"), DeveloperPart("Be kind.", {})]
_T = TypeVar("_T")


def take_all(steps: Steps[_T]) -> _T:
    while True:
        try:
            next(steps)
        except StopIteration as end:
            value: _T = end.value
            return value


def fitted(messages: Sequence[HarmonyMessage], tokens_max: int, *, may_drop: bool = True) -> list[str]:
    """Texts of the messages that are kept, checked."""
    prompt = take_all(fit(messages, tokens_max, may_drop=may_drop))
    assert len(prompt.tokens) <= tokens_max
    assert prompt.tokens == render(prompt.messages)
    assert prompt.messages[: len(HEAD)] == HEAD
    return [message.text for message in prompt.messages if isinstance(message, ChatMessage)]


def length_of(*messages: ChatMessage) -> int:
    return len(render([*HEAD, *messages]))


def user(text: str) -> ChatMessage:
    return ChatMessage("user", text)


def answer(text: str) -> ChatMessage:
    return ChatMessage("assistant", text, "final")


def test_what_fits_is_kept_whole() -> None:
    said = [user("one"), answer("two"), user("three")]
    for may_drop in (True, False):
        assert fitted([*HEAD, *said], length_of(*said), may_drop=may_drop) == ["one", "two", "three"]
    assert take_all(count([*HEAD, *said])) == length_of(*said)
    assert take_all(fit(HEAD, 1_000, may_drop=True)).tokens == render(HEAD)


def test_one_token_too_many_is_too_long_where_nothing_may_be_dropped() -> None:
    said = [user("one"), answer("two"), user("three")]
    with pytest.raises(TooLong):
        take_all(fit([*HEAD, *said], length_of(*said) - 1, may_drop=False))


def test_the_oldest_messages_give_way() -> None:
    said = [user("one"), answer("two"), user("three"), answer("four"), user("five")]
    for kept in range(1, len(said) + 1):
        limit = length_of(*said[-kept:])
        assert fitted([*HEAD, *said], limit) == [message.text for message in said[-kept:]]
        if kept > 1:
            assert fitted([*HEAD, *said], limit - 1) == [message.text for message in said[1 - kept :]]


def test_a_call_leaves_together_with_its_outputs() -> None:
    calls = [call_message("functions.a", "{}"), call_message("functions.b", "{}")]
    outputs = [tool_message("functions.a", "of a"), tool_message("functions.b", "of b")]
    said = [user("old"), *calls, *outputs, answer("done"), user("new")]
    for limit in range(length_of(*said[-2:]), length_of(*said)):
        kept = fitted([*HEAD, *said], limit)
        assert ("of a" in kept) == ("of b" in kept) == (kept.count("{}") == 2)


def test_the_last_user_message_stays_though_what_follows_it_gives_way() -> None:
    rounds = [
        message
        for i in range(20)
        for message in (call_message("functions.f", "{}"), tool_message("functions.f", f"output {i}"))
    ]
    said = [user("old"), answer("old"), user("the task"), *rounds]
    kept = fitted([*HEAD, *said], length_of(said[2], *rounds[-6:]))
    assert kept == ["the task", "{}", "output 17", "{}", "output 18", "{}", "output 19"]


def test_too_long_is_what_does_not_fit_without_all_that_may_be_dropped() -> None:
    said = [user("old " * 50), answer("old"), user("new " * 50)]
    assert fitted([*HEAD, *said], length_of(said[-1])) == [said[-1].text]
    with pytest.raises(TooLong):
        take_all(fit([*HEAD, *said], length_of(said[-1]) - 1, may_drop=True))


_messages = st.lists(
    st.sampled_from(
        [
            user("u" * 9),
            answer("an answer"),
            ChatMessage("assistant", "thinking", "analysis"),
            ChatMessage("developer", "a rule"),
            call_message("functions.a", '{"x": 1}'),
            call_message("python", "print(1)"),
            tool_message("functions.a", "a's output"),
            tool_message("python", "1"),
        ]
    ),
    max_size=30,
)


@given(_messages, st.integers(0, 400))
def test_what_is_kept_is_in_order_fits_and_divides_no_call(said: list[ChatMessage], limit: int) -> None:
    numbered = [
        ChatMessage(m.role, f"{i} {m.text}", m.channel, m.recipient, m.content_type, m.name)
        for i, m in enumerate(said)
    ]
    try:
        kept = [int(text.split()[0]) for text in fitted([*HEAD, *numbered], limit)]
    except TooLong:
        assert limit < length_of(*numbered)
        return
    assert all(a < b for a, b in pairwise(kept))
    users = [i for i, message in enumerate(said) if message.role == "user"]
    assert not users or users[-1] in kept
    assert not said or len(said) - 1 in kept
    for recipient in ("functions.a", "python"):
        calls = [i for i, m in enumerate(said) if m.recipient == recipient]
        for i, message in enumerate(said):
            if message.name == recipient and calls and calls[0] < i:
                assert (calls.pop(0) in kept) == (i in kept)
    if len(kept) < len(said):
        assert limit < length_of(*numbered), "nothing is dropped without need"


class Counted:
    """Counts what is encoded."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.chars = self.calls = 0
        self._encode = harmony.encode_piece
        monkeypatch.setattr(harmony, "encode_piece", self)

    def __call__(self, piece: str) -> list[int]:
        self.calls += 1
        self.chars += len(piece)
        return self._encode(piece)


def test_each_message_is_encoded_once_and_what_is_dropped_hardly_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    said = [user(f"{i} " + "word " * 200) for i in range(1_000)]
    counted = Counted(monkeypatch)
    prompt = take_all(fit([*HEAD, *said], 20_000, may_drop=True))
    assert 90 < len(prompt.messages) < 100
    assert counted.chars <= sum(len(m.text) for m in said[-100:]) + 1_000


@pytest.mark.parametrize("may_drop", [True, False])
def test_what_cannot_fit_is_refused_before_it_is_encoded(
    monkeypatch: pytest.MonkeyPatch, *, may_drop: bool
) -> None:
    counted = Counted(monkeypatch)
    with pytest.raises(TooLong):
        take_all(fit([*HEAD, user("a " * 1_000_000)], 10_000, may_drop=may_drop))
    with pytest.raises(TooLong):
        take_all(fit([*HEAD, *[user("")] * 100_000], 10_000, may_drop=False))
    assert counted.calls == 0


def test_what_is_too_long_is_encoded_no_further_than_the_context_reaches(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    counted = Counted(monkeypatch)
    with pytest.raises(TooLong):
        take_all(fit([*HEAD, user("a " * 600_000)], 10_000, may_drop=False))
    assert counted.chars < 2 * 10_000 + 20_000


def test_a_system_message_is_encoded_once_and_each_of_its_forms_by_itself(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    described = SystemPart("high", "2026-02-02", {"python": None})
    several: list[SystemPart] = [described, SystemPart("high", "2026-02-02"), SystemPart("low", "2026-02-02")]
    functions = DeveloperPart(None, {"functions": (None, [])})
    before = [render([part, *more]) for part in several for more in ((), (functions,))]
    assert len({*map(tuple, before)}) == len(before)
    encoded: list[str] = []
    encode_piece = harmony.encode_piece

    def note(piece: str) -> list[int]:
        encoded.append(piece)
        return encode_piece(piece)

    monkeypatch.setattr(harmony, "encode_piece", note)
    assert [render([part]) for part in several] == before[::2]
    assert encoded == []
    assert render([SystemPart("high", "2026-02-02", {"python": "x" * 10_000})]) not in before
    assert encoded
