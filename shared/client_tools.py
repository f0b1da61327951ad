"""The table of client-run tools: a row describes a tool whose calls the client runs.

Pure; also owns the items of their calls and of those answers that are not plain content. Every other module
looks up this table by type or item, as it does that of hosted tools (`shared/hosted_tools.py`). A
`namespace` is no tool: it groups functions and custom tools. Source of names and fields: the public OpenAI
types; of the words that the model reads: docs/adr/0038-client-run-tools.md.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

import msgspec
from msgspec import UNSET, UnsetType

from shared.hosted_tools import CallItem, Text
from shared.in_turn import Noted

NAMESPACE = "namespace"
"""The API's type of a group of client-run tools."""

_CALLABLE = re.compile(r"[A-Za-z0-9_-]{1,128}")


def namespace_of(item: Any) -> str | None:
    """Returns the namespace of a call or an output in a history, or None. Older records may hold anything."""
    namespace = getattr(item, "namespace", None)
    return namespace if isinstance(namespace, str) and _CALLABLE.fullmatch(namespace) else None


# --- calls --------------------------------------------------------------------------------------


class ClientCall(CallItem, frozen=True, kw_only=True, omit_defaults=True):
    """A call that the client runs, and that is no function's: the base of their item types.

    `prefix`: of its id; `called`: what messages call it.
    """

    prefix: ClassVar[str]
    called: ClassVar[str]

    id: str = ""
    """Empty if a client omitted it, until the API has completed the item."""
    status: Text = UNSET
    call_id: str
    caller: Any = UNSET
    in_turn: Noted = UNSET

    @property
    def arguments(self) -> str:
        """The call's arguments as JSON, as the model reads them in a later prompt."""
        raise NotImplementedError


class CustomToolCall(ClientCall, frozen=True, kw_only=True, tag="custom_tool_call"):
    prefix: ClassVar[str] = "ctc"
    called: ClassVar[str] = "custom tool call"
    written_as: ClassVar[str] = "input"

    name: str
    input: str
    namespace: Any = UNSET
    async_: Any = msgspec.field(default=UNSET, name="async")

    @property
    def arguments(self) -> str:
        return _to_json({"input": self.input})


class ShellAction(msgspec.Struct, frozen=True):
    """`commands` run one after the other. `max_output_length`: in characters."""

    commands: tuple[str, ...]
    max_output_length: int | None = None
    timeout_ms: int | None = None


class ShellCall(ClientCall, frozen=True, kw_only=True, tag="shell_call"):
    prefix: ClassVar[str] = "sh"
    called: ClassVar[str] = "shell call"

    action: ShellAction
    environment: Any = UNSET

    @property
    def arguments(self) -> str:
        return _to_json(_given(self.action))

    def with_command(self, index: int, text: str) -> Self:
        """Returns the call with this text as its command of that index, which may be the next one."""
        commands = self.action.commands
        action = msgspec.structs.replace(
            self.action, commands=(*commands[:index], text, *commands[index + 1 :])
        )
        return msgspec.structs.replace(self, action=action)


class ExecAction(msgspec.Struct, frozen=True):
    """One program with its arguments."""

    type: Literal["exec"]
    command: tuple[str, ...]
    env: dict[str, str] = {}
    timeout_ms: int | None = None
    user: str | None = None
    working_directory: str | None = None


class LocalShellCall(ClientCall, frozen=True, kw_only=True, tag="local_shell_call"):
    prefix: ClassVar[str] = "lsh"
    called: ClassVar[str] = "local shell call"

    action: ExecAction

    @property
    def arguments(self) -> str:
        given = _given(self.action)
        return _to_json({name: value for name, value in given.items() if name != "type" and value != {}})


class PatchOperation(msgspec.Struct, frozen=True):
    """Changes one file. `diff`: absent from the deletion of a file."""

    type: Literal["create_file", "update_file", "delete_file"]
    path: str
    diff: str | UnsetType = UNSET


class ApplyPatchCall(ClientCall, frozen=True, kw_only=True, tag="apply_patch_call"):
    prefix: ClassVar[str] = "apc"
    called: ClassVar[str] = "apply patch call"
    written_as: ClassVar[str] = "diff"

    operation: PatchOperation

    @property
    def arguments(self) -> str:
        return _to_json(_given(self.operation))

    @property
    def written(self) -> str:
        return self.operation.diff or ""

    def with_written(self, text: str) -> Self:
        return msgspec.structs.replace(self, operation=msgspec.structs.replace(self.operation, diff=text))


AnyClientCall = CustomToolCall | ShellCall | LocalShellCall | ApplyPatchCall
"""The closed union of the subclasses of ClientCall."""


def _given(action: msgspec.Struct) -> dict[str, Any]:
    made: dict[str, Any] = msgspec.to_builtins(action)
    return {name: value for name, value in made.items() if value is not None}


def _to_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


# --- answers ------------------------------------------------------------------------------------


class ClientAnswer(msgspec.Struct, frozen=True, kw_only=True, tag_field="type"):
    """The client's answer to a call, in a form of its own: the base of these item types."""

    id: Text = UNSET
    status: Text = UNSET
    caller: Any = UNSET

    @property
    def text(self) -> str:
        """What the model reads."""
        raise NotImplementedError


class CommandOutcome(msgspec.Struct, frozen=True):
    type: Literal["exit", "timeout"]
    exit_code: int | None | UnsetType = UNSET


class CommandOutput(msgspec.Struct, frozen=True):
    outcome: CommandOutcome
    stdout: str
    stderr: str

    def tell(self) -> str:
        ended = "timed out" if self.outcome.type == "timeout" else f"exit code {self.outcome.exit_code or 0}"
        shown = [self.stdout.rstrip("\n"), self.stderr.rstrip("\n"), f"[{ended}]"]
        return "\n".join(text for text in shown if text)


class ShellCallOutput(ClientAnswer, frozen=True, kw_only=True, tag="shell_call_output"):
    call_id: str
    output: list[CommandOutput]
    max_output_length: int | None | UnsetType = UNSET

    @property
    def text(self) -> str:
        return "\n".join(each.tell() for each in self.output)


class LocalShellCallOutput(ClientAnswer, frozen=True, kw_only=True, tag="local_shell_call_output"):
    """Answers the call whose `call_id` is this item's `call_id`, or its `id`, as in the public types."""

    output: str
    call_id: Text = UNSET

    @property
    def text(self) -> str:
        return self.output


class ApplyPatchCallOutput(ClientAnswer, frozen=True, kw_only=True, tag="apply_patch_call_output"):
    call_id: str
    status: Literal["completed", "failed"]
    output: Text = UNSET

    @property
    def text(self) -> str:
        result = "The patch was applied." if self.status == "completed" else "The patch was not applied."
        return f"{result}\n{self.output}" if self.output else result


AnyClientAnswer = ShellCallOutput | LocalShellCallOutput | ApplyPatchCallOutput
"""The closed union of the subclasses of ClientAnswer."""

# --- the table ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Declaration:
    """A tool as the model is offered it: a function. `parameters`: a JSON schema, or None."""

    name: str
    description: str
    parameters: dict[str, Any] | None


@dataclass(frozen=True, slots=True)
class ClientTool:
    """One row. `type`: the API's type of the tool; `item_type`: that of its calls; `answer_type`: that of the
    client's answers."""

    type: str
    item_type: str
    answer_type: str
    declare: Callable[[Mapping[str, Any]], Declaration]
    """Returns how a tool of a request is offered."""
    is_named: bool = False
    """A request names the tool, so there may be several; otherwise its type is its name."""


def _declare_function(tool: Mapping[str, Any]) -> Declaration:
    return Declaration(tool["name"], tool.get("description") or "", tool.get("parameters"))


FUNCTION = ClientTool("function", "function_call", "function_call_output", _declare_function, is_named=True)


def _object(required: list[str], **properties: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": False,
    }


_SYNTAXES = {"lark": "Lark grammar", "regex": "regular expression"}


def _declare_custom(tool: Mapping[str, Any]) -> Declaration:
    lines = [tool["description"]] if tool.get("description") else []
    form = tool.get("format") or {}
    if form.get("type") == "grammar":
        lines.append(f"`input` has to match this {_SYNTAXES[form['syntax']]}:\n{form['definition']}")
    parameters = _object(["input"], input={"type": "string"})
    return Declaration(tool["name"], "\n\n".join(lines), parameters)


CUSTOM = ClientTool("custom", "custom_tool_call", "custom_tool_call_output", _declare_custom, is_named=True)

_TIMEOUT = {"type": "integer", "description": "In milliseconds."}


def _declare_shell(tool: Mapping[str, Any]) -> Declaration:
    lines = ["Runs shell commands on the user's machine, one after the other, and returns their output."]
    skills = (tool.get("environment") or {}).get("skills") or ()
    if skills:
        lines.append("Skills that are installed there; read a skill's SKILL.md before you use it:")
    lines += [f"- {skill['name']} ({skill['path']}): {skill['description']}" for skill in skills]
    parameters = _object(
        ["commands"],
        commands={"type": "array", "items": {"type": "string"}},
        timeout_ms=_TIMEOUT,
        max_output_length={"type": "integer", "description": "Characters of output to return."},
    )
    return Declaration("shell", "\n".join(lines), parameters)


SHELL = ClientTool("shell", "shell_call", "shell_call_output", _declare_shell)


def _declare_local_shell(_: Mapping[str, Any]) -> Declaration:
    parameters = _object(
        ["command"],
        command={"type": "array", "items": {"type": "string"}, "description": "A program, its arguments."},
        working_directory={"type": "string"},
        timeout_ms=_TIMEOUT,
    )
    return Declaration(
        "local_shell",
        'Runs a program on the user\'s machine, without a shell; for one, run ["bash", "-lc", …].',
        parameters,
    )


LOCAL_SHELL = ClientTool("local_shell", "local_shell_call", "local_shell_call_output", _declare_local_shell)


def _declare_patch(_: Mapping[str, Any]) -> Declaration:
    parameters = _object(
        ["type", "path"],
        type={"type": "string", "enum": ["create_file", "update_file", "delete_file"]},
        path={"type": "string", "description": "Relative to the workspace."},
        diff={"type": "string", "description": "Of a created or updated file."},
    )
    return Declaration(
        "apply_patch",
        """\
Creates, updates or deletes one file of the user's workspace; call it once for each file.
`diff` has no lines with file names or line numbers. To create a file, it has every line of the file with
`+` before it. To update a file, it has a section for each change: a line `@@`, which may go on with a line
of the file that precedes the section, such as the head of a class or function; then the lines around the
change with a space before each, those to remove with `-`, and those to add with `+`.""",
        parameters,
    )


APPLY_PATCH = ClientTool("apply_patch", "apply_patch_call", "apply_patch_call_output", _declare_patch)

CLIENT_TOOLS = (FUNCTION, CUSTOM, SHELL, LOCAL_SHELL, APPLY_PATCH)

_BY_TYPE = {tool.type: tool for tool in CLIENT_TOOLS}
_BY_ITEM = {tool.item_type: tool for tool in CLIENT_TOOLS}
_BY_ANSWER = {tool.answer_type: tool for tool in CLIENT_TOOLS}


def by_type(kind: str) -> ClientTool | None:
    """Returns the row of the API's type `kind`, or None."""
    return _BY_TYPE.get(kind)


def by_item(call: CallItem) -> ClientTool:
    """Returns the tool whose call the item is."""
    return _BY_ITEM[str(call.__struct_config__.tag)]


def answered_by(answer: ClientAnswer) -> ClientTool:
    """Returns the tool whose call the item answers."""
    return _BY_ANSWER[str(answer.__struct_config__.tag)]


@dataclass(frozen=True, slots=True)
class Requested:
    """A client-run tool of a request. `place`: of the tool, and of the member of a namespace."""

    row: ClientTool
    tool: Mapping[str, Any]
    place: tuple[int, ...]
    namespace: str | None = None

    @property
    def name(self) -> str:
        return str(self.tool["name"]) if self.row.is_named else self.row.type


def is_namespace(tool: Mapping[str, Any]) -> bool:
    """Returns True for a namespace. Older records may hold some that are not complete."""
    is_complete = isinstance(tool.get("name"), str) and isinstance(tool.get("tools"), list)
    return tool.get("type") == NAMESPACE and is_complete


def requested_in(tools: Iterable[Mapping[str, Any]]) -> Iterator[Requested]:
    """Yields the client-run tools of a request, those in namespaces too, in order. Passes over members that
    are none, which older records may hold."""
    for index, tool in enumerate(tools):
        if is_namespace(tool):
            for place, member in enumerate(tool["tools"]):
                row = _BY_TYPE.get(str(member.get("type"))) if isinstance(member, dict) else None
                if row is not None and row.is_named and "name" in member:
                    yield Requested(row, member, (index, place), tool["name"])
        elif (row := _BY_TYPE.get(str(tool.get("type")))) is not None:
            yield Requested(row, tool, (index,))
