"""/health and /ready, for probes: they need no key and reveal nothing about tenants."""

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from api.errors import RETRY_AFTER
from api.routes.access import ServicesDep, SettingsDep

router = APIRouter()

PROBED = ("/health", "/ready")
"""The paths of probes, which are answered even if no other request is (`api/http_protocol.py`)."""


@router.get(PROBED[0])
async def report_health() -> Response:
    """Reports liveness: while this answers, restarting the process would not help."""
    return JSONResponse({"status": "ok"})


@router.get(PROBED[1])
async def report_readiness(request: Request, services: ServicesDep, settings: SettingsDep) -> Response:
    """Reports readiness: Redis answers, a worker is present, and this node is not shutting down."""
    seen = await services.check_readiness()
    is_ready = seen.is_ready and not request.app.state.is_draining
    body = {
        "status": "ready" if is_ready else "not ready",
        "redis": seen.is_redis_reachable,
        "workers": seen.workers,
        "tool_runners": seen.tool_runners,
        "cell": settings.cell,
    }
    return JSONResponse(body) if is_ready else JSONResponse(body, 503, RETRY_AFTER)
