"""/console: the operators' page, and what it reads. Owns addresses and headers; `api/console` reads."""

from importlib import resources

import msgspec
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from api.answer import wire_of
from api.console import local_workers
from api.console.readings import Console, no_console
from api.errors import ClientError, invalid_value
from api.read import FROM_THE_START
from api.routes.access import ServicesDep, SettingsDep, StreamsDep, json_of
from api.services import Services

router = APIRouter(prefix="/console")

_HEADERS = {
    "cache-control": "no-cache",
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}
_FILES = {
    "page": ("console.html", "text/html; charset=utf-8"),
    "console.js": ("console.js", "text/javascript; charset=utf-8"),
    **{
        name: (name, "text/javascript; charset=utf-8")
        for name in ("line.js", "picture.js", "playground.js", "tables.js")
    },
    "console.css": ("console.css", "text/css; charset=utf-8"),
}
_AFTER_MAX = 10**9


@router.get("")
async def show_page(settings: SettingsDep) -> Response:
    """Answers with the page, which asks for the key by itself. There is none unless a key is set."""
    if settings.console_key is None:
        raise no_console()
    return _file("page")


@router.get("/files/{name}")
async def show_file(name: str, settings: SettingsDep) -> Response:
    if settings.console_key is None:
        raise no_console()
    if name not in _FILES or name == "page":
        raise ClientError(404, "The console has no such file.", "file_not_found")
    return _file(name)


@router.get("/cluster")
async def read_cluster(request: Request, services: ServicesDep) -> Response:
    """Answers with processes, queues and open responses of all tenants."""
    return json_of(msgspec.json.encode(await _console(request, services).read_cluster()))


@router.get("/responses/{response_id}")
async def read_response(request: Request, response_id: str, services: ServicesDep) -> Response:
    """Answers with what is kept about one response, of the tenant that the query names, or of any."""
    console = _console(request, services)
    tenant = request.query_params.get("tenant", "")
    return json_of(msgspec.json.encode(await console.read_response(tenant, response_id)))


@router.get("/responses/{response_id}/events")
async def stream_events(
    request: Request, response_id: str, services: ServicesDep, settings: SettingsDep, streams: StreamsDep
) -> Response:
    """Streams the events of a response after `starting_after`, as its own readers get them, without becoming
    one of them."""
    console = _console(request, services)
    tenant = _tenant_of(request)
    key, _ = await services.read.find_log(tenant, console.key_of(tenant, response_id).response_id)
    wire = wire_of(request.scope)
    frames = services.read.follow(key, _after_of(request), wire, is_watched=False)
    return streams.answer(frames, settings.keep_alive_form, wire)


@router.post("/workers/{owner}/kill")
async def kill_worker(request: Request, owner: str, services: ServicesDep, settings: SettingsDep) -> Response:
    """Kills a worker of a local launcher."""
    console = _console(request, services)
    local_workers.kill(settings.console_cluster, await console.find_pid(owner))
    return json_of(b'{"killed":true}')


def _console(request: Request, services: Services) -> Console:
    """Returns the console of a caller that has its key. Raises ClientError."""
    services.console.check_key(request.headers.get("authorization"))
    return services.console


def _tenant_of(request: Request) -> str:
    tenant = request.query_params.get("tenant")
    if not tenant:
        raise invalid_value("tenant", "it should name a tenant")
    return tenant


def _after_of(request: Request) -> int:
    given = request.query_params.get("starting_after")
    if given is None:
        return FROM_THE_START
    if not given.isascii() or not given.isdigit() or int(given) > _AFTER_MAX:
        raise invalid_value("starting_after", "it should be the number of an event")
    return int(given)


def _file(name: str) -> Response:
    file, media_type = _FILES[name]
    content = resources.files("api.console").joinpath("page", file).read_bytes()
    return Response(content, media_type=media_type, headers=_HEADERS)
