from fastapi import APIRouter

from app.api.v1.endpoints import analytics, events, ingestion

router = APIRouter(prefix="/api/v1/analytics")
router.include_router(events.router)
router.include_router(analytics.router)
router.include_router(ingestion.router)
