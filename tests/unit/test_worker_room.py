"""A worker takes what its engine can run: by its batch, and by what its cache holds."""

from shared.settings import Settings
from tests.scripted import SCRIPT
from worker.engines.scripted.engine import ScriptedEngine
from worker.engines.vllm.capacity import ANSWER_TOKENS, Contexts
from worker.serving import capacity_of, engine_room


def test_responses_that_wait_for_tools_leave_their_places_to_others() -> None:
    engine = ScriptedEngine(SCRIPT, sequences_max=8)
    assert [
        engine_room(engine, running, waiting) for running, waiting in ((0, 0), (8, 0), (8, 3), (12, 0))
    ] == [
        8,
        0,
        3,
        0,
    ]
    assert capacity_of(Settings(), engine) == 8
    assert capacity_of(Settings(responses_in_flight_max=4), engine) == 4


def test_a_cache_that_is_full_has_no_room_whatever_the_batch() -> None:
    contexts = Contexts()
    assert contexts.sequences_max(64, 0) == 64, "the size of the cache is not known"
    assert contexts.sequences_max(64, 100_000) == 100_000 // 2_048
    contexts.add("a", 40_000 - ANSWER_TOKENS)
    assert contexts.sequences_max(64, 100_000) == 1 + 1
    contexts.add("b", 60_000 - ANSWER_TOKENS)
    assert contexts.sequences_max(64, 100_000) == 2
    contexts.discard("a")
    contexts.discard("b")
    contexts.discard("never added")
    assert contexts.sequences_max(4, 100_000) == 4
    assert contexts.sequences_max(4, 1) == 1, "one is always taken"
