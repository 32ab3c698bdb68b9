# SPDX-License-Identifier: Apache-2.0
"""The registry of devices: found by file name, described honestly, never replaced by another."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest

from catenary.isa.errors import DeviceError
from catenary.isa.graph import Graph
from catenary.runtime import devices
from catenary.runtime.devices import DeviceInfo, device_info, device_names, list_devices, open_device
from catenary.runtime.engine import Counters
from catenary.runtime.generate import generate
from tests.graphs import random_llama_graph


@dataclass(frozen=True)
class Model:
    """What a float device needs of an imported model."""

    graph: Graph
    tokenizer_json: str | None = None
    tokenizer_config: MappingProxyType = field(default_factory=lambda: MappingProxyType({}))


@pytest.fixture
def model() -> Model:
    return Model(random_llama_graph(7))


@pytest.fixture
def absent_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A device in a file of its own that says that it is not there."""
    (tmp_path / "far_away.py").write_text(
        "from catenary.runtime.devices import DeviceInfo\n"
        "def refuse(source): raise AssertionError('must not be opened')\n"
        "DEVICE = DeviceInfo('far-away', 'board', lambda: (False, 'no cable'), refuse, takes='model')\n"
    )
    monkeypatch.setattr(devices, "__path__", [*devices.__path__, str(tmp_path)])
    return "far-away"


def test_devices_are_files() -> None:
    folder = Path(devices.__file__).parent
    files = {path.stem.replace("_", "-") for path in folder.glob("*.py")} - {"--init--"}
    assert set(device_names()) == files >= {"graph-fp32", "iss", "reference"}


@pytest.mark.parametrize("name", device_names())
def test_each_says_what_it_is(name: str) -> None:
    info = device_info(name)
    assert isinstance(info, DeviceInfo)
    assert info.name == name
    available, reason = info.available()
    assert isinstance(available, bool)
    assert reason
    assert "\n" not in reason


def test_list_has_them_all_in_order() -> None:
    assert [status.name for status in list_devices()] == list(device_names()) == sorted(device_names())


@pytest.mark.parametrize("name", ["", "gpu", "graph_fp32", "../iss", "__init__", "iss "])
def test_unknown_devices_are_refused_with_those_there_are(model: Model, name: str) -> None:
    with pytest.raises(DeviceError) as caught:
        open_device(name, model)
    assert str(caught.value) == f"Device must be one of {', '.join(device_names())}, not {name!r}"


def test_what_is_not_available_says_why(model: Model, absent_device: str) -> None:
    with pytest.raises(DeviceError, match=r"^Device far-away must be available on this machine: no cable$"):
        open_device(absent_device, model)
    [status] = [status for status in list_devices() if status.name == absent_device]
    assert (status.available, status.reason) == (False, "no cable")


def test_a_file_under_a_wrong_name_is_refused(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    module = devices.importlib.import_module("catenary.runtime.devices.graph_fp32")
    monkeypatch.setattr(module, "DEVICE", replace(module.DEVICE, name="other"))
    with pytest.raises(DeviceError, match="must define DEVICE with that name"):
        open_device("graph-fp32", model)


@pytest.mark.parametrize("name", ["iss", "reference"])
def test_program_devices_take_no_model(model: Model, name: str) -> None:
    with pytest.raises(DeviceError, match=f"^Device {name} must be given a compiled program, not a model$"):
        open_device(name, model)


def test_float_graph_runs(model: Model) -> None:
    with open_device("graph-fp32", model) as engine:
        assert (engine.device, engine.source) == ("graph-fp32", "wall")
        assert (engine.vocab, engine.max_context) == (model.graph.vocab, model.graph.max_context)
        every = engine.run([1, 2, 3], 0, all_logits=True)
        assert (every.shape, every.dtype) == ((3, engine.vocab), np.float32)
        engine.reset()
        assert engine.run([1, 2, 3], 0).shape == (1, engine.vocab)
        first, second = (generate(engine, [1, 2, 3], 5).ids for _ in range(2))
        assert first == second
        assert engine.counters() == Counters(None, None, None, None)
