"""What confirms a write, as a table: which servers are alive, which have it, which the Sentinels see."""

from typing import Any

import pytest

from shared.store.redis.confirmation import Address, Rule, View, Watch, combine

P, A, B, C = (("h", port) for port in (1, 2, 3, 4))


def state(address: Address, flags: str, *, reports: str = "", priority: int = 100) -> dict[str, Any]:
    """As redis-py reads what a Sentinel says of a server."""
    marks = set(flags.split(","))
    return {
        "ip": address[0],
        "port": address[1],
        "flags": marks,
        "is_slave": "slave" in marks,
        "is_sdown": "s_down" in marks,
        "is_odown": "o_down" in marks,
        "is_disconnected": "disconnected" in marks,
        "role-reported": reports or ("slave" if "slave" in marks else "master"),
        "slave-priority": priority,
    }


WHOLE = [state(P, "master"), state(A, "slave"), state(B, "slave")]


def test_every_server_that_lives_is_a_candidate() -> None:
    assert combine([WHOLE] * 3, 3).candidates == {P, A, B}


def test_a_server_lives_if_one_sentinel_sees_it() -> None:
    without = [state(P, "master"), state(A, "slave,s_down"), state(B, "slave,s_down,disconnected")]
    assert combine([without] * 3, 3).candidates == {P}
    assert combine([without, without, WHOLE], 3).candidates == {P, A, B}


def test_a_promotion_cuts_off_all_sentinels_and_is_no_death() -> None:
    cut_off = [state(P, "master"), state(A, "slave,disconnected"), state(B, "slave")]
    assert combine([cut_off] * 3, 3).candidates == {P, A, B}


def test_one_that_is_never_promoted_is_not_waited_for() -> None:
    view = combine([[state(P, "master"), state(A, "slave"), state(B, "slave", priority=0)]], 1)
    assert view.candidates == {P, A}
    assert view.never == {B}


SWITCHED = [state(A, "master"), state(B, "slave"), state(P, "slave", reports="master")]


@pytest.mark.parametrize(
    ("answers", "sentinels", "candidates"),
    [
        ([SWITCHED] * 3, 3, {A, B}),
        ([SWITCHED] * 2, 3, {P, A, B}),  # the third may be at anything
        ([SWITCHED, SWITCHED, [*SWITCHED[:2], state(P, "slave")]], 3, {P, A, B}),  # it may be promoted again
        ([SWITCHED, SWITCHED, WHOLE], 3, {P, A, B}),
        ([SWITCHED, SWITCHED, [state(A, "master,failover_in_progress"), *SWITCHED[1:]]], 3, {P, A, B}),
        # The one that is just being promoted, before its Sentinel says so:
        (
            [
                WHOLE,
                WHOLE,
                [state(P, "master,failover_in_progress"), state(A, "slave", reports="master"), WHOLE[2]],
            ],
            3,
            {P, A, B},
        ),
    ],
)
def test_only_a_former_primary_is_passed_over_and_only_when_all_agree(
    answers: list[list[dict[str, Any]]], sentinels: int, candidates: set[Address]
) -> None:
    assert combine(answers, sentinels).candidates == candidates


def test_a_view_names_the_servers_that_it_passes_over() -> None:
    dead = [state(P, "master"), state(A, "slave,s_down"), state(B, "slave", priority=0)]
    assert combine([dead] * 3, 3).passed_over == {A}
    assert combine([SWITCHED] * 3, 3).passed_over == {P}
    assert combine([WHOLE] * 3, 3).passed_over == set()


def role(written: int, **acknowledged: int) -> list[Any]:
    ports = {"p": b"1", "a": b"2", "b": b"3", "c": b"4"}
    return [b"master", written, [[b"h", ports[name], str(n).encode()] for name, n in acknowledged.items()]]


ALL = View(frozenset({P, A, B}))


@pytest.mark.parametrize(
    ("view", "before", "after", "server", "lacking"),
    [
        (ALL, role(9, a=1, b=1), role(12, a=9, b=10), P, None),
        (ALL, role(9, a=1, b=1), role(12, a=9, b=8), P, "h:3 lacks"),
        (ALL, role(9, b=1), role(12, b=9), P, "h:2 lacks"),  # it was promoted
        (ALL, role(9, b=1, c=1), role(12, b=9, c=9), P, "h:2 lacks"),  # and another one has come
        (View(frozenset({P, A})), role(9, a=1, b=1), role(12, a=9, b=1), P, "h:3 lacks"),  # it came back
        (View(frozenset({P, A}), frozenset({B})), role(9, a=1, b=1), role(12, a=9, b=1), P, None),
        (View(frozenset({P})), role(9), role(9), P, None),  # the last one that is left
        (View(frozenset({A, B})), role(9, b=1), role(12, b=9), P, "do not see"),
        (None, role(9, a=9, b=9), role(9, a=9, b=9), P, "do not answer"),
        (ALL, [b"slave", b"h", 1, b"connected", 9], role(9), P, "the answer was"),
    ],
)
def test_a_write_counts_when_every_server_that_could_be_promoted_has_it(
    view: View | None, before: list[Any], after: list[Any], server: Address, lacking: str | None
) -> None:
    rule = Rule("replica", "all", Watch([], "main"), 1.0)
    objection = rule.objection([True, before, 1, after], server, view)
    assert (lacking is None and objection is None) or (lacking is not None and lacking in str(objection))


class Sentinel:
    """Answers with the next of its answers, and then with the last one."""

    def __init__(self, *answers: list[dict[str, Any]]) -> None:
        self.answers = list(answers)
        self.asked = 0

    async def sentinel_master(self, _: str) -> dict[str, Any]:
        self.asked += 1
        return self.answers[0][0]

    async def sentinel_slaves(self, _: str) -> list[dict[str, Any]]:
        return (self.answers.pop(0) if len(self.answers) > 1 else self.answers[0])[1:]


AGAIN = [state(A, "master,failover_in_progress"), state(B, "slave"), state(P, "slave")]
RETURNED = [state(A, "master"), state(B, "slave"), state(P, "slave")]
GONE = [state(A, "master"), state(B, "slave"), state(P, "slave,s_down")]


@pytest.mark.parametrize(
    ("first", "then", "lacking"),
    [
        (SWITCHED, SWITCHED, None),
        (SWITCHED, AGAIN, "h:1 lacks"),  # a replica meanwhile, and promoted before the write
        (GONE, GONE, None),
        (GONE, RETURNED, "h:1 lacks"),
        (
            SWITCHED,
            [state(P, "master"), state(B, "slave"), state(A, "slave", reports="master")],
            "do not see",
        ),
    ],
)
async def test_who_is_passed_over_must_be_so_after_the_write(
    first: list[dict[str, Any]], then: list[dict[str, Any]], lacking: str | None
) -> None:
    """The second planned failover promoted the first one's primary, while the view was still of before."""
    rule = Rule("replica", "all", Watch([Sentinel(first, then) for _ in range(3)], "main"), 1.0)
    view = await rule.read_view()
    objection = await rule.judge([True, role(9, b=1), 1, role(12, b=9)], A, view)
    assert (lacking is None and objection is None) or (lacking is not None and lacking in str(objection))


async def test_a_view_that_passes_over_nobody_serves_every_write_for_a_second() -> None:
    sentinels = [Sentinel(WHOLE) for _ in range(3)]
    rule = Rule("replica", "all", Watch(sentinels, "main"), 1.0)
    for _ in range(3):
        view = await rule.read_view()
        assert await rule.judge([True, role(9, a=9, b=9), 2, role(12, a=9, b=9)], P, view) is None
    assert [sentinel.asked for sentinel in sentinels] == [1] * 3


def test_without_sentinels_every_replica_that_is_connected_counts_and_one_is_needed() -> None:
    rule = Rule("replica", "all", None, 1.0)
    assert rule.objection([True, role(9, a=1, b=1), 1, role(9, a=9, b=9)], P, None) is None
    assert rule.objection([True, role(9, a=1, b=1), 1, role(9, a=9, b=8)], P, None) == "h:3 lacks it"
    assert rule.objection([True, role(9), 0, role(9)], P, None) == "there is no replica"


def test_a_number_is_that_number() -> None:
    rule = Rule("replica", 2, None, 1.0)
    assert rule.questions(None)[-1] == ("WAIT", 2, 800)
    assert rule.objection([True, 2], P, None) is None
    assert rule.objection([True, 1], P, None) == "1 replicas have it"
    assert Rule("no", "all", None, 1.0).questions(None) == []
