"""Lua scripts: their text and digest, and calls whose keys and arguments are passed by name.

Owns the form of a script's file (`joint_scripts.py`: of one that serves many calls); sends nothing. A script
of the store may be sent twice (a lost reply is followed by a retry), so each recognises its own repetition.
"""

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

Argument = str | bytes | int | float
Command = tuple[Argument, ...]
"""The words of a command, or one Packed alone."""

_STORE = Path(__file__).parents[1]
_DECLARED = re.compile(r"^-- ((?:EACH )?KEYS|(?:EACH )?ARGV|USES) (.*(?:\n--   .*)*)$", re.MULTILINE)
REPEATED = "…"
_NUMBER = "#"


class Packed(bytes):
    """A whole command as it goes over the wire."""


class StoredScript:
    """A Lua file of the store: its text, its digest, and the names that its head declares.

    `name`: its path below the store, without the extension. `is_confirmed`: its writes count only once they
    are as safe as `durable_writes` demands. `allows_full`: it also runs if Redis is out of memory, because it
    hardly needs any. Any other script is then refused at its first write, before it has changed anything.
    """

    keys: tuple[str, ...]
    args: tuple[str, ...]
    is_open_ended: bool
    """True if arguments without a name may follow the named ones."""

    def __init__(self, name: str, *, is_confirmed: bool = False, allows_full: bool = False) -> None:
        self.name = name
        self.is_confirmed = is_confirmed
        body = _read(name)
        declared = {kind: text.replace("\n--", " ") for kind, text in _DECLARED.findall(body)}
        self.uses = declared.get("USES", "").split()
        flags = "#!lua flags=allow-oom\n" if allows_full else ""
        self.text = flags + "".join(map(_read, self.uses)) + self._bind(declared, body)
        self.sha = hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest()

    def _bind(self, declared: dict[str, str], body: str) -> str:
        """Sets the names, and returns the body with Lua that assigns keys and arguments to them."""
        raise NotImplementedError

    def _check(self, named: Iterable[str], expected: set[str], *, is_open_ended: bool = True) -> None:
        if set(named) != expected or not is_open_ended:
            raise TypeError(f"{self.name}.lua takes {sorted(expected)}, not {sorted(named)}")


class LuaScript(StoredScript):
    """A script that serves one call. Calling it with keys and arguments by name returns a ScriptCall.

    The file's head declares them: `-- KEYS state log`, `-- ARGV member ttl_ms# (frame tokens)…`; `-- USES`
    lists the files whose functions it needs. Each name is a local variable in the file; `#` makes it a
    number. What precedes `…` may be repeated any number of times at the end; it is passed by position and
    begins at `ARGV[REST]`.
    """

    def _bind(self, declared: dict[str, str], body: str) -> str:
        self.keys, args = tuple(declared.get("KEYS", "").split()), named_args(declared.get("ARGV", ""))
        self.args, self.is_open_ended = names_of(args), REPEATED in declared.get("ARGV", "")
        return f"{bind_names(self.keys, args)}; local REST = {len(args) + 1}\n{body}"

    def __call__(self, *repeated: Argument, **named: Argument) -> "ScriptCall":
        """Returns a call. Raises TypeError unless exactly the declared names are given."""
        self._check(named, {*self.keys, *self.args}, is_open_ended=self.is_open_ended or not repeated)
        args = (*(named[arg] for arg in self.args), *repeated)
        return ScriptCall(self, tuple(cast(str, named[key]) for key in self.keys), args)

    def bind(self, **named: Argument) -> "BoundScript":
        """Returns the script with all keys and the first arguments fixed.

        Raises TypeError for other names.
        """
        fixed = self.args[: len(named) - len(self.keys)]
        self._check(named, {*self.keys, *fixed})
        keys = tuple(cast(str, named[key]) for key in self.keys)
        return BoundScript(self, keys, tuple(named[arg] for arg in fixed))


@dataclass(frozen=True, slots=True)
class BoundScript:
    """A script with the keys and first arguments that many calls have in common."""

    script: LuaScript
    keys: tuple[str, ...]
    fixed: tuple[Argument, ...]

    def __call__(self, *args: Argument) -> "ScriptCall":
        """Returns a call with the other arguments, in the file's order.

        Raises TypeError if any is missing.
        """
        if len(self.fixed) + len(args) < len(self.script.args):
            raise TypeError(f"{self.script.name}.lua takes {self.script.args}")
        return ScriptCall(self.script, self.keys, (*self.fixed, *args))


@dataclass(frozen=True, slots=True)
class ScriptCall:
    """A script with its keys and arguments, in the order that its file declares."""

    script: LuaScript
    keys: tuple[str, ...]
    args: tuple[Argument, ...]

    def command(self) -> tuple[Argument, ...]:
        return ("EVALSHA", self.script.sha, len(self.keys), *self.keys, *self.args)

    def whole_command(self) -> tuple[Argument, ...]:
        """Returns the command for a server that does not have the script yet."""
        return ("EVAL", self.script.text, len(self.keys), *self.keys, *self.args)


def read_word(reply: object, *words: str) -> str:
    """Returns the reply of a script that answers with one of these words.

    Raises RuntimeError for any other.
    """
    if isinstance(reply, bytes) and reply.decode() in words:
        return reply.decode()
    raise RuntimeError(f"a script that answers {' | '.join(words)} answered {reply!r}")


def _read(name: str) -> str:
    return (_STORE / f"{name}.lua").read_text()


def named_args(declared: str) -> list[str]:
    """Returns the arguments that have names, each with its `#`, if any."""
    return re.split(r"\(|\S+…", declared)[0].split()


def names_of(args: Iterable[str]) -> tuple[str, ...]:
    return tuple(arg.removesuffix(_NUMBER) for arg in args)


def bind_names(keys: Sequence[str], args: Sequence[str]) -> str:
    """Returns one line of Lua that assigns the keys and arguments to their names."""
    bound = [f"local {', '.join(keys)} = unpack(KEYS)"] if keys else []
    for place, (name, arg) in enumerate(zip(names_of(args), args, strict=True), 1):
        bound.append(f"local {name} = {value_at(str(place), arg)}")
    return "; ".join(bound)


def value_at(place: str, arg: str) -> str:
    """Returns the Lua expression for an argument."""
    return f"tonumber(ARGV[{place}])" if arg.endswith(_NUMBER) else f"ARGV[{place}]"
