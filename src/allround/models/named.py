"""Modules by names that a user chose."""

from __future__ import annotations

from typing import Any

from torch import nn


class NamedModules(nn.ModuleDict):
    """Modules by the name of their task; any name will do, also one that modules have an attribute of ("type")."""

    def __setitem__(self, key: str, module: nn.Module) -> None:
        self._modules[key] = module

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "training":  # a flag of every module, and a name that a task may have
            self.__dict__[name] = value
        else:
            super().__setattr__(name, value)
