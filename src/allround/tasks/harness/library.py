"""The lm-evaluation-harness as it is used here: quiet, and with templates that reach nothing but their document."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Iterator
from functools import cache, lru_cache
from typing import Any

from allround.core.errors import AllroundError

_LOCK = threading.RLock()


@contextlib.contextmanager
def harness(asked: str) -> Iterator[Any]:
    """The package, while it is used. Its templates run in a sandbox, and it prints nothing.

    asked: what is done, for the errors: the package is not there, or fails.
    """
    try:
        import lm_eval.api.task
        import lm_eval.utils
    except ImportError as error:
        raise AllroundError(asked, "the package lm-eval is not installed", "pip install 'allround[lm]'") from error
    from allround.tasks.sources.quiet import quiet

    with _LOCK:
        plain = lm_eval.utils.env
        loggers = [logging.getLogger(name) for name in ("lm_eval", "lm-eval")]
        levels = [logger.level for logger in loggers]
        lm_eval.utils.env = _sandbox(plain)
        try:
            for logger in loggers:
                logger.setLevel(logging.CRITICAL)
            with quiet(), _no_bars(lm_eval.api.task):
                yield lm_eval
        finally:
            lm_eval.utils.env = plain
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


@contextlib.contextmanager
def _no_bars(module: Any) -> Iterator[None]:
    """Without the progress bar that the module draws while it makes requests."""
    bar = module.tqdm
    module.tqdm = lambda rows, **_: rows
    try:
        yield
    finally:
        module.tqdm = bar


@cache
def _sandbox(plain: Any) -> Any:
    """An environment of templates like the harness's own, in a sandbox, and that reads each template once."""
    from jinja2 import BaseLoader, StrictUndefined
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    made = ImmutableSandboxedEnvironment(loader=BaseLoader(), undefined=StrictUndefined, keep_trailing_newline=True)
    made.filters.update(plain.filters)
    made.from_string = lru_cache(maxsize=256)(made.from_string)  # type: ignore[assignment, method-assign]
    return made
