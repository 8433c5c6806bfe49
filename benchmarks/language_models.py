"""Speed of language models: scoring and writing, beside the lm-evaluation-harness's own model and `model.generate`.

Both answer the same requests, one after the other, in float32 on one thread; seconds are those of the processor. The
batch size of the harness's model is the fastest of several on the first rows.

    python benchmarks/language_models.py --data-dir DATA --rows 24
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

from allround.models.base import find_folder, load_encoder
from allround.models.harness_model import HarnessModel

#: What is said for the labels of trec where a choice is to have several tokens.
SPOKEN = {
    "abbreviation": "an abbreviation or what it stands for",
    "description": "a description of something or a reason",
    "entity": "a thing such as an animal or a food",
    "human": "a person or a group of people",
    "location": "a place such as a city or a country",
    "number": "a number such as a date or a distance",
}
TRIED = (4, 8, 16, 32)


def requests(folder: Path, rows: int, spoken: dict[str, str] | None = None, shots: int = 0) -> list[Instance]:
    """A request for each row and each label. shots: worked examples, the same before each row."""
    found = [json.loads(line) for line in (folder / "test.jsonl").read_text(encoding="utf-8").splitlines()]
    labels = sorted({row["label"] for row in found})
    said = [(spoken or {}).get(label, label.replace("_", " ")) for label in labels]
    lines = (folder / "train.jsonl").read_text(encoding="utf-8").splitlines()[:shots]
    before = "".join(f"{_asked(row := json.loads(line))} {row['label']}\n\n" for line in lines)
    found = found[:: max(1, len(found) // rows)][:rows]
    return [
        Instance("loglikelihood", row, (before + _asked(row), f" {text}"), place)
        for row in found
        for place, text in enumerate(said)
    ]


def _asked(row: dict[str, str]) -> str:
    return f"Question: {row['text']}\nThis is about"


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    start = time.process_time()
    found = work()
    return found, time.process_time() - start


def tuned(theirs: HFLM, asked: list[Instance], choices: int) -> int:
    """The batch size that takes the least time on the first rows."""
    some = asked[: choices * max(1, 24 // choices)]
    seconds = {}
    for size in TRIED:
        theirs.batch_size_per_gpu = size
        seconds[size] = timed(lambda: theirs.loglikelihood(some, disable_tqdm=True))[1]
    return min(seconds, key=lambda size: seconds[size])


def compare_scoring(name: str, ours: HarnessModel, theirs: HFLM, asked: list[Instance], choices: int) -> None:
    theirs.batch_size_per_gpu = size = tuned(theirs, asked, choices)
    wanted, seconds = timed(lambda: theirs.loglikelihood(asked, disable_tqdm=True))
    found, own = timed(lambda: ours.loglikelihood(asked))
    apart = max(abs(one[0] - other[0]) for one, other in zip(found, wanted, strict=True))
    greedy = sum(one[1] != other[1] for one, other in zip(found, wanted, strict=True))
    rows = len(asked) / choices
    print(f"{name}: {choices} choices, {rows:.0f} rows; HFLM (batches of {size}) {rows / seconds:.2f} rows/s, "
          f"allround {rows / own:.2f} rows/s, ratio {seconds / own:.2f}; log-likelihoods apart by at most {apart:.1e}, "
          f"greediness in {greedy}", flush=True)  # fmt: skip


def compare_writing(ours: HarnessModel, theirs: HFLM, asked: list[Instance], tokens: int) -> None:
    """Writing a fixed number of tokens behind prompts in one batch."""
    contexts = list(dict.fromkeys(one.args[0] for one in asked))
    written = [Instance("generate_until", {}, (text, {"until": [], "max_gen_toks": tokens}), 0) for text in contexts]
    tokenizer, model = theirs.tokenizer, theirs.model
    tokenizer.padding_side = "left"
    batch = tokenizer(contexts, return_tensors="pt", padding=True)
    options = {"max_new_tokens": tokens, "do_sample": False, "pad_token_id": tokenizer.pad_token_id}
    with torch.inference_mode():
        made, seconds = timed(lambda: model.generate(**batch, **options))
    wanted = tokenizer.batch_decode(made[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
    found, own = timed(lambda: ours.generate_until(written))
    same = sum(one == other for one, other in zip(found, wanted, strict=True))
    print(f"writing {tokens} tokens behind {len(contexts)} prompts in one batch: model.generate {seconds:.1f} s, "
          f"allround {own:.1f} s, ratio {seconds / own:.2f}; {same} of {len(contexts)} texts the same")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--base", default="smollm2-135m")
    parser.add_argument("--rows", type=int, default=24, help="of trec; a sixth of them of banking77")
    parser.add_argument("--tokens", type=int, default=24, help="to write")
    options = parser.parse_args()
    torch.set_num_threads(1)
    folder = find_folder(options.base)
    theirs = HFLM(pretrained=str(folder), device="cpu", dtype="float32", batch_size=8)
    ours = HarnessModel(load_encoder(folder), batch_size=32)
    plain = requests(options.data_dir / "trec", options.rows)
    compare_scoring("trec, labels of one token", ours, theirs, plain, 6)
    theirs.logits_cache = False
    compare_scoring("the same, without HFLM's reuse of logits", ours, theirs, plain, 6)
    theirs.logits_cache = True
    compare_scoring("trec, labels of one token, 8 worked examples", ours, theirs,
                    requests(options.data_dir / "trec", options.rows, shots=8), 6)  # fmt: skip
    compare_scoring("trec, choices of 7 to 9 tokens", ours, theirs,
                    requests(options.data_dir / "trec", options.rows, SPOKEN), 6)  # fmt: skip
    compare_scoring("banking77", ours, theirs, requests(options.data_dir / "banking77", max(1, options.rows // 6)), 77)
    compare_writing(ours, theirs, plain, options.tokens)


if __name__ == "__main__":
    main()
