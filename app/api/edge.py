"""The edge of HTTP: what comes before the application."""

from http import HTTPStatus

from fastapi import FastAPI
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from app.api.errors import Problem
from app.api.observe import Observer
from app.core.context import name_request


class Protocol(HttpToolsProtocol):
    """HTTP whose own refusals have the shape of all errors. There is no path to name yet."""

    def send_400_response(self, msg: str) -> None:
        status = HTTPStatus.BAD_REQUEST
        name = name_request(None, None)
        body = Problem(
            title=status.phrase, status=status, detail=msg, instance="*", request_id=name.request_id
        )
        content = body.model_dump_json(exclude_none=True).encode()
        head = (
            f"HTTP/1.1 {status.value} {status.phrase}\r\n"
            "content-type: application/problem+json\r\n"
            f"content-length: {len(content)}\r\n"
            f"x-request-id: {body.request_id}\r\n"
            "connection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + content)
        self.transport.close()
        app = self.config.app
        assert isinstance(app, FastAPI)
        observer: Observer = app.state.observer
        observer.refused(name, status)
