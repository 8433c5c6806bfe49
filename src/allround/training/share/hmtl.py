"""HMTL: tasks at different depths of one network."""

from __future__ import annotations

from allround.core.errors import AllroundError
from allround.core.registry import method
from allround.models.share.plan import Choice, Level, Mixing, Plan


@method(
    source="Sanh et al., AAAI 2019, arXiv:1811.06031, section 2; checked against huggingface/hmtl",
    paper="A Hierarchical Multi-task Approach for Learning Embeddings from Semantic Tasks",
)
def hmtl(
    *, order: str = "", units: int = 128, hidden: int = 0, levels: int = 2, dropout: float = 0.0, rate: float = 1e-3
) -> Plan:
    """A task's level reads what the encoder gives beside what the level below gives, so that a row of a higher task
    trains the lower levels too.

    order: the tasks of each level from the lowest, such as "pos<chunk<sst2,subj"; tasks that it does not name are at
    the highest. Without it all tasks are behind `levels` levels.

    Differs: perceptrons with `hidden` layers in place of LSTMs, and tasks of one level share it.

    >>> [level.ends for level in hmtl(order="a<b,c").levels]
    [('a',), ('b', 'c')]
    """
    groups = [tuple(name.strip() for name in group.split(",")) for group in order.split("<")] if order else []
    names = [name for group in groups for name in group]
    if "" in names or len(set(names)) < len(names):
        raise AllroundError(
            f"put tasks into the order '{order}'",
            "a level has no task, or a task stands twice",
            'write each task once, such as order="a<b,c"',
        )
    mixing = Mixing(Choice("mlp", {"units": (units,) * hidden, "dropout": dropout}))
    made = [
        Level(mixing, units=units, outputs="both", modules_read="input+stream" if number else "input", ends=ends)
        for number, ends in enumerate(groups or [()] * levels)
    ]
    return Plan(levels=tuple(made), rate=rate)
