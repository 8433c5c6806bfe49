"""MULTI-LANE: tokens of an arrival's own that go through the blocks of a frozen transformer beside its input."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from allround.continual.grow.own_lane import OwnLane
from allround.continual.learner import StreamLearner, begin
from allround.continual.strategy import strategy_of
from allround.continual.stream import Arrival, of_tasks, renamed
from allround.core.errors import AllroundError
from allround.models.base import load_encoder
from allround.models.batch import Batch
from allround.models.encoders.image import Image
from allround.models.encoders.lanes import Lanes
from allround.models.encoders.small_image import SmallImage
from allround.models.lane import summaries
from allround.models.system import load
from allround.tasks.suite import Suite
from allround.training.settings import Settings

QUICK = Settings(epochs=1, keep="last", batch_size=16, learning_rate=1e-2, device="cpu", precision="fp32")


def lanes_of(learner: StreamLearner) -> Lanes:
    assert isinstance(learner, OwnLane)
    found = learner.grown.bodies[0].encoder
    assert isinstance(found, Lanes)
    return found


def heads(values: Tensor) -> Tensor:
    """(n, 8) as two heads, (2, n, 4)."""
    return values.reshape(-1, 2, 4).transpose(0, 1)


def attended(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    shares = (heads(q) @ heads(k).transpose(1, 2) / 2).softmax(-1)
    return (shares @ heads(v)).transpose(0, 1).reshape(-1, 8)


def test_a_lane_by_hand() -> None:
    """As PreT_Attention and Block in multi_lane/blocks.py of tdemin16/multi-lane, row by row: summaries of what the
    first normalisation gives, keys and values behind those of the lane, and selectors that pass attention by."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.ViTConfig(hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16,
                                    image_size=8, patch_size=4)  # fmt: skip
    network = transformers.ViTModel(config, add_pooling_layer=False).eval()
    for parameter in network.parameters():
        parameter.data = 0.3 * torch.randn_like(parameter)
    encoder = Lanes(Image(network, None), ["a"], selectors=3, prompts=2, layers=1).eval()
    lane = encoder.lane("a")
    assert lane.prompts.shape == (1, 2, 2, 8)
    lane.prompts.data.normal_()
    pixels = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        found = encoder(Batch({"pixel_values": pixels}, 2, rows={"a": (0, 1)})).values
        for row in range(2):
            x = network.embeddings(pixels[row : row + 1])[0]
            own = torch.cat([x[:1], lane.selectors])
            for number, site in enumerate(encoder.sites):
                block: Any = site.block
                read, tokens = block.layernorm_before(x), block.layernorm_before(own)
                alike = (tokens[1:] @ read.T / 8**0.5).softmax(-1)
                lanes = torch.cat([tokens[:1], alike @ read])
                k, v = site.key(lanes), site.value(lanes)
                if number == 0:
                    k, v = torch.cat([lane.prompts[0, 0], k]), torch.cat([lane.prompts[0, 1], v])
                turned = site.out(attended(site.query(lanes), k, v))
                own = own + torch.cat([turned[:1], tokens[1:]])
                own = own + block.mlp(block.layernorm_after(own))
                x = x + site.out(attended(site.query(read), site.key(read), site.value(read)))
                x = x + block.mlp(block.layernorm_after(x))
            assert torch.allclose(found[row], network.layernorm(own)[0], atol=1e-5)
            with encoder.plain() as plain:
                seen = plain(Batch({"pixel_values": pixels[row : row + 1]}, 1)).values[0]
            assert torch.allclose(seen, network.layernorm(x).mean(0), atol=1e-5), "the network itself is as it was"


def test_padding_is_in_no_summary() -> None:
    read = torch.tensor([[[1.0, 0.0], [0.0, 2.0], [50.0, 50.0]]])
    found = summaries(torch.tensor([[[2**0.5, 0.0]]]), read, torch.tensor([[1, 1, 0]]))
    share = float(torch.tensor(1.0).sigmoid())  # outputs 1 and 0
    assert torch.allclose(found, torch.tensor([[[share, 2 * (1 - share)]]]))


def test_a_lane_begins_as_the_last_one_and_learns_alone(bert_folder: Path, text_suite: Suite, tmp_path: Path) -> None:
    """Only what is the arrival's own is trained; a learner that was written goes on to the same numbers."""
    mood = text_suite["mood"]
    first, second = of_tasks("two", [mood, renamed(mood, "again")]).arrivals
    plan = strategy_of("multi_lane", {"selectors": 4, "prompts": 3})
    learner, other = (begin(load_encoder(bert_folder), plan) for _ in range(2))
    learner.learn(first, plan, QUICK)
    before = {name: value.clone() for name, value in lanes_of(learner).state_dict().items()}
    learner.system.save(tmp_path / "first")
    other.adopt(load(tmp_path / "first"))
    lanes_of(other).add_task("next")
    for name, value in lanes_of(other).lane("next").named_parameters():
        assert torch.equal(value, before[f"lanes.mood-0.{name}"])
    del lanes_of(other).lanes["next"]
    for one in (learner, other):
        one.learn(second, plan, QUICK)
    after = lanes_of(learner).state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    for name in ("selectors", "prompts"):
        assert not torch.equal(after[f"lanes.again-1.{name}"], after[f"lanes.mood-0.{name}"])
    assert all(torch.equal(value, after[name]) for name, value in lanes_of(other).state_dict().items())


def test_what_has_no_room_for_lanes_is_said(small_image: SmallImage, bert_folder: Path, text_suite: Suite) -> None:
    with pytest.raises(AllroundError, match="not two or more blocks"):
        Lanes(small_image)
    with pytest.raises(AllroundError, match="an answer for each word"):
        Lanes(load_encoder(bert_folder)).check(text_suite["names"].definition)
    plan = strategy_of("multi_lane", {"selectors": 0})
    with pytest.raises(AllroundError, match="selectors is 0"):
        begin(load_encoder(bert_folder), plan).learn(Arrival("one", (text_suite["mood"],)), plan, QUICK)
