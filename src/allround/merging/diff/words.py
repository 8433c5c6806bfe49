"""What the changes between checkpoints say in plain sentences: only what follows from the numbers."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from statistics import median

from allround.core.words import cosine_text, listed, share_text
from allround.merging.diff.changes import ALIGNED, HELD, KINDS, NEAR, Changes, at
from allround.merging.diff.groups import EMBEDDINGS, OTHER

#: Settings of a config.json that say how large a network is.
SIZES = ("hidden_size", "num_hidden_layers", "dim", "n_layers", "n_embd", "n_layer", "d_model", "num_layers")


def verdict(found: Changes) -> list[str]:
    """What the numbers say, in a few lines."""
    parts = (_architecture, _distance, _sizes, _pairs, _places, _ranks, _obstacles)
    return [line for lines in parts for line in lines(found)]


def _architecture(found: Changes) -> Iterator[str]:
    """Networks of another architecture, or of another size of the same."""
    said: set[str] = set()
    for what, keys in (("architecture", ("model_type",)), ("size", SIZES)):
        for one in found.differences:
            place, _, key = one.name.rpartition(": ")
            if one.what != "setting" or key not in keys or place not in ("config.json", "0_Transformer/config.json"):
                continue
            for name, value in one.models.items():
                if value is None or one.base is None or name in said:
                    continue
                said.add(name)
                yield (
                    f"{name} is a network of another {what} than {found.base} ({key}: {_plain(value)}, in {found.base} "
                    f"{_plain(one.base)}): it was not tuned from that base, and does not merge with it."
                )


def _plain(value: str) -> str:
    return value.strip('"')


def _changed(found: Changes) -> list[int]:
    return [i for i, norm in enumerate(found.total.norm) if norm]


def _distance(found: Changes) -> Iterator[str]:
    far = [i for i, like in enumerate(found.likeness) if like is not None and like < 0.5]
    for i in far:
        yield (
            f"{found.models[i]} has little in common with {found.base} (cosine between their weights "
            f"{cosine_text(found.likeness[i])}): it was probably not tuned from that base."
        )


def _sizes(found: Changes) -> Iterator[str]:
    changed = _changed(found)
    unlike = {name for one in found.differences if one.what in ("shape", "missing") for name in one.models}
    same = [name for i, name in enumerate(found.models)
            if i not in changed and found.total.norm[i] is not None and name not in unlike]  # fmt: skip
    if same:
        yield f"{listed(same)} {'has' if len(same) == 1 else 'have'} the same weights as {found.base}."
    known = [i for i in changed if found.total.relative[i] is not None]
    if not known:
        return
    relative = {i: found.total.relative[i] or 0.0 for i in known}
    low, high = min(relative, key=lambda i: relative[i]), max(relative, key=lambda i: relative[i])
    touched = [found.total.changed[i] or 0.0 for i in known]
    entries = (
        "nearly all" if 0.99 < min(touched) < 1 else "all" if min(touched) == 1 else _span(min(touched), max(touched))
    )
    entries += " entries" if entries.endswith("all") else " of the entries"
    if len(known) == 1:
        name = found.models[low]
        yield f"{name} changes the weights by {share_text(relative[low])} of their norm, in {entries}."
    else:
        size = _span(relative[low], relative[high])
        yield f"The models change the weights by {size} of their norm, in {entries}."
    norm = [found.total.norm[i] or 0.0 for i in known]
    if len(known) > 1 and max(norm) >= 3 * min(norm):
        big, small = known[norm.index(max(norm))], known[norm.index(min(norm))]
        yield (
            f"{found.models[big]} changes {max(norm) / min(norm):.1f} times as much as {found.models[small]}, and "
            "outweighs it in a plain average."
        )


def _kind(cosine: float) -> str:
    if abs(cosine) < NEAR:
        return "nearly orthogonal"
    if abs(cosine) < ALIGNED:
        return "partly aligned" if cosine > 0 else "partly opposed"
    return "aligned" if cosine > 0 else "opposed"


def _pairs(found: Changes) -> Iterator[str]:
    changed = _changed(found)
    pairs = {(i, j): c for i, j in combinations(changed, 2) if (c := found.cosines[i][j]) is not None}
    if not pairs:
        return
    part, names = found.total, found.models
    least, most = min(pairs, key=lambda p: pairs[p]), max(pairs, key=lambda p: pairs[p])
    low, high = pairs[least], pairs[most]
    if len(pairs) == 1:
        yield f"The changes of {names[least[0]]} and {names[least[1]]} are {_kind(low)}: cosine {cosine_text(low)}."
    elif _kind(low) == _kind(high):
        cosines = (
            cosine_text(low) if cosine_text(low) == cosine_text(high) else f"{cosine_text(low)} to {cosine_text(high)}"
        )
        yield f"The changes of all pairs are {_kind(low)}: cosine {cosines}."
    else:
        yield (
            f"The changes range from {_kind(low)} ({names[least[0]]} and {names[least[1]]}: cosine "
            f"{cosine_text(low)}) to {_kind(high)} ({names[most[0]]} and {names[most[1]]}: {cosine_text(high)})."
        )
    if part.shared is not None and part.shared < 0.2:
        yield (
            "They are mostly in different weights: of the entries that are changed noticeably, "
            f"{share_text(part.shared)} are by more than one model."
        )
    if part.conflict is not None:
        yield (
            f"Where two or more models change an entry noticeably, their signs conflict in {share_text(part.conflict)} "
            f"({share_text(part.chance)} if signs were random); adding the changes cancels "
            f"{share_text(part.cancelled)} of their magnitude."
        )
    kept = {i: k for i in changed if (k := found.kept[i]) is not None}
    if kept:
        few, many = min(kept, key=lambda i: kept[i]), max(kept, key=lambda i: kept[i])
        least_kept, most_kept = share_text(kept[few]), share_text(kept[many])
        if least_kept == most_kept:
            each = f"{least_kept} of each"
        elif len(kept) == 2:
            each = f"{least_kept} of {names[few]} and {most_kept} of {names[many]}"
        else:
            each = f"between {least_kept} ({names[few]}) and {most_kept} ({names[many]}) of each"
        if kept[few] > 0.75:
            yield f"Expect averaging to lose little: of the changes it keeps {each}, along their own directions."
        elif kept[few] <= 0:
            yield f"Expect averaging to undo {names[few]}: of the changes it keeps {each}, along their own directions."
        else:
            yield f"Expect averaging to weaken the changes: it keeps {each}, along their own directions."


def _places(found: Changes) -> Iterator[str]:
    """Where the changes are concentrated, by their squared norm, each model counting the same."""
    changed = _changed(found)
    if not changed:
        return
    weight = {g.name: sum(((g.norm[i] or 0.0) / (found.total.norm[i] or 1.0)) ** 2 for i in changed) / len(changed)
              for g in found.groups}  # fmt: skip
    size = {g.name: g.entries / max(1, found.total.entries) for g in found.groups}
    for name in (EMBEDDINGS, OTHER):
        if weight.get(name, 0) > 0.5 and weight[name] > 1.5 * size[name] and len(weight) > 1:
            where = "embeddings" if name == EMBEDDINGS else "head and other tensors outside the layers"
            of_all = share_text(size[name])
            yield f"{share_text(weight[name])} of the squared change is in the {where} ({of_all} of the entries)."
    layers = [g for g in found.groups if g.name.startswith("layer ")]
    total = sum(weight[g.name] for g in layers)
    if len(layers) < 4 or total <= 0:
        return
    # The shortest run of layers that holds three quarters of what the layers change.
    runs = [
        (b - a, -sum(weight[g.name] for g in layers[a:b]), a)
        for a in range(len(layers))
        for b in range(a + 1, len(layers) + 1)
    ]
    length, held, start = min(run for run in runs if -run[1] >= 0.75 * total)
    last = layers[start + length - 1].name[6:]
    where = layers[start].name if length == 1 else f"layers {layers[start].name[6:]} to {last}"
    among = "the change of the layers" if total < 0.999 else "the change"
    if length <= len(layers) / 2:
        yield f"{share_text(-held / total)} of the squared norm of {among} is in {where}, of {len(layers)} layers."
    else:
        yield (
            f"{among[0].upper()}{among[1:]} is spread over the depth: three quarters of its squared norm take {length} "
            f"of {len(layers)} layers."
        )


def _ranks(found: Changes) -> Iterator[str]:
    kinds: dict[str, list[int]] = {}
    for i in _changed(found):
        shares = [h / s for p in found.tensors if (h := at(p.held_by, i)) and (s := at(p.side, i)) and s >= 16]
        if shares:
            share = median(shares)
            kind = "low" if share <= 0.1 else "not low" if share >= 0.3 else "between"
            kinds.setdefault(kind, []).append(i)
    words = {"low": "low-rank", "not low": "not low-rank", "between": "neither low-rank nor full"}
    for kind, numbers in kinds.items():
        alone = len(numbers) == len(found.models)
        if not alone:
            who = f"{listed([found.models[i] for i in numbers])} {'is' if len(numbers) == 1 else 'are'} {words[kind]}"
        elif len(numbers) == 1:
            who = f"The change is {words[kind]}"
        else:
            who = "No change is low-rank" if kind == "not low" else f"All changes are {words[kind]}"
        held = [at(found.total.held_by, i) or 0 for i in numbers]
        side = [at(found.total.side, i) or 0 for i in numbers]
        most = max(at(found.total.most, i) or 0 for i in numbers)
        few = f"{min(held):.0f}" if round(min(held)) == round(max(held)) else f"{min(held):.0f} to {max(held):.0f}"
        yield (
            f"{who}: in the median matrix {few} of {max(side):.0f} singular values hold {share_text(HELD)} of the "
            f"squared norm, {most:.0f} at most."
        )


def _obstacles(found: Changes) -> Iterator[str]:
    counts = {what: len({d.name for d in found.differences if d.what == what}) for what in KINDS}
    stops = {"missing": "missing", "extra": "not in the base", "shape": "of another shape"}
    parts = [f"{counts[what]} {words}" for what, words in stops.items() if counts[what]]
    if parts:
        yield f"Not all tensors fit ({', '.join(parts)}): a merge stops there unless --on-mismatch says what to do."
    if any(d.what == "dtype" for d in found.differences):
        yield "Weights are stored in other dtypes than the base's: changes may contain rounding."
    if counts["tokenizer"]:
        yield "The tokenizers differ; see below."


def _span(low: float, high: float) -> str:
    one, two = share_text(low), share_text(high)
    return one if one == two else f"{one} to {two}"
