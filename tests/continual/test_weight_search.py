"""Neural Weight Search: kernels of pools, what a task is kept as, and what learning moves."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch

from allround.continual.growing import GrowingLearner
from allround.continual.learner import begin
from allround.continual.strategy import strategy_of
from allround.continual.stream import of_tasks, renamed
from allround.core.errors import AllroundError
from allround.models.batch import Batch
from allround.models.encoders.pooled import Pooled, kernels_of, nearest
from allround.models.encoders.small_image import SmallImage
from allround.tasks.suite import Suite
from allround.training.settings import Settings

QUICK = Settings(epochs=3, batch_size=16, learning_rate=1e-2, keep="last", device="cpu", precision="fp32")
#: Kernels of the three convolutions of `small_image`, and its biases, scales and shifts.
KERNELS, REST = (32, 128 * 32, 128 * 128), 3 * (32 + 128 + 128)


@pytest.fixture(scope="module")
def learner(small_image: SmallImage, digits_suite: Suite) -> GrowingLearner:
    """Two arrivals, with pools of 40 entries."""
    plan = strategy_of("neural_weight_search", {"entries": 40})
    made = begin(copy.deepcopy(small_image), plan)
    assert isinstance(made, GrowingLearner)
    for arrival in of_tasks("two", [digits_suite["digit"], renamed(digits_suite["digit"], "again")]).arrivals:
        made.learn(arrival, plan, QUICK)
    return made


def pooled(learner: GrowingLearner) -> Pooled:
    found = learner.grown.bodies[0].encoder
    assert isinstance(found, Pooled)
    return found


def test_a_task_is_kept_as_numbers_of_entries(learner: GrowingLearner, small_image: SmallImage) -> None:
    encoder = pooled(learner)
    one, other = (part.name for part in learner.grown.parts)
    kept = {task: dict(encoder.of_task(task).chosen.named_buffers()) for task in (one, other)}
    for chosen in kept.values():
        assert [value.numel() for value in chosen.values()] == list(KERNELS)
        assert {value.dtype for value in chosen.values()} == {torch.int16}
    assert any(not torch.equal(kept[one][layer], kept[other][layer]) for layer in kept[one]), "each finds its own"
    assert all(torch.equal(p, small_image.state_dict()[n]) for n, p in encoder.inner.state_dict().items())
    for layer, chosen in kept[other].items():
        weight = encoder.weights(other)[f"{layer.replace('/', '.')}.weight"]
        assert torch.equal(weight.reshape(-1, 9), encoder.pool(layer.replace("/", "."))[chosen.long()])


def test_bytes_hold_pools_and_the_width_of_numbers(learner: GrowingLearner) -> None:
    """By hand: 4 bytes for each number of a pool, of a bias and of a scale, 2 for the number of an entry."""
    pools = 4 * 9 * (32 + 40 + 40)
    each = 2 * sum(KERNELS) + 4 * REST
    keys = learner.bytes - pooled(learner).bytes
    assert pooled(learner).bytes == pools + 2 * each and keys > 0, "what tells the arrival is counted beside"
    assert each < 0.07 * 4 * (9 * sum(KERNELS) + REST), "less than 7 % of a copy of the encoder"


def test_learning_goes_straight_through_the_choice(small_image: SmallImage) -> None:
    encoder = Pooled.around(copy.deepcopy(small_image), 40)
    encoder.add_task("a")
    batch = Batch({"images": torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))}, 4, rows={"a": (0, 1)})
    settled = encoder(batch).values
    encoder.train().search("a")
    found = encoder(batch).values
    assert torch.allclose(found, settled, atol=1e-5), "a search begins where the task is"
    assert torch.equal(encoder.eval()(batch).values, settled), "and answers by entries"
    encoder.train()(batch)
    assert float(encoder.penalties()["a"]["commitment"].detach()) == 0
    search = encoder.of_task("a").search
    assert search is not None
    moved = search["layers/3"]
    with torch.no_grad():
        moved += 0.01
    entries = encoder.pool("layers.3")[nearest(moved, encoder.pool("layers.3")).long()]
    weight = encoder.weights("a")["layers.3.weight"]
    assert torch.allclose(weight.reshape(-1, 9), entries, atol=1e-6), "what is used are entries"
    (slope,) = torch.autograd.grad(encoder.penalties()["a"]["commitment"], moved, retain_graph=True)
    wanted = 0.5 / 3 * 2 * (moved - entries) / moved.numel()  # the mean over three layers, times 0.5
    assert torch.allclose(slope, wanted, atol=1e-9)
    (straight,) = torch.autograd.grad(weight.sum(), moved)
    assert torch.equal(straight, torch.ones_like(moved))


def test_pools_are_centres_of_the_kernels(small_image: SmallImage) -> None:
    encoder = Pooled.around(copy.deepcopy(small_image), 40)
    kernels = kernels_of(small_image)
    assert torch.equal(encoder.pool("layers.0"), kernels["layers.0"]), "few kernels are all there"
    for layer in ("layers.3", "layers.7"):
        pool, some = (
            encoder.pool(layer),
            torch.randperm(len(kernels[layer]), generator=torch.Generator().manual_seed(0)),
        )
        drawn = kernels[layer][some[:40]]
        gaps = [float((kernels[layer] - p[nearest(kernels[layer], p).long()]).square().mean()) for p in (pool, drawn)]
        assert gaps[0] < gaps[1], "closer to the kernels than as many of them"


def test_a_pool_that_changes_would_change_old_answers(learner: GrowingLearner, digits_suite: Suite) -> None:
    """A planted fault: the test that old answers stay would see it."""
    made = copy.deepcopy(learner.grown)
    rows = digits_suite["digit"].splits["test"].inputs
    before = made.answers("digit", rows, scores=True).scores
    encoder = made.bodies[0].encoder
    assert isinstance(encoder, Pooled)
    encoder.pool("layers.3").mul_(1.01)
    after = made.answers("digit", rows, scores=True).scores
    assert before is not None and after is not None and abs(before - after).max() > 0  # type: ignore[operator]


def test_numbers_of_entries_take_two_bytes(small_image: SmallImage) -> None:
    plan = strategy_of("neural_weight_search", {"entries": 40_000})
    with pytest.raises(AllroundError, match="two bytes"):
        begin(small_image, replace(plan))
