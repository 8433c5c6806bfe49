"""How the tasks of a suite relate: estimates, and short trainings that say what is true of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from allround.building.saving import CONFIG
from allround.building.stages.base import decide_precision, is_module, make_base
from allround.building.stages.data import DataCheck, announce, keep_rows
from allround.building.stages.estimates import estimate
from allround.building.stages.heads import fit_heads
from allround.building.stages.report import keep_config, provenance
from allround.building.stages.transfer import Runs, measure_transfer
from allround.building.workshop import Workshop, run_folder
from allround.core import registry
from allround.core.errors import AllroundError
from allround.core.jobs import quiet_libraries
from allround.core.outputs import check_texts
from allround.core.progress import FINISHED, Progress
from allround.core.words import duration, plural
from allround.models.device import pick_device
from allround.tasks.suite import Suite, as_suite
from allround.training.settings import Settings
from allround.transfer.blending import blend
from allround.transfer.findings import TOGETHER
from allround.transfer.measures import find_measure
from allround.transfer.relations import FILES, Relations

if TYPE_CHECKING:
    from torch import nn


def relate(
    suite: Suite | str | Path,
    *,
    out: Path | str,
    base: str | Path | nn.Module | None = None,
    estimators: Sequence[str] | None = None,
    specialists: bool = False,
    measure: str | None = None,
    budget: float | None = None,
    rows: int | None = 300,
    seed: int = 0,
    settings: Settings | None = None,
    encoder: Mapping[str, object] | None = None,
    data_dir: Path | str | None = None,
    only: Sequence[str] | None = None,
    limit: Mapping[str, int] | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
    config: str | None = None,
    force: bool = False,
) -> Relations:
    """Estimate how the tasks of a suite relate, and measure it where that is asked for.

    estimators: methods of the family `estimate`, also with settings such as `divergence:kind=coral`; all whose needs
    are met where it is None. rows: training rows of each task that they look at. specialists: tune one for each task
    first, and let estimators look at them too; with measure="pairs" they are there anyway. measure: `pairs` (tune on
    one task, then another), `joint` (train two together), `leave-one-out` (train all, and all but one), each against
    training without the other task, or `subsets` (train random groups of half of the tasks, and fit what each member
    adds), scored on validation rows. budget: minutes for measuring; they go where they may
    still change which source is best for a target. settings: of all trainings. Test rows are not looked at.

    Everything is kept in `out`: run again after a kill, or with more to measure, it takes up what is there.

    Errors: a suite with one task; an unknown estimator or measure; no base.
    """
    quiet_libraries()
    out = Path(out)
    suite = as_suite(suite, data_dir=data_dir, only=only, limit=limit).to_train
    asked = f"relate the tasks of '{suite.name}'"
    if len(suite.tasks) < 2:
        raise AllroundError(asked, f"it has only one task: {', '.join(suite.tasks)}", "give two tasks or more")
    base = suite.own_base(asked) if base is None else base
    if measure is not None:
        find_measure(measure, list(suite.tasks))
    for name, value in (("budget", budget), ("rows", rows)):
        if value is not None and not value > 0:
            raise AllroundError(asked, f"{name} is {value:g}", f"give a {name} above 0")
    if budget is not None and measure is None:
        raise AllroundError(asked, "a budget was given, and nothing to measure", "give --measure pairs, or no budget")
    for name in estimators or ():
        registry.find("estimate", registry.spelled("estimate", name)[0])
    settings = settings or Settings()
    device = pick_device(settings.device)
    with run_folder(out, "relate", force=force):
        check_texts(out, [*FILES, CONFIG], "relate", force=force)
        keep_config(out, config, "relate", force=force)
        shop = Workshop(out, progress or Progress(out / "log.txt"), seed=seed, workers=workers,
                        in_process=is_module(base), gpus=int(device.type == "cuda"), force=force)  # fmt: skip
        with shop:
            announce(shop, suite, "estimates" if measure is None else f"estimates, and {measure} measured")
            DataCheck().tasks(shop.progress, suite.tasks)
            data = keep_rows(shop, suite.tasks)
            made_base = make_base(shop, base, data, encoder or {}, seed)
            chosen = decide_precision(shop, settings).settings if measure or specialists else settings
            start = fit_heads(shop, data, made_base, chosen.device) if measure or specialists else None
            said = [estimate(shop, data, made_base, {}, estimators, rows)]
            measured = None
            if start is not None:
                runs = Runs(shop, start, chosen)
                if measure is not None:
                    expected = blend(TOGETHER, said[0].matrices) if said[0].matrices else None
                    measured = measure_transfer(runs, measure, estimates=expected, minutes=budget)
                if specialists or measure == "pairs":
                    runs.make_specialists(list(data.tasks))
                    alone = {name: runs.specialist(name)[0] for name in data.tasks}
                    said.append(estimate(shop, data, made_base, alone, estimators, rows))
            found = [one for each in said for one in each.matrices]
            about = {
                "suite": f"{suite.name}, {plural(len(data.tasks), 'task')}",
                "base": made_base.name,
                "training rows": ", ".join(f"{n} {len(t.splits['train'])}" for n, t in data.tasks.items())
                + ("" if rows is None else f"; estimators look at up to {rows} of each"),
                "estimates": ", ".join(one.name for one in found)
                + f"; {duration(sum(each.seconds for each in said))} in all",
                "seed": str(seed),
            }
            if measured is not None:
                about["validation rows"] = ", ".join(
                    f"{n} {len(t.splits['validation'])}" for n, t in data.tasks.items()
                )
                about["trainings"] = f"{measure}, {duration(measured.seconds)} of training in all"
            related = Relations(
                f"How the tasks of {suite.name} relate",
                tuple(found),
                said[0].left_out,
                measured,
                {name: task.definition.metric for name, task in data.tasks.items()},
                about,
                measure,
                [f"{name}: {note}" for name, task in data.tasks.items() for note in task.notes],
                provenance(shop, suite, made_base, data, chosen),
            )
        related.save(out, "relate", force=force)
        shop.progress.note(FINISHED)
    return related
