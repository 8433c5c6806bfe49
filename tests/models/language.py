"""Tiny language models of several families, made at random, with a tokenizer that was trained on a few sentences."""

from __future__ import annotations

from pathlib import Path

import torch

TEXTS = ["Where is my parcel?", "It came too late, again.", "The parcel is lost: nobody has seen it.",
         "What is 12 + 7? It is 19.", "late, lost, or something else", "question: answer yes no N/A"] * 4  # fmt: skip
CHAT = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
FAMILIES = ("llama", "qwen2", "gpt_neox", "gpt2", "gemma", "t5")


def make_tokenizer(*, chat: bool = False, marks: bool = True):
    """A byte-level tokenizer. marks: whether it has a mark of an end; chat: whether it has a template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    special = ["<|end|>", "<|user|>", "<|assistant|>", "<|system|>"]
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=special, show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())  # fmt: skip
    made.train_from_iterator(TEXTS, trainer)
    options = {"eos_token": "<|end|>", "additional_special_tokens": special[1:]} if marks else {}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, **options)
    if chat:
        tokenizer.chat_template = CHAT
    return tokenizer


def make_network(family: str, tokens: int = 400):
    """A network of a family, with random weights large enough that answers differ."""
    import transformers as t

    torch.manual_seed(7)
    small = {"vocab_size": tokens, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
             "intermediate_size": 48, "max_position_embeddings": 256, "initializer_range": 0.3}  # fmt: skip
    ends = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
    if family == "llama":
        return t.LlamaForCausalLM(t.LlamaConfig(**small, num_key_value_heads=2, tie_word_embeddings=True, **ends))
    if family == "qwen2":
        return t.Qwen2ForCausalLM(t.Qwen2Config(**small, num_key_value_heads=2, tie_word_embeddings=False, **ends))
    if family == "gpt_neox":
        return t.GPTNeoXForCausalLM(t.GPTNeoXConfig(**small, **ends))
    if family == "gemma":
        return t.GemmaForCausalLM(t.GemmaConfig(**small, num_key_value_heads=1, head_dim=8, **ends))
    if family == "gpt2":
        return t.GPT2LMHeadModel(t.GPT2Config(vocab_size=tokens, n_positions=256, n_embd=32, n_layer=2, n_head=4,
                                              initializer_range=0.3, **ends))  # fmt: skip
    return t.T5ForConditionalGeneration(
        t.T5Config(
            vocab_size=tokens,
            d_model=32,
            d_kv=8,
            d_ff=48,
            num_layers=2,
            num_heads=4,
            initializer_factor=1.0,
            decoder_start_token_id=0,
            pad_token_id=0,
            eos_token_id=0,
        )
    )


def save_model(folder: Path, family: str, **options: bool) -> Path:
    """A folder as transformers saves a language model."""
    tokenizer = make_tokenizer(**options)
    make_network(family, len(tokenizer)).eval().save_pretrained(str(folder))
    tokenizer.save_pretrained(str(folder))
    return folder
