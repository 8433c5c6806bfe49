"""What requests hold and responses give, as the OpenAPI schema shows it."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from allround.serving.refused import Refused

#: Most rows of a request.
ROWS = 32

_Whole = Annotated[int, Field(ge=-(2**53), le=2**53)]
_Number = Annotated[float, Field(allow_inf_nan=False)]
Cell = str | bool | _Whole | _Number | list[str] | None
_Texts = Annotated[list[str], Field(min_length=1, max_length=ROWS)]


class _Strict(BaseModel):
    """A body with these keys alone, whose values are of these types as they come."""

    model_config = ConfigDict(extra="forbid", strict=True)


class PredictBody(_Strict):
    """Rows, and the tasks that they are asked of."""

    model: str | None = Field(None, description="One of several models; by default the first.")
    inputs: _Texts | Annotated[list[dict[str, Cell]], Field(min_length=1, max_length=ROWS)] = Field(
        description="Texts, each the one input of a row; or an object of its columns for each row."
    )
    tasks: Annotated[list[str], Field(min_length=1)] | Literal["all"] | None = Field(
        None, description='Names of tasks, or "all". By default all; of a routed model the one that it finds.'
    )
    scores: bool = Field(False, description="Give the probability of each label too.")
    instruction: str | None = Field(
        None, description="What stands before the queries of the one task that ranks passages, in place of its own."
    )
    abstain: float | None = Field(None, ge=0, le=1, description="Give no answer whose confidence is below this.")


class ReloadBody(_Strict):
    """The folder of a new version; by default the one that is served, read again."""

    model: str | None = None
    folder: str | None = None


class TaskAnswer(BaseModel):
    """One task's answer to a row; null where it has none."""

    answer: str | float | list[str] | None
    confidence: float | None = None
    scores: dict[str, float] | list[dict[str, float]] | None = None
    abstained: bool | None = None


class TaskFoundAnswer(BaseModel):
    """Which task a row was found to be of."""

    task: str | None
    confidence: float


class PredictAnswers(BaseModel):
    """The answers, row by row, by the names of tasks. notes: why a row has none, or what in it is unusual."""

    model: str
    answers: list[dict[str, TaskAnswer]]
    notes: list[str | None]
    found: list[TaskFoundAnswer | None] | None = None


class TaskScore(BaseModel):
    """The score on the test rows of the build, with its 95% interval."""

    value: float
    low: float | None = None
    high: float | None = None
    rows: int | None = None


class TaskAbout(BaseModel):
    """What a client should know of a task. files: the inputs are files in base64, such as images."""

    name: str
    model: str
    kind: str
    inputs: list[str]
    modality: str
    labels: list[str]
    metric: str
    score: TaskScore | None
    files: bool


class TasksAnswer(BaseModel):
    """The tasks of all models."""

    tasks: list[TaskAbout]


class ReloadAnswer(BaseModel):
    """The version that answers now, and how it compares with the one before; nothing where there is no gate."""

    model: str
    folder: str
    tasks: list[str]
    compared: list[dict[str, str | float | int | None]]


class ErrorAbout(BaseModel):
    """What was asked, what was found, what to do."""

    message: str
    type: str
    asked: str
    found: str
    do: str


class ErrorAnswer(BaseModel):
    """Every error has this form."""

    error: ErrorAbout


B = TypeVar("B", bound=BaseModel)


def read_body(kind: type[B], body: bytes, asked: str) -> B:
    """A body in JSON. Errors: `Refused` with status 400."""
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))[:100].encode("ascii", "replace").decode()
        found = f"{where}: {first['msg']}" if where else str(first["msg"])
        raise Refused(400, asked, found[:300], "send JSON as /openapi.json describes it") from None


def schema_of(kind: type[BaseModel]) -> dict[str, Any]:
    """The request body of a route in OpenAPI, with nothing defined elsewhere."""
    schema = kind.model_json_schema()
    known = schema.pop("$defs", {})

    def whole(part: Any) -> Any:
        if isinstance(part, dict):
            name = part.get("$ref", "").removeprefix("#/$defs/")
            return whole(known[name]) if name else {key: whole(value) for key, value in part.items()}
        return [whole(one) for one in part] if isinstance(part, list) else part

    return {"requestBody": {"required": True, "content": {"application/json": {"schema": whole(schema)}}}}
