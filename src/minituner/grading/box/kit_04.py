"""What lab 04's judge needs inside a worker: adapters, files as tensors of bytes, a disk of dicts.

A worker can write nowhere, and that stays so: a submission gets a twin of folders.py with this
file's write_folder and read_folder, so that what it writes lies in memory, from where the judge
fetches it. Like kit.py it runs beside a submission, so nothing here is believed; no oracle is here.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from minituner.grading.box.kit import CLONE, MRO

FOLDERS = "minituner.folders"
FILES = ("adapter_config.json", "adapter_model.safetensors")
DISK: dict[str, dict[str, bytes]] = {}  # folder -> file name -> what is in it; one a worker
MOST = 8 << 20  # bytes of a file that an honest submission writes

# --- a disk ---------------------------------------------------------------------------------------


def write_folder(folder: str | os.PathLike[str], files: Mapping[str, bytes]) -> None:
    """What folders.py has under this name, without a disk: an old CONFIG goes, all else stays."""
    whole = {name: bytes(content) for name, content in files.items()}
    if sum(map(len, whole.values())) > MOST:
        raise OSError(f"{os.fspath(folder)}: no space for more than {MOST} bytes")
    there = DISK.setdefault(os.fspath(folder), {})
    there.pop(FILES[0], None)
    there.update(whole)


def read_folder(folder: str | os.PathLike[str]) -> dict[str, bytes]:
    """The same, back.

    Raises:
        ValueError: one of the two is missing.
    """
    found = DISK.get(os.fspath(folder), {})
    missing = [name for name in FILES if name not in found]
    if missing:
        raise ValueError(f"{os.fspath(folder)}: expected an adapter's files, got no {missing}")
    return {name: found[name] for name in FILES}


def hold() -> ModuleType:
    """From now on whoever imports folders.py has its twin on this disk, which is empty."""
    twin = ModuleType(FOLDERS)
    own = {"write_folder": write_folder, "read_folder": read_folder}
    vars(twin).update(vars(sys.modules[FOLDERS]) | own)
    DISK.clear()
    _stand(twin)
    return twin


@contextlib.contextmanager
def held() -> Iterator[ModuleType]:
    """The same for a while."""
    real = sys.modules[FOLDERS]
    try:
        yield hold()
    finally:
        _stand(real)


def _stand(module: ModuleType) -> None:
    sys.modules[FOLDERS] = vars(sys.modules["minituner"])["folders"] = module


def lay(folder: str, name: str, content: Tensor) -> None:
    """Put a file there."""
    DISK.setdefault(folder, {})[name] = plain(content)


def lift(folder: str, name: str) -> None:
    """Take a file away."""
    del DISK[folder][name]


def on_disk(folder: str) -> dict[str, Tensor]:
    """What is in a folder, as bytes that cross."""
    return raw(DISK.get(folder, {}))


def folders(start: str) -> list[str]:
    """The folders whose paths begin so; other checks of this worker have theirs."""
    return [folder for folder in DISK if folder.startswith(start)]


# --- bytes ----------------------------------------------------------------------------------------


def plain(content: Tensor) -> bytes:
    return bytes(content.numpy().tobytes())


def raw(files: Mapping[str, bytes]) -> dict[str, Tensor]:
    """Files as tensors of uint8, which cross.

    Raises:
        ValueError: they are larger than any that is asked for.
    """
    found = {}
    if sum(map(len, files.values())) > MOST:
        raise ValueError(f"files: expected at most {MOST} bytes, got more; a larger model's?")
    for name, content in files.items():
        held = bytearray(content)
        found[name] = torch.frombuffer(held, dtype=torch.uint8) if held else _no_bytes()
    return found


def _no_bytes() -> Tensor:
    return torch.empty(0, dtype=torch.uint8)


def files(held: Mapping[str, Tensor]) -> dict[str, bytes]:
    """Tensors of uint8 as files."""
    return {name: plain(content) for name, content in held.items()}


# --- models ---------------------------------------------------------------------------------------


class Branch(nn.Module):
    """An adapter of the judge's: base plus scaling · B A. As lab 00's, no Adapter by its class."""

    def __init__(self, base: nn.Module, A: Tensor, B: Tensor, alpha: float) -> None:
        super().__init__()
        self.base, self.r, self.alpha, self.scaling = base, len(A), alpha, alpha / len(A)
        self.lora_A, self.lora_B = nn.Parameter(CLONE(A)), nn.Parameter(CLONE(B))
        self.flipped = any(kind.__name__ == "Conv1D" for kind in MRO.__get__(type(base)))
        base.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.base(x)
        return out + self.scaling * (x @ self.lora_A.T @ self.lora_B.T)

    def merge_(self) -> None:
        """Fold, then zero A and B."""
        with torch.no_grad():
            update = self.scaling * (self.lora_B @ self.lora_A)
            weight: Any = self.base.weight
            weight.add_(update.T if self.flipped else update)
            self.lora_A.zero_()
            self.lora_B.zero_()


def place(model: nn.Module, name: str, module: nn.Module) -> nn.Module:
    """Put a module where model has the dotted name."""
    *outer, child = name.split(".")
    at = model
    for step in outer:
        at = at.__dict__["_modules"][step]
    at.__dict__["_modules"][child] = module
    return module


def branched(
    model: nn.Module, pairs: Mapping[str, tuple[Tensor, Tensor]], alpha: float
) -> dict[str, nn.Module]:
    """Put a Branch in the place of each module named; each by its name."""
    return {
        name: place(model, name, Branch(model.get_submodule(name), a, b, alpha))
        for name, (a, b) in pairs.items()
    }


def filled(layer: nn.Module, values: Mapping[str, Tensor]) -> nn.Module:
    """The same layer with these values, in their own dtype."""
    own = layer.__dict__["_parameters"]
    for name, value in values.items():
        own[name] = nn.Parameter(CLONE(value))
    return layer


def foreign(forward: Callable[..., Tensor], weight: Tensor, bias: Tensor) -> nn.Module:
    """A Conv1D of another package."""
    made: Any = type("Conv1D", (nn.Module,), {"forward": forward})()
    made.nf = weight.shape[1]
    made.weight, made.bias = nn.Parameter(CLONE(weight)), nn.Parameter(CLONE(bias))
    return made  # type: ignore[no-any-return]  # a class made above


def kind_of(thing: object) -> type[object]:
    return type(thing)


def kept_bytes(layer: nn.Module, x: Tensor) -> int:
    """Bytes that autograd keeps for one forward pass, each storage once, parameters left out."""
    own = {param.untyped_storage().data_ptr() for param in layer.parameters()}
    held: dict[int, torch.UntypedStorage] = {}

    def pack(tensor: Tensor) -> Tensor:
        held[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        out = layer(x.requires_grad_())
    if not out.requires_grad:
        raise ValueError("nothing to learn from the output: it has no graph")
    return sum(storage.nbytes() for at, storage in held.items() if at not in own)
