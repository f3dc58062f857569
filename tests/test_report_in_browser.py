"""Pages of ``vae-report`` as people have them: from the disk, without a network, in a browser."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import pytest

from chromium import browser
from recorded import a_run, card_of
from vaelab.report import MOST, report
from vaelab.runs import MetricsWriter, write_yaml

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

ELBO = dataclasses.replace(card_of([-90.0, -92.0]), metric="elbo", estimator="elbo", num_samples=1)
Scheme = Literal["light", "dark"]
PATIENCE = 240_000  # ms: a machine may have a lot to do
WIDTHS = (1280, 390)
WIDER = "document.documentElement.scrollWidth - document.documentElement.clientWidth"


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser() as found:
        yield found


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Of a run and of a sweep."""
    folder = tmp_path_factory.mktemp("logs") / "sweeps" / "grid"
    for latent_dim, value in ((2, -100.0), (8, -90.0), (32, -95.0)):
        for encoder in ("mlp", "conv"):
            config = {"latent_dim": latent_dim, "encoder": encoder}
            cards = [
                dataclasses.replace(ELBO, metric=metric, value=of_it)
                for metric, of_it in (("elbo", value), ("rate", 10.0 + latent_dim), ("distortion", 90.0 - latent_dim))
            ]  # fmt: skip
            words = [f"{key}={one}" for key, one in config.items()]
            run = a_run(
                folder, f"{encoder}-{latent_dim}", cards, val=value - len(encoder), config=config, overrides=words,
                sweep={"name": "grid", "swept": config},
            )  # fmt: skip
    with MetricsWriter(run / "metrics.csv") as writer:
        for step in range(10, 300, 10):
            speed = {"time/images_per_second": 12000.0 + 10 * step}
            writer.append(step, {"train/elbo": -100 - 900 / step, "val/elbo": -101 - 900 / step, **speed})
    write_yaml(run / "defaults.yaml", {"latent_dim": 64})
    return report(run), report(folder)


@dataclasses.dataclass
class Seen:
    """What a page has asked for, and complained about."""

    page: Page
    requests: list[str]
    complaints: list[str]

    def draw_all(self) -> None:
        """Scroll from top to bottom, since charts are drawn as they come into sight."""
        self.page.wait_for_selector("html[data-charts=ready]", state="attached", timeout=PATIENCE)
        for chart in self.page.locator(".plot").all():
            chart.scroll_into_view_if_needed()
            self.page.wait_for_selector(
                f"#{chart.get_attribute('id')}[data-drawn] svg", timeout=PATIENCE, state="attached"
            )


def opened(chromium: Browser, path: Path, width: int = 1280, scheme: Scheme = "light") -> Seen:
    context = chromium.new_context(
        viewport={"width": width, "height": 900}, color_scheme=scheme, offline=True
    )
    page = context.new_page()
    page.set_default_timeout(PATIENCE)
    seen = Seen(page, [], [])
    page.on("request", lambda request: seen.requests.append(request.url))
    page.on("console", lambda message: seen.complaints.append(message.text))
    page.on("pageerror", lambda error: seen.complaints.append(str(error)))
    page.goto(path.as_uri(), timeout=PATIENCE)
    return seen


@pytest.mark.slow
@pytest.mark.parametrize("width, scheme", [(1280, "light"), (390, "dark")])
@pytest.mark.parametrize("which", [0, 1], ids=["run", "sweep"])
def test_reports_in_a_real_browser_draw_their_charts_fetch_nothing_and_fit_the_screen(
    chromium: Browser, pages: tuple[Path, Path], which: int, width: int, scheme: Scheme
) -> None:
    seen = opened(chromium, pages[which], width, scheme)
    seen.draw_all()
    assert seen.page.locator(".plot").count() >= (1, 4)[which]
    assert seen.requests == [pages[which].as_uri()]
    assert seen.complaints == []
    assert seen.page.evaluate(WIDER) == 0
    assert seen.page.locator("#no-charts").is_hidden()
    ticks = seen.page.locator(".ytick text").all_text_contents()
    assert ticks
    assert not [tick for tick in ticks if "×10" in tick], "thousands are plain numbers"
    assert pages[which].stat().st_size <= MOST
    seen.page.context.close()


@pytest.mark.slow
def test_reports_in_a_real_browser_sort_filter_search_and_copy(
    chromium: Browser, pages: tuple[Path, Path]
) -> None:
    seen = opened(chromium, pages[1])
    box = seen.page.locator("[data-table]").first
    head = box.locator("thead th", has_text="latent_dim")

    def column() -> list[str]:
        return box.locator("tbody tr:visible td:nth-child(2)").all_inner_texts()

    assert column() == ["8", "8", "32", "32", "2", "2"]
    assert box.locator("thead th[aria-sort=descending]").inner_text().startswith("val/elbo")
    head.get_by_role("button").click()
    assert (column(), head.get_attribute("aria-sort")) == (["2", "2", "8", "8", "32", "32"], "ascending")
    head.get_by_role("button").press("Enter")
    assert (column(), head.get_attribute("aria-sort")) == (["32", "32", "8", "8", "2", "2"], "descending")
    assert box.locator("thead th[aria-sort]").count() == 1

    for typed, left in (
        ("latent_dim>=8 encoder=conv", ["32", "8"]),
        ("mlp", ["32", "8", "2"]),
        ("nothing", []),
    ):
        box.get_by_label("Filter").fill(typed)
        assert column() == left
        assert box.locator("output").inner_text() == f"{len(left)} of 6 rows"
    box.get_by_label("Filter").fill("")
    assert len(column()) == 6

    seen.page.goto(pages[0].as_uri(), timeout=PATIENCE)
    settings = seen.page.locator("#configuration [data-table]")
    settings.get_by_label("Search").fill("encod")
    assert settings.locator("tbody tr:visible th").all_inner_texts() == ["encoder"]
    button = seen.page.locator("[data-copy]").first
    button.click()
    seen.page.wait_for_function("one => one.textContent !== 'Copy'", arg=button.element_handle())
    assert seen.complaints == []
    seen.page.context.close()


@pytest.mark.slow
def test_reports_in_a_real_browser_are_whole_without_scripts(
    chromium: Browser, pages: tuple[Path, Path]
) -> None:
    context = chromium.new_context(java_script_enabled=False, offline=True)
    page = context.new_page()
    page.goto(pages[1].as_uri(), timeout=PATIENCE)
    assert page.locator("noscript p").is_visible()
    assert page.locator("table").first.locator("tbody tr").count() == 6
    context.close()
