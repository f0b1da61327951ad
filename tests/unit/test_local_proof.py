"""The demo's proof accepts the whole log in two parts, and nothing else."""

from hypothesis import given
from hypothesis import strategies as st

from local.proof import Evidence, find_faults, split_frames


def make_frame(number: int, text: str = "") -> bytes:
    return f'event: e\ndata: {{"delta":"{text}","sequence_number":{number}}}'.encode()


def join(frames: list[bytes]) -> bytes:
    return b"".join(frame + b"\n\n" for frame in frames)


@st.composite
def cuts(draw: st.DrawFn) -> tuple[list[bytes], int, int]:
    """A log, the last number handled before the cut, and how many bytes had been received by then."""
    words = draw(st.lists(st.sampled_from(["", "a", "bc"]), min_size=2, max_size=12))
    frames = [make_frame(number, word) for number, word in enumerate(words)]
    cursor = draw(st.integers(0, len(frames) - 2))
    return frames, cursor, draw(st.integers(len(join(frames[: cursor + 1])), len(join(frames))))


@given(cuts())
def test_a_stream_cut_anywhere_and_resumed_is_the_whole(cut: tuple[list[bytes], int, int]) -> None:
    frames, cursor, received = cut
    whole = join(frames)
    evidence = Evidence(
        b": hello\n" + whole[:received], cursor, join(frames[cursor + 1 :]), {"a": whole, "b": whole}
    )
    assert find_faults(evidence) == []


@given(cuts(), st.data())
def test_a_lost_a_repeated_and_a_swapped_event_are_found(
    cut: tuple[list[bytes], int, int], data: st.DataObject
) -> None:
    frames, cursor, _ = cut
    rest = frames[cursor + 1 :]
    at = data.draw(st.integers(0, len(rest) - 1))
    spoiled = data.draw(
        st.sampled_from(
            [rest[:at] + rest[at + 1 :], rest[: at + 1] + rest[at:], [make_frame(cursor), *rest]]
            + ([[rest[1], rest[0], *rest[2:]]] if len(rest) > 1 else [])
        )
    )
    whole = join(frames)
    assert find_faults(Evidence(join(frames[: cursor + 1]), cursor, join(spoiled), {"a": whole}))


@given(cuts())
def test_a_replay_that_differs_in_one_byte_is_found(cut: tuple[list[bytes], int, int]) -> None:
    frames, cursor, _ = cut
    whole = join(frames)
    evidence = Evidence(
        join(frames[: cursor + 1]),
        cursor,
        join(frames[cursor + 1 :]),
        {"a": whole, "b": whole.replace(b"event: e", b"event:  e", 1)},
    )
    assert find_faults(evidence) == ["the replay from b is not the union of the parts, byte for byte"]


def test_a_stream_that_was_not_cut_or_not_replayed_proves_nothing() -> None:
    whole = join([make_frame(0), make_frame(1)])
    assert find_faults(Evidence(whole, 1, b"", {"a": whole}))
    assert find_faults(Evidence(join([make_frame(0)]), 0, join([make_frame(1)]), {}))
    assert find_faults(Evidence(b"", -1, b"", {"a": b""}))


def test_comments_and_a_frame_cut_in_the_middle_are_no_frames() -> None:
    assert split_frames(b": keep-alive\nevent: e\ndata: 1\n\nevent: e\nda") == [b"event: e\ndata: 1"]
