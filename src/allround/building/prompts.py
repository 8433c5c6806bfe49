"""How a language model scores with each of a task's prompts, outside a build."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from allround.evaluation.predict import predict_split
from allround.evaluation.predictions import Predictions
from allround.evaluation.prompt_scores import PromptScores, prompt_scores
from allround.models.system import System
from allround.models.systems.multi_task_model import MultiTaskModel
from allround.tasks.suite import Suite


def scores_by_prompt(
    model: System, suite: Suite, split: str, made: Mapping[tuple[str, str], Predictions]
) -> list[PromptScores]:
    """Score a model with all prompts of each task that has several; nothing for what is no language model.

    made: its predictions with the first prompt, by ("model", task). Prompts are those that the model was saved with.
    """
    if not isinstance(model, MultiTaskModel) or "texts" not in model.encoder.gives:
        return []
    found = []
    for name, task in suite.tasks.items():
        definition, head = model.definition(name), model.head(name)
        prompt = definition.prompt
        if prompt is None or len(prompt.templates) < 2:
            continue
        answers = [made["model", name]]
        for place in range(1, len(prompt.templates)):
            put = MultiTaskModel(model.encoder, {})
            put.add_task(replace(definition, prompt=prompt.using(place)), head.stored())
            answers.append(predict_split(put.to(model.device).eval(), task.as_defined(put.definition(name)), split))
        found.append(prompt_scores("model", answers))
    return found
