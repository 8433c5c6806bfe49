"""What a folder of a merge holds besides weights: indexes, the base's other files, and what was done."""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from allround.checkpoints.weights import OTHER_WEIGHTS, index_of, indexes
from allround.core.files import atomic_file, hash_json, read_settings, write_json
from allround.core.plugins import contents
from allround.core.schema import STRICT, checked
from allround.core.version import __version__
from allround.merging.plan import Plan, Shard
from allround.merging.report import in_words
from allround.models.encoder import CONFIG

#: Files that speak of the base as a whole: the merged model has its own.
_OF_FOLDER = ("README.md", "merge.json", "learned.json", "allround.json", "adapter_config.json")


@dataclass(frozen=True)
class Done:
    """What is noted of a finished file of weights."""

    __pydantic_config__ = STRICT

    notes: list[str]
    hashes: dict[str, dict[str, str]]
    reports: dict[str, dict[str, int | float]]

    @classmethod
    def read(cls, path: Path) -> Done:
        asked = f"go on with the merge in {path.parent.parent}"
        return checked(cls, read_settings(path), asked, "remove that folder, and merge again")


def write_indexes(plan: Plan, folder: Path) -> None:
    """Where a model's weights lie in several files of a folder, say which holds what, as its library expects: in the
    base's index where that names the file, else in the one that goes with `NAME-00001-of-00002`."""
    root = (plan.base or plan.models[0]).path
    known = {index.parent / file: index.relative_to(root) for index, listed in indexes(root)
             if index_of(index.name) == ".safetensors" for file in listed.values()}  # fmt: skip
    groups: dict[PurePosixPath, list[Shard]] = {}
    for shard in plan.shards:
        path = PurePosixPath(shard.file)
        part = re.fullmatch(r"(.+)-\d+-of-\d+", path.stem)
        if (found := known.get(root / path)) is not None:
            groups.setdefault(PurePosixPath(found), []).append(shard)
        elif part:
            groups.setdefault(path.with_name(f"{part[1]}.safetensors.index.json"), []).append(shard)
    for index, shards in groups.items():
        listed = {item.name: PurePosixPath(shard.file).name for shard in shards for item in shard.items}
        total = sum(shard.bytes for shard in shards)
        value = {"metadata": {"total_size": total}, "weight_map": dict(sorted(listed.items()))}
        write_json(folder / index, value)


def provenance(plan: Plan, facts: list[Done]) -> dict[str, object]:
    recipe = plan.recipe
    parameters = plan.entry.resolve(recipe.values)
    inputs = {}
    for number in range(-1 if plan.base else 0, len(plan.models)):
        hashes = {k: v for fact in facts for k, v in fact.hashes.get(str(number), {}).items()}
        name = str(recipe.models[number] if number >= 0 else recipe.base)
        inputs[number] = {"path": name, "content": hash_json(hashes), "tensors": len(hashes)}
    own = plan.own_values
    reports = {name: told for fact in facts for name, told in sorted(fact.reports.items())}
    told = [f"{recipe.method}: {line}" for line in in_words(reports)]
    return {
        "method": recipe.method,
        "parameters": parameters,
        **({"rules": [[r.match, dict(r.values)] for r in recipe.rules]} if recipe.rules else {}),
        **({"tensors": own} if own else {}),
        "scope": plan.scope,
        **({"dtype": recipe.dtype} if recipe.dtype else {}),
        "allround": __version__,
        **({"plugins": used} if (used := contents(recipe.method)) else {}),
        "inputs": {"base": inputs.get(-1), "models": [inputs[n] for n in range(len(plan.models))]},
        **({"reports": reports} if reports else {}),
        **({"notes": notes} if (notes := [*plan.notes, *(n for f in facts for n in f.notes), *told]) else {}),
    }


def copy_files(plan: Plan, folder: Path) -> None:
    """All files of the base but its weights: configuration, tokenizer, processor, pooling, modules."""
    first = plan.base or plan.models[0]
    root = first.path
    for source in sorted(root.rglob("*")) if root.is_dir() else []:
        target = folder / source.relative_to(root)
        hidden = any(part.startswith(".") for part in source.relative_to(root).parts)
        weights = source.suffix in (".safetensors", *OTHER_WEIGHTS) or index_of(source.name) is not None
        if hidden or weights or source.name in _OF_FOLDER or not source.is_file():
            continue
        with atomic_file(target) as temporary:
            shutil.copyfile(source, temporary)
    if len(said := encoder_settings(plan)) == 1 and said[0] is not None:
        write_json(folder / CONFIG, said[0], allow_nan=True)


def encoder_settings(plan: Plan) -> list[object]:
    """What the models' files of allround say of how inputs are read, each once (None: nothing), where the base is a
    folder that says nothing: models tuned from a plain base keep what they were tuned with."""
    if plan.base is None or not plan.base.path.is_dir() or (plan.base.path / CONFIG).is_file():
        return []
    said: list[object] = []
    for path in (model.path / CONFIG for model in plan.models):
        value = read_settings(path) if path.is_file() else None
        said += [value] if value not in said else []
    return said
