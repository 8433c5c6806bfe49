"""What a merge method tells of a tensor beside merging it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping


class Report:
    """Takes numbers by name, such as how many steps a solver took; by hand, where nobody listens, it does nothing.

    A method that has something to tell has a keyword `report: Report = SILENT`, and calls it once: `report(steps=12)`.
    """

    def __call__(self, **numbers: float) -> None:
        pass


SILENT = Report()


class Kept(Report):
    """Keeps what it is told.

    >>> kept = Kept()
    >>> kept(steps=12)
    >>> kept.numbers
    {'steps': 12}
    """

    def __init__(self) -> None:
        self.numbers: dict[str, float] = {}

    def __call__(self, **numbers: float) -> None:
        self.numbers.update(numbers)


def in_words(reports: Mapping[str, Mapping[str, float]]) -> Iterable[str]:
    """A line for what was told of all tensors: the range of each number, and where it is largest.

    >>> list(in_words({"a": {"steps": 3}, "b": {"steps": 12}}))
    ['steps 3 to 12, most for b']
    """
    for key in dict.fromkeys(key for numbers in reports.values() for key in numbers):
        told = {name: numbers[key] for name, numbers in reports.items() if key in numbers}
        most = max(told, key=lambda name: told[name])
        yield f"{key} {min(told.values()):.3g} to {told[most]:.3g}, most for {most}"
