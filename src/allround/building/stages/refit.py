"""Heads fitted anew on the encoders of the best merges."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from allround.building.candidates import ModelCandidate
from allround.building.judge import Judge
from allround.building.stages.heads import Start, head_work, own_words
from allround.building.stages.plan import REFITTED, Scope
from allround.building.workshop import Tally, Workshop, seconds


def refit_heads(
    shop: Workshop,
    scope: Scope,
    groups: Sequence[Sequence[ModelCandidate]],
    start: Start,
    validation: Mapping[str, Mapping[str, float]],
    judge: Judge,
) -> list[ModelCandidate]:
    """The best of each group of merges on validation once more, with heads fitted anew on its encoder.

    start: the heads on the base; where none of them has weights of its own, there is nothing to fit. validation: scores
    by the merge's name and by task.
    """
    weighted = not all(map(own_words, start.heads.values()))
    found: list[ModelCandidate] = []
    tally = Tally()
    for merges in groups:
        if not merges or not scope.refit or not weighted:
            continue
        best = max(merges, key=lambda merge: judge.mean(validation[merge.name]))
        key = next(iter(best.keys.values()))
        pieces, work = head_work(shop, scope.data, str(best.encoder), key, scope.settings.device, "refit",
                                 scope.head)  # fmt: skip
        tally += shop.do(f"heads on the encoder of {best.name}", work)
        found.append(
            replace(
                best,
                name=f"{best.name}+heads",
                title=f"{best.title}, {REFITTED}",
                heads={n: p.folder for n, p in pieces.items()},
                keys={n: [key, p.key] for n, p in pieces.items()},
                effort=replace(
                    best.effort,
                    merge_seconds=best.effort.merge_seconds + seconds(pieces),
                    merge_rows=best.effort.merge_rows + scope.data.rows("train"),
                ),
            )
        )
    if found:
        names = " and ".join(candidate.name.removesuffix("+heads") for candidate in found)
        shop.say(f"{REFITTED} on the encoder{'s' if len(found) > 1 else ''} of {names}", tally)
    return found
