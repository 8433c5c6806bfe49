"""How a language model scores with each of a task's prompts, outside a build."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from allround.composition.systems.demonstrated import Demonstrated
from allround.evaluation.predict import predict_split
from allround.evaluation.predictions import Predictions
from allround.evaluation.prompt_scores import PromptScores, prompt_scores
from allround.models.system import System
from allround.models.systems.multi_task_model import MultiTaskModel
from allround.tasks.suite import Suite


def answers_by_prompt(
    model: System, suite: Suite, split: str, made: Mapping[tuple[str, str], Predictions]
) -> dict[str, list[Predictions]]:
    """The answers of a model with each prompt, of tasks that have several; nothing for what is no language model.

    made: its predictions with the first prompt, by ("model", task). Prompts are those that the model was saved with;
    examples of the task are put by the same prompt as the question, those of other tasks by their first.
    """
    plain = model.model if isinstance(model, Demonstrated) else model
    if not isinstance(plain, MultiTaskModel) or "texts" not in plain.encoder.gives:
        return {}
    heads = {name: plain.head(name).stored() for name in plain.definitions}
    found = {}
    for name, task in suite.tasks.items():
        definition = plain.definition(name)
        prompt = definition.prompt
        if prompt is None or len(prompt.templates) < 2:
            continue
        answers = [made["model", name]]
        for place in range(1, len(prompt.templates)):
            asked = replace(definition, prompt=prompt.using(place))
            put = MultiTaskModel(plain.encoder, {})
            put.add_heads({**plain.definitions, name: asked}, heads)
            put = put.to(plain.device).eval()
            system = Demonstrated(put, model.way, model.settings) if isinstance(model, Demonstrated) else put
            answers.append(predict_split(system, task.as_defined(asked), split))
        found[name] = answers
    return found


def scores_by_prompt(answers: Mapping[str, Sequence[Predictions]]) -> list[PromptScores]:
    """The scores with each prompt, from `answers_by_prompt`."""
    return [prompt_scores("model", made) for made in answers.values()]
