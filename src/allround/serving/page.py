"""The page on which people try the tasks: one file, which fetches nothing from elsewhere."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path

from allround.core.version import __version__


def page(title: str) -> tuple[str, str]:
    """The page, and what the header Content-Security-Policy allows it: its own script, and requests to its server."""
    from jinja2 import Environment, FileSystemLoader

    environment = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True)
    text = environment.get_template("page.html.j2").render(title=title, version=__version__)
    script = text.partition("<script>")[2].partition("</script>")[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = (f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; connect-src 'self'; "
              "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")  # fmt: skip
    return text, policy
