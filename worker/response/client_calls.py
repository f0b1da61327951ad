"""The item and the events of a call that the client runs, one class for each item type.

Pure. Owns how a call is shown while the model writes it, and what is made of arguments that are not as they
should be; `shared/client_tools.py` owns the items. A form holds what is known of one call so far, and is
advanced once for each piece, like the pieces of an item's text. Source of the order of events: the public
OpenAI types and recorded streams.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import msgspec

from shared import client_tools
from shared import events as ev
from shared.client_tools import (
    AnyClientCall,
    ApplyPatchCall,
    CustomToolCall,
    ExecAction,
    LocalShellCall,
    PatchOperation,
    ShellAction,
    ShellCall,
)
from shared.events import StreamEvent, TextDelta
from shared.ids import call_id, item_id
from shared.responses import FunctionCall, ItemStatus
from worker.asking.routing import ClientTarget
from worker.response.json_texts import JsonTexts, TextPiece

Events = list[StreamEvent]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a call stands, from which its ids derive."""

    response_id: str
    index: int
    """Its output_index."""

    def id_of(self, prefix: str) -> str:
        return item_id(prefix, self.response_id, self.index)

    @property
    def call_id(self) -> str:
        return call_id(self.response_id, self.index)


class ClientCallForm(Protocol):
    """Makes the item and events of one call, also of one that is cut off."""

    complaint: str | None
    """After the end: why the arguments make no call, for the model. Then nothing was shown of one."""

    def begin(self) -> Events:
        """Returns the events for the beginning of the call."""

    def delta_of(self, text: str) -> TextDelta | None:
        """Returns the event that any piece of the call's text becomes by itself; None if there is no such
        rule."""

    def extend(self, text: str) -> Events:
        """Takes another piece of the call's text."""

    def end(self, text: str, status: ItemStatus) -> Events:
        """Returns the events for the end of the call. `text`: all of it."""


class FunctionForm:
    """A function's arguments are shown as they are written."""

    complaint: str | None = None

    def __init__(self, place: Place, target: ClientTarget) -> None:
        self._place, self._target = place, target
        self._id = place.id_of("fc")

    def begin(self) -> Events:
        return [ev.OutputItemAdded(self._place.index, self._make("", "in_progress"))]

    def delta_of(self, text: str) -> TextDelta:
        return ev.FunctionCallArgumentsDelta(self._place.index, self._id, text)

    def extend(self, text: str) -> Events:
        return [self.delta_of(text)]

    def end(self, text: str, status: ItemStatus) -> Events:
        index = self._place.index
        return [
            ev.FunctionCallArgumentsDone(index, self._id, self._target.name, text),
            ev.OutputItemDone(index, self._make(text, status)),
        ]

    def _make(self, arguments: str, status: ItemStatus) -> FunctionCall:
        namespace = msgspec.UNSET if self._target.namespace is None else self._target.namespace
        return FunctionCall(self._id, status, self._place.call_id, self._target.name, arguments, namespace)


class CustomForm:
    """The input is the member `input` of the arguments; arguments without it are the input themselves, since
    models write such a tool's input as it is, too."""

    complaint: str | None = None

    def __init__(self, place: Place, target: ClientTarget) -> None:
        self._place, self._target = place, target
        self._id = place.id_of(CustomToolCall.prefix)
        self._texts = JsonTexts()
        self._held: list[str] | None = []
        """What was written so far, while it is not known whether it is the input itself; then None."""
        self._is_plain = False
        self._is_whole = False
        self._shown: list[str] = []

    def begin(self) -> Events:
        return [ev.OutputItemAdded(self._place.index, self._make("in_progress"))]

    def delta_of(self, text: str) -> None:
        return None

    def extend(self, text: str) -> Events:
        if self._is_plain:
            return self._show(text)
        events: Events = []
        for piece in self._texts.feed(text):
            if (piece.key, piece.place) == ("input", None) and not self._is_whole:
                self._held, self._is_whole = None, piece.is_last
                events += self._show(piece.text)
        if self._held is not None:
            self._held.append(text)
            if self._texts.is_broken:
                return self._show_held()
        return events

    def end(self, text: str, status: ItemStatus) -> Events:
        events = self._show_held() if self._held is not None and status == "completed" else []
        done = self._make(status)
        return [
            *events,
            ev.CustomToolCallInputDone(self._place.index, self._id, done.input),
            ev.OutputItemDone(self._place.index, done),
        ]

    def _show_held(self) -> Events:
        held, self._held, self._is_plain = "".join(self._held or ()), None, True
        return self._show(held)

    def _show(self, text: str) -> Events:
        if not text:
            return []
        self._shown.append(text)
        return [ev.CustomToolCallInputDelta(self._place.index, self._id, text)]

    def _make(self, status: ItemStatus) -> CustomToolCall:
        namespace = msgspec.UNSET if self._target.namespace is None else self._target.namespace
        return CustomToolCall(
            id=self._id,
            status=status,
            call_id=self._place.call_id,
            name=self._target.name,
            input="".join(self._shown),
            namespace=namespace,
        )


class _HeldBack:
    """A call of which nothing is shown before its arguments say enough."""

    item: ClassVar[type[AnyClientCall]]
    read: ClassVar[frozenset[str]] = frozenset()
    """The arguments whose texts are taken as they are written."""

    def __init__(self, place: Place, target: ClientTarget) -> None:
        self.complaint: str | None = None
        self._place = place
        self._id = place.id_of(self.item.prefix)
        self._texts = JsonTexts()

    def begin(self) -> Events:
        return []

    def delta_of(self, text: str) -> None:
        return None

    def extend(self, text: str) -> Events:
        events: Events = []
        for piece in self._texts.feed(text) if self.read else ():
            if piece.key in self.read:
                events += self._take(piece)
        return events

    def _take(self, piece: TextPiece) -> Events:
        """Returns what a piece of one of the texts to `read` shows."""
        raise NotImplementedError


class ShellForm(_HeldBack):
    """The commands are shown one after the other; arguments that are no object are the only command."""

    item = ShellCall
    read = frozenset({"commands"})

    def __init__(self, place: Place, target: ClientTarget) -> None:
        super().__init__(place, target)
        self._commands: list[list[str]] = []
        self._is_open = False
        """The last command has not ended."""
        self._is_shown = False

    def end(self, text: str, status: ItemStatus) -> Events:
        events: Events = []
        if not self._commands and self._texts.is_broken and text.strip():
            events += self._take(TextPiece("commands", None, text, is_last=True))
        if not self._commands:
            self.complaint = "They should be an object with `commands`, a list of texts."
            return []
        if self._is_open:
            events += self._end_command()
        return [*events, ev.OutputItemDone(self._place.index, self._make(status, _whole(text)))]

    def _take(self, piece: TextPiece) -> Events:
        index, events = self._place.index, Events()
        if not self._is_shown:
            events.append(ev.OutputItemAdded(index, self._make("in_progress", {})))
            self._is_shown = True
        if not self._is_open:
            self._commands.append([])
            self._is_open = True
            events.append(ev.ShellCommandAdded(index, len(self._commands) - 1, ""))
        if piece.text:
            self._commands[-1].append(piece.text)
            events.append(ev.ShellCommandDelta(index, len(self._commands) - 1, piece.text))
        return events + self._end_command() if piece.is_last else events

    def _end_command(self) -> Events:
        self._is_open = False
        command = "".join(self._commands[-1])
        return [ev.ShellCommandDone(self._place.index, len(self._commands) - 1, command)]

    def _make(self, status: ItemStatus, written: Mapping[str, Any]) -> ShellCall:
        limits = [_count_in(written, name) for name in ("max_output_length", "timeout_ms")]
        action = ShellAction(tuple(map("".join, self._commands)), *limits)
        return ShellCall(id=self._id, status=status, call_id=self._place.call_id, action=action)


class LocalShellForm(_HeldBack):
    """The call is shown when it is complete, as nothing announces its parts; arguments that are no object are
    a command for bash."""

    item = LocalShellCall

    def end(self, text: str, status: ItemStatus) -> Events:
        written = _whole(text)
        command = written.get("command")
        if not written and text.strip() and not text.lstrip().startswith("{"):
            command = ["bash", "-lc", text]
        if isinstance(command, str):
            command = ["bash", "-lc", command]
        if not isinstance(command, list) or not command or not all(isinstance(w, str) for w in command):
            self.complaint = "They should be an object with `command`, a list of texts."
            return []
        folder = written.get("working_directory")
        action = ExecAction(
            "exec",
            tuple(command),
            timeout_ms=_count_in(written, "timeout_ms"),
            working_directory=folder if isinstance(folder, str) else None,
        )
        return [
            ev.OutputItemAdded(self._place.index, self._make(action, "in_progress")),
            ev.OutputItemDone(self._place.index, self._make(action, status)),
        ]

    def _make(self, action: ExecAction, status: ItemStatus) -> LocalShellCall:
        return LocalShellCall(id=self._id, status=status, call_id=self._place.call_id, action=action)


_OPERATIONS = ("create_file", "update_file", "delete_file")


class ApplyPatchForm(_HeldBack):
    """The call is shown once it is known what it does to which file; its diff is shown as it is written."""

    item = ApplyPatchCall
    read = frozenset({"type", "path", "diff"})

    def __init__(self, place: Place, target: ClientTarget) -> None:
        super().__init__(place, target)
        self._known: dict[str, list[str]] = {}
        """The texts of the arguments so far, by their keys."""
        self._complete: set[str] = set()
        self._shown_chars = 0
        self._is_shown = False

    def end(self, text: str, status: ItemStatus) -> Events:
        if not self._is_shown:
            self.complaint = "They should be an object with `type`, `path` and, for a new text, `diff`."
            return []
        index, diff = self._place.index, self._text("diff")
        done = ev.OutputItemDone(index, self._make(status, diff))
        return [done] if self._is_deletion else [ev.ApplyPatchDiffDone(index, self._id, diff), done]

    def _take(self, piece: TextPiece) -> Events:
        if piece.place is not None or piece.key in self._complete:  # a list, or a member given twice
            return []
        self._known.setdefault(piece.key, []).append(piece.text)
        if piece.is_last:
            self._complete.add(piece.key)
        if self._is_shown:
            is_shown = piece.key == "diff" and piece.text and not self._is_deletion
            return [self._delta(piece.text)] if is_shown else []
        if not {"type", "path"} <= self._complete or self._text("type") not in _OPERATIONS:
            return []
        self._is_shown = True
        added = ev.OutputItemAdded(self._place.index, self._make("in_progress", ""))
        diff = "" if self._is_deletion else self._text("diff")
        return [added, self._delta(diff)] if diff else [added]

    def _delta(self, text: str) -> StreamEvent:
        return ev.ApplyPatchDiffDelta(self._place.index, self._id, text)

    @property
    def _is_deletion(self) -> bool:
        return self._text("type") == "delete_file"

    def _text(self, key: str) -> str:
        return "".join(self._known.get(key, ()))

    def _make(self, status: ItemStatus, diff: str) -> ApplyPatchCall:
        operation = msgspec.convert(
            {"type": self._text("type"), "path": self._text("path")}
            | ({} if self._is_deletion else {"diff": diff}),
            PatchOperation,
        )
        return ApplyPatchCall(id=self._id, status=status, call_id=self._place.call_id, operation=operation)


FORMS: Mapping[str, Callable[[Place, ClientTarget], ClientCallForm]] = {
    client_tools.FUNCTION.item_type: FunctionForm,
    client_tools.CUSTOM.item_type: CustomForm,
    client_tools.SHELL.item_type: ShellForm,
    client_tools.LOCAL_SHELL.item_type: LocalShellForm,
    client_tools.APPLY_PATCH.item_type: ApplyPatchForm,
}
"""The item type of each call that a client may run -> its form."""


def _whole(text: str) -> dict[str, Any]:
    """Returns the arguments, or an empty object if they are none."""
    try:
        value = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _count_in(written: Mapping[str, Any], name: str) -> int | None:
    value = written.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None
