"""The options of training, taken from `Settings`: a field's name, its type, and its help from the docstring.

They are left out (`None`) where the user does not give them, so that the defaults of `Settings` hold.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from functools import wraps
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, get_type_hints

import typer
from typer.models import OptionInfo

from allround.cli.words import pairs_of
from allround.core import registry
from allround.core.errors import AllroundError
from allround.training.settings import Settings

if TYPE_CHECKING:
    from allround.tasks.suite import Suite

Command = TypeVar("Command", bound=Callable[..., object])
#: Settings of text encoders, by name.
EncoderSettings = Mapping[str, int | str]

#: Options of commands that train one model.
ALL = (
    "epochs",
    "batch_size",
    "learning_rate",
    "patience",
    "precision",
    "tune",
    "lora_rank",
    "heads",
    "sample",
    "mix",
    "balance",
    "share",
    "raw_scale",
    "flat",
    "accumulate",
    "task_rates",
    "batch_sizes",
    "restore_heads",
    "terms",
    "device",
)
#: Names on the command line that differ from the field's.
_NAMES = {
    "restore_heads": "restore_best_per_task",
    "task_rates": "task_rate",
    "batch_sizes": "task_batch",
    "terms": "term",
}
_KIND = inspect.Parameter.KEYWORD_ONLY
_TYPES: dict[str, type] = {"int": int, "float": float, "str": str, "bool": bool}
#: How the inputs of text encoders are read: (type, help) by option.
_ENCODER: dict[str, tuple[type, str]] = {
    "max_length": (int, "Most tokens of a text. Default: what the base was made for, up to 512."),
    "pairs": (str, "How pairs of texts are read: separate or joint."),
    "instructions": (str, "Whether vectors are pooled over the words of instructions too: pooled or masked."),
}


def training_options(
    *names: str,
    helps: Mapping[str, str] | None = None,
    defaults: Mapping[str, str] | None = None,
    reading: Sequence[str] = tuple(_ENCODER),
) -> Callable[[Command], Command]:
    """Give a command the options of these fields of `Settings`, and those of text encoders.

    The command takes `settings: Settings` and `encoder: EncoderSettings`; on the command line the options stand
    in the place of the two. helps, defaults: of fields for which they differ in this command. reading: those of text
    encoders that have a use in it.
    """
    doc, read = {**help_of(Settings), **(helps or {})}, {name: _ENCODER[name] for name in reading}
    of = {field.name: field for field in fields(Settings)}
    options = [_option(name, str(of[name].type), doc[name], (defaults or {}).get(name)) for name in names]
    options += [_parameter(name, type_ | None, typer.Option(help=text)) for name, (type_, text) in read.items()]

    def decorate(command: Command) -> Command:
        hints = get_type_hints(command, include_extras=True)
        parameters: list[inspect.Parameter] = []
        for parameter in inspect.signature(command).parameters.values():
            if parameter.name == "settings":
                parameters += options
            elif parameter.name != "encoder":
                parameters.append(parameter.replace(annotation=hints[parameter.name], kind=_KIND))

        @wraps(command)
        def run(**given: Any) -> object:
            settings = _settings({name: given.pop(_NAMES.get(name, name)) for name in names})
            values = {name: given.pop(name) for name in read}
            return command(**given, settings=settings, encoder={k: v for k, v in values.items() if v is not None})

        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {p.name: p.annotation for p in parameters}
        return run  # type: ignore[return-value]

    return decorate


def mitigated(settings: Settings, old: str | None) -> Settings:
    """Settings with the term `muscle` for an old version, if there is one."""
    return settings if old is None else settings.with_(terms={**settings.terms, "muscle": {"old": old}})


def taught(settings: Settings, teacher: str | None) -> Settings:
    """Settings with the term `distillation` for a teacher, if there is one."""
    if teacher is None:
        return settings
    return settings.with_(terms={**settings.terms, "distillation": {"teacher": teacher}})


def more_rows(
    suite: Suite, mine: int | None, teacher: str | None, base: str | None, seed: int, encoder: EncoderSettings
) -> Suite:
    """A suite with further training rows, where `--mine` asks for some."""
    if mine is None:
        return suite
    if teacher is None:
        raise AllroundError(f"mine {mine} pairs for each text", "no teacher is given that could answer them",
                            "give the folder of a model of the same task: --teacher FOLDER")  # fmt: skip
    from allround.building.mining import with_mined

    own = suite.own_base("mine pairs") if base is None else base
    return with_mined(suite, own, teacher, mine, seed=seed, encoder=encoder)


def help_of(class_: type) -> dict[str, str]:
    """The help of each field by the docstring: an entry begins with `name: `; its indented lines are left out.

    >>> help_of(Settings)["batch_size"]
    'Rows in a training step.'
    """
    found: dict[str, str] = {}
    name = None
    for line in inspect.cleandoc(class_.__doc__ or "").splitlines():
        entry = re.match(r"([a-z_]+): (.+)", line)
        if entry:
            name, found[entry[1]] = entry[1], entry[2]
        elif not line or re.match(r"[a-z_, ]+: ", line):
            name = None
        elif name is not None and not line.startswith(" "):
            found[name] += f" {line}"
    return found


def _option(field: str, type_: str, text: str, default: str | None) -> inspect.Parameter:
    name = _NAMES.get(field, field)
    plain = type_.removesuffix(" | None")
    if plain == "bool":
        return _parameter(name, bool, typer.Option(f"--{name.replace('_', '-')}", help=text), False)
    asked = list[str] if plain.startswith("dict") else _TYPES[plain]
    return _parameter(name, asked | None, typer.Option(help=text), default)


def _parameter(name: str, type_: object, option: OptionInfo, default: str | bool | None = None) -> inspect.Parameter:
    return inspect.Parameter(name, _KIND, default=default, annotation=Annotated[type_, option])


def _spelled(family: str, text: str) -> tuple[str, dict[str, object]]:
    if family != "share":
        return registry.spelled(family, text)
    from allround.building.alike import share_spelled

    return share_spelled(text)


def _settings(given: dict[str, Any]) -> Settings:
    """Settings with what was given; a flag that is not given, and a list without entries, change nothing."""
    for family in ("sample", "balance", "share"):
        if given.get(family) is not None:
            given[family], given[f"{family}_settings"] = _spelled(family, given[family])
    for field, type_ in {"task_rates": float, "batch_sizes": int}.items():
        if field in given:
            given[field] = pairs_of(given[field], f"--{_NAMES[field].replace('_', '-')}", type_)
    if "terms" in given:
        given["terms"] = dict(registry.spelled("term", text) for text in given["terms"] or ())
    flags = {name: value or None for name, value in given.items() if isinstance(value, bool | dict)}
    return Settings().with_(**(given | flags))
