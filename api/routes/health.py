"""/health and /ready, for probes: no key needed, nothing of a tenant told."""

from fastapi import APIRouter
from starlette.responses import JSONResponse, Response

from api.errors import RETRY_AFTER
from api.routes.access import ServicesDep

router = APIRouter()


@router.get("/health")
async def tell_health() -> Response:
    """The process lives; whatever else is wrong, restarting it would not help."""
    return JSONResponse({"status": "ok"})


@router.get("/ready")
async def tell_readiness(services: ServicesDep) -> Response:
    """Whether a request would be served now: Redis answers, and a worker is there."""
    seen = await services.look_around()
    body = {
        "status": "ready" if seen.is_ready else "not ready",
        "redis": seen.is_redis_reachable,
        "workers": seen.workers,
        "tool_runners": seen.tool_runners,
    }
    return JSONResponse(body) if seen.is_ready else JSONResponse(body, 503, RETRY_AFTER)
