"""Joules, counted on trees of files as the kernel has them."""

import asyncio
import contextlib
from pathlib import Path

import pytest

from exo.benchmark import energy
from exo.benchmark.energy import Meter, Sensor, sensors
from exo.benchmark.results import PROMPTS, Run, model_result, table


def write(root: Path, **files: object) -> None:
    """Files by their paths, with `__` in place of `/`."""
    for name, content in files.items():
        path = root / name.replace("__", "/").replace("rapl_", "intel-rapl:")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{content}\n")


def powercap(root: Path, zone: str, name: str, used: object, most: int = 1000) -> None:
    folder = f"sys__class__powercap__rapl_{zone}"
    write(root, **{f"{folder}__name": name, f"{folder}__energy_uj": used})
    write(root, **{f"{folder}__max_energy_range_uj": most})


def hwmon(root: Path, number: int, name: str, **files: int) -> None:
    folder = f"sys__class__hwmon__hwmon{number}"
    write(root, **{f"{folder}__name": name, **{f"{folder}__{file}": value for file, value in files.items()}})


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_machine_without_a_sensor_counts_nothing(tmp_path: Path) -> None:
    assert sensors(tmp_path) == ()
    assert Meter(()).look() is None


def test_all_processors_count_and_no_part_of_one_twice(tmp_path: Path) -> None:
    powercap(tmp_path, "0", "package-0", 5)
    powercap(tmp_path, "0:0", "core", 3)
    powercap(tmp_path, "1", "package-1", 7)
    assert [each.name for each in sensors(tmp_path)] == ["package-0", "package-1"]


def test_the_whole_platform_counts_before_its_processors(tmp_path: Path) -> None:
    powercap(tmp_path, "0", "package-0", 5)
    powercap(tmp_path, "1", "psys", 9)
    assert [each.name for each in sensors(tmp_path)] == ["psys"]


def test_a_counter_that_may_not_be_read_is_none(tmp_path: Path) -> None:
    powercap(tmp_path, "0", "package-0", "")
    hwmon(tmp_path, 0, "ina226", power1_input=4_000_000)
    assert [each.name for each in sensors(tmp_path)] == ["ina226 power1_input"]


def test_of_a_boards_sensors_the_one_that_feeds_the_others_counts(tmp_path: Path) -> None:
    hwmon(tmp_path, 0, "vdd_cpu", power1_input=2_000_000)
    hwmon(tmp_path, 1, "ina226", power1_input=7_000_000, power2_input=0)
    hwmon(tmp_path, 2, "nvme")
    (found,) = sensors(tmp_path)
    assert (found.name, found.kind) == ("ina226 power1_input", "power")


def test_a_counter_is_read_off_also_where_it_begins_anew(tmp_path: Path) -> None:
    powercap(tmp_path, "0", "package-0", 900, most=1000)
    meter = Meter(sensors(tmp_path))
    assert meter.look() == 0
    powercap(tmp_path, "0", "package-0", 950, most=1000)
    assert meter.look() == pytest.approx(50e-6)
    powercap(tmp_path, "0", "package-0", 20, most=1000)
    assert meter.look() == pytest.approx(120e-6)


def test_power_counts_for_as_long_as_it_is_drawn(tmp_path: Path) -> None:
    clock = Clock()
    hwmon(tmp_path, 0, "ina226", power1_input=4_000_000)
    meter = Meter(sensors(tmp_path), clock)
    clock.now = 2.0
    assert meter.look() == pytest.approx(8.0)
    hwmon(tmp_path, 0, "ina226", power1_input=6_000_000)
    clock.now = 3.0
    assert meter.look() == pytest.approx(13.0)


def test_a_sensor_that_goes_away_makes_no_figures(tmp_path: Path) -> None:
    powercap(tmp_path, "0", "package-0", 5)
    meter = Meter(sensors(tmp_path))
    (sensor,) = sensors(tmp_path)
    sensor.file.unlink()
    assert meter.look() is None
    powercap(tmp_path, "0", "package-0", 50)
    assert meter.look() is None


async def test_it_looks_by_itself_while_it_is_watched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(energy, "_OFTEN", 0.001)
    clock = Clock()
    hwmon(tmp_path, 0, "ina226", power1_input=1_000_000)
    meter = Meter((Sensor("it", tmp_path / "sys/class/hwmon/hwmon0/power1_input", "power"),), clock)
    watching = asyncio.create_task(meter.watch())
    hwmon(tmp_path, 0, "ina226", power1_input=3_000_000)
    clock.now = 1.0
    async with asyncio.timeout(10):
        while not meter._joules:
            await asyncio.sleep(0.001)
    # Had nobody looked in between, it would have been thought to draw 5 W at the end for all of the time.
    hwmon(tmp_path, 0, "ina226", power1_input=5_000_000)
    assert meter.look() == pytest.approx(2.0)
    watching.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await watching


def test_joules_are_shown_by_token_where_there_are_any() -> None:
    runs = {PROMPTS[0]: [Run(ttft=1.0, tokens=10, counted=False, joules=25.0)]}
    runs[PROMPTS[1]] = [Run(ttft=1.0, tokens=10, counted=False)]
    head, first, second, *_ = table(model_result("m", runs, {}))
    assert head[-1] == "J/TOKEN"
    assert (first[-1], second[-1]) == ("2.50", "-")
    assert len(head) == len(first) == len(second)
