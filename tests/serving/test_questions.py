"""Questions of many requests are answered as each alone, and share the encoder's work."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.serving.tiny import OF_TEXT, differences, expected, make_model, requests

from allround.core.errors import AllroundError
from allround.models.encoders.text import Text
from allround.models.prediction.answers import Answered
from allround.models.systems.multi_task_model import MultiTaskModel
from allround.serving.answers_json import answers_json
from allround.serving.metrics import Metrics
from allround.serving.questions import Question, answer_questions
from allround.serving.received import received
from allround.serving.served import asking_of
from allround.tasks.suite import Suite


@pytest.fixture(scope="module")
def model(bert_folder: Path, text_suite: Suite) -> MultiTaskModel:
    return make_model(bert_folder, text_suite)


def question(body: dict[str, Any]) -> Question:
    return Question.make(body["inputs"], asking_of(body["tasks"], scores=body.get("scores", False)))


def test_questions_are_answered_together_as_predict_answers_each(model: MultiTaskModel, text_suite: Suite) -> None:
    bodies = requests(text_suite, 60)
    found = answer_questions(model, [question(body) for body in bodies], together=7)
    for body, answered in zip(bodies, found, strict=True):
        assert isinstance(answered, Answered), answered
        given = answers_json("tiny", answered, None, Metrics())["answers"]
        assert not differences(given, expected(model, body)), body


def test_rows_of_all_tasks_and_questions_pass_the_encoder_once(
    model: MultiTaskModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    forward = Text.forward
    monkeypatch.setattr(Text, "forward", lambda self, batch: sizes.append(batch.size) or forward(self, batch))
    bodies = [{"inputs": [f"row {n}", "another"], "tasks": list(tasks)} for n, tasks in
              enumerate([OF_TEXT, ("mood",), ("warmth", "topics"), ("topics",)])]  # fmt: skip
    found = answer_questions(model, [question(body) for body in bodies])
    assert sizes == [8], "eight rows, once, though twelve answers of tasks were asked"
    assert [list(one.tasks) for one in found if isinstance(one, Answered)] == [body["tasks"] for body in bodies]


def test_a_question_that_cannot_be_answered_harms_no_other(
    model: MultiTaskModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    good, unknown = {"inputs": ["fine"], "tasks": ["mood"]}, {"inputs": ["fine"], "tasks": ["mod"]}
    found = answer_questions(model, [question(one) for one in (good, unknown, good)])
    assert isinstance(found[1], AllroundError) and "did you mean 'mood'" in found[1].do
    assert isinstance(found[0], Answered) and isinstance(found[2], Answered)

    forward = Text.forward
    poison = model.encoder.tokenizer("poison")["input_ids"][1]  # type: ignore[operator]

    def broken(self: Text, batch: Any) -> Any:
        if (batch.tensors["input_ids"] == poison).any():
            raise RuntimeError("poison")
        return forward(self, batch)

    monkeypatch.setattr(Text, "forward", broken)
    bad = {"inputs": ["poison"], "tasks": ["mood"]}
    found = answer_questions(model, [question(one) for one in (good, bad, good)])
    assert isinstance(found[1], RuntimeError) and isinstance(found[0], Answered) and isinstance(found[2], Answered)


def test_a_text_that_a_client_sends_never_opens_a_file(digits_suite: Suite, small_image: Any, tmp_path: Path) -> None:
    import base64

    secret = tmp_path / "secret.png"
    digits_suite.tasks["digit"].splits["test"].inputs[0][0].resize((8, 8)).save(secret)
    model = MultiTaskModel(small_image, {"digit": digits_suite.tasks["digit"].definition})
    for given in (str(secret), {"path": str(secret)}, {"bytes": None, "path": str(secret)}, 7):
        window = received(model, [{"image": given}])  # type: ignore[dict-item]
        assert window.column("image") == [{"bytes": b"", "path": None}]
    sent = "data:image/png;base64," + base64.b64encode(secret.read_bytes()).decode()
    (found, refused) = answer_questions(model, [question({"inputs": [one], "tasks": ["digit"]})
                                                for one in (sent, str(secret))])  # fmt: skip
    assert isinstance(found, Answered) and isinstance(refused, Answered)
    assert found.tasks["digit"].predictions[0] in model.definitions["digit"].labels
    assert refused.tasks["digit"].predictions == [None] and "cannot be read" in str(refused.notes[0])
