"""The page: a template with what it shows, one script and one style sheet in it, and nothing fetched from anywhere."""

from __future__ import annotations

import base64
import functools
import gzip
import importlib.util
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from vaelab.report import pictures
from vaelab.report.charts import Chart
from vaelab.report.pictures import Picture

TEMPLATES = Path(__file__).with_name("templates")
RESERVE = 20_000  # bytes that what is said of left-out pictures may take


@dataclass(frozen=True)
class Content:
    """What a page shows.

    Attributes:
        template: that shows it.
        values: by the names that the template has for them.
        charts: in their order.
        pictures: in their order.
    """

    template: str
    values: Mapping[str, Any]
    charts: tuple[Chart, ...] = ()
    pictures: tuple[Picture, ...] = field(default=())


def render(content: Content, most: int | None = None) -> str:
    """The text of the page, of at most ``most`` bytes: pictures that there is no room for are made smaller, or left out with a word."""
    template = _environment().get_template(content.template)
    charts = [{"id": c.id, "data": c.data, "layout": c.layout} for c in content.charts]
    values = {
        **content.values,
        "charts": content.charts,
        "charts_json": as_json(charts),
        "plotly": plotly() if charts else "",
        "style": Markup((TEMPLATES / "style.css").read_text(encoding="utf-8")),
        "script": Markup((TEMPLATES / "page.js").read_text(encoding="utf-8")),
    }
    room = None
    if most is not None:
        bare = template.render(**values, pictures=(), left_out=())
        room = most - len(bare.encode(errors="replace")) - RESERVE
    shown, left_out = pictures.embedded(content.pictures, room)
    return template.render(**values, pictures=shown, left_out=left_out)


def as_json(value: Any) -> Markup:
    """JSON that ends no script element, whatever text is in it.

    >>> as_json({"a": "</script>"})
    Markup('{"a":"\\\\u003c/script\\\\u003e"}')
    """
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return Markup(text)


@functools.cache
def plotly() -> str:
    """Plotly's script, gzipped, in base64: 2 MB in place of 5, which the page unpacks when it needs it."""
    found = importlib.util.find_spec("plotly")  # found and not imported: the Python side of it is not needed
    assert found is not None
    assert found.origin is not None
    script = Path(found.origin).parent / "package_data" / "plotly.min.js"
    return base64.b64encode(gzip.compress(script.read_bytes(), 9, mtime=0)).decode()


@functools.cache
def _environment() -> Environment:
    return Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, finalize=_written,
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip


def _written(value: Any) -> Any:
    """What a file holds is shown without control characters; None is nothing."""
    if value is None:
        return ""
    if type(value) is str:
        if value.isprintable():  # megabytes of a picture
            return value
        return "".join(c if c.isprintable() or c in "\n\t" else "\ufffd" for c in value)
    return value
