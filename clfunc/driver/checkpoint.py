"""Checkpoints: a folder's last two, each a `.safetensors` file of tensors and a `.json` file that says what they are.

`checkpoint` is the newest and `checkpoint.previous` the one before it. The JSON holds the size and SHA-256 of the file of
tensors, and a SHA-256 of its own, so whatever was cut short, edited or put there by something else is noticed before it is
read. Files are replaced whole, in an order in which one of the two is good at every instant: a run may be killed at any time.
"""

import hashlib
import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from clfunc.results.files import write, write_text

NEWEST, PREVIOUS = "checkpoint", "checkpoint.previous"
_SECONDS = 60.0  # between two checkpoints within a task
_SHARE = 20.0  # a checkpoint is not taken before so many times what the last one cost has passed
_FORMAT = 1

About = dict[str, Any]  # what JSON can hold


class Refused(ValueError):
    """There are checkpoints, and a run cannot go on from them."""


class Interrupted(KeyboardInterrupt):
    """A run was asked to stop, and left a checkpoint."""


def save(out: Path, tensors: Mapping[str, Tensor], about: About) -> None:
    """Make this the newest checkpoint of the folder `out`, and the newest the previous one."""
    out.mkdir(parents=True, exist_ok=True)
    plain = {
        name: leaf.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, leaf in tensors.items()
    }
    spare = out / f".{NEWEST}.new"
    try:
        try:
            save_file(plain, spare)
        except SafetensorError as error:
            raise OSError(f"cannot write a checkpoint to {out}: {error}") from error
        body = about | {
            "format": _FORMAT,
            "bytes": spare.stat().st_size,
            "sha256": _digest_file(spare),
        }
        text = json.dumps(body | {"checksum": _digest(body)}, indent=2) + "\n"
        for suffix in (".safetensors", ".json"):
            if (out / (NEWEST + suffix)).exists():
                write(out / (PREVIOUS + suffix), partial(_same_file, out / (NEWEST + suffix)))
        os.replace(spare, out / f"{NEWEST}.safetensors")
        write_text(out / f"{NEWEST}.json", text)
    finally:
        spare.unlink(missing_ok=True)


def load(
    out: Path, check: Callable[[About], None], say: Callable[[str], None]
) -> tuple[dict[str, Tensor], About] | None:
    """The tensors of the newest good checkpoint in `out`, on the CPU, and what was saved about them; None if there is none.

    `check` is shown the latter before a tensor is read, and raises what is to be raised.

    Raises:
        Refused: There are checkpoints, and none is good.
    """
    wrong = []
    for name in (NEWEST, PREVIOUS):
        if not any((out / (name + suffix)).exists() for suffix in (".json", ".safetensors")):
            continue
        try:
            tensors, about = read(out, name, check)
        except Refused:
            raise
        except ValueError as error:
            wrong.append(f"{name} in {out} is not usable ({error})")
            continue
        if wrong:
            say(f"{wrong[0]}: going on from {name}, which is")
        return tensors, about
    if wrong:
        raise Refused(f"cannot resume: {'; '.join(wrong)}; run without resume to start anew")
    return None


def read(
    out: Path, name: str, check: Callable[[About], None] = lambda _: None
) -> tuple[dict[str, Tensor], About]:
    """The tensors of one of a folder's checkpoints and what was saved about them, shown to `check` before a tensor is read.

    Raises:
        ValueError: It is not sound, in one line; or what `check` raises.
    """
    try:
        about = _about(out / f"{name}.json", out / f"{name}.safetensors")
        check(about)
        return _tensors(out / f"{name}.safetensors"), about
    except Refused:
        raise
    except OSError as error:
        raise ValueError(
            f"{Path(error.filename or out).name}: {error.strerror or error}"
        ) from error
    except (ValueError, RecursionError, SafetensorError) as error:
        raise ValueError(" ".join(str(error).split())) from error


def clear(out: Path) -> None:
    """Remove the checkpoints of a folder."""
    for name in (NEWEST, PREVIOUS):
        for suffix in (".json", ".safetensors"):
            (out / (name + suffix)).unlink(missing_ok=True)


def differences(there: Any, here: Any, name: str = "") -> list[str]:
    """The entries in which two plain trees differ: `epochs (2 there, 3 here)`."""
    if isinstance(there, dict) and isinstance(here, dict):
        names = list(dict.fromkeys((*there, *here)))
        pairs = [
            (f"{name}.{n}".lstrip("."), there.get(n, "nothing"), here.get(n, "nothing"))
            for n in names
        ]
    elif isinstance(there, list) and isinstance(here, list) and len(there) == len(here):
        pairs = [(f"{name}.{i}", a, b) for i, (a, b) in enumerate(zip(there, here, strict=True))]
    else:
        return [] if there == here else [f"{name} ({_short(there)} there, {_short(here)} here)"]
    return [found for n, a, b in pairs for found in differences(a, b, n)]


def digest(tensors: Iterable[Tensor], words: str = "") -> str:
    """SHA-256 of some words and of the bytes of tensors."""
    found = hashlib.sha256(words.encode())
    for leaf in tensors:
        found.update(leaf.cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:40]}..."


def _same_file(old: Path, new: str) -> None:
    try:
        os.link(old, new)
    except OSError:  # a file system without links
        shutil.copyfile(old, new)


def _about(path: Path, tensors: Path) -> About:
    """What a checkpoint's JSON says, if it is whole and the tensors' file is the one it was written for."""
    about = json.loads(path.read_text())
    if not isinstance(about, dict) or about.get("format") != _FORMAT:
        raise ValueError("it is not a checkpoint of this library")
    if _digest({name: value for name, value in about.items() if name != "checksum"}) != about.get(
        "checksum"
    ):
        raise ValueError("its JSON has been edited")
    if tensors.stat().st_size != about.get("bytes"):
        raise ValueError(
            f"its tensors are {tensors.stat().st_size} bytes where {about.get('bytes')} were written"
        )
    if _digest_file(tensors) != about.get("sha256"):
        raise ValueError("its tensors are not those that were written")
    return about


def _tensors(path: Path) -> dict[str, Tensor]:
    with safe_open(path, framework="pt", device="cpu") as file:
        return {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 (not a dict)


def _digest(body: About) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def _digest_file(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Keeper:
    """Decides when a run that is under way is saved, and stops it when it is asked to by SIGTERM or Ctrl-C.

    As a context manager it takes these signals over (a second one has its usual effect).
    """

    def __init__(self, out: Path, every: int | None) -> None:
        self.out, self.every = out, every
        self.saved, self.cost, self.last, self.asked = 0, 0.0, time.monotonic(), False
        self.old: dict[int, Any] = {}

    def __enter__(self) -> "Keeper":
        if threading.current_thread() is threading.main_thread():
            self.old = {
                number: signal.signal(number, self._ask)
                for number in (signal.SIGINT, signal.SIGTERM)
            }
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self.old.items():
            signal.signal(number, handler)
        self.old = {}

    def _ask(self, number: int, frame: Any) -> None:
        self.asked = True
        self.__exit__(None, None, None)

    def offer(
        self,
        step: int,
        ended: bool,
        last: bool,
        pack: Callable[[], tuple[Mapping[str, Tensor], About]],
    ) -> None:
        """Save what `pack` makes, if it is time: a task has `ended`, or as many steps or seconds have passed.

        Raises:
            Interrupted: The run was asked to stop; it is saved.
        """
        if self.asked or last or self._due(step, ended):
            began = time.monotonic()
            save(self.out, *pack())
            self.saved, self.last = step, time.monotonic()
            self.cost = self.last - began
        if self.asked:
            raise Interrupted(f"stopped at step {step}; a checkpoint is in {self.out}")

    def _due(self, step: int, ended: bool) -> bool:
        if self.every is not None:
            return ended or step // self.every > self.saved // self.every
        return time.monotonic() - self.last >= max(0.0 if ended else _SECONDS, _SHARE * self.cost)
