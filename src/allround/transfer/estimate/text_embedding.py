"""text_embedding: how alike the mean features of two tasks are, or what the tasks say of themselves."""

from __future__ import annotations

from allround.core.errors import AllroundError, suggestion
from allround.core.registry import method
from allround.transfer.estimating import cosine
from allround.transfer.matrix import Values
from allround.transfer.view import TransferView


@method(
    source="TextEmb and SEmb: Vu et al., EMNLP 2020, arXiv:2005.00770; Poth et al., EMNLP 2021, arXiv:2104.08247",
    paper="What to Pre-Train on? Efficient Intermediate Task Selection",
    needs=("features",),
    symmetric=True,
    self_best=True,
    cheap=True,
)
def text_embedding(view: TransferView, *, of: str = "rows") -> Values:
    """Compare tasks by one vector each. The base decides which of the papers' two it is: a masked language model gives
    TextEmb, a sentence encoder gives SEmb. Other inputs than texts do as well.

    Formula: value(s, t) = cos(e_s, e_t); e is the mean of the features of a task's rows
    of: `rows`; or `description` for what a task says of itself: its name, instruction, prompt and labels.
    Differs: of pairs of texts the features are the mean of both texts; of words, those of each word count the same.

    >>> from allround.models.encoders.small_image import SmallImage
    >>> from allround.tasks.suite import Suite
    >>> view = TransferView.of(Suite.load("digits", only=["digit", "parity"]), SmallImage(size=8), limit=40)
    >>> bool(text_embedding(view)[0, 1] > 0.9)
    True
    """
    if of not in ("rows", "description"):
        raise AllroundError(f"compare tasks by their {of}", "there is no such vector",
                            suggestion(of, ("rows", "description")))  # fmt: skip

    def vector(task: str) -> Values | None:
        if of == "description":
            return view.described(task)
        features = view.common(task)
        return None if features is None else features.mean(0)

    return view.between(cosine, vector)
