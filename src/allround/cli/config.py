"""Options from a YAML file (`--config FILE`), and what a command was asked for as such a file.

A key is the name of an option without dashes, or of an argument. What stands on the command line wins.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from allround.core.errors import AllroundError, suggestion

if TYPE_CHECKING:
    from typer._click import Parameter

#: Options that say how a command is run, and not what it makes: a file neither holds nor keeps them.
_LEFT_OUT = {"config", "help", "quiet", "json", "as_json", "force", "dry_run"}
#: A command with fewer options than these does not take `--config`.
LEAST = 8

_context: typer.Context | None = None


def use_config(context: typer.Context, path: Path | None) -> Path | None:
    """What `--config` does: the values in the file become the defaults of the command."""
    global _context
    _context = context
    if path is not None:
        context.default_map = read_config(path, context.command.params)
    return path


def read_config(path: Path, params: Sequence[Parameter]) -> dict[str, object]:
    """The options in a file, by the names of the command's parameters.

    Errors: a file that is no mapping, a key that the command does not have, a value that the option cannot take.
    """
    from allround.core.documents import read_documents

    asked = f"read the options in {path}"
    found = read_documents(path, what="file of options")
    value = found[0] if len(found) == 1 else None
    if not isinstance(value, Mapping):
        raise AllroundError(asked, "it is not one list of `option: value`", "write each option on a line of its own")
    known = {_key(param): param for param in params if param.name not in _LEFT_OUT}
    options: dict[str, object] = {}
    for name, item in value.items():
        param = known.get(str(name).replace("_", "-"))
        if param is None or param.name is None:
            raise AllroundError(asked, f"the command has no option '{name}'", suggestion(str(name), known))
        if item is not None:
            options[param.name] = _value(item, param, f"{asked}: {name}")
    return options


def asked_for() -> str:
    """What the present command was asked for, as a file that `--config` takes; defaults are left out."""
    import yaml

    from allround.core.version import __version__

    if _context is None:
        return ""
    found: dict[str, object] = {}
    for param in _context.command.params:
        name = param.name
        if name is None or name in _LEFT_OUT or _context.get_parameter_source(name) in (None, _source_default()):
            continue
        value = _context.params.get(name)
        if value is not None:
            found[_key(param)] = _plain(value)
    names: list[str] = []
    above: typer.Context | None = _context
    while above is not None and above.parent is not None:  # the program itself may be started in several ways
        names.insert(0, str(above.info_name))
        above = above.parent  # type: ignore[assignment]
    command = " ".join(names)
    head = f"# allround {__version__}; to repeat the run: allround {command} --config THIS_FILE\n"
    return head + yaml.safe_dump(found, sort_keys=False, allow_unicode=True, width=10_000)


def _source_default() -> object:
    from typer._click.core import ParameterSource

    return ParameterSource.DEFAULT


def _key(param: Parameter) -> str:
    """The long name of an option without dashes, or the name of an argument."""
    long = [option for option in param.opts if option.startswith("--")]
    return long[0].removeprefix("--") if long else str(param.name).replace("_", "-")


def _value(item: object, param: Parameter, asked: str) -> object:
    """A value as the command line would have it."""
    if getattr(param, "is_flag", False):
        if not isinstance(item, bool):
            raise AllroundError(asked, f"it is {item!r}, and the option is a switch", "give true or false")
        return item
    several = getattr(param, "multiple", False) or param.nargs == -1
    if isinstance(item, Mapping):
        if not several:
            raise AllroundError(asked, "it has names in it, and the option takes one value", "give one value")
        return [f"{name}={_word(part, asked)}" for name, part in item.items()]
    if isinstance(item, Sequence) and not isinstance(item, str):
        words = [_word(part, asked) for part in item]
        return words if several else ",".join(words)
    return [_word(item, asked)] if several else _word(item, asked)


def _word(item: object, asked: str) -> str:
    if isinstance(item, (Mapping, list)):
        raise AllroundError(asked, "it is nested deeper than an option can be", "give names, numbers, or lists of them")
    return str(item).lower() if isinstance(item, bool) else str(item)


def _plain(value: object) -> object:
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value
