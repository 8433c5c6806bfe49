"""Routes as OpenAI has them: models, embeddings of texts, and replies to chats, whole or piece by piece."""

from __future__ import annotations

import asyncio
import base64
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from typing import Annotated, Any, Literal

from fastapi import FastAPI, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import to_json

from allround.core.errors import AllroundError
from allround.models.language.chatting import Reply, Style
from allround.models.language.writing import Drawing
from allround.serving.bodies import ROWS, read_body, schema_of
from allround.serving.served import Served
from allround.serving.service import REFUSALS, Service, answer, errors, json_of
from allround.serving.writing import ChatWork, EmbeddingsWork

#: Most tokens of a reply, and as many as are written where nobody says.
MOST, USUAL = 2048, 256
#: The share of the deadline after which a reply is cut, so that what is written by then is given.
_SHARE = 0.8


def _whole(value: object) -> object:
    """JSON knows no difference between 12 and 12.0.

    >>> _whole(12.0), _whole(12.5)
    (12, 12.5)
    """
    return int(value) if isinstance(value, float) and value.is_integer() else value


_WHOLE = BeforeValidator(_whole)


class _Open(BaseModel):
    """Clients send more keys than are known here; they are left alone."""

    model_config = ConfigDict(strict=True)


class EmbeddingsBody(_Open):
    """Texts to embed."""

    model: str | None = None
    input: str | Annotated[list[str], Field(min_length=1, max_length=ROWS)]
    encoding_format: Literal["float", "base64"] = "float"


class TextPart(_Open):
    """A part of a message."""

    type: Literal["text"]
    text: str


class Message(_Open):
    """One message of a chat."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart]

    def plain(self) -> dict[str, str]:
        text = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        return {"role": "system" if self.role == "developer" else self.role, "content": text}


class ChatBody(_Open):
    """A chat that wants a reply. Without a temperature each token is the most probable one."""

    model: str | None = None
    messages: Annotated[list[Message], Field(min_length=1, max_length=200)]
    max_tokens: Annotated[int, Field(ge=1, le=MOST), _WHOLE] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1, le=MOST), _WHOLE] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    seed: Annotated[int, Field(ge=0, lt=2**53), _WHOLE] | None = None
    stop: str | Annotated[list[Annotated[str, Field(min_length=1)]], Field(max_length=4)] | None = None
    stream: bool = False
    n: Annotated[int, Field(ge=1, le=1), _WHOLE] | None = None

    def style(self, deadline: float) -> Style:
        stop = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())
        drawing = Drawing(self.temperature, self.top_p or 1.0, self.seed or 0) if self.temperature else None
        most = self.max_completion_tokens or self.max_tokens or USUAL
        return Style(most, tuple(text for text in stop if text), drawing, _SHARE * deadline)


#: What a chat is answered with where it asks for a stream.
STREAMED: dict[str, Any] = {"content": {"text/event-stream": {"schema": {}}}}


def add_openai(app: FastAPI, service: Service) -> None:
    """Add the routes to an application."""

    @app.get("/v1/models", summary="The models", tags=["openai"], responses=errors(401))
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [{"id": one.name, "object": "model", "created": 0, "owned_by": "allround"}
                                           for one in service.models]}  # fmt: skip

    @app.post("/v1/embeddings", summary="Vectors of texts", tags=["openai"], responses=REFUSALS,
              openapi_extra=schema_of(EmbeddingsBody))  # fmt: skip
    async def embeddings(request: Request) -> Response:
        body = read_body(EmbeddingsBody, await json_of(request), "embed texts")
        served = service.models.find(body.model)
        texts = [body.input] if isinstance(body.input, str) else body.input
        values, count = await service.ask(served, EmbeddingsWork(texts))
        plain = body.encoding_format == "float"
        data = [{"object": "embedding", "index": place,
                 "embedding": row.tolist() if plain else base64.b64encode(row.tobytes()).decode()}
                for place, row in enumerate(values)]  # fmt: skip
        usage = {"prompt_tokens": count, "total_tokens": count}
        return answer({"object": "list", "model": served.name, "data": data, "usage": usage})

    @app.post("/v1/chat/completions", summary="A reply of a language model", tags=["openai"],
              responses={**REFUSALS, 200: STREAMED}, openapi_extra=schema_of(ChatBody))  # fmt: skip
    async def chat(request: Request) -> Response:
        body = read_body(ChatBody, await json_of(request), "reply to a chat")
        served = service.models.find(body.model)
        messages, style = [one.plain() for one in body.messages], body.style(service.deadline)
        if body.stream:
            return await _streamed(service, served, messages, style)
        reply: Reply = await service.ask(served, ChatWork(messages, style))
        message = {"role": "assistant", "content": reply.text}
        return answer({
            **_head(served, "chat.completion"),
            "choices": [{"index": 0, "message": message, "finish_reason": _reason(reply), "logprobs": None}],
            "usage": {"prompt_tokens": reply.prompt, "completion_tokens": reply.tokens,
                      "total_tokens": reply.prompt + reply.tokens},
        })  # fmt: skip


def _head(served: Served, sort: str) -> dict[str, Any]:
    return {"id": f"chatcmpl-{uuid.uuid4().hex}", "object": sort, "created": int(time.time()), "model": served.name}


def _reason(reply: Reply) -> str:
    return "stop" if reply.ended else "length"


async def _streamed(
    service: Service, served: Served, messages: Sequence[dict[str, str]], style: Style
) -> StreamingResponse:
    """The pieces of a reply as they come. Errors that come before the first are those of any request."""
    loop = asyncio.get_running_loop()
    pieces: asyncio.Queue[str | None] = asyncio.Queue()
    work = ChatWork(messages, style, lambda text: loop.call_soon_threadsafe(pieces.put_nowait, text))
    asked = asyncio.ensure_future(service.ask(served, work))
    asked.add_done_callback(lambda _: pieces.put_nowait(None))
    first = await pieces.get()
    if first is None:
        await asked  # raises what stood in the way
    head = _head(served, "chat.completion.chunk")

    def chunk(delta: dict[str, str], reason: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": reason}
        return b"data: " + to_json({**head, "choices": [choice]}) + b"\n\n"

    async def chunks() -> AsyncIterator[bytes]:
        piece = first
        try:
            yield chunk({"role": "assistant", "content": ""})
            while piece is not None:
                yield chunk({"content": piece})
                piece = await pieces.get()
            try:
                yield chunk({}, _reason(await asked))
            except AllroundError:
                yield chunk({}, "length")  # the deadline cut it
            yield b"data: [DONE]\n\n"
        finally:
            work.gone.set()

    return StreamingResponse(chunks(), media_type="text/event-stream")
