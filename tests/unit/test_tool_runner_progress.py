import pytest

from shared.settings import Settings
from tool_runner.progress import Patience


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def make(clock: Clock) -> Patience:
    return Patience.of(Settings(tool_timeout_s=10.0, tool_progress_max_s=25.0), clock)


def test_each_report_gives_a_call_its_time_again_up_to_a_limit() -> None:
    clock = Clock()
    patience = make(clock)
    report = patience.listen("call")
    assert patience.left_s() == 10.0
    for now_s, left_s in ((104.0, 10.0), (112.0, 10.0), (119.0, 6.0), (124.0, 1.0)):
        clock.now_s = now_s
        report(now_s, None, None)
        assert patience.left_s() == left_s
    assert patience.waited_s() == 25.0


def test_a_report_that_does_not_go_on_gives_no_time() -> None:
    clock = Clock()
    patience = make(clock)
    report = patience.listen("call")
    report(1.0, None, None)
    clock.now_s = 105.0
    for progress in (1.0, 0.5, float("nan")):
        report(progress, None, None)
    assert patience.left_s() == 5.0


def test_a_limit_below_the_usual_time_takes_none_of_it() -> None:
    clock = Clock()
    patience = Patience.of(Settings(tool_timeout_s=10.0, tool_progress_max_s=0.0), clock)
    clock.now_s = 103.0
    patience.listen("call")(1.0, None, None)
    assert patience.left_s() == 7.0


def test_the_log_has_one_report_in_a_second_and_no_forged_line(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    clock = Clock()
    report = make(clock).listen("wiki: 'ask'")
    for tenth in range(21):
        clock.now_s = 100.0 + tenth / 10
        report(tenth, 20.0, "line\nforged" + "x" * 1000)
    said = [record.getMessage() for record in caplog.records]
    assert [line.partition(": 'line")[0] for line in said] == [
        "wiki: 'ask': progress 0 of 20",
        "wiki: 'ask': progress 10 of 20",
        "wiki: 'ask': progress 20 of 20",
    ]
    assert max(map(len, said)) < 300
    assert "\n" not in "".join(said)
