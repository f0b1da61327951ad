"""`python -m tests.chaos [--seed N] [--responses N] [--minutes M]`, or `make chaos`: nothing is lost.

It starts a cluster of its own (3 API nodes, 3 workers, 2 tool runners, a Valkey), asks it for every plan
once while nothing happens, then lets 60 clients at it that stream, drop, resume on any node, poll, wait,
cancel and chain, while the nemesis kills, stops and drains processes of every role, Valkey among them.
Afterwards it reads every log through an API node and out of Redis, and judges.

plans.py        what is asked; script.toml what the scripted engine says to it
deliveries.py   the receiver of webhooks, which is unreliable and not struck
mcp_server.py   the tools: `lookup`, `count` (counts its executions), `slow`; not struck
clients.py      what clients do      nemesis.py   what goes wrong, out of the seed
history.py      the record of both   dump.py      what Redis holds at the end
checker.py      the rules, pure      output.py    what a response says, for comparing
figures.py      the counts, pure     run.py       the order of things

The seed decides what clients do and what goes wrong when; how processes meet it is the machine's own, so
a second run with a seed is alike and not the same. The folder of a failed run is kept and named: it holds
history.jsonl, one line per observation, and the logs of all processes.
"""

import argparse
import asyncio
import secrets
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path

from local.cluster import ROOT
from tests.chaos import figures
from tests.chaos.courses import NAMES, Course, make_course
from tests.chaos.history import Observation, OfCall, Replayed, Struck, write_lines
from tests.chaos.run import Judgement, run

_SHOWN_OF_RULE_MAX = 5
_BEFORE_S = 5.0


def main() -> int:
    course, is_kept = read_course(sys.argv[1:])
    folder = Path(tempfile.mkdtemp(prefix="antiphon-chaos-"))
    print(f"seed {course.seed}, {course.responses} responses; the run is in {folder}", flush=True)
    judgement = asyncio.run(run(course, folder))
    print(figures.describe(judgement.figures))
    if judgement.violations:
        print(
            f"\nFAILED with seed {course.seed}; the run is kept in {folder}\n{describe_violations(judgement)}"
        )
        return 1
    if not is_kept:
        shutil.rmtree(folder)
    print(f"seed {course.seed}: nothing was lost, repeated, reordered or left over")
    return 0


def read_course(arguments: list[str]) -> tuple[Course, bool]:
    """Returns what is to be run, and whether the folder of a clean run is kept."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.chaos", description="Disturbs a cluster and checks it."
    )
    parser.add_argument("--seed", type=int, default=secrets.randbelow(10**6), help="default: any")
    parser.add_argument("--responses", type=int, help="default: 2000, or no limit with --minutes")
    parser.add_argument("--minutes", type=float, help="ends then in any case; default: 60")
    parser.add_argument("--clients", type=int, default=60, help="at a time (default: %(default)s)")
    parser.add_argument(
        "--course", choices=NAMES, default="all", help="what goes wrong (default: %(default)s)"
    )
    parser.add_argument(
        "--older", help="the commit that an upgrade begins with (default: the last one without formats)"
    )
    parser.add_argument("--root", type=Path, default=ROOT, help="whose code runs (default: this one's)")
    parser.add_argument("--keep", action="store_true", help="keep the folder of a clean run too")
    chosen = parser.parse_args(arguments)
    plain = Course(
        chosen.seed,
        chosen.responses or (10**6 if chosen.minutes else 2000),
        seconds_max=(chosen.minutes or 60) * 60,
        clients=chosen.clients,
        root=chosen.root,
        older=chosen.older,
    )
    return make_course(chosen.course, plain), chosen.keep


def describe_violations(judgement: Judgement) -> str:
    """Prints the number of violations of each rule, the first of each, and everything observed around the
    first one."""
    violations = judgement.violations
    lines = [f"{len(violations)} violations"]
    for rule, count in Counter(violation.rule for violation in violations).items():
        lines.append(f"  {rule}: {count}")
        of_rule = [violation for violation in violations if violation.rule == rule]
        for found in of_rule[:_SHOWN_OF_RULE_MAX]:
            lines.append(
                f"    {'store' if found.call is None else f'call {found.call}'}: {found.what[:1000]}"
            )
    first = violations[0].call
    if first is not None:
        lines += [f"the history of call {first}:", write_lines(history_of(first, judgement.observations))]
    return "\n".join(lines)


def history_of(call: int, observations: list[Observation]) -> Iterator[Observation]:
    """Prints the observations of a call, and the strikes during it or shortly before."""
    before = list(_before_the_replays(observations))
    times_s = [seen.at_s for seen in before if _is_of(call, seen)]
    begin_s, end_s = min(times_s) - _BEFORE_S, max(times_s)
    for seen in before:
        if _is_of(call, seen) or (isinstance(seen, Struck) and begin_s <= seen.at_s <= end_s):
            yield seen


def _before_the_replays(observations: list[Observation]) -> Iterator[Observation]:
    return takewhile(lambda seen: not isinstance(seen, Replayed), observations)


def _is_of(call: int, seen: Observation) -> bool:
    return isinstance(seen, OfCall) and seen.call == call


if __name__ == "__main__":
    sys.exit(main())
