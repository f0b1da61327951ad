"""Turns among tenants. Every wait here is for the loop alone, never for a clock."""

import asyncio
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from shared.shares import Shares


class Caller:
    """Takes one turn and keeps it until it is released."""

    def __init__(self, shares: Shares, tenant: str, served: list[str]) -> None:
        self.tenant = tenant
        self.has_turn = False
        self._over = asyncio.Event()
        self.task = asyncio.create_task(self._take(shares, served))

    async def _take(self, shares: Shares, served: list[str]) -> None:
        async with shares.turn(self.tenant):
            served.append(self.tenant)
            self.has_turn = True
            try:
                await self._over.wait()
            finally:
                self.has_turn = False

    async def end(self) -> None:
        self._over.set()
        await self.task


async def settle() -> None:
    """Waits until no task has anything left to do."""
    for _ in range(10):
        await asyncio.sleep(0)


async def begin(shares: Shares, tenants: str, served: list[str]) -> list[Caller]:
    callers = [Caller(shares, tenant, served) for tenant in tenants]
    await settle()
    return callers


async def test_a_tenant_has_its_share_and_the_others_have_the_rest() -> None:
    served: list[str] = []
    shares = Shares(4, 0.5)
    callers = await begin(shares, "aaaaaaaabc", served)
    assert served == list("aabc")
    assert (shares.taken, shares.waiting) == (4, 6)
    for caller in callers:
        await caller.end()
    await settle()
    assert (shares.taken, shares.waiting) == (0, 0)


async def test_who_waits_is_served_in_rotation_and_each_tenant_in_order() -> None:
    served: list[str] = []
    shares = Shares(1, 1.0)
    callers = await begin(shares, "xaaabbc", served)
    while running := [caller for caller in callers if caller.has_turn]:
        await running[0].end()
        await settle()
    assert served == list("xabcaba")


async def test_everybody_may_have_one_however_small_the_share() -> None:
    served: list[str] = []
    callers = await begin(Shares(3, 0.01), "aab", served)
    assert served == ["a", "b"]
    for caller in callers:
        await caller.end()


async def test_who_gives_up_waiting_takes_nothing_with_it() -> None:
    served: list[str] = []
    shares = Shares(1, 1.0)
    first, second, third = await begin(shares, "abb", served)
    second.task.cancel()
    await settle()
    await first.end()
    await settle()
    assert served == ["a", "b"]
    third.task.cancel()
    await settle()
    assert (shares.taken, shares.waiting) == (0, 0)


async def test_who_gives_up_at_the_moment_of_his_turn_passes_it_on() -> None:
    served: list[str] = []
    shares = Shares(1, 1.0)
    first, second, third = await begin(shares, "abc", served)
    first._over.set()
    while first.has_turn:
        await asyncio.sleep(0)
    second.task.cancel()  # it has been given the turn and has not run yet
    await settle()
    assert third.has_turn
    await third.end()
    assert (shares.taken, shares.waiting) == (0, 0)


@given(
    st.integers(1, 5),
    st.sampled_from([0.1, 0.3, 0.5, 1.0]),
    st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from(["begin", "end", "cancel"]))),
)
def test_no_turn_is_lost_and_none_is_taken_twice(
    total: int, share: float, steps: list[tuple[str, str]]
) -> None:
    async def play() -> None:
        shares = Shares(total, share)
        callers: list[Caller] = []
        for tenant, step in steps:
            mine = [c for c in callers if c.tenant == tenant and not c.task.done()]
            if step == "begin":
                callers.append(Caller(shares, tenant, []))
            elif step == "end" and (running := [c for c in mine if c.has_turn]):
                await running[0].end()
            elif step == "cancel" and mine:
                mine[-1].task.cancel()
            await settle()
            running = [c for c in callers if c.has_turn]
            waiting = [c for c in callers if not c.has_turn and not c.task.done()]
            having = Counter(c.tenant for c in running)
            assert shares.taken == len(running) <= total
            assert shares.waiting == len(waiting)
            assert max(having.values(), default=0) <= max(1, int(total * share))
            if len(running) < total:  # who waits has his share already
                assert all(having[c.tenant] == max(1, int(total * share)) for c in waiting)
        for caller in callers:
            caller.task.cancel()
        await asyncio.gather(*(caller.task for caller in callers), return_exceptions=True)
        assert (shares.taken, shares.waiting) == (0, 0)

    asyncio.run(play())
