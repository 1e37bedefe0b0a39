"""The energy that a run has used, measured where a meter can be read and else estimated, with the way it was found.

What counts is the time of `elapsed_seconds`: training with its evaluations and saves, all sessions, all processes.

- NVIDIA GPUs have a meter, which the library nvidia-ml-py reads. Without it the energy of a run on a GPU is not known.
  It is of the whole GPU, whatever else runs on it.
- Intel and AMD processors have one too (RAPL), which Linux shows below /sys/class/powercap, mostly to root alone and
  not in virtual machines. It is of the whole processor, whatever else runs on the machine.
- Where it cannot be read, the processor seconds of the run x `watts_per_core` is an estimate.

Memory, disks, cooling and losses of the power supply are in none of them. A library that knows the power of many
processors, codecarbon, was tried: it works without a network, but where it cannot read RAPL and does not know the
processor it assumes 4 W for each thread, and for memory more than that by the clock, whoever uses the machine.
"""

import logging
import os
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator


logger = logging.getLogger(__name__)

POWERCAP = Path("/sys/class/powercap")
JOULES_PER_KWH = 3.6e6
COUNTED = ("gpu_mj", "package_mj", "processor_ms", "unknown")  # millijoules, milliseconds, processes without a number


class Rapl:
    """The meters of the processors of this machine, in microjoules; they begin anew at a value that each names.

    They must be read once in every such round, which takes an AMD processor four minutes at 280 W: `look` is called in
    every step of training and evaluating.
    """

    def __init__(self, powercap: Path = POWERCAP):
        self.meters = [zone for zone in sorted(powercap.glob("*-rapl:*")) if _is_processor(zone)]
        self.before, self.rounds = self._read("energy_uj"), self._read("max_energy_range_uj")
        self.used = 0

    @property
    def readable(self) -> bool:
        return bool(self.meters) and self.before is not None and self.rounds is not None

    def _read(self, name: str) -> list[int] | None:
        try:
            return [int((zone / name).read_text(encoding="ascii")) for zone in self.meters]
        except (OSError, ValueError):
            return None

    def look(self) -> None:
        """Add what was used since the last look. A meter that cannot be read once is not read again."""
        if self.meters and self.before is not None and self.rounds is not None:
            now = self._read("energy_uj")
            used = zip(now or self.before, self.before, self.rounds, strict=True)
            self.used += sum(later - earlier + (most if later < earlier else 0) for later, earlier, most in used)
            self.before = now

    def since(self) -> int | None:
        """Millijoules since the last call; None if the meters cannot be read any more."""
        self.look()
        if not self.readable:
            return None
        millijoules, self.used = divmod(self.used, 1000)
        return millijoules


def _is_processor(zone: Path) -> bool:
    """Whether a meter is that of a whole processor: not of a part of it, and not psys, which holds it a second time."""
    try:
        return (zone / "name").read_text(encoding="ascii").startswith("package")
    except (OSError, ValueError):
        return False


class GpuMeter:
    """The meter of one NVIDIA GPU: the energy since its driver was loaded.

    Raises:
        Exception: nvidia-ml-py is not installed, or this GPU has no such meter.
    """

    def __init__(self, device: torch.device):
        import pynvml  # type: ignore[import-not-found]  # nvidia-ml-py, which may be installed

        pynvml.nvmlInit()
        uuid = torch.cuda.get_device_properties(device).uuid
        self.library, self.handle = pynvml, pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}")
        self.before = self._read()

    def _read(self) -> int:
        return int(self.library.nvmlDeviceGetTotalEnergyConsumption(self.handle))

    def since(self) -> int:
        """Millijoules since the last call."""
        now, before = self._read(), self.before
        self.before = now
        return now - before


class Energy:
    """Adds up what a run uses. A session begins with `begin`, and `gather` is called by all processes together."""

    def __init__(self) -> None:
        self.counted: dict[str, int] | None = dict.fromkeys(COUNTED, 0)
        self.rapl: Rapl | None = None

    def begin(self, device: torch.device, first_of_machine: bool, earlier: dict[str, int] | None) -> None:
        """earlier: `counted` of the session that this one continues; None if that did not count."""
        self.counted = None if earlier is None else dict.fromkeys(COUNTED, 0) | earlier
        self.rapl, self.first_of_machine = Rapl(), first_of_machine
        self.gpu: GpuMeter | None = None
        self.unknown = device.type not in ("cpu", "cuda")
        if device.type == "cuda":
            try:
                self.gpu = GpuMeter(device)
            except Exception as error:  # of several libraries, and each of its own
                logger.info("the energy of the GPU is not measured: %s", error)
                self.unknown = True
        self.seconds = processor_seconds()

    def look(self) -> None:
        """Called in every step: a meter must be read before it begins anew."""
        if self.rapl is not None:
            self.rapl.look()

    def gather(self, accelerator: Accelerator) -> None:
        """Add what all processes have used since the last call."""
        new = accelerator.gather(torch.tensor([self._since()], device=accelerator.device)).sum(0).tolist()
        if self.counted is not None:
            self.counted = {name: self.counted[name] + more for name, more in zip(COUNTED, new, strict=True)}

    def _since(self) -> list[int]:
        """Of this process, in the order of COUNTED."""
        seconds, self.seconds = self.seconds, processor_seconds()
        package, milliseconds = 0, round(1000 * (self.seconds - seconds))
        if self.rapl is not None and (used := self.rapl.since()) is not None:
            package, milliseconds = used * self.first_of_machine, 0
        return [self._of_gpu(), package, milliseconds, int(self.unknown)]

    def _of_gpu(self) -> int:
        """Millijoules since the last call. A meter that fails ends its use, and not the run."""
        try:
            return self.gpu.since() if self.gpu else 0
        except Exception as error:  # of the library
            logger.warning("the energy of the GPU cannot be measured any more: %s", error)
            self.gpu, self.unknown = None, True
            return 0

    def result(self, watts_per_core: float) -> dict[str, Any]:
        """{"energy_kwh", "energy_method", "energy_counted"}: the energy, how it was found, and the sums of COUNTED
        behind it. Without the first where the energy is not known."""
        if self.counted is None:
            return {"energy_method": "not known: a session of this run was trained by a version that did not count it"}
        if self.counted["unknown"]:
            method = "not measured: no meter of the device could be read; that of an NVIDIA GPU needs nvidia-ml-py"
            return {"energy_method": method, "energy_counted": self.counted}
        seconds = self.counted["processor_ms"] / 1000
        joules = (self.counted["gpu_mj"] + self.counted["package_mj"]) / 1000 + seconds * watts_per_core
        ways = []
        if self.counted["gpu_mj"]:
            ways.append("measured by the meter of each GPU, with all that ran on it")
        if self.counted["package_mj"]:
            ways.append("measured by the meters of the processors (RAPL), with all that ran on the machine")
        if self.counted["processor_ms"]:
            ways.append(f"estimated from processor seconds at {watts_per_core:g} W for a busy core, an assumption")
        method = f"{' and '.join(ways) or 'estimated'}; without memory, cooling and the rest of the machine"
        return {"energy_kwh": joules / JOULES_PER_KWH, "energy_method": method, "energy_counted": self.counted}


def processor_seconds() -> float:
    """Of this process, with all its threads, and of those that it had started and that have ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system
