"""What one step of a training leaves for the next, as a file in the format of safetensors: a training that begins from it has
the same numbers as one that went on.

Weights, buffers, the optimiser's state and the order of the examples; what describes them is JSON in the file's header. Never
pickle: a kept file must not be able to run anything. https://huggingface.co/docs/safetensors
"""

from __future__ import annotations

import json
import operator
import os
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save, save_file

from gradviz.messages import Told, say
from gradviz.train.epochs import Epochs
from gradviz.train.task import Task

_MODEL, _OPTIMIZER, _ORDER = "model/", "optimizer/", "order"  # what the names of tensors begin with
_GAIN = "feedback_gain"  # a buffer of gradviz/train/treatment.py
_HEADER = "gradviz"  # the one entry of a safetensors header's metadata
_LAST = "channels_last"  # in it: what is (out, in, height, width) is (out, height, width, in) in the file, as it lies in memory


class StateGone(Told):
    """A kept state is not there any more, or cannot be used."""


@dataclass(frozen=True)
class State:
    """Before the step `step`: the weights are those after so many updates."""

    tensors: Mapping[str, torch.Tensor]
    about: Mapping[str, Any]  # as JSON has it

    @property
    def step(self) -> int:
        return int(self.about["step"])


@dataclass(frozen=True)
class Packed:
    """A state on its way into a file. Where it can it shares the task's memory, which must not change before it is written."""

    tensors: Mapping[str, torch.Tensor]
    header: Mapping[str, str]

    @property
    def size(self) -> int:
        """Bytes of the tensors; the file has some thousand more."""
        return sum(tensor.nbytes for tensor in self.tensors.values())

    def write(self, path: Path) -> None:
        """Raises OSError."""
        try:
            save_file(dict(self.tensors), path, dict(self.header))
        except SafetensorError as error:  # says the number of the system's error at the end of its text
            number = re.search(r"os error (\d+)", str(error))
            raise OSError(int(number[1]), os.strerror(int(number[1]))) if number else OSError(str(error)) from error


def packed(task: Task, about: Mapping[str, Any]) -> Packed:
    """The task's state. Its batches are Epochs."""
    assert isinstance(task.batches, Epochs)
    order, place = task.batches.state
    tensors = {_ORDER: order, **{_MODEL + name: value for name, value in _of_model(task).items()}}
    names: dict[torch.Tensor, str] = {parameter: name for name, parameter in task.model.named_parameters()}
    for parameter, values in task.optimizer.state.items():
        found = {f"{_OPTIMIZER}{key}/{names[parameter]}": value for key, value in values.items() if torch.is_tensor(value)}
        tensors |= found
    tensors = {name: _moved(tensor.detach().cpu(), 1, 3).contiguous() for name, tensor in tensors.items()}
    return Packed(tensors, {_HEADER: json.dumps({**about, "place": place, "crc": _checksum(tensors), _LAST: True})})


def read(path: Path) -> State:
    """Raises StateGone."""
    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads(file.metadata()[_HEADER])
            tensors = {name: file.get_tensor(name) for name in file.keys()}
        if about["crc"] != _checksum(tensors):
            raise ValueError("its checksum is another")
        if about.get(_LAST):  # files of before have them where PyTorch names them
            tensors = {name: _moved(tensor, 3, 1) for name, tensor in tensors.items()}
        state = State(tensors, about)
        if state.step < 0:
            raise ValueError("no step")
        return state
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise StateGone(say("state-gone")) from error


@torch.no_grad()
def put(task: Task, state: State) -> None:
    """Brings a task that was made for the same settings to this state. Raises StateGone if that is not the state of such a one.

    Everything is copied into the memory where it lies: fused optimisers go by the order of that, and a state in another memory
    format than its weight's would be added to other weights.
    """
    assert isinstance(task.batches, Epochs)
    parameters, tensors = dict(task.model.named_parameters()), dict(state.tensors)
    try:
        for name, value in _of_model(task).items():
            _copy(value, tensors.pop(_MODEL + name))
        task.batches.go_to(tensors.pop(_ORDER), state.about["place"])
        devices = {  # of what counts an optimiser's steps: see torch.optim
            parameter: parameter.device if group.get("fused") or group.get("capturable") else torch.device("cpu")
            for group in task.optimizer.param_groups for parameter in group["params"]
        }  # fmt: skip
        task.optimizer.state.clear()
        for name, value in tensors.items():
            if name.startswith(_MODEL) and name.endswith(_GAIN):
                continue  # of a feedback that was over
            _kind, key, whose = name.split("/", 2)
            parameter = parameters[whose]
            counts = key == "step"
            like = torch.empty_like(value, device=devices[parameter]) if counts else torch.empty_like(parameter.detach())
            task.optimizer.state[parameter][key] = _copy(like, value)
    except (RuntimeError, ValueError, KeyError, TypeError) as error:
        raise StateGone(say("state-gone")) from error


def weights(path: Path) -> dict[str, torch.Tensor]:
    """Parameters and running statistics of a kept state, in the words of the model's `state_dict`. Raises StateGone."""
    kept = {name.removeprefix(_MODEL): value for name, value in read(path).tensors.items() if name.startswith(_MODEL)}
    return {name: value for name, value in kept.items() if not name.endswith(_GAIN)}  # of the training, not the net


def weights_file(path: Path) -> bytes:
    """Those as a safetensors file of their own. Raises StateGone."""
    return save({name: value.contiguous() for name, value in weights(path).items()})


class Between:
    """What a step changes before its update, as it was when the step began: a step that is left in its middle never was."""

    def __init__(self, task: Task):
        self._task, self._optimizer = task, task.optimizer
        self._buffers: list[torch.Tensor] = []
        self._old: list[torch.Tensor] = []
        self.note()

    @torch.no_grad()
    def note(self) -> None:
        assert isinstance(self._task.batches, Epochs)
        self._order, self._optimizer = self._task.batches.state, self._task.optimizer
        if not self._same(buffers := list(self._task.model.buffers())):
            self._buffers, self._old = buffers, [torch.empty_like(buffer) for buffer in buffers]
        if buffers:
            torch._foreach_copy_(self._old, buffers)

    @torch.no_grad()
    def back(self) -> bool:
        """Whether it could be: not where the step began with another optimiser or treatment."""
        assert isinstance(self._task.batches, Epochs)
        if self._optimizer is not self._task.optimizer or not self._same(list(self._task.model.buffers())):
            return False
        self._task.batches.go_to(*self._order)
        if self._old:
            torch._foreach_copy_(self._buffers, self._old)
        return True

    def _same(self, buffers: list[torch.Tensor]) -> bool:
        return len(buffers) == len(self._buffers) and all(map(operator.is_, buffers, self._buffers))


def _moved(tensor: torch.Tensor, channels: int, to: int) -> torch.Tensor:
    """With its channels at another place, without a copy; what has not four dimensions as it is."""
    return tensor.movedim(channels, to) if tensor.dim() == 4 else tensor


def _of_model(task: Task) -> dict[str, torch.Tensor]:
    """Buffers that its state_dict leaves out too: the gains of feedback."""
    return {**dict(task.model.named_parameters()), **dict(task.model.named_buffers())}


def _copy(into: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Raises ValueError where `copy_` would repeat or round the values."""
    if (into.shape, into.dtype) != (value.shape, value.dtype):
        raise ValueError(f"{value.dtype} {tuple(value.shape)} for {into.dtype} {tuple(into.shape)}")
    return into.copy_(value)


def _checksum(tensors: Mapping[str, torch.Tensor]) -> int:
    total = 0
    for name in sorted(tensors):
        total = zlib.crc32(tensors[name].reshape(-1).view(torch.uint8).numpy().data, total)
    return total
