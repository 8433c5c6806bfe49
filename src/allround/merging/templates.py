"""Chat templates: by name, or the one that most of the models have."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from allround.checkpoints.source import Source
from allround.core.errors import AllroundError, suggestion
from allround.core.files import read_settings
from allround.core.reading import read_text

TEMPLATE_FILE = "chat_template.jinja"
#: Chat formats by name.
TEMPLATES = {
    "chatml": (
        "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
        "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    ),
    "llama3": (
        "{{ bos_token }}{% for message in messages %}<|start_header_id|>{{ message['role'] }}<|end_header_id|>\n\n"
        "{{ message['content'] | trim }}<|eot_id|>{% endfor %}"
        "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
    ),
    "alpaca": (
        "{% for message in messages %}{% if message['role'] == 'system' %}{{ message['content'] | trim }}\n\n"
        "{% elif message['role'] == 'user' %}### Instruction:\n{{ message['content'] | trim }}\n\n"
        "{% elif message['role'] == 'assistant' %}### Response:\n{{ message['content'] | trim }}\n\n"
        "{% endif %}{% endfor %}{% if add_generation_prompt %}### Response:\n{% endif %}"
    ),
}


def check_template(template: str, where: str) -> None:
    """An error unless it is `auto`, a name, or a template itself."""
    if template != "auto" and template not in TEMPLATES and "{" not in template:
        raise AllroundError(
            f"set {where} to {template!r}",
            "it is not the name of a template, and not a template itself (that would hold `{{ ... }}`)",
            f"{suggestion(template, ['auto', *TEMPLATES])}; or write the template there",
        )
    import jinja2

    try:
        jinja2.Environment().parse(template)  # parsed, not run
    except jinja2.TemplateError as error:
        raise AllroundError(
            f"set {where}", f"it is not a valid Jinja template: {error}", "correct it, or leave it out"
        ) from error


def chosen_template(wanted: str, sources: Sequence[Source]) -> str | None:
    """The template of the output: by name, as it is given, or (`auto`) the one that most of the models have."""
    check_template(wanted, "the chat template")
    if wanted != "auto":
        return TEMPLATES.get(wanted, wanted)
    found = Counter(t.strip() for t in map(_template_of, sources) if t)
    return found.most_common(1)[0][0] if found else None


def _template_of(source: Source) -> str | None:
    if (source.path / TEMPLATE_FILE).is_file():
        return read_text(source.path / TEMPLATE_FILE, what="chat template")
    path = source.path / "tokenizer_config.json"
    config = read_settings(path) if path.is_file() else None
    found = config.get("chat_template") if isinstance(config, dict) else None
    if isinstance(found, list):
        found = next((t.get("template") for t in found if isinstance(t, dict) and t.get("name") == "default"), None)
    return found if isinstance(found, str) else None
