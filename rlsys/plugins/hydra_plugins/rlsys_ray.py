"""The launchers `ray` and `ray_local`. Hydra takes launchers from a package of this name only; compose.py adds this one."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher


@dataclass
class Settings:
    """hydra.launcher.*: the cluster, and what each run takes of it."""

    _target_: str = "hydra_plugins.rlsys_ray.RayLauncher"
    address: str = "auto"  # as ray.init takes it; auto: RAY_ADDRESS, or the cluster that this machine is in
    num_cpus: float = 1.0  # also the run's `threads`, unless these are typed
    num_gpus: float = 0.0  # a run sees no others


class RayLauncher(Launcher):
    options: Sequence[str] = ()  # of the command line, that each run is to be told

    def __init__(self, address: str, num_cpus: float, num_gpus: float):
        self.address, self.num_cpus, self.num_gpus = address, num_cpus, num_gpus

    def setup(self, *, hydra_context: Any, task_function: Any, config: Any) -> None:
        self.folder = Path(config.hydra.sweep.dir)

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> list[JobReturn]:
        """Train every run; once all have ended, SystemExit if one has failed; at once if all were stopped."""
        from rlsys.cli import FAILED, PREEMPTED, complain, exit_codes
        from rlsys.launch_ray import Stopped, train_all

        jobs = {initial_job_idx + i: [*self.options, *self.of_the_run(job)] for i, job in enumerate(job_overrides)}
        try:
            with exit_codes():
                codes = train_all(jobs, self.folder, self.address, num_cpus=self.num_cpus, num_gpus=self.num_gpus)
        except Stopped as stop:
            raise SystemExit(complain(str(stop), PREEMPTED)) from None
        if any(codes):
            raise SystemExit(FAILED)
        return [JobReturn(overrides=list(job), status=JobStatus.COMPLETED) for job in job_overrides]

    def of_the_run(self, overrides: Sequence[str]) -> list[str]:
        """The overrides without those that say where and how the grid runs."""
        kept = [text for text in overrides if not text.startswith("hydra") or text.startswith("hydra.searchpath=")]
        if not any(text.startswith("threads=") for text in kept):
            kept.append(f"threads={max(1, int(self.num_cpus))}")
        return kept


def register(options: Sequence[str]) -> None:
    """Make the launchers known to Hydra."""
    RayLauncher.options = options
    Plugins.instance().register(RayLauncher)
    for name, settings in {"ray": Settings(), "ray_local": Settings(address="local")}.items():
        ConfigStore.instance().store(group="hydra/launcher", name=name, node=settings)
