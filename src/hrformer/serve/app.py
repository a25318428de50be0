"""The HTTP application: routes, their description in OpenAPI, errors as one sentence, and metrics."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from importlib.resources import files
from typing import Any

import prometheus_client
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from fastapi_offline import FastAPIOffline
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from hrformer.serve.batcher import Batcher, QueueFull, WorkerDied
from hrformer.serve.fields import Upload, boxes_per_picture, form_schema, parse_form, parse_json
from hrformer.serve.guard import Guard, busy, shutting_down
from hrformer.serve.metrics import Metrics
from hrformer.serve.models import ServedModel, content_of, png_of
from hrformer.serve.options import ServeOptions

PAGE = files("hrformer.serve") / "page"

KINDS = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
"""Content types of the page's files."""

ERRORS = {
    400: "The body cannot be parsed.",
    401: "A token is needed.",
    404: "There is no such model.",
    405: "Another method is needed.",
    408: "The body did not arrive in time.",
    413: "The body or a picture is too large.",
    415: "The body is neither multipart/form-data nor application/json.",
    422: "A field or a picture is not right.",
    429: "The queue is full; Retry-After says when to come again.",
    503: "The server is shutting down, or its runtime has failed.",
    504: "The answer took too long.",
}
"""Status codes and what they mean; each comes with ``{"detail": "one sentence"}``."""


class ClientGone(Exception):
    """Nobody waits for the answer any more."""


class Service:
    """Everything behind the addresses.

    Args:
        models: what is served, by name.
        batcher: runs their networks.
        pool: threads for the rest.
        options: limits.
        metrics: counted into.
        token: of clients of the API; None lets everybody in.

    Attributes:
        guard: the ASGI application to run.
        dead: why nothing can be answered any more; empty while all is well.
        leaving: the process is about to end; requests are still answered.
    """

    def __init__(
        self,
        models: Sequence[ServedModel],
        batcher: Batcher,
        pool: ThreadPoolExecutor,
        options: ServeOptions,
        metrics: Metrics,
        token: str | None = None,
    ) -> None:
        self.models = {model.name: model for model in models}
        self.batcher, self.options, self.dead, self.leaving = batcher, options, "", False
        self._pool, self._metrics = pool, metrics
        metrics.watch(batcher)
        self.guard = Guard(self._app(token), options, token, lambda status: metrics.request("", status, 0.0))

    @property
    def is_ready(self) -> bool:
        """Whether requests are answered."""
        return not self.leaving and not self.guard.stopping and not self.problem()

    def problem(self) -> str:
        """Why the networks cannot run any more; empty while they can."""
        if not self.dead and not self.batcher.is_alive:
            reason = self.batcher.died
            told = f"{type(reason).__name__}: {reason}" if reason else "without an error"
            self.dead = f"the thread that runs the networks has ended: {told}"
        if not self.dead and self.batcher.busy_for() > self.options.stalled:
            self.dead = f"a network has not answered for {self.options.stalled:g} seconds"
        return self.dead

    async def answer(self, model: ServedModel, request: Request) -> Response:
        """The response to a request for predictions; HTTPException where there is none."""
        png = _wants_png(request)
        if request.query_params:
            name = next(iter(request.query_params))
            raise HTTPException(422, f"options are fields of the body, not of the address: {name[:80]!r}")
        uploads, wanted = await request.scope["read_body"](lambda: self._read(request, model))
        if not uploads:
            raise HTTPException(422, f"field 'image' must hold 1 to {self.options.pictures} pictures, got 0")
        if png and len(uploads) > 1:
            raise HTTPException(422, f"a PNG answers one picture; {len(uploads)} came")
        people = boxes_per_picture(wanted, len(uploads))
        if self.guard.stopping:
            raise shutting_down()
        with self._place(model, len(uploads)):
            works = [self._one(model, upload, wanted, *row, png) for upload, row in zip(uploads, people, strict=True)]
            try:
                async with asyncio.timeout(self.options.deadline):
                    found = await _unless_gone(request, asyncio.gather(*works, return_exceptions=True))
            except TimeoutError:
                raise HTTPException(504, f"no answer within {self.options.deadline:g} seconds") from None
        return self._response(model, uploads, found, png)

    async def _read(self, request: Request, model: ServedModel) -> tuple[list[Upload], dict[str, Any]]:
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        loop = asyncio.get_running_loop()
        if kind == "application/json":
            return await loop.run_in_executor(self._pool, parse_json, await request.body(), model.json_body)
        if kind != "multipart/form-data":
            raise HTTPException(415, f"send multipart/form-data or application/json, not {kind or 'an untyped body'}")
        most = self.options.pictures
        try:
            async with request.form(max_files=most, max_fields=50) as form:
                uploads, wanted = parse_form(form, model.fields)
                return [Upload(name=one.filename or None, data=await one.read()) for one in uploads], wanted
        except HTTPException as error:
            if "many files" in error.detail:  # Starlette's words
                raise HTTPException(422, f"more than {most} pictures in a request") from None
            raise

    @contextmanager
    def _place(self, model: ServedModel, number: int) -> Iterator[None]:
        try:
            model.places.take(number)
        except QueueFull:
            raise busy(f"{model.places.used} pictures are in work for {model.name}") from None
        try:
            yield
        finally:
            model.places.used -= number

    async def _one(
        self, model: ServedModel, upload: Upload, wanted: dict[str, Any], boxes: Any, scores: Any, png: bool
    ) -> bytes:
        """One picture's result, encoded."""
        result = await model.predict(upload, wanted, boxes, scores)

        def encoded() -> bytes:
            return png_of(result, wanted) if png else json.dumps(content_of(result, wanted), allow_nan=False).encode()

        return await asyncio.get_running_loop().run_in_executor(self._pool, encoded)

    def _response(
        self, model: ServedModel, uploads: Sequence[Upload], found: Sequence[bytes | BaseException], png: bool
    ) -> Response:
        """Results in the pictures' order; a picture that failed has an error in its place, and if alone is one."""
        errors = [_as_http(one) if isinstance(one, BaseException) else None for one in found]
        self._metrics.pictures(model.name, sum(error is None for error in errors))
        for error in errors:
            if error is not None and (len(errors) == 1 or error.status_code not in (413, 422)):
                raise error
        if png:
            return Response(found[0], media_type="image/png")
        rows = []
        for upload, one, error in zip(uploads, found, errors, strict=True):
            if error is not None:
                row: dict[str, Any] = {"status": error.status_code, "detail": error.detail}
                one = json.dumps({"file_name": upload.name, "error": row}).encode()
            assert isinstance(one, bytes)
            rows.append(one)
        body = b'{"model": %s, "results": [%s]}' % (json.dumps(model.name).encode(), b", ".join(rows))
        return Response(body, media_type="application/json")

    def _app(self, token: str | None) -> FastAPI:
        app = FastAPIOffline(
            title="hrformer",
            description="Predictions on pictures by HRFormer, HRNet and others. `GET /v1/models` lists the models.",
            version="1",
            redoc_url=None,
        )
        _add_pages(app)
        _add_health(app, self)
        for model in self.models.values():
            _add_model(app, self, model)

        async def unknown(name: str) -> Response:
            self._metrics.request("", 404, 0.0)
            raise HTTPException(404, f"no model is called {name[:80]!r} here; there are: {', '.join(self.models)}")

        app.add_api_route("/v1/models/{name}:predict", unknown, methods=["POST"], include_in_schema=False)
        app.exception_handler(HTTPException)(_refusal)
        app.exception_handler(Exception)(_failure)
        if token is not None:
            description = app.openapi()  # kept by the application
            schemes = {"token": {"type": "http", "scheme": "bearer"}}
            description.setdefault("components", {})["securitySchemes"] = schemes
            description["security"] = [{"token": []}]
        return app

    async def counted(self, model: str, work: Callable[[], Awaitable[Response]]) -> Response:
        """The response of ``work``, also for its refusals, counted by status."""
        start, status = time.monotonic(), 500
        try:
            response = await work()
            status = response.status_code
            return response
        except HTTPException as error:
            status = error.status_code
            raise
        except (ClientGone, ClientDisconnect):
            status = 499  # as nginx logs it; nobody sees it
            return Response(status_code=499)
        except asyncio.CancelledError:  # a second signal
            status = 503
            if not self.leaving:
                raise
            raise shutting_down() from None
        finally:
            self._metrics.request(model, status, time.monotonic() - start)


def _add_pages(app: FastAPI) -> None:
    there = {file.name for file in PAGE.iterdir()}

    def page_file(name: str) -> Response:
        suffix = name[name.rfind(".") :] if "." in name else ""
        if name not in there or suffix not in KINDS:
            raise HTTPException(404, f"no file is called {name[:80]!r} here")
        return Response((PAGE / name).read_bytes(), media_type=KINDS[suffix])

    def index() -> Response:
        return page_file("index.html")

    app.add_api_route("/", index, methods=["GET", "HEAD"], include_in_schema=False)
    app.add_api_route("/page/{name}", page_file, methods=["GET"], include_in_schema=False)


def _add_health(app: FastAPI, service: Service) -> None:
    def healthz() -> dict[str, str]:
        """The process is there and answers."""
        return {"status": "alive"}

    async def readyz() -> JSONResponse:
        """Requests are answered: 200; 503 while shutting down, and when the runtime has failed."""
        if service.is_ready:
            return JSONResponse({"status": "ready"})
        return JSONResponse({"status": service.problem() or "shutting down"}, 503)

    def metrics() -> Response:
        """Counters in Prometheus' text format."""
        text, kind = service._metrics.page()
        return Response(text, media_type=kind)

    def models() -> dict[str, Any]:
        """The models with their classes or joints, options and defaults, and the limits of this server."""
        names = ("body_bytes", "pixels", "network_pixels", "people", "pictures")
        limits = {name: getattr(service.options, name) for name in names}
        return {"models": [model.describe() for model in service.models.values()], "limits": limits}

    for path, answer in (("/healthz", healthz), ("/readyz", readyz)):
        app.add_api_route(path, answer, methods=["HEAD"], include_in_schema=False)
    described: dict[int | str, dict[str, Any]] = {401: _error(401)}
    not_ready: dict[int | str, dict[str, Any]] = {503: {"description": "Not ready."}}
    app.add_api_route("/healthz", healthz, methods=["GET"], tags=["server"])
    app.add_api_route("/readyz", readyz, methods=["GET"], tags=["server"], responses=not_ready)
    app.add_api_route(
        "/metrics",
        metrics,
        methods=["GET"],
        tags=["server"],
        response_class=Response,
        responses={200: {"content": {prometheus_client.CONTENT_TYPE_LATEST: {}}}, **described},
    )
    app.add_api_route("/v1/models", models, methods=["GET"], tags=["models"], responses=described)


def _add_model(app: FastAPI, service: Service, model: ServedModel) -> None:
    async def predict(request: Request) -> Response:
        return await service.counted(model.name, lambda: service.answer(model, request))

    as_json = model.json_body.model_json_schema(ref_template="#/components/schemas/{model}")
    form = form_schema(model.fields)
    app.add_api_route(
        f"/v1/models/{model.name}:predict",
        predict,
        methods=["POST"],
        tags=["models"],
        summary=f"Predict with {model.name} ({model.predictor.task})",
        description="Lists in a form are JSON text. `Accept: image/png` asks for the drawn picture.",
        operation_id=f"predict_{model.name}",
        response_class=Response,
        openapi_extra={
            "requestBody": {
                "required": True,
                "content": {"multipart/form-data": {"schema": form}, "application/json": {"schema": as_json}},
            }
        },
        responses={
            200: {
                "description": "A result for each picture, in the form of the predictor's to_dict().",
                "content": {
                    "application/json": {"schema": {"type": "object", "required": ["model", "results"]}},
                    "image/png": {"schema": {"type": "string", "format": "binary"}},
                },
            },
            **{code: _error(code) for code in ERRORS if code != 405},
        },
    )


def _error(code: int) -> dict[str, Any]:
    schema = {"type": "object", "required": ["detail"], "properties": {"detail": {"type": "string"}}}
    return {"description": ERRORS[code], "content": {"application/json": {"schema": schema}}}


async def _refusal(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"detail": str(error.detail)}, error.status_code, headers=error.headers)


async def _failure(_: Request, error: Exception) -> Response:
    return JSONResponse({"detail": f"the server failed on this request: {type(error).__name__}"}, 500)


def _as_http(error: BaseException) -> HTTPException:
    if isinstance(error, HTTPException):
        return error
    if isinstance(error, QueueFull):
        return busy("the queue is full")
    if isinstance(error, WorkerDied):
        return HTTPException(503, "the networks do not run any more; the server ends", {"Connection": "close"})
    if isinstance(error, ValueError):
        return HTTPException(422, str(error).removeprefix("bytes: "))
    raise error


def _wants_png(request: Request) -> bool:
    """Whether a client would rather have a PNG than JSON; HTTPException 406 where it takes neither."""
    wanted: dict[str, float] = {}
    for entry in request.headers.get("accept", "*/*").lower().split(","):
        kind, *parameters = (part.strip() for part in entry.split(";"))
        weight = 1.0
        for parameter in parameters:
            if parameter.startswith("q="):
                with suppress(ValueError):
                    weight = float(parameter[2:])
        wanted[kind] = weight

    def weight_of(kind: str) -> float:
        names = (kind, kind.partition("/")[0] + "/*", "*/*")
        return next((wanted[name] for name in names if name in wanted), 0.0)

    as_json, as_png = weight_of("application/json"), weight_of("image/png")
    if max(as_json, as_png) <= 0:
        raise HTTPException(406, "answers are application/json or image/png")
    return as_png > as_json


async def _unless_gone(request: Request, work: asyncio.Future[Any]) -> Any:
    """What ``work`` returns; it is cancelled and ClientGone raised where the client closes the connection first."""
    gone = asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            raise ClientGone
        return work.result()
    finally:
        gone.cancel()
        work.cancel()
        with suppress(asyncio.CancelledError):
            await asyncio.gather(work, return_exceptions=True)


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
