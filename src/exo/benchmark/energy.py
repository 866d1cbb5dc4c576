"""The energy that this machine uses, where it has a sensor for it that may be read.

The files are the kernel's: Documentation/power/powercap (counters of processors, which only root may read)
and Documentation/hwmon/sysfs-interface (sensors of boards and power supplies). No machine with either was at
hand: it was tried on files made by hand.
"""

import asyncio
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import msgspec

# Seconds between two looks at a sensor of power.
_OFTEN = 0.1
_MICRO = 1e-6


class Sensor(msgspec.Struct, frozen=True):
    """A file with µJ that have been used, which begin anew at `most` (0: never), or with µW that are."""

    name: str
    file: Path
    kind: Literal["energy", "power"]
    most: int = 0


def sensors(root: Path = Path("/")) -> tuple[Sensor, ...]:
    """Those whose sum is the machine's, as far as any tells: the counter of the whole platform, else those of
    its processors, else the one of hwmon that says most, as that is what feeds the others."""
    counters = [each for each in _powercap(root) if _value(each.file) is not None]
    if counters:
        return tuple(each for each in counters if each.name == "psys") or tuple(counters)
    read = [(value, each) for each in _hwmon(root) if (value := _value(each.file))]
    power = [(value, each) for value, each in read if each.kind == "power"] or read
    return (max(power, key=lambda pair: pair[0])[1],) if power else ()


class Meter:
    """Counts joules since it was made, while `watch` runs. `joules` is None once a sensor could not be read
    any more, and where there is none."""

    def __init__(self, sensors: tuple[Sensor, ...], clock: Callable[[], float] = time.monotonic) -> None:
        self.names = ", ".join(each.name for each in sensors)
        self._clock = clock
        self._last: dict[Sensor, tuple[float, int]] = {}
        self._sensors = sensors
        self._joules: float | None = 0.0 if sensors else None
        self.look()

    def look(self) -> float | None:
        """The joules until now."""
        for sensor in self._sensors:
            now, value = self._clock(), _value(sensor.file)
            if value is None or self._joules is None:
                self._joules = None
                break
            before, last = self._last.get(sensor, (now, value))
            self._last[sensor] = now, value
            if sensor.kind == "power":
                self._joules += (now - before) * (value + last) / 2 * _MICRO
            else:
                self._joules += (value - last + (sensor.most if value < last else 0)) * _MICRO
        return self._joules

    async def watch(self) -> None:
        """Looks often enough, until it is cancelled."""
        while self._joules is not None:
            await asyncio.sleep(_OFTEN)
            self.look()


def _powercap(root: Path) -> Iterator[Sensor]:
    for zone in sorted((root / "sys/class/powercap").glob("*-rapl:*")):
        if zone.name.count(":") == 1:  # what is below a zone is part of it
            most = _value(zone / "max_energy_range_uj") or 0
            yield Sensor(_text(zone / "name") or zone.name, zone / "energy_uj", "energy", most)


def _hwmon(root: Path) -> Iterator[Sensor]:
    for chip in sorted((root / "sys/class/hwmon").glob("hwmon*")):
        name = _text(chip / "name") or chip.name
        for file in sorted(chip.glob("energy*_input")):
            yield Sensor(f"{name} {file.name}", file, "energy")
        for file in sorted(chip.glob("power*_input")):
            yield Sensor(f"{name} {file.name}", file, "power")


def _value(file: Path) -> int | None:
    text = _text(file)
    return int(text) if text.isascii() and text.isdecimal() else None


def _text(file: Path) -> str:
    """ "" for one that is not there, or that this user may not read."""
    try:
        return file.read_text().strip()
    except (OSError, UnicodeDecodeError):
        return ""
