"""For how long Redis has answered without a break, derived from the times of its answers."""

import pytest

from worker.response.call_watch import Steadiness


def lasted_s(*answers: tuple[float, float] | None) -> float:
    """Returns the result after these answers (sent, received), None for a failed one; a break is over half a
    second."""
    steadiness = Steadiness(0.5)
    for answer in answers:
        if answer is None:
            steadiness.failed()
        else:
            steadiness.answered(*answer)
    return steadiness.lasted_s


STEADY = [(i * 0.4, i * 0.4 + 0.1) for i in range(10)]


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ([], 0.0),
        (STEADY[:1], 0.0),
        (STEADY, 3.6),
        ([*STEADY, None], 0.0),
        ([*STEADY, None, (3.8, 3.9)], 0.0),
        ([*STEADY, None, (3.8, 3.9), (4.0, 4.2)], 0.3),
        ([*STEADY, (4.0, 6.0)], 0.0),  # it hung, and answered at last
        ([*STEADY, (6.0, 6.1), (6.2, 6.3)], 0.2),  # nothing was sent for a while, so nothing is known
    ],
)
def test_a_break_of_any_kind_begins_anew(answers: list[tuple[float, float] | None], expected: float) -> None:
    assert lasted_s(*answers) == pytest.approx(expected)
