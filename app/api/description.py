"""What FastAPI can't know of the API, for its OpenAPI description."""

from typing import Any

from fastapi import FastAPI

from app.api.access import describe_access
from app.api.v1.endpoints.events import event_schemas
from app.api.v1.endpoints.movies import movie_schemas
from app.services.window import zone_names


def complete_description(app: FastAPI) -> None:
    """Add what producers send, the names of all time zones, and which keys are needed."""
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        description = generate()
        schemas = description["components"]["schemas"]
        if "TimeZone" not in schemas:
            schemas.update(event_schemas() | movie_schemas())
            schemas["TimeZone"] = {
                "type": "string",
                "title": "TimeZone",
                "description": "A name of the IANA time zone database.",
                "enum": sorted(zone_names()),
            }
            for path in description["paths"].values():
                for operation in path.values():
                    _name_zones(operation.get("parameters", []))
            describe_access(description, app.state.rules)
        return description

    app.openapi = openapi  # type: ignore[method-assign]


def _name_zones(parameters: list[dict[str, Any]]) -> None:
    for parameter in parameters:
        if parameter["name"] == "tz":
            named = {"$ref": "#/components/schemas/TimeZone"}
            kept = ("default", "examples", "description")
            parameter["schema"] = named | {
                name: value for name, value in parameter["schema"].items() if name in kept
            }
