"""/v1/models: lists the names that a request may use for the model. Owns the listing, not the models."""

from typing import Any

from fastapi import APIRouter
from starlette.responses import JSONResponse, Response

from api.errors import model_not_found
from api.routes.access import SettingsDep, TenantDep

router = APIRouter(prefix="/v1/models")

GPT_OSS_PUBLISHED_S = 1_754_352_000
"""2025-08-05. Every node must report the same date, and all served models are of this family."""


@router.get("")
async def list_models(_tenant: TenantDep, settings: SettingsDep) -> Response:
    return JSONResponse({"object": "list", "data": [_describe(name) for name in settings.models]})


@router.get("/{model:path}")
async def retrieve_model(model: str, _tenant: TenantDep, settings: SettingsDep) -> Response:
    if model not in settings.models:
        raise model_not_found(model)
    return JSONResponse(_describe(model))


def _describe(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": GPT_OSS_PUBLISHED_S, "owned_by": "antiphon"}
