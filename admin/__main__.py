"""`python -m admin COMMAND`: shows and steers a running deployment, through Redis.

Owns the exit codes: 0: done; 1: it cannot be done, or `check` found something bad; 2: it was asked wrongly.
"""

import argparse
import asyncio
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
from shared.frames import data_of
from shared.process import FAILED, MISUSED, describe_unreadable
from shared.redis_url import redact
from shared.settings import Settings
from shared.store.redis.client import RedisClient
from shared.store.redis.connections import REDIS_AWAY
from shared.tenants_file import FileInvalid


def main(arguments: Sequence[str]) -> int:
    """Returns the exit code. An error is one line on stderr."""
    chosen = make_parser().parse_args(arguments)
    try:
        settings = Settings()
        return asyncio.run(_run(chosen, settings, read_tenants(settings)))
    except ValidationError as error:
        first = error.errors()[0]
        return _refuse(f"ANTIPHON_{'.'.join(map(str, first['loc'])).upper()}: {first['msg']}", MISUSED)
    except SettingsError as error:
        return _refuse(describe_unreadable(error), MISUSED)
    except FileInvalid as error:
        return _refuse(str(error), MISUSED)
    except CannotBeDone as error:
        return _refuse(str(error), FAILED)
    except REDIS_AWAY as away:
        where = redact(settings.redis_url)
        return _refuse(f"Redis at {where} is unavailable: {str(away) or 'no answer in time'}", FAILED)
    except BrokenPipeError:  # whoever read the answer has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
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
        print(answer.as_json() if chosen.json else "\n".join(answer.lines))
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
            line = data_of(frame).decode() if chosen.json else events.describe(frame)
            print(line, flush=True)


def _refuse(reason: str, code: int) -> int:
    print(f"admin: {' '.join(reason.split())}", file=sys.stderr)
    return code


if __name__ == "__main__":
    logging.disable(logging.WARNING)  # an error is reported once, by the command that it ends
    sys.exit(main(sys.argv[1:]))
