"""Methods from outside the package: files that the user names, and packages that offer theirs by entry points.

A plug-in is a method file like the built-in ones, and says its family itself: `@method(family="merge", source=...)`.
The file's name is the method's name. It is used by its path (`use_plugin`, or `--plugin FILE` on the command line), or
it belongs to an installed package that names it in the entry-point group `allround.methods`:

    [project.entry-points."allround.methods"]
    mine = "my_package.methods"

The value is a module, whose file is one method, or a package, whose public files are methods. Neither is imported until
one of its methods is used. A plug-in runs as any other code of the user's does: no model or data folder can name one.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.abc import InspectLoader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import CodeType, ModuleType
from typing import TYPE_CHECKING

from allround.core.entry import Entry
from allround.core.errors import AllroundError, suggestion
from allround.core.families import FAMILIES, builtin_names, word
from allround.core.method_file import MethodFile, entry_of, parse
from allround.core.reading import read_text

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

#: The group of entry points by which an installed package offers methods.
GROUP = "allround.methods"

#: Families whose methods are named in tasks, in folders of models or by their classes. A piece of work may depend on
#: them without naming them.
_IMPLIED = ("kind", "modality", "metric", "likelihood", "head", "system", "encoder", "term", "loop")


@dataclass(frozen=True)
class PluginFile:
    """The text of a plug-in as it was read, for processes and machines that have not read it."""

    path: str
    text: str


@dataclass(frozen=True)
class Plugin:
    """A method from outside the package."""

    entry: Entry
    text: str
    #: The folder (or file) of the installed package that it belongs to; None for a file that the user named.
    package: Path | None = None

    @property
    def content(self) -> str:
        """A hash of all the code that the method may consist of: its file, or its whole package."""
        if self.package is None:
            return hashlib.sha256(self.text.encode()).hexdigest()
        return _content(self.package)


#: The plug-ins that the user named, by family and name.
_named: dict[tuple[str, str], Plugin] = {}


# -- what there is -----------------------------------------------------------------------------------------------------


def of(family: str) -> dict[str, Entry]:
    """The plug-ins of a family by name."""
    return {name: plugin.entry for (one, name), plugin in _all().items() if one == family}


def contents(made_from: object) -> dict[str, str]:
    """The content of the plug-ins in use that something was made by, as "family.name": hash.

    made_from: plain data that says what it was made from. A plug-in counts where its name is a word in there; one that
    tasks and folders of models name, such as a kind, a metric, a head or an encoder, always counts. Whatever tells
    finished work by what it was made from adds this, so that a changed plug-in is never served stale.
    """
    used = _all()
    if not used:
        return {}
    words = set(re.findall(r"\w+", json.dumps(made_from, default=repr)))
    return {
        f"{family}.{name}": plugin.content
        for (family, name), plugin in sorted(used.items())
        if name in words or family in _IMPLIED
    }


def in_use() -> dict[str, str]:
    """The content of every plug-in in use, as "family.name": hash; for records of how something was made."""
    return {f"{family}.{name}": plugin.content for (family, name), plugin in sorted(_all().items())}


def _all() -> dict[tuple[str, str], Plugin]:
    return {**_installed(), **_named}


# -- files that the user names -----------------------------------------------------------------------------------------


def use_plugin(file: Path | str) -> Entry:
    """Use the method in a file from outside the package, from now on and by the file's name.

    A file that is in use already is read anew. Worker processes and the machines of a cluster use it too.
    Errors: no such file; not valid Python; no marked method; no family, or an unknown one; a declaration that does not
    fit the family; a name that a built-in method or another plug-in has.
    """
    path = Path(file).expanduser().absolute()
    asked = f"use the plug-in '{file}'"
    if not path.is_file():
        raise AllroundError(asked, "there is no such file", "check the path")
    if path.suffix != ".py":
        raise AllroundError(asked, "it is not a Python file", "give a file whose name ends in .py")
    return _use(PluginFile(str(path), read_text(path, what="plug-in", asked=asked)), asked)


def files_in_use() -> tuple[PluginFile, ...]:
    """The plug-ins that the user named. What an installed package offers, each process finds by itself."""
    return tuple(PluginFile(str(plugin.entry.path), plugin.text) for plugin in _named.values())


def use_files(files: Sequence[PluginFile]) -> None:
    """Use the plug-ins that another process uses, as it read them."""
    known = set(files_in_use())
    for file in files:
        if file not in known:
            _use(file, f"use the plug-in '{file.path}'")


def _use(file: PluginFile, asked: str) -> Entry:
    path = Path(file.path)
    found = parse(path, file.text, asked)
    family = _family(found)
    entry = entry_of(found, family, f"allround_plugin_{family}_{path.stem}", _statistics(_all()))
    _check_free(entry, asked, _all())
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.append(_Finder())
    sys.modules.pop(entry.module, None)
    _named[family, entry.name] = Plugin(entry, file.text)
    return entry


def _family(file: MethodFile) -> str:
    given = file.declared.get("family")
    if given is None:
        raise AllroundError(
            file.asked,
            "@method(...) does not say which family the method belongs to",
            f"write @method(family=..., source=...) with one of: {', '.join(sorted(FAMILIES))}",
        )
    if given not in FAMILIES:
        raise AllroundError(file.asked, f"there is no family {given!r}", suggestion(str(given), FAMILIES))
    return str(given)


def _check_free(entry: Entry, asked: str, others: Mapping[tuple[str, str], Plugin]) -> None:
    kind = word(entry.family)
    do = "rename the file and the function or class in it"
    if not entry.name.isidentifier() or entry.name.startswith("_"):
        raise AllroundError(asked, f"'{entry.name}' cannot be the name of a {kind}", do)
    if entry.name in builtin_names(entry.family):
        raise AllroundError(asked, f"'{entry.name}' is a built-in {kind}", do)
    other = others.get((entry.family, entry.name))
    if other is not None and other.entry.path != entry.path:
        raise AllroundError(asked, f"{other.entry.path} is a {kind} of that name, and is in use", do)


def _statistics(others: Mapping[tuple[str, str], Plugin]) -> tuple[str, ...]:
    return tuple(sorted({*builtin_names("statistic"), *(name for family, name in others if family == "statistic")}))


class _Finder(MetaPathFinder):
    """Finds the module of a plug-in in use, so that it is imported like any other."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        plugin = next((plugin for plugin in _named.values() if plugin.entry.module == fullname), None)
        if plugin is None:
            return None
        spec = importlib.util.spec_from_loader(fullname, _Loader(plugin), origin=str(plugin.entry.path))
        assert spec
        spec.has_location = True
        return spec


class _Loader(InspectLoader):
    """Runs the text of a plug-in that was read when it was taken into use, whatever the file holds since."""

    def __init__(self, plugin: Plugin) -> None:
        self.plugin = plugin

    def get_source(self, fullname: str) -> str:
        return self.plugin.text

    def get_code(self, fullname: str) -> CodeType:
        code: CodeType = compile(self.plugin.text, str(self.plugin.entry.path), "exec", dont_inherit=True)
        return code

    def exec_module(self, module: ModuleType) -> None:
        try:
            super().exec_module(module)
        except Exception as error:
            raise AllroundError(
                f"load the plug-in {self.plugin.entry.path}",
                f"its code ends with an error: {type(error).__name__}: {error}",
                "correct the file, or install what it imports",
            ) from error


# -- files of installed packages ---------------------------------------------------------------------------------------


@cache
def _installed() -> Mapping[tuple[str, str], Plugin]:
    """The methods that installed packages offer, by family and name."""
    from importlib.metadata import entry_points

    read = [
        (file, module, package)
        for point in sorted(entry_points(group=GROUP), key=lambda point: (point.name, point.value))
        for file, module, package in _offered(point)
    ]
    # Statistics first: merge methods may need them.
    read.sort(key=lambda one: one[0].declared.get("family") != "statistic")
    found: dict[tuple[str, str], Plugin] = {}
    for file, module, package in read:
        entry = entry_of(file, _family(file), module, _statistics(found))
        _check_free(entry, file.asked, found)
        found[entry.family, entry.name] = Plugin(entry, "", package)
    return found


def _offered(point: EntryPoint) -> Iterator[tuple[MethodFile, str, Path]]:
    """The method files that an entry point names, with their modules and the package that they belong to."""
    owner = f" of the package '{point.dist.name}'" if point.dist else ""
    asked = f"use the methods{owner}: {point.name} = {point.value!r} in {GROUP}"
    spec, package = _located(point, asked)
    if spec.submodule_search_locations is None:
        assert spec.origin
        files = {point.value: Path(spec.origin)}
    else:
        listed = sorted(path for folder in spec.submodule_search_locations for path in Path(folder).glob("*.py"))
        files = {f"{point.value}.{path.stem}": path for path in listed if not path.stem.startswith("_")}
    if not files:
        raise AllroundError(asked, "the package has no public file", f"add a method file, or uninstall it{owner}")
    for module, path in files.items():
        about = f"{asked}, file {path}"
        yield parse(path, read_text(path, what="method file", asked=about), about), module, package


def _located(point: EntryPoint, asked: str) -> tuple[ModuleSpec, Path]:
    """Where the module of an entry point lies, and its package, without importing either."""
    first, *rest = point.value.split(".")
    spec = importlib.util.find_spec(first) if first.isidentifier() else None
    root = spec
    for number, _ in enumerate(rest):
        inside = spec.submodule_search_locations if spec else None
        spec = PathFinder.find_spec(".".join([first, *rest[: number + 1]]), inside) if inside else None
    if spec is None or root is None or (spec.origin is None and spec.submodule_search_locations is None):
        raise AllroundError(
            asked,
            f"there is no module {point.value!r}",
            "let the entry point name a module or a package, such as my_package.methods, or uninstall the package",
        )
    folders = list(root.submodule_search_locations or ())
    return spec, Path(folders[0] if folders else root.origin or "")


@cache
def _content(package: Path) -> str:
    """A hash of the Python files of an installed package; it does not change while a process runs."""
    listed = sorted(package.rglob("*.py")) if package.is_dir() else [package]
    digest = hashlib.sha256()
    for path in listed:
        digest.update(path.relative_to(package.parent).as_posix().encode() + b"\0")
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()
