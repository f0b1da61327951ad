"""`python -m admin COMMAND`: shows and steers a running deployment, through Redis.

Owns the exit codes: 0: done; 1: it cannot be done, or `check` found something bad; 2: it was asked wrongly.
"""

import argparse
import asyncio
import io
import logging
import os
import sys
from collections.abc import Sequence
from contextlib import aclosing

from pydantic import ValidationError
from pydantic_settings import SettingsError

from admin import events
from admin.answers import AdminAnswer
from admin.command_line import make_parser
from admin.commands import Admin, CannotBeDone, read_tenants
from admin.printing import plain, plain_json
from shared.frames import data_of
from shared.logs import words_of
from shared.process import FAILED, MISUSED, describe_unreadable
from shared.redis_url import redact
from shared.settings import Settings
from shared.store.redis.client import RedisClient
from shared.store.redis.connections import REDIS_AWAY, REDIS_REFUSES
from shared.tenants_file import FileInvalid


class _Unwritten(Exception):
    """The answer cannot be written; its cause is the error of stdout, which is not Redis's."""


def main(arguments: Sequence[str]) -> int:
    """Returns the exit code. An error is one line on stderr."""
    chosen = make_parser().parse_args(arguments)
    try:
        settings = Settings()
        return asyncio.run(_run(chosen, settings, read_tenants(settings)))
    except ValidationError as error:
        return _refuse(_complaint(error), MISUSED)
    except SettingsError as error:
        return _refuse(describe_unreadable(error), MISUSED)
    except FileInvalid as error:
        return _refuse(str(error), MISUSED)
    except CannotBeDone as error:
        return _refuse(str(error), FAILED)
    except REDIS_AWAY as away:
        where = redact(settings.redis_url)
        return _refuse(f"Redis at {where} is unavailable: {words_of(away)}", FAILED)
    except REDIS_REFUSES as refusal:
        return _refuse(f"Redis at {redact(settings.redis_url)} refuses: {refusal}", FAILED)
    except _Unwritten as unwritten:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains as it ends
        if isinstance(unwritten.__cause__, BrokenPipeError):  # whoever read the answer has read enough
            return FAILED
        return _refuse(f"the answer cannot be written: {unwritten.__cause__}", FAILED)
    except KeyboardInterrupt:
        return 130


async def _run(chosen: argparse.Namespace, settings: Settings, tenants: Sequence[str]) -> int:
    redis = RedisClient.connect(
        settings.redis_url,
        timeout_s=settings.redis_timeout_s,
        durability=settings.durable_writes,
        replicas=settings.durable_replicas,
    )
    try:
        admin = Admin(redis, settings, tenants)
        if chosen.command == "follow":
            await _follow(admin, chosen)
            return 0
        answer = await _ask(admin, chosen)
        _say(plain_json(answer.as_json()) if chosen.json else "\n".join(map(plain, answer.lines)))
        return 0 if answer.is_fine else FAILED
    finally:
        await redis.close()


async def _ask(admin: Admin, chosen: argparse.Namespace) -> AdminAnswer:
    match chosen.command:
        case "ps":
            return await admin.ps(chosen.tenant, chosen.limit)
        case "show":
            return await admin.show(chosen.response, chosen.tenant)
        case "cancel":
            return await admin.cancel(chosen.response, chosen.tenant)
        case "drain":
            return await admin.drain(chosen.worker)
        case "workers":
            return await admin.workers()
        case "queue":
            return await admin.queue(chosen.limit)
        case "tenants":
            return await admin.list_tenants(chosen.limit)
        case _:
            return await admin.check(chosen.keys_max)


async def _follow(admin: Admin, chosen: argparse.Namespace) -> None:
    async with aclosing(admin.follow(chosen.response, chosen.tenant, chosen.after)) as frames:
        async for frame in frames:
            _say(plain_json(data_of(frame).decode()) if chosen.json else events.describe(frame))


def _say(text: str) -> None:
    try:
        print(text, flush=True)
    except OSError as error:
        raise _Unwritten from error


def _complaint(error: ValidationError) -> str:
    """Returns what is wrong with which settings."""
    said = [(each["loc"], each["msg"].removeprefix("Value error, ")) for each in error.errors()]
    return "; ".join(f"ANTIPHON_{str(loc[0]).upper()}: {what}" if loc else what for loc, what in said)


def _refuse(reason: str, code: int) -> int:
    print(f"admin: {plain(' '.join(reason.split()))}", file=sys.stderr)
    return code


if __name__ == "__main__":
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a terminal that has not all characters
    logging.disable(logging.WARNING)  # an error is reported once, by the command that it ends
    sys.exit(main(sys.argv[1:]))
