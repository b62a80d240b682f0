"""What runs cost: wall seconds, core-seconds, GPU-seconds, joules, bytes on the disk, and money by a user's price file.

A run has a `Meter`, and its checkpoints remember what the meter of earlier processes said (run.Book). Energy is counted
where there is a counter, and is estimated otherwise; `Cost.energy_source` says which:

| source | counts | whose |
|---|---|---|
| nvml | the GPU's own counter (`nvmlDeviceGetTotalEnergyConsumption`, from Volta on) | the GPU's, whoever else uses it |
| rapl | the processors' own counters, and their memory's | the machine's, times this run's share of its busy core-seconds |
| estimate | core-seconds x WATTS_PER_CORE, GPU-seconds x WATTS_PER_GPU; a price file may say otherwise | this run's |

Linux lets only root read RAPL's counters (`chmod a+r /sys/class/powercap/intel-rapl:*/energy_uj` lets everybody), and
virtual machines have none. This is the only file that knows NVML.
"""

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from rlsys.config import ConfigError, build, ranged

if TYPE_CHECKING:
    from rlsys.distributed import Ranks  # not to be imported: whoever asks what a run costs need not have torch loaded

# What Green Algorithms (Lannelongue, Grealey and Inouye 2021, Advanced Science 8, 2100707) takes for a core that it does not
# know: `Any` in its data/latest/TDP_cpu.csv. Those that it knows have from 3.8 to 23.8: servers' less, desktops' more.
WATTS_PER_CORE = 12.0
WATTS_PER_GPU = 300.0  # the board power of an A100 PCIe; an H100 SXM takes up to 700

POWERCAP = Path("/sys/class/powercap")
TICK_SECONDS = 10.0  # between readings: RAPL's counters begin anew at 2^18 J or so, which takes minutes
VARIABLE = "RLSYS_PRICES"
_IMPORTED = time.perf_counter()


@dataclass(frozen=True)
class Cost:
    """What something took. Costs are added, and multiplied by a number."""

    seconds: float = 0.0  # of the wall's clock
    core_seconds: float = 0.0  # user and system, children included
    gpu_seconds: dict[str, float] = field(
        default_factory=dict
    )  # of the wall's clock, by the name of the GPU that is held
    joules: float = 0.0
    energy_source: str = ""  # of nvml, rapl and estimate those that had a part: "estimate+nvml"
    disk_bytes: float = 0.0

    def __add__(self, other: "Cost") -> "Cost":
        names = {**self.gpu_seconds, **other.gpu_seconds}
        sources = {*self.energy_source.split("+"), *other.energy_source.split("+")} - {""}
        return Cost(
            self.seconds + other.seconds,
            self.core_seconds + other.core_seconds,
            {name: self.gpu_seconds.get(name, 0.0) + other.gpu_seconds.get(name, 0.0) for name in names},
            self.joules + other.joules,
            "+".join(sorted(sources)),
            self.disk_bytes + other.disk_bytes,
        )

    def __mul__(self, factor: float) -> "Cost":
        return Cost(
            self.seconds * factor,
            self.core_seconds * factor,
            {name: seconds * factor for name, seconds in self.gpu_seconds.items()},
            self.joules * factor,
            self.energy_source,
            self.disk_bytes * factor,
        )

    @property
    def all_gpu_seconds(self) -> float:
        return sum(self.gpu_seconds.values())

    def metrics(self) -> dict[str, float]:
        """As metrics, by tag; GPU-seconds where there are any."""
        found = {"cost/seconds": self.seconds, "cost/core_seconds": self.core_seconds, "cost/joules": self.joules}
        return {**found, **({"cost/gpu_seconds": self.all_gpu_seconds} if self.gpu_seconds else {})}

    def to_summary(self, prices: "Prices | None") -> dict[str, Any]:
        """As it stands in summary.json; `from_summary` takes it back."""
        found = {
            "cost/seconds": self.seconds,
            "cost/core_seconds": self.core_seconds,
            "cost/gpu_seconds": self.all_gpu_seconds,
            "cost/joules": self.joules,
            "cost/disk_bytes": int(self.disk_bytes),
            "energy_source": self.energy_source,
            "gpus": self.gpu_seconds,
        }
        if prices is not None:
            found |= {"cost/price": prices.price(self), "currency": prices.currency}
        return found

    @classmethod
    def from_summary(cls, data: Mapping[str, Any], gpu: str | None = None) -> "Cost | None":
        """What a summary, or a point of metrics.jsonl, says of it; None if that is nothing. gpu: whose seconds a point's are."""
        if not isinstance(data.get("cost/seconds"), int | float):
            return None
        seconds = data.get("cost/gpu_seconds") or 0.0
        by_name = data.get("gpus", {gpu or "GPU": seconds} if seconds else {})
        numbers = (
            float(data.get(f"cost/{name}") or 0.0) for name in ("seconds", "core_seconds", "joules", "disk_bytes")
        )
        wall, cores, joules, disk = numbers
        return cls(wall, cores, dict(by_name), joules, data.get("energy_source", ""), disk)


def total(costs: Iterable[Cost]) -> Cost:
    """The sum; nothing, of none."""
    return sum(costs, Cost())


def shown(cost: Cost, prices: "Prices | None", digits: int = 3) -> dict[str, str]:
    """A cost in words, by what it is: {"time": "1:02:05", "energy": "1.23 kJ", ...}. Without what there is none of."""
    found = {"time": duration(cost.seconds), "core time": duration(cost.core_seconds)}
    if cost.gpu_seconds:
        found["GPU time"] = duration(cost.all_gpu_seconds)
    found["energy"] = quantity(cost.joules, "J", digits)
    found["disk"] = quantity(cost.disk_bytes, "B", digits)
    price = prices and prices.price(cost)
    if prices and price is not None:
        found["price"] = f"{price:.{digits}g} {prices.currency}"
    return found


def duration(seconds: float) -> str:
    """ "1.23 s", "12.3 s", "2:05", "1:02:05"."""
    if seconds < 59.95:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:,}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def quantity(number: float, unit: str, digits: int = 3) -> str:
    """ "12.3 kJ"."""
    for prefix in ("", "k", "M", "G", "T"):
        if abs(number) < 999.5 or prefix == "T":
            return f"{number:.{digits}g} {prefix}{unit}"
        number /= 1000
    raise AssertionError


# -- prices --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Prices:
    """A price file's keys. Only `currency` must be there; what has no price costs nothing."""

    currency: str = "-"
    core_hour: float = ranged(0.0, 0)
    gpu_hour: dict[str, Any] = field(default_factory=dict)  # by a part of the GPU's name, "H200"; "any" for all others
    kwh: float = ranged(0.0, 0)
    gb_month: float = ranged(0.0, 0)  # 10^9 bytes on a disk
    months: float = ranged(1.0, 0)  # that a run is kept
    watts_per_core: float = ranged(WATTS_PER_CORE, 0)  # where energy has to be estimated
    watts_per_gpu: float = ranged(WATTS_PER_GPU, 0)

    def of_gpu(self, name: str) -> float | None:
        """What an hour of a GPU costs; None if the file does not say."""
        if not self.gpu_hour:
            return 0.0
        matches = [key for key in self.gpu_hour if key.lower() in name.lower()]
        key = max(matches, key=len, default="any")
        return self.gpu_hour.get(key)

    def price(self, cost: Cost) -> float | None:
        """In `currency`; None if there is a GPU that has no price."""
        gpus = [(self.of_gpu(name), seconds) for name, seconds in cost.gpu_seconds.items()]
        if any(rate is None for rate, _ in gpus):
            return None
        money = self.core_hour * cost.core_seconds / 3600 + self.kwh * cost.joules / 3.6e6
        money += sum((rate or 0.0) * seconds for rate, seconds in gpus) / 3600
        return money + self.gb_month * self.months * cost.disk_bytes / 1e9

    def check_gpu(self, name: str) -> None:
        """ConfigError if the file has prices of GPUs, and none of this one."""
        if self.of_gpu(name) is None:
            raise ConfigError(
                f"{VARIABLE}: gpu_hour has no price of {name!r}, only of {', '.join(self.gpu_hour)}. "
                "Add a part of its name, or `any`."
            )


def load_prices(path: str | None = None) -> Prices | None:
    """The prices in the YAML file `path`, or else in the one that RLSYS_PRICES names; None if that is not set.

    ConfigError names the file and what is wrong in it.
    """
    where = path or os.environ.get(VARIABLE)
    if not where:
        return None
    import yaml  # here, because every command asks for the prices

    try:
        data = yaml.safe_load(Path(where).read_text())
        if not isinstance(data, dict) or not data.get("currency"):
            raise ConfigError("it must have keys and values, one of them the currency, such as `currency: EUR`.")
        if others := [key for key in data if not isinstance(key, str)]:
            raise ConfigError(f"there is no key {others[0]!r}. Known: {', '.join(vars(Prices()))}.")
        prices: Prices = build(Prices, data, "")
        for name, rate in prices.gpu_hour.items():
            if (
                isinstance(rate, bool)
                or not isinstance(rate, int | float)
                or not rate >= 0
                or not isinstance(name, str)
            ):
                raise ConfigError(f"gpu_hour: {name}: {rate!r} must be a name and a number of at least 0.")
        return prices
    except OSError as error:
        reason = error.strerror or str(error)
        raise ConfigError(f"{VARIABLE}={where}: {reason}. Name a price file, or unset {VARIABLE}.") from None
    except (ValueError, yaml.YAMLError) as error:
        raise ConfigError(f"the price file {where}: {' '.join(str(error).split())}") from None


# -- counters ------------------------------------------------------------------------------------------------------------


class Counter(Protocol):
    """Counts energy."""

    source: str

    def joules(self) -> float:
        """Since the counter was made."""
        ...


class Rapl:
    """The processors' counters below `root`: packages and their memory. OSError if none can be read."""

    source = "rapl"

    def __init__(self, root: Path = POWERCAP):
        self._zones: list[tuple[Path, int]] = []  # a counter, and where it begins anew
        for zone in sorted(root.glob("intel-rapl:*")):  # AMD's have the same name
            name = (zone / "name").read_text().strip()
            if name.startswith("package") or name == "dram":  # a package has cores and uncore in it, psys all
                self._zones.append((zone / "energy_uj", int((zone / "max_energy_range_uj").read_text())))
        if not self._zones:
            raise FileNotFoundError(f"no energy counters in {root}")
        self._last = [int(path.read_text()) for path, _ in self._zones]
        self._microjoules = 0

    def joules(self) -> float:
        for i, (path, around) in enumerate(self._zones):
            now = int(path.read_text())
            self._microjoules += now - self._last[i] + (around if now < self._last[i] else 0)
            self._last[i] = now
        return self._microjoules / 1e6


class Nvml:
    """A GPU's counter. uuid: "GPU-...". OSError says why there is none; nvml: the module, to be tested without a GPU."""

    source = "nvml"

    def __init__(self, uuid: str, nvml: Any = None):
        if nvml is None:
            try:
                import pynvml
            except ModuleNotFoundError:
                raise OSError("nvidia-ml-py is not installed: pip install 'rlsys[gpu]'") from None
            nvml = pynvml
        try:
            nvml.nvmlInit()
            self._nvml, self._device = nvml, nvml.nvmlDeviceGetHandleByUUID(uuid)
            self._first = self._last = nvml.nvmlDeviceGetTotalEnergyConsumption(
                self._device
            )  # mJ since the driver loaded
        except nvml.NVMLError as error:
            raise OSError(f"NVML has no energy counter of {uuid}: {error}") from None

    def joules(self) -> float:
        with contextlib.suppress(self._nvml.NVMLError):  # one reading lost; the next one has it
            self._last = self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._device)
        return (self._last - self._first) / 1e3


def rapl() -> Rapl | None:
    """The machine's counters, if they can be read."""
    with contextlib.suppress(OSError, ValueError):
        return Rapl()
    return None


def core_seconds() -> float:
    """CPU time of this process since it began, user and system, with all processes below it, dead or alive (Linux)."""
    times = os.times()
    seconds = times.user + times.system + times.children_user + times.children_system
    with contextlib.suppress(OSError):
        below = _children(Path("/proc/self"))
        tick = os.sysconf("SC_CLK_TCK") if below else 1
        while below:
            process = Path("/proc") / below.pop()
            with contextlib.suppress(OSError, ValueError, IndexError):  # it has just ended
                found = (process / "stat").read_text().rpartition(")")[2].split()
                seconds += sum(map(int, found[11:15])) / tick  # its own, and of its children that it has waited for
                below += _children(process)
    return seconds


def _children(process: Path) -> list[str]:
    return [pid for task in (process / "task").iterdir() for pid in (task / "children").read_text().split()]


def busy_core_seconds() -> float:
    """CPU time of the whole machine since it was started; 0 where that cannot be known."""
    with contextlib.suppress(OSError, ValueError):
        user, nice, system, _, _, irq, softirq, *_ = map(
            int, Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
        )
        return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")
    return 0.0


def process_age() -> float:
    """Wall seconds since this process began (Linux), or since it imported this module."""
    with contextlib.suppress(OSError, ValueError, IndexError, AttributeError):
        ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
        return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    return time.perf_counter() - _IMPORTED


def disk_bytes(folder: Path) -> int:
    """Bytes of all files in a folder; a link counts as a link."""
    found = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                found += os.lstat(os.path.join(parent, name)).st_size
    return found


# -- the meter -----------------------------------------------------------------------------------------------------------


class Meter:
    """Measures what this process takes from now on; or, with `whole_process`, since it began.

    prices: whose watts an estimate takes. clock, cores, busy: functions of seconds; processors: their energy counter.
    """

    def __init__(
        self,
        prices: Prices | None = None,
        *,
        whole_process: bool = False,
        clock: Callable[[], float] = time.perf_counter,
        cores: Callable[[], float] = core_seconds,
        busy: Callable[[], float] = busy_core_seconds,
        processors: Callable[[], Counter | None] = rapl,
    ):
        self._prices, self._clock, self._cores, self._busy = prices or Prices(), clock, cores, busy
        self._processors = processors()
        self._gpus: list[tuple[str, float, Counter | None]] = []  # name, held since, counter
        self._began = self._read_at = clock()
        self._last_cores, self._last_busy, self._last_joules = cores(), busy(), 0.0
        self._core_seconds = self._joules = 0.0  # so far; of the processors
        self._others = Cost()  # what the run's other processes said last, but for the time, which is the same
        if whole_process:  # what came before no counter has seen; made early, it is next to nothing
            self._began -= process_age()
            self._core_seconds = self._last_cores
            self._joules = self._core_seconds * self._prices.watts_per_core

    def hold(self, name: str, counter: Callable[[], Counter]) -> str | None:
        """A GPU is held from now on. Returns why its energy can only be estimated, None if it is counted."""
        try:
            self._gpus.append((name, self._clock(), counter()))
        except OSError as error:
            self._gpus.append((name, self._clock(), None))
            return str(error)
        return None

    def tick(self) -> None:
        """Call it often: it reads what must not be left unread for long, if it is time to."""
        if self._clock() > self._read_at + TICK_SECONDS:
            self.read()

    def share(self, ranks: "Ranks") -> None:
        """Count what the run's other processes have taken until now. All ranks call it together."""
        costs = [Cost(**json.loads(word)) for word in ranks.words(json.dumps(asdict(self._own())))]
        self._others = replace(total(costs[: ranks.rank] + costs[ranks.rank + 1 :]), seconds=0.0)

    def read(self) -> Cost:
        """What there has been until now, of the other processes until they last `share`d it."""
        return self._own() + self._others

    def _own(self) -> Cost:
        now, cores = self._clock(), max(self._last_cores, self._cores())
        used = cores - self._last_cores
        if self._processors is None:
            self._joules += used * self._prices.watts_per_core
        else:
            busy, joules = self._busy(), self._processors.joules()
            everybody = max(busy - self._last_busy, used)  # the machine counts in hundredths of a second
            if everybody > 0:
                self._joules += (joules - self._last_joules) * used / everybody
                self._last_busy, self._last_joules = busy, joules
        self._core_seconds += used
        self._last_cores, self._read_at = cores, now

        sources, joules = {self._processors.source if self._processors else "estimate"}, self._joules
        gpu_seconds: dict[str, float] = {}
        for name, since, counter in self._gpus:
            gpu_seconds[name] = gpu_seconds.get(name, 0.0) + now - since
            joules += counter.joules() if counter else (now - since) * self._prices.watts_per_gpu
            sources.add(counter.source if counter else "estimate")
        return Cost(now - self._began, self._core_seconds, gpu_seconds, joules, "+".join(sorted(sources)))
