"""YAML that people write: plain data only, nothing twice, nothing that grows when it is read."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

import yaml
from yaml.composer import Composer
from yaml.constructor import SafeConstructor
from yaml.resolver import Resolver

from allround.core.errors import AllroundError
from allround.core.reading import MAX_DEPTH, read_text

#: Values that a file may stand for when every alias is written out; the default.
MAX_VALUES = 100_000
#: Bits of a whole number: more than any float can hold, and few enough to be written out in an error.
_BITS = 1024


def read_documents(path: Path | str, *, what: str = "file") -> list[Any]:
    """The documents of a YAML file: one, unless `---` parts them. Errors: those of `read_text`, `parse_documents`."""
    return parse_documents(read_text(path, what=what), asked=f"read the {what} '{path}'")


def parse_documents(
    text: str,
    *,
    asked: str = "read YAML",
    max_values: int = MAX_VALUES,
    plain_words: bool = False,
    tags: Collection[str] = (),
) -> list[Any]:
    """The documents in a text.

    max_values: lists, mappings and values, when all aliases are written out; far longer texts are not even read.
    plain_words: only `true` and `false` are truth values; `no`, `on` and the like are words. tags: of mappings, such as
    "!Template", that are read as if they had none; every other tag is an error.
    Errors: broken YAML, a key that stands twice, aliases that grow, too many values, too deep nesting.

    >>> parse_documents("a: [1, 2e-3, no]"), parse_documents("a: [true, no]", plain_words=True)
    ([{'a': [1, 0.002, False]}], [{'a': [True, 'no']}])
    """
    if text.count("\n") + text.count(",") > max_values:
        raise AllroundError(asked, f"it has more than {max_values:,} lines and commas", "check that this is the file")
    try:
        loader = _tagged(_PlainWords if plain_words else _Loader, tags)(text, max_values)
        try:
            found = []
            while loader.check_data():
                found.append(loader.get_data())
            return found
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise AllroundError(asked, f"{where}{error.problem}", "correct the YAML there") from None
    except (yaml.YAMLError, ValueError, OverflowError, KeyError, TypeError, AttributeError) as error:
        raise AllroundError(asked, f"it is not readable as YAML: {error}", "correct the YAML") from None


def parse_value(text: str) -> Any:
    """A single value, as an option gives it; None where the text is empty. Errors: those of `parse_documents`.

    >>> parse_value("1e-3"), parse_value("[a, 2]"), parse_value("")
    (0.001, ['a', 2], None)
    """
    documents = parse_documents(text, asked=f"read the value {text[:60]!r}")
    return documents[0] if documents else None


def _parser() -> Any:
    """libyaml's parser, or PyYAML's own where it was built without: that takes ten times as long, so that a megabyte
    takes several seconds."""
    if yaml.__with_libyaml__:
        from yaml.cyaml import CParser  # type: ignore[attr-defined]

        return CParser

    class Parser(yaml.reader.Reader, yaml.scanner.Scanner, yaml.parser.Parser):
        def __init__(self, text: str) -> None:
            yaml.reader.Reader.__init__(self, text)
            yaml.scanner.Scanner.__init__(self)
            yaml.parser.Parser.__init__(self)

    return Parser


_Parser: Any = _parser()


class _Loader(Composer, _Parser, SafeConstructor, Resolver):
    """Plain data only; a key twice is an error; `1e-3` is a number, as everybody expects."""

    def __init__(self, text: str, max_values: int) -> None:
        _Parser.__init__(self, text)
        Composer.__init__(self)
        SafeConstructor.__init__(self)
        Resolver.__init__(self)
        self.max_values = max_values
        self.nodes = self.depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        self.nodes += 1
        self.depth += 1
        mark: Any = self.peek_event().start_mark
        if self.nodes > self.max_values:
            raise yaml.constructor.ConstructorError(None, None, f"more than {self.max_values:,} values", mark)
        if self.depth > MAX_DEPTH:
            raise yaml.constructor.ConstructorError(None, None, f"nested more than {MAX_DEPTH} levels deep", mark)
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        found = super().construct_yaml_int(node)
        if found.bit_length() > _BITS:
            raise yaml.constructor.ConstructorError(None, None, "a whole number that is too long", node.start_mark)
        return found

    def get_data(self) -> Any:
        node = self.get_node()
        _count(node, self.max_values, {}, ())
        return self.construct_document(node)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if (key.tag, key.value) in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"the key '{key.value}' stands twice", key.start_mark
                    )
                seen.add((key.tag, key.value))
        made: dict[Any, Any] = super().construct_mapping(node, deep)
        return made


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)
_Loader.yaml_implicit_resolvers = {k: list(v) for k, v in yaml.SafeLoader.yaml_implicit_resolvers.items()}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+"), list("-+.0123456789")
)


class _PlainWords(_Loader):
    """Only true and false are truth values (so a label may be `no`)."""


_BOOL = "tag:yaml.org,2002:bool"
_PlainWords.yaml_implicit_resolvers = {
    first: [(tag, rule) for tag, rule in rules if tag != _BOOL]
    for first, rules in _Loader.yaml_implicit_resolvers.items()
}
_PlainWords.add_implicit_resolver(_BOOL, re.compile(r"(?:true|True|TRUE|false|False|FALSE)\Z"), list("tTfF"))


def _tagged(loader: type[_Loader], tags: Collection[str]) -> type[_Loader]:
    """A loader that reads mappings with these tags as if they had none."""
    if not tags:
        return loader

    class Tagged(loader):  # type: ignore[valid-type,misc]
        pass

    for tag in tags:
        Tagged.add_constructor(tag, lambda self, node: self.construct_mapping(node, deep=True))
    return Tagged


def _count(node: Any, most: int, known: dict[int, int], above: tuple[int, ...]) -> int:
    """How many values a node stands for when all aliases are written out."""
    if id(node) in above:
        raise yaml.constructor.ConstructorError(None, None, "an alias that holds itself", node.start_mark)
    if id(node) not in known:
        total = 1
        if isinstance(node, yaml.CollectionNode):
            parts = (
                node.value if isinstance(node, yaml.SequenceNode) else [part for pair in node.value for part in pair]
            )
            total += sum(_count(part, most, known, (*above, id(node))) for part in parts)
        known[id(node)] = total
        if total > most:
            raise yaml.constructor.ConstructorError(
                None, None, f"more than {most:,} values from here on", node.start_mark
            )
    return known[id(node)]
