"""Writing safetensors files piece by piece, so that memory stays small whatever the size."""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from allround.checkpoints.header import SIZES, Place, dtype_name, make_header
from allround.core.errors import AllroundError
from allround.core.files import atomic_file

if TYPE_CHECKING:
    from torch import Tensor

#: How many parts may wait to be written, and up to how many bytes one is small.
_PARTS, _SMALL = 12, 2 << 20

Plan = Mapping[str, tuple[str, tuple[int, ...]]]


class WeightsFile:
    """A safetensors file that is being written: any part of any tensor, in any order, from any thread.

    One thread of its own writes, behind those that compute: the system lets only one write to a file at a time, and
    others would wait for it.
    """

    def __init__(self, path: Path, handle: int, places: Mapping[str, Place]) -> None:
        self.path = path
        self._handle = handle
        self._places = places
        self._left = {name: place.numel for name, place in places.items()}
        #: What is to be written: offset and bytes; few enough that memory stays small when the disk is slow.
        self._waiting: queue.Queue[tuple[int, memoryview, bytearray | None] | None] = queue.Queue(maxsize=_PARTS)
        #: Small parts wait in buffers of ours: left where they were made, they would sit between the memory that the
        #: next ones take, and the process would grow.
        self._buffers: queue.SimpleQueue[bytearray] = queue.SimpleQueue()
        for _ in range(_PARTS + 1):
            self._buffers.put(bytearray())
        self._failed: BaseException | None = None
        self._lock = threading.Lock()
        self._writer = threading.Thread(target=self._work, daemon=True)
        self._writer.start()

    def write(self, name: str, start: int, values: Tensor) -> None:
        """Put `values` at the elements from `start` on of a tensor; they must have its dtype, and not change later.

        Errors: those of writing it, or of what came before it.
        """
        place = self._places[name]
        if dtype_name(values.dtype) != place.dtype or start + values.numel() > place.numel:
            raise _departs(self.path, name, place, f"{values.numel()} elements of {values.dtype} from {start} on")
        if self._failed is not None:
            raise self._failed
        data, buffer = as_bytes(values), None
        if len(data) <= _SMALL:
            buffer = self._buffers.get()
            if len(buffer) < len(data):
                buffer = bytearray(_SMALL)
            buffer[: len(data)] = data
            data = memoryview(buffer)[: len(data)]
        self._waiting.put((place.offset + start * SIZES[place.dtype], data, buffer))
        with self._lock:
            self._left[name] -= values.numel()

    def _work(self) -> None:
        while (one := self._waiting.get()) is not None:
            offset, data, buffer = one
            try:
                while data and self._failed is None:  # after a failure all is taken, so that nobody waits for a place
                    written = os.pwrite(self._handle, data, offset)
                    data, offset = data[written:], offset + written
            except BaseException as error:  # raised again where the next part comes, or at the end
                self._failed = error
            del data, one
            if buffer is not None:
                self._buffers.put(buffer)

    def finish(self) -> None:
        """Wait until all is written. Errors: those of writing; a tensor that is not whole."""
        self.stop()
        if self._failed is not None:
            raise self._failed
        unwritten = [name for name, left in self._left.items() if left]
        if unwritten:
            raise AllroundError(
                f"write {self.path}",
                f"no tensor came for '{unwritten[0]}'",
                "this is a defect of the caller: report it",
            )

    def stop(self) -> None:
        """End the writing thread."""
        if self._writer.is_alive():
            self._waiting.put(None)
            self._writer.join()


@contextmanager
def weights_file(
    path: Path | str, plan: Plan, metadata: Mapping[str, str] | None = None, *, sync: bool = True
) -> Iterator[WeightsFile]:
    """Open a file for the tensors of `plan` (name -> dtype, shape). It appears under its name when it is whole.

    The space is taken at once, so a disk that is too small is found before any work is done. sync: also wait until
    the disk has it all, which survives a power cut and takes the time of the disk.
    """
    header, places = make_header(plan, metadata)
    size = len(header) + sum(place.bytes for place in places.values())
    with atomic_file(path, sync=sync) as temporary:
        handle = os.open(temporary, os.O_WRONLY)
        try:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(handle, 0, size)
            os.pwrite(handle, header, 0)
            file = WeightsFile(Path(path), handle, places)
            try:
                with _brought_to_disk(handle, sync):
                    yield file
                    file.finish()
            finally:
                file.stop()
        finally:
            os.close(handle)


@contextmanager
def _brought_to_disk(handle: int, sync: bool) -> Iterator[None]:
    """Bring to the disk in the meantime what is written, so that little is left to wait for at the end."""
    if not sync:
        yield
        return
    ended = threading.Event()

    def bring() -> None:
        with suppress(OSError):  # what cannot be written is found, and said, at the end
            while not ended.wait(0.2):
                os.fsync(handle)

    thread = threading.Thread(target=bring, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def write_weights(
    path: Path | str,
    plan: Plan,
    tensors: Iterable[tuple[str, Tensor]],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write the tensors of `plan` (name -> dtype, shape) as they come, in the plan's order.

    The file appears when it is whole. A tensor that departs from the plan is an error.
    """
    waiting = iter(plan.items())
    with weights_file(path, plan, metadata) as file:
        for name, tensor in tensors:
            expected, (dtype, shape) = next(waiting, ("", ("", ())))
            if name != expected or tuple(tensor.shape) != shape or dtype_name(tensor.dtype) != dtype:
                raise _departs(Path(path), expected, Place(dtype, shape, 0), f"'{name}' ({tensor.dtype}, "
                               f"{tuple(tensor.shape)})")  # fmt: skip
            file.write(name, 0, tensor.reshape(-1))


def _departs(path: Path, name: str, place: Place, found: str) -> AllroundError:
    return AllroundError(
        f"write the tensor '{name}' ({place.dtype}, {place.shape}) to {path}",
        f"{found} came instead",
        "this is a defect of the method that made it: its output must have the shape of its input",
    )


def as_bytes(tensor: Tensor) -> memoryview:
    """The bytes of a tensor, in its own memory where it is whole there."""
    import torch

    flat = tensor.detach().cpu().contiguous().reshape(-1)
    raw: Any = flat.view(torch.uint8).numpy() if flat.numel() else b""
    return memoryview(raw)
