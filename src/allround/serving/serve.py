"""`serve`: models in folders behind HTTP, until the process is told to stop."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from allround.core.errors import AllroundError
from allround.core.words import listed, plural
from allround.models.system import load
from allround.serving.engine import Engine, Limits

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
    device: str = "cpu",
    say: Callable[[str], object] = print,
) -> None:
    """Serve models until SIGTERM or Ctrl-C.

    folders: what allround saved, by the names of the models; the first answers where a request names none. port: 0
    for any that is free. keys: a file with API keys, one a line; the variable `ALLROUND_API_KEYS` may hold some too.
    deadline: seconds until a request is given up. limits: of the engine of each model. device: auto, cpu or cuda. say:
    takes a line that says where the server is.

    Errors: packages that are missing; an address that is taken; folders that cannot be loaded; keys that are too short.
    """
    check_packages()
    from allround.serving.app import Service, make_app
    from allround.serving.keys import Keys
    from allround.serving.metrics import Metrics
    from allround.serving.served import Models, Served, warm_up
    from allround.serving.server import BACKLOG, Server, bind

    if not deadline > 0:
        raise AllroundError(f"serve with a deadline of {deadline:g} seconds", "it must be above 0", "give such as 30")
    allowed, metrics = Keys.read(keys), Metrics()
    with bind(host, port) as listener:
        served = []
        for name, folder in folders.items():
            system = load(folder, device=device)
            warm_up(system)
            engine = Engine(system, limits, name=name, watch=metrics.watch(name))
            served.append(Served(name, engine, Path(folder)))
        service = Service(Models(served), allowed, metrics, deadline=deadline)

        def stop() -> None:
            service.ready = False

        server = Server(make_app(service), seconds=deadline, stopping=stop, reload=lambda: None)
        listener.listen(BACKLOG)
        tasks = sum(len(one.system.definitions) for one in served)
        address = f"[{host}]" if ":" in host else host
        say(f"serving {plural(tasks, 'task')} of {listed(list(folders))} at "
            f"http://{address}:{listener.getsockname()[1]}")  # fmt: skip
        server.run_on(listener)
        service.models.stop()
