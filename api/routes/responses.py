"""/v1/responses: creates, reads, streams, resumes and ends. Owns query parameters and the form of answers."""

import re

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from api.accept import Created
from api.answer import wire_of
from api.bodies.compact import read_compact
from api.bodies.includes import read_include
from api.errors import invalid_value
from api.listing import PLACE_HEADER, PLACES_HEADER, read_place, read_wanted
from api.paging import read_page
from api.rates import rate_headers
from api.read import FROM_THE_START, Cursor, Frames
from api.routes.access import (
    ServicesDep,
    SettingsDep,
    StreamsDep,
    TenantDep,
    dialect_of,
    json_of,
    keep_alive_of,
    name_ignored,
    unless_disconnected,
    with_body,
)
from api.services import Services
from api.sse import EventStreams
from shared.setting_types import KeepAliveForm

router = APIRouter(prefix="/v1/responses")

_INTEGER = re.compile(r"-?[0-9]{1,18}")
_LAST_EVENT_ID = "Last-Event-ID"
_FLAGS = {"true": True, "1": True, "false": False, "0": False}


@router.post("")
async def create(
    request: Request, tenant: TenantDep, services: ServicesDep, settings: SettingsDep, streams: StreamsDep
) -> Response:
    """Accepts a response; answers with its stream, or when it ends, or at once if it runs in the background.

    The status is 200 even if the response failed, since the response says so. Only an input that is too long
    for the model is answered with 400, on which clients shorten it.
    """
    keep_alive, dialect = keep_alive_of(request, settings), dialect_of(request)
    repeated = request.headers.get("idempotency-key") or None  # an empty one names no call
    created = await with_body(
        request, settings, lambda body: services.accept.create(tenant, body, repeated, dialect)
    )
    answer = await _answer_creation(request, services, streams, created, keep_alive)
    answer.headers.update(rate_headers(created.allowances))
    return name_ignored(answer, created.ignored_tools)


async def _answer_creation(
    request: Request, services: Services, streams: EventStreams, created: Created, keep_alive: KeepAliveForm
) -> Response:
    key, is_watched = created.key, not created.is_background
    if created.is_streamed:
        wire = wire_of(request.scope)
        arrival = created.arrival
        frames = services.read.follow(key, FROM_THE_START, wire, is_watched=is_watched, arrival=arrival)
        first = await anext(frames) if arrival else b""  # at once; from here on, closing the frames counts
        return streams.answer(frames, keep_alive, wire, first)
    if created.is_background:
        return json_of(created.accepted or await services.read.retrieve_repeated(key))
    return await unless_disconnected(request, services.read.finish(key, created.arrival))


@router.get("")
async def list_responses(request: Request, tenant: TenantDep, services: ServicesDep) -> Response:
    """Lists the tenant's stored responses, a page at a time; a WebSocket has the same path."""
    wanted, page = read_wanted(request.query_params.multi_items())
    place = request.headers.get(PLACE_HEADER)
    listed = await services.read.list_responses(tenant, wanted, page, read_place(place))
    answer = json_of(listed.body)
    if place is not None:
        answer.headers[PLACES_HEADER] = listed.places
    return answer


@router.post("/compact")
async def compact(
    request: Request, tenant: TenantDep, services: ServicesDep, settings: SettingsDep
) -> Response:
    """Answers with what takes the place of a conversation: its latest messages, and a summary of it all.

    It is made by a response of its own, which lives only while the client waits, and is not stored.
    """
    repeated = request.headers.get("idempotency-key") or None
    created = await with_body(
        request, settings, lambda body: services.accept.create(tenant, body, repeated, read=read_compact)
    )
    ending = services.read.finish_compaction(created.key, created.arrival)
    answer = await unless_disconnected(request, ending)
    answer.headers.update(rate_headers(created.allowances))
    return answer


@router.post("/input_tokens")
async def count_input_tokens(
    request: Request, tenant: TenantDep, services: ServicesDep, settings: SettingsDep
) -> Response:
    """Answers with the number of input tokens that a create call with this body would have."""
    count = await with_body(request, settings, lambda body: services.accept.count_input_tokens(tenant, body))
    answer = JSONResponse({"object": "response.input_tokens", "input_tokens": count.tokens})
    return name_ignored(answer, count.ignored_tools)


@router.get("/{response_id}")
async def retrieve(
    request: Request,
    response_id: str,
    tenant: TenantDep,
    services: ServicesDep,
    settings: SettingsDep,
    streams: StreamsDep,
) -> Response:
    """Answers with the response; with `stream=true`, with its events after `starting_after`, as first sent.

    Answers 204 to an EventSource that has read to the end already. `include_obfuscation` is accepted and
    changes nothing.
    """
    included = read_include(request.query_params.multi_items())
    cursor, keep_alive = _cursor(request), keep_alive_of(request, settings)
    if not _flag(request, "stream"):
        return json_of(await services.read.retrieve(tenant, response_id, included))
    key, state = await services.read.find_log(tenant, response_id)
    wire = wire_of(request.scope)
    frames = await services.read.resume(key, state, cursor, wire)
    if frames is not None:
        return streams.answer(frames, keep_alive, wire)
    if cursor.param == _LAST_EVENT_ID:
        return Response(status_code=204)  # stops an EventSource from reconnecting
    return streams.answer(_nothing(), keep_alive, wire)


@router.post("/{response_id}/cancel")
async def cancel(response_id: str, tenant: TenantDep, services: ServicesDep) -> Response:
    """Cancels a response; a repeated call answers the same."""
    return json_of(await services.read.cancel(tenant, response_id))


@router.delete("/{response_id}")
async def delete(response_id: str, tenant: TenantDep, services: ServicesDep) -> Response:
    """Deletes a response that has ended; every later call with its id gets 404."""
    await services.read.delete(tenant, response_id)
    return JSONResponse({"id": response_id, "object": "response", "deleted": True})


@router.get("/{response_id}/input_items")
async def list_input_items(
    request: Request, response_id: str, tenant: TenantDep, services: ServicesDep
) -> Response:
    """Lists the response's context and input, a page at a time."""
    read_include(request.query_params.multi_items())
    page = read_page(request.query_params.multi_items())
    return json_of(await services.read.list_input_items(tenant, response_id, page))


def _flag(request: Request, name: str) -> bool:
    text = request.query_params.get(name, "false")
    if text.lower() not in _FLAGS:
        raise invalid_value(name, "it should be true or false")
    return _FLAGS[text.lower()]


def _cursor(request: Request) -> Cursor:
    """Returns the later of two cursors: that of the query, and that of a reconnecting EventSource.

    An EventSource reconnects to its original address, so the cursor in that may be older.
    """
    cursor = Cursor()
    for name, text in (
        (_LAST_EVENT_ID, request.headers.get("last-event-id") or None),  # empty: it has seen no event
        ("starting_after", request.query_params.get("starting_after")),
    ):
        if text is None:
            continue
        if not _INTEGER.fullmatch(text):
            raise invalid_value(name, "it should be an integer")
        cursor = max(cursor, Cursor(int(text), name), key=lambda cursor: cursor.after)
    return cursor


async def _nothing() -> Frames:
    return
    yield b""
