"""The errors that clients receive: one exception for their mistakes, one envelope for all errors.

Owns status codes, codes and wording of errors; does not decide what is a mistake. Source of the envelope: the
public OpenAI API, `{"error": {message, type, param, code}}`.
"""

import logging
from collections.abc import Iterable, Mapping

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Match, Route

from shared.context_length import TOO_LONG, TOO_LONG_PARAM
from shared.logs import words_of
from shared.responses import Dialect
from shared.store.records.admission import ConversationLocked, KeyReused, QueueFull, TenantBusy
from shared.store.records.token_count import CountUnanswered, ListingUnanswered
from shared.store.redis.connections import REDIS_AWAY

_log = logging.getLogger(__name__)

RETRY_AFTER = {"retry-after": "1"}
_CLIENT_CLOSED_REQUEST = 499
_QUOTED_MAX = 200
_MESSAGE_MAX = 1_000
"""The length of a whole message in characters; without a limit it could quote megabytes from a client."""
_KINDS = {
    str: "a string",
    int: "an integer",
    float: "a decimal number",
    bool: "a boolean",
    list: "an array",
    dict: "an object",
    type(None): "null",
}
"""The names of the JSON types in the hosted API's messages."""


MODEL_NOT_FOUND = "model_not_found"


class ClientError(Exception):
    """A request is refused. The message says why; `param` names the field, as in `input[0].content`."""

    def __init__(
        self,
        status: int,
        message: str,
        code: str | None,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """`code` is None if the public API's is null."""
        super().__init__(message)
        self.status = status
        self.code = code
        self.param = param
        self.headers = headers


class NodeEnding(Exception):
    """This node is shutting down before the response has ended; another node can answer."""


class StreamCut(Exception):
    """An answer that has begun cannot be finished; the message says why.

    Its connection ends without the end-of-body mark, so that no client takes it for complete
    (`api/http_protocol.py`).
    """


class ResponseLost(Exception):
    """An accepted response vanished from Redis before it was closed; a fault of ours."""


def shorten(text: str) -> str:
    """Truncates a text from a request to what an error message may quote."""
    return text if len(text) <= _QUOTED_MAX else f"{text[:_QUOTED_MAX]}…"


def missing_parameter(param: str) -> ClientError:
    return ClientError(400, f"Missing required parameter: '{param}'.", "missing_required_parameter", param)


def invalid_value(param: str, reason: str) -> ClientError:
    return ClientError(400, f"Invalid value for '{param}': {reason}.", "invalid_value", param)


def invalid_type(param: str, expected: str, value: object) -> ClientError:
    """Reports a wrong type; `expected` has its article, as in "an integer"."""
    return mistyped_value(param, expected, _KINDS.get(type(value), "something else"))


def mistyped_value(param: str, expected: str, got: str) -> ClientError:
    """Reports a wrong type; both names have their articles."""
    message = f"Invalid type for '{param}': expected {expected}, but got {got} instead."
    return ClientError(400, message, "invalid_type", param)


def out_of_bounds(
    param: str, value: object, *, least: float | None = None, most: float | None = None
) -> ClientError:
    """Reports a number below `least` or above `most`; the bound's type decides the kind of number."""
    bound = least if least is not None else most
    kind = "integer" if isinstance(bound, int) else "decimal"
    word, sign = ("below minimum", ">=") if least is not None else ("above maximum", "<=")
    expected = (
        f"Expected a value {sign} {bound:g}" if kind == "decimal" else f"Expected a value {sign} {bound}"
    )
    message = f"Invalid '{param}': {kind} {word} value. {expected}, but got {str(value)[:40]} instead."
    return ClientError(
        400, message, f"{kind}_{'below_min' if least is not None else 'above_max'}_value", param
    )


def unsupported_value(param: str, value: object, values: Iterable[str]) -> ClientError:
    """Reports a value that is none of those that are allowed there."""
    names = [f"'{each}'" for each in values]
    if not isinstance(value, str):
        return invalid_type(param, f"one of {_join(names, 'or')}", value)
    message = f"Invalid value: '{shorten(value)}'. Supported values are: {_join(names, 'and')}."
    return ClientError(400, message, "invalid_value", param)


def _join(names: list[str], word: str) -> str:
    return f" {word} ".join(names) if len(names) < 3 else f"{', '.join(names[:-1])}, {word} {names[-1]}"


def too_long(param: str, kind: str, length: int, length_max: int) -> ClientError:
    """`kind`: "string" or "array"."""
    a = "an" if kind == "array" else "a"
    message = (
        f"Invalid '{param}': {kind} too long. Expected {a} {kind} with maximum length {length_max}, "
        f"but got {a} {kind} with length {length} instead."
    )
    return ClientError(400, message, f"{kind}_above_max_length", param)


def unmatched_pattern(param: str, pattern: str) -> ClientError:
    expected = f"Expected a string that matches the pattern '{pattern}'."
    message = f"Invalid '{param}': string does not match pattern. {expected}"
    return ClientError(400, message, "invalid_value", param)


def unknown_parameter(param: str) -> ClientError:
    return ClientError(400, f"Unknown parameter: '{shorten(param)}'.", "unknown_parameter", shorten(param))


def moved_parameter(param: str, place: str) -> ClientError:
    message = (
        f"Unsupported parameter: '{param}'. In the Responses API, this parameter has moved to '{place}'."
    )
    return ClientError(400, message, "unsupported_parameter", param)


def unsupported_parameter(param: str, reason: str) -> ClientError:
    return ClientError(400, f"Unsupported parameter: '{param}'. {reason}", "unsupported_parameter", param)


def mutually_exclusive(*names: str) -> ClientError:
    """Reports parameters of which a request may have one; the hosted API names no `param` then."""
    choice = " or ".join(f"'{name}'" for name in names)
    message = f"Mutually exclusive parameters. Ensure you are only providing one of: {choice}."
    return ClientError(400, message, "mutually_exclusive_parameters")


def unsupported_tool(param: str, kind: str, reason: str) -> ClientError:
    message = f"Unsupported tool type '{shorten(kind)}' in '{param}': {reason}."
    return ClientError(400, message, "unsupported_tool", param)


def response_not_found(response_id: str, param: str = "response_id") -> ClientError:
    message = f"Response with id '{shorten(response_id)}' not found."
    return ClientError(404, message, "response_not_found", param)


def conversation_not_found(conversation_id: str, param: str) -> ClientError:
    message = f"Conversation with id '{shorten(conversation_id)}' not found."
    return ClientError(404, message, "conversation_not_found", param)


def previous_not_found(response_id: str, dialect: Dialect) -> ClientError:
    """Answers 400, like the public API: clients expect this code with that status, those of vLLM with 404."""
    message = f"Previous response with id '{shorten(response_id)}' not found."
    status = 404 if dialect == "vllm" else 400
    return ClientError(status, message, "previous_response_not_found", "previous_response_id")


def invalid_prefix(param: str, value: str, prefix: str, code: str = "invalid_value") -> ClientError:
    message = f"Invalid '{param}': '{shorten(value)}'. Expected an ID that begins with '{prefix}'."
    return ClientError(400, message, code, param)


def item_not_found(item_id: str, param: str) -> ClientError:
    return ClientError(404, f"Item with id '{shorten(item_id)}' not found.", "item_not_found", param)


def reference_not_found(item_id: str, param: str) -> ClientError:
    message = f"Item with id '{shorten(item_id)}' not found. Items are not kept when `store` is set to false."
    return ClientError(404, message, None, param)


def after_not_found(item_id: str) -> ClientError:
    return ClientError(404, f"No item found with id '{shorten(item_id)}'", None, "after")


def duplicate_item(item_id: str, param: str) -> ClientError:
    """Uses the hosted API's wording, which clients match, as do the three errors below."""
    message = f"Duplicate item found with id {shorten(item_id)}."
    return ClientError(400, f"{message} Remove duplicate items from your input and try again.", None, param)


def no_call_found(kind: str, call_id: str, param: str) -> ClientError:
    return ClientError(
        400, f"No tool call found for {kind} output with call_id {shorten(call_id)}.", None, param
    )


def no_output_found(kind: str, call_id: str, param: str) -> ClientError:
    return ClientError(400, f"No tool output found for {kind} {shorten(call_id)}.", None, param)


def context_length_exceeded() -> ClientError:
    return ClientError(400, TOO_LONG.message, TOO_LONG.code, TOO_LONG_PARAM)


def unreadable_content(encrypted: str, param: str | None = None) -> ClientError:
    """Reports content that another service has encrypted, and that only it could decrypt."""
    message = f"The encrypted content {encrypted[:4]}... could not be verified."
    return ClientError(400, message, "invalid_encrypted_content", param)


def cannot_cancel(closed: str, is_background: bool) -> ClientError:
    """Uses the hosted API's wording, which clients match."""
    what = f"a {closed}" if is_background else "a synchronous"
    message = f"Cannot cancel {what} response."
    return ClientError(400, message, "invalid_value", "response_id")


def cursor_beyond_end(param: str, last: str) -> ClientError:
    message = (
        f"The events of this response end at {last}: none follow '{param}'. Retrieve the response instead."
    )
    return ClientError(400, message, "cursor_beyond_end", param)


def cannot_delete() -> ClientError:
    return ClientError(400, "Cannot delete an in-flight response.", "invalid_value", "response_id")


def model_not_found(model: str) -> ClientError:
    return ClientError(404, f"The model '{shorten(model)}' does not exist.", MODEL_NOT_FOUND, "model")


def envelope(
    status: int,
    message: str,
    code: str | None,
    param: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> JSONResponse:
    if len(message) > _MESSAGE_MAX:
        message = f"{message[:_MESSAGE_MAX]}…"
    body = {"message": message, "type": _type_of(status), "param": param and shorten(param), "code": code}
    return JSONResponse({"error": body}, status, headers)


def _type_of(status: int) -> str:
    if status == 429:
        return "rate_limit_error"
    return "server_error" if status >= 500 else "invalid_request_error"


def install_handlers(app: FastAPI) -> None:
    """Maps every exception that may leave a route; any other is a fault of ours, a 500."""
    app.add_exception_handler(ClientError, _refuse)
    app.add_exception_handler(HTTPException, _refuse_route)
    app.add_exception_handler(ClientDisconnect, _forget)
    app.add_exception_handler(QueueFull, _defer_full)
    app.add_exception_handler(TenantBusy, _defer_full)
    app.add_exception_handler(KeyReused, _refuse_reuse)
    app.add_exception_handler(ConversationLocked, _refuse_second)
    app.add_exception_handler(NodeEnding, _defer_ending)
    app.add_exception_handler(CountUnanswered, _defer_count)
    app.add_exception_handler(ResponseLost, _admit_loss)
    app.add_exception_handler(Exception, _admit_fault)
    for away in REDIS_AWAY:
        app.add_exception_handler(away, _defer_away)


def tools_unlisted(server_label: str, reason: str) -> ClientError:
    message = f"The tokens of the tools of {server_label!r} cannot be counted. {reason}"
    return ClientError(503, message, "service_unavailable", None, RETRY_AFTER)


def refuse(error: ClientError) -> Response:
    return envelope(error.status, str(error), error.code, error.param, error.headers)


async def _refuse(_request: Request, error: Exception) -> Response:
    assert isinstance(error, ClientError)
    return refuse(error)


async def _refuse_route(request: Request, error: Exception) -> Response:
    """Answers what the router itself refuses: an unknown URL, a method that the URL does not have."""
    assert isinstance(error, HTTPException)
    place = _place_of(request)
    match error.status_code:
        case 404:
            return envelope(404, f"Invalid URL ({place}).", "unknown_url")
        case 405:
            headers = {"allow": ", ".join(sorted(_methods_of(request)))}
            return envelope(405, f"Method not allowed ({place}).", "method_not_allowed", None, headers)
        case status:
            return envelope(status, str(error.detail), "invalid_request", None, error.headers)


def _methods_of(request: Request) -> set[str]:
    """Returns the methods that the request's URL has, which may have several routes."""
    found: set[str] = set()
    for route in request.app.routes:
        if isinstance(route, Route) and route.matches(request.scope)[0] is not Match.NONE:
            found |= route.methods or set()
    return found


def _place_of(request: Request) -> str:
    """Does not use `request.url`, which fails on a malformed `host` header. A message on a WebSocket has no
    method."""
    return f"{request.scope.get('method', 'MESSAGE')} {shorten(request.scope['path'])}"


async def _forget(_request: Request, _error: Exception) -> Response:
    """Answers a client that disconnected while sending, which will not read this."""
    return Response(status_code=_CLIENT_CLOSED_REQUEST)


async def _defer_full(_request: Request, error: Exception) -> Response:
    message = f"Too many responses are in progress ({error}). Try again later."
    return envelope(429, message, "rate_limit_exceeded", None, RETRY_AFTER)


async def _refuse_reuse(_request: Request, _error: Exception) -> Response:
    message = "This Idempotency-Key was already used for another request: a different body, or another path."
    return envelope(409, message, "idempotency_key_reused", "Idempotency-Key")


async def _refuse_second(_request: Request, _error: Exception) -> Response:
    """Answers 400 rather than 409, like the public API: clients retry on exactly this code."""
    message = "Another process is currently operating on this conversation. Please retry in a few seconds."
    return envelope(400, message, "conversation_locked", "conversation", RETRY_AFTER)


async def _defer_away(request: Request, error: Exception) -> Response:
    reason = words_of(error)
    _log.warning("%s: Redis is unavailable (%s)", _place_of(request), reason)
    message = "The storage behind this service cannot be reached. Try again later."
    return envelope(503, message, "service_unavailable", None, RETRY_AFTER)


async def _defer_count(request: Request, error: Exception) -> Response:
    _log.warning("%s: %s", _place_of(request), error)
    message = "No worker has counted the tokens in time: all are busy or away. Try again later."
    if isinstance(error, ListingUnanswered):
        message = "No tool runner has listed the tools of this request's servers in time. Try again later."
    return envelope(503, message, "service_unavailable", None, RETRY_AFTER)


async def _defer_ending(_request: Request, _error: Exception) -> Response:
    return refuse(node_ending())


def node_ending() -> ClientError:
    return ClientError(503, "This node is stopping. Try again.", "service_unavailable", headers=RETRY_AFTER)


async def _admit_loss(_request: Request, error: Exception) -> Response:
    _log.error("response %s vanished before it was closed", error)
    return envelope(500, f"Response '{error}' was lost before it was finished.", "server_error")


async def _admit_fault(_request: Request, _error: Exception) -> Response:
    """The server logs the traceback; the client learns nothing about our internals."""
    return envelope(500, "The server had an error while processing your request.", "server_error")
