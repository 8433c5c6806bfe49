"""A beam search that never leaves a trie: against the library's log-probabilities of every answer, one by one."""

from __future__ import annotations

import pytest
import torch
from tests.models.language import save_model

from allround.models.base import load_encoder
from allround.models.encoders.language_model import LanguageModel
from allround.models.language.trie import Tokens, Trie, likeliest

ANSWERS: list[Tokens] = [(5, 6), (5, 7, 9), (5, 7, 8), (8,), (11, 6, 5, 4), (11, 6, 5, 9), (12, 3)]
PROMPTS: list[Tokens] = [(20, 21, 22), (30, 31), (40, 41, 42, 43, 44)]


@pytest.fixture(scope="module", params=["llama", "t5"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    found = load_encoder(save_model(tmp_path_factory.mktemp(request.param), request.param))
    assert isinstance(found, LanguageModel)
    return found.eval()


@torch.inference_mode()
def by_hand(model: LanguageModel, prompt: Tokens, answer: Tokens) -> float:
    """By the library's logits of the whole text."""
    if model.net.two_parts:
        logits = model.backbone(
            input_ids=torch.tensor([prompt]), decoder_input_ids=torch.tensor([[0, *answer[:-1]]])
        ).logits[0]
    else:
        logits = model.backbone(torch.tensor([[*prompt, *answer[:-1]]])).logits[0, len(prompt) - 1 :]
    return float(logits.double().log_softmax(-1)[range(len(answer)), answer].sum())


def greedy_beams(scores: dict[Tokens, float], answers: list[Tokens], beams: int) -> list[int]:
    """A beam search by its definition, on log-probabilities of all beginnings."""
    kept: list[Tokens] = [()]
    for length in range(1, max(map(len, answers)) + 1):
        longer = {answer[:length] for answer in answers if len(answer) >= length and answer[: length - 1] in kept}
        whole = [one for one in kept if one in answers]
        kept = sorted([*longer, *whole], key=lambda one: -scores[one])[:beams]
    return [answers.index(one) for one in kept]


def test_beams_are_brute_force(model: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    trie = Trie(ANSWERS)
    small = [likeliest(model.net, PROMPTS, [trie] * len(PROMPTS), beams) for beams in (2, len(ANSWERS))]
    monkeypatch.setattr("allround.models.language.trie.AT_ONCE", 0)
    for beams in (1, 2, 3, len(ANSWERS), 50):
        found = likeliest(model.net, PROMPTS, [trie] * len(PROMPTS), beams)
        for prompt, own in zip(PROMPTS, found, strict=True):
            starts = {answer[:length] for answer in ANSWERS for length in range(1, len(answer) + 1)}
            scores = {start: by_hand(model, prompt, start) for start in starts}
            assert [number for number, _ in own] == greedy_beams(scores, ANSWERS, beams)
            assert [score for _, score in own] == pytest.approx([scores[ANSWERS[n]] for n, _ in own], abs=1e-3)
    order = sorted(range(len(ANSWERS)), key=lambda number: -scores[ANSWERS[number]])
    assert [number for number, _ in found[-1]] == order, "with as many beams as answers the search is exact"
    assert [number for number, _ in small[1][-1]] == order, "and so it is in a small trie"
    assert [number for number, _ in small[0][-1]] == order[:2]


def test_rows_have_their_own_tries(model: LanguageModel) -> None:
    """Only answers of a row's own trie come, and they depend on the row alone."""
    tries = [Trie(ANSWERS), Trie(ANSWERS[3:5]), Trie([(9, 9)])]
    together = likeliest(model.net, PROMPTS, tries, 4)
    assert [len(own) for own in together] == [4, 2, 1]
    for batch_size in (1, 2):
        again = likeliest(model.net, PROMPTS, tries, 4, batch_size)
        assert [[number for number, _ in own] for own in again] == [[n for n, _ in own] for own in together]
    assert likeliest(model.net, [], [], 3) == []


@pytest.mark.parametrize("answers", [[(1,), (1, 2)], [(1, 2), (1, 2)], [(1,), ()]])
def test_what_is_no_trie(answers: list[Tokens]) -> None:
    with pytest.raises(ValueError, match="begins another"):
        Trie(answers)
