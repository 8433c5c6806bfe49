"""Models of every kind, saved here and loaded in another process: the same logits, bit for bit."""

from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from allround.models.base import load_encoder
from allround.models.encoder import Encoder
from allround.models.encoders.small_image import SmallImage
from allround.models.encoders.small_table import SmallTable
from allround.models.systems.multi_task_model import MultiTaskModel
from allround.tasks.suite import Suite

#: Runs in a process of its own: loads every model under a folder and writes down its logits.
ANSWER = """
import sys
from pathlib import Path
import torch
from safetensors.torch import save_file
from allround import load
from allround.tasks.task import Task
torch.set_num_threads(1)
assert "transformers" not in sys.modules
for folder in sorted(Path(sys.argv[1]).iterdir()):
    model = load(folder / "model")
    found = {}
    for name in model.definitions:
        task = Task.load(folder / name)
        outputs = model.outputs(name, task.splits["test"].inputs, batch_size=8)
        found[name] = outputs.logits
        if outputs.lengths:
            found[f"{name}.lengths"] = torch.tensor(outputs.lengths)
    save_file(found, folder / "logits.safetensors")
"""


def make(encoder: Encoder, suite: Suite, names: list[str]) -> MultiTaskModel:
    model = MultiTaskModel(encoder, {n: suite.tasks[n].definition for n in names})
    generator = torch.Generator().manual_seed(1)
    for parameter in model.heads.parameters():
        parameter.data.copy_(torch.randn(parameter.shape, generator=generator))
    return model.eval()


@pytest.mark.slow
def test_logits_are_the_same_in_another_process(
    small_image: SmallImage,
    small_table: SmallTable,
    bert_folder: Path,
    digits_suite: Suite,
    table_suite: Suite,
    text_suite: Suite,
    tmp_path: Path,
) -> None:
    text = list(text_suite.tasks)
    models = {
        "image": (make(copy.deepcopy(small_image), digits_suite, list(digits_suite.tasks)), digits_suite),
        "table": (make(copy.deepcopy(small_table), table_suite, list(table_suite.tasks)), table_suite),
        "text": (make(load_encoder(bert_folder), text_suite, text), text_suite),
        "joint": (make(load_encoder(bert_folder, pairs="joint", max_length=12), text_suite, text), text_suite),
    }
    kinds = set()
    expected: dict[str, dict[str, torch.Tensor]] = {}
    for place, (model, suite) in models.items():
        model.save(tmp_path / place / "model")
        expected[place] = {}
        for name, definition in model.definitions.items():
            suite.tasks[name].save(tmp_path / place / name)
            outputs = model.outputs(name, suite.tasks[name].splits["test"].inputs, batch_size=8)
            assert torch.isfinite(outputs.logits).all() and outputs.logits.std() > 0
            expected[place][name] = outputs.logits
            if outputs.lengths:
                expected[place][f"{name}.lengths"] = torch.tensor(outputs.lengths)
            kinds.add((definition.kind, definition.modality, definition.pair))
    assert len(kinds) == 5 + 3 + 2, "text: four kinds and a pair; images: three; tables: two"
    subprocess.run([sys.executable, "-c", ANSWER, str(tmp_path)], check=True, timeout=300)
    for place in models:
        found = load_file(tmp_path / place / "logits.safetensors")
        assert set(found) == set(expected[place])
        for name, logits in expected[place].items():
            assert torch.equal(found[name], logits), f"{place}/{name}"
