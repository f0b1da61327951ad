"""A crowd of readers that comes at once: each is asked about in its turn, however many came before."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from api.errors import ClientError
from api.read import Reading
from shared import ids
from shared.settings import Settings
from shared.store.keys import ResponseKey
from shared.store.records import response_store

CROWD, ANSWER_S, BOUND_S = 600, 0.4, 2.0
"""A question about a hundred takes a fifth of the bound, and six of them take longer than it."""


async def test_who_waits_for_those_before_him_does_not_run_out_of_time(
    monkeypatch: pytest.MonkeyPatch, settings: Settings
) -> None:
    async def answer_slowly(_: object, asked: Sequence[ResponseKey]) -> list[None]:
        await asyncio.sleep(ANSWER_S)
        return [None] * len(asked)

    monkeypatch.setattr(response_store, "read_states", answer_slowly)
    nothing: Any = None
    reading = Reading(nothing, nothing, nothing, settings.model_copy(update={"redis_timeout_s": BOUND_S}))
    finding = (reading.find_log("default", ids.new_response_id("0")) for _ in range(CROWD))
    found = await asyncio.gather(*finding, return_exceptions=True)
    assert {type(each) for each in found} == {ClientError}
