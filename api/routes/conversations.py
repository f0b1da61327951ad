"""/v1/conversations and their items. Owns paths and the form of answers."""

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from api.bodies.includes import read_include
from api.paging import read_page
from api.routes.access import ServicesDep, SettingsDep, TenantDep, json_of, with_body

router = APIRouter(prefix="/v1/conversations")


@router.post("")
async def create(
    request: Request, tenant: TenantDep, services: ServicesDep, settings: SettingsDep
) -> Response:
    conversations = services.conversations
    return JSONResponse(await with_body(request, settings, lambda body: conversations.create(tenant, body)))


@router.get("/{conversation_id}")
async def retrieve(conversation_id: str, tenant: TenantDep, services: ServicesDep) -> Response:
    return JSONResponse(await services.conversations.retrieve(tenant, conversation_id))


@router.post("/{conversation_id}")
async def update(
    request: Request, conversation_id: str, tenant: TenantDep, services: ServicesDep, settings: SettingsDep
) -> Response:
    conversations = services.conversations
    return JSONResponse(
        await with_body(request, settings, lambda body: conversations.update(tenant, conversation_id, body))
    )


@router.delete("/{conversation_id}")
async def delete(conversation_id: str, tenant: TenantDep, services: ServicesDep) -> Response:
    await services.conversations.delete(tenant, conversation_id)
    return JSONResponse({"id": conversation_id, "object": "conversation.deleted", "deleted": True})


@router.post("/{conversation_id}/items")
async def add_items(
    request: Request, conversation_id: str, tenant: TenantDep, services: ServicesDep, settings: SettingsDep
) -> Response:
    read_include(request.query_params.multi_items())
    conversations = services.conversations
    return json_of(
        await with_body(
            request, settings, lambda body: conversations.add_items(tenant, conversation_id, body)
        )
    )


@router.get("/{conversation_id}/items")
async def list_items(
    request: Request, conversation_id: str, tenant: TenantDep, services: ServicesDep
) -> Response:
    read_include(request.query_params.multi_items())
    page = read_page(request.query_params.multi_items())
    return json_of(await services.conversations.list_items(tenant, conversation_id, page))


# A client may have chosen an item's id, which may therefore contain anything, even a slash.


@router.get("/{conversation_id}/items/{item_id:path}")
async def retrieve_item(
    request: Request, conversation_id: str, item_id: str, tenant: TenantDep, services: ServicesDep
) -> Response:
    read_include(request.query_params.multi_items())
    return json_of(await services.conversations.find_item(tenant, conversation_id, item_id))


@router.delete("/{conversation_id}/items/{item_id:path}")
async def remove_item(
    conversation_id: str, item_id: str, tenant: TenantDep, services: ServicesDep
) -> Response:
    """Answers with the conversation without the item."""
    return JSONResponse(await services.conversations.remove_item(tenant, conversation_id, item_id))
