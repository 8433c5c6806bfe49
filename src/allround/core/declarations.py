"""What a method may declare in `@method(...)`: one typed class for each family.

The registry reads a declaration from the text of the method's file and checks it here. A misspelt key, a value of the
wrong type and a missing one are found at that moment, and the error names the file.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

Text = Annotated[str, Field(min_length=1)]
#: The shared checks that a method is exempt from, each with the reason.
Exempt = dict[Text, Text]


class Declaration(BaseModel):
    """What every method declares: where its formula comes from, and the titles of the papers that it implements."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    source: Text
    #: Said by plug-ins. The folder of a built-in method says it already.
    family: Text | None = None
    paper: Text | tuple[Text, ...] | None = None
    #: What the method takes beside its usual input. A family that has something to choose from says so below.
    needs: Annotated[tuple[str, ...], Field(max_length=0)] = ()


class Merge(Declaration):
    """A rule that merges the weights of several models."""

    #: Names of statistics.
    needs: tuple[Text, ...] = ()
    #: The parameter whose value is the one of `needs` that is taken.
    needs_by: Text | None = None
    base: Literal["required", "optional", "none"] = "required"
    #: How a weight may be cut.
    block: Literal["element", "row", "tensor"] = "tensor"
    #: What thresholds and norms are taken over, unless the recipe says otherwise.
    scope: Literal["tensor", "model"] = "tensor"
    #: The smallest and the largest number of models.
    models: tuple[int, int | None] = (1, None)
    #: Whether a build tries it without being told to.
    build: bool = False
    exempt: Exempt = {}

    @field_validator("needs")
    @classmethod
    def _known(cls, needs: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        known = (info.context or {}).get("statistics", ())
        unknown = [need for need in needs if need not in known]
        if unknown:
            raise ValueError(f"there is no statistic '{unknown[0]}'; there are {', '.join(known)}")
        return needs


class Statistic(Declaration):
    """What is measured of a layer on data."""

    #: What a batch shows of a layer to the function.
    sees: tuple[Literal["inputs", "outputs", "gradients", "parameters"], ...] = Field(min_length=1)
    #: Names of the tensors of one weight, where there are several.
    parts: tuple[Text, ...] = ()


class Learn(Declaration):
    """A learned merge."""

    #: Whether it is solved in closed form, without steps.
    closed: bool = False
    build: bool = False


class Objective(Declaration):
    """What a learned merge is judged by."""

    needs: tuple[Literal["labels", "specialist"], ...] = ()
    #: The kinds of task that it can be computed for; all where it is None.
    kinds: tuple[Text, ...] | None = None
    #: Whether it compares answers, or the features that they follow from.
    reads: Literal["answers", "features"] = "answers"


class Codec(Declaration):
    """How a residual is coded."""

    #: Whether the sum of all changes is stored beside the base.
    vector: bool = False


class Balance(Declaration):
    """How much each task weighs in a step."""

    needs: tuple[Literal["losses", "norms", "gramian", "gradients", "features", "validation", "after"], ...] = ()
    #: What the weights multiply: the losses (then a task's own head feels its weight too), or gradients.
    by: Literal["losses", "gradients", "features"]
    #: Named properties that it has, and is checked for.
    keeps: tuple[Text, ...] = ()
    #: Whether its weights are left on their own scale.
    raw: bool = False
    #: Whether its penalty is differentiated through gradients.
    second_order: bool = False
    #: Whether it looks at all tasks of a step at once without gradients side by side.
    together: bool = False
    build: bool = False
    exempt: Exempt = {}


class Sample(Declaration):
    """How often each task is drawn."""

    needs: tuple[Literal["features"], ...] = ()
    #: Whether the schedule of the learning rate begins anew with each stage.
    restarts: bool = False
    #: Whether it is told scores and losses while training.
    feedback: bool = False
    exempt: Exempt = {}


class Share(Declaration):
    """An architecture: which parts of a model tasks share."""

    exempt: Exempt = {}


class Bank(Declaration):
    """A sort of module."""

    #: Whether a module inside an encoder reads what a layer reads, as a change of its weights does, or what it gives.
    reads: Literal["input", "output"] = "output"


class Shrink(Declaration):
    """Which parts of a network are removed."""

    #: The parts that a network must have.
    needs: tuple[Literal["layers", "units"], ...] = Field(min_length=1)
    #: Whether `allround shrink` tries it without being told to.
    tried: bool = False


class Route(Declaration):
    """What picks modules of a library for a row."""

    #: Training rows of the tasks, and their labels.
    needs: tuple[Literal["rows", "labels"], ...] = ()
    #: Whether a build tries it without being told to.
    build: bool = False
    exempt: Exempt = {}


class Estimate(Declaration):
    """How much a source task is expected to help a target task."""

    #: What it looks at of the two tasks: numbers of rows, features of the base, heads fitted on it, labels of training
    #: rows, gradients of the base, specialists, or measured transfer between other tasks.
    needs: tuple[Literal["rows", "features", "heads", "labels", "gradients", "models", "runs"], ...] = Field(
        min_length=1
    )
    #: Whether the value is the same in both directions.
    symmetric: bool = False
    #: Whether no other task is a better source for a task than the task itself.
    self_best: bool = False
    better: Literal["higher", "lower"] = "higher"
    #: Whether `allround relate` computes it without being told to.
    cheap: bool = False
    exempt: Exempt = {}


class Blend(Declaration):
    """What is expected of all pairs, from several estimates and measured transfer to other targets."""

    #: Measured transfer, estimates of it, or both.
    needs: tuple[Literal["measured", "estimates"], ...] = Field(min_length=1)


class Affinity(Declaration):
    """How well each task does in groups that were not trained, from groups that were."""

    #: The largest groups that it reads; all where it is None.
    largest: int | None = None


class Reduce(Declaration):
    """Which tasks stand for a whole benchmark."""

    #: Scores of models on all tasks, or transfer between all tasks.
    needs: tuple[Literal["scores", "transfer"], ...] = Field(min_length=1)


class Grow(Declaration):
    """What a strategy learns with."""

    #: Whether the answers to a task stay as they were, to the bit, when other tasks arrive.
    exact: bool = False


class Strategy(Declaration):
    """How a model learns what comes one after another."""

    exempt: Exempt = {}


class Metric(Declaration):
    """A score."""

    #: What it judges in place of the answers: `scores`, the probabilities of the labels.
    needs: tuple[Literal["scores"], ...] = ()
    kinds: tuple[Text, ...] = Field(min_length=1)
    better: Literal["higher", "lower"]


class Likelihood(Declaration):
    """What the outputs of a head mean."""

    #: The kinds of task whose targets it is a distribution of.
    kinds: tuple[Text, ...] = Field(min_length=1)


class Head(Declaration):
    """What turns features into answers."""

    #: What the encoder gives it: a vector for each row or word, scores of the choices that a task lists, or a text.
    reads: Literal["vectors", "scores", "texts"] = "vectors"
    #: Whether a vector must hold those of a pair's two texts.
    pairs: bool = False
    #: Whether it ranks passages.
    ranks: bool = False
    #: Whether it answers with numbers from 0 to 1 alone.
    bounded: bool = False


class Contrast(Declaration):
    """What brings queries near to what is relevant to them."""

    #: The scores of a teacher.
    needs: tuple[Literal["teacher"], ...] = ()
    exempt: Exempt = {}


class Agree(Declaration):
    """What brings the cosines of pairs near to their scores."""

    #: Whether it compares the cosines with the targets, or the answers that a head makes of them.
    reads: Literal["cosines", "answers"] = "cosines"


class Index(Declaration):
    """What finds the nearest of many vectors."""

    #: Whether it may miss some of them.
    approximate: bool = False


class Encoder(Declaration):
    """A sort of encoder."""

    #: Whether `--base` takes it by name, made on the spot.
    builtin: bool = False


#: The class of each family's declarations.
DECLARATIONS: dict[str, type[Declaration]] = {
    "merge": Merge,
    "statistic": Statistic,
    "learn": Learn,
    "parametrisation": Declaration,
    "objective": Objective,
    "codec": Codec,
    "balance": Balance,
    "sample": Sample,
    "term": Declaration,
    "share": Share,
    "shrink": Shrink,
    "bank": Bank,
    "gate": Declaration,
    "route": Route,
    "combine": Declaration,
    "demonstrations": Declaration,
    "estimate": Estimate,
    "blend": Blend,
    "affinity": Affinity,
    "group": Declaration,
    "reduce": Reduce,
    "complete": Declaration,
    "forecast": Declaration,
    "memory": Declaration,
    "head_policy": Declaration,
    "grow": Grow,
    "select": Declaration,
    "strategy": Strategy,
    "discover": Declaration,
    "kind": Declaration,
    "likelihood": Likelihood,
    "head": Head,
    "contrast": Contrast,
    "agree": Agree,
    "index": Index,
    "system": Declaration,
    "modality": Declaration,
    "metric": Metric,
    "measure": Declaration,
    "encoder": Encoder,
    "suite": Declaration,
    "collection": Declaration,
    "loop": Declaration,
}
