"""Where W&B would keep a run: on its server, or on the disk. Imports neither W&B nor torch."""

from __future__ import annotations

import configparser
import contextlib
import netrc
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlparse


def wandb_mode(environment: Mapping[str, str]) -> str:
    """``online`` where a key is configured, otherwise ``offline``; WANDB_MODE and ``wandb offline`` decide where they are set."""
    settings = _wandb_settings(environment)
    mode = environment.get("WANDB_MODE") or settings.get("mode")
    if mode and mode != "online":
        return mode
    if mode == "online" and environment.get("WANDB_MODE"):
        return mode
    return "offline" if wandb_key(environment) is None else "online"


def wandb_key(environment: Mapping[str, str]) -> str | None:
    """Where a key for the server is configured, a variable or a file; None = nowhere."""
    for name in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE"):
        if environment.get(name):
            return name
    host = urlparse(wandb_server(environment)).hostname
    named = environment.get("NETRC")
    for path in [Path(named)] if named else [Path.home() / ".netrc", Path.home() / "_netrc"]:
        with contextlib.suppress(netrc.NetrcParseError, OSError, UnicodeDecodeError):
            if (
                host is not None
                and path.is_file()
                and netrc.netrc(str(path)).authenticators(host) is not None
            ):
                return str(path)
    return None


def wandb_server(environment: Mapping[str, str]) -> str:
    """Its address."""
    return (
        environment.get("WANDB_BASE_URL")
        or _wandb_settings(environment).get("base_url")
        or "https://api.wandb.ai"
    )


def _wandb_settings(environment: Mapping[str, str]) -> dict[str, str]:
    """What ``wandb login --host`` and ``wandb offline`` have written down."""
    parser = configparser.ConfigParser(interpolation=None)
    folder = environment.get("WANDB_CONFIG_DIR")
    system = Path(folder).expanduser() if folder else Path.home() / ".config" / "wandb"
    with contextlib.suppress(configparser.Error, OSError, UnicodeDecodeError):
        parser.read([system / "settings", Path("wandb") / "settings"], encoding="utf-8")
    return dict(parser["default"]) if parser.has_section("default") else {}
