"""A model of ours as a model of the lm-evaluation-harness, which then asks it in process."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.model import LM

from allround.core.errors import AllroundError
from allround.models.encoder import Encoder
from allround.models.encoders.language_model import LanguageModel
from allround.models.language.requests import Requester
from allround.models.systems.multi_task_model import MultiTaskModel
from allround.tasks.definition import Definition
from allround.tasks.harness.requests import LIKELIHOOD, ROLLING, WRITING, Asked, Chat

_TASK = "requests"


class HarnessModel(LM):
    """What `lm_eval.simple_evaluate(model=HarnessModel(model), ...)` takes: texts with one context are scored in one
    pass.

    model: a model of allround whose encoder is a language model, or that encoder.
    """

    def __init__(self, model: MultiTaskModel | Encoder, *, batch_size: int = 64) -> None:
        super().__init__()
        encoder = model.encoder if isinstance(model, MultiTaskModel) else model
        if not isinstance(encoder, LanguageModel):
            raise AllroundError(
                "let the lm-evaluation-harness ask a model",
                f"its encoder, of the sort '{encoder.name}', is no language model",
                "use a model that was made from a language model",
            )
        self.encoder, self.batch_size = encoder, batch_size
        definition = Definition(_TASK, "lm_eval", (_TASK,), "text", "lm_eval", head="requests")
        self.model = MultiTaskModel(encoder, {_TASK: definition})

    @property
    def requester(self) -> Requester:
        return self.encoder.requester

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        """Log-likelihood of each text behind its context, and whether greedy writing would give it."""
        places: dict[str, list[int]] = {}
        for place, one in enumerate(requests):
            places.setdefault(one.args[0], []).append(place)
        asked = [Asked(LIKELIHOOD, (context,), tuple((0, requests[place].args[1]) for place in several))
                 for context, several in places.items()]  # fmt: skip
        found: dict[int, tuple[float, bool]] = {}
        for several, answers in zip(places.values(), self._answers(asked), strict=True):
            found.update((place, (float(value), bool(greedy))) for place, (value, greedy) in
                         zip(several, answers, strict=True))  # fmt: skip
        return [found[place] for place in range(len(requests))]

    def loglikelihood_rolling(self, requests: list[Instance]) -> list[float]:
        """Log-likelihood of each whole text."""
        asked = [Asked(ROLLING, (), ((-1, one.args[0]),)) for one in requests]
        return [float(value) for ((value, _),) in self._answers(asked)]

    def generate_until(self, requests: list[Instance]) -> list[str]:
        """What is written behind each context, greedily, until a text or a number of tokens."""
        ways = sorted(range(len(requests)), key=lambda place: _way(requests[place].args[1]))
        found: dict[int, str] = {}
        for _, alike in groupby(ways, key=lambda place: _way(requests[place].args[1])):
            places = list(alike)
            asked = [Asked(WRITING, (requests[place].args[0],), ((0, requests[place].args[1]),)) for place in places]
            found.update((place, text) for place, (text,) in zip(places, self._answers(asked), strict=True))
        return [found[place] for place in range(len(requests))]

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        messages = tuple((one["role"], one["content"]) for one in chat_history)
        return self.requester.chat(Chat(messages, add_generation_prompt))

    @property
    def tokenizer_name(self) -> str:
        return str(self.encoder.tokenizer.name_or_path).replace("/", "__")

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        return str(self.encoder.tokenizer.chat_template) if chat_template else None

    def _answers(self, asked: Sequence[Asked]) -> Iterator[list[Any]]:
        rows: Iterable[tuple[str]] = ((one.to_text(),) for one in asked)
        for made in self.model.answer(_TASK, rows, batch_size=self.batch_size):
            yield from (json.loads(said) for (said,) in made.predictions)


def _way(how: Mapping[str, Any]) -> str:
    return json.dumps(how, sort_keys=True, default=str)
