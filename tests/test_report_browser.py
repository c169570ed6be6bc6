"""The HTML report in a real browser: opened from disk, operated by mouse and keyboard, watched for requests."""

import json
import os
import shutil
from pathlib import Path

import pytest
from conftest import ROOT
from test_report import HOSTILE, large_study

from data.adience import AGE_GROUPS
from data.faces import Faces
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
    places = [os.environ.get("AXE_PATH", ""), ROOT / "node_modules" / "axe-core" / "axe.min.js"]
    return next((Path(place).read_text() for place in places if place and Path(place).is_file()), None)


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """A report of 300 faces, one of which has a hostile name, and the study."""
    folder = tmp_path_factory.mktemp("browser")
    study = large_study(folder / "faces")
    hostile = HOSTILE.replace("/", "∕")
    table = study.faces.table
    last = study.answers[-1].predictions.faces.table.index[-1]
    for faces in [table, *(one.predictions.faces.table for one in study.answers)]:
        if last in faces.index:
            faces.loc[last, "path"] = "album299/" + hostile
    table.loc[[0, 1], "label"] = [0, 3]  # a pair of the same picture with two labels
    study.answers[0].predictions.faces.table.loc[0, "label"] = 0
    study.answers[1].predictions.faces.table.loc[1, "label"] = 3
    write_report(folder / "report.html", study)
    return folder / "report.html", study, Faces(table, AGE_GROUPS)


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


def one(browser, selector):
    return browser.find_element(By.CSS_SELECTOR, selector)


def every(browser, selector):
    return browser.find_elements(By.CSS_SELECTOR, selector)


def count(browser):
    """The number of faces that the filter leaves."""
    word = one(browser, "#count").text.split()[0]
    return 0 if word == "No" else int(word.replace(",", ""))


def wait(browser, condition):
    return ui.WebDriverWait(browser, 5, 0.05).until(lambda _: condition())


def choose(browser, name, value):
    ui.Select(one(browser, f"#filter [name={name}]")).select_by_value(value)


def mistakes(study, **wanted):
    """The mistakes with the wanted values, as a table, the most confident first."""
    pooled = study.pooled()
    table = pooled.faces.table.assign(
        prediction=pooled.predicted, confidence=pooled.probabilities.max(1), p=list(pooled.probabilities)
    )
    table = table[table.prediction != table.label]
    for name, value in wanted.items():
        table = table[table[name] == value]
    return table.sort_values(["confidence", "path"], ascending=[False, True])


def label_of(browser, place=0):
    return one(browser, f"#tile-{place}").get_attribute("aria-label")


def test_all_mistakes_are_there(opened, page):
    table = mistakes(page[1])
    assert count(opened) == len(table)
    assert table.path.iloc[0] in label_of(opened)
    tiles = every(opened, ".tile")
    assert 6 < len(tiles) < len(table)  # those in view
    assert tiles[0].get_attribute("aria-setsize") == str(len(table))
    wait(opened, lambda: opened.execute_script("return document.querySelector('.tile img').naturalWidth") == 96)


def test_a_cell_shows_its_faces(opened, page):
    cells = page[1].pooled().confusion
    one(opened, ".matrix button[data-true='3'][data-predicted='4']").click()
    assert count(opened) == cells[3, 4]
    assert label_of(opened).startswith("15-20 → 25-32 ")
    assert one(opened, ".matrix button[aria-pressed=true]").get_attribute("data-true") == "3"
    assert opened.switch_to.active_element.get_attribute("id") == "grid"
    opened.execute_script("document.querySelector(\".matrix button[data-true='2'][data-predicted='2']\").click()")
    assert "right answers" in one(opened, "#count").text and label_of(opened).startswith("8-13 → 8-13 ")


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
        one(opened, "[name=low]").clear()
        one(opened, "[name=low]").send_keys(value)
    else:
        choose(opened, name, value)
    wait(opened, lambda: count(opened) == len(table))
    one(opened, "button[type=reset]").click()
    wait(opened, lambda: count(opened) == len(mistakes(page[1])))


def test_sort_and_search(opened, page):
    table = mistakes(page[1])
    choose(opened, "sort", "unsure")
    wait(opened, lambda: table.path.iloc[-1] in label_of(opened))
    choose(opened, "sort", "path")
    wait(opened, lambda: table.path.min() in label_of(opened))
    wanted = table.path.iloc[5]
    one(opened, "[name=search]").send_keys(wanted.upper())
    wait(opened, lambda: count(opened) == table.path.str.contains(wanted, regex=False).sum())
    one(opened, "[name=search]").send_keys("nothing")
    wait(opened, lambda: count(opened) == 0)
    assert one(opened, "#count").text == "No mistakes fit this filter." and not every(opened, ".tile")


def test_keyboard(opened, page):
    table = mistakes(page[1])
    grid = one(opened, "#grid")
    columns = opened.execute_script(
        "return Math.max(2, Math.floor((document.getElementById('grid').clientWidth - 12) / 148))"
    )
    grid.send_keys(Keys.ARROW_RIGHT, Keys.ARROW_DOWN)
    assert grid.get_attribute("aria-activedescendant") == f"tile-{1 + columns}"
    grid.send_keys(Keys.END)
    assert grid.get_attribute("aria-activedescendant") == f"tile-{len(table) - 1}"
    assert opened.execute_script("return document.getElementById('grid').scrollTop") > 0
    grid.send_keys(Keys.HOME)
    assert not every(opened, ".tile canvas")
    grid.send_keys(Keys.SPACE)
    assert len(every(opened, ".tile canvas")) == len(every(opened, ".tile"))
    assert one(opened, "[name=overlay]").get_attribute("value") == "predicted"
    grid.send_keys(Keys.ENTER)
    assert one(opened, "#large").get_attribute("open") and every(opened, "#large-photo canvas")
    assert table.path.iloc[0] in one(opened, "#large-facts").text
    bars = [row.text.split("\n")[-1] for row in every(opened, "#large-bars .bar")]
    assert bars == [f"{100 * p:.1f} %" for p in table.p.iloc[0].round(3)]
    opened.switch_to.active_element.send_keys(Keys.SPACE)
    assert one(opened, "#overlay-name").text == "true class"
    opened.switch_to.active_element.send_keys(Keys.ARROW_RIGHT)
    assert table.path.iloc[1] in one(opened, "#large-facts").text
    opened.switch_to.active_element.send_keys(Keys.ESCAPE)
    assert not one(opened, "#large").get_attribute("open")
    assert opened.switch_to.active_element.get_attribute("id") == "grid"


def test_the_link_carries_the_filter(opened, page):
    choose(opened, "true", "4")
    choose(opened, "sort", "unsure")
    one(opened, "[name=search]").send_keys("album1")
    wait(opened, lambda: "search=album1" in opened.current_url)
    address, before, first = opened.current_url, count(opened), label_of(opened)
    assert "#gallery?true=4&sort=unsure&search=album1" in address
    opened.get("about:blank")
    opened.get(address)
    wait(opened, lambda: (count(opened), label_of(opened)) == (before, first))
    opened.refresh()
    wait(opened, lambda: (count(opened), label_of(opened)) == (before, first))
    assert one(opened, "[name=search]").get_attribute("value") == "album1"


def test_a_hostile_link(opened, page):
    """Within the open page (a hashchange), and from the start; the driver returns before the page has read it."""
    hostile = "#gallery?true=99&sort=__proto__&constructor=1&search=%3Cimg%20src=x%20onerror=alert(1)%3E"

    def check():
        wait(opened, lambda: count(opened) == 0)
        assert one(opened, "[name=true]").get_attribute("value") == ""
        assert one(opened, "[name=search]").get_attribute("value") == "<img src=x onerror=alert(1)>"
        assert not every(opened, "img[src=x]")

    opened.execute_script("location.hash = arguments[0]", hostile)
    check()
    opened.get("about:blank")
    opened.get(page[0].as_uri() + hostile)
    check()


def test_hostile_names_are_shown(opened, page):
    path = page[2].table.path.iloc[-1]
    choose(opened, "distance", "wrong" if path in set(mistakes(page[1]).path) else "right")
    one(opened, "[name=search]").send_keys("<script>alert")
    wait(opened, lambda: count(opened) <= 1)
    if count(opened):
        assert "<script>alert(1)" in label_of(opened) and "\\u202e" in label_of(opened)
    assert not every(opened, "img[src=x]")


def test_a_suspect_leads_to_its_face_in_the_gallery(opened):
    link = one(opened, "#labels td.path a")
    name = link.text
    opened.execute_script("arguments[0].scrollIntoView({block: 'center'})", link)
    link.click()
    wait(opened, lambda: count(opened) == 1)
    assert one(opened, "[name=search]").get_attribute("value") == name
    wait(opened, lambda: name in label_of(opened))


def test_thumbnails_and_download(opened, page):
    button = one(opened, "#download")
    opened.execute_script("arguments[0].scrollIntoView()", button)
    wait(opened, lambda: every(opened, "#labels .thumb img"))
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
        columns = len({tile.location["x"] for tile in every(opened, ".tile")})
        assert columns == {390: 2, 768: 4, 1280: 6}[width]
    finally:
        opened.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


@pytest.mark.skipif(axe_source() is None, reason="no axe-core here: npm install axe-core, or AXE_PATH=.../axe.min.js")
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("large", [False, True])
def test_accessibility(opened, scheme, large):
    opened.execute_cdp_cmd("Emulation.setEmulatedMedia",
                           {"features": [{"name": "prefers-color-scheme", "value": scheme}]})  # fmt: skip
    if large:
        one(opened, "#grid").send_keys(Keys.ENTER)
    opened.execute_script(axe_source())
    options = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"]}
    found = opened.execute_async_script("axe.run(document, arguments[0]).then(arguments[1])", options)
    described = [(v["id"], node["html"][:200]) for v in found["violations"] for node in v["nodes"][:3]]
    assert described == [] and len(found["passes"]) > 10
