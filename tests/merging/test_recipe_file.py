"""Recipe files in allround's own form: what may stand in them, stages, and errors that name the key."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from allround.core.errors import AllroundError
from allround.merging.recipe import Model, Recipe, Rule, Token, Tokenizer
from allround.merging.recipe_file import read_recipe, read_recipe_documents
from allround.merging.run import run_plan
from allround.merging.stage import Stage

FULL = """
base: org/base
models:
  - first
  - {model: second, adapters: [lora], weights: 0.5}
method: ties
parameters: {keep: 0.2}
rules:
  - {match: "*.layer.3.*", keep: 0.4}
scope: model
dtype: bfloat16
on_mismatch: keep-base
tokenizer: {source: union, pad_to_multiple_of: 8, tokens: {x: {source: {kind: zero}, force: true}, y: {source: first}}}
chat_template: chatml
"""


def read(tmp_path: Path, text: str, **options: Any) -> list[Stage]:
    path = tmp_path / "recipe.yml"
    path.write_text(text)
    return read_recipe(path, **options)


def only(tmp_path: Path, text: str) -> Recipe:
    (stage,) = read(tmp_path, text)
    return stage.recipe


def refused(tmp_path: Path, text: str, *words: str, **options: Any) -> AllroundError:
    with pytest.raises(AllroundError) as caught:
        read(tmp_path, text, **options)
    for word in words:
        assert word in str(caught.value), str(caught.value)
    return caught.value


def test_everything_at_once(tmp_path: Path) -> None:
    (stage,) = read(tmp_path, FULL)
    assert stage.name == "recipe"
    assert stage.earlier == ()
    recipe = stage.recipe
    assert recipe == Recipe(
        "ties",
        (Model("first"), Model("second", ("lora",))),
        Model("org/base"),
        {"keep": 0.2, "weights": [1.0, 0.5]},
        (Rule("*.layer.3.*", {"keep": 0.4}),),
        "model",
        "BF16",
        None,
        "keep-base",
        tokenizer=Tokenizer("union", {"x": Token(zero=True, force=True), "y": Token(Model("first"))}, 8),
        chat_template="chatml",
    )


def test_base_may_be_a_mapping_with_adapters(tmp_path: Path) -> None:
    recipe = only(tmp_path, "{base: {model: b, adapters: [x, y]}, models: [a], method: ties}")
    assert recipe.base == Model("b", ("x", "y"))


def test_a_path_beside_the_recipe_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "there" / "near").mkdir(parents=True)
    (tmp_path / "here" / "near").mkdir(parents=True)
    (tmp_path / "here" / "far").mkdir()
    (tmp_path / "there" / "recipe.yml").write_text("{base: far, models: [near, org/hub], method: ties}")
    monkeypatch.chdir(tmp_path / "here")
    (stage,) = read_recipe(tmp_path / "there" / "recipe.yml")
    assert [m.path for m in stage.recipe.models] == [str(tmp_path / "there" / "near"), "org/hub"]
    assert stage.recipe.base == Model("far")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"bse": "x"}, ("bse", "no such key", "did you mean 'base'?")),
        ({"method": "tise"}, ("method", "did you mean 'ties'?")),
        ({"method": 3}, ("method", "should be text", "quotes")),
        ({"method": None}, ("method", "should be text")),
        ({"parameters": {"kep": 1}}, ("parameters", "no parameter 'kep'", "did you mean 'keep'?")),
        ({"parameters": {"keep": "much"}}, ("parameters", "is a str")),
        ({"parameters": {"keep": [0.1]}}, ("keep", "2 models", "1 values")),
        ({"parameters": {"normalize": 1}}, ("normalize", "bool")),
        ({"parameters": [1]}, ("parameters", "mapping")),
        ({"parameters": {1: 2}}, ("the key 1 should be text",)),
        ({"models": []}, ("models", "list")),
        ({"models": "one"}, ("models", "list")),
        ({"models": [3]}, ("models[0]", "quotes")),
        ({"models": [None]}, ("models[0]", "text")),
        ({"models": [""]}, ("models[0]", "text")),
        ({"models": ["a\0b"]}, ("models[0]", "not a path")),
        ({"models": [{"adapters": ["x"]}]}, ("models[0].model", "missing")),
        ({"models": [{"model": "a", "wieghts": 1}]}, ("models[0].wieghts", "did you mean 'weights'?")),
        ({"models": [{"model": "a", "weights": "x"}]}, ("models[0].weights", "is a str")),
        ({"models": [{"model": "a", "weights": [1, 2]}]}, ("models[0].weights", "a list")),
        ({"models": [{"model": "a", "scale": 1}]}, ("models[0].scale", "one value for all", "parameters")),
        (
            {"models": [{"model": "a", "keep": 1}, "b"], "parameters": {"keep": [1, 1]}},
            ("parameters.keep", "one place"),
        ),
        ({"base": None}, ("no base is given",)),
        ({"base": {"model": "b", "rev": "x"}}, ("base.rev", "no such key")),
        ({"base": {"model": "b", "adapters": 3}}, ("base.adapters", "list")),
        ({"rules": {"match": "*"}}, ("rules", "list")),
        ({"rules": [{"keep": 1}]}, ("rules[0].match", "missing")),
        ({"rules": [{"match": "*", "kepe": 1}]}, ("rules[0].kepe", "did you mean 'keep'?")),
        ({"rules": [{"match": "*", "keep": "x"}]}, ("rules[0]", "is a str")),
        ({"rules": [{"match": "*", "keep": [1, 1, 1]}]}, ("rules[0].keep", "3 values for 2 models")),
        ({"scope": "modle"}, ("scope", "did you mean 'model'?")),
        ({"dtype": "bfloat61"}, ("dtype", "did you mean 'bfloat16'?")),
        ({"dtype": "int64"}, ("dtype", "floating-point")),
        ({"on_mismatch": "keep"}, ("on_mismatch", "keep-base")),
        ({"statistics": {"gram": ["a", "b"]}}, ("statistics", "takes no statistics")),
        ({"tokenizer": {"sorce": "union"}}, ("tokenizer.sorce", "did you mean 'source'?")),
        ({"tokenizer": {"tokens": {"a": {"source": {"kind": "zer"}}}}}, ("kind", "did you mean 'zero'?")),
        ({"tokenizer": {"tokens": {"a": {"source": {"kind": "model_token", "model": "m"}}}}}, ("exactly one token",)),
        ({"tokenizer": {"pad_to_multiple_of": 0}}, ("pad_to_multiple_of", "from 1 to 4096")),
        ({"tokenizer": {"pad_to_multiple_of": 1_000_000_000}}, ("pad_to_multiple_of", "from 1 to 4096")),
        ({"tokenizer": {"tokens": {"a": {"force": 1}}}}, ("force", "true or false")),
        ({"chat_template": "chatlm"}, ("chat_template", "did you mean 'chatml'?")),
    ],
)
def test_what_is_refused(tmp_path: Path, change: dict[str, Any], words: tuple[str, ...]) -> None:
    document = {"base": "b", "models": ["a", "c"], "method": "ties", **change}
    refused(tmp_path, yaml.safe_dump(document), *words)


def test_statistics_are_one_file_for_each_model(tmp_path: Path) -> None:
    start = "{base: b, models: [m, n], method: fisher, statistics: {"
    recipe = only(tmp_path, start + "fisher: [x.safetensors, y.safetensors]}}")
    assert recipe.statistics == {"fisher": ("x.safetensors", "y.safetensors")}
    refused(tmp_path, start + "fisher: [x.safetensors]}}", "statistics.fisher", "1 files for 2 models")
    refused(tmp_path, start + "fishre: [x.safetensors]}}", "statistics.fishre", "did you mean 'fisher'?")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ("empty",)),
        ("a: [", ("line 2", "correct the YAML")),
        ("method: a\nmethod: b\n", ("line 2", "'method' stands twice")),
        ("- 1", ("should be a mapping",)),
        ("just words", ("should be a mapping",)),
        ("a: 1\n---\nb: 2\n", ("2 documents", "`stages`")),
        ("a: !!python/object/apply:os.system [ls]", ("could not determine a constructor",)),
        ("{" * 3000, ("exceeded maximum nesting depth",)),
        ("a: &a [*a]", ("holds itself",)),
        ("a: 2024-99-99", ("not readable",)),
        ("models: {a: 1, b: *none}", ("undefined alias",)),
    ],
)
def test_broken_yaml(tmp_path: Path, text: str, words: tuple[str, ...]) -> None:
    refused(tmp_path, text, *words)


def test_aliases_that_grow_are_refused_at_once(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    refused(tmp_path, "\n".join(lines), "more than 100,000 values")


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(AllroundError, match="not there"):
        read_recipe(tmp_path / "none.yml")
    (tmp_path / "latin.yml").write_bytes(b"\xe9\xff")
    with pytest.raises(AllroundError, match="UTF-8"):
        read_recipe(tmp_path / "latin.yml")
    (tmp_path / "large.yml").write_text("#" * (1 << 21))
    with pytest.raises(AllroundError, match="at most"):
        read_recipe(tmp_path / "large.yml")
    with pytest.raises(AllroundError, match="it is a folder, not a file"):
        read_recipe(tmp_path)


def test_compatibility_is_for_files_of_that_kind(tmp_path: Path) -> None:
    refused(tmp_path, FULL, "not a mergekit recipe", compat="mergekit")
    refused(tmp_path, FULL, "did you mean 'mergekit'?", compat="mergekti")


# --- Stages


def test_stages_come_in_the_order_of_their_needs(tmp_path: Path) -> None:
    stages = read(
        tmp_path,
        """
        stages:
          second: {base: b, models: [first, third], method: ties}
          first: {models: [x, {model: y}], method: average}
          last: {base: first, models: [{model: second, adapters: [z]}], method: ties}
        """,
    )
    assert [stage.name for stage in stages] == ["first", "second", "last"]
    assert stages[1].earlier == ("first",)
    assert stages[2].earlier == ("first", "second")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("stages: {}", ("stages", "empty")),
        ("stages: [1]", ("stages", "mapping")),
        ("{stages: {a: {models: [x], method: average}}, method: ties}", ("method", "no such key")),
        ("stages: {a b: {models: [x], method: average}}", ("stages.a b", "file names")),
        ("stages: {a: {models: [x], methd: average}}", ("stages.a.methd", "did you mean 'method'?")),
        ("stages: {a: {models: [a], method: average}}", ("a -> a",)),
        (
            "stages: {a: {models: [b], method: average}, b: {models: [a], method: average},"
            " c: {models: [a], method: average}}",
            ("need one another", "a -> b -> a"),
        ),
        (
            "stages: {both: {models: [x], method: average}, c: {models: [boht], method: average}}",
            ("stages.c.models[0]", "no stage 'boht'", "did you mean 'both'?"),
        ),
        (
            "stages: {a: {models: [b], method: average}, b: {models: [x], method: average}}",
            ("takes the output of the last stage, 'b'",),
        ),
    ],
)
def test_stages_that_are_refused(tmp_path: Path, text: str, words: tuple[str, ...]) -> None:
    refused(tmp_path, text, *words)


def folder(path: Path, **tensors: list[float]) -> Path:
    path.mkdir()
    save_file({name: torch.tensor(values) for name, values in tensors.items()}, path / "model.safetensors")
    (path / "config.json").write_text(json.dumps({"torch_dtype": "float32"}))
    return path


def run(stages: list[Stage], out: Path) -> dict[str, Tensor]:
    folders: dict[str, Path] = {}
    for stage in stages:
        target = folders[stage.name] = out / stage.name
        target.mkdir(parents=True)
        plan = stage.plan(folders)
        run_plan(plan, target, workers=1)
        for step in plan.finish:
            step(target)
    return load_file(target / "model.safetensors")


def test_two_stages_by_hand(tmp_path: Path) -> None:
    folder(tmp_path / "base", w=[1.0, 1.0])
    folder(tmp_path / "one", w=[2.0, 1.0])
    folder(tmp_path / "two", w=[1.0, 4.0])
    stages = read(
        tmp_path,
        """
        stages:
          both: {base: base, models: [one, two], method: task_arithmetic, parameters: {scale: 1}}
          final: {models: [both, {model: base, weights: 3}], method: average, dtype: float16}
        """,
    )
    with pytest.raises(AllroundError, match="the folder of that stage was not given"):
        stages[1].plan()
    # both: [1 + 1, 1 + 3]; final: ([2, 4] + 3 [1, 1]) / 4
    merged = run(stages, tmp_path / "out")
    assert merged["w"].dtype == torch.float16
    torch.testing.assert_close(merged["w"], torch.tensor([1.25, 1.75]).half(), rtol=0, atol=0)
    assert json.loads((tmp_path / "out" / "final" / "config.json").read_text()) == {"torch_dtype": "float16"}


def test_values_of_models_and_rules_by_hand(tmp_path: Path) -> None:
    folder(tmp_path / "base", v=[0.0, 0.0], w=[0.0, 0.0])
    folder(tmp_path / "one", v=[1.0, 0.0], w=[1.0, 0.0])
    folder(tmp_path / "two", v=[0.0, 1.0], w=[0.0, 1.0])
    stages = read(
        tmp_path,
        """
        base: base
        models: [one, {model: two, weights: 3}]
        method: task_arithmetic
        parameters: {scale: 1}
        rules: [{match: "w", scale: 2, weights: [1, 0.5]}]
        """,
    )
    merged = run(stages, tmp_path / "out")
    assert merged["v"].tolist() == [1.0, 3.0]
    assert merged["w"].tolist() == [2.0, 1.0]


# --- Whatever stands in a file, it is a recipe or an error in words

_VALID: list[Any] = [
    yaml.safe_load(FULL),
    {"stages": {"a": {"models": ["x"], "method": "average"}, "b": {"models": ["a", "y"], "method": "average"}}},
    {"merge_method": "ties", "base_model": "b", "models": [{"model": "a+l", "parameters": {"weight": [0, 1]}}],
     "parameters": {"density": [{"filter": "mlp", "value": 0.5}, {"value": 1}]}, "dtype": "bfloat16"},
    {"merge_method": "passthrough", "slices": [{"sources": [{"model": "a", "layer_range": [0, 2]}]}]},
    {"merge_method": "slerp", "base_model": {"model": {"path": "b"}}, "models": [{"model": "a"}, {"model": "b"}],
     "parameters": {"t": 0.5}, "tokenizer": {"source": "union"}},
]  # fmt: skip
_ANY = st.one_of(
    *(st.none(), st.booleans(), st.integers(), st.floats(), st.dates(), st.binary(max_size=3)),
    st.sampled_from(["union", "base", "ties", "a", "", "models", "*", "\0", "a+b+c", "a@b@c", "~nobody/x", "x" * 5000]),
    st.text(max_size=5),
    st.lists(st.none() | st.integers() | st.text(max_size=3), max_size=3),
    st.dictionaries(st.sampled_from(["model", "source", "value", "filter", "match", "x"]), st.integers(), max_size=2),
)
_FUZZ = settings(
    max_examples=150, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck)
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(found for key, child in children for found in places(child, (*path, key)))]


@st.composite
def mutated(draw: st.DrawFn) -> Any:
    """A valid recipe with one to three places changed, taken out, or called otherwise."""
    document = copy.deepcopy(draw(st.sampled_from(_VALID)))
    for _ in range(draw(st.integers(1, 3))):
        path = draw(st.sampled_from(places(document)))
        if not path:
            continue
        holder = document
        for key in path[:-1]:
            holder = holder[key]
        how = draw(st.sampled_from(["change", "drop", "rename"]))
        if how == "change" or isinstance(holder, list):
            holder[path[-1]] = draw(_ANY)
        else:
            value = holder.pop(path[-1])
            if how == "rename":
                holder[draw(st.text(max_size=4) | st.integers() | st.sampled_from(["name", "models", "model"]))] = value
    return document


def attempt(documents: list[Any]) -> None:
    try:
        stages = read_recipe_documents(documents, name="recipe", folder=Path("/nowhere"))
    except AllroundError:
        return
    assert stages
    assert all(isinstance(stage.recipe, Recipe) for stage in stages)


@_FUZZ
@given(mutated())
def test_changed_recipes_are_recipes_or_errors(document: Any) -> None:
    attempt([document])


@_FUZZ
@given(st.text(max_size=60) | st.text("&*a:[]{}-,!|>'\"#%@?<= \n1.e", max_size=60))
def test_any_text_is_a_recipe_or_an_error(text: str) -> None:
    from allround.core.documents import parse_documents

    try:
        attempt(parse_documents(text))
    except AllroundError:
        return


@_FUZZ
@given(st.sampled_from(_VALID), st.integers(0, 10**6), st.sampled_from(list("[]{}:,-&*!|>#%\t\n 0a\"'")))
def test_recipes_with_a_stray_sign_are_recipes_or_errors(document: Any, where: int, sign: str) -> None:
    from allround.core.documents import parse_documents

    text = yaml.safe_dump(document)
    where %= len(text)
    try:
        attempt(parse_documents(text[:where] + sign + text[where:]))
    except AllroundError:
        return
