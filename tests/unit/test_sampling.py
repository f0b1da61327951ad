from hypothesis import given
from hypothesis import strategies as st

from worker.asking.sampling import seed_after

seeds = st.integers(-(2**63), 2**63 - 1)


@given(seeds | st.none())
def test_a_response_begins_with_its_own_seed(seed: int | None) -> None:
    assert seed_after(seed, 0) == seed


@given(st.integers(0, 10**6))
def test_without_a_seed_there_is_none(tokens: int) -> None:
    assert seed_after(None, tokens) is None


@given(seeds, st.sets(st.integers(1, 10**6), min_size=2, max_size=20))
def test_every_continuation_has_a_seed_of_its_own_that_an_engine_takes(seed: int, tokens: set[int]) -> None:
    later = [seed_after(seed, count) for count in tokens]
    assert len({seed, *later}) == len(tokens) + 1
    assert all(each is not None and 0 <= each < 2**63 for each in later)


def test_a_seed_is_the_same_in_every_process_and_release() -> None:
    assert [seed_after(7, 1), seed_after(-1, 100)] == [7409489766742325744, 7385086332180524002]
