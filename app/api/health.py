"""Is it well? For people (/health) and for orchestrators (/livez, /readyz)."""

import asyncio
from typing import Any, Literal

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, Field

from app.core.clickhouse_client import ClickHouseClient
from app.ingest.doors import Kafka
from app.schemas.ingestion import KafkaState

router = APIRouter(tags=["health"])


class Health(BaseModel):
    status: Literal["healthy", "degraded", "unhealthy"] = Field(
        description=(
            "`unhealthy` without ClickHouse; `degraded` without Kafka where it is wanted, and "
            "while the store takes no events since its disk is full."
        ),
        examples=["healthy"],
    )
    clickhouse: Literal["healthy", "unhealthy"] = Field(examples=["healthy"])
    kafka: KafkaState = Field(examples=["disabled"])
    warnings: list[str] | None = Field(
        None,
        description="What somebody should look at, though the service answers; else left out.",
        examples=[["120 Kafka messages of the last minute are no events"]],
    )


class Probe(BaseModel):
    status: Literal["ok", "unavailable"] = Field(examples=["ok"])


_DOWN: dict[int | str, dict[str, Any]] = {
    503: {"model": Health, "description": "ClickHouse doesn't answer"}
}
_NOT_READY: dict[int | str, dict[str, Any]] = {
    503: {"model": Probe, "description": "Starting, stopping, or without its store"}
}


@router.get("/health", responses=_DOWN, response_model_exclude_none=True)
async def health(request: Request, response: Response) -> Health:
    """Asks ClickHouse and Kafka."""
    state = request.app.state
    store: ClickHouseClient | None = state.store
    door: Kafka | None = state.kafka
    alive, kafka = await asyncio.gather(_answers(store), _kafka_state(request))
    rejected = 0 if door is None else door.recent_rejections()
    if not alive:
        response.status_code = 503
    troubles = store.warnings() if store is not None and alive else []
    degraded = kafka == "unreachable" or bool(troubles)
    if rejected:
        troubles = [*troubles, f"{rejected} Kafka messages of the last minute are no events"]
    return Health(
        status="unhealthy" if not alive else "degraded" if degraded else "healthy",
        clickhouse="healthy" if alive else "unhealthy",
        kafka=kafka,
        warnings=troubles or None,
    )


async def _answers(store: ClickHouseClient | None) -> bool:
    return store is not None and await store.ping()


async def _kafka_state(request: Request) -> KafkaState:
    door: Kafka | None = request.app.state.kafka
    if door is not None:
        return await door.state()
    return "unreachable" if request.app.state.settings.enable_kafka else "disabled"


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
