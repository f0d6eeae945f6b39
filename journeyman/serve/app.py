"""The two applications: the API with its web page, and the administration."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.responses import JSONResponse, Response

from journeyman.serve import admin, chat, feedback, looking
from journeyman.serve.access import Looker, Served
from journeyman.serve.deployment import Deployment
from journeyman.serve.gate import Gate
from journeyman.serve.http import Around, handle_errors
from journeyman.serve.pages import add_pages
from journeyman.serve.replies import Error, Reply


class State(Reply):
    """How the server is."""

    status: str


operation = APIRouter()


@operation.get("/healthz", response_model=State)
async def health() -> dict[str, Any]:
    """Whether the process answers."""
    return {"status": "ok"}


@operation.get("/readyz", response_model=State, responses={503: {"model": State, "description": "It takes no work."}})
async def ready(d: Served) -> Response:
    """Whether it takes new work."""
    reason = d.unready()
    return JSONResponse({"status": reason or "ok"}, 200 if reason is None else 503)


@operation.get(
    "/metrics",
    response_class=Response,
    responses={200: {"content": {"text/plain": {}}}, 401: {"model": Error}, 403: {"model": Error}},
)
async def metrics(d: Served, who: Looker) -> Response:
    """Figures for Prometheus."""
    return Response(d.metrics.page(), media_type="text/plain; version=0.0.4; charset=utf-8")


def api_routes() -> FastAPI:
    """What clients may call, less the deployment that answers them."""
    about = "An OpenAI-compatible API that keeps every episode and hears what became of it."
    return _app("Journeyman", about, chat.router, feedback.router, looking.router, operation)


def admin_routes() -> FastAPI:
    """What operators may call, likewise."""
    about = "Weights, draining, keys, erasure. Needs an API key with the scope `admin`."
    return _app("Journeyman administration", about, admin.router, operation)


def api(d: Deployment) -> FastAPI:
    """What clients speak to, with the web page."""
    app = _serving(api_routes(), d)
    app.state.door = Gate(d)
    add_pages(app)
    return app


def administration(d: Deployment) -> FastAPI:
    """What operators speak to, on another port."""
    return _serving(admin_routes(), d)


def _app(title: str, about: str, *routers: APIRouter) -> FastAPI:
    app = FastAPI(title=title, description=about, docs_url=None, redoc_url=None, version="1")
    for router in routers:
        app.include_router(router)
    handle_errors(app)
    schema = app.openapi()  # made once, and kept by the app
    for methods in schema["paths"].values():
        for operation in methods.values():
            found = operation["responses"].get("422", {})
            if "HTTPValidationError" in str(found):  # FastAPI's own answer to what does not fit; ours is 400
                del operation["responses"]["422"]
    for name in ("HTTPValidationError", "ValidationError"):
        schema.get("components", {}).get("schemas", {}).pop(name, None)
    return app


def _serving(app: FastAPI, d: Deployment) -> FastAPI:
    app.state.deployment = d
    app.add_middleware(Around, d=d)
    return app
