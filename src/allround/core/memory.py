"""How much memory a piece of work takes at most."""

from __future__ import annotations

import contextlib
from pathlib import Path


class PeakMemory:
    """The peak since this object was made: of what torch holds on the GPU, or of this whole process.

    That of a process counts the libraries that it has loaded, and whatever else it holds. The system can forget its
    earlier peak on Linux alone; elsewhere nothing is known.

    >>> peak = PeakMemory().read()
    >>> peak is None or peak > 2**20
    True
    """

    def __init__(self, *, cuda: bool = False) -> None:
        self.cuda = cuda
        self.known = cuda
        if cuda:
            import torch

            torch.cuda.reset_peak_memory_stats()
        else:
            with contextlib.suppress(OSError):
                Path("/proc/self/clear_refs").write_text("5")
                self.known = True

    def read(self) -> int | None:
        """Bytes; None where they are not known."""
        if not self.known:
            return None
        if self.cuda:
            import torch

            return torch.cuda.max_memory_allocated()
        with contextlib.suppress(OSError):
            for line in Path("/proc/self/status").read_text().splitlines():
                if line.startswith("VmHWM:"):
                    return 1024 * int(line.split()[1])
        return None
