"""The page in a real browser: it needs nothing from outside, does what its controls say, and is readable by everyone."""

import base64
import json
import shutil
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement

from bench.report.page import page
from bench.tests.synthetic_report import hard_report

pytestmark = pytest.mark.browser
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
INSTALL = "apt-get install chromium chromium-driver"
# Every text that is seen, its colour and what is behind it; large text needs less contrast (WCAG 2.2, 1.4.3).
CONTRASTS = """
const seen = (e) => e.checkVisibility() && e.getClientRects().length > 0;
const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
const rgb = (colour) => {
  canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
  return [...canvas.getImageData(0, 0, 1, 1).data];
};
const luminance = ([r, g, b]) => {
  const linear = (c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
  const [x, y, z] = [r, g, b].map((c) => linear(c / 255));
  return 0.2126 * x + 0.7152 * y + 0.0722 * z;
};
const behind = (e) => {
  for (; e; e = e.parentElement) { const c = rgb(getComputedStyle(e).backgroundColor); if (c[3] === 255) return c; }
  return rgb("Canvas");
};
return [...document.querySelectorAll("body *")].flatMap((e) => {
  const own = [...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
  if (!own || !seen(e) || ["SCRIPT", "STYLE"].includes(e.tagName)) return [];
  const style = getComputedStyle(e);
  const colour = e instanceof SVGElement ? style.fill : style.color;
  const [a, b] = [luminance(rgb(colour)), luminance(behind(e))].sort((x, y) => y - x);
  const large = parseFloat(style.fontSize) >= 24 || (parseFloat(style.fontSize) >= 18.66 && style.fontWeight >= 700);
  return [[(a + 0.05) / (b + 0.05) / (large ? 3 : 4.5), `${e.tagName} ${colour}: ${e.textContent.trim().slice(0, 40)}`]];
});
"""


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(page(hard_report()))
    return path


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    found, driver = next((path for name in BROWSERS if (path := shutil.which(name))), None), shutil.which("chromedriver")
    if found is None or driver is None:
        pytest.fail(f"no browser to test the page in ({' or '.join(BROWSERS)}, and chromedriver); run: {INSTALL}")
    options = webdriver.ChromeOptions()
    options.binary_location = found
    for word in (
        "--headless=new",
        "--no-sandbox",
        "--window-size=1280,900",
        f"--user-data-dir={tmp_path_factory.mktemp('user')}",
    ):
        options.add_argument(word)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    with webdriver.Chrome(options, webdriver.ChromeService(driver)) as chrome:
        yield chrome


@pytest.fixture
def at(browser: webdriver.Chrome, file: Path) -> Iterator[webdriver.Chrome]:
    """The page, just loaded, on a wide screen, as the system's theme is light."""
    for kind in ("browser", "performance"):
        log(browser, kind)
    emulate(browser)
    browser.get(file.as_uri())
    yield browser
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def log(browser: webdriver.Chrome, kind: str) -> list[dict[str, Any]]:
    """What was logged since this was asked last."""
    return list(browser.get_log(kind))  # type: ignore[no-untyped-call]


def emulate(browser: webdriver.Chrome, theme: str = "light", media: str = "") -> None:
    features = [{"name": "prefers-color-scheme", "value": theme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": media, "features": features})


def narrow(browser: webdriver.Chrome) -> None:
    screen = {"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)


def unfold(browser: webdriver.Chrome) -> None:
    browser.execute_script("for (const details of document.querySelectorAll('details')) details.open = true")


def every(at: webdriver.Chrome, selector: str) -> list[WebElement]:
    return at.find_elements(By.CSS_SELECTOR, selector)


def shown(at: webdriver.Chrome, selector: str) -> int:
    """How many of these are displayed, where what holds them is open."""
    code = "return [...document.querySelectorAll(arguments[0])].filter((e) => getComputedStyle(e).display !== 'none').length"
    return int(at.execute_script(code, selector))


def test_it_loads_nothing_and_complains_of_nothing(at: webdriver.Chrome, file: Path) -> None:
    messages = [json.loads(entry["message"])["message"] for entry in log(at, "performance")]
    asked = [message["params"]["request"]["url"] for message in messages if message["method"] == "Network.requestWillBeSent"]
    assert set(asked) == {file.as_uri()}
    assert log(at, "browser") == []


def test_a_model_is_hidden_and_shown_by_click_and_by_key(at: webdriver.Chrome) -> None:
    mine, others = "[data-series~='transformer']", "[data-series='mamba']"
    before = shown(at, mine), shown(at, others)
    assert shown(at, f"svg {mine}") > 10
    assert shown(at, f"tr{mine}") > 10
    button = at.find_element(By.CSS_SELECTOR, "[data-model=transformer]")
    button.click()
    assert (shown(at, mine), shown(at, others)) == (0, before[1])
    assert button.get_attribute("aria-pressed") == "false"
    assert at.find_element(By.ID, "hidden-models").text == "Hidden, with all that speaks of them: Transformer."
    button.send_keys(Keys.SPACE)
    assert (shown(at, mine), shown(at, others)) == before
    assert at.find_element(By.ID, "hidden-models").text == ""


def test_a_table_is_sorted_by_click_both_ways(at: webdriver.Chrome) -> None:
    section = at.find_element(By.ID, "nano-fairness_card")
    heads = section.find_elements(By.CSS_SELECTOR, "thead th")
    column = [head.text for head in heads].index("FLOP/token")

    def values() -> list[float]:
        cells = section.find_elements(By.CSS_SELECTOR, f"tbody tr > :nth-child({column + 1})")
        return [float(cell.text) for cell in cells]

    assert values() != sorted(values())
    button = heads[column].find_element(By.TAG_NAME, "button")
    button.click()
    assert values() == sorted(values())
    assert heads[column].get_attribute("aria-sort") == "ascending"
    button.send_keys(Keys.ENTER)
    assert values() == sorted(values(), reverse=True)
    assert heads[column].get_attribute("aria-sort") == "descending"
    heads[0].find_element(By.TAG_NAME, "button").click()
    names = [cell.text for cell in section.find_elements(By.CSS_SELECTOR, "tbody th")]
    assert names == sorted(names, key=str.casefold) != sorted(names, key=str.casefold, reverse=True)
    assert heads[column].get_attribute("aria-sort") is None


def test_headings_names_and_tables_are_what_a_screen_reader_needs(at: webdriver.Chrome) -> None:
    unfold(at)
    levels = [int(heading.tag_name[1]) for heading in every(at, "h1, h2, h3, h4, h5, h6")]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    pictures = every(at, "svg, img")
    assert len(pictures) == 8
    assert all(len(picture.accessible_name) > 20 and picture.aria_role in ("img", "image") for picture in pictures)
    assert all(button.accessible_name for button in every(at, "button"))
    lacking = """return [...document.querySelectorAll("table")].filter((table) =>
        !table.caption || !table.tBodies[0].rows.length ||
        [...table.tHead.rows[0].cells].some((cell) => cell.scope !== "col") ||
        [...table.tBodies[0].rows].some((row) => row.cells[0].scope !== "row")).length"""
    assert at.execute_script(lacking) == 0
    ids: list[str] = at.execute_script("return [...document.querySelectorAll('[id]')].map((e) => e.id)")
    assert len(ids) == len(set(ids))
    referred = at.execute_script(
        "return [...document.querySelectorAll('[aria-labelledby]')].map((e) => e.getAttribute('aria-labelledby'))"
    )
    links = at.execute_script("return [...document.querySelectorAll('a')].map((a) => a.getAttribute('href').slice(1))")
    assert {*referred, *links} <= set(ids)
    assert at.execute_script("return document.documentElement.lang") == "en"


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_text_stands_out_from_what_is_behind_it(theme: str, at: webdriver.Chrome) -> None:
    emulate(at, theme)
    unfold(at)
    at.find_element(By.CSS_SELECTOR, "[data-model=mamba]").click()
    found: list[tuple[float, str]] = at.execute_script(CONTRASTS)
    assert len(found) > 500
    assert not [words for contrast, words in found if contrast < 1]


def test_the_theme_is_the_systems_or_the_readers(at: webdriver.Chrome) -> None:
    def paper() -> Any:
        return at.execute_script("return getComputedStyle(document.body).backgroundColor")

    light = paper()
    emulate(at, "dark")
    dark = paper()
    assert light != dark
    button = at.find_element(By.ID, "theme")
    for words, colour in (("Theme: light", light), ("Theme: dark", dark), ("Theme: system", dark)):
        button.click()
        assert (button.text, paper()) == (words, colour)


def test_a_phone_scrolls_in_one_direction_only(at: webdriver.Chrome) -> None:
    narrow(at)
    unfold(at)
    assert at.execute_script("return [document.documentElement.scrollWidth, innerWidth]") == [390, 390]
    at.execute_script("scrollTo(99, 0)")
    assert at.execute_script("return scrollX") == 0


def test_it_prints_whole_without_controls(at: webdriver.Chrome) -> None:
    emulate(at, "dark", media="print")
    assert not at.find_element(By.CSS_SELECTOR, ".controls").is_displayed()
    assert at.execute_script("return getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    emulate(at, "dark")
    at.execute_script(
        "addEventListener('beforeprint', () => { window.open_at_print = document.querySelectorAll('details[open]').length })"
    )
    closed = len(every(at, "main details:not([open])"))
    pdf = base64.b64decode(at.print_page())
    assert pdf.startswith(b"%PDF")
    assert at.execute_script("return window.open_at_print") >= closed > 5
    assert len(every(at, "main details:not([open])")) == closed
