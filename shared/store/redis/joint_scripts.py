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

CALLS_MAX, WORDS_MAX = 64, 1_024
"""The limits on a run, during which Redis serves no other client: calls, and keys and arguments of all of
them (a single call may have more). Either takes Redis less than a millisecond."""


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
        self._kinds: dict[tuple[bytes, bytes], JointKind] = {}
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
        kind = self.kind(pack(*keys[:common_keys]), pack(*args[:common_args]))
        missing = len(self.args) - len(fixed)
        return BoundJoint(kind, pack(*keys[common_keys:]), pack(*args[common_args:]), missing)

    def kind(self, keys: bytes, args: bytes) -> "JointKind":
        """Returns what calls of one run share. `keys`, `args`: what the file declares as common, packed."""
        return self._kinds.setdefault((keys, args), JointKind(self, keys, args))

    def __call__(self, **named: Argument) -> "JointCall":
        """Returns a call. Raises TypeError unless exactly the declared names are given."""
        self._check(named, {*self.keys, *self.args})
        return self.bind(**named).call(*([pack_count(0)] if self.is_open_ended else []))


@dataclass(frozen=True, slots=True, eq=False)
class JointKind:
    """A joint script with the keys and arguments that all calls of a run have in common, packed."""

    script: JointScript
    keys: bytes
    args: bytes


class BoundJoint:
    """A joint script with the keys and first arguments that many calls have in common, packed."""

    def __init__(self, kind: JointKind, keys: bytes, fixed: bytes, missing: int) -> None:
        """`missing`: the number of declared arguments that a call has to give."""
        script = kind.script
        self._kind, self._keys, self._fixed, self._missing = kind, keys, fixed, missing
        self._is_open_ended = script.is_open_ended
        common = len(script.common_keys) + len(script.common_args)
        self._words = len(script.keys) + len(script.args) - common + script.is_open_ended

    def call(self, *args: bytes, count: int = 0) -> "JointCall":
        """Returns a call. `args`: the other arguments in the file's order, packed, each or several together.

        Of an open-ended script, `pack_count(count)` and `count` words without names are among them. Raises
        TypeError if none is given although some are missing, or if the script takes no others.
        """
        if (self._missing and not args) or (count and not self._is_open_ended):
            raise TypeError(f"{self._kind.script.name}.lua takes {self._kind.script.args}")
        return JointCall(self._kind, self._keys, (self._fixed, *args), self._words + count)


class JointCall(msgspec.Struct, frozen=True, gc=False):
    """One call of a joint script, packed."""

    kind: JointKind
    keys: bytes
    args: tuple[bytes, ...]
    words: int
    """The number of its own keys and arguments."""

    @property
    def script(self) -> JointScript:
        return self.kind.script


StoreCall = ScriptCall | JointCall


@dataclass(slots=True)
class _Served:
    """Calls that one command serves."""

    calls: list[StoreCall]
    places: list[int]
    words: int = 0


class Gathered:
    """Calls as commands: those of one joint script in as few runs as may be, where their first stands."""

    def __init__(self, calls: Sequence[StoreCall]) -> None:
        self._calls = calls
        self._runs: list[_Served] = []
        open_runs: dict[JointKind, _Served] = {}
        for place, call in enumerate(calls):
            if isinstance(call, ScriptCall):
                self._runs.append(_Served([call], [place]))
                continue
            run = open_runs.get(call.kind)
            if run is None or len(run.calls) == CALLS_MAX or run.words + call.words > WORDS_MAX:
                run = open_runs[call.kind] = _Served([], [])
                self._runs.append(run)
            run.calls.append(call)
            run.places.append(place)
            run.words += call.words
        self.commands: list[Command] = [_command(run.calls) for run in self._runs]

    @property
    def texts(self) -> set[str]:
        """The text of each script."""
        return {call.script.text for call in self._calls}

    def scatter(self, answers: Sequence[object]) -> list[object]:
        """Returns the reply to each call. `answers`: to the commands; a run's error is all its calls'."""
        replies: list[object] = [None] * len(self._calls)
        for run, answer in zip(self._runs, answers, strict=True):
            is_joint = isinstance(run.calls[0], JointCall) and isinstance(answer, list)
            own = cast(list[object], answer) if is_joint else [answer] * len(run.calls)
            for place, reply in zip(run.places, own, strict=True):
                replies[place] = reply
        return replies

    def torn(self, answers: Sequence[object]) -> list[int]:
        """Returns the places of calls that may have failed because of another call in their run."""
        runs = zip(self._runs, answers, strict=True)
        torn = [run for run, answer in runs if len(run.calls) > 1 and isinstance(answer, Exception)]
        return [place for run in torn for place in run.places]


def _command(calls: Sequence[StoreCall]) -> Command:
    first = calls[0]
    return first.command() if isinstance(first, ScriptCall) else (_join(cast(Sequence[JointCall], calls)),)


def _join(calls: Sequence[JointCall]) -> Packed:
    """Returns the command of one run, whose calls are of one kind."""
    kind = calls[0].kind
    script = kind.script
    common_keys = len(script.common_keys)
    key_count = common_keys + (len(script.keys) - common_keys) * len(calls)
    words = 3 + common_keys + len(script.common_args) + sum([call.words for call in calls])
    head = b"*%d\r\n%b" % (words, pack(b"EVALSHA", script.sha.encode(), b"%d" % key_count))
    parts = [head, kind.keys, *[call.keys for call in calls], kind.args]
    for call in calls:
        parts += call.args
    return Packed(b"".join(parts))


WORD = b"$%d\r\n%b\r\n"
"""Makes one word of Redis's protocol of its length and its bytes
(https://redis.io/docs/latest/develop/reference/protocol-spec)."""


def pack(*words: bytes) -> bytes:
    """Returns words as they go over the wire."""
    return b"".join([WORD % (len(word), word) for word in words])


def pack_count(count: int) -> bytes:
    """Returns what stands before the words without names of an open-ended script."""
    return pack(b"%d" % count)


def _encode(value: Argument) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()
