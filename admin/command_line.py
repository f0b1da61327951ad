"""The arguments of `python -m admin`. Owns their names and bounds, not what the commands do."""

import argparse

from shared.arguments import make_range

_LISTED_MAX, _KEYS_MAX = 10_000, 10_000_000


def make_parser() -> argparse.ArgumentParser:
    """Returns the parser of all commands."""
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--json", action="store_true", help="answer with JSON")
    parser = argparse.ArgumentParser(
        prog="python -m admin",
        description="Shows and steers a running deployment. Reads the environment of its roles.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name: str, description: str) -> argparse.ArgumentParser:
        return commands.add_parser(name, parents=[shared], help=description, description=description)

    ps = add("ps", "list open responses")
    ps.add_argument("--tenant", default="", help="those of one tenant")
    _add_limit(ps, 50, "responses")
    _add_response(add("show", "show a response: state, owner, attempts, journal"))
    follow = add("follow", "print the events of a response until it ends")
    _add_response(follow)
    follow.add_argument(
        "--after", type=make_range(-1, 2**53), default=-1, metavar="N", help="begin after event number N"
    )
    _add_response(add("cancel", "cancel a response"))
    drain = add("drain", "have a worker hand over what it runs and take nothing more")
    drain.add_argument("worker", metavar="WORKER", help="its name, as `workers` lists it")
    add("workers", "list the processes that are present")
    _add_limit(add("queue", "show what waits, by queue, tenant and tier"), 50, "flows of each queue")
    _add_limit(add("tenants", "list tenants and what they have"), 100, "tenants")
    check = add("check", "look for what is wrong: settings, Redis, its clock, keys without a TTL, processes")
    check.add_argument(
        "--keys-max",
        type=make_range(0, _KEYS_MAX),
        default=10_000,
        metavar="N",
        help="how many keys to look at, in small steps (default: %(default)s)",
    )
    return parser


def _add_response(command: argparse.ArgumentParser) -> None:
    command.add_argument("response", metavar="ID", help="a response's id, or TENANT/ID")
    command.add_argument("--tenant", default="", help="its tenant (default: any of the tenants file)")


def _add_limit(command: argparse.ArgumentParser, default: int, what: str) -> None:
    command.add_argument(
        "--limit",
        type=make_range(1, _LISTED_MAX),
        default=default,
        metavar="N",
        help=f"the number of {what} shown (default: %(default)s)",
    )
