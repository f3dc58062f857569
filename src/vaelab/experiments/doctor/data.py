"""Whether the data are there, and how they are split."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from vaelab.data import datasets, sources
from vaelab.data.datamodule import ImageDataModule
from vaelab.data.own import OWN, settled
from vaelab.errors import SettingError
from vaelab.experiments.doctor.finding import Finding, note, ok, wrong

Config = dict[str, Any]
NAME = "data set"


def find_data(
    config: Config, fallback: Callable[[], tuple[Config, str]] | None, fetch: bool
) -> tuple[Config | None, Finding]:
    """The settings of the training whose data are here, and what was found.

    Args:
        config: as asked for.
        fallback: the settings with the data set that is used where this one cannot be had, and why; None = there is none.
        fetch: whether data that are only on a server are fetched, as a run would do.

    Returns:
        None in the place of the settings where no data are here.
    """
    name = config["data"]["name"]
    try:
        if name in OWN:
            return config, ok(NAME, f"{name}: {settled(config)['data']['path']}")
        available = sources.require(name, config["paths"]["data_dir"])
        if available.found == "network" and not fetch:
            server = sources.host(available.mirrors[0])
            return None, note(
                NAME, f"{name}: not in {available.data_dir}; {server} answers, and a run fetches it"
            )
        if available.found == "network":
            datasets.load(name, available.data_dir)
        return config, _available(available, config)
    except sources.DataUnavailable as error:
        if fallback is None:
            return None, _missing(name, error)
        config, reason = fallback()
        return config, note(NAME, reason)
    except SettingError as error:
        return None, _missing(name, error)


def _missing(name: str, error: SettingError) -> Finding:
    """The message of a refusal has the first line, and then what to do."""
    found, _, advice = error.rule.partition("\n")
    if error.setting != "data":
        found = f"{error.setting}={error.received}: {found}"
    return wrong(
        NAME, f"{name}: {found}", advice or f"set {error.setting} to what is there, or take data=digits"
    )


def _available(available: sources.Availability, config: Config) -> Finding:
    name, source = available.name, sources.SOURCES[available.name]
    if available.found == "embedded":
        return ok(NAME, f"{name}: comes with scikit-learn; the SHA-256 of its arrays is the known one")
    if available.found == "network":
        return ok(
            NAME, f"{name}: fetched from {sources.host(available.mirrors[0])}, and checked by its digests"
        )
    if not source.is_checked:
        return note(
            NAME,
            f"{name}: in {available.data_dir}; no digest of its files is known",
            "a run records what they were",
        )
    if available.files:
        return ok(
            NAME,
            f"{name}: {len(available.files)} files in {_from_here(available.files[0].parent)}, with the known digests",
        )
    words = f"{name}: decoded already, in vaelab's cache; checked as it is read"
    if not available.data_dir.exists():
        return note(NAME, f"{words}. paths.data_dir={config['paths']['data_dir']} does not exist")
    return ok(NAME, words)


def _from_here(path: Path) -> Path:
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def splits(data: ImageDataModule) -> list[Finding]:
    """How many images of what kind, and what the data set itself has to say."""
    assert data.images is not None
    counts = ", ".join(f"{data.size(split):,} {split}" for split in ("train", "val", "test"))
    shape = " x ".join(map(str, data.image_shape))
    found = f"{counts} images of {shape}, {data.images.num_levels} levels"
    return [ok("splits", found), *(note("images", text) for text in data.images.notes)]
