"""Lua scripts as Redis knows them: text and digest. Sends nothing.

Every script of the store may be sent twice (a lost reply is followed by a retry): each recognises its own
repetition.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path

Argument = str | bytes | int | float

_STORE = Path(__file__).parents[1]
_PRELUDE = "".join((_STORE / f"{name}.lua").read_text() for name in ("enqueue", "held"))


class LuaScript:
    """A Lua file of the store, with the prelude in front; known to Redis by its digest.

    `name`: its path below the store, without the ending.
    `is_confirmed`: its writes count only when they are as safe as `durable_writes` asks for.
    `allows_full`: it also runs in a full Redis, because it needs no more memory than it frees or holds.
    Any other script is refused there at its first write, before it has changed anything.
    """

    def __init__(self, name: str, *, is_confirmed: bool = False, allows_full: bool = False) -> None:
        self.name = name
        self.is_confirmed = is_confirmed
        flags = "#!lua flags=allow-oom\n" if allows_full else ""
        self.text = flags + _PRELUDE + (_STORE / f"{name}.lua").read_text()
        self.sha = hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest()

    def command(self, keys: Sequence[str], args: Sequence[Argument]) -> tuple[Argument, ...]:
        return ("EVALSHA", self.sha, len(keys), *keys, *args)

    def whole_command(self, keys: Sequence[str], args: Sequence[Argument]) -> tuple[Argument, ...]:
        return ("EVAL", self.text, len(keys), *keys, *args)
