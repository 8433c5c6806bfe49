"""Predictions of candidates on a split, each made once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from allround.building.candidates import Answerer, Candidate
from allround.building.stages.data import Data
from allround.building.workshop import Tally, Work, Workshop
from allround.core.jobs import call
from allround.core.pieces import Piece, Pieces


@dataclass(frozen=True)
class PredictionGroup:
    """The prediction pieces that one job makes, of candidates that share what they load; a product of a workshop.

    pieces: of each candidate, by task. tasks: those that the job answers.
    """

    candidates: Sequence[str]
    split: str
    pieces: Sequence[Mapping[str, Piece]]
    tasks: Sequence[str]

    @property
    def key(self) -> str:
        """What is predicted, by whom, in words."""
        whole = len(self.tasks) == len(self.pieces[0]) > 1
        listed = f"all {len(self.tasks)} tasks" if whole else ", ".join(self.tasks)
        return f"{self.split} predictions of {' and '.join(self.candidates)} ({listed})"

    @property
    def done(self) -> bool:
        """Whether all pieces are there and whole."""
        return all(piece.done for piece in self._listed)

    @property
    def damage(self) -> str | None:
        """What is damaged in the first piece that is."""
        return next((f"{one.key}: {found}" for one in self._listed if (found := one.damage)), None)

    @property
    def facts(self) -> Mapping[str, object]:
        """The seconds that one candidate takes."""
        return {"seconds": sum(self.pieces[0][n].facts["seconds"] for n in self.tasks)}

    @property
    def _listed(self) -> list[Piece]:
        return [pieces[n] for pieces in self.pieces for n in self.tasks]


def prediction_pieces(pieces: Pieces, candidate: Candidate, data: Data, split: str) -> dict[str, Piece]:
    """For each task, the piece that holds, or will hold, a candidate's predictions of a split."""
    return {
        name: pieces.piece(
            f"{split}-{candidate.name}-{name}", system=candidate.keys[name], task=task.content, split=split, scores=True
        )
        for name, task in data.tasks.items()
    }


def predict(shop: Workshop, candidates: Sequence[Candidate], data: Data, split: str, device: str) -> Tally:
    """Predict a split of the given tasks with every candidate that has not done so yet; those that share what they load
    do so together."""
    pieces = {c.name: prediction_pieces(shop.pieces, c, data, split) for c in candidates}
    sharing: dict[tuple[object, ...], list[tuple[Candidate, Answerer]]] = {}
    for candidate in candidates:
        for whole in candidate.answerers():
            answerer = replace(whole, own={name: own for name, own in whole.own.items() if name in data.tasks})
            if not answerer.own:
                continue
            shared = (answerer.function, answerer.source, tuple(answerer.own))
            sharing.setdefault(shared, []).append((candidate, answerer))
    work: list[Work] = []
    for together in sharing.values():
        tasks = list(together[0][1].own)
        done = [pair for pair in together if all(pieces[pair[0].name][n].done for n in tasks)]
        for members in [*([pair] for pair in done), [pair for pair in together if pair not in done]]:
            if members:
                first = members[0][1]
                made = [{n: pieces[candidate.name][n] for n in tasks} for candidate, _ in members]
                job = call(
                    first.function,
                    pieces=made,
                    source=first.source,
                    own=[dict(answerer.own) for _, answerer in members],
                    tasks={n: data.folders[n] for n in tasks},
                    split=split,
                    device=device,
                )
                names = [candidate.name for candidate, _ in members]
                group = PredictionGroup(names, split, [pieces[name] for name in names], tasks)
                work.append((group, job))
    return shop.do(f"predicting the {split} rows", work)


def validation_scores(
    shop: Workshop, candidates: Sequence[Candidate], data: Data, device: str
) -> dict[str, dict[str, float]]:
    """Predict the validation rows with these candidates; the score of each on each task."""
    predict(shop, candidates, data, "validation", device)
    return {
        c.name: {n: p.facts["score"] for n, p in prediction_pieces(shop.pieces, c, data, "validation").items()}
        for c in candidates
    }
