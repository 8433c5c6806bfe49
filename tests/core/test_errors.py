"""The one error, and its suggestions."""

from __future__ import annotations

import pickle

from allround import AllroundError
from allround.core.errors import suggestion


def test_three_parts_in_three_lines() -> None:
    error = AllroundError("open the door", "it is locked", "turn the key")
    assert (error.asked, error.found, error.do) == ("open the door", "it is locked", "turn the key")
    assert str(error) == "asked: open the door\nfound: it is locked\ndo:    turn the key"


def test_it_survives_the_way_between_processes() -> None:
    error = pickle.loads(pickle.dumps(AllroundError("a", "b", "c")))
    assert isinstance(error, AllroundError)
    assert (error.asked, error.found, error.do) == ("a", "b", "c")


def test_suggestion_names_the_nearest_and_all() -> None:
    assert suggestion("averge", ["ties", "average"]) == "did you mean 'average'? (known: average, ties)"


def test_suggestion_without_a_near_name_lists_all_in_order() -> None:
    assert suggestion("qqq", {"b": 1, "a": 2}) == "use one of: a, b"
    assert suggestion("", ["b", "a"]) == "use one of: a, b"
