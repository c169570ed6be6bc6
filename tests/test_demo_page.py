"""tools.demo_page: its answer to a photograph, its command line, and the page in a real browser."""

import base64
import importlib.util
import io
import os
import re
import shutil
import socket
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from conftest import call
from PIL import Image
from test_predict import write_model, write_photographs

from photos.drawing import draw_box, draw_faces, label
from photos.photographs import load_photograph
from photos.predictor import NOTICE, AgePredictor, Photograph
from tools import demo_page

needs_packages = pytest.mark.skipif(
    importlib.util.find_spec("gradio") is None, reason="the extra requirements-demo.txt is not installed"
)
HOSTILE_CLASSES = ("<img src=x onerror=alert(1)>", "${alert(2)}", "{{constructor}}")


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    return write_photographs(tmp_path_factory.mktemp("photographs"))


@pytest.fixture(scope="module")
def predictor(tmp_path_factory):
    """Of a small model whose classes have hostile names."""
    path = write_model(tmp_path_factory.mktemp("model") / "fold_0.pt", names=HOSTILE_CLASSES)
    return AgePredictor(path, precision="fp32", threads=1)


class TestAnswer:
    def test_two_faces(self, predictor, photographs, tmp_path):
        path = upload(photographs / "b" / "two.PNG", tmp_path)
        message, drawn, bars, cleared = demo_page.make_answer(predictor)(path)
        assert not path.parent.exists()
        faces = predictor(photographs / "b" / "two.PNG")
        assert (message, cleared) == ("two.PNG: 2 faces", None)
        assert bars == [
            (f"Face {number}: {face.group} {100 * face.confidence:.0f} %", face.probabilities)
            for number, face in enumerate(faces, 1)
        ]
        path_of_two = photographs / "b" / "two.PNG"
        photograph = Photograph(path_of_two, faces)
        numbered, plain = draw_faces(photograph), load_photograph(path_of_two)[0]
        for face in faces:
            draw_box(plain, face.box, label(face))
        assert yellow_pixels(numbered) > yellow_pixels(plain)  # the labels are longer by the faces' numbers
        assert numbered.size == (480, 320)
        left, top, _, height = faces[0].box
        assert numbered.getpixel((round(left), round(top + height / 2))) == (255, 212, 0)
        assert np.abs(np.asarray(image_of(drawn), int) - np.asarray(numbered)).mean() < 3  # JPEG

    def test_no_face(self, predictor, photographs, tmp_path):
        message, drawn, *rest = demo_page.make_answer(predictor)(upload(photographs / "none.webp", tmp_path))
        assert (message, image_of(drawn).size, rest) == ("none.webp: no faces", (60, 40), [[], None])

    def test_a_broken_photograph(self, predictor, photographs, tmp_path):
        path = upload(photographs / "broken.jpg", tmp_path)
        message, *rest = demo_page.make_answer(predictor)(path)
        assert message.startswith("broken.jpg cannot be read: it is truncated or damaged: ")
        assert str(tmp_path) not in message
        assert rest == [None, [], None]
        assert not path.parent.exists()

    def test_the_same_photograph_of_two_visitors(self, predictor, photographs, tmp_path):
        """Gradio keeps both in one file, and the first answer deletes it."""
        answer, path = demo_page.make_answer(predictor), upload(photographs / "a.jpg", tmp_path)
        assert answer(path) == answer(path)
        assert answer(path)[0].startswith("a.jpg: ")


def test_folders_of_killed_servers_are_removed(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for name in ("age_groups_killed", "age_groups_running", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "photo.jpg").write_bytes(b"x")
    with demo_page.locked_folder(tmp_path / "age_groups_running") as free, demo_page.private_folder() as folder:
        assert free
        names = {path.name for path in tmp_path.iterdir()}
        assert names == {"age_groups_running", "other", Path(folder).name}
    assert {path.name for path in tmp_path.iterdir()} == {"age_groups_running", "other"}


class TestScript:
    def test_without_the_packages(self, monkeypatch, capsys):
        monkeypatch.setitem(sys.modules, "gradio", None)
        assert call(demo_page, "x.pt") == 2
        assert capsys.readouterr().err == (
            "error: tools.demo_page needs the package gradio: python -m pip install -r requirements-demo.txt\n"
        )

    @needs_packages
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ([], "the following arguments are required: MODEL"),
            (["gone.pt"], "no model file at 'gone.pt'"),
            (["gone.pt", "--threshold", "nan"], "threshold nan: expected a number from 0 to 1"),
            (["gone.pt", "--port", "0"], "--port 0: expected a number from 1 to 65535"),
            (["gone.pt", "--host", "192.0.2.1"], ": the page cannot be served there: Cannot assign requested address"),
            (["gone.pt", "--host", "x" * 70], ": the page cannot be served there: "),
        ],
    )
    def test_bad_arguments(self, arguments, message, capsys):
        port = [] if "--port" in arguments else ["--port", str(free_port())]
        assert call(demo_page, *arguments, *port) == 2
        captured = capsys.readouterr()
        assert message in captured.err
        assert captured.err.count("\n") == 1

    @needs_packages
    def test_a_port_in_use(self, capsys):
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
            assert call(demo_page, "gone.pt", "--port", port) == 2
        message = f"error: --host '127.0.0.1' --port {port}: the page cannot be served there: Address already in use"
        assert capsys.readouterr().err.startswith(message)

    @needs_packages
    def test_it_ends_quietly(self, tmp_path, monkeypatch, capsys):
        keep_environment(monkeypatch)
        monkeypatch.setenv("HTTP_PROXY", "http://192.0.2.1:9")  # which is not asked for the page
        monkeypatch.setenv("http_proxy", "http://192.0.2.1:9")
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
        (tmp_path / "temporary").mkdir()
        path, port, listening = write_model(tmp_path / "x.pt"), free_port(), []

        def interrupt():
            with socket.create_connection(("127.0.0.1", port)):
                listening.extend((tmp_path / "temporary").iterdir())
            raise KeyboardInterrupt

        monkeypatch.setattr(demo_page.signal, "pause", interrupt)
        assert call(demo_page, path, "--port", port) == 130
        captured = capsys.readouterr()
        assert captured.out == f"the page is at http://127.0.0.1:{port}/ (Ctrl-C ends it)\n"
        assert captured.err == "\ninterrupted\n"
        assert len(listening) == 1
        assert list((tmp_path / "temporary").iterdir()) == []

    def test_help_is_honest(self, capsys):
        assert call(demo_page, "--help") in (None, 0)
        assert "Do not base decisions about people on it." in " ".join(capsys.readouterr().out.split())


@pytest.fixture(scope="module")
def served(predictor, tmp_path_factory):
    """(Address of the page, the folder of uploads, hosts that this process connected to meanwhile)."""
    hosts, connect = set(), socket.socket.connect

    def record(self, address):
        hosts.add(address[0] if isinstance(address, tuple) else "local")
        return connect(self, address)

    with pytest.MonkeyPatch.context() as patch:
        keep_environment(patch)
        patch.setattr(socket.socket, "connect", record)
        patch.setattr(tempfile, "tempdir", str(tmp_path_factory.mktemp("temporary")))
        with demo_page.serve_page(predictor, "127.0.0.1", free_port()) as address:
            yield address, Path(os.environ["GRADIO_TEMP_DIR"]), hosts


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    from test_report_browser import CHROMIUM, DRIVER, start_browser  # skips where there is no selenium

    if not (CHROMIUM and DRIVER):
        pytest.skip("no Chromium here: apt-get install chromium-driver")
    driver = start_browser(tmp_path_factory)
    yield driver
    driver.quit()


@needs_packages
@pytest.mark.parametrize(("origin", "status"), [("http://evil.example", 403), ("null", 403), ("own", 200), (None, 200)])
def test_pages_of_other_addresses_are_refused(served, origin, status):
    origin = served[0].rstrip("/") if origin == "own" else origin
    request = urllib.request.Request(served[0], headers={"Origin": origin} if origin else {})
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        assert opener.open(request, timeout=10).status == status
    except urllib.error.HTTPError as error:
        assert error.code == status


@needs_packages
class TestPage:
    def upload(self, browser, path, answer):
        """Drop a photograph and wait until the page shows an answer; returns the text of the page."""
        every(browser, "input[type=file]")[0].send_keys(str(path))
        wait(lambda: answer in every(browser, "textarea")[0].get_property("value"))
        faces = int((re.search(r": (\d+) face", answer) or [0, 0])[1])
        wait(lambda: every(browser, "main")[0].text.count("Face ") == faces)
        return every(browser, "main")[0].text

    @pytest.fixture(autouse=True)
    def opened(self, browser, served):
        from test_report_browser import requests

        browser.get("about:blank")
        for name in ("browser", "performance"):
            browser.get_log(name)
        browser.get(served[0])
        wait(lambda: every(browser, "input[type=file]"))
        yield
        assert [entry["message"] for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []
        allowed = (served[0], "data:", "blob:", "about:")
        assert [address for address in requests(browser) if not address.startswith(allowed)] == []
        assert served[2] <= {"127.0.0.1", "local"}
        assert [path for path in served[1].rglob("*") if path.is_file() and path.stat().st_size] == []

    def test_notice_boxes_and_bars(self, browser, predictor, photographs):
        text = " ".join(every(browser, "main")[0].text.split())
        assert " ".join(NOTICE.split()) + " Adience is for research only." in text
        faces = predictor(photographs / "b" / "two.PNG")
        text = self.upload(browser, photographs / "b" / "two.PNG", "two.PNG: 2 faces")
        for number, face in enumerate(faces, 1):
            bars = [f"{name}\n{100 * face.probabilities[name]:.0f}%" for name in ranked(face.probabilities)]
            title = f"Face {number}: {face.group} {100 * face.confidence:.0f} %"
            assert "\n".join([title, *bars]) in text
        widths = "return [...document.querySelectorAll('.bar')].map(b => b.offsetWidth / b.parentNode.offsetWidth)"
        probabilities = [face.probabilities[name] for face in faces for name in ranked(face.probabilities)]
        assert browser.execute_script(widths) == pytest.approx(probabilities, abs=0.02)
        assert self.pictures(browser) == [480]

    def pictures(self, browser):
        return browser.execute_script("return [...document.querySelectorAll('main img')].map(i => i.naturalWidth)")

    def test_one_photograph_after_another(self, browser, photographs):
        self.upload(browser, photographs / "a.jpg", "a.jpg: 1 face")
        self.upload(browser, photographs / "broken.jpg", "broken.jpg cannot be read: it is truncated or damaged")
        assert self.pictures(browser) == []
        self.upload(browser, photographs / "none.webp", "none.webp: no faces")
        self.upload(browser, photographs / "a.jpg", "a.jpg: 1 face")

    def test_a_hostile_file_name_on_a_telephone(self, browser, photographs, tmp_path):
        """A name is no markup, and nothing is wider than the window."""
        path = Path(shutil.copy(photographs / "b" / "two.PNG", tmp_path / "<b>photo<b> & ${alert(3)} {{x}} 'co'.png"))
        browser.set_window_size(500, 900)
        try:
            self.upload(browser, path, ": 2 faces")
            assert every(browser, "main b") == []
            inner = browser.execute_script("return document.documentElement.clientWidth")
            assert browser.execute_script("return document.documentElement.scrollWidth") <= inner
        finally:
            browser.set_window_size(1280, 900)


def every(browser, selector):
    return browser.find_elements("css selector", selector)


def wait(condition):
    limit = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.05)


def ranked(probabilities):
    return sorted(probabilities, key=probabilities.get, reverse=True)


def upload(path, folder):
    """A copy of a photograph in a folder of its own, as Gradio keeps an upload."""
    (folder / "upload").mkdir()
    return Path(shutil.copy(path, folder / "upload"))


def image_of(picture):
    """The PIL image of a data URL."""
    return Image.open(io.BytesIO(base64.b64decode(picture["url"].removeprefix("data:image/jpeg;base64,"))))


def yellow_pixels(image):
    return (np.asarray(image) == (255, 212, 0)).all(2).sum()


def keep_environment(patch):
    """Undo afterwards what a page sets."""
    for name in (*demo_page.SETTINGS, "GRADIO_TEMP_DIR"):
        patch.setenv(name, "")


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]
