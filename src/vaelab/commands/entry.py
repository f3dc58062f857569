"""Between the shell and the task: what every command that Hydra composes has in common.

A command is two functions; whatever takes seconds to import is imported inside the second::

    def main() -> int:
        return entry.run("train", task)

    def task(cfg: DictConfig, typed: Typed) -> float | None:
        import torch
        ...

This module imports neither torch nor Lightning, so that help, shell completion and refusals come at once.
"""

from __future__ import annotations

import argparse
import copy
import functools
import os
import sys
import textwrap
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, ClassVar

from hydra import version

# what hydra.main calls; Hydra is pinned below 1.4
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.utils import _run_hydra, create_config_search_path, get_args_parser
from hydra.conf import HydraConf
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobRuntime, setup_globals
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from vaelab.commands.environment import let_threads_sleep, load_env_file, of_a_run
from vaelab.errors import MISSING, RunFailed, SettingError, nearest
from vaelab.experiments.request import Request
from vaelab.runs.interruption import Interrupted
from vaelab.sweeps.job import PLACE

if TYPE_CHECKING:
    from vaelab.commands.explain import Composition
    from vaelab.commands.jobs import JobLoader
    from vaelab.commands.multirun import Multirun

DONE, FAILED, REFUSED, SOME_FAILED, INTERRUPTED, CTRL_C = 0, 1, 2, 3, 75, 130
PATHS = (
    "run",
    "init_from",
    "config",
    "weights",
    "images",
    "against",
    "background",
)  # settings that name a directory or a file
#: what Hydra decides elsewhere, and who decides it here
NOT_HYDRAS = {
    "hydra.run.dir": "a run makes its own directory, paths.log_dir/name/...; set paths.log_dir or name",
    "hydra.sweep.dir": "a sweep makes its own directory, paths.log_dir/sweeps/...; set paths.log_dir or sweep.name",
    "hydra.sweep.subdir": "a run of a sweep is called after its settings; set sweep.name for the sweep",
    "hydra.output_subdir": "the configuration is config.yaml of the run directory",
    "hydra.job.chdir": "a run stays where it was started",
}
FULL_ERROR = "HYDRA_FULL_ERROR"  # a person who sets it to 1 wants to see tracebacks


@dataclass(frozen=True)
class Typed:
    """What was typed, beside the configuration that came of it."""

    command: str  # vae-train
    overrides: tuple[str, ...]  # as typed, in order, without those of Hydra's own settings
    choices: dict[str, str | list[str] | None]  # the entry taken in every group: {"encoder": "conv", ...}
    experiment: str | list[str] | None  # the entry of the group `experiment`
    flags: frozenset[str] = frozenset()  # of the command's own, those that were given


Task = Callable[[DictConfig, Typed], float | None]
#: the configuration that the task would train, the SHA-256 of the weights it would begin with, and how it is asked for; raises SettingError as the task would
Planned = Callable[[DictConfig, Typed], tuple[dict[str, Any], str | None, Request]]


def run(
    config_name: str,
    task: Task,
    *,
    command: str | None = None,
    planned: Planned | None = None,
    flags: Mapping[str, str] | None = None,
    argv: Sequence[str] | None = None,
    config_dir: Path | None = None,
) -> int:
    """Compose ``config_name`` with what was typed, hand it to ``task``, and return the exit status.

    The configuration that the task gets is complete and resolved. Whatever is wrong with it is said in one
    message before the task begins, and by then nothing has been written.

    Args:
        config_name: the primary config.
        task: may raise :class:`~vaelab.errors.SettingError` as long as nothing is written, and afterwards
            :class:`~vaelab.errors.RunFailed`; any other exception is a mistake of ours and shows a traceback.
            With ``-m`` it is not called: each job is the command again, in a process of its own.
        command: what it is called; default: ``vae-<config_name>``.
        planned: of a command that makes runs: with ``-m`` they are jobs of a sweep, which knows them again.
        flags: of its own, without values: name -> what it does.
        argv: the arguments; default: those of the process.
        config_dir: the folder of configs; default: :func:`config_directory`.

    Returns:
        0 done; 1 failed; 2 refused; 3 some jobs of a sweep failed; 75 interrupted; 130 Ctrl-C; or the exit
        status that :class:`~vaelab.errors.RunFailed` carries.
    """
    folder = config_dir or config_directory(config_name)
    app = _App(command or f"vae-{config_name}", config_name, task, planned, folder, flags or {})
    try:
        status = app.run(list(sys.argv[1:] if argv is None else argv))
        sys.stdout.flush()
    except (
        BrokenPipeError
    ):  # `vae-train --help | head`: nothing is wrong, and the interpreter has no more to flush
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = DONE
    return status


def config_directory(config_name: str) -> Path:
    """``configs/`` of the repository that the package lies in; of an installed package, the folder within it.

    The repository comes first: an editable install puts a copy into the package as well, which goes stale.
    """
    package = Path(__file__).resolve().parents[1]
    repository = package.parents[1] / "configs"
    return repository if (repository / f"{config_name}.yaml").is_file() else package / "configs"


def local_configs_first(search_path: ConfigSearchPath) -> None:
    """Put ``./configs`` before the configs of the app that is being composed; leave any other app alone.

    Called by our search path plugin, which Hydra calls for every app of the environment.
    """
    app = _App.composing
    if app is None:
        return
    main = [element.path for element in search_path.get_path() if element.provider == "main"]
    app.search_path = search_path
    local = Path.cwd() / "configs"
    if main != [str(app.config_dir)] or not local.is_dir() or local.resolve() == app.config_dir.resolve():
        return
    if not of_a_run(local):
        search_path.prepend(provider="current directory", path=f"file://{local}", anchor="main")


class _Stop(BaseException):
    """Ends the command."""

    def __init__(self, status: int, message: str | None = None) -> None:
        self.status, self.message = status, message


class _TaskFunction:
    """What Hydra calls: for a job, or with ``-m`` for what makes jobs of its own (`hydra/launcher=local`, `hydra/sweeper=optuna`)."""

    def __init__(self, app: _App) -> None:
        self.__module__ = app.command  # Hydra names the job after it
        self._app = app

    def __call__(self, cfg: DictConfig) -> float | None:
        hydra = HydraConfig.get()
        if hydra.mode == RunMode.MULTIRUN:  # as any other launcher calls for a job
            from vaelab.sweeps.pool import Pool

            overrides = OmegaConf.to_container(hydra.overrides.task, resolve=False)
            return self.vaelab_multirun.launch([overrides], Pool.makes(1))[0].return_value  # pyright: ignore[reportArgumentType]
        with _environment(FULL_ERROR, "1" if self._app.want_traceback else None):
            return self._app.job(cfg)

    @property
    def vaelab_multirun(self) -> Multirun:
        return self._app.multirun


class _App:
    composing: ClassVar[_App | None] = None  # the one whose configuration Hydra is composing

    def __init__(
        self,
        command: str,
        config_name: str,
        task: Task,
        planned: Planned | None,
        config_dir: Path,
        flags: Mapping[str, str],
    ) -> None:
        self.command, self.config_name, self.task, self.config_dir = command, config_name, task, config_dir
        self.planned, self.flags = planned, flags
        self.given: frozenset[str] = frozenset()  # of the flags
        self.args = argparse.Namespace()
        self.status = DONE  # of the one job
        self.search_path: ConfigSearchPath | None = None
        self.want_traceback = os.environ.get(FULL_ERROR) == "1"

    def run(self, argv: list[str]) -> int:
        try:
            load_env_file()
            let_threads_sleep()
            self.want_traceback = os.environ.get(FULL_ERROR) == "1"
            args, parser = self._parse(argv)
            self.args = args
            self._compose_and_run(args, parser)
            status = self.multirun.status if self._is_multirun else self.status
        except SettingError as error:
            self._say(str(error), error)
            status = REFUSED
        except KeyboardInterrupt as error:
            self._say("stopped by Ctrl-C", error)
            status = CTRL_C
        except Interrupted as error:  # while jobs ran
            self._say(f"interrupted by {error}; the same command goes on with it", error)
            status = error.exit_status
        except RunFailed as error:
            self._say(str(error), error)
            status = error.exit_status
        except _Stop as stop:
            if stop.message:
                self._say(stop.message, stop.__cause__)
            status = stop.status
        finally:
            if self._is_multirun:
                self.multirun.close()
        if self._is_multirun:
            self.multirun.report()
        return status

    def _parse(self, argv: list[str]) -> tuple[argparse.Namespace, argparse.ArgumentParser]:
        parser = get_args_parser()
        parser.prog, parser.usage = self.command, f"{self.command} [flags] [name=value ...]"
        for flag, what in self.flags.items():
            parser.add_argument(flag, action="store_true", dest=flag, help=what)
        if "--version" in argv:
            try:
                print(f"vaelab {metadata.version('vaelab')}")
            except metadata.PackageNotFoundError:
                print("vaelab (not installed: run from its source)")
            raise _Stop(DONE)
        # intermixed: otherwise no name=value may follow a flag (vae-train encoder=conv -m latent_dim=2,8)
        args, unknown = parser.parse_known_intermixed_args(argv)
        for flag in unknown:
            name, _, value = flag.lstrip("-").partition("=")
            meant = nearest(flag, [option for action in parser._actions for option in action.option_strings])
            hint = (
                f"did you mean {meant!r}?" if meant else f"a setting has no dashes: {name}={value or 'VALUE'}"
            )
            raise _Stop(REFUSED, f"{flag}: unknown flag ({hint})")
        self.given = frozenset(flag for flag in self.flags if vars(args)[flag])
        args.overrides = [_as_it_is(override) for override in args.overrides]
        typed: dict[str, str] = {}
        for override in args.overrides if not args.shell_completion else []:
            key = override.partition("=")[0].lstrip("+")
            if (
                key in NOT_HYDRAS and "LOCAL_RANK" not in os.environ
            ):  # Lightning types them for the ranks it starts
                raise _Stop(REFUSED, f"{override}: {NOT_HYDRAS[key]}")
            if typed.setdefault(key, override) != override and not key.startswith("hydra."):
                raise _Stop(REFUSED, f"{override}: {key} is given twice (before as {typed[key]})")
        return args, parser

    def _compose_and_run(self, args: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
        if PLACE in os.environ:  # a job, whatever its configuration says: jobs of jobs would have no end
            args.overrides.append("hydra.mode=RUN")
        overrides = list(args.overrides)  # Hydra appends to its own list
        moved = args.config_dir or args.config_path or args.config_name
        asked = args.shell_completion or args.info or args.hydra_help or args.cfg
        version.setbase("1.3")
        _App.composing = self
        try:
            with ExitStack() as stack:
                stack.enter_context(
                    _environment(FULL_ERROR, "1")
                )  # Hydra raises, instead of printing and exiting
                folder = functools.cache(
                    lambda: stack.enter_context(TemporaryDirectory(prefix="vaelab-sweep-"))
                )
                OmegaConf.register_new_resolver("vaelab.scratch", folder, replace=True)
                if (
                    not moved and not asked
                ):  # Hydra composes twice before it says what is wrong; this is sooner
                    cfg = self._composition(args).compose(overrides)
                    if args.help:
                        return self._help(cfg)
                _run_hydra(args, parser, _TaskFunction(self), str(self.config_dir), self.config_name)
        except (BrokenPipeError, SettingError, RunFailed):  # said by whoever is asked for jobs
            raise
        except Exception as error:
            from vaelab.commands.explain import explain

            message = explain(error, self._composition(args), overrides, args.multirun)
            if message is None:
                self.want_traceback = True
                raise _Stop(FAILED, "this is a mistake of vaelab's or Hydra's, not of yours") from error
            has_results = self._is_multirun and self.multirun.results
            raise _Stop(SOME_FAILED if has_results else REFUSED, message) from error
        finally:
            _App.composing = None
            for resolver in (
                "vaelab.scratch",
                "vaelab.groups",
                "vaelab.settings",
            ):  # they belong to this command
                OmegaConf.clear_resolver(resolver)

    def job(self, cfg: DictConfig) -> float | None:
        """The one job. Hydra never sees a task's exception: it would add its own text."""
        value, cause = None, None
        try:
            typed = self._typed(HydraConfig.get())
            self._complete(cfg, typed)
            value = self.task(cfg, typed)
        except SettingError as error:
            self.status, cause = REFUSED, error
        except RunFailed as error:
            self.status, cause = error.exit_status, error
        except Exception as error:
            self.status = FAILED
            traceback.print_exception(error)
        if cause is not None:
            self._say(str(cause), cause)
        return value

    def _typed(self, hydra: HydraConf) -> Typed:
        overrides = OmegaConf.to_container(hydra.overrides.task, resolve=False)
        assert isinstance(overrides, list)
        choices = _choices(hydra)
        return Typed(
            command=self.command,
            overrides=tuple(map(str, overrides)),
            choices=choices,
            experiment=choices.get("experiment"),
            flags=self.given,
        )

    @functools.cached_property
    def multirun(self) -> Multirun:
        from vaelab.commands.multirun import Multirun

        flags = sorted(self.given)
        for name in ("config_path", "config_name", "config_dir"):
            if (value := vars(self.args)[name]) is not None:
                flags += [f"--{name.replace('_', '-')}", str(value)]
        loader, name = GlobalHydra.instance().config_loader(), self.args.config_name or self.config_name
        master = loader.load_configuration(name, list(self.args.overrides), RunMode.MULTIRUN)
        compose = None if self.planned is None else self._compose_job
        return Multirun(self.command, master.hydra, compose, flags, with_tracebacks=self.want_traceback)

    @functools.cached_property
    def _job_loader(self) -> JobLoader:
        from vaelab.commands.jobs import JobLoader

        loader = GlobalHydra.instance().config_loader()
        assert isinstance(loader, ConfigLoaderImpl)
        return JobLoader(loader, self.args.config_name or self.config_name)

    @property
    def _is_multirun(self) -> bool:
        return "multirun" in vars(self)  # somebody has asked for jobs

    def _compose_job(self, overrides: Sequence[str]) -> tuple[dict[str, Any], str | None, Request]:
        """What the single run with these overrides would be; raises SettingError as it would."""
        assert self.planned is not None
        hydra, before = HydraConfig.instance(), HydraConfig.instance().cfg
        try:
            cfg = self._job_loader.load(overrides)
        except (HydraException, OmegaConfBaseException) as error:
            from vaelab.commands.explain import wrong
            from vaelab.commands.multirun import Refused

            composition = self._composition(self.args)
            if wrong(composition, self.args.overrides, True):  # the command line, whatever the job
                raise
            if message := wrong(composition, overrides, False):
                raise Refused(message) from error
            raise
        try:
            hydra.set_config(cfg)
            task_cfg = copy.deepcopy(cfg)
            with open_dict(task_cfg):
                del task_cfg["hydra"]
            typed = self._typed(HydraConfig.get())
            self._complete(task_cfg, typed)
            return self.planned(task_cfg, typed)
        finally:
            hydra.cfg = before

    def _complete(self, cfg: DictConfig, typed: Typed) -> None:
        """Resolve ``cfg`` in place; refuse what is missing, and additions that nobody would read."""
        try:
            missing = OmegaConf.missing_keys(cfg)
            OmegaConf.resolve(cfg)
        except OmegaConfBaseException as error:
            from vaelab.commands.explain import interpolation_error

            raise interpolation_error(error, cfg) from error
        if missing:
            key = min(missing)
            raise SettingError(key, MISSING, f"has to be given, as in {self.command} {key}=VALUE")
        if any(override.startswith("+") for override in typed.overrides):
            from vaelab.commands.explain import Composition

            name = HydraConfig.get().job.config_name or self.config_name
            Composition(self.command, name, self.search_path).refuse_unread(typed.overrides, cfg)

    def _composition(self, args: argparse.Namespace) -> Composition:
        """What this command offers, on the search path that Hydra took or is going to take."""
        from vaelab.commands.explain import Composition

        if self.search_path is None:
            setup_globals()
            JobRuntime.instance().set("name", self.command)
            create_config_search_path(str(self.config_dir))  # calls local_configs_first
        return Composition(self.command, args.config_name or self.config_name, self.search_path)

    def _help(self, cfg: DictConfig) -> None:
        """Print the configuration's `hydra.help.template`; Hydra itself takes a second to list the groups."""
        from vaelab.commands.explain import Composition

        composition = Composition(self.command, self.config_name, self.search_path)
        choices = _choices(cfg.hydra)
        width = max(map(len, choices), default=0) + 4

        def groups() -> str:
            """The groups that this command takes and their entries, the one taken in brackets."""
            lines = []
            for group, taken in sorted(choices.items()):
                entries = [f"[{name}]" if name == taken else name for name in composition.entries(group)]
                wrapped = textwrap.wrap(", ".join(entries), 80 - width, break_on_hyphens=False)
                lines.append(f"  {group}".ljust(width) + f"\n{' ' * width}".join(wrapped))
            return "\n".join(lines)

        def settings() -> str:
            """The primary config as it stands, below its defaults."""
            text = (self.config_dir / f"{self.config_name}.yaml").read_text(encoding="utf-8")
            return textwrap.indent(text.partition("\n\n")[2].rstrip(), "  ")

        OmegaConf.register_new_resolver("vaelab.groups", groups, replace=True)
        OmegaConf.register_new_resolver("vaelab.settings", settings, replace=True)
        HydraConfig.instance().set_config(cfg)
        print(cfg.hydra.help.template)
        for flag, what in self.flags.items():
            print(f"{flag:<31} {what}")

    def _say(self, message: str, cause: BaseException | None = None) -> None:
        if self.want_traceback and cause is not None:
            traceback.print_exception(cause)
        print(f"{self.command}: {message}", file=sys.stderr, flush=True)


def _as_it_is(override: str) -> str:
    """``run=logs/sweeps/s/latent_dim=2,seed=0_1f3a``, quoted where that is the name of something there: to Hydra ``=`` and ``,`` in it would be grammar."""
    key, _, value = override.partition("=")
    if key not in PATHS or not {"=", ","} & {*value} or {"'", "\\"} & {*value} or not os.path.lexists(value):
        return override
    return f"{key}='{value}'"


def _choices(hydra: HydraConf) -> dict[str, str | list[str] | None]:
    """The entry taken in every group of ours."""
    choices = hydra.runtime.choices
    return {group: taken for group, taken in choices.items() if group.partition("/")[0] != "hydra"}


@contextmanager
def _environment(name: str, value: str | None) -> Iterator[None]:
    before = os.environ.get(name)
    _set(name, value)
    try:
        yield
    finally:
        _set(name, before)


def _set(name: str, value: str | None) -> None:
    if value is None:
        os.environ.pop(name, None)
    else:
        os.environ[name] = value
