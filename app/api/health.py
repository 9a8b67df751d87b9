"""Is it well? For people (/health) and for orchestrators (/livez, /readyz)."""

from typing import Any, Literal

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, Field

from app.core.clickhouse_client import ClickHouseClient

router = APIRouter(tags=["health"])


class Health(BaseModel):
    status: Literal["healthy", "degraded", "unhealthy"] = Field(
        description="`unhealthy` without ClickHouse, `degraded` without Kafka where it is wanted.",
        examples=["healthy"],
    )
    clickhouse: Literal["healthy", "unhealthy"] = Field(examples=["healthy"])
    kafka: Literal["enabled", "disabled", "unreachable"] = Field(examples=["disabled"])


class Probe(BaseModel):
    status: Literal["ok", "unavailable"] = Field(examples=["ok"])


_DOWN: dict[int | str, dict[str, Any]] = {
    503: {"model": Health, "description": "ClickHouse doesn't answer"}
}
_NOT_READY: dict[int | str, dict[str, Any]] = {
    503: {"model": Probe, "description": "Starting, stopping, or without its store"}
}


@router.get("/health", responses=_DOWN)
async def health(request: Request, response: Response) -> Health:
    """Asks ClickHouse and Kafka."""
    store: ClickHouseClient | None = request.app.state.store
    kafka = "unreachable" if request.app.state.settings.enable_kafka else "disabled"
    if store is None or not await store.ping():
        response.status_code = 503
        return Health(status="unhealthy", clickhouse="unhealthy", kafka=kafka)
    return Health(
        status="degraded" if kafka == "unreachable" else "healthy",
        clickhouse="healthy",
        kafka=kafka,
    )


@router.get("/livez")
async def livez() -> Probe:
    """The process runs. Restart it when this doesn't answer."""
    return Probe(status="ok")


@router.get("/readyz", responses=_NOT_READY)
async def readyz(request: Request, response: Response) -> Probe:
    """It takes requests. Send it none while this says 503."""
    state = request.app.state
    if state.ready and not state.draining and await state.store.ping():
        return Probe(status="ok")
    response.status_code = 503
    return Probe(status="unavailable")
