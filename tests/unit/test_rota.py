"""Members of a rota: each is due once in a round, and all together evenly."""

import asyncio

from shared.rota import Rota
from tests.virtual_time import run_in_virtual_time

ROUND_S, SHIFTS, SIZE = 1.0, 10, 32


async def due_times(rota: Rota[int], lasts_s: float) -> dict[int, list[float]]:
    """Returns when each member was due."""
    found: dict[int, list[float]] = {}
    clock = asyncio.get_running_loop().time
    while clock() < lasts_s:
        await rota.wait()
        for member in rota.due():
            found.setdefault(member, []).append(round(clock(), 6))
    return found


def test_each_member_is_due_once_in_a_round_and_every_shift_has_its_share() -> None:
    rota: Rota[int] = Rota(ROUND_S, SHIFTS, SIZE)
    for member in range(1_000):
        rota.add(member)
    found = run_in_virtual_time(lambda: due_times(rota, 3.0))
    assert len(found) == 1_000
    assert {len(times) for times in found.values()} == {3}
    assert {round(later - sooner, 6) for sooner, later, _ in found.values()} == {ROUND_S}
    first = [times[0] for times in found.values()]
    assert {first.count(at) for at in first} == {1_000 // SHIFTS}


def test_few_members_share_few_shifts_that_are_spread_over_the_round() -> None:
    rota: Rota[int] = Rota(ROUND_S, SHIFTS, SIZE)
    for member in range(3 * SIZE):
        rota.add(member)
    found = run_in_virtual_time(lambda: due_times(rota, 1.0))
    begun = sorted({times[0] for times in found.values()})
    assert len(begun) == 3
    assert begun[1] - begun[0] >= 0.2
    assert begun[2] - begun[1] >= 0.2


def test_a_new_member_is_due_within_a_round_and_one_that_left_is_not() -> None:
    async def join_and_leave() -> dict[int, list[float]]:
        rota: Rota[int] = Rota(ROUND_S, SHIFTS, SIZE)
        for member in range(95):
            rota.add(member)
        before = await due_times(rota, 0.5)
        rota.add(1_000)
        for member in range(95):
            rota.discard(member)
        rota.discard(2_000)
        assert len(rota) == 1
        assert 0 < len(before) < 95
        return await due_times(rota, 3.5)

    found = run_in_virtual_time(join_and_leave)
    assert found.keys() == {1_000}
    assert found[1_000][0] <= 0.5 + ROUND_S
    assert len(found[1_000]) == 3


def test_what_was_late_is_made_up_for_but_only_one_round_of_it() -> None:
    async def be_held_up() -> list[float]:
        rota: Rota[int] = Rota(ROUND_S, SHIFTS, SIZE)
        rota.add(1)
        clock = asyncio.get_running_loop().time
        await rota.wait()
        await asyncio.sleep(20 * ROUND_S)
        begun: list[float] = []
        for _ in range(2 * SHIFTS):
            await rota.wait()
            begun.append(clock() - 20 * ROUND_S)
        return begun

    begun = run_in_virtual_time(be_held_up)
    at_once = [at for at in begun if at < 0.11]
    assert SHIFTS <= len(at_once) <= SHIFTS + 1
    assert begun[-1] > 0.9
