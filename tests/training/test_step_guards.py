"""The guards `tag` and `center`: pinned to the authors' code and by hand, and tried."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

from allround.models.batch import Batch, Features, Targets
from allround.models.encoders.small_image import SmallImage
from allround.models.fitting import fit_head
from allround.models.systems.multi_task_model import MultiTaskModel
from allround.tasks.suite import Suite
from allround.training import unfinished
from allround.training.settings import Settings
from allround.training.term import Term, make_terms
from allround.training.terms.center import Center
from allround.training.terms.tag import Tag
from allround.training.trainer import TrainingRun, train

QUICK = Settings(
    epochs=2, batch_size=16, learning_rate=3e-3, heads="tuned", keep="last", device="cpu", precision="fp32"
)

#: Gradients of two weights in three trainings of two steps each.
GRADIENTS = (
    (([1.0, -2.0], [[0.5], [0.1]]), ([0.5, 1.0], [[-0.2], [0.3]])),
    (([-1.0, -1.0], [[1.0], [0.0]]), ([2.0, 0.5], [[0.4], [-0.4]])),
    (([0.3, 0.7], [[-0.6], [0.2]]), ([1.0, 1.0], [[0.5], [0.5]])),
)


class TwoWeights(nn.Module):
    """Two weights that all tasks share."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor([1.0, 2.0]))
        self.u = nn.Parameter(torch.tensor([[0.5], [-0.5]]))

    def shared(self) -> dict[str, nn.Parameter]:
        return dict(self.named_parameters())

    @property
    def flat(self) -> list[float]:
        return [*self.w.tolist(), *self.u.flatten().tolist()]


def trained_with(term: Tag, rates: tuple[float, ...] = (0.1, 0.1, 0.1)) -> list[list[float]]:
    """The weights after each training."""
    net, found = TwoWeights(), []
    for gradients, rate in zip(GRADIENTS, rates, strict=True):
        term.before(net, [])  # type: ignore[arg-type]
        optimiser = torch.optim.AdamW(net.parameters(), lr=rate, weight_decay=0.0)
        for one, other in gradients:
            net.w.grad, net.u.grad = torch.tensor(one), torch.tensor(other)
            term.edit(net)  # type: ignore[arg-type]
            optimiser.step()
            term.stepped(net)  # type: ignore[arg-type]
        term.after(net)  # type: ignore[arg-type]
        found.append(net.flat)
    return found


def test_tag_is_the_authors() -> None:
    """Numbers of the class TAG in tag_update.py of pranshu28/TAG (optim="adam", lr=0.1, b=5), run on `GRADIENTS`."""
    found = trained_with(Tag(matched=False))
    assert found[0] == pytest.approx([0.806782, 2.126634, 0.365439, -0.691778], abs=2e-6)
    assert found[1] == pytest.approx([0.457115, 2.290738, -0.586434, -0.511403], abs=2e-6)
    assert found[2] == pytest.approx([0.372202, 2.194957, -0.580716, -0.568149], abs=2e-6)


def test_tag_of_the_authors_is_the_matched_one_at_a_higher_rate() -> None:
    """exp(5 / 2) = 12.18 times from the second training on: the own share of the sum is exp(-5)."""
    high = 0.1 * torch.tensor(2.5).exp().item()
    authors, matched = trained_with(Tag(matched=False)), trained_with(Tag(), (0.1, high, high))
    assert matched[2] == pytest.approx(authors[2], abs=1e-4) and matched[1] != pytest.approx(matched[0], abs=1e-2)


def test_matched_tag_only_shortens_steps() -> None:
    term = Tag()
    trained_with(term)
    m, v = torch.tensor([1.0, 0.0]), torch.tensor([1e-3, 1e-3])
    factor = term.factor("w", m, v, 1)
    assert bool((factor < 1).all() and (factor > 0).all())
    # By hand: unit directions d_i, squares v_i, cos_i = d_i[0], a_i = exp(5 (1 - cos_i)).
    d, squares = term.state["directions"]["w"], term.state["squares"]["w"]
    total = v + sum(torch.exp(5 * (1 - d[i][0])) * squares[i] for i in range(3))
    assert torch.allclose(factor, (v / total).sqrt(), rtol=1e-4)
    assert torch.equal(Tag().factor("w", m, v, 1), torch.ones(2)), "the first training is AdamW's"


@pytest.fixture(scope="module")
def model(digits_suite: Suite, small_image: SmallImage) -> MultiTaskModel:
    made = MultiTaskModel(copy.deepcopy(small_image), {})
    for name in ("digit", "ink"):
        task = digits_suite[name]
        made.add_task(task.definition, fit_head(made.encoder, task).state)
    return made.eval()


def test_tag_holds_old_answers(model: MultiTaskModel, digits_suite: Suite) -> None:
    digit, ink = digits_suite["digit"], digits_suite["ink"]
    rows, moved = digit.splits["validation"].inputs, []
    for terms in ([], [Tag()]):
        made = copy.deepcopy(model)
        train(made, [digit], QUICK, terms=terms)
        before = made.outputs("digit", rows).logits
        train(made, [ink], QUICK, terms=terms)
        moved.append(float((made.outputs("digit", rows).logits - before).square().mean()))
    assert moved[1] < 0.5 * moved[0], moved


def test_centres_by_hand(model: MultiTaskModel, digits_suite: Suite) -> None:
    """Two labels, features (1, 0) and (3, 0) of label 0: the centre begins at (2, 0); then (5, 0) moves it by
    0.5 * 3 / 2, and is 3 away from where it was."""
    task = digits_suite["digit"]
    term, width = Center(weight=2.0, rate=0.5), model.width("digit")
    term.before(model, [task])

    def loss(*firsts: float, label: int = 0) -> float:
        values = torch.zeros(len(firsts), width)
        values[:, 0] = torch.tensor(firsts)
        rows = tuple(range(len(firsts)))
        targets = {"digit": Targets(rows, torch.full((len(firsts),), label))}
        found = term.task_loss(model, "digit", Batch({}, len(firsts), rows={"digit": rows}, targets=targets),
                               Features(values))  # fmt: skip
        assert found is not None
        return float(found)

    assert loss(1.0, 3.0) == 0, "a label without a centre is pulled nowhere"
    term.edit(model)
    assert term.state["centres"]["digit"][0, :2].tolist() == [2.0, 0.0]
    assert loss(5.0) == pytest.approx(2.0 * 0.5 * 9)
    term.edit(model)
    assert term.state["centres"]["digit"][0, 0].item() == pytest.approx(2.75)
    term.after(model)
    assert term.state["kept"]["digit"].tolist() == [1.0] + [0.0] * 9
    term.before(model, [task])
    assert loss(0.0) == pytest.approx(2.75**2)
    loss(7.0, label=1)
    term.edit(model)
    assert term.state["centres"]["digit"][:2, 0].tolist() == [2.75, 7.0], "kept ones stay, new ones begin"


def test_heads_stay_where_all_centres_are_kept(model: MultiTaskModel, digits_suite: Suite) -> None:
    digit = digits_suite["digit"]
    for hold in (True, False):
        made, term = copy.deepcopy(model), Center(hold_heads=hold)
        train(made, [digit], QUICK, terms=[term])
        assert bool(term.state["kept"]["digit"].all())
        centres, head = (
            term.state["centres"]["digit"].clone(),
            made.of_head("digit")["heads.digit.weight"].detach().clone(),
        )
        train(made, [digit, digits_suite["ink"]], QUICK.with_(mix="all"), terms=[term])
        assert torch.equal(made.of_head("digit")["heads.digit.weight"], head) is hold
        assert torch.equal(term.state["centres"]["digit"], centres)
        assert set(term.state["centres"]) == {"digit"}, "numbers have no labels"


@pytest.mark.parametrize("name", ["agem", "center", "ogd", "tag"])
def test_guards_go_on_after_a_kill(
    model: MultiTaskModel, digits_suite: Suite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Killed in the second training: the same weights, and the same that is remembered."""
    digit = digits_suite["digit"]
    begun, first = copy.deepcopy(model), make_terms({name: {}})
    train(begun, [digit], QUICK, terms=first)
    monkeypatch.setattr(unfinished, "SAVE_EVERY", 0.0)
    one_step = TrainingRun.one_step

    def second(kill: bool) -> tuple[MultiTaskModel, Term]:
        made, (term,) = copy.deepcopy(begun), make_terms({name: {}})
        term.state, term.remembered = copy.deepcopy(first[0].state), [digit]
        steps = iter(range(100))

        def dying(self: TrainingRun) -> None:
            if kill and next(steps) == 5:
                raise KeyboardInterrupt
            one_step(self)

        monkeypatch.setattr(TrainingRun, "one_step", dying)
        train(made, [digit], QUICK, seed=1, terms=[term], scratch=tmp_path)
        return made, term

    whole, held = second(kill=False)
    with pytest.raises(KeyboardInterrupt):
        second(kill=True)
    again, kept = second(kill=False)
    assert all(torch.equal(value, again.state_dict()[n]) for n, value in whole.state_dict().items())
    assert {what: set(some) for what, some in kept.state.items()} == {w: set(s) for w, s in held.state.items()}
    assert all(torch.equal(v, kept.state[what][n]) for what, some in held.state.items() for n, v in some.items())
