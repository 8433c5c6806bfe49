"""What mergekit's methods are here: their parameters, and the method and values that mean the same."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import EllipsisType
from typing import Any

from allround.core.errors import AllroundError

#: What a parameter can be.
Scalar = bool | int | float | str


@dataclass(frozen=True)
class Parameter:
    """A parameter of a method of mergekit's. each: with a value for each input."""

    kind: type
    default: Scalar | EllipsisType | None = ...
    each: bool = False


@dataclass(frozen=True)
class Values:
    """The parameters of the method here for one tensor, and which inputs have no part in it."""

    values: dict[str, Scalar | list[float]]
    dropped: tuple[int, ...] = ()


#: Values for all inputs, by parameter; and those for each.
Shared = Mapping[str, Any]
Each = Mapping[str, list[Any]]
Translate = Callable[[Shared, Each], Values]


@dataclass(frozen=True)
class Method:
    """What a method of mergekit's takes, and what it is here.

    base: whether a base model is `required`, `optional`, or an input as any other (`ignored`). least, most: inputs,
    the base among them. rounds: whether it rounds changes to the dtype of the inputs.
    """

    to: str
    translate: Translate
    parameters: Mapping[str, Parameter]
    base: str = "required"
    least: int = 1
    most: int | None = None
    rounds: bool = True
    notes: tuple[str, ...] = ()


_WEIGHT = Parameter(float, each=True)
NO_EFFECT = ("int8_mask",)
_RANDOM = "the entries that are dropped are drawn by other random numbers than mergekit's, always the same ones"
_RESCALED = "what is left of a change gets the sum of magnitudes that it had (L1); the paper divides by the chance"
_ELECTED = "the weights are multiplied in before signs are elected; in the paper they have no part in that"


def _simple(**names: str) -> Translate:
    """Parameters that only have other names here: theirs -> ours."""

    def translate(shared: Shared, each: Each) -> Values:
        return Values({ours: shared[theirs] if theirs in shared else each[theirs] for theirs, ours in names.items()})

    return translate


def _task_vectors(mask: str, *, elect: bool) -> Translate:
    """The family base + lambda * sum of weighted, masked changes. mask: what drops entries."""

    def translate(shared: Shared, each: Each) -> Values:
        weights, density = each["weight"], each["density"]
        values: dict[str, Scalar | list[float]] = {
            "weights": weights,
            "scale": shared["lambda"],
            "normalize": shared["normalize"],
        }
        if mask == "none":
            return Values(values)
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
        return Values(values, dropped)

    return translate


def _sce(shared: Shared, each: Each) -> Values:
    share = shared["select_topk"]
    return Values({"keep": min(share, 1.0) if share > 0 else 1.0}, (-1,) if share <= 0 else ())


def _passthrough(shared: Shared, each: Each) -> Values:
    return Values({"scale": 1.0 if each["scale"][0] is None else each["scale"][0]})


def _family(
    more: Mapping[str, Parameter] | None = None, *, normalize: bool = False, rescale: bool = False
) -> dict[str, Parameter]:
    return {
        "weight": _WEIGHT,
        "density": Parameter(float, 1.0, each=True),
        "lambda": Parameter(float, 1.0),
        "normalize": Parameter(bool, normalize),
        "rescale": Parameter(bool, rescale),
        "int8_mask": Parameter(bool, False),
        **(more or {}),
    }


_GAMMA = {"gamma": Parameter(float, 0.01, each=True)}
_EPSILON = {"epsilon": Parameter(float, 0.15, each=True)}
METHODS: dict[str, Method] = {
    "linear": Method(
        "average", _simple(weight="weights", normalize="normalize"),
        {"weight": _WEIGHT, "normalize": Parameter(bool, True)}, base="ignored", rounds=False,
    ),
    "slerp": Method("slerp", _simple(t="t"), {"t": Parameter(float)}, least=2, most=2, rounds=False),
    "nuslerp": Method(
        "nuslerp", _simple(weight="weights", nuslerp_row_wise="row_wise", nuslerp_flatten="flatten"),
        {"weight": _WEIGHT, "nuslerp_row_wise": Parameter(bool, False), "nuslerp_flatten": Parameter(bool, True)},
        base="optional", least=2, most=3,
    ),
    "multislerp": Method(
        "multislerp", _simple(weight="weights", normalize_weights="normalize", eps="eps"),
        {"weight": _WEIGHT, "normalize_weights": Parameter(bool, True), "eps": Parameter(float, 1e-8)},
        base="optional",
    ),
    "karcher": Method(
        "karcher", _simple(max_iter="steps", tol="tolerance"),
        {"max_iter": Parameter(int, 10), "tol": Parameter(float, 1e-5)}, base="ignored", rounds=False,
    ),
    "passthrough": Method(
        "passthrough", _passthrough, {"scale": Parameter(float, None, each=True)}, base="ignored", most=1,
        rounds=False,
    ),
    "model_stock": Method(
        "model_stock", _simple(filter_wise="filter_wise"), {"filter_wise": Parameter(bool, False)}, least=3
    ),
    "arcee_fusion": Method("arcee_fusion", _simple(), {}, least=2, most=2),
    "nearswap": Method("nearswap", _simple(t="t"), {"t": Parameter(float)}, least=2, most=2, rounds=False),
    "sce": Method("sce", _sce, {"select_topk": Parameter(float, 1.0), "int8_mask": Parameter(bool, False)}),
    "ram": Method("ram", _simple(epsilon="epsilon"), {"epsilon": Parameter(float, 1e-5)}),
    "ramplus_tl": Method(
        "ram", _simple(epsilon="epsilon", r="boost", alpha="limit"),
        {"epsilon": Parameter(float, 1e-5), "r": Parameter(float, 0.1), "alpha": Parameter(float, 0.2)},
        notes=("entries are counted within each tensor; the paper counts over the whole model",),
    ),
    "task_arithmetic": Method("task_arithmetic", _task_vectors("none", elect=False), _family()),
    "ties": Method(
        "ties", _task_vectors("largest", elect=True), _family(normalize=True),
        notes=(_ELECTED, "changes are trimmed within each tensor; the paper trims over the whole model"),
    ),
    "dare_ties": Method(
        "dare", _task_vectors("chance", elect=True), _family(rescale=True),
        notes=(_RESCALED, _ELECTED, "signs are elected among what is left at random; the authors also trim", _RANDOM),
    ),
    "dare_linear": Method(
        "dare", _task_vectors("chance", elect=False), _family(rescale=True), notes=(_RESCALED, _RANDOM)
    ),
    "breadcrumbs": Method("breadcrumbs", _task_vectors("outliers", elect=False), _family(_GAMMA)),
    "breadcrumbs_ties": Method(
        "breadcrumbs", _task_vectors("outliers", elect=True), _family(_GAMMA), notes=(_ELECTED,)
    ),
    "della": Method(
        "della", _task_vectors("ranks", elect=True), _family(_EPSILON, normalize=True, rescale=True),
        notes=(_RESCALED, _ELECTED, _RANDOM),
    ),
    "della_linear": Method(
        "della", _task_vectors("ranks", elect=False), _family(_EPSILON, rescale=True), notes=(_RESCALED, _RANDOM)
    ),
}  # fmt: skip
#: ties with `rescale`, which the method has not: breadcrumbs that leave out no outliers are the same.
RESCALED_TIES = replace(METHODS["ties"], to="breadcrumbs", translate=_task_vectors("outliers", elect=True))
#: What it is where there is one input only: itself.
ALONE = Method("passthrough", lambda shared, each: Values({"scale": 1.0}), {}, base="ignored", rounds=False)
ALL_PARAMETERS = sorted({name for about in METHODS.values() for name in about.parameters})
