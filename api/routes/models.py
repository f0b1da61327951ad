"""/v1/models: lists the names that a request may use for the model. Owns the listing, not the models."""

from typing import Any

from fastapi import APIRouter
from starlette.responses import JSONResponse, Response

from api.bodies.requests import DEFAULT_MODEL
from api.catalogue import Catalogue
from api.errors import model_not_found
from api.routes.access import ServicesDep, TenantDep

router = APIRouter(prefix="/v1/models")

GPT_OSS_PUBLISHED_S = 1_754_352_000
"""2025-08-05. Every node must report the same date, and all served models are of this family."""


@router.get("")
async def list_models(_tenant: TenantDep, services: ServicesDep) -> Response:
    """Lists every name that a request may use, also the one that stands for the first of them."""
    catalogue = services.catalogue
    await catalogue.refresh()
    names = dict.fromkeys([*catalogue.listed(), DEFAULT_MODEL])
    return JSONResponse({"object": "list", "data": [_describe(name, catalogue) for name in names]})


@router.get("/{model:path}")
async def retrieve_model(model: str, _tenant: TenantDep, services: ServicesDep) -> Response:
    catalogue = services.catalogue
    await catalogue.refresh()
    if model not in catalogue.listed() and model != DEFAULT_MODEL:
        raise model_not_found(model)
    return JSONResponse(_describe(model, catalogue))


def _describe(name: str, catalogue: Catalogue) -> dict[str, Any]:
    """`max_model_len`: the context in tokens, prompt and answer together, as vLLM calls it."""
    return {
        "id": name,
        "object": "model",
        "created": GPT_OSS_PUBLISHED_S,
        "owned_by": "antiphon",
        "max_model_len": catalogue.context_tokens_max(name),
    }
