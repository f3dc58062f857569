"""A page of ``vae-report`` as tests look at it: its elements, and what anything on it would fetch."""

from __future__ import annotations

import itertools
import json
import re
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

VOID = {"meta", "link", "img", "input", "br", "hr"}


@dataclass
class Element:
    tag: str
    attributes: dict[str, str | None]
    text: str = ""
    inside: list[str] = field(default_factory=list)


class Page(HTMLParser):
    """The elements of a page in their order, each with all text in it. Fails where elements are not closed in their order."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.source = text
        self.elements: list[Element] = []
        self._open: list[Element] = []
        self.feed(text)
        self.close()
        assert not self._open, [one.tag for one in self._open]

    @classmethod
    def of(cls, path: Path) -> Page:
        return cls(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = Element(tag, dict(attrs), inside=[one.tag for one in self._open])
        self.elements.append(element)
        if tag not in VOID:
            self._open.append(element)

    def handle_endtag(self, tag: str) -> None:
        assert self._open, f"</{tag}> closes nothing"
        assert self._open[-1].tag == tag, f"</{tag}> where {self._open[-1].tag} is open"
        self._open.pop()

    def handle_data(self, data: str) -> None:
        for element in self._open:
            element.text += data

    def all(self, tag: str) -> list[Element]:
        return [one for one in self.elements if one.tag == tag]

    @property
    def text(self) -> str:
        """What can be read, in one line."""
        hidden = {"script", "style", "title"}
        parts = [one.text for one in self.all("body")]
        whole = " ".join(parts)
        for element in self.elements:
            if element.tag in hidden:
                whole = whole.replace(element.text, " ")
        return " ".join(whole.split())

    @property
    def charts(self) -> list[dict[str, Any]]:
        (data,) = [one for one in self.all("script") if one.attributes.get("id") == "charts-data"]
        return json.loads(data.text)

    def table(self, caption: str) -> list[list[str]]:
        """The cells of the table with this caption, its head first."""
        found = re.search(rf"<caption>{re.escape(caption)}</caption>(.*?)</table>", self.source, re.DOTALL)
        assert found, caption
        inner = Page(f"<table>{found[1]}</table>")
        rows: list[list[str]] = []
        for element in inner.elements:
            if element.tag == "tr":
                rows.append([])
            elif element.tag in ("td", "th"):
                rows[-1].append(element.text.strip())
        return rows


def check_conventions(page: Page) -> None:
    """What holds for every page: nothing is fetched, and those who do not see it, or have no mouse, find everything."""
    assert page.source.startswith("<!DOCTYPE html>")
    assert page.all("html")[0].attributes["lang"] == "en"
    assert [one.tag for one in page.elements if one.tag in ("h1", "main", "header", "nav")] == [
        "header", "h1", "nav", "main",
    ]  # fmt: skip
    for element in page.elements:
        for name, value in element.attributes.items():
            assert not name.startswith("on"), f"{name} of {element.tag}"
            if name == "src":
                assert (value or "").startswith("data:image/png;base64,"), element.tag
            if name == "href":
                assert not re.match(r"[a-z]+:|//", value or "", re.IGNORECASE), value
        assert element.tag not in ("link", "iframe", "object", "embed", "base"), element.tag
    policy = next(one for one in page.all("meta") if one.attributes.get("http-equiv"))
    assert "default-src 'none'" in (policy.attributes["content"] or "")
    assert "eval" not in (policy.attributes["content"] or "")
    for image in page.all("img"):
        assert image.attributes["alt"]
        assert int(image.attributes["width"] or 0) > 0
    for cell in page.all("th"):
        assert cell.attributes.get("scope") in ("col", "row"), cell.text
    ids = [one.attributes["id"] for one in page.elements if "id" in one.attributes]
    assert len(ids) == len({*ids})
    for link in page.all("a"):
        target = link.attributes["href"] or ""
        assert not target.startswith("#") or target[1:] in ids, target
    levels = [int(one.tag[1]) for one in page.elements if re.fullmatch(r"h[1-6]", one.tag)]
    assert all(b - a <= 1 for a, b in itertools.pairwise(levels)), levels
    for chart in page.charts:
        assert chart["id"] in ids
    assert page.source.count("<figcaption>") == len(page.all("figure"))
