"""/v1/responses as a WebSocket: decides whether a connection is upgraded; knows nothing of its messages."""

from fastapi import APIRouter
from starlette.websockets import WebSocket

from api.door import SOCKET_PATH
from api.errors import ClientError, node_ending, refuse
from api.routes.access import dialect_of, keep_alive_of
from api.socket_session import Session

router = APIRouter()


@router.websocket_route(SOCKET_PATH)
async def connect(websocket: WebSocket) -> None:
    """Serves a client that may call, until its connection ends; answers any other without an upgrade."""
    state = websocket.app.state
    try:
        if state.is_draining:
            raise node_ending()
        state.tenants.tenant_of(websocket.headers.get("authorization"))
        form, dialect = keep_alive_of(websocket, state.settings), dialect_of(websocket)
        state.sockets.check_room()
    except ClientError as error:
        await websocket.send_denial_response(refuse(error))
        return
    await websocket.accept()
    await Session(websocket, form, dialect).run()
