"""LIMIT: attention between weights of labels and a row, and episodes that teach it to take up new labels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from allround.continual.head.calibrated import Calibrated as Policy
from allround.continual.heads import make_policy
from allround.models.heads.calibrated import Calibrated
from allround.tasks.definition import Definition

THREE = Definition("three", "classification", ("x",), "image", "accuracy", ("a", "b", "c"))


def rows(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Rows of six labels: one direction of eight tells them, and another one, far larger, says nothing."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 6
    x = 0.3 * torch.randn(count, 8, generator=generator)
    x[torch.arange(count), labels] += 1.0
    x[:, 7] += 4 * torch.randn(count, generator=generator)
    return x, labels


def test_outputs_are_those_of_torch_attention() -> None:
    """Against `scaled_dot_product_attention` and the norm and cosine of PyTorch."""
    head, generator = Calibrated(THREE, 4), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    x = torch.randn(2, 4, generator=generator)
    for row in range(2):
        both = torch.cat([head.weight, x[row : row + 1]])[None]
        looked = F.scaled_dot_product_attention(both @ head.query.T, both @ head.key.T, both @ head.value.T)
        made = F.layer_norm(looked @ head.mix.T + head.mix_bias + both, (4,), head.norm, head.norm_bias)[0]
        wanted = torch.stack([16 * F.cosine_similarity(made[3], made[label], dim=0) for label in range(3)])
        assert torch.allclose(head(x)[row], wanted, atol=1e-5)
    head.reset()
    with torch.no_grad():
        head.weight.copy_(torch.tensor([[1.0, 0, 0, 0], [0, 1.0, 0, 0], [5.0, 1.0, 0, 0]]))
    assert int(head(torch.tensor([[9.0, 2.0, 0.0, 0.0]])).argmax()) == 2, "before it learns: the nearest direction"


def test_an_episode_has_new_labels_with_few_rows() -> None:
    policy = make_policy("calibrated", {"shots": 2})
    assert isinstance(policy, Policy)
    x, labels = rows(60, 0)
    means = torch.stack([x[labels == label].mean(0) for label in range(6)])
    made = policy.episode(x, labels, means, torch.arange(6), torch.Generator().manual_seed(0))
    new = [label for label in range(6) if not torch.equal(made[label], means[label])]
    assert len(new) == 3
    for label in new:
        own = x[labels == label]
        pairs = torch.stack([(a + b) / 2 for n, a in enumerate(own) for b in own[n + 1 :]])
        assert float((pairs - made[label]).abs().amax(1).min()) < 1e-6, "the mean of two rows of the label"


def test_what_is_learned_from_old_labels_helps_with_new_ones() -> None:
    """Labels 4 and 5 come later, with one row each, and what says nothing is larger than what tells them apart."""
    (x, labels), (test, answers) = rows(240, 0), rows(300, 1)
    old = labels < 4
    means = torch.stack([x[labels == label].mean(0) for label in range(6)])
    definition = Definition("six", "classification", ("x",), "image", "accuracy", tuple("abcdef"))
    found = {}
    for steps in (0, 100):
        policy = make_policy("calibrated", {"steps": steps, "rate": 0.01})
        assert isinstance(policy, Policy)
        attention = policy.learned(definition, x[old], labels[old], means)
        head = Calibrated(definition, 8)
        scores = []
        for shot in range(10):
            weight = means.clone()
            for label in (4, 5):
                weight[label] = x[labels == label][shot]
            head.load_state_dict({"weight": weight, **attention})
            with torch.no_grad():
                scores.append(float((head(test).argmax(1) == answers).float().mean()))
        found[steps] = float(np.mean(scores))
    assert found[100] > found[0] + 0.1 and found[0] == pytest.approx(0.51, abs=0.2)
