"""The energy of a run, by hand-computed values: meters of a machine are files, the library of the GPU is replaced."""

import json
import sys
import types

import pytest
import torch
from accelerate import Accelerator

from tinystories.reporting.format import energy as energy_of
from tinystories.training.energy import COUNTED, Energy, GpuMeter, Rapl


def write_meter(folder, zone, microjoules, most=262_143_328_850, name="package-0"):
    zone = folder / zone
    zone.mkdir(parents=True, exist_ok=True)
    (zone / "name").write_text(f"{name}\n")
    (zone / "energy_uj").write_text(f"{microjoules}\n")
    (zone / "max_energy_range_uj").write_text(f"{most}\n")


def test_processor_meters(tmp_path):
    """Cores are a part of their package, and a meter begins anew at its end."""
    write_meter(tmp_path, "intel-rapl:0", 5_000_000)
    write_meter(tmp_path, "intel-rapl:1", 900_000, most=1_000_000)
    write_meter(tmp_path, "intel-rapl:0:0", 7_000_000, name="core")
    rapl = Rapl(tmp_path)
    assert rapl.readable and rapl.since() == 0
    write_meter(tmp_path, "intel-rapl:0", 8_000_000)  # 3 J
    write_meter(tmp_path, "intel-rapl:1", 100_000, most=1_000_000)  # 0.1 J to its end and 0.1 J
    write_meter(tmp_path, "intel-rapl:0:0", 9_000_000, name="core")
    assert rapl.since() == 3200 and rapl.since() == 0


def test_meter_of_the_whole_platform(tmp_path):
    """psys of a laptop stands beside its package, which it holds a second time; so does the way by mmio."""
    zones = {"intel-rapl:0": "package-0", "intel-rapl:1": "psys", "intel-rapl-mmio:0": "package-0"}
    for zone, name in zones.items():
        write_meter(tmp_path, zone, 1_000_000, name=name)
    rapl = Rapl(tmp_path)
    for zone, name in zones.items():
        write_meter(tmp_path, zone, 3_000_000, name=name)
    assert rapl.since() == 2000


def test_meter_that_begins_anew_twice(tmp_path):
    """An evaluation may last longer than a round of the meter: each step looks at it."""
    write_meter(tmp_path, "intel-rapl:0", 0, most=1_000_000)
    energy = Energy()
    energy.look()  # guards prepare batches before the training begins
    energy.rapl = Rapl(tmp_path)
    for microjoules in (600_500, 200_600, 800_700, 400_800):  # each 0.6001 J after the one before
        write_meter(tmp_path, "intel-rapl:0", microjoules, most=1_000_000)
        energy.look()
    assert energy.rapl.since() == 2400 and energy.rapl.used == 800  # and is not lost
    write_meter(tmp_path, "intel-rapl:0", 401_000, most=1_000_000)
    assert energy.rapl.since() == 1


def test_meter_that_comes_back(tmp_path):
    """What was estimated in between would be counted again."""
    write_meter(tmp_path, "intel-rapl:0", 1_000_000)
    rapl = Rapl(tmp_path)
    write_meter(tmp_path, "intel-rapl:0", "gone")
    assert rapl.since() is None
    write_meter(tmp_path, "intel-rapl:0", 9_000_000)
    assert rapl.since() is None and not rapl.readable


def test_meters_that_cannot_be_read(tmp_path):
    assert not Rapl(tmp_path).readable and not Rapl(tmp_path / "absent").readable
    write_meter(tmp_path, "intel-rapl:0", "no number")
    assert not Rapl(tmp_path).readable
    (tmp_path / "intel-rapl:0" / "energy_uj").unlink()
    (tmp_path / "intel-rapl:0" / "energy_uj").mkdir()  # as without permission: root may read everything
    assert not Rapl(tmp_path).readable


def test_meter_without_its_range(tmp_path):
    """A meter that may be read and whose largest value may not: the run ended with the error of the file system."""
    write_meter(tmp_path, "intel-rapl:0", 5_000_000)
    (tmp_path / "intel-rapl:0" / "max_energy_range_uj").unlink()
    rapl = Rapl(tmp_path)
    assert not rapl.readable and rapl.since() is None


def test_gpu_meter(monkeypatch):
    """Another GPU than the one that trains; the energy since the driver was loaded."""
    readings, asked = iter([7_000_000, 7_250_000, 7_250_500]), []
    library = types.ModuleType("pynvml")
    library.nvmlInit = lambda: None
    library.nvmlDeviceGetHandleByUUID = lambda uuid: asked.append(uuid) or "handle"
    library.nvmlDeviceGetTotalEnergyConsumption = lambda handle: next(readings)
    monkeypatch.setitem(sys.modules, "pynvml", library)
    properties = types.SimpleNamespace(uuid="12ab")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    meter = GpuMeter(torch.device("cuda", 1))
    assert asked == ["GPU-12ab"] and meter.since() == 250_000 and meter.since() == 500
    energy = Energy()
    energy.begin(torch.device("cpu"), True, {})
    energy.gpu = meter  # whose library has no further reading: an error does not end the run
    energy.gather(Accelerator(cpu=True))
    assert energy.counted["unknown"] == 1 and "energy_kwh" not in energy.result(10)


def counted(**values):
    energy = Energy()
    energy.counted = dict.fromkeys(COUNTED, 0) | values
    return energy


def test_kilowatt_hours():
    """3600 s at 10 W are 0.01 kWh; 3.6 MJ are one."""
    estimated = counted(processor_ms=3_600_000).result(10)
    assert estimated["energy_kwh"] == pytest.approx(0.01)
    assert "estimated from processor seconds at 10 W for a busy core, an assumption" in estimated["energy_method"]
    assert estimated["energy_counted"]["processor_ms"] == 3_600_000
    assert counted(processor_ms=3_600_000).result(4)["energy_kwh"] == pytest.approx(0.004)
    both = counted(gpu_mj=3_600_000_000, package_mj=1_800_000_000).result(10)
    assert both["energy_kwh"] == pytest.approx(1.5) and "estimated" not in both["energy_method"]
    assert both["energy_method"].startswith(
        "measured by the meter of each GPU, with all that ran on it and measured by the meters of the processors "
        "(RAPL), with all that ran on the machine; without memory"
    )
    mixed = counted(gpu_mj=3_600_000_000, processor_ms=360_000).result(10)
    assert mixed["energy_kwh"] == pytest.approx(1.001) and "on it and estimated from" in mixed["energy_method"]


def test_nothing_is_invented():
    """No number where a part of the run was not counted, or the device has no meter that can be read."""
    energy = counted(unknown=3)
    assert "not measured" in energy.result(10)["energy_method"] and "energy_kwh" not in energy.result(10)
    energy.begin(torch.device("cpu"), True, None)
    energy.gather(Accelerator(cpu=True))
    assert energy.counted is None and "version that did not count it" in energy.result(10)["energy_method"]


def test_sessions_add_up():
    """What the sessions before have used, and the work of this one."""
    accelerator, energy = Accelerator(cpu=True), Energy()
    energy.begin(torch.device("cpu"), True, {"processor_ms": 5000})
    used = energy.seconds
    while energy.seconds - used < 0.05:
        sum(range(10_000))
        energy.gather(accelerator)
    found = energy.counted
    assert found["processor_ms"] + found["package_mj"] > 5000 + 20 and found["gpu_mj"] == found["unknown"] == 0


def test_other_device():
    energy = Energy()
    energy.begin(torch.device("mps"), True, {})
    assert energy.unknown


@pytest.mark.slow
def test_in_the_records(counting_run):
    """In all_results.json, on the card, in the report and in a checkpoint, which the next session continues."""
    results = json.loads((counting_run / "all_results.json").read_text(encoding="utf-8"))
    progress = json.loads((counting_run / "checkpoint-100" / "progress.json").read_text(encoding="utf-8"))
    again = counted(**progress["energy"]).result(10)
    assert 0 < again["energy_kwh"] <= results["energy_kwh"] < 0.001
    card = (counting_run / "README.md").read_text(encoding="utf-8")
    seconds = results["energy_counted"]["processor_ms"] / 1000
    assert f"{energy_of(results['energy_kwh'])}, {results['energy_method']}" in card and "co2" not in card
    assert f"({seconds:,.0f} processor seconds)" in card or not seconds
    page = (counting_run / "report" / "index.html").read_text(encoding="utf-8")
    assert results["energy_method"].split(";")[0] in page and energy_of(results["energy_kwh"]) in page
