"""The bytes of chat completions: of chunks in a stream, of a whole one, of their errors.

Pure. Owns the forms; `answer.py` owns what is said. Source: the public OpenAI types, `ChatCompletion` and
`ChatCompletionChunk`.
"""

from typing import Any

from api.chat.answer import ChatAnswer, Chunk
from api.chat.body import ChatForm
from api.errors import ClientError, refuse
from shared.context_length import TOO_LONG
from shared.frames import encode
from shared.responses import Logprob, Response, Usage

_DONE = b"data: [DONE]\n\n"
_STATUSES = {"rate_limit_exceeded": 429, "server_error": 500}
"""The status for each code of a failed response; that of any other is 400."""
_REASONS = {"max_output_tokens": "length", "content_filter": "content_filter"}
_PREFIX, _CHAT_PREFIX = "resp_", "chatcmpl-"


def chat_id(response_id: str) -> str:
    """Returns the id of a chat completion, which contains that of its response."""
    return _CHAT_PREFIX + response_id.removeprefix(_PREFIX)


class ChatStream:
    """Makes the frames of one stream."""

    def __init__(self, begun: Response, form: ChatForm) -> None:
        self._head = _head_of(begun, "chat.completion.chunk")
        self._has_usage = form.has_usage

    def frame(self, chunk: Chunk) -> bytes:
        """Returns a chunk as a server-sent event. Its `id` is a cursor of the response's stream."""
        choice = _choice("delta", chunk.delta, list(chunk.logprobs), None)
        data = b"data: %b\n\n" % encode(self._with([choice]))
        return data if chunk.cursor is None else b"id: %d\n%b" % (chunk.cursor, data)

    def end(self, answer: ChatAnswer, ended: Response) -> bytes:
        """Returns the frames that end the stream: the reason with the usage, if that is asked for, or an
        error."""
        error = failure_of(answer, ended)
        if error is not None:
            return b"data: %b\n\n%b" % (bytes(refuse(error).body), _DONE)
        self._head["service_tier"] = ended.service_tier  # that served, after the one that was asked for
        last = [self._with([_choice("delta", {}, [], finish_reason_of(answer, ended))])]
        if self._has_usage:
            last.append({**self._head, "choices": [], "usage": _usage_of(ended.usage)})
        return b"".join(b"data: %b\n\n" % encode(chunk) for chunk in last) + _DONE

    def _with(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        usage = {"usage": None} if self._has_usage else {}
        return {**self._head, "choices": choices, **usage}


class WholeChat:
    """Joins the chunks of one answer."""

    def __init__(self) -> None:
        self._texts: dict[str, list[str]] = {}
        self._logprobs: list[Logprob] = []
        self._calls: list[dict[str, Any]] = []
        self._written: list[list[str]] = []

    def add(self, chunk: Chunk) -> None:
        for name in ("content", "reasoning", "reasoning_content"):
            if text := chunk.delta.get(name):
                self._texts.setdefault(name, []).append(text)
        self._logprobs += chunk.logprobs
        for call in chunk.delta.get("tool_calls", ()):
            if "id" in call:
                self._calls.append({name: value for name, value in call.items() if name != "index"})
                self._written.append([])
            else:
                kind, name = ("function", "arguments") if "function" in call else ("custom", "input")
                self._written[call["index"]].append(call[kind][name])

    def encode(self, answer: ChatAnswer, ended: Response) -> bytes:
        """Returns JSON of the chat completion. Raises ClientError for a response that has failed."""
        error = failure_of(answer, ended)
        if error is not None:
            raise error
        reason = finish_reason_of(answer, ended)
        choice = _choice("message", self._message(), self._logprobs, reason)
        head = _head_of(ended, "chat.completion")
        return encode({**head, "choices": [choice], "usage": _usage_of(ended.usage)})

    def _message(self) -> dict[str, Any]:
        said = {name: "".join(texts) for name, texts in self._texts.items()}
        content = said.pop("content", None if self._calls else "")
        message: dict[str, Any] = {
            "role": "assistant",
            "content": content,
            "refusal": None,
            "annotations": [],
            **said,
        }
        if self._calls:
            message["tool_calls"] = [
                _with_written(call, "".join(written))
                for call, written in zip(self._calls, self._written, strict=True)
            ]
        return message


def _with_written(call: dict[str, Any], written: str) -> dict[str, Any]:
    kind = call["type"]
    name = "arguments" if kind == "function" else "input"
    return {**call, kind: {**call[kind], name: written}}


def _head_of(response: Response, kind: str) -> dict[str, Any]:
    return {
        "id": chat_id(response.id),
        "object": kind,
        "created": response.created_at,
        "model": response.model,
        "service_tier": response.service_tier,
    }


def _choice(name: str, said: Any, logprobs: list[Logprob], finish_reason: str | None) -> dict[str, Any]:
    told = {"content": logprobs, "refusal": None} if logprobs else None
    return {"index": 0, name: said, "logprobs": told, "finish_reason": finish_reason}


def finish_reason_of(answer: ChatAnswer, ended: Response) -> str:
    if answer.has_stopped:
        return "stop"
    if ended.incomplete_details is not None:
        return _REASONS[ended.incomplete_details.reason]
    return "tool_calls" if answer.has_calls else "stop"


def _usage_of(usage: Usage | None) -> dict[str, Any] | None:
    if usage is None:
        return None
    return {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.total_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.input_tokens_details.cached_tokens},
        "completion_tokens_details": {"reasoning_tokens": usage.output_tokens_details.reasoning_tokens},
    }


def failure_of(answer: ChatAnswer, ended: Response) -> ClientError | None:
    """Returns the error of a response that has no answer, or None."""
    if answer.has_stopped or ended.status in ("completed", "incomplete"):
        return None
    if ended.error is None:
        return ClientError(400, "The response was cancelled.", "response_cancelled")
    param = "messages" if ended.error.code == TOO_LONG.code else None
    return ClientError(_STATUSES.get(ended.error.code, 400), ended.error.message, ended.error.code, param)
