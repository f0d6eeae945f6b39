"""The web page's files, with headers that let it load nothing but them and speak to nobody but this server."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastapi import APIRouter, FastAPI
from starlette.responses import Response
from starlette.staticfiles import StaticFiles

from journeyman.report import palette

DASHBOARD = Path(__file__).parent / "dashboard"
POLICY = {
    "default-src": "'none'",
    "script-src": "'self'",
    "style-src": "'self'",
    "img-src": "'self'",
    "connect-src": "'self'",
    "base-uri": "'none'",
    "form-action": "'none'",
    "frame-ancestors": "'none'",
    "require-trusted-types-for": "'script'",
    "trusted-types": "charts",
}
"""Content-Security-Policy: text becomes markup in one place of the page, charts that this server has drawn (chart.js);
a browser that knows trusted types refuses every other."""
HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": "; ".join(f"{name} {value}" for name, value in POLICY.items()),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}
router = APIRouter(include_in_schema=False)


@router.get("/look.css")
async def look() -> Response:
    """Colours, type and charts: what the page shares with the report of a run."""
    return Response(palette.look(), media_type="text/css", headers=dict(HEADERS))


class Pages(StaticFiles):
    """The files as they are, with the headers."""

    async def get_response(self, path: str, scope: Any) -> Response:
        response = await super().get_response(path, scope)
        response.headers.update(HEADERS)
        return response


def add_pages(app: FastAPI) -> None:
    """Let the application show the page at /, behind all of its routes."""
    app.include_router(router)
    app.mount("/", Pages(directory=DASHBOARD, html=True))
