"""A FastAPI app that takes and answers what the service does, and stores nothing.

It is what the framework costs: events are validated by pydantic and thrown away, and the answer to
the query is a constant, read from the JSON file that BARE_ANSWER names.
"""

import json
import os
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import FastAPI
from pydantic import BaseModel, Field


class Event(BaseModel):
    user_id: UUID
    movie_id: UUID
    event_type: Literal["start", "progress", "finish"]
    timestamp: datetime
    position_seconds: Annotated[float, Field(ge=0, le=4_294_967_295)] = 0
    session_id: UUID | None = None
    metadata: dict[str, Any] = Field(default_factory=dict)
    event_id: UUID | None = None


ANSWER: dict[str, Any] = json.loads(Path(os.environ["BARE_ANSWER"]).read_text(encoding="utf-8"))

app = FastAPI()


# The annotated type of what is returned is FastAPI's fast way: pydantic writes the JSON itself.
@app.post("/api/v1/analytics/events", status_code=201)
async def take_event(event: Event) -> dict[str, str]:
    return {"status": "taken", "type": event.event_type}


@app.post("/api/v1/analytics/events/batch")
async def take_events(events: list[Event]) -> dict[str, int]:
    return {"received": len(events)}


@app.get("/api/v1/analytics/content/popular")
async def popular_content() -> dict[str, Any]:
    return ANSWER
