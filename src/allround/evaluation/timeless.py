"""What a result says apart from when and where it was made."""

from __future__ import annotations

_TIMELY = {
    "date",
    "time",
    "started",
    "finished",
    "machine",
    "host",
    "hostname",
    "examples_per_second",
    "watt_hours",
    "carbon",
    "peak_memory",
    "further",
}


def timeless(value: object) -> object:
    """Plain data without times, dates, speeds, sizes in bytes and machines: the same for two runs with one seed.

    >>> timeless({"score": 0.5, "cost": {"training_seconds": 3.2, "choices": 4}})
    {'score': 0.5, 'cost': {'choices': 4}}
    """
    if isinstance(value, dict):
        kept = {k: v for k, v in value.items() if k not in _TIMELY and not str(k).endswith("seconds")}
        return {key: timeless(item) for key, item in kept.items()}
    if isinstance(value, (list, tuple)):
        return [timeless(item) for item in value]
    return value
