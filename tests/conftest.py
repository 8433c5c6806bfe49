"""Tiny suites of every modality and tiny encoders, made on the spot and shared by all tests.

Fixtures of a session must not be changed: take a copy (`copy.deepcopy`, or load the folder again) to train.
"""

from __future__ import annotations

import gc
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from allround.models.encoders.small_image import SmallImage
    from allround.models.encoders.small_table import SmallTable
    from allround.tasks.suite import Suite

# Set before any library is imported: no test reaches for the network, and one thread is the same everywhere.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
os.environ["TRANSFORMERS_VERBOSITY"] = "error"

GOOD = ("fine", "warm", "bright", "kind", "fresh")
BAD = ("dull", "cold", "grim", "rude", "stale")
ANIMALS = ("cat", "dog", "owl")
FOODS = ("soup", "bread", "plum")
PLACES = ("harbour", "valley", "market")
FIRST = ("ada", "emil", "ines")
LAST = ("stone", "brook", "field")
NOUNS = (*ANIMALS, *FOODS, *PLACES)
OTHER = ("the", "is", "and", "was", "at", "saw", "today", "very", "a", "not")


def pytest_sessionstart(session: pytest.Session) -> None:
    """Let each process of the tests, and whatever it starts, use one core: nets this small take longer in two threads.

    Where xdist hands out the tests, each of its processes takes another core.
    """
    worker = os.environ.get("PYTEST_XDIST_WORKER")
    if not hasattr(os, "sched_setaffinity") or (worker is None and session.config.getoption("numprocesses", None)):
        return
    cores = sorted(os.sched_getaffinity(0))
    number = os.getpid() if worker is None else int(worker.removeprefix("gw"))
    os.sched_setaffinity(0, {cores[number % len(cores)]})


def pytest_collection_finish() -> None:
    """Libraries and tests stay to the end: looking through them for what can go takes a fifth of the time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Sums come out the same everywhere, also after a test that ran jobs with more threads."""
    import torch

    torch.set_num_threads(1)
    yield


@pytest.fixture(scope="session")
def digits_suite() -> Suite:
    """Three tasks on small images: ten classes, a number, and seven labels; 60, 30 and 30 rows."""
    from allround.tasks.suite import Suite

    return Suite.load("digits", only=["digit", "ink", "segments"], limit={"train": 60, "validation": 30, "test": 30})


@pytest.fixture(scope="session")
def small_image(digits_suite: Suite) -> SmallImage:
    """A small image encoder with random weights (features are random, and good enough for heads)."""
    import torch

    from allround.models.encoders.small_image import SmallImage

    with torch.random.fork_rng():
        torch.manual_seed(0)
        return SmallImage(channels=1, size=8).eval()


@pytest.fixture(scope="session")
def table_suite() -> Suite:
    """Two tasks on the flowers of scikit-learn, with a column of words and a missing value."""
    from sklearn.datasets import load_iris

    from allround.tasks.make import make_task
    from allround.tasks.suite import Suite

    data = load_iris()
    columns = ("sepal_length", "sepal_width", "petal_length")
    rows: list[dict[str, Any]] = [
        {**dict(zip(columns, map(float, x), strict=False)), "petal_width": float(x[3]), "species": str(int(y))}
        for x, y in zip(data.data, data.target, strict=True)
    ]
    for row in rows:
        row["size"] = "large" if row["sepal_length"] > 6 else "small"
    rows[3]["sepal_width"] = None
    random.Random(0).shuffle(rows)
    inputs = [*columns, "size"]
    splits = {"train": rows[:80], "validation": rows[80:115], "test": rows[115:]}
    return Suite(
        "flowers",
        [
            make_task("species", kind="classification", inputs=inputs, target="species", data=splits),
            make_task("petal", kind="regression", inputs=inputs, target="petal_width", data=splits),
        ],
    )


@pytest.fixture(scope="session")
def small_table(table_suite: Suite) -> SmallTable:
    """A small table encoder with random weights, for the columns of `table_suite`."""
    import torch

    from allround.models.encoders.small_table import SmallTable
    from allround.models.table_inputs import column_for

    task = table_suite.tasks["species"]
    inputs = task.splits["train"].inputs
    columns = [column_for(n, [row[i] for row in inputs]) for i, n in enumerate(task.definition.inputs)]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return SmallTable(columns=columns, width=16).eval()


def _sentence(draw: random.Random) -> tuple[list[str], list[str], str]:
    """Words, their tags, and the mood of the one adjective in them."""
    mood = draw.choice(("good", "bad"))
    words = ["the", draw.choice(NOUNS), "is", draw.choice(GOOD if mood == "good" else BAD)]
    tags = ["O"] * 4
    if draw.random() < 0.7:
        words += ["and", draw.choice(FIRST)]
        tags += ["O", "B-PER"]
        if draw.random() < 0.5:
            words.append(draw.choice(LAST))
            tags.append("I-PER")
        words += ["was", "at", "the", draw.choice(PLACES)]
        tags += ["O", "O", "O", "B-LOC"]
    return words, tags, mood


@pytest.fixture(scope="session")
def text_suite() -> Suite:
    """Made-up sentences as five tasks, one of each kind and one on pairs; about 40 rows each."""
    from allround.tasks.make import make_task
    from allround.tasks.suite import Suite

    draw = random.Random(0)
    moods: list[dict[str, Any]] = []
    pairs: list[dict[str, Any]] = []
    warmth: list[dict[str, Any]] = []
    topics: list[dict[str, Any]] = []
    names: list[dict[str, Any]] = []
    for number in range(44):
        words, tags, mood = _sentence(draw)
        other, _, second = _sentence(draw)
        moods.append({"text": f"{' '.join(words)} {number}", "label": mood})
        same = "same" if mood == second else "different"
        pairs.append({"one": " ".join(words), "two": f"{' '.join(other)} {number}", "label": same})
        adjectives = [draw.choice((*GOOD, *BAD)) for _ in range(4)]
        warmth.append({"text": f"{' '.join(adjectives)} {number}", "label": float(sum(a in GOOD for a in adjectives))})
        nouns = [draw.choice(NOUNS) for _ in range(2)]
        groups = {"animal": ANIMALS, "food": FOODS, "place": PLACES}
        labels = [g for g, members in groups.items() if any(n in members for n in nouns)]
        topics.append({"text": f"the {nouns[0]} and the {nouns[1]} {number}", "label": labels})
        names.append({"words": words, "tags": tags})

    def cut(rows: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
        return {"train": rows[:24], "validation": rows[24:34], "test": rows[34:]}

    return Suite(
        "words",
        [
            make_task("mood", kind="classification", inputs="text", target="label", data=cut(moods)),
            make_task("alike", kind="classification", inputs=["one", "two"], target="label", data=cut(pairs)),
            make_task("warmth", kind="regression", inputs="text", target="label", data=cut(warmth)),
            make_task("topics", kind="multilabel", inputs="text", target="label", data=cut(topics)),
            make_task("names", kind="token_classification", inputs="words", target="tags", data=cut(names)),
        ],
    )


@pytest.fixture(scope="session")
def hf_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT of two layers with random weights and a made-up vocabulary, as plain transformers saves it.

    Half of the suite's words are whole in the vocabulary; the others fall into letters.
    """
    import torch
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    letters = "abcdefghijklmnopqrstuvwxyz0123456789"
    whole = (*GOOD[:3], *BAD[:3], *NOUNS[::2], *FIRST[:1], *LAST[:1], *OTHER)
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{c}" for c in letters), *whole]
    vocabulary = {piece: i for i, piece in enumerate(dict.fromkeys(pieces))}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", vocabulary["[CLS]"]), ("[SEP]", vocabulary["[SEP]"])],
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="[UNK]",
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_max_length=64,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
        pad_token_id=0,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = BertModel(config)
        # Random BERTs are nearly linear: larger weights make them answer to their words.
        for parameter in model.encoder.parameters():
            if parameter.dim() == 2:
                parameter.data.mul_(4)
    folder = tmp_path_factory.mktemp("tiny") / "hf"
    model.save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def bert_folder(hf_folder: Path) -> Path:
    """The same as a sentence-transformers folder: the network, then the mean over pieces."""
    from sentence_transformers import SentenceTransformer

    folder = hf_folder.parent / "st"
    pipeline = SentenceTransformer(str(hf_folder), device="cpu", local_files_only=True)
    pipeline.save_pretrained(str(folder), create_model_card=False)
    return folder


#: Method files as a user would write them: one of each family that a build takes by name.
PLUGINS = {
    "halved": '''"""Halved: the mean of the changes, times a half."""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor

from allround.core.registry import Search, method


@method(family="merge", source="an example of the tests")
def halved(base: Tensor, deltas: Tensor, *, scale: Annotated[float, Search(0.5, 0.25)] = 0.5) -> Tensor:
    """Merge k changes of one weight.

    Shapes: base (*s), deltas (k, *s) -> merged (*s)
    Formula: base + scale * mean_i d_i

    >>> halved(torch.zeros(2), torch.ones(3, 2))
    tensor([0.5000, 0.5000])
    """
    return base + scale * deltas.mean(0)
''',
    "tilted": '''"""Tilted: tasks weigh by what is left of their losses."""

from __future__ import annotations

from allround.core.registry import method
from allround.training.balancing import Balancer, Outline


@method(family="balance", source="an example of the tests", needs=("losses",), by="losses")
class Tilted(Balancer):
    """Weights that grow with the losses.

    power: of the loss; 0 is equal.
    Formula: w_t = l_t ^ power

    >>> Tilted(Outline(("a", "b"), (2, 2), (9, 9))).early(0, 4.0, 1.0)
    2.0
    """

    def __init__(self, outline: Outline, *, power: float = 0.5) -> None:
        super().__init__(outline)
        self.power = power

    def early(self, task: int, loss: float, norm: float) -> float:
        return float(max(loss, 0.0) ** self.power)

    def alone(self, raw: bool) -> bool:
        return raw
''',
    "cubed": '''"""Cubed: shares that grow as the cube root of the rows."""

from __future__ import annotations

from collections.abc import Sequence

from allround.core.registry import method


@method(family="sample", source="an example of the tests")
def cubed(sizes: Sequence[int]) -> list[float]:
    """Shares from the numbers of training rows.

    Formula: p_t = n_t^(1/3) / sum_u n_u^(1/3)

    >>> cubed([8, 1])
    [0.6666666666666666, 0.3333333333333333]
    """
    roots = [size ** (1 / 3) for size in sizes]
    return [root / sum(roots) for root in roots]
''',
}


@pytest.fixture
def plugin_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """The files of `PLUGINS` by name. No plug-in is in use at first, and none is when the test is over."""
    from allround.core import plugins

    monkeypatch.setattr(plugins, "_named", {})
    folder = tmp_path / "plugins"
    folder.mkdir()
    for name, text in PLUGINS.items():
        (folder / f"{name}.py").write_text(text)
    return {name: folder / f"{name}.py" for name in PLUGINS}
