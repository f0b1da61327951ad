"""The chaos run in its short form, and the proof that it can fail: a cluster without fencing is caught."""

import asyncio
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from local.cluster import ROOT
from tests.chaos.__main__ import describe_violations
from tests.chaos.courses import WAYS, Course, make_course
from tests.chaos.history import Way
from tests.chaos.nemesis import Strike
from tests.chaos.plans import PLANS
from tests.chaos.run import Judgement, run

pytestmark = pytest.mark.chaos

PLAIN = {name: PLANS[name].weight for name in ("quick", "short", "middle", "long", "characters", "cut")}
_FENCES = {
    "log/entries.lua": "  if attempt .. ' ' .. owner ~= proof then return {'fenced'} end\n",
    "owning/renew.lua": (
        "if not fields[1] or fields[1] .. ' ' .. fields[6] ~= proof"
        " or fields[2] ~= '' then return 'lost' end\n"
    ),
    "log/response_log.py": """\
            case [b"gap", _, owner] if owner != self.token.partition(" ")[2].encode():
                # A failover lost our lease, and another owner got the same token.
                return LeaseLost(f"{self.key}, {self.token}: owned by {owner!r}")
""",
}


def drive(course: Course, folder: Path) -> Judgement:
    return asyncio.run(run(course, folder))


NO_ABANDONING: dict[Way, int] = {way: weight for way, weight in WAYS.items() if way != "abandon"}
"""Only the run with everything waits until the grace of abandoned responses is over: half a minute."""
SHORT = Course(seed=7, responses=50, strikes_min=3, clients=16, ways=NO_ABANDONING, long_tool_s=5.0)


@pytest.mark.timeout(400)
def test_nothing_is_lost_while_every_role_is_killed_stopped_drained_and_cut_off(tmp_path: Path) -> None:
    course = make_course("all", replace(SHORT, responses=180, strikes_min=10, clients=40, ways=WAYS))
    judgement = drive(course, tmp_path)
    assert not judgement.violations, describe_violations(judgement)
    assert judgement.figures.ends["completed"] > 100
    assert judgement.figures.taken_over > 0
    assert judgement.figures.resumes > 50
    assert judgement.figures.delivered > 20


@pytest.mark.timeout(400)
@pytest.mark.parametrize("name", ["redis", "cuts", "restarts", "tools", "upgrade"])
def test_nothing_is_lost_on_a_course_of_its_own(tmp_path: Path, name: str) -> None:
    judgement = drive(make_course(name, SHORT), tmp_path)
    assert not judgement.violations, describe_violations(judgement)
    assert sum(sum(actions.values()) for actions in judgement.figures.strikes.values()) > 0


@pytest.mark.timeout(400)
def test_nothing_is_lost_while_one_server_after_the_other_becomes_the_primary(tmp_path: Path) -> None:
    """Of its strikes as many as half a minute has room for: planned failovers, and a kill."""
    judgement = drive(make_course("failover", replace(SHORT, responses=10_000, seconds_max=45.0)), tmp_path)
    assert not judgement.violations, describe_violations(judgement)
    assert judgement.figures.strikes["valkey"]["failover"] > 0
    assert judgement.figures.delivered > 0


def copy_without_fences(root: Path) -> Path:
    """The product's code, with everything taken out that refuses a stale owner by name or token."""
    for name in ("api", "worker", "tool_runner", "webhooks", "shared"):
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name, fence in _FENCES.items():
        script = root / "shared" / "store" / name
        text = script.read_text()
        assert text.count(fence) == 1
        script.write_text(text.replace(fence, ""))
    return root


STOPS = tuple(Strike(4.5, "stop", "worker", number, lasting_s=4.0) for number in (0, 1))


def course_of_stops(root: Path) -> Course:
    """Each worker stands still for longer than its leases last."""
    return Course(
        seed=7,
        responses=40,
        strikes_min=3,
        clients=40,
        apis=1,
        workers=2,
        tool_runners=1,
        script=STOPS,
        plans=PLAIN,
        ways=NO_ABANDONING,
        root=root,
    )


@pytest.mark.timeout(400)
def test_a_cluster_without_fencing_is_caught(tmp_path: Path) -> None:
    """Its stale owners go on when they wake. The check of the tail in entries.lua still stands: it refuses
    most of their entries, which they take for a fault of their own and end the response as failed."""
    course = course_of_stops(copy_without_fences(tmp_path / "root"))
    judgement = drive(course, tmp_path)
    assert "an end has its reason" in {violation.rule for violation in judgement.violations}


@pytest.mark.timeout(400)
def test_the_same_cluster_with_fencing_is_not_accused(tmp_path: Path) -> None:
    judgement = drive(course_of_stops(ROOT), tmp_path)
    assert not judgement.violations, describe_violations(judgement)
    assert judgement.figures.taken_over > 0
