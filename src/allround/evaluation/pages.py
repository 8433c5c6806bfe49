"""What all pages of results have in common: their templates, style, and values in words."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from allround.core.words import listed

if TYPE_CHECKING:
    from jinja2 import Template
    from markupsafe import Markup

Filter = Callable[..., object]


def template(path: Path, filters: Mapping[str, Filter], functions: Mapping[str, Filter] | None = None) -> Template:
    """A page's template: text in it is escaped, and a value that is not given is an error."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([path.parent, Path(__file__).parent]),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters.update(filters)
    environment.globals.update(functions or {})
    return environment.get_template(path.name)


def settings_text(settings: Mapping[str, object] | str | None) -> str:
    """Settings in a line.

    >>> settings_text({"scale": 0.3, "keep": 2}), settings_text(None)
    ('scale 0.3, keep 2', 'defaults')
    >>> settings_text({"share_settings": {"skills": 2, "start": {"mood": [1.0, 0.0], "topic": [0.0, 1.0]}}})
    'share_settings (skills 2, start of mood and topic)'
    """
    if not settings:
        return "defaults"
    if isinstance(settings, str):
        return settings
    return ", ".join(_setting_text(name, value) for name, value in settings.items())


def _setting_text(name: str, value: object) -> str:
    if isinstance(value, Mapping):
        long = any(isinstance(one, list | tuple) for one in value.values())
        return f"{name} of {listed(list(value))}" if long else f"{name} ({settings_text(value)})"
    return f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}"


def breakable(name: str) -> Markup:
    """A name that may be broken after an underscore or a plus."""
    from markupsafe import Markup, escape

    return Markup(str(escape(name)).replace("_", "_<wbr>").replace("+", "+<wbr>"))
