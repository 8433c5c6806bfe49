"""The same tensors under longer or shorter names: `module.`, `_orig_mod.`, `base_model.model.` and the like."""

from __future__ import annotations

from collections.abc import Collection

#: With how many names prefixes are looked for; more would find the same ones.
_PROBES = 16


def find_prefix(names: Collection[str], known: Collection[str]) -> tuple[str, str]:
    """The prefix that `known` puts before the names, and the one that it leaves out; at most one is not empty.

    It is the one under which most of the names are found. Both are empty where no prefix finds more of them.

    >>> find_prefix(["a.weight", "a.bias"], ["module.a.weight", "module.a.bias"])
    ('module.', '')
    >>> find_prefix(["model.a.weight", "model.a.bias"], ["a.weight", "a.bias"])
    ('', 'model.')
    """
    wanted, there = set(names), set(known)
    best, found = len(wanted & there), ("", "")
    if best == len(wanted):
        return found
    for longer, shorter, stripped in ((there, wanted, False), (wanted, there, True)):
        probes = sorted(shorter, key=lambda name: (-len(name), name))
        prefixes = {
            name[: -len(probe)]
            for probe in probes[:: max(1, len(probes) // _PROBES)]
            for name in longer
            if name.endswith(f".{probe}")
        }
        for prefix in sorted(prefixes):
            count = sum(prefix + name in longer for name in shorter)
            if count > best:
                best, found = count, ("", prefix) if stripped else (prefix, "")
    return found
