"""The HTTP API: routes, the form of errors, and the OpenAPI schema."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

from fastapi import FastAPI, Request, Response
from pydantic_core import to_json
from starlette.exceptions import HTTPException

from allround.core.errors import AllroundError
from allround.core.version import __version__
from allround.models.prediction.answers import Answered
from allround.serving.answers_json import answers_json
from allround.serving.bodies import (
    PredictAnswers,
    PredictBody,
    ReloadAnswer,
    ReloadBody,
    TasksAnswer,
    read_body,
    schema_of,
)
from allround.serving.door import Door
from allround.serving.openai_routes import add_openai
from allround.serving.page import page
from allround.serving.questions import Question
from allround.serving.refused import Refused, error_json
from allround.serving.served import asking_of
from allround.serving.service import REFUSALS, Service, answer, errors, json_of

#: Paths that need no key: what is running, how it is, and how to ask it.
OPEN = ("/", "/healthz", "/readyz", "/metrics", "/openapi.json")

_log = logging.getLogger("allround.serving")


def make_app(service: Service) -> FastAPI:
    """The application of ASGI that serves models."""
    app = FastAPI(title="allround", version=__version__, docs_url=None, redoc_url=None,
                  description="One model that answers many tasks.")  # fmt: skip
    _add_errors(app)
    _add_state(app, service)
    _add_tasks(app, service)
    add_openai(app, service)
    _add_admin(app, service)
    _add_page(app, service)
    paths = [route.path for route in app.routes if hasattr(route, "path")]
    app.add_middleware(
        Door,
        keys=service.keys,
        admin=service.admin,
        limits=service.door,
        metrics=service.metrics,
        open=OPEN,
        paths=paths,
    )
    return app


def _add_errors(app: FastAPI) -> None:
    @app.exception_handler(AllroundError)
    async def refused(request: Request, error: AllroundError) -> Response:
        status, headers = (error.status, error.headers) if isinstance(error, Refused) else (422, {})
        return Response(to_json(error_json(error)), status, headers, "application/json")

    @app.exception_handler(HTTPException)
    async def unknown(request: Request, error: HTTPException) -> Response:
        found = AllroundError(f"{request.method} {request.url.path[:100]}", str(error.detail).lower(),
                              "look at /openapi.json for what there is")  # fmt: skip
        return Response(to_json(error_json(found)), error.status_code, error.headers, "application/json")

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> Response:
        _log.error("%s %s failed", request.method, request.url.path, exc_info=error)
        found = AllroundError(f"{request.method} {request.url.path}", f"an error inside the server: "
                              f"{type(error).__name__}", "look at the server's log")  # fmt: skip
        return Response(to_json(error_json(found)), 500, media_type="application/json")


def _add_state(app: FastAPI, service: Service) -> None:
    @app.get("/healthz", summary="Whether the server runs", tags=["state"])
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/readyz", summary="Whether it takes requests", tags=["state"], responses=errors(503))
    async def ready() -> dict[str, str]:
        if not service.ready:
            raise Refused(503, "take requests", "the server is stopping", "ask again in a moment",
                          {"Retry-After": "1"})  # fmt: skip
        return {"status": "ready"}

    @app.get("/metrics", summary="Counters, as Prometheus reads them", tags=["state"],
             responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
             response_class=Response)  # fmt: skip
    async def metrics() -> Response:
        for one in service.models:
            service.metrics.waiting.labels(one.name).set(one.engine.waiting)
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


def _add_tasks(app: FastAPI, service: Service) -> None:
    @app.get("/v1/tasks", summary="The tasks, with their labels and scores", tags=["tasks"],
             response_model=TasksAnswer, responses=errors(401, 404))  # fmt: skip
    async def tasks(model: str | None = None) -> Response:
        asked = service.models if model is None else [service.models.find(model)]
        return answer({"tasks": [task for one in asked for task in one.about()]})

    @app.post("/v1/predict", summary="Answer tasks for rows", tags=["tasks"], response_model=PredictAnswers,
              responses=REFUSALS, openapi_extra=schema_of(PredictBody))  # fmt: skip
    async def predict(request: Request) -> Response:
        body = read_body(PredictBody, await json_of(request), "answer tasks for rows")
        served = service.models.find(body.model)
        asking = asking_of(body.tasks, scores=body.scores, instruction=body.instruction)
        served.check_tasks(asking.tasks or ())
        question = Question.make(body.inputs, asking)
        made: Answered = await service.ask(served, question)
        if served.shadow is not None:
            served.shadow.see(question, made)
        return answer(answers_json(served.name, made, body.abstain, service.metrics))


def _add_admin(app: FastAPI, service: Service) -> None:
    reloader = service.reloader
    if reloader is None:
        return

    @app.post("/admin/reload", summary="Put another version in the place of a model", tags=["state"],
              response_model=ReloadAnswer, responses={**REFUSALS, **errors(403, 409)},
              openapi_extra=schema_of(ReloadBody))  # fmt: skip
    async def reload(request: Request) -> Response:
        body = read_body(ReloadBody, await json_of(request), "reload a model")
        folder = None if body.folder is None else Path(body.folder)
        return answer(await asyncio.to_thread(reloader.reload, service.models.find(body.model), folder))


def _add_page(app: FastAPI, service: Service) -> None:
    text, policy = page(" and ".join(service.models.by_name))

    @app.get("/", include_in_schema=False)
    async def show() -> Response:
        headers = {"Content-Security-Policy": policy, "X-Content-Type-Options": "nosniff"}
        return Response(text, headers=headers, media_type="text/html; charset=utf-8")
