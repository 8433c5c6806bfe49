"""Language models: scores of choices are the library's, packed rows are as alone, and texts are what it generates."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import torch
from tests.models.language import FAMILIES, save_model

from allround.building.viewing import view_of
from allround.core.errors import AllroundError
from allround.evaluation.flips import right_rows
from allround.evaluation.measures.choices import shuffled
from allround.evaluation.measuring import measure
from allround.evaluation.predict import predict_split
from allround.models.base import load_encoder
from allround.models.encoder import Encoder
from allround.models.encoders.language_model import ABSENT
from allround.models.fitting import fit_head
from allround.models.language.packing import pack
from allround.models.language.rows import TokenRow, make_tree
from allround.models.system import load
from allround.models.systems.multi_task_model import MultiTaskModel
from allround.tasks.definition import Definition
from allround.tasks.kind import kind
from allround.tasks.make import make_task
from allround.tasks.prompt import Demonstration, Prompt
from allround.tasks.suite import Suite

CHOICES = ("it is lost", "it is late", "something else")
TOPIC = Definition("topic", "classification", ("message",), "text", "accuracy", ("late", "lost", "other"),
                   prompt=Prompt(("Message: {message}\nTopic:",), choices=CHOICES))  # fmt: skip
ROWS = [("Where is my parcel?",), ("It came too late, again. " * 3,), ("What?",), ("It is lost: nobody has seen it.",)]


@pytest.fixture(scope="session", params=FAMILIES)
def encoder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    return load_encoder(save_model(tmp_path_factory.mktemp(request.param), request.param))


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    return load_encoder(save_model(tmp_path_factory.mktemp("llama"), "llama"))


def log_likelihood(encoder: Encoder, prompt: str, answer: str, *, end: bool = False) -> float:
    """By the library's logits of the whole text."""
    network, tokenizer = encoder.backbone, encoder.tokenizer
    before = tokenizer(prompt)["input_ids"]
    after = tokenizer(answer, add_special_tokens=False)["input_ids"] + ([tokenizer.eos_token_id] if end else [])
    with torch.inference_mode():
        if network.config.is_encoder_decoder:
            logits = network(torch.tensor([before]), decoder_input_ids=torch.tensor([[0, *after[:-1]]])).logits[0]
        else:
            logits = network(torch.tensor([before + after])).logits[0, len(before) - 1 : -1]
    return float(logits.log_softmax(-1)[range(len(after)), after].sum())


def spoken(encoder: Encoder, answer: str) -> str:
    return answer if encoder.net.two_parts else f" {answer}"


@torch.inference_mode()
def features(encoder: Encoder, definition: Definition, rows=ROWS, targets=None):
    encoder.eval()
    prepared = encoder.prepare(rows, definition, targets)
    batch = encoder.collate(prepared, definition, targets)
    return encoder(replace(batch, rows={definition.name: tuple(range(len(rows)))}))


def test_scores_of_choices_are_the_librarys_log_likelihoods(encoder):
    found = features(encoder, TOPIC).values
    for row, (message,) in enumerate(ROWS):
        wanted = [log_likelihood(encoder, f"Message: {message}\nTopic:", spoken(encoder, c)) for c in CHOICES]
        assert found[row].tolist() == pytest.approx(wanted, abs=1e-4)


def test_each_row_is_answered_with_one_of_its_own_choices(llama):
    rows = [("Colour?", ["red", "dark blue"]), ("Number?", ["one", "two", "three"])] * 3
    data = [{"q": q, "c": c, "a": c[place % 2]} for place, (q, c) in enumerate(rows)]
    task = make_task("quiz", kind="multiple_choice", inputs=["q", "c"], target="a", choices="c", prompt="{q}\nAnswer:",
                     data=dict.fromkeys(("train", "test"), data))  # fmt: skip
    system = MultiTaskModel(llama, {"quiz": task.definition})
    made = system.answers("quiz", rows[:2], scores=True)
    for row, (question, choices) in enumerate(rows[:2]):
        wanted = np.array([log_likelihood(llama, f"{question}\nAnswer:", f" {choice}") for choice in choices])
        share = np.exp(wanted) / np.exp(wanted).sum()
        assert made.scores[row] == pytest.approx([*share, *[0] * (3 - len(choices))], abs=1e-4)
        assert made.predictions[row] == wanted.argmax()
    first = [choices[place] for (_, choices), place in zip(rows, made.predictions, strict=False)]
    assert system.predict("quiz", rows)[:2] == first
    scored = system.predict("quiz", rows[:2], scores=True)
    assert [set(one) for one in scored] == [set(choices) for _, choices in rows[:2]]
    lines = [{"q": question, "c": choices} for question, choices in rows[:2]]
    (red, number) = system.predict_rows(lines, scores=True)
    assert [red["prediction"], number["prediction"]] == first and red["scores"] == pytest.approx(scored[0])
    view = view_of(system, Suite("one", [task]), "test", {("model", "quiz"): predict_split(system, task, "test")}, {})
    again = shuffled(task, "test", 0)
    changed = np.mean(right_rows(predict_split(system, again, "test"))) - np.mean(right_rows(view.predictions["quiz"]))
    order, none = measure("choices", view)
    assert order.value == pytest.approx(changed) and "None of the other choices" in none.name
    flat = system.predict_table(pa.Table.from_pylist(lines), scores=True).to_pydict()
    assert flat["prediction"] == first and flat["score_C"] == [None, pytest.approx(scored[1]["three"])]
    assert flat["score_A"] == pytest.approx([scored[0]["red"], scored[1]["one"]])
    top = system.predict_table(pa.Table.from_pylist(lines), top=3).to_pydict()
    assert top["label_1"] == first and top["label_3"][0] is None
    with pytest.raises(AllroundError, match="its choices differ from row to row, and the head reads texts"):
        llama.check(replace(task.definition, head="generate"))
    with pytest.raises(AllroundError, match=r"input 0 has 4 choices, and no row .* has more than 3"):
        system.predict("quiz", [("Word?", ["a", "b", "c", "d"])])


def test_a_choice_that_begins_another_is_told_apart_by_its_end(encoder):
    choices = ("late", "late, again", "other")
    d = replace(TOPIC, prompt=replace(TOPIC.prompt, choices=choices))
    found = features(encoder, d, ROWS[:2]).values
    prompt = f"Message: {ROWS[0][0]}\nTopic:"
    wanted = [log_likelihood(encoder, prompt, spoken(encoder, choice), end=True) for choice in choices]
    assert found[0].tolist() == pytest.approx(wanted, abs=1e-4)


def test_a_row_that_is_trained_on_has_the_loss_that_it_has_alone(encoder):
    together = features(encoder, TOPIC, targets=np.array([0, 1, 2, 0]))
    assert sum(together.lengths) == len(together.values)
    start = 0
    for row, (message,) in enumerate(ROWS):
        label = (0, 1, 2, 0)[row]
        part = together.values[start : start + together.lengths[row]]
        start += together.lengths[row]
        wanted = log_likelihood(encoder, f"Message: {message}\nTopic:", spoken(encoder, CHOICES[label]), end=True)
        assert float(part.sum()) == pytest.approx(wanted, abs=1e-4)


def test_texts_are_those_that_the_library_generates_for_each_row_alone(encoder):
    d = Definition("t", "regression", ("message",), "text", "rmse",
                   prompt=Prompt(("{message} It is",), max_new_tokens=6))  # fmt: skip
    found = features(encoder, d).texts
    for row, (message,) in enumerate(ROWS):
        ids = encoder.tokenizer(f"{message} It is", return_tensors="pt")["input_ids"]
        made = encoder.backbone.generate(ids, max_new_tokens=6, do_sample=False)[0]
        made = made[1:] if encoder.net.two_parts else made[ids.shape[1] :]
        assert found[row] == encoder.tokenizer.decode(made, skip_special_tokens=True).strip()


def test_it_is_saved_as_transformers_saves_it(encoder, tmp_path):
    import transformers

    model = MultiTaskModel(encoder, {"topic": TOPIC}).eval()
    wanted = model.answers("topic", ROWS, scores=True)
    model.save(tmp_path / "model")
    again = load(tmp_path / "model").answers("topic", ROWS, scores=True)
    assert np.allclose(again.scores, wanted.scores, atol=1e-5)
    auto = transformers.AutoModelForSeq2SeqLM if encoder.net.two_parts else transformers.AutoModelForCausalLM
    plain = auto.from_pretrained(str(tmp_path / "model" / "encoder")).state_dict()
    assert all(torch.equal(plain[name], tensor) for name, tensor in encoder.backbone.state_dict().items())


def test_low_rank_changes_sit_on_all_linear_layers_but_the_output_and_the_table_is_frozen(encoder):
    output = encoder.backbone.get_output_embeddings()
    named = dict(encoder.backbone.named_modules())
    chosen = encoder.adapted_layers()
    assert output not in [named[name] for name in chosen]
    wide = [n for n, m in named.items() if type(m).__name__ in ("Linear", "Conv1D") and m is not output]
    assert sorted(chosen) == sorted(wide)
    tables = (encoder.backbone.get_input_embeddings().weight, output.weight)
    assert encoder.frozen() == {id(table) for table in tables}


def test_a_probe_reads_the_last_state_of_the_prompt(llama):
    d = replace(TOPIC, head="linear")
    found = features(llama, d).values
    assert found.shape == (4, 32)
    ids = llama.tokenizer(f"Message: {ROWS[1][0]}\nTopic:", return_tensors="pt")["input_ids"]
    with torch.inference_mode():
        wanted = llama.backbone.base_model(ids).last_hidden_state[0, -1]
    assert torch.allclose(found[1], wanted, atol=1e-5)


def test_each_label_of_several_is_asked_with_yes_and_no(llama):
    d = replace(TOPIC, kind="multilabel", metric="macro_f1")
    found = features(llama, d, ROWS[:1]).values[0]
    prompt = f"Message: {ROWS[0][0]}\nTopic:\nit is late? Answer yes or no:"
    wanted = log_likelihood(llama, prompt, " yes") - log_likelihood(llama, prompt, " no")
    assert float(found[1]) == pytest.approx(wanted, abs=1e-4)


def test_a_number_is_the_mean_over_listed_values_by_their_probability(llama):
    d = Definition("stars", "regression", ("message",), "text", "rmse", center=3.0, scale=2.0,
                   prompt=Prompt(("{message} Stars:",), choices=("1", "2", "7")))  # fmt: skip
    model = MultiTaskModel(llama, {"stars": d}).eval()
    found = model.answers("stars", ROWS[:1]).predictions
    scores = [log_likelihood(llama, f"{ROWS[0][0]} Stars:", f" {value}") for value in (1, 2, 7)]
    wanted = float(np.exp(scores) @ [1, 2, 7] / np.exp(scores).sum())
    assert float(found[0]) == pytest.approx((wanted - 3) / 2, abs=1e-4)


@pytest.mark.parametrize("score", ["mean", "characters"])
@pytest.mark.parametrize("against", ["unconditional", "content_free"])
def test_scores_by_length_and_against_a_prompt_without_content(llama, score, against):
    d = replace(TOPIC, prompt=replace(TOPIC.prompt, score=score, against=against))
    found = features(llama, d, ROWS[:2]).values[0].tolist()
    other = "Message: N/A\nTopic:" if against == "content_free" else "<|end|>"
    wanted = []
    for choice in CHOICES:
        answer = f" {choice}"
        by = len(choice) if score == "characters" else len(llama.tokenizer(answer)["input_ids"])
        prompt = f"Message: {ROWS[0][0]}\nTopic:"
        wanted.append((log_likelihood(llama, prompt, answer) - log_likelihood(llama, other, answer)) / by)
    assert found == pytest.approx(wanted, abs=1e-4)


def test_a_long_input_is_cut_and_never_the_question_or_the_answer(tmp_path):
    encoder = load_encoder(save_model(tmp_path / "m", "llama"), max_length=40)
    rows = [("It came too late, again. " * 30,), ("short",)]
    prepared = encoder.prepare(rows, TOPIC)
    assert [row.cut for row in prepared] == [True, False]
    assert encoder.cut(rows, TOPIC) == 1
    assert prepared[0].texts[0].startswith("Message: It came too late") and prepared[0].texts[0].endswith("\nTopic:")
    longest = max(len(encoder.tokenizer(f" {choice}")["input_ids"]) for choice in CHOICES)
    assert len(prepared[0].prompts[0]) + longest <= 40
    with pytest.raises(AllroundError, match="tokens without any input"):
        encoder.prepare(rows, replace(TOPIC, prompt=replace(TOPIC.prompt, templates=("long " * 60 + "{message}",))))


def test_a_chat_is_rendered_by_the_tokenizers_template(tmp_path):
    encoder = load_encoder(save_model(tmp_path / "m", "llama", chat=True))
    prompt = replace(TOPIC.prompt, system="Be brief.", demonstrations=(Demonstration(("Gone.",), "it is lost"),))
    (row,) = encoder.prepare(ROWS[2:3], replace(TOPIC, prompt=prompt))
    assert row.texts[0] == ("<|system|>Be brief.<|end|><|user|>Message: Gone.\nTopic:<|end|><|assistant|>it is lost"
                            "<|end|><|user|>Message: What?\nTopic:<|end|><|assistant|>")  # fmt: skip
    (plain,) = encoder.prepare(ROWS[2:3], replace(TOPIC, prompt=replace(prompt, chat="no")))
    assert plain.texts[0] == "Be brief.\n\nMessage: Gone.\nTopic: it is lost\n\nMessage: What?\nTopic:"


@pytest.mark.parametrize(
    ("change", "options", "found"),
    [
        ({"chat": "yes"}, {}, "has no chat template"),
        ({"choices": ("late", "late, again", "x")}, {"marks": False}, "no mark of an end"),
    ],
)
def test_what_a_model_cannot_be_asked_is_said(tmp_path, change, options, found):
    encoder = load_encoder(save_model(tmp_path / "m", "llama", **options))
    with pytest.raises(AllroundError) as error:
        encoder.prepare(ROWS, replace(TOPIC, prompt=replace(TOPIC.prompt, **change)))
    assert found in error.value.found


def test_a_chat_template_that_raises_is_an_error_in_words(tmp_path):
    encoder = load_encoder(save_model(tmp_path / "m", "llama", chat=True))
    encoder.tokenizer.chat_template = "{{ raise_exception('no system message, please') }}"
    with pytest.raises(AllroundError, match="no system message, please"):
        encoder.prepare(ROWS, TOPIC)


def test_an_answer_ends_before_a_text_that_ends_it(llama):
    d = Definition("t", "regression", ("message",), "text", "rmse",
                   prompt=Prompt(("{message} It is",), max_new_tokens=24))  # fmt: skip
    (whole,) = features(llama, d, ROWS[:1]).texts
    stop = whole[4:6]
    (cut,) = features(llama, replace(d, prompt=replace(d.prompt, stop=(stop,))), ROWS[:1]).texts
    assert cut == whole[: whole.index(stop)].strip()


def test_rows_in_a_slot_do_not_see_each_other():
    rows = [TokenRow((1, 2), make_tree([(5, 6), (5, 7)])), TokenRow((1, 3, 4), make_tree([(8,)]))]
    packed = pack(rows)
    assert packed.ids.tolist() == [[1, 2, 5, 1, 3, 4]] or packed.ids.tolist() == [[1, 3, 4, 1, 2, 5]]
    seen = packed.seen[0, 0]
    assert not seen[:3, 3:].any() and not seen[3:, :3].any()
    assert packed.positions[0].tolist() == [0, 1, 2, 0, 1, 2]
    assert packed.tokens.tolist() == [5, 6, 7, 8]


def test_heads_without_weights_are_kept_and_need_a_language_model(llama, small_encoder, tmp_path):
    model = MultiTaskModel(llama, {"topic": replace(TOPIC, head="generate")})
    model.save(tmp_path / "m")
    assert load(tmp_path / "m").head("topic").sort == "generate"
    with pytest.raises(AllroundError, match="gives vectors"):
        MultiTaskModel(small_encoder, {"t": Definition("t", "classification", ("image",), "image", "accuracy",
                                                       ("a", "b"), head="choices")})  # fmt: skip


@pytest.fixture
def small_encoder():
    from allround.models.encoders.small_image import SmallImage

    return SmallImage()


def test_a_row_without_a_choice_gives_it_no_probability():
    assert ABSENT < -1e6


def test_a_head_without_weights_is_scored_as_it_is(llama):
    said = (("Where is my parcel?", "lost"), ("It came too late", "late"), ("What?", "other"))
    rows = [{"message": text, "topic": label} for text, label in said for _ in range(6)]
    task = make_task("topic", kind="classification", inputs="message", target="topic", data={"train": rows})
    fitted = fit_head(llama, task)
    assert (fitted.state.sort, dict(fitted.state)) == ("choices", {})
    model = MultiTaskModel(llama, {"topic": task.definition}).eval()
    held = task.splits["validation"]
    right = model.answers("topic", held.inputs).predictions == held.targets
    assert fitted.tried == {0.0: pytest.approx(right.mean())}


def test_balanced_by_tokens_a_step_is_the_mean_over_all_answer_tokens(llama):
    """The counts that `normalised:by=token` multiplies by are those of the answers' real tokens, so that a step of two
    tasks is MFTCoder's mean over all tokens."""
    from allround.training.balance.normalised import Normalised
    from allround.training.balancing import Outline, StepView

    note = replace(TOPIC, name="note", kind="text", labels=(), metric="exact_match",
                   prompt=Prompt(("Note: {message}\nIn short:",), max_new_tokens=16))  # fmt: skip
    answers = {"topic": np.array([1, 2, 0, 1]), "note": np.array(["lost", "late, again", "no", "nobody has seen it"],
                                                                 dtype=object)}  # fmt: skip
    model = MultiTaskModel(llama, {"topic": TOPIC, "note": note})
    made = {}
    with torch.inference_mode():
        for task, targets in answers.items():
            encoded = kind(model.definition(task).kind).encode(list(targets), note) if task == "note" else targets
            batch = model.collate(model.prepare(task, ROWS, encoded), {task: range(4)}, {task: encoded})
            made[task] = model.losses(batch)[task]
    total, count = 0.0, 0
    for row, (message,) in enumerate(ROWS):
        for prompt, answer in (
            (f"Message: {message}\nTopic:", CHOICES[answers["topic"][row]]),
            (f"Note: {message}\nIn short:", answers["note"][row]),
        ):
            total -= log_likelihood(llama, prompt, spoken(llama, answer), end=True)
            count += len(llama.tokenizer(spoken(llama, answer), add_special_tokens=False)["input_ids"]) + 1
    losses = torch.tensor([float(made[task].mean) for task in answers], dtype=torch.float64)
    terms = torch.tensor([made[task].count for task in answers], dtype=torch.float64)
    assert int(terms.sum()) == count
    seen = StepView(torch.arange(2), losses, torch.tensor([4.0, 4.0], dtype=torch.float64), terms)
    weights = Normalised(Outline(("topic", "note"), (4, 4), (4, 4)), by="token").weigh(seen)
    assert float((weights * losses).sum() / weights.sum()) == pytest.approx(total / count, abs=1e-4)
