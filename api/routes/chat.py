"""/v1/chat/completions: a response, asked for and told in the form of a chat. Owns the form of answers."""

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from api.accept import Created
from api.answer import wire_of
from api.chat.body import ChatCall
from api.chat.relay import ChatRelay
from api.errors import ClientError
from api.rates import rate_headers
from api.routes.access import (
    ServicesDep,
    SettingsDep,
    StreamsDep,
    TenantDep,
    name_ignored,
    unless_disconnected,
    with_body,
)
from api.services import Services
from api.sse import EventStreams

router = APIRouter(prefix="/v1/chat")

_RESPONSE_ID_HEADER = "x-response-id"


@router.post("/completions")
async def create(
    request: Request, tenant: TenantDep, services: ServicesDep, settings: SettingsDep, streams: StreamsDep
) -> Response:
    """Accepts a response; answers with its chunks, or with the chat completion when it has ended.

    The header names the response, whose events a client can still read if its stream is cut.
    """
    call = ChatCall()
    repeated = request.headers.get("idempotency-key") or None
    try:
        created = await with_body(
            request,
            settings,
            lambda body: services.accept.create(tenant, body, repeated, read=call.read),
        )
    except ClientError as error:
        raise call.name(error) from None
    answer = await _answer(request, services, streams, created, call)
    answer.headers[_RESPONSE_ID_HEADER] = created.key.response_id
    answer.headers.update(rate_headers(created.allowances))
    return name_ignored(answer, created.ignored_tools)


async def _answer(
    request: Request, services: Services, streams: EventStreams, created: Created, call: ChatCall
) -> Response:
    relay = ChatRelay(services.read, services.offload, created, call.form)
    if not created.is_streamed:
        return await unless_disconnected(request, relay.finish())
    frames = relay.stream()
    first = await anext(frames) if created.arrival else b""  # at once; from here on, closing them counts
    return streams.answer(frames, "comment", wire_of(request.scope), first)
