"""Scripts of which one run serves many calls, such as the appends of all responses of a worker.

Owns their form in Lua and on the wire, and which calls run together; sends nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import msgspec

from shared.store.redis.scripts import (
    REPEATED,
    Argument,
    Command,
    Packed,
    ScriptCall,
    StoredScript,
    bind_names,
    named_args,
    names_of,
    value_at,
)

_WORDS_MAX = 4_096
"""The limit on the keys and arguments of a run, during which Redis serves no other client."""


class JointScript(StoredScript):
    """A script of which one run serves many calls, each with keys and arguments of its own.

    The file's head declares those: `-- EACH KEYS state log`, `-- EACH ARGV member (frame tokens)…`; `-- KEYS`
    and `-- ARGV` declare what the calls of a run have in common. The file is run for each call and returns
    the reply to it. What precedes `…` is in `ARGV[REST]` to `ARGV[LAST]`. Calls do not depend on each other:
    if a run raises an error, each is sent again by itself.
    """

    def _bind(self, declared: dict[str, str], body: str) -> str:
        common_keys, common = tuple(declared.get("KEYS", "").split()), named_args(declared.get("ARGV", ""))
        own_keys, own = tuple(declared["EACH KEYS"].split()), named_args(declared["EACH ARGV"])
        self.common_keys, self.common_args = common_keys, names_of(common)
        self.keys, self.args = common_keys + own_keys, self.common_args + names_of(own)
        self.is_open_ended = REPEATED in declared["EACH ARGV"]
        names, last = [*own_keys, *names_of(own)], f"arg + {len(own)}"
        values = [f"KEYS[key + {place}]" for place in range(1, len(own_keys) + 1)]
        values += [value_at(f"arg + {place}", arg) for place, arg in enumerate(own, 1)]
        if self.is_open_ended:  # how many follow stands before them
            names, values = [*names, "REST", "LAST"], [*values, f"arg + {len(own) + 2}", "last"]
            last = f"arg + {len(own) + 1} + ARGV[arg + {len(own) + 1}]"
        return f"""{bind_names(common_keys, common)}
local function each({", ".join(names)})
{body}
end
local replies, key, arg, key_count = {{}}, {len(common_keys)}, {len(common)}, #KEYS
while key < key_count do
  local last = {last}
  replies[#replies + 1] = each({", ".join(values)})
  key, arg = key + {len(own_keys)}, last
end
return replies
"""

    def bind(self, **named: Argument) -> "BoundJoint":
        """Packs all keys and the first arguments for many calls. Raises TypeError for other names."""
        fixed = self.args[: len(named) - len(self.keys)]
        self._check(named, {*self.keys, *fixed})
        keys = [_encode(named[key]) for key in self.keys]
        args = [_encode(named[arg]) for arg in fixed]
        common_keys, common_args = len(self.common_keys), len(self.common_args)
        return BoundJoint(
            self,
            (_pack(keys[:common_keys]), _pack(args[:common_args])),
            _pack(keys[common_keys:]),
            _pack(args[common_args:]),
            len(self.args) - len(fixed),
        )

    def __call__(self, **named: Argument) -> "JointCall":
        """Returns a call. Raises TypeError unless exactly the declared names are given."""
        self._check(named, {*self.keys, *self.args})
        return self.bind(**named)()


@dataclass(frozen=True, slots=True)
class BoundJoint:
    """A joint script with the keys and first arguments that many calls have in common, packed."""

    script: JointScript
    common: tuple[bytes, bytes]
    keys: bytes
    fixed: bytes
    missing: int
    """The number of declared arguments that a call has to give."""

    def __call__(self, *args: bytes) -> "JointCall":
        """Returns a call with the other arguments, in the file's order. Raises TypeError if one lacks."""
        script, count = self.script, len(args) - self.missing
        if count < 0 or (count > 0 and not script.is_open_ended):
            raise TypeError(f"{script.name}.lua takes {script.args}")
        own = len(script.args) - len(script.common_args) + count
        if script.is_open_ended:
            args, own = (*args[: self.missing], b"%d" % count, *args[self.missing :]), own + 1
        return JointCall(script, self.common, self.keys, self.fixed + _pack(args), own)


class JointCall(msgspec.Struct, frozen=True):
    """One call of a joint script, packed."""

    script: JointScript
    common: tuple[bytes, bytes]
    """Keys and arguments that all calls of a run share."""
    keys: bytes
    args: bytes
    args_count: int


StoreCall = ScriptCall | JointCall


class Gathered:
    """Calls as commands: those of one joint script in as few runs as may be, where their first stands."""

    def __init__(self, calls: Sequence[StoreCall]) -> None:
        self._calls = calls
        self._runs: list[list[int]] = []
        """For each command, the places of the calls that it serves."""
        open_runs: dict[tuple[JointScript, tuple[bytes, bytes]], list[int]] = {}
        words: dict[tuple[JointScript, tuple[bytes, bytes]], int] = {}
        for place, call in enumerate(calls):
            if isinstance(call, ScriptCall):
                self._runs.append([place])
                continue
            kind = call.script, call.common
            own = len(call.script.keys) + call.args_count
            count = words.get(kind, _WORDS_MAX) + own
            if count > _WORDS_MAX:
                open_runs[kind], count = [], own
                self._runs.append(open_runs[kind])
            open_runs[kind].append(place)
            words[kind] = count
        self.commands: list[Command] = [self._command([calls[place] for place in run]) for run in self._runs]

    def _command(self, run: Sequence[StoreCall]) -> Command:
        first = run[0]
        return first.command() if isinstance(first, ScriptCall) else (_join(cast(Sequence[JointCall], run)),)

    @property
    def texts(self) -> set[str]:
        """The text of each script."""
        return {call.script.text for call in self._calls}

    def scatter(self, answers: Sequence[object]) -> list[object]:
        """Returns the reply to each call. `answers`: to the commands; a run's error is all its calls'."""
        replies: list[object] = [None] * len(self._calls)
        for run, answer in zip(self._runs, answers, strict=True):
            is_joint = isinstance(self._calls[run[0]], JointCall) and isinstance(answer, list)
            own = cast(list[object], answer) if is_joint else [answer] * len(run)
            for place, reply in zip(run, own, strict=True):
                replies[place] = reply
        return replies

    def torn(self, answers: Sequence[object]) -> list[int]:
        """Returns the places of calls that may have failed because of another call in their run."""
        runs = zip(self._runs, answers, strict=True)
        return [
            place for run, answer in runs if len(run) > 1 and isinstance(answer, Exception) for place in run
        ]


def _join(calls: Sequence[JointCall]) -> Packed:
    """Returns the command of one run. The calls are of one script, with the same in common."""
    script, (common_keys, common_args) = calls[0].script, calls[0].common
    own_keys = len(script.keys) - len(script.common_keys)
    key_count = len(script.common_keys) + own_keys * len(calls)
    words = 3 + key_count + len(script.common_args) + sum([call.args_count for call in calls])
    head = b"*%d\r\n%b" % (words, _pack((b"EVALSHA", script.sha.encode(), b"%d" % key_count)))
    keys, args = [call.keys for call in calls], [call.args for call in calls]
    return Packed(b"".join([head, common_keys, *keys, common_args, *args]))


def _pack(values: Sequence[bytes]) -> bytes:
    """Returns bulk strings of Redis's protocol (https://redis.io/docs/latest/develop/reference/protocol-spec)."""
    return b"".join([b"$%d\r\n%b\r\n" % (len(value), value) for value in values])


def _encode(value: Argument) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()
