"""The command line as a user meets it: help, answers, errors in three parts with exit code 2."""

from __future__ import annotations

import errno
import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from allround.checkpoints import weights as weights_module
from allround.cli import main
from allround.cli.app import app
from allround.core.errors import AllroundError
from allround.core.outputs import work_folder
from allround.models.encoders.small_image import SmallImage
from allround.models.systems.multi_task_model import MultiTaskModel
from allround.tasks.modalities.image import picture
from allround.tasks.sources.load import load_raw
from allround.tasks.suite import Suite


def cli(*words: Any) -> str:
    """Run a command in this process and give what it printed; an AllroundError comes through."""
    result = CliRunner().invoke(app, [str(w) for w in words])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


def shell(*words: Any, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command in a process of its own."""
    command = [sys.executable, "-m", "allround", *[str(w) for w in words]]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment}, timeout=300)


@pytest.fixture
def ended(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """Run a command line in this process as the program does: its exit code, and what it says on stderr."""
    monkeypatch.setattr("allround.cli.stopping.heed_interruptions", lambda: None)

    def run(*words: Any) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["allround", *map(str, words)])
        with pytest.raises(SystemExit) as end:
            main()
        return int(end.value.code or 0), capsys.readouterr().err

    return run


@pytest.fixture(scope="module")
def flowers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A suite file with two tasks on CSV files."""
    folder = tmp_path_factory.mktemp("flowers")
    lines = ["length,width,species,petal"]
    for i in range(90):
        kind = i % 3
        lines.append(
            f"{4 + kind + i % 7 / 10:.1f},{3 - kind / 2 + i % 5 / 10:.1f},s{kind},{1 + 2 * kind + i % 4 / 10:.1f}"
        )
    (folder / "data.csv").write_text("\n".join(lines) + "\n")
    (folder / "suite.yml").write_text(
        "tasks:\n"
        "  species: {source: data.csv, inputs: [length, width], target: species, kind: classification}\n"
        "  petal: {source: data.csv, inputs: [length, width], target: petal, kind: regression}\n"
    )
    return folder


@pytest.fixture(scope="module")
def model(flowers: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("models") / "joint"
    cli("train", flowers / "suite.yml", "--base", "small_table", "--out", out, "--epochs", "2")
    return out


@pytest.fixture(scope="module")
def two_specialists(
    digits_suite: Suite, small_image: SmallImage, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path, Path]:
    """A base folder and two tuned models."""
    folder = tmp_path_factory.mktemp("specialists")
    (folder / "base").mkdir()
    small_image.save(folder / "base")
    for task in ("digit", "ink"):
        cli("tune", "digits", task, "--base", folder / "base", "--out", folder / task, "--epochs", "1", "--limit",
            "train=60", "--limit", "validation=30", "--limit", "test=30")  # fmt: skip
    return folder / "base", folder / "digit", folder / "ink"


def test_help_imports_nothing_heavy_and_lists_every_command_in_full() -> None:
    code = """
import sys
from allround.cli.app import app
for asked in ([], ["build"], ["merge"], ["tasks"], ["tasks", "list"]):
    app([*asked, "--help"], standalone_mode=False)
heavy = ("torch", "numpy", "datasets", "sklearn", "transformers", "yaml", "jinja2", "rich", "pygments", "markdown_it")
print("heavy:", [name for name in heavy if name in sys.modules])
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert found.stdout.endswith("heavy: []\n"), found.stderr
    for command in ("build", "train", "tune", "merge", "evaluate", "predict", "tasks", "methods", "doctor"):
        assert f"\n  {command} " in found.stdout
    words = " ".join(found.stdout.split())
    assert "Compare ways of joint training with each other and with specialists, fairly, over several seeds." in words
    assert "..." not in found.stdout.split("Commands:")[1].split("Try it")[0], "no summary is cut short"


COMMANDS = [
    *("build", "train", "tune", "merge", "evaluate", "predict", "doctor"),
    *("tasks list", "tasks show", "tasks check", "tasks import", "methods list", "methods show"),
]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command_has_an_example(command: str) -> None:
    assert f"Example: `allround {command}" in " ".join(cli(*command.split(), "--help").split())


def test_help_in_no_width(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("COLUMNS", "0")
    monkeypatch.setattr(sys, "argv", ["allround", "--help"])
    with pytest.raises(SystemExit):
        main()
    shown = capsys.readouterr().out
    assert "Usage:" in shown and "predict" in shown


def test_version() -> None:
    import allround

    assert cli("--version").strip() == f"allround {allround.__version__}"


def test_methods_list_as_json_names_papers_by_title() -> None:
    listed = {e["name"]: e for e in json.loads(cli("methods", "list", "--family", "merge", "--json"))}
    assert listed["ties"]["papers"] == ["Resolving Interference When Merging Models"]
    assert listed["ties"]["room"] == "merging" and listed["ties"]["needs"] == []
    assert {p["name"]: p["default"] for p in listed["ties"]["parameters"]} == {
        "keep": 0.2, "scale": 1.0, "weights": 1.0, "normalize": True
    }  # fmt: skip


def test_methods_show_gives_formula_and_parameters() -> None:
    shown = cli("methods", "show", "ties")
    assert "Formula:" in shown and "--keep float, or one for each model (default 0.2" in shown
    with pytest.raises(AllroundError, match="did you mean 'ties'"):
        cli("methods", "show", "tiess")


def test_tasks_list_show_and_check(flowers: Path) -> None:
    assert "digits" in cli("tasks", "list")
    assert "species" in cli("tasks", "list", flowers / "suite.yml")
    shown = cli("tasks", "show", flowers / "suite.yml", "species")
    assert "length, width (table)" in shown and "labels       s0, s1, s2" in shown
    assert "2 tasks can be used" in cli("tasks", "check", flowers / "suite.yml")


def test_tasks_show_has_the_prompt_of_a_row(tmp_path: Path) -> None:
    rows = [{"q": f"Is it {i}?", "c": ["no", "yes"], "n": i % 2, "a": [f"It is {i}", str(i)]} for i in range(12)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "s.yml").write_text(
        "tasks:\n"
        "  quiz: {source: rows.jsonl, kind: multiple_choice, inputs: [q, c], target: n, choices: c, shots: 1,\n"
        '         system: Be brief., prompts: ["{q}\\n{c}\\nAnswer:", "{q} {c}"]}\n'
        "  say: {source: rows.jsonl, kind: text, inputs: q, target: a, metric: token_f1}\n"
    )
    shown = cli("tasks", "show", tmp_path / "s.yml", "quiz", "--rows", "1")
    row, said = shown.split("\nThe prompt of the first row (the first of 2), without a chat template:\n\n")
    assert row.endswith("q: Is it 0?, c: A. no B. yes\n  -> A\n")
    lines = [line.strip() for line in said.splitlines()]
    assert lines[:2] == ["Be brief.", ""] and lines[-5:] == ["Is it 0?", "A. no", "B. yes", "Answer:", "-> no"]
    found = json.loads(cli("tasks", "show", tmp_path / "s.yml", "say", "--json"))
    assert found["asked"] == {"prompt": "Q: Is it 0?\nAnswer:", "answer": "It is 0"}
    assert found["examples"][0] == [["Is it 0?"], ["It is 0", "0"]]


def test_doctor_says_what_is_there() -> None:
    found = shell("doctor")
    assert found.returncode == 0 and "have      torch" in found.stdout


def test_train_evaluate_and_predict(flowers: Path, model: Path, tmp_path: Path) -> None:
    shown = cli("evaluate", model, flowers / "suite.yml", "--out", tmp_path / "scores")
    assert "species" in shown and "petal" in shown
    board = json.loads((tmp_path / "scores" / "scoreboard.json").read_text())
    as_json = json.loads(cli("evaluate", model, flowers / "suite.yml", "--json"))
    assert as_json["cells"] == board["cells"]
    assert cli("predict", model, "--task", "species", "4.0", "3.0").startswith("s0  (")
    float(cli("predict", model, "--task", "petal", "4.0", "3.0"))
    (tmp_path / "rows.csv").write_text("length,width\n4.0,3.0\n6.5,2.1\n")
    cli("predict", model, "--task", "species", "--input", tmp_path / "rows.csv", "--output", tmp_path / "answers.jsonl")
    answers = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    assert [a["prediction"] for a in answers] == ["s0", "s2"] and answers[0]["length"] == 4.0


@pytest.mark.parametrize("kind", ["datasets", "bytes", "struct", "large"])
def test_images_of_a_parquet_file_are_those_of_a_suite(
    digits_suite: Suite, small_image: SmallImage, tmp_path: Path, kind: str
) -> None:
    """Written by `datasets` or by any other library; grey of 16 bits as well, which the two read alike."""
    import datasets
    import pyarrow as pa
    import pyarrow.parquet as pq
    from PIL import Image

    definition = digits_suite.tasks["digit"].definition
    model = MultiTaskModel(small_image, {})
    weight = torch.randn(10, 128, generator=torch.Generator().manual_seed(0))
    model.add_task(definition, {"weight": weight, "bias": torch.zeros(10)})
    model.save(tmp_path / "model")
    rows = digits_suite.tasks["digit"].splits["test"].inputs[:4]
    files = []
    for number, (image,) in enumerate(rows):
        if number == 3:
            image = Image.fromarray(np.asarray(image).astype(np.uint16) * 257)
        image.save(tmp_path / f"{number}.png")
        files.append((tmp_path / f"{number}.png").read_bytes())
    stored = [{"bytes": data, "path": None if number else "zero.png"} for number, data in enumerate(files)]
    file, labels = tmp_path / "rows.parquet", list("0123")
    if kind == "datasets":
        features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("string")})
        datasets.Dataset.from_dict({"image": stored, "label": labels}, features=features).to_parquet(file)
    else:
        column = {"bytes": pa.array(files), "large": pa.array(files, pa.large_binary()), "struct": pa.array(stored)}
        pq.write_table(pa.table({"image": column[kind], "label": labels}), file)

    found = [json.loads(line) for line in cli("predict", tmp_path / "model", "--input", file).splitlines()]
    wanted = model.predict("digit", rows)
    assert [row["prediction"] for row in found] == wanted and len(set(wanted)) > 1
    suite = load_raw(str(file), base_dir=tmp_path)["train"]
    assert model.predict("digit", [picture(row["image"]) for row in suite]) == wanted
    named = kind in ("datasets", "struct")
    assert [row["image"] for row in found] == ["zero.png" if named else "row 0", "row 1", "row 2", "row 3"]
    words = [str(tmp_path / f"{number}.png") for number in range(4)]
    shown = [json.loads(line) for line in cli("predict", tmp_path / "model", "--json", *words).splitlines()]
    assert [row["prediction"] for row in shown] == wanted and [row["image"] for row in shown] == words
    pq.write_table(pa.table({"image": pa.array([{"bytes": b"no image", "path": None}])}), file)
    with pytest.raises(AllroundError, match="'image' cannot be read: cannot identify image file"):
        cli("predict", tmp_path / "model", "--input", file, "--strict")


def test_predict_all_tasks_in_the_form_of_the_input(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import allround

    rows = "id;length;width\n007;4.0;3.0\n008;long;3.0\n009;40;2.1\n"
    (tmp_path / "rows.csv").write_text(rows, encoding="utf-8")
    result = CliRunner().invoke(app, ["predict", str(model), "--input", str(tmp_path / "rows.csv"), "--top", "1"])
    header, first, second, third = result.stdout.splitlines()
    assert header == (
        "id;length;width;species_prediction;species_confidence;species_label_1;species_score_1;petal_prediction;note"
    )
    species, petal = (allround.load(model).predict(task, [(4.0, 3.0)])[0] for task in ("species", "petal"))
    cells = first.split(";")
    assert (cells[0], cells[3], cells[5], float(cells[7])) == ("007", species, species, pytest.approx(petal, abs=1e-5))
    assert second == "008;long;3.0;;;;;;'length' holds 'long', which is not a number"
    assert third.split(";")[3] == "s2" and "length: 40.0 is far outside 4 to 6.6" in third
    assert result.stderr.splitlines() == [
        "without an answer: 1 of 3 rows (1 broken), "
        "first row 1 (counted from 0): 'length' holds 'long', which is not a number",
        "unlike the training rows: 1 of 3 rows, first row 2 (counted from 0): length: 40.0 is far outside 4 to 6.6",
    ]
    quiet = CliRunner().invoke(app, ["predict", str(model), "--input", str(tmp_path / "rows.csv"), "--quiet"])
    assert quiet.output == ""
    given = CliRunner().invoke(app, ["predict", str(model), "--input", "-", "--format", "csv"], input=rows)
    assert given.stdout.splitlines()[1].startswith("007;4.0;3.0;s0;")
    counts = json.loads(cli("predict", model, "--input", tmp_path / "rows.csv", "-o", tmp_path / "o.tsv", "--json"))
    assert (counts["rows"], counts["broken"], counts["odd"]) == (3, 1, 1)
    shown = cli("predict", model, "4.0", "3.0", "6.5", "2.1").splitlines()
    assert [line.split("  (")[0] for line in shown] == ["species: s0", "species: s2"] and "\tpetal: " in shown[0]
    with pytest.raises(AllroundError, match="each example has 2: length, width"):
        cli("predict", model, "-")


def test_predict_errors(model: Path) -> None:
    with pytest.raises(AllroundError, match="did you mean 'species'"):
        cli("predict", model, "--task", "specie", "1", "2")
    with pytest.raises(AllroundError, match="each example has 2: length, width"):
        cli("predict", model, "--task", "species", "1")
    with pytest.raises(AllroundError, match="neither inputs nor a file"):
        cli("predict", model, "--task", "species")


def test_merge_keeps_heads_and_takes_the_methods_own_options(
    two_specialists: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    base, digit, ink = two_specialists
    said = cli("merge", base, digit, ink, "--method", "ties", "--keep", "0.4", "--scale=0.5", "-o", tmp_path / "both")
    assert "merged 2 models by ties (keep=0.4, scale=0.5, weights=1.0, normalize=True)" in said
    import allround

    assert list(allround.load(tmp_path / "both").definitions) == ["digit", "ink"]
    recipe = json.loads((tmp_path / "both" / "encoder" / "merge.json").read_text())
    assert recipe["method"] == "ties" and len(recipe["inputs"]["models"]) == 2
    with pytest.raises(AllroundError, match="did you mean 'keep'"):
        cli("merge", base, digit, ink, "--kep", "0.4", "-o", tmp_path / "x")
    with pytest.raises(AllroundError, match="it is not a float"):
        cli("merge", base, digit, ink, "--keep", "much", "-o", tmp_path / "x")
    with pytest.raises(AllroundError, match="its task 'digit' is in another of the models too"):
        cli("merge", base, digit, digit, "-o", tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_nothing_but_a_model_of_ours_is_replaced(two_specialists: tuple[Path, Path, Path], tmp_path: Path) -> None:
    base, digit, ink = two_specialists
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    (tmp_path / "file").write_text("precious")
    for out in ("mine", "file"):
        with pytest.raises(AllroundError, match="choose another --out, move that away, or give --force"):
            cli("merge", base, digit, ink, "-o", tmp_path / out)
        with pytest.raises(AllroundError, match="choose another --out, move that away, or give --force"):
            cli("tune", "digits", "ink", "--base", base, "--out", tmp_path / out)
    assert (tmp_path / "mine" / "thesis.txt").read_text() == (tmp_path / "file").read_text() == "precious"
    cli("merge", base, digit, ink, "--scale", "0.5", "-o", tmp_path / "again")
    with pytest.raises(AllroundError, match="another finished merge is there"):
        cli("merge", base, digit, ink, "--scale", "0.7", "-o", tmp_path / "again")
    cli("merge", base, digit, ink, "--scale", "0.7", "-o", tmp_path / "again", "--force")
    assert not (tmp_path / "again.1").exists(), "all of it was allround's"
    assert json.loads((tmp_path / "again" / "encoder" / "merge.json").read_text())["parameters"]["scale"] == 0.7


def test_evaluate_does_not_write_into_a_build(model: Path, flowers: Path, tmp_path: Path) -> None:
    with work_folder(tmp_path / "run", "build"):
        pass
    with pytest.raises(AllroundError, match="the working folder of 'build'"):
        cli("evaluate", model, flowers / "suite.yml", "--out", tmp_path / "run")


@pytest.mark.parametrize("value", ["nan", "inf"])
def test_numbers_that_are_none(value: str, two_specialists: tuple[Path, Path, Path], tmp_path: Path) -> None:
    base, digit, ink = two_specialists
    with pytest.raises(AllroundError, match="not a finite number"):
        cli("merge", base, digit, ink, "--scale", value, "-o", tmp_path / "x")
    with pytest.raises(AllroundError, match="give a positive budget"):
        cli("build", "digits", "--budget", value, "--out", tmp_path / "x")
    with pytest.raises(AllroundError, match="give a share such as"):
        cli("build", "digits", "--worst", value, "--out", tmp_path / "x")
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("option", ["--only", "--methods"])
def test_a_list_that_names_nothing_is_refused(option: str, tmp_path: Path) -> None:
    with pytest.raises(AllroundError, match="it names nothing"):
        cli("build", "digits", option, ",", "--out", tmp_path / "x")


def test_show_takes_one_task() -> None:
    with pytest.raises(AllroundError, match="digit,ink"):
        cli("tasks", "show", "digits", "digit,ink")


@pytest.mark.parametrize("text", ["null", "3", "[1, 2]", '"text"', '{"a": 1}\n[1]'])
def test_json_that_holds_no_rows_is_refused_and_does_not_crash(
    text: str, ended: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    (tmp_path / "rows.jsonl").write_text(text + "\n")
    (tmp_path / "suite.yml").write_text("tasks: {t: {source: rows.jsonl, kind: classification, inputs: a, target: b}}")
    code, said = ended("tasks", "check", tmp_path / "suite.yml")
    assert code == 2 and "object" in said


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("kind", 5, "kind: Input should be a valid string"),
        ("inputs", "length", "inputs: Input should be a valid array"),
        ("inputs", [], "inputs names nothing"),
        ("labels", ["a", "a"], "labels names something twice"),
        ("scale", "x", "scale: Input should be a valid number"),
    ],
)
def test_a_tampered_model_is_refused(field: str, value: object, words: str, model: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(model, tmp_path / "bad")
    about = json.loads((tmp_path / "bad" / "allround.json").read_text())
    about["tasks"][0][field] = value
    (tmp_path / "bad" / "allround.json").write_text(json.dumps(about))
    with pytest.raises(AllroundError, match=words):
        cli("predict", tmp_path / "bad", "--task", "petal", "1", "2")


def test_merge_of_plain_folders(two_specialists: tuple[Path, Path, Path], tmp_path: Path) -> None:
    base, digit, ink = two_specialists
    cli("merge", base, digit / "encoder", ink / "encoder", "--method", "average", "-o", tmp_path / "plain")
    assert (tmp_path / "plain" / "model.safetensors").is_file()
    with pytest.raises(AllroundError, match="is a model that allround saved, and"):
        cli("merge", base, digit, ink / "encoder", "-o", tmp_path / "x")


def test_evaluate_on_tasks_that_the_model_lacks(model: Path, flowers: Path) -> None:
    with pytest.raises(AllroundError, match="has no head for digit; it has: species, petal"):
        cli("evaluate", model, "digits", "--only", "digit")
    shown = cli("evaluate", model, flowers / "suite.yml")
    (line,) = [line for line in shown.splitlines() if line.startswith("species")]
    assert line.count("[") == 2, "each score has its interval"


def test_evaluate_with_another_suites_labels_is_refused(model: Path, flowers: Path, tmp_path: Path) -> None:
    changed = (flowers / "data.csv").read_text().replace("s2", "s9")
    (tmp_path / "data.csv").write_text(changed)
    (tmp_path / "suite.yml").write_text((flowers / "suite.yml").read_text())
    with pytest.raises(AllroundError, match="labels are not those of the suite: s2, s9 differ"):
        cli("evaluate", model, tmp_path / "suite.yml", "--only", "species")


def _write(folder: Path, suite: str, **files: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / f"{name}.csv").write_text(text)
    (folder / "suite.yml").write_text(suite)
    return folder / "suite.yml"


FEW = ["--limit", "train=60", "--limit", "validation=30", "--limit", "test=30"]
GOOD = "x,z,y\n" + "".join(f"{i},{i % 5},{'ab'[i % 2]}\n" for i in range(40))
ONE = """
tasks:
  t:
    source: {train: train.csv, validation: train.csv, test: test.csv}
    kind: classification
    inputs: [x, z]
    target: y
"""

BAD: dict[str, tuple[str, dict[str, str], list[str], str]] = {
    "unknown key": (ONE.replace("target", "targt"), {"train": GOOD, "test": GOOD}, [], "did you mean 'target'"),
    "missing column": (ONE.replace("[x, z]", "[x, q]"), {"train": GOOD, "test": GOOD}, [], "has no column 'q'"),
    "empty file": (ONE, {"train": "", "test": GOOD}, [], "empty"),
    "label unseen in training": (ONE, {"train": GOOD, "test": GOOD + "7,1,c\n"}, [], "'c'"),
    "hostile task name": (ONE.replace("  t:", "  ../t:"), {"train": GOOD, "test": GOOD}, [], "not safe"),
    "wrong base path": (ONE, {"train": GOOD, "test": GOOD}, ["--base", "./no/such/folder"], "there is no such folder"),
    "mistyped base": (ONE, {"train": GOOD, "test": GOOD}, ["--base", "smal_table"], "did you mean 'small_table'"),
    "mistyped method": (ONE, {"train": GOOD, "test": GOOD}, ["--methods", "tie"], "did you mean 'ties'"),
    "settings that the base lacks": (ONE, {"train": GOOD, "test": GOOD}, ["--max-length", "9"], "no such settings"),
    "no such specialist": (ONE, {"train": GOOD, "test": GOOD}, ["--specialist", "t=./nowhere"], "specialist of 't'"),
    "not a number": (ONE, {"train": GOOD, "test": GOOD}, ["--limit", "train=many"], "a whole number"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_ends_with_three_parts_and_exit_code_2(
    case: str, ended: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    suite, files, extra, words = BAD[case]
    path = _write(tmp_path / "in", suite, **files)
    base = [] if "--base" in extra else ["--base", "small_table"]
    line = ["build", path, "--out", tmp_path / "run", *base, *extra]
    code, said = ended(*line)
    assert code == 2, said
    for part in ("asked: ", "found: ", "do: ", words):
        assert part in said
    assert "Traceback" not in said
    if case == "unknown key":  # in a process of its own it is the same
        found = shell(*line)
        assert (found.returncode, found.stderr) == (code, said)


def _damage(case: str, command: str, base: Path, tuned: Path, folder: Path) -> tuple[Path, str]:
    """A copy of a tuned model with something wrong in it, and words of the error that must follow."""
    import shutil

    import torch

    bad = folder / "bad"
    shutil.copytree(tuned, bad)
    weights = bad / "encoder" / "model.safetensors"
    if case == "truncated":
        weights.write_bytes(weights.read_bytes()[:-100])
        return bad, "broken or cut short"
    if case == "pickle":
        weights.unlink()
        torch.save({"layer": shutil.rmtree}, bad / "encoder" / "pytorch_model.bin")
        return bad, "it holds more than tensors" if command == "merge" else "can run code when it is opened"
    (bad / "encoder" / "allround_encoder.json").unlink()
    shutil.rmtree(bad / "encoder")
    (bad / "encoder").mkdir()
    SmallImage(channels=3).save(bad / "encoder")
    return bad, "differs in shape"


@pytest.mark.parametrize("case", ["truncated", "pickle", "shape"])
@pytest.mark.parametrize("command", ["merge", "build"])
def test_bad_checkpoints(
    case: str,
    command: str,
    two_specialists: tuple[Path, Path, Path],
    ended: Callable[..., tuple[int, str]],
    tmp_path: Path,
) -> None:
    base, digit, ink = two_specialists
    bad, words = _damage(case, command, base, digit, tmp_path)
    out = tmp_path / "out"
    if command == "merge":
        code, said = ended("merge", base, bad, ink, "-o", out)
    else:
        code, said = ended("build", "digits", "--only", "digit,ink", *FEW, "--base", base, "--specialist",
                           f"digit={bad}", "--specialist", f"ink={ink}", "--no-joint", "--workers", "1",
                           "-o", out)  # fmt: skip
    assert code == 2, said
    assert words in said and "do: " in said and "Traceback" not in said
    assert not (out / "best").exists() and not (out / "encoder").exists(), "nothing that looks finished"


@pytest.mark.slow
def test_killed_in_the_middle_and_run_again(two_specialists: tuple[Path, Path, Path], tmp_path: Path) -> None:
    """SIGKILL after some pieces: the second run takes them up, and ends as a run that nobody killed."""
    import psutil

    from allround.evaluation.scoreboard import Scoreboard

    base = two_specialists[0]
    words = ["build", "digits", "--only", "digit,ink,segments", *FEW, "--base", base, "--trials", "1", "--epochs", "2",
             "--methods", "average", "--balance", "none", "--precision", "fp32"]  # fmt: skip
    two = [*words, "--workers", "2", "--out", tmp_path / "killed"]
    command = [sys.executable, "-m", "allround", *map(str, two)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and not list((tmp_path / "killed").glob("pieces/specialist-*")):
        time.sleep(0.02)
    children = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.wait()
    assert not (tmp_path / "killed" / "best").exists()
    _, alive = psutil.wait_procs(children, timeout=20)
    assert children and not alive, "workers end with their parent"
    finished = [p.name for p in (tmp_path / "killed" / "pieces").glob("[a-z]*") if (p / "piece.json").is_file()]
    assert any(name.startswith("specialist-") for name in finished)
    for out in ("killed", "whole"):
        cli(*words, "--workers", "1", "--out", tmp_path / out)
    log = (tmp_path / "killed" / "log.txt").read_text().split(" s  suite ")[-1]
    for name in finished:
        if name.startswith(("base-", "head-", "specialist-", "joint-")):
            assert f"have  {name}" in log
    boards = [Scoreboard.load(tmp_path / name) for name in ("killed", "whole")]
    assert boards[0].fingerprint() == boards[1].fingerprint()


@pytest.mark.parametrize(
    ("error", "found"),
    [
        (OSError(errno.EIO, os.strerror(errno.EIO)), "the operating system reported: Input/output error"),
        (FileNotFoundError(errno.ENOENT, "No such file", "a b"), "the operating system reported: No such file (a b)"),
        (OSError("libx.so: cannot open\nmore"), "the operating system reported: libx.so: cannot open"),
        (ConnectionResetError(), "the operating system reported: ConnectionResetError"),
    ],
)
def test_errors_of_the_system_are_said_in_three_parts(
    error: OSError, found: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A disk that fails while weights are read, say; nothing is left behind, and no traceback is shown."""
    for name in ("base", "one"):
        (tmp_path / name).mkdir()
        save_file({"w": torch.zeros(3)}, tmp_path / name / "model.safetensors")

    def failing(*_: Any) -> int:
        raise error

    words = ["merge", str(tmp_path / "base"), str(tmp_path / "one"), "--method", "average", "-o", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", ["allround", *words])
    monkeypatch.setattr(weights_module.os, "preadv", failing)
    with pytest.raises(SystemExit) as ended:
        main()
    said = capsys.readouterr().err
    assert ended.value.code == 1
    assert f"asked: run allround {shlex.join(words)}\nfound: {found}\ndo:    check" in said and "Traceback" not in said
    assert sorted(p.name for p in tmp_path.iterdir()) == ["base", "one"]
