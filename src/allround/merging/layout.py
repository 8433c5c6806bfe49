"""The plan of a merge, made from headers and configurations alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from allround.checkpoints.quantised import check_not_quantised
from allround.checkpoints.source import Source
from allround.checkpoints.tied import TIE, is_untied
from allround.checkpoints.weights import Weights
from allround.core import registry
from allround.core.entry import Entry
from allround.core.errors import AllroundError
from allround.core.files import read_settings
from allround.merging.finish import Configure
from allround.merging.fit import Fits
from allround.merging.plan import SHARD, Item, Output, Plan, Shard, bytes_of
from allround.merging.recipe import Model, Recipe
from allround.merging.sources import open_model, untie
from allround.merging.vocabulary import prepare

#: Settings in a config.json that describe a classifier.
_CLASSIFIER = ("architectures", "id2label", "label2id", "problem_type")
#: Makes a recipe's model a source; it is given the base, where there is one.
Opener = Callable[[Model, Source | None], Source]


def make_plan(recipe: Recipe, *, outputs: Sequence[Output] | None = None, opener: Opener | None = None) -> Plan:
    """Open everything, compare, and lay out the output. Reads headers and configurations only.

    outputs: the tensors of the merged model where they are not simply those of the base (of the first model, without
    a base). opener: how a recipe's model becomes a source; by default `open_model`.
    Errors: models that do not fit together, unless `recipe.on_mismatch` says what to do then.
    """
    opener = opener or open_model
    base = opener(recipe.base, None) if recipe.base else None
    models = [opener(model, base) for model in recipe.models]
    entry = registry.find("merge", recipe.method)
    statistics = _statistics(recipe, entry, models)
    notes: list[str] = []
    finish: list[Callable[[Path], None]] = []
    for source in [base, *models] if base is not None else models:
        check_not_quantised(source, f"merge by '{recipe.method}'")
    everyone = untie([base, *models] if base is not None else models)
    base, models = (everyone[0], everyone[1:]) if base is not None else (None, everyone)
    if is_untied(everyone[0]):
        finish.append(Configure({TIE: False}))
        notes.append(f"the output layer of {everyone[0].path} is its embedding, and that of a model is not: the merged "
                     f"model stores both ({TIE}: false)")  # fmt: skip
    if recipe.tokenizer or recipe.chat_template or recipe.config or recipe.dtype:
        base, models = prepare(recipe, base, models, finish, notes)
    first = base or models[0]
    if outputs is None:
        outputs = [same_output(first, name, base is not None, len(models)) for name in first]
    fits = Fits(recipe, base, models, notes)
    items: dict[str, list[Item]] = {}
    for output in outputs:
        item = fits.item(output)
        if item is not None:
            items.setdefault(output.file, []).append(item)
    fits.check_extra(outputs)
    if extra := fits.take_extra():
        items.setdefault("", []).extend(extra)  # beside the others
        finish.append(Configure(_classifier_settings(models[extra[0].models[0][0]])))
    fits.raise_problems()
    fits.check_rules(outputs)
    return Plan(
        recipe,
        base,
        models,
        _shards(first, items),
        recipe.scope or entry.facts["scope"],
        statistics,
        notes,
        finish,
    )


def _classifier_settings(source: Source) -> dict[str, object]:
    """What the config.json of a model says of its classifier."""
    file = (source.path if source.path.is_dir() else source.path.parent) / "config.json"
    config = read_settings(file) if file.is_file() else {}
    return {name: config[name] for name in _CLASSIFIER if name in config} if isinstance(config, Mapping) else {}


def _statistics(recipe: Recipe, entry: Entry, models: Sequence[Source]) -> dict[str, list[Weights]]:
    """The files of statistics by kind, one for each model; opened, and checked to be of the kind and of the model."""
    from allround.merging.statistics.file import check_made_for, command

    asked = f"merge {len(recipe.models)} models by '{recipe.method}'"
    values = [recipe.values, *({**recipe.values, **rule.values} for rule in recipe.rules)]
    needed = dict.fromkeys(need for given in values for need in entry.needed(entry.resolve(given)))
    for need in needed:
        given = recipe.statistics.get(need, ())
        if len(given) != len(recipe.models):
            raise AllroundError(
                asked,
                f"the method needs statistics of the kind '{need}' for each model, and {len(given) or 'none'} "
                f"{'are' if len(given) != 1 else 'is'} given",
                f"compute them, such as: {command(need, models[0].path)}; and give one file for each, in the order of "
                f"the models: --statistics {need}=FILE,FILE,...",
            )
    idle = [kind for kind in recipe.statistics if kind not in needed]
    if idle:
        raise AllroundError(
            asked, f"statistics of the kind '{idle[0]}' are given, and the method takes none of it", "leave them out"
        )
    opened = {name: [Weights(file) for file in files] for name, files in recipe.statistics.items()}
    for kind, files in opened.items():
        check_made_for(kind, files, models, asked)
    return opened


def same_output(source: Source, name: str, has_base: bool, models: int) -> Output:
    """A tensor of the base, or of the first model, as one of the output: in the same file, under the same name."""
    file, key = "", name
    while (inner := getattr(source, "inner", None)) is not None:
        source = inner
    if isinstance(source, Weights) and name in source:
        path, key = source.file_of(name)
        root = source.path if source.path.is_dir() else source.path.parent
        relative = path.relative_to(root)
        file = relative.as_posix() if path.suffix == ".safetensors" else relative.parent.as_posix().lstrip(".")
    return Output(name, file, key, name if has_base else None, (name,) * models)


def _shards(first: Source, items: Mapping[str, list[Item]]) -> list[Shard]:
    metadata = (getattr(first, "metadata", None) or {}) | {"format": "pt"}
    shards = []
    own = [file for file in items if "/" not in file and file.endswith(".safetensors")]
    if own and "" in items:  # a head that an adapter brings: beside the others, where libraries look for it
        items = {file: [*listed, *(items[""] if file == own[-1] else ())] for file, listed in items.items() if file}
    for file, listed in items.items():
        if file.endswith(".safetensors"):
            shards.append(Shard(file, tuple(listed), metadata))
            continue
        parts: list[list[Item]] = [[]]
        for item in listed:
            if parts[-1] and sum(map(bytes_of, parts[-1])) + bytes_of(item) > SHARD:
                parts.append([])
            parts[-1].append(item)
        folder = f"{file}/" if file else ""
        for number, part in enumerate(parts, 1):
            name = f"model-{number:05d}-of-{len(parts):05d}" if len(parts) > 1 else "model"
            shards.append(Shard(f"{folder}{name}.safetensors", tuple(part), metadata))
    return shards


def check_alike(base: Source, tuned: Sequence[Source]) -> None:
    """An error unless all checkpoints have the base's tensors, with its shapes. Reads headers only."""
    sources = iter([base, *tuned])
    make_plan(
        Recipe("average", tuple(Model(str(t.path)) for t in tuned), Model(str(base.path))),
        opener=lambda model, base: next(sources),
    )
