"""`serve`: models in folders behind HTTP, until the process is told to stop."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING

from allround.core.errors import AllroundError
from allround.core.words import listed, plural
from allround.evaluation.versions import Gates
from allround.models.system import load
from allround.serving.engine import Engine, Limits

if TYPE_CHECKING:
    from allround.serving.reload import Reloader
    from allround.serving.served import Models
    from allround.tasks.suite import Suite

_PACKAGES = {"fastapi": "fastapi", "uvicorn": "uvicorn", "prometheus_client": "prometheus-client"}


def check_packages() -> None:
    """An error where the packages of the extra `serve` are not installed."""
    from importlib.util import find_spec

    missing = [package for module, package in _PACKAGES.items() if find_spec(module) is None]
    if missing:
        raise AllroundError("serve a model", f"{'the package' if len(missing) == 1 else 'the packages'} "
                            f"{listed(missing)} {'is' if len(missing) == 1 else 'are'} not installed",
                            "pip install 'allround[serve]'")  # fmt: skip


def serve(
    folders: Mapping[str, Path | str],
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    keys: Path | None = None,
    deadline: float = 30.0,
    limits: Limits | None = None,
    shadow: Path | str | None = None,
    shadow_file: Path | str = "shadow.jsonl",
    suite: Suite | None = None,
    gates: Gates | None = None,
    split: str = "test",
    indexes: Mapping[str, Sequence[Path]] | None = None,
    device: str = "cpu",
    say: Callable[[str], object] = print,
) -> None:
    """Serve models until SIGTERM or Ctrl-C.

    folders: what allround saved, by the names of the models; the first answers where a request names none. port: 0
    for any that is free. keys: a file with API keys, one a line; the variable `ALLROUND_API_KEYS` may hold some too.
    deadline: seconds until a request is given up. limits: of the engine of each model. shadow: a folder whose model
    answers what the first one is asked too; where it answers in another way, that is a line in `shadow_file`. suite,
    split: rows on which a version that is to be reloaded is compared with the present one, and must keep to `gates`.
    indexes: of models by name, folders that `allround index` made, which their queries search; a reload opens them
    again. device: auto, cpu or cuda. say: takes a line that says where the server is, and one for each reload.

    SIGHUP reads the folders again; so does POST /admin/reload, where the variable `ALLROUND_ADMIN_KEY` has a key.

    Errors: packages that are missing; an address that is taken; folders that cannot be loaded; keys that are too short.
    """
    check_packages()
    from allround.serving.app import make_app
    from allround.serving.keys import ADMIN, Keys
    from allround.serving.metrics import Metrics
    from allround.serving.reload import Gatekeeper, Reloader
    from allround.serving.served import Models, Served, open_served
    from allround.serving.server import BACKLOG, Server, bind
    from allround.serving.service import Service
    from allround.serving.shadow import Shadow

    if shadow is not None and next(iter(folders)) in (indexes or {}):
        raise AllroundError("serve a shadow beside a model that searches an index",
                            "the index was made with the model, and the shadow has other vectors",
                            "leave --shadow or --passages out")  # fmt: skip
    if not deadline > 0:
        raise AllroundError(f"serve with a deadline of {deadline:g} seconds", "it must be above 0", "give such as 30")
    allowed, metrics = Keys.read(keys), Metrics()
    with bind(host, port) as listener:
        served = []
        for name, folder in folders.items():
            own = list((indexes or {}).get(name, ()))
            engine = Engine(open_served(folder, own, device), limits, name=name, watch=metrics.watch(name))
            served.append(Served(name, engine, Path(folder), indexes=own))
        if shadow is not None:
            first = served[0]
            first.shadow = Shadow(load(shadow, device=device), Path(shadow_file), metrics, name=first.name,
                                  limits=limits)  # fmt: skip
        models = Models(served)
        gate = None if suite is None else Gatekeeper(suite, gates or Gates(), split)
        reloader = Reloader(models, metrics, gate, device)
        service = Service(models, allowed, Keys.read(None, variable=ADMIN), metrics, deadline=deadline,
                          reloader=reloader)  # fmt: skip

        def stop() -> None:
            service.ready = False

        def reload() -> None:
            Thread(target=_reload_all, args=(reloader, models, say), daemon=True).start()

        server = Server(make_app(service), seconds=deadline, stopping=stop, reload=reload)
        listener.listen(BACKLOG)
        tasks = sum(len(one.system.definitions) for one in served)
        address = f"[{host}]" if ":" in host else host
        say(f"serving {plural(tasks, 'task')} of {listed(list(folders))} at "
            f"http://{address}:{listener.getsockname()[1]}")  # fmt: skip
        server.run_on(listener)
        models.stop()


def _reload_all(reloader: Reloader, models: Models, say: Callable[[str], object]) -> None:
    """What SIGHUP asks for."""
    for one in models:
        try:
            reloader.reload(one)
            say(f"reloaded the model '{one.name}'")
        except AllroundError as error:
            say(f"did not reload the model '{one.name}': {error.found}")
