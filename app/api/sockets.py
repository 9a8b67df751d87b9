"""WebSockets that a client which takes nothing can't hold open."""

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

# What was sent last may take so long to be taken; then the connection is cut.
_LINGER_SECONDS = 2.0


class SocketProtocol(WebSocketsSansIOProtocol):
    """As uvicorn's, which would wait for what is still to be sent, for as long as that takes."""

    async def run_asgi(self) -> None:
        await super().run_asgi()
        self.loop.call_later(_LINGER_SECONDS, self.transport.abort)

    def keepalive_timeout(self) -> None:
        super().keepalive_timeout()
        self.transport.abort()

    def shutdown(self) -> None:
        if self.writable.is_set():
            super().shutdown()
        else:
            self.transport.abort()
