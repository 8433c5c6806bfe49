"""Recipes of mergekit's: its YAML, read as mergekit 0.1.5 reads it, but strictly, and the merge that it means."""

from __future__ import annotations

import contextlib
import math
import re
import reprlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from allround.checkpoints.header import FLOATS
from allround.checkpoints.source import Source
from allround.checkpoints.tied import OUTPUT, config_of
from allround.core.errors import AllroundError, suggestion
from allround.core.files import check_name
from allround.merging import plan as planning
from allround.merging.plan import Output, Plan, make_plan
from allround.merging.recipe import Model, Recipe, Tokenizer
from allround.merging.stage import Reading, Stage, in_order
from allround.merging.vocabulary import check_template

_KEYS = (
    *("merge_method", "models", "slices", "modules", "base_model", "parameters", "dtype", "out_dtype"),
    *("tokenizer_source", "tokenizer", "chat_template", "name"),
)
#: What a configuration calls its number of layers.
_LAYER_COUNTS = (
    *("num_hidden_layers", "n_layer", "n_layers", "num_layers", "encoder_layers", "decoder_layers"),
    *("num_decoder_layers", "depth"),
)
_LAYER = re.compile(r"\.(\d+)\.")
#: Weights in front of the layers; all others outside of the layers come after them.
_FRONT = re.compile(r"(^|[._])(embed\w*|embeddings?|wte|wpe|shared|tok_embeddings|rotary\w*|relative_pe)([._]|$)")
#: Parameters of earlier versions, which 0.1.5 passes over.
_OLD = ("embed_slerp", "residual_weight")

Setting = Any
Settings = Mapping[str, Setting]


def is_mergekit(document: Any) -> bool:
    """Whether a document of a YAML file is a recipe of mergekit's.

    >>> is_mergekit({"merge_method": "ties"}), is_mergekit({"method": "ties"})
    (True, False)
    """
    return isinstance(document, dict) and "merge_method" in document


# --- What its methods are here -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Parameter:
    """A parameter of a method of mergekit's. each: with a value for each input."""

    kind: type
    default: Any = ...
    each: bool = False


@dataclass(frozen=True)
class _Values:
    """The parameters of the method here for one tensor, and which inputs have no part in it."""

    values: dict[str, Any]
    dropped: tuple[int, ...] = ()


Given = Mapping[str, Any]
Translate = Callable[[Given, Mapping[str, list[Any]]], _Values]


@dataclass(frozen=True)
class _Method:
    """What a method of mergekit's takes, and what it is here.

    base: whether a base model is `required`, `optional`, or an input as any other (`ignored`). least, most: inputs,
    the base among them. rounds: whether it rounds changes to the dtype of the inputs.
    """

    to: str
    translate: Translate
    parameters: Mapping[str, _Parameter]
    base: str = "required"
    least: int = 1
    most: int | None = None
    rounds: bool = True
    notes: tuple[str, ...] = ()


_WEIGHT = _Parameter(float, each=True)
_NO_EFFECT = ("int8_mask",)
_RANDOM = "the entries that are dropped are drawn by other random numbers than mergekit's, always the same ones"
_RESCALED = "what is left of a change gets the sum of magnitudes that it had (L1); the paper divides by the chance"
_ELECTED = "the weights are multiplied in before signs are elected; in the paper they have no part in that"


def _simple(**names: str) -> Translate:
    """Parameters that only have other names here: theirs -> ours."""

    def translate(shared: Given, each: Mapping[str, list[Any]]) -> _Values:
        return _Values({ours: shared[theirs] if theirs in shared else each[theirs] for theirs, ours in names.items()})

    return translate


def _task_vectors(mask: str, *, elect: bool) -> Translate:
    """The family base + lambda * sum of weighted, masked changes. mask: what drops entries."""

    def translate(shared: Given, each: Mapping[str, list[Any]]) -> _Values:
        weights, density = each["weight"], each["density"]
        values: dict[str, Any] = {"weights": weights, "scale": shared["lambda"], "normalize": shared["normalize"]}
        if mask == "none":
            return _Values(values)
        dropped = tuple(n for n, one in enumerate(density) if one <= 0)
        values["keep"] = [min(one, 1.0) if one > 0 else 1.0 for one in density]
        if mask != "largest":
            values["rescale"] = "l1" if shared["rescale"] else "none"
            values["elect"] = elect
        if mask == "outliers":
            values["outliers"] = [min(max(one, 0.0), 1.0) for one in each["gamma"]] if "gamma" in each else 0.0
        if mask == "ranks":
            for one, spread in zip(density, each["epsilon"], strict=True):
                if 0 < one < 1 and not 0 < one - spread <= one + spread < 1:
                    raise AllroundError(
                        f"drop entries with density {one} and epsilon {spread}",
                        "density - epsilon and density + epsilon must lie between 0 and 1",
                        "choose a smaller epsilon",
                    )
            values["spread"] = [s if 0 < one < 1 else 0.0 for one, s in zip(density, each["epsilon"], strict=True)]
        if dropped and not elect and shared["normalize"]:
            # What is dropped adds nothing, and its weight counts all the same.
            total = sum(weights)
            values["weights"] = [one / total if abs(total) >= 1e-8 else one for one in weights]
            values["normalize"] = False
        return _Values(values, dropped)

    return translate


def _sce(shared: Given, each: Mapping[str, list[Any]]) -> _Values:
    share = shared["select_topk"]
    return _Values({"keep": min(share, 1.0) if share > 0 else 1.0}, (-1,) if share <= 0 else ())


def _passthrough(shared: Given, each: Mapping[str, list[Any]]) -> _Values:
    return _Values({"scale": 1.0 if each["scale"][0] is None else each["scale"][0]})


def _family(
    more: Mapping[str, _Parameter] | None = None, *, normalize: bool = False, rescale: bool = False
) -> dict[str, _Parameter]:
    return {
        "weight": _WEIGHT,
        "density": _Parameter(float, 1.0, each=True),
        "lambda": _Parameter(float, 1.0),
        "normalize": _Parameter(bool, normalize),
        "rescale": _Parameter(bool, rescale),
        "int8_mask": _Parameter(bool, False),
        **(more or {}),
    }


_GAMMA = {"gamma": _Parameter(float, 0.01, each=True)}
_EPSILON = {"epsilon": _Parameter(float, 0.15, each=True)}

METHODS: dict[str, _Method] = {
    "linear": _Method(
        "average", _simple(weight="weights", normalize="normalize"),
        {"weight": _WEIGHT, "normalize": _Parameter(bool, True)}, base="ignored", rounds=False,
    ),
    "slerp": _Method("slerp", _simple(t="t"), {"t": _Parameter(float)}, least=2, most=2, rounds=False),
    "nuslerp": _Method(
        "nuslerp", _simple(weight="weights", nuslerp_row_wise="row_wise", nuslerp_flatten="flatten"),
        {"weight": _WEIGHT, "nuslerp_row_wise": _Parameter(bool, False), "nuslerp_flatten": _Parameter(bool, True)},
        base="optional", least=2, most=3,
    ),
    "multislerp": _Method(
        "multislerp", _simple(weight="weights", normalize_weights="normalize", eps="eps"),
        {"weight": _WEIGHT, "normalize_weights": _Parameter(bool, True), "eps": _Parameter(float, 1e-8)},
        base="optional",
    ),
    "karcher": _Method(
        "karcher", _simple(max_iter="steps", tol="tolerance"),
        {"max_iter": _Parameter(int, 10), "tol": _Parameter(float, 1e-5)}, base="ignored", rounds=False,
    ),
    "passthrough": _Method(
        "passthrough", _passthrough, {"scale": _Parameter(float, None, each=True)}, base="ignored", most=1,
        rounds=False,
    ),
    "model_stock": _Method(
        "model_stock", _simple(filter_wise="filter_wise"), {"filter_wise": _Parameter(bool, False)}, least=3
    ),
    "arcee_fusion": _Method("arcee_fusion", _simple(), {}, least=2, most=2),
    "nearswap": _Method("nearswap", _simple(t="t"), {"t": _Parameter(float)}, least=2, most=2, rounds=False),
    "sce": _Method("sce", _sce, {"select_topk": _Parameter(float, 1.0), "int8_mask": _Parameter(bool, False)}),
    "ram": _Method("ram", _simple(epsilon="epsilon"), {"epsilon": _Parameter(float, 1e-5)}),
    "ramplus_tl": _Method(
        "ram", _simple(epsilon="epsilon", r="boost", alpha="limit"),
        {"epsilon": _Parameter(float, 1e-5), "r": _Parameter(float, 0.1), "alpha": _Parameter(float, 0.2)},
        notes=("entries are counted within each tensor; the paper counts over the whole model",),
    ),
    "task_arithmetic": _Method("task_arithmetic", _task_vectors("none", elect=False), _family()),
    "ties": _Method(
        "ties", _task_vectors("largest", elect=True), _family(normalize=True),
        notes=(_ELECTED, "changes are trimmed within each tensor; the paper trims over the whole model"),
    ),
    "dare_ties": _Method(
        "dare", _task_vectors("chance", elect=True), _family(rescale=True),
        notes=(_RESCALED, _ELECTED, "signs are elected among what is left at random; the authors also trim", _RANDOM),
    ),
    "dare_linear": _Method(
        "dare", _task_vectors("chance", elect=False), _family(rescale=True), notes=(_RESCALED, _RANDOM)
    ),
    "breadcrumbs": _Method("breadcrumbs", _task_vectors("outliers", elect=False), _family(_GAMMA)),
    "breadcrumbs_ties": _Method(
        "breadcrumbs", _task_vectors("outliers", elect=True), _family(_GAMMA), notes=(_ELECTED,)
    ),
    "della": _Method(
        "della", _task_vectors("ranks", elect=True), _family(_EPSILON, normalize=True, rescale=True),
        notes=(_RESCALED, _ELECTED, _RANDOM),
    ),
    "della_linear": _Method(
        "della", _task_vectors("ranks", elect=False), _family(_EPSILON, rescale=True), notes=(_RESCALED, _RANDOM)
    ),
}  # fmt: skip
#: ties with `rescale`, which the method has not: breadcrumbs that leave out no outliers are the same.
_RESCALED_TIES = replace(METHODS["ties"], to="breadcrumbs", translate=_task_vectors("outliers", elect=True))
#: What it is where there is one input only: itself.
_ALONE = _Method("passthrough", lambda shared, each: _Values({"scale": 1.0}), {}, base="ignored", rounds=False)
_ALL_PARAMETERS = sorted({name for about in METHODS.values() for name in about.parameters})


# --- Values that depend on the tensor ----------------------------------------------------------------------------


def _scalar(value: Any) -> bool:
    return isinstance(value, (bool, int, float, str))


def evaluate(setting: Setting, name: str, t: float, check: Callable[[Any], Any]) -> Any:
    """A parameter's value for one tensor; None where the setting says nothing of it.

    setting: a value, a gradient (a list of values, of which t in [0, 1] is the place), or a list of {filter, value}.
    check: makes a value one of the parameter's type.

    >>> evaluate([{"filter": "mlp", "value": [0, 1]}, {"value": 0.5}], "layers.1.mlp", 0.25, float)
    0.25
    """
    if isinstance(setting, dict):
        setting = [setting]
    if not isinstance(setting, list):
        return check(setting)
    if setting and isinstance(setting[0], dict):
        for one in setting:
            wanted = one.get("filter")
            if wanted in (None, "*") or wanted in name:
                return evaluate(one["value"], name, t, check)
        return None
    if not setting:
        return None
    values = [check(one) for one in setting]
    place = t * (len(values) - 1)
    if any(isinstance(one, (bool, str)) for one in values):
        return values[int(place)]
    low = int(place)
    high, share = min(low + 1, len(values) - 1), place - low
    return check((1 - share) * values[low] + share * values[high])


def _check_setting(reading: Reading, setting: Any, where: str, check: Callable[[Any], Any] | None) -> None:
    """An error unless it is a value, a gradient, or a list of {filter, value}, of the right type."""
    if isinstance(setting, dict):
        setting = [setting]
    if isinstance(setting, list) and any(isinstance(one, dict) for one in setting):
        for number, one in enumerate(setting):
            here = f"{where}[{number}]"
            about = reading.mapping(one, here, ("filter", "value"))
            if about.get("filter") is not None:
                reading.text(about["filter"], f"{here}.filter")
            if isinstance(about.get("value"), dict) or "value" not in about:
                raise reading.wrong(f"{here}.value", "there is no value", "add `value`: a number, or a list of them")
            _check_setting(reading, about["value"], f"{here}.value", check)
        return
    for number, one in enumerate(setting if isinstance(setting, list) else [setting]):
        here = f"{where}[{number}]" if isinstance(setting, list) else where
        if not _scalar(one):
            raise reading.wrong(here, f"{reprlib.repr(one)}, and it should be a value", "write a number, or true or "
                                "false")  # fmt: skip
        if check is not None:
            with reading.at(here):
                check(one)


def _checker(name: str, parameter: _Parameter) -> Callable[[Any], Any]:
    """What makes a value one of the parameter's type; numbers in quotes are numbers, and `yes` is true."""
    adapter: TypeAdapter[Any] = TypeAdapter(parameter.kind)

    def check(value: Any) -> Any:
        try:
            found = adapter.validate_python(value)
            if parameter.kind is not float or math.isfinite(found):
                return found
            raise AllroundError(f"set '{name}'", f"{value} is not a finite number", "write a number")
        except ValidationError:
            wanted = {float: "a number", int: "a whole number", bool: "true or false"}[parameter.kind]
            raise AllroundError(
                f"set '{name}'", f"{reprlib.repr(value)}, and it should be {wanted}", f"write {wanted}"
            ) from None

    return check


# --- Reading -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Part:
    """An input of a slice. layers: of this model, from and to; None: all."""

    model: Model
    parameters: Settings
    layers: tuple[int, int] | None = None


@dataclass(frozen=True)
class _Slice:
    """Layers of the output that are merged from the same inputs."""

    parts: tuple[_Part, ...]
    base: Model | None
    parameters: Settings


class _File:
    """Reads one document."""

    def __init__(self, reading: Reading, document: Any) -> None:
        self.reading = reading
        self.about = reading.mapping(document, "", _KEYS)
        self.about = {key: value for key, value in self.about.items() if value is not None}
        self.notes: list[str] = []
        self.overrides: dict[Model, str] = {}
        name = reading.text(self.about.get("merge_method"), "merge_method")
        if name not in METHODS:
            raise reading.wrong("merge_method", f"mergekit has no method '{name}'", suggestion(name, METHODS))
        self.name = name
        self.method = METHODS[name]
        self.unused: dict[str, None] = {}
        self.base = self.model(self.about["base_model"], "base_model") if "base_model" in self.about else None
        self.parameters = self.settings(self.about.get("parameters"), "parameters")
        self.module: Settings = {}
        self.sliced = False
        self.slices = self.read_slices()
        if name == "ties" and any("rescale" in scope for scope in self.all_scopes()):
            self.method = _RESCALED_TIES
        for number, one in enumerate(self.slices):
            self.check(one, f"slices[{number}]" if self.sliced else "models")

    # References to models

    def model(self, value: Any, where: str) -> Model:
        reading = self.reading
        override = None
        lora: Any = None
        if isinstance(value, dict):
            about = reading.mapping(value, where, ("model", "lora", "override_architecture"))
            if "model" not in about:
                raise reading.wrong(f"{where}.model", "it is missing", "add `model`, a path or Hub id")
            if about.get("override_architecture") is not None:
                override = reading.text(about["override_architecture"], f"{where}.override_architecture")
            lora, value = about.get("lora"), about["model"]
            found = Model(self.path(value, f"{where}.model"), (self.path(lora, f"{where}.lora"),) if lora else ())
        else:
            text = reading.text(value, where)
            first, *adapters = [text] if self.is_there(text) else text.split("+")
            if len(adapters) > 1:
                raise reading.wrong(where, f"'{text}' has more than one '+'", "give one adapter; merge others before")
            found = Model(self.path(first, where), tuple(self.path(one, where) for one in adapters))
        if override is not None:
            self.overrides[found] = override
        return found

    def path(self, value: Any, where: str) -> str:
        """A path or Hub id; a Hub id may have a revision, which stays with it: `id@revision`."""
        reading, revision = self.reading, None
        if isinstance(value, dict):
            about = reading.mapping(value, where, ("path", "revision"))
            text = reading.text(about.get("path"), f"{where}.path")
            if about.get("revision") is not None:
                revision = reading.text(about["revision"], f"{where}.revision")
        else:
            text = reading.text(value, where)
            if "@" in text and not self.is_there(text):
                text, *rest = text.split("@")
                if len(rest) > 1:
                    raise reading.wrong(where, f"'{value}' has more than one '@'", "write path@revision")
                revision = reading.text(rest[0], where)
        found = reading.path(text, where)
        if revision is None:
            return found
        if text in reading.stages or found != text or self.is_there(text) or text.startswith((".", "/", "~")):
            raise reading.wrong(
                where, f"the revision '{revision}' of the local folder '{text}'",
                "revisions are of Hub ids; leave it out here",
            )  # fmt: skip
        return f"{text}@{revision}"

    def is_there(self, text: str) -> bool:
        with contextlib.suppress(OSError, ValueError, RuntimeError):
            return (self.reading.folder / text).exists() or Path(text).exists()
        return False

    # Parameters

    def settings(self, value: Any, where: str) -> Settings:
        if value is None:
            return {}
        about = self.reading.mapping(value, where)
        for name, setting in about.items():
            if name not in _ALL_PARAMETERS and name not in _OLD:
                raise self.reading.wrong(f"{where}.{name}", "mergekit has no such parameter", suggestion(
                    name, self.method.parameters or _ALL_PARAMETERS))  # fmt: skip
            parameter = self.method.parameters.get(name)
            if parameter is None or name in _NO_EFFECT or (name == "density" and self.name == "task_arithmetic"):
                self.unused.setdefault(name)
            check = _checker(name, parameter) if parameter is not None else None
            _check_setting(self.reading, setting, f"{where}.{name}", check)
        return about

    def all_scopes(self) -> Iterator[Settings]:
        for one in self.slices:
            yield from (part.parameters for part in one.parts)
            yield one.parameters
        yield from (self.module, self.parameters)

    # Inputs

    def read_slices(self) -> tuple[_Slice, ...]:
        given = [key for key in ("models", "slices", "modules") if self.about.get(key)]
        if len(given) != 1:
            found = f"{' and '.join(given)} together" if given else "no inputs"
            raise self.reading.wrong("", found, "give exactly one of `models`, `slices` and `modules`")
        if given == ["modules"]:
            return self.read_module(self.about["modules"])
        return self.read_inputs(self.about, "")

    def read_module(self, value: Any) -> tuple[_Slice, ...]:
        modules = self.reading.mapping(value, "modules")
        if len(modules) > 1:
            raise self.reading.wrong(
                "modules", f"there are {len(modules)} of them: {', '.join(modules)}",
                "merge models with several modules with `models`, or each by a recipe of its own",
            )  # fmt: skip
        (name, one) = next(iter(modules.items()))
        where = f"modules.{name}"
        about = self.reading.mapping(one, where, ("slices", "models", "parameters"))
        if bool(about.get("slices")) == bool(about.get("models")):
            raise self.reading.wrong(where, "it has no inputs, or both kinds", "give `models` or `slices`")
        self.module = self.settings(about.get("parameters"), f"{where}.parameters")
        return self.read_inputs(about, f"{where}.")

    def read_inputs(self, about: Mapping[str, Any], where: str) -> tuple[_Slice, ...]:
        if about.get("models"):
            listed = self.reading.listing(about["models"], f"{where}models")
            parts = [self.part(one, f"{where}models[{n}]", sliced=False) for n, one in enumerate(listed)]
            if self.base is not None and all(part.model != self.base for part in parts):
                parts.append(_Part(self.base, {}))
            return (_Slice(tuple(parts), self.base, {}),)
        self.sliced = True
        listed = self.reading.listing(about["slices"], f"{where}slices")
        return tuple(self.slice(one, f"{where}slices[{number}]") for number, one in enumerate(listed))

    def slice(self, value: Any, where: str) -> _Slice:
        about = self.reading.mapping(value, where, ("sources", "base_model", "parameters", "residual_weight"))
        if about.get("residual_weight") is not None:
            self.unused.setdefault("residual_weight")
        listed = self.reading.listing(about.get("sources"), f"{where}.sources")
        parts = tuple(self.part(one, f"{where}.sources[{n}]", sliced=True) for n, one in enumerate(listed))
        lengths = {part.layers[1] - part.layers[0] for part in parts if part.layers}
        if len(lengths) > 1:
            raise self.reading.wrong(
                f"{where}.sources", f"they have different numbers of layers: {', '.join(map(str, sorted(lengths)))}",
                "give ranges of one length",
            )  # fmt: skip
        base = about.get("base_model")
        return _Slice(
            parts,
            self.base if base is None else self.model(base, f"{where}.base_model"),
            self.settings(about.get("parameters"), f"{where}.parameters"),
        )

    def part(self, value: Any, where: str, *, sliced: bool) -> _Part:
        known = ("model", "layer_range", "parameters") if sliced else ("model", "parameters")
        about = self.reading.mapping(value, where, known)
        if about.get("model") is None:
            raise self.reading.wrong(f"{where}.model", "it is missing", "add `model`, a path or Hub id")
        return _Part(
            self.model(about["model"], f"{where}.model"),
            self.settings(about.get("parameters"), f"{where}.parameters"),
            self.layers(about.get("layer_range"), f"{where}.layer_range") if sliced else None,
        )

    def layers(self, value: Any, where: str) -> tuple[int, int]:
        ends = self.reading.listing(value, where)
        if len(ends) != 2:
            raise self.reading.wrong(where, f"{reprlib.repr(value)}", "give two numbers: the first layer, and the one "
                                     "after the last")  # fmt: skip
        first, last = (self.reading.whole(one, where) for one in ends)
        if first >= last:
            raise self.reading.wrong(where, f"[{first}, {last}] holds no layer", "give the first layer, and the one "
                                     "after the last")  # fmt: skip
        return first, last

    # What fits together

    def check(self, one: _Slice, where: str) -> None:
        reading, method, models = self.reading, self.method, [part.model for part in one.parts]
        twice = next((model for n, model in enumerate(models) if model in models[:n]), None)
        if twice is not None:
            raise reading.wrong(where, f"{twice} is in it twice", "list each model once")
        base = one.base if method.base != "ignored" else None
        if base is None and method.base == "required":
            raise reading.wrong("base_model", f"it is missing, and '{self.name}' needs it", "add `base_model`")
        if base is not None and base not in models:
            raise reading.wrong(where, f"the base model {base} is not among the sources", "add it to them")
        least = max(method.least, 3 if self.name == "nuslerp" and base is not None else 0)
        most = 2 if self.name == "nuslerp" and base is None else method.most
        if len(models) < least or (most is not None and len(models) > most):
            wanted = f"{least}" if least == most else f"at least {least}" if most is None else f"{least} to {most}"
            raise reading.wrong(
                where, f"there are {len(models)} models (the base among them), and '{self.name}' takes {wanted}",
                "list as many as it takes",
            )  # fmt: skip
        for name, parameter in method.parameters.items():
            if parameter.default is not ...:
                continue
            shared = [one.parameters, self.module, self.parameters]
            inputs = [part for part in one.parts if part.model != base] if parameter.each else []
            for scopes, who in [([part.parameters, *shared], f" for {part.model}") for part in inputs] or [
                (shared, "")
            ]:
                if not any(name in scope for scope in scopes) and (inputs or not parameter.each):
                    raise reading.wrong(
                        f"parameters.{name}", f"'{self.name}' needs it, and there is none{who}", f"add `{name}`"
                    )

    def stage(self, name: str, *, rounded: bool) -> Stage:
        reading, about = self.reading, self.about
        dtypes = {key: reading.dtype(about[key], key) for key in ("dtype", "out_dtype") if key in about}
        method = self.method
        bases = {one.base for one in self.slices} if method.base != "ignored" else {None}
        if len(bases) > 1 or (self.base is not None and method.base != "ignored" and bases != {self.base}):
            raise reading.wrong(
                "slices", "they have different base models", "give all slices one `base_model`, or merge in stages"
            )
        base = next(iter(bases))
        first = [self.base] if self.base is not None and base is None else []
        listed = [*first, *(part.model for one in self.slices for part in one.parts)]
        models = tuple(model for model in dict.fromkeys(listed) if model != base)
        if all(len(one.parts) == 1 for one in self.slices) and self.name != "linear":
            method = _ALONE if self.name != "passthrough" else method
            models, base = (models or tuple(dict.fromkeys(listed))), None
        self.describe(base or models[0])
        tokenizer = self.tokenizer()
        if tokenizer is not None and base is None and self.base is not None:
            tokenizer = replace(tokenizer, prefer=self.base)
        donor = base or models[0]
        config = {"architectures": [self.overrides[donor]]} if donor in self.overrides else {}
        template = reading.text(about["chat_template"], "chat_template") if "chat_template" in about else None
        if template is not None:
            with reading.at("chat_template"):
                check_template(template, "the chat template")
        written = dtypes.get("out_dtype", dtypes.get("dtype"))
        inputs = (*([base] if base else []), *models)
        layout = _Layout(
            method, self.slices, self.module, self.parameters, inputs, sliced=self.sliced, dtype=dtypes.get("dtype"),
            written=written, rounded=rounded, asked=reading.asked,
        )  # fmt: skip
        with reading.at(""):
            recipe = Recipe(
                method.to, models, base, dtype=written, tokenizer=tokenizer,
                chat_template=template, config=config, mixed=self.sliced,
            )  # fmt: skip
        return Stage(name, recipe, tuple(self.notes), reading.used_stages(), layout)

    def tokenizer(self) -> Tokenizer | None:
        reading, about = self.reading, self.about
        if "tokenizer" in about and "tokenizer_source" in about:
            raise reading.wrong("tokenizer", "`tokenizer_source` is there as well", "keep one of them")
        key = "tokenizer" if "tokenizer" in about else "tokenizer_source"
        return reading.tokenizer(about[key], key, self.model) if key in about else None

    def describe(self, donor: Model) -> None:
        """Note what the user should know."""
        self.notes.extend(f"{self.name}: {note}" for note in self.method.notes)
        for name in self.unused:
            kind = "" if name in self.method.parameters else " in mergekit, too"
            self.notes.append(f"{name}: it has no effect on the numbers of '{self.name}'{kind}")
        if self.base is None:
            self.notes.append(
                f"the configuration and the tokenizer are those of {donor}, which is listed first; mergekit takes any "
                "of the models"
            )


def translate(documents: Sequence[Any], reading: Reading, *, name: str, rounded: bool) -> list[Stage]:
    """The stages that the documents of a file describe. rounded: round inputs and changes as mergekit does."""
    names: list[str] = []
    for number, document in enumerate(documents):
        about = reading.mapping(document, f"document {number + 1}" if len(documents) > 1 else "")
        if "merge_method" not in about:
            raise reading.wrong(f"document {number + 1}", "it has no `merge_method`", "add it, or leave the document "
                                "out")  # fmt: skip
        given = about.get("name")
        if given is not None and len(documents) > 1:
            with reading.at("name"):
                check_name(reading.text(given, "name"), "merge")
        names.append(given if isinstance(given, str) and len(documents) > 1 else name)
    if twice := next((one for n, one in enumerate(names) if one in names[:n]), None):
        raise reading.wrong("name", f"two of the merges are called '{twice}'", "give each `name` once")
    reading.stages = tuple(names) if len(documents) > 1 else ()
    stages = [_File(reading, one).stage(own, rounded=rounded) for one, own in zip(documents, names, strict=True)]
    unnamed = [stage for stage, one in zip(stages, documents, strict=True) if one.get("name") is None]
    if len(stages) > 1 and unnamed:
        stages.sort(key=lambda stage: stage is unnamed[0])
    return in_order(stages, reading.asked)


# --- Laying out --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Place:
    """Where a weight lies: in which stack of layers and at which, and what follows its number; or outside of them."""

    stack: str = ""
    layer: int = -1
    rest: str = ""


class _Stacks:
    """The stacks of layers of a model, by its weights' names and its configuration."""

    def __init__(self, source: Source) -> None:
        self.source = source
        counts: dict[str, int] = {}
        for name in source:
            if match := _LAYER.search(name):
                counts[name[: match.start()]] = max(counts.get(name[: match.start()], 0), int(match.group(1)) + 1)
        self.config = config_of(source)
        parts = {"": self.config, **{k: part for k, part in self.config.items() if isinstance(part, dict)}}
        self.keys = {
            f"{part}.{key}".lstrip("."): about[key]
            for part, about in parts.items() for key in _LAYER_COUNTS if type(about.get(key)) is int
        }  # fmt: skip
        trusted = {stack: count for stack, count in counts.items() if count in self.keys.values()}
        self.counts = trusted or counts

    def place(self, name: str) -> _Place:
        match = _LAYER.search(name)
        if match and name[: match.start()] in self.counts:
            return _Place(name[: match.start()], int(match.group(1)), name[match.end() :])
        return _Place()

    def t(self, name: str) -> float:
        """How far up in its stack a weight lies, from 0 to 1; outside of the layers 0."""
        place = self.place(name)
        if place.layer < 0:
            return 0.0
        return _t(place.layer, self.counts[place.stack])

    def main(self, asked: str) -> str:
        """The stack that slices are of."""
        stacks = [stack for stack in self.counts if not re.search("vis|image|audio", stack)]
        if len(stacks) != 1:
            found = f"{len(stacks)} stacks of layers: {', '.join(sorted(stacks))}" if stacks else "no layers"
            raise AllroundError(asked, f"{self.source.path} has {found}", "slices are for models with one stack")
        return stacks[0]

    def main_keys(self, stack: str) -> list[str]:
        """The keys of the configuration that hold the number of a stack's layers."""
        found = [key for key, value in self.keys.items() if value == self.counts[stack]]
        return [key for key in found if not re.search("vis|image|audio", key)]


def _t(layer: int, layers: int) -> float:
    return layer / (layers - 1) if layers > 1 else 1.0


@dataclass(frozen=True)
class _Layout:
    """Makes the plan of a recipe when the models' headers can be read: which tensor, from what, by which values.

    inputs: the recipe's base (if it has one) and models, as the slices name them. dtype: that inputs are cast to.
    written: the dtype of the output; None: the one that all inputs of a tensor go into.
    """

    method: _Method
    slices: tuple[_Slice, ...]
    module: Settings
    parameters: Settings
    inputs: tuple[Model, ...]
    sliced: bool
    dtype: str | None
    written: str | None
    rounded: bool
    asked: str

    def __call__(self, recipe: Recipe) -> Plan:
        recipe = _fetched(recipe)
        base = planning.open_model(recipe.base, None) if recipe.base else None
        models = [planning.open_model(model, base) for model in recipe.models]
        sources = planning.untie([base, *models] if base is not None else models)
        work = _Work(self, base is not None, sources)
        outputs = work.stacked() if self.sliced else work.same()
        config = {**work.config, **recipe.config}
        recipe = replace(recipe, values=_common(outputs), round_to=self._round_to(sources), config=config)
        waiting = iter(sources)
        return make_plan(recipe, outputs=outputs, opener=lambda model, base: next(waiting))

    def _round_to(self, sources: Sequence[Source]) -> str | None:
        """What mergekit rounds to: the dtype it casts inputs to, or the one that all of them go into."""
        if not self.rounded:
            return None
        stored = {_stored(source, name) for source in sources for name in source} & set(FLOATS)
        wanted = self.dtype or (_promoted(stored) if self.method.rounds and stored else None)
        if wanted is None or wanted == "F64" or (wanted == "F32" and "F64" not in stored):
            return None
        return wanted if self.method.rounds or stored != {wanted} else None


def _fetched(recipe: Recipe) -> Recipe:
    """The recipe with a local folder for each Hub id that has a revision."""

    def fetch(path: str) -> str:
        name, _, revision = path.rpartition("@")
        if not name or Path(path).exists():
            return path
        from allround.models.base import download

        return str(download(name, revision=revision))

    def model(one: Model) -> Model:
        return Model(fetch(one.path), tuple(map(fetch, one.adapters)))

    tokenizer = recipe.tokenizer
    if tokenizer is not None:
        source = tokenizer.source if isinstance(tokenizer.source, str) else model(tokenizer.source)
        tokens = {
            text: replace(token, source=model(token.source) if token.source else None)
            for text, token in tokenizer.tokens.items()
        }
        prefer = model(tokenizer.prefer) if tokenizer.prefer else None
        tokenizer = replace(tokenizer, source=source, tokens=tokens, prefer=prefer)
    base = model(recipe.base) if recipe.base else None
    return replace(recipe, base=base, models=tuple(map(model, recipe.models)), tokenizer=tokenizer)


class _Work:
    """Lays out the tensors of one plan."""

    def __init__(self, layout: _Layout, has_base: bool, sources: Sequence[Source]) -> None:
        self.layout, self.sources = layout, sources
        self.stacks = [_Stacks(source) for source in sources]
        self.numbers = {model: number for number, model in enumerate(layout.inputs)}
        self.base = layout.inputs[0] if has_base else None
        self.count = len(sources) - has_base
        self.config: dict[str, Any] = {}
        self.checks = {name: _checker(name, about) for name, about in layout.method.parameters.items()}

    def same(self) -> list[Output]:
        """The tensors of the base, or of the first model."""
        (only,) = self.layout.slices
        outputs = []
        for name in self.sources[0]:
            plain = planning._same_output(self.sources[0], name, self.base is not None, self.count)
            names = {part.model: name for part in only.parts}
            outputs.append(self.output(name, plain.file, plain.key, only, names, self.stacks[0].t(name)))
        return outputs

    def stacked(self) -> list[Output]:
        """Layers of the inputs, one upon the other; what lies before them as in the first slice, and else as in the
        last."""
        asked, slices = self.layout.asked, self.layout.slices
        layers = self.stacked_layers(asked)
        self.rewrite_config(asked, len(layers))
        outputs = []
        for one, front in ((slices[0], True), (slices[-1], False)):
            stacks = self.of(one.parts[0])
            for name in stacks.source:
                place = stacks.place(name)
                outside = place.stack != stacks.main(asked)
                if outside and front == (bool(_FRONT.search(name)) and not OUTPUT.search(name)):
                    outputs.append(self.output(name, "", name, one, {part.model: name for part in one.parts}, 0.0))
            if front:
                outputs.extend(self.layer_outputs(layers))
        return outputs

    def of(self, part: _Part) -> _Stacks:
        return self.stacks[self.numbers[part.model]]

    def stacked_layers(self, asked: str) -> list[tuple[_Slice, int, float]]:
        """The layers of the output: their slice, which one of it, and t."""
        layers: list[tuple[_Slice, int, float]] = []
        for one in self.layout.slices:
            for part in one.parts:
                stacks = self.of(part)
                assert part.layers is not None
                if part.layers[1] > stacks.counts[stacks.main(asked)]:
                    raise AllroundError(
                        asked,
                        f"a slice takes the layers {list(part.layers)} of {part.model}, which has "
                        f"{stacks.counts[stacks.main(asked)]}",
                        "give ranges that the models have",
                    )
            assert one.parts[0].layers is not None
            length = one.parts[0].layers[1] - one.parts[0].layers[0]
            layers.extend((one, offset, _t(offset, length)) for offset in range(length))
        return layers

    def layer_outputs(self, layers: Sequence[tuple[_Slice, int, float]]) -> Iterator[Output]:
        asked = self.layout.asked
        stack = self.of(self.layout.slices[0].parts[0]).main(asked)
        for number, (one, offset, t) in enumerate(layers):
            first = one.parts[0]
            assert first.layers is not None
            for name in self.of(first).source:
                place = self.of(first).place(name)
                if place.stack != self.of(first).main(asked) or place.layer != first.layers[0] + offset:
                    continue
                names = {
                    part.model: f"{self.of(part).main(asked)}.{part.layers[0] + offset}.{place.rest}"
                    for part in one.parts if part.layers
                }  # fmt: skip
                new = f"{stack}.{number}.{place.rest}"
                yield self.output(new, "", new, one, names, t)

    def rewrite_config(self, asked: str, layers: int) -> None:
        stacks = self.stacks[0]
        for key in stacks.main_keys(stacks.main(asked)):
            self.config[key] = layers
        kinds = [
            (self.of(one.parts[0]).config.get("layer_types") or [None] * (offset + 1), one, offset)
            for one, offset, _ in self.stacked_layers(asked)
        ]
        listed = [
            types[one.parts[0].layers[0] + offset]
            for types, one, offset in kinds if one.parts[0].layers and len(types) > one.parts[0].layers[0] + offset
        ]  # fmt: skip
        if len(listed) == layers and None not in listed:
            self.config["layer_types"] = listed

    def output(
        self, name: str, file: str, key: str, one: _Slice, names: Mapping[Model, str], t: float
    ) -> Output:  # fmt: skip
        others = [part for part in one.parts if part.model != self.base]
        shared = [one.parameters, self.layout.module, self.layout.parameters]
        try:
            given = {
                which: self.resolve(which, about, shared, name, t)
                for which, about in self.layout.method.parameters.items()
                if not about.each
            }
            each = {
                which: [
                    self.resolve(which, about, [part.parameters, *shared], names[part.model], t) for part in others
                ]
                for which, about in self.layout.method.parameters.items() if about.each
            }  # fmt: skip
            found = self.layout.method.translate(given, each)
        except AllroundError as error:
            raise AllroundError(
                self.layout.asked, f"for the tensor '{name}': {error.found} ({error.asked})", error.do
            ) from None
        at = self.base is not None
        place = [self.numbers[part.model] - at for part in others]
        dropped = set(range(len(others))) if -1 in found.dropped else set(found.dropped)
        models: list[str | None] = [None] * self.count
        for position, part in enumerate(others):
            if position not in dropped:
                models[place[position]] = names[part.model]
        values = {which: self.spread(value, place) for which, value in found.values.items()}
        base = names.get(self.base) if self.base is not None else None
        return Output(name, file, key, base, tuple(models), values, self.dtype(one, names))

    def spread(self, value: Any, place: Sequence[int]) -> Any:
        """A value for each input as one for each of the recipe's models; one for all where they are the same."""
        if not isinstance(value, list):
            return value
        if len(set(value)) == 1:
            return value[0]
        spread: list[Any] = [1.0] * self.count
        for number, one in zip(place, value, strict=True):
            spread[number] = one
        return spread

    def resolve(self, which: str, about: _Parameter, scopes: Iterable[Settings], name: str, t: float) -> Any:
        for scope in scopes:
            if which in scope:
                value = evaluate(scope[which], name, t, self.checks[which])
                if value is not None:
                    return value
        if about.default is ...:
            raise AllroundError(f"set '{which}'", "no filter fits it, and it has no default", "add a value for all")
        return about.default

    def dtype(self, one: _Slice, names: Mapping[Model, str]) -> str | None:
        """The dtype that the inputs of a tensor go into, unless the recipe names one."""
        sources = [(self.sources[self.numbers[part.model]], names[part.model]) for part in one.parts]
        stored = {_stored(source, name) for source, name in sources if name in source} & set(FLOATS)
        return _promoted(stored) if stored and self.layout.written is None else None


def _promoted(dtypes: Iterable[str]) -> str:
    """The dtype that all go into.

    >>> _promoted(["F16", "BF16"])
    'F32'
    """
    found = set(dtypes)
    return "F64" if "F64" in found else "F32" if len(found) > 1 else next(iter(found))


def _stored(source: Source, name: str) -> str:
    """The dtype of a weight; with an adapter on it that of the model under it, as if both were saved as one."""
    inner = getattr(source, "inner", None)
    return _stored(inner, name) if inner is not None and name in inner else source.dtype(name)


def _common(outputs: Sequence[Output]) -> dict[str, Any]:
    """The values that all tensors have."""
    first = dict(outputs[0].values or {}) if outputs else {}
    return {k: v for k, v in first.items() if all((o.values or {}).get(k) == v for o in outputs)}
