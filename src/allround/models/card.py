"""The card of a saved model, README.md: front matter that the Hub reads, and text for people."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from allround.core.documents import parse_documents
from allround.core.errors import AllroundError
from allround.core.files import is_hub_id, json_text
from allround.core.words import listed
from allround.models.base import INSTALLED, builtin_encoders
from allround.tasks.definition import Definition
from allround.tasks.modality import modality_of
from allround.tasks.task import SPLITS

CARD = "README.md"


def write_card(
    folder: Path, title: str, lines: Sequence[str], *, tags: Sequence[str] = (), made_from: Iterable[str] = ()
) -> None:
    """Write the card of a model into its folder.

    lines: of its text, in Markdown. tags: beside `allround`. made_from: the models that it was made from, of which the
    front matter names those that are on the Hub. No license is named, since that is for the model's maker to choose.
    """
    from huggingface_hub import ModelCard, ModelCardData

    bases = [found for name in dict.fromkeys(made_from) if (found := hub_id(name)) is not None]
    data = ModelCardData(library_name="allround", tags=[*tags, "allround"], base_model=bases or None)
    ModelCard("\n".join(["---", data.to_yaml(), "---", "", f"# {title}", "", *lines, ""])).save(folder / CARD)


def hub_id(name: str) -> str | None:
    """The id on the Hub of the model that a name means; None: it is a folder or file, or pretrained on the spot.

    >>> hub_id("org/model"), hub_id("all-MiniLM-L6-v2")
    ('org/model', 'sentence-transformers/all-MiniLM-L6-v2')
    >>> hub_id("small_image"), hub_id("/models/base"), hub_id(".")
    (None, None, None)
    """
    if name in INSTALLED:
        return f"sentence-transformers/{name}"
    return name if is_hub_id(name) and name not in builtin_encoders() and not Path(name).exists() else None


def named_licence(card: str) -> str | None:
    """The licence in the front matter of a card.

    >>> named_licence("---\\nlicense: apache-2.0\\n---\\n# Model"), named_licence("# Model")
    ('apache-2.0', None)
    """
    parts = card.split("---\n", 2)
    if len(parts) < 3 or parts[0].strip():
        return None
    try:
        (found,) = parse_documents(parts[1])
    except (AllroundError, ValueError):
        return None
    value = found.get("license") if isinstance(found, Mapping) else None
    return str(value) if value else None


#: What the Hub calls the task of a kind on a modality.
_HUB_TASKS = {
    ("classification", "text"): "text-classification",
    ("multilabel", "text"): "text-classification",
    ("token_classification", "text"): "token-classification",
    ("classification", "image"): "image-classification",
    ("multilabel", "image"): "image-classification",
    ("classification", "table"): "tabular-classification",
    ("multilabel", "table"): "tabular-classification",
    ("regression", "table"): "tabular-regression",
    ("text", "text"): "text-generation",
    ("text", "fields"): "text-generation",
    ("multiple_choice", "fields"): "multiple-choice",
}
#: What the Hub calls metrics that have another name there.
_HUB_METRICS = {"macro_f1": "f1", "span_f1": "f1", "mcc": "matthews_correlation", "pearson": "pearsonr",
                "spearman": "spearmanr", "rouge_l": "rouge"}  # fmt: skip


def hub_card(
    repository: str,
    sort: str,
    definitions: Mapping[str, Definition],
    facts: Mapping[str, object],
    *,
    base: str | None,
    licence: str,
    datasets: Sequence[str] = (),
) -> str:
    """The card of a saved model for the Hub: metadata with the scores as a model index, and text for people.

    facts: what the model says of itself: `scores` by task, `made_by`, `provenance`. base: its id on the Hub.
    """
    from huggingface_hub import EvalResult, ModelCardData

    scores = _scores(facts)
    tasks = list(dict.fromkeys(hub_task(definition) for definition in definitions.values()))
    results = [
        EvalResult(
            task_type=hub_task(definitions[name]),
            task_name=name,
            dataset_type=name,
            dataset_name=name,
            dataset_split=split,
            metric_type=_HUB_METRICS.get(definitions[name].metric, definitions[name].metric),
            metric_value=round(value, 6),
            metric_name=f"{definitions[name].metric}{_interval_words(score, split)}",
        )
        for name, (split, value, score) in scores.items()
        if name in definitions
    ]
    name = repository.rpartition("/")[2]
    data = ModelCardData(
        library_name="allround",
        license=licence,
        base_model=base,
        datasets=list(datasets) or None,
        tags=[*tasks, "multi-task-learning", "allround"],
        model_name=name,
        eval_results=results or None,
    )
    lines = ["---", data.to_yaml(), "---", "", f"# {name}", "", *_about(sort, definitions, facts, base)]
    lines += ["", "## Scores", "", *_score_lines(definitions, scores)] if scores else []
    lines += ["", "## Use", "", "```python", "from huggingface_hub import snapshot_download", "", "import allround", ""]
    first = next(iter(definitions.values()))
    example = modality_of(first).example(len(first.inputs))
    lines += [f'model = allround.load(snapshot_download("{repository}"))']
    lines += [*example.imports, f'model.predict("{first.name}", {example.python})', "```"]
    lines += _prompt_lines(definitions)
    lines += ["", "## How it was made", "", "```json", *json_text(_made(facts)).splitlines(), "```", ""]
    return "\n".join(lines)


def hub_task(definition: Definition) -> str:
    """What the Hub calls the sort of a task.

    >>> hub_task(Definition("t", "regression", ("x",), "table", "rmse"))
    'tabular-regression'
    """
    return _HUB_TASKS.get((definition.kind, definition.modality), "other")


def _scores(facts: Mapping[str, object]) -> dict[str, tuple[str, float, Mapping[str, object]]]:
    """Of each task the split, the score on it, and what else is known of the score."""
    found: dict[str, tuple[str, float, Mapping[str, object]]] = {}
    listed = facts.get("scores")
    for name, score in listed.items() if isinstance(listed, Mapping) else ():
        for split in SPLITS if isinstance(score, Mapping) else ():
            if isinstance(value := score.get(split), (int, float)):
                found[str(name)] = split, float(value), score
    return found


def _interval_words(score: Mapping[str, object], split: str) -> str:
    low, high, rows = (score.get(name) for name in ("low", "high", "rows"))
    if not isinstance(low, float) or not isinstance(high, float):
        return ""
    return f" (95% interval {low:.3f} to {high:.3f}, {rows} {split} rows)"


def _about(
    sort: str, definitions: Mapping[str, Definition], facts: Mapping[str, object], base: str | None
) -> list[str]:
    made = facts.get("made_by")
    title = made.get("title") if isinstance(made, Mapping) else None
    lines = [f"One model for {listed(list(definitions))}, made by allround{f': {title}' if title else ''}."]
    lines += [f"It was tuned from [{base}](https://huggingface.co/{base})."] if base else []
    return [*lines, "", f"It is a saved system of the sort `{sort}`, which `allround.load` opens."]


def _score_lines(
    definitions: Mapping[str, Definition], scores: Mapping[str, tuple[str, float, Mapping[str, object]]]
) -> list[str]:
    lines = ["| task | metric | score | 95% interval | rows | retention |", "|---|---|---|---|---|---|"]
    for name, (split, value, score) in scores.items():
        low, high, kept = score.get("low"), score.get("high"), score.get("retention")
        span = f"{low:.3f} to {high:.3f}" if isinstance(low, float) and isinstance(high, float) else ""
        kept = f"{100 * kept:.1f}%" if isinstance(kept, float) else ""
        metric = definitions[name].metric if name in definitions else ""
        lines.append(f"| {name} | {metric} | {value:.4f} | {span} | {score.get('rows', '')} {split} | {kept} |")
    text = "Intervals are of a bootstrap over the rows; they cover the choice of rows, not that of the training seed."
    return [*lines, "", f"{text} Retention is the score divided by that of a specialist tuned for the task alone."]


def _prompt_lines(definitions: Mapping[str, Definition]) -> list[str]:
    """How tasks are put to a language model, where they say it: as plain data, so that others can put them alike."""
    put = {name: one.prompt.to_json() for name, one in definitions.items() if one.prompt is not None}
    if not put:
        return []
    text = "Columns stand in braces; choices are in the order of the labels, and the first of several prompts was used."
    return ["", "## Prompts", "", text, "", "```json", *json_text(put).splitlines(), "```"]


def _made(facts: Mapping[str, object]) -> dict[str, object]:
    """How the model was made, without hashes of rows."""
    found = {name: facts[name] for name in ("made_by", "provenance") if name in facts}
    about = found.get("provenance")
    if isinstance(about, Mapping):
        found["provenance"] = {name: value for name, value in about.items() if name not in ("tasks", "base_piece")}
    return found
