"""Tasks that nothing is trained on: which they are, and how a suite file says so."""

import pytest

from allround.core.errors import AllroundError
from allround.tasks.definition import Definition
from allround.tasks.make import make_task
from allround.tasks.roles import held_out
from allround.tasks.spec import parse_suite
from allround.tasks.suite import Suite

ABOUT = "{source: x.csv, kind: classification, inputs: text, target: label"
ROWS = [{"text": f"{word} {i}", "label": word} for i in range(10) for word in ("good", "bad")]


def suite_of(hold_out, roles=("train", "train", "train", "guard")):
    lines = [f"  {name}: {ABOUT}, role: {role}, category: {category}}}"
             for name, role, category in zip("abcd", roles, ("qa", "nli", "qa", "qa"), strict=True)]  # fmt: skip
    return parse_suite("\n".join([f"hold_out: {hold_out}", "tasks:", *lines]), name="s")


@pytest.mark.parametrize(
    ("asked", "names"),
    [("b", ("b",)), ("[c, a]", ("a", "c")), ("{category: nli}", ("b",)), ("{category: [qa]}", ("a", "c"))],
)
def test_a_suite_file_names_the_tasks_to_hold_out(asked, names):
    assert suite_of(asked).held_out == names


def test_a_share_is_drawn_by_a_seed_from_the_tasks_that_training_may_see():
    names = {f"t{i}": "" for i in range(20)}
    drawn = held_out({"share": 0.25, "seed": 3}, names, "s")
    assert len(drawn) == 5
    assert drawn == held_out({"share": 0.25, "seed": 3}, names, "s") != held_out(0.25, names, "s")
    assert "d" not in suite_of("0.6").held_out and len(suite_of("0.6").held_out) == 2
    assert held_out("0.25", names, "s") == held_out(0.25, names, "s")


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ("z", "no task 'z'"),
        ("d", "no task 'd'"),
        ("[a, b, c]", "no task would be left"),
        ("1.5", "a share of 1.5"),
        ("{category: cooking}", "no task has the category 'cooking'"),
        ("{share: 0.3, sead: 1}", "the keys share, sead"),
        ("[]", "names no task"),
    ],
)
def test_what_cannot_be_held_out_is_an_error_that_names_the_key(asked, found):
    with pytest.raises(AllroundError, match="hold_out") as error:
        suite_of(asked)
    assert found in error.value.found


def test_a_role_is_kept_with_the_definition_and_changes_nothing_of_others():
    mood = make_task("mood", kind="classification", inputs="text", target="label", data={"train": ROWS})
    tone = make_task("tone", kind="classification", inputs="text", target="label", data={"train": ROWS})
    suite = Suite("s", [mood, tone]).holding_out("tone")
    assert [task.definition.role for task in suite] == ["train", "held_out"]
    assert list(suite.to_train.tasks) == ["mood"]
    assert "role" not in mood.definition.to_json()
    kept = Definition.from_json(suite["tone"].definition.to_json())
    assert kept == suite["tone"].definition and not kept.trained
    assert suite["mood"].content == mood.content
    with pytest.raises(AllroundError, match="`role` is 'heldout'"):
        make_task("mood", kind="classification", inputs="text", target="label", data={"train": ROWS}, role="heldout")
    with pytest.raises(AllroundError, match="all of its tasks"):
        _ = Suite("s", [mood.with_role("guard")]).to_train
