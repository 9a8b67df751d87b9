"""What is happening now, over a WebSocket."""

import asyncio
from datetime import datetime
from http import HTTPStatus

from fastapi import APIRouter, WebSocket, WebSocketDisconnect

from app.api.access import LIVE_PROTOCOL
from app.api.errors import problem
from app.api.v1 import PREFIX
from app.services.broadcast import Broadcast, Listener
from app.services.window import load_zone

# Fewer than there may be connections: looking on keeps nobody from sending events.
MAX_LISTENERS = 1_500

GOING_AWAY = 1001
# A client that takes nothing for so long is let go.
_SEND_SECONDS = 5.0

router = APIRouter(prefix=PREFIX, tags=["figures"])


@router.websocket("/live")
async def live(socket: WebSocket, tz: str = "UTC") -> None:
    """A snapshot at once, and another, at most one a second, when something has changed; as long as
    the key is good."""
    if not socket.app.state.ready or socket.app.state.draining:
        return await _refuse(socket, HTTPStatus.SERVICE_UNAVAILABLE, "the service is not ready")
    try:
        load_zone(tz)
    except ValueError as error:
        return await _refuse(socket, HTTPStatus.UNPROCESSABLE_ENTITY, f"tz: {error}")
    hub: Broadcast = socket.app.state.broadcast
    if hub.listeners >= MAX_LISTENERS:
        return await _refuse(
            socket, HTTPStatus.SERVICE_UNAVAILABLE, f"{MAX_LISTENERS} clients are connected"
        )
    offered = socket.scope.get("subprotocols", [])
    await socket.accept(LIVE_PROTOCOL if LIVE_PROTOCOL in offered else None)
    with hub.listening(tz) as listener:
        expiry: datetime | None = socket.scope.get("state", {}).get("key_expiry")
        if expiry is not None:
            left = expiry - socket.app.state.clock()
            asyncio.get_running_loop().call_later(left.total_seconds(), listener.end)
        await _tell(socket, listener)
    return None


async def _tell(socket: WebSocket, listener: Listener) -> None:
    """Until one of the two goes."""
    gone = asyncio.create_task(_until_gone(socket))
    gone.add_done_callback(lambda _: listener.end())
    try:
        while (message := await listener.next()) is not None:
            async with asyncio.timeout(_SEND_SECONDS):
                await socket.send_text(message)
        if not gone.done():
            await socket.close(GOING_AWAY)
    except (TimeoutError, WebSocketDisconnect):
        pass  # nobody is there to be told
    finally:
        gone.cancel()


async def _until_gone(socket: WebSocket) -> None:
    """What a client says is read, so that its leaving is noticed, and ignored."""
    while (await socket.receive())["type"] != "websocket.disconnect":
        pass


async def _refuse(socket: WebSocket, status: HTTPStatus, detail: str) -> None:
    await socket.send_denial_response(problem(socket, status, detail))
