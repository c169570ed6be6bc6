"""The HTML report in a real browser: opened from disk, operated by mouse and keyboard, watched for requests."""

import dataclasses
import json
import os
import shutil
from pathlib import Path

import pytest
from conftest import ROOT
from test_report import HOSTILE, large_data

from evaluation.evaluation import pool
from report.page import write_report

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed: pip install selenium")

By = pytest.importorskip("selenium.webdriver.common.by").By
Keys = pytest.importorskip("selenium.webdriver.common.keys").Keys
ui = pytest.importorskip("selenium.webdriver.support.ui")

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="no Chromium here: apt-get install chromium-driver")

FLAGS = (
    "--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --disable-default-apps --disable-dev-shm-usage "
    "--force-prefers-reduced-motion"
).split()


def axe_source():
    """The text of axe-core, or None: AXE_PATH names the file, or npm installed it beside the code."""
    paths = [os.environ.get("AXE_PATH", ""), ROOT / "node_modules" / "axe-core" / "axe.min.js"]
    return next((Path(path).read_text() for path in paths if path and Path(path).is_file()), None)


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """A report of 300 faces, one of which has a hostile name, its evaluations as one, and all faces."""
    folder = tmp_path_factory.mktemp("browser")
    data = large_data(folder / "faces")
    table = data.faces.table
    table.loc[299, "path"] = "album299/" + HOSTILE.replace("/", "∕")
    table.loc[[0, 1], "label"] = [0, 3]  # a pair of the same picture with two labels
    evaluations = [
        dataclasses.replace(evaluation, faces=data.faces.where(table.fold == fold))
        for fold, evaluation in enumerate(data.evaluations)
    ]
    write_report(folder / "report.html", dataclasses.replace(data, evaluations=evaluations))
    return folder / "report.html", pool(evaluations), table


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    driver = start_browser(tmp_path_factory)
    yield driver
    driver.quit()


def start_browser(tmp_path_factory):
    """A Chromium without windows, with a profile of its own."""
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in [*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}", "--window-size=1280,900"]:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    options.add_experimental_option("prefs", {"download.default_directory": str(tmp_path_factory.mktemp("downloads"))})
    return webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))


@pytest.fixture
def opened(browser, page):
    """The browser with the page freshly opened; afterwards there is no error on the console and no request."""
    for name in ("browser", "performance"):
        browser.get_log(name)
    browser.set_window_size(1280, 900)
    browser.get("about:blank")
    browser.get(page[0].as_uri())
    yield browser
    errors = [entry["message"] for entry in browser.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]
    assert errors == []
    assert [
        address for address in requests(browser) if not address.startswith(("file:", "data:", "blob:", "about:"))
    ] == []
    assert len({address for address in requests(browser) if address.startswith("file:")}) <= 1


def requests(browser):
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    return [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]


def find(browser, selector):
    return browser.find_element(By.CSS_SELECTOR, selector)


def find_all(browser, selector):
    return browser.find_elements(By.CSS_SELECTOR, selector)


def count(browser):
    """The number of faces that the filter leaves."""
    word = find(browser, "#count").text.split()[0]
    return 0 if word == "No" else int(word.replace(",", ""))


def wait(browser, condition):
    return ui.WebDriverWait(browser, 5, 0.05).until(lambda _: condition())


def choose(browser, name, value):
    ui.Select(find(browser, f"#filter [name={name}]")).select_by_value(value)


def mistakes(pooled, **wanted):
    """The mistakes with the wanted values, as a table, the most confident first."""
    columns = {"prediction": pooled.predicted, "confidence": pooled.confidence, "p": list(pooled.probabilities)}
    table = pooled.faces.table.assign(**columns)
    table = table[table.prediction != table.label]
    for name, value in wanted.items():
        table = table[table[name] == value]
    return table.sort_values(["confidence", "path"], ascending=[False, True])


def label_of(browser, position=0):
    return find(browser, f"#tile-{position}").get_attribute("aria-label")


def test_all_mistakes_are_there(opened, page):
    table = mistakes(page[1])
    assert count(opened) == len(table)
    assert table.path.iloc[0] in label_of(opened)
    tiles = find_all(opened, ".tile")
    assert 6 < len(tiles) < len(table)  # those in view
    assert tiles[0].get_attribute("aria-setsize") == str(len(table))
    wait(opened, lambda: opened.execute_script("return document.querySelector('.tile img').naturalWidth") == 96)


def test_a_cell_shows_its_faces(opened, page):
    cells = page[1].confusion
    find(opened, ".matrix button[data-true='3'][data-predicted='4']").click()
    assert count(opened) == cells[3, 4]
    assert label_of(opened).startswith("15-20 → 25-32 ")
    assert find(opened, ".matrix button[aria-pressed=true]").get_attribute("data-true") == "3"
    assert opened.switch_to.active_element.get_attribute("id") == "grid"
    opened.execute_script("document.querySelector(\".matrix button[data-true='2'][data-predicted='2']\").click()")
    assert "right answers" in find(opened, "#count").text and label_of(opened).startswith("8-13 → 8-13 ")


@pytest.mark.parametrize("name, value, wanted", [
    ("true", "2", {"label": 2}), ("predicted", "7", {"prediction": 7}), ("model", "1", {"fold": 1}),
    ("gender", "f", {"gender": "f"}), ("gender", "unknown", None), ("distance", "far", None), ("low", "60", None),
])  # fmt: skip
def test_filters(opened, page, name, value, wanted):
    table = mistakes(page[1], **(wanted or {}))
    if name == "distance":
        table = table[(table.label - table.prediction).abs() >= 2]
    elif name == "low":
        table = table[(1000 * table.confidence).round() >= 600]
    elif wanted is None:
        table = table[~table.gender.isin(["f", "m"])]
    if name == "low":
        find(opened, "[name=low]").clear()
        find(opened, "[name=low]").send_keys(value)
    else:
        choose(opened, name, value)
    wait(opened, lambda: count(opened) == len(table))
    find(opened, "button[type=reset]").click()
    wait(opened, lambda: count(opened) == len(mistakes(page[1])))


def test_sort_and_search(opened, page):
    table = mistakes(page[1])
    choose(opened, "sort", "unsure")
    wait(opened, lambda: table.path.iloc[-1] in label_of(opened))
    choose(opened, "sort", "path")
    wait(opened, lambda: table.path.min() in label_of(opened))
    wanted = table.path.iloc[5]
    find(opened, "[name=search]").send_keys(wanted.upper())
    wait(opened, lambda: count(opened) == table.path.str.contains(wanted, regex=False).sum())
    find(opened, "[name=search]").send_keys("nothing")
    wait(opened, lambda: count(opened) == 0)
    assert find(opened, "#count").text == "No mistakes fit this filter." and not find_all(opened, ".tile")


def test_keyboard(opened, page):
    table = mistakes(page[1])
    grid = find(opened, "#grid")
    columns = opened.execute_script(
        "return Math.max(2, Math.floor((document.getElementById('grid').clientWidth - 12) / 148))"
    )
    grid.send_keys(Keys.ARROW_RIGHT, Keys.ARROW_DOWN)
    assert grid.get_attribute("aria-activedescendant") == f"tile-{1 + columns}"
    grid.send_keys(Keys.END)
    assert grid.get_attribute("aria-activedescendant") == f"tile-{len(table) - 1}"
    assert opened.execute_script("return document.getElementById('grid').scrollTop") > 0
    grid.send_keys(Keys.HOME)
    assert not find_all(opened, ".tile canvas")
    grid.send_keys(Keys.SPACE)
    assert len(find_all(opened, ".tile canvas")) == len(find_all(opened, ".tile"))
    assert find(opened, "[name=overlay]").get_attribute("value") == "predicted"
    grid.send_keys(Keys.ENTER)
    assert find(opened, "#large").get_attribute("open") and find_all(opened, "#large-photo canvas")
    assert table.path.iloc[0] in find(opened, "#large-facts").text
    bars = [row.text.split("\n")[-1] for row in find_all(opened, "#large-bars .bar")]
    assert bars == [f"{100 * p:.1f} %" for p in table.p.iloc[0].round(3)]
    opened.switch_to.active_element.send_keys(Keys.SPACE)
    assert find(opened, "#overlay-name").text == "true class"
    opened.switch_to.active_element.send_keys(Keys.ARROW_RIGHT)
    assert table.path.iloc[1] in find(opened, "#large-facts").text
    opened.switch_to.active_element.send_keys(Keys.ESCAPE)
    assert not find(opened, "#large").get_attribute("open")
    assert opened.switch_to.active_element.get_attribute("id") == "grid"


def test_the_link_carries_the_filter(opened, page):
    choose(opened, "true", "4")
    choose(opened, "sort", "unsure")
    find(opened, "[name=search]").send_keys("album1")
    wait(opened, lambda: "search=album1" in opened.current_url)
    address, before, first = opened.current_url, count(opened), label_of(opened)
    assert "#gallery?true=4&sort=unsure&search=album1" in address
    opened.get("about:blank")
    opened.get(address)
    wait(opened, lambda: (count(opened), label_of(opened)) == (before, first))
    opened.refresh()
    wait(opened, lambda: (count(opened), label_of(opened)) == (before, first))
    assert find(opened, "[name=search]").get_attribute("value") == "album1"


def test_a_hostile_link(opened, page):
    """Within the open page (a hashchange), and from the start; the driver returns before the page has read it."""
    hostile = "#gallery?true=99&sort=__proto__&constructor=1&search=%3Cimg%20src=x%20onerror=alert(1)%3E"

    def check():
        wait(opened, lambda: count(opened) == 0)
        assert find(opened, "[name=true]").get_attribute("value") == ""
        assert find(opened, "[name=search]").get_attribute("value") == "<img src=x onerror=alert(1)>"
        assert not find_all(opened, "img[src=x]")

    opened.execute_script("location.hash = arguments[0]", hostile)
    check()
    opened.get("about:blank")
    opened.get(page[0].as_uri() + hostile)
    check()


def test_hostile_names_are_shown(opened, page):
    path = page[2].path.iloc[-1]
    choose(opened, "distance", "wrong" if path in set(mistakes(page[1]).path) else "right")
    find(opened, "[name=search]").send_keys("<script>alert")
    wait(opened, lambda: count(opened) <= 1)
    if count(opened):
        assert "<script>alert(1)" in label_of(opened) and "\\u202e" in label_of(opened)
    assert not find_all(opened, "img[src=x]")


def test_a_suspect_leads_to_its_face_in_the_gallery(opened):
    link = find(opened, "#labels td.path a")
    name = link.text
    opened.execute_script("arguments[0].scrollIntoView({block: 'center'})", link)
    link.click()
    wait(opened, lambda: count(opened) == 1)
    assert find(opened, "[name=search]").get_attribute("value") == name
    wait(opened, lambda: name in label_of(opened))


def test_thumbnails_and_download(opened, page):
    button = find(opened, "#download")
    opened.execute_script("arguments[0].scrollIntoView()", button)
    wait(opened, lambda: find_all(opened, "#labels .thumb img"))
    opened.execute_script("URL.createObjectURL = (blob) => { window.blob = blob; return 'blob:x'; }")
    opened.execute_script("HTMLAnchorElement.prototype.click = function () { window.name_of_file = this.download; }")
    button.click()
    text = opened.execute_async_script("window.blob.text().then(arguments[0])")
    assert text == (page[0].parent / "suspects.csv").read_text()
    assert opened.execute_script("return window.name_of_file") == "suspects.csv"


@pytest.mark.parametrize("width", [390, 768, 1280])
def test_no_page_is_wider_than_the_window(opened, width):
    opened.execute_cdp_cmd("Emulation.setDeviceMetricsOverride",
                           {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500})  # fmt: skip
    try:
        assert opened.execute_script("return document.documentElement.scrollWidth") <= width
        columns = len({tile.location["x"] for tile in find_all(opened, ".tile")})
        assert columns == {390: 2, 768: 4, 1280: 6}[width]
    finally:
        opened.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def use_scheme(browser, scheme):
    feature = {"name": "prefers-color-scheme", "value": scheme}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})


@pytest.mark.parametrize("scheme, line, text", [
    ("light", "rgb(0, 114, 178)", "rgb(90, 97, 106)"), ("dark", "rgb(86, 180, 233)", "rgb(163, 171, 181)"),
])  # fmt: skip
def test_charts_have_the_colours_of_the_scheme(opened, scheme, line, text):
    use_scheme(opened, scheme)
    assert len(find_all(opened, ".chart svg[role=img][aria-label]")) == 5  # two, and three models' parameters
    style = "return getComputedStyle(document.querySelector(arguments[0]))[arguments[1]]"
    assert opened.execute_script(style, "#training path[stroke='var(--c0)']", "stroke") == line
    assert opened.execute_script(style, "#training svg text", "fill") == text
    assert opened.execute_script(style, "#training svg text", "font-family").startswith("system-ui")


@pytest.mark.skipif(axe_source() is None, reason="no axe-core here: npm install axe-core, or AXE_PATH=.../axe.min.js")
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("large", [False, True])
def test_accessibility(opened, scheme, large):
    use_scheme(opened, scheme)
    if large:
        find(opened, "#grid").send_keys(Keys.ENTER)
    opened.execute_script(axe_source())
    options = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"]}
    found = opened.execute_async_script("axe.run(document, arguments[0]).then(arguments[1])", options)
    described = [(v["id"], node["html"][:200]) for v in found["violations"] for node in v["nodes"][:3]]
    assert described == [] and len(found["passes"]) > 10
