"""ZipIt: the paper's own matching, networks zipped wholly and in part, and the commands."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from typer.testing import CliRunner

from allround.cli.app import app
from allround.core.errors import AllroundError
from allround.merging.align.flops import OperationCache, flops_of
from allround.merging.align.match import assign, correlation, zip_features
from allround.merging.align.models import ZipMerge, batches_from, zip_models
from allround.merging.align.networks import learn, reset_statistics
from allround.merging.align.spaces import spaces_of
from allround.merging.align.zipping import cuts_of, mixed, zip_networks
from allround.models.encoders.module import Module
from allround.models.encoders.small_image import SmallImage
from allround.models.model import parameters_of
from allround.models.system import System, load
from allround.models.systems.multi_task_model import MultiTaskModel
from allround.models.systems.zipped import Zipped
from allround.tasks.suite import Suite

#: Features of two models with four each, on twelve rows.
FEATURES = [
    [-1, 2, 0, -2, -1, -2, 0, 1, 1, 2, 2, -2], [-2, 2, 1, -1, 0, -4, 0, 3, 3, 2, 2, 0],
    [2, 0, -1, 2, 1, -1, 2, 2, -2, 2, -2, -2], [-1, 4, -2, 0, -2, -1, 2, 1, -1, 2, 4, -2],
    [-1, -2, 0, 0, -1, 2, 2, -1, 0, 0, -1, 2], [-2, -2, 2, -2, -3, 3, 4, 1, -1, 0, -1, 1],
    [2, -1, -1, 0, 3, 0, 4, 4, 0, 3, -4, -1], [2, 0, 2, 2, 0, 2, -2, 0, 0, 2, -2, -2],
]  # fmt: skip


# Computed by match_tensors_zipit and match_tensors_permute of matching_functions.py in gstoica27/ZipIt; as there, on
# random covariances of up to three models of sixteen features, wherever the paper's code does not run out of pairs.
@pytest.mark.parametrize(
    ("alpha", "beta", "expected"),
    [
        (0.3, 0.125, [0, 0, 1, 2, 3, 3, 1, 1]),
        (0.5, 1.0, [0, 0, 1, 0, 2, 2, 1, 3]),
        (1.0, 0.5, [0, 0, 1, 2, 3, 3, 1, 1]),
        (0.1, 1.0, [0, 0, 1, 0, 2, 2, 1, 3]),
    ],
)
def test_features_are_zipped_as_by_the_authors(alpha: float, beta: float, expected: list[int]) -> None:
    similar = correlation(torch.cov(torch.tensor(FEATURES, dtype=torch.float32)))
    assert zip_features(similar, 2, alpha=alpha, beta=beta).argmax(1).tolist() == expected


def test_features_are_permuted_as_by_the_authors() -> None:
    similar = correlation(torch.cov(torch.tensor(FEATURES, dtype=torch.float32)))
    assert assign(similar[:4, 4:]).tolist() == [3, 0, 2, 1]


def test_alpha_and_beta_of_zero_forbid() -> None:
    similar = correlation(torch.cov(torch.randn(24, 60, generator=torch.Generator().manual_seed(0))))
    pairs = zip_features(similar, 2, alpha=0.0, beta=0.0)
    assert (pairs.sum(0) == 2).all() and (pairs[:12].sum(0) == 1).all()
    apart = zip_features(similar, 2, beta=0.0)
    assert (apart[:12].sum(0) > 0).all() and (apart[12:].sum(0) > 0).all()
    for groups in (pairs, apart, zip_features(similar, 3, beta=1.0)):
        assert (groups.sum(1) == 1).all() and (groups.sum(0) > 0).all()
    with pytest.raises(AllroundError, match="alpha and beta"):
        zip_features(similar, 2, alpha=2.0)


def plainly_zipped(similar: Tensor, k: int, alpha: float, beta: float) -> list[int]:
    """The same by a search of the whole matrix at each step: the first of those that are most alike."""
    total, n, never = len(similar), len(similar) // k, -torch.inf
    alike = similar.clone().fill_diagonal_(never)
    linked, group, budget = alike.clone(), list(range(total)), [int((total - n) // k * beta + 1e-4)] * k
    own = [slice(model * n, (model + 1) * n) for model in range(k)]
    for rows in own if beta == 0 else ():
        alike[rows, rows] = never
    for _ in range(total - n):
        searched = alike if float(alike.max()) > never else linked
        kept, gone = sorted(divmod(int(searched.argmax()), total))
        group = [kept if one == gone else one for one in group]
        for matrix, factor in ((alike, alpha), (linked, 1.0)):
            row = torch.minimum(matrix[kept], matrix[gone])
            matrix[kept] = matrix[:, kept] = torch.where(row > never, row * factor, row) if factor else never
            matrix[gone] = matrix[:, gone] = never
        if kept // n == gone // n:
            budget[kept // n] -= 1
            if budget[kept // n] <= 0:
                alike[own[kept // n], own[kept // n]] = never
    return [sorted(set(group)).index(one) for one in group]


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("beta", [0.0, 0.125, 1.0])
def test_the_most_alike_are_found_as_by_a_search_of_everything(alpha: float, beta: float) -> None:
    generator = torch.Generator().manual_seed(0)
    for k, n in ((1, 5), (2, 1), (2, 9), (3, 6)):
        similar = torch.rand(k * n, k * n, generator=generator) * 2 - 1
        similar = (similar + similar.T) / 2
        for one in (similar, (similar * 4).round() / 4):  # the second with many that are as alike
            assert zip_features(one, k, alpha=alpha, beta=beta).argmax(1).tolist() == plainly_zipped(
                one, k, alpha, beta
            )


class Net(nn.Module):
    """A small net with BatchNorm and a residual block."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.inner = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(inplace=True))
        self.last = nn.Sequential(nn.Conv2d(8, 12, 3, stride=2), nn.BatchNorm2d(12), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return torch.as_tensor(self.last(x + self.inner(x)).mean((2, 3)))


def models(suite: Suite, kind: str = "module") -> list[MultiTaskModel]:
    made = []
    for seed, task in enumerate(("digit", "ink")):
        torch.manual_seed(seed)
        encoder = Module(Net(), dim=12) if kind == "module" else SmallImage(size=8)
        model = MultiTaskModel(encoder, {task: suite.tasks[task].definition})
        nn.init.normal_(model.heads[task].get_parameter("weight"))
        made.append(model.eval())
    for model in made:
        reset_statistics(model.encoder, batches_from(made, suite, rows=32))
    return made


def answers(system: System, suite: Suite) -> dict[str, Tensor]:
    """The outputs of the head of each task."""
    found = {}
    for name in system.definitions:
        model = system.member(name) if isinstance(system, Zipped) else system
        assert isinstance(model, MultiTaskModel)
        found[name] = model.outputs(name, suite.tasks[name].splits["test"].inputs).logits
    return found


def zipped(suite: Suite, given: list[MultiTaskModel], **options: object) -> ZipMerge:
    return zip_models(given, batches_from(given, suite, rows=32), **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["module", "small_image"])
@pytest.mark.parametrize("depth", [1.0, 0.7])
def test_a_model_zipped_with_itself_is_itself(digits_suite: Suite, kind: str, depth: float) -> None:
    first, other = models(digits_suite, kind)
    other.encoder = deepcopy(first.encoder)
    made = zipped(digits_suite, [first, other], depth=depth, beta=0.0, alpha=0.0)
    expected = {**answers(first, digits_suite), **answers(other, digits_suite)}
    for name, logits in answers(made.model, digits_suite).items():
        torch.testing.assert_close(logits, expected[name], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("by", ["zip", "permute"])
def test_a_shuffled_copy_is_merged_without_loss(digits_suite: Suite, by: str) -> None:
    from allround.merging.align.models import align_models

    first, other = models(digits_suite)
    shuffled = align_models(other, deepcopy(first), batches_from([first, other], digits_suite, rows=32)).model
    assert isinstance(shuffled, MultiTaskModel)
    made = MultiTaskModel(shuffled.encoder, {})
    made.add_task(other.definitions["ink"], {"weight": torch.zeros(1, 12), "bias": torch.zeros(1)})
    expected = answers(first, digits_suite)["digit"]
    options = {"alpha": 0.0, "beta": 0.0} if by == "zip" else {}
    found = answers(zipped(digits_suite, [first, made], by=by, **options).model, digits_suite)["digit"]
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
    lost = answers(zipped(digits_suite, [first, made], by="average").model, digits_suite)["digit"]
    assert (lost - expected).abs().max() > 0.1


def test_a_partial_zip_shares_a_trunk(digits_suite: Suite, tmp_path: Path) -> None:
    given = models(digits_suite)
    made = zipped(digits_suite, given, depth=0.7)
    assert isinstance(made.model, Zipped) and made.zipped.cut == "network.inner.0"
    assert made.statistics == 3
    one, two = made.model.encoders
    assert one.network.stem[0].weight is two.network.stem[0].weight
    assert not torch.equal(one.network.last[0].weight, two.network.last[0].weight)
    single, merged, apart = (made.flops[name] for name in ("single", "merged", "apart"))
    trunk = 2 * 9 * 8 * 64 * (1 + 8)  # two convolutions: 9 weights, 8 channels, 64 places, 1 and 8 inputs
    assert apart == 2 * single and merged == apart - trunk
    shared = parameters_of(one.network.stem) + parameters_of(one.network.inner)
    encoders = parameters_of(nn.ModuleList(made.model.encoders))
    assert encoders == 2 * parameters_of(given[0].encoder) - shared
    made.model.save(tmp_path / "model")
    again = load(tmp_path / "model", module=Net())
    assert isinstance(again, Zipped) and parameters_of(nn.ModuleList(again.encoders)) == encoders
    heads = sum(parameters_of(model.heads) for model in given)
    assert again.parameters_stored == made.model.parameters_stored == encoders + heads
    assert flops_of(again.encoders, batches_from(given, digits_suite, rows=4)) == merged
    for name, logits in answers(made.model, digits_suite).items():
        assert torch.equal(answers(again, digits_suite)[name], logits)


def test_cuts_do_not_go_through_a_residual_stream() -> None:
    trace = learn([Net()], [("", torch.randn(2, 1, 8, 8))], free_output=True)
    assert [name for _, name, _ in cuts_of(trace, spaces_of(trace))] == ["inner.0", "last.0"]


def test_unknown_depths_and_tasks_are_refused(digits_suite: Suite) -> None:
    given = models(digits_suite)
    for depth, words in ((0.05, "so early"), ("nothing", "a layer of that name"), (1.5, "so early")):
        with pytest.raises(AllroundError, match=words):
            zipped(digits_suite, given, depth=depth)
    with pytest.raises(AllroundError, match="in two of them"):
        zipped(digits_suite, [given[0], given[0]])
    with pytest.raises(AllroundError, match="no such way"):
        zipped(digits_suite, given, by="sewing")


def test_heads_go_one_to_one_and_hidden_units_are_zipped() -> None:
    layers = [nn.TransformerEncoderLayer(8, 2, 12, batch_first=True) for _ in range(2)]
    nets = [nn.Sequential(nn.Linear(4, 8), layer, nn.Linear(8, 3)).eval() for layer in layers]
    batches = [("", torch.randn(32, 5, 4))]
    made = zip_networks(learn(nets, batches), nets, batches, beta=1.0)
    assert {str(space) for space, _ in made.folds} == {"8", "12"}
    assert any(space.inner for space in made.orders[1])
    assert all(0 < mixed(one) <= one.unmerge.shape[-1] for one in made.folds.values())


def test_once_computes_once_and_right() -> None:
    x, weight = torch.ones(3, 3), torch.eye(3)
    with torch.no_grad(), OperationCache():
        a = (x @ weight).relu_()
        b = x @ weight
        b += 1  # what is changed in place is never taken for what it was
        c = x @ weight
        d, e = (x.view(9) * 2, x.view(9) * 2)
    assert torch.equal(a, x) and torch.equal(b, x + 1) and torch.equal(c, x)
    assert d is e


def cli(*words: object) -> str:
    result = CliRunner().invoke(app, [str(word) for word in words])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


def test_align_then_merge_and_zip_on_the_command_line(digits_suite: Suite, tmp_path: Path) -> None:
    first, other = (tmp_path / name for name in ("a", "b"))
    for model, folder in zip(models(digits_suite, "small_image"), (first, other), strict=True):
        model.save(folder)
    said = cli("align", first, other, "--suite", "digits", "--rows", 16, "-o", tmp_path / "like")
    assert "layers.3" in said and "8 x 16" in said and "allround merge --no-base" in said
    cli("align", first, other, "--by", "weights", "-o", tmp_path / "weights")
    cli("merge", "--no-base", first, tmp_path / "like", "-o", tmp_path / "merged")
    assert set(load(tmp_path / "merged").definitions) == {"digit", "ink"}
    said = cli("zip", first, other, "--suite", "digits", "--rows", 16, "--depth", "layers.3", "-o", tmp_path / "zipped")
    assert "up to layers.3: 67% of the layers" in said and "(1.50x)" in said
    board = cli("evaluate", tmp_path / "zipped", "digits", "--only", "digit,ink", "--limit", "test=30")
    assert "digit" in board
    with pytest.raises(AllroundError, match="no suite is given"):
        cli("align", first, other, "-o", tmp_path / "none")
    with pytest.raises(AllroundError, match="must not lie within"):
        cli("align", first, other, "--by", "weights", "-o", other)


def test_a_table_that_is_also_read_as_a_matrix_is_reordered_and_not_averaged() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.layer = nn.Embedding(9, 6), nn.Linear(6, 6)

        def forward(self, ids: Tensor) -> Tensor:
            return torch.as_tensor(torch.tanh(self.layer(self.table(ids))) @ self.table.weight.T)

    trace = learn([Tied()], [("", torch.zeros(2, 3, dtype=torch.long))])
    assert sorted(str(space) for space in spaces_of(trace)) == ["6"]
    assert [space.mergeable for space in spaces_of(trace)] == [(False,)]
