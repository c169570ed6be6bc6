"""Open a page for photographs in the browser: drop one, and see its faces and their age groups.

    python -m tools.demo_page [MODEL ...] [--host 127.0.0.1] [--port 7860] [--threshold 0.4]

Several models are fused. The page is served on this machine and needs nothing from outside. A photograph is deleted as
soon as its answer is there; the picture on the page is a data URL, so that it is in the browser only.
"""

import base64
import contextlib
import functools
import io
import os
import shutil
import socket
import tempfile
import time
from pathlib import Path

from data.images import IMAGE_LIMIT
from photos.detection import THRESHOLD
from photos.drawing import draw_faces
from photos.photographs import PICTURE_SUFFIXES
from photos.predictor import NOTICE, AgePredictor, Photograph, without_path
from utils.cli import explain, percent, printable, require_package, run_script
from utils.errors import UserError
from utils.files import try_lock
from utils.options import Parser, check_limits
from utils.reading import MIB, reason

PREFIX = "age_groups_"  # of the temporary folders
TITLE = "Age groups from faces"
LOCAL = ("127.0.0.1", "localhost", "::1")
# Read by Gradio when it is imported: nothing is reported, checked or remembered, and its own first request, which asks
# the page whether it is there, goes through no proxy.
SETTINGS = {"GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_RUN_HISTORY": "False", "NO_PROXY": "*", "no_proxy": "*"}


def main():
    parser = Parser(prog="python -m tools.demo_page", description=__doc__.splitlines()[0], epilog=NOTICE)
    parser.add_argument("models", nargs="*", metavar="MODEL", help="model files (default: weights/ages.pt)")
    parser.add_argument("--host", default=LOCAL[0], metavar="ADDRESS", help="0.0.0.0 serves all (default: 127.0.0.1)")
    parser.add_argument("--port", type=int, default=7860, metavar="N", help="port to serve on (default: 7860)")
    parser.add_argument(
        "--threshold", type=float, default=THRESHOLD, metavar="X",
        help=f"detector's least confidence, 0-1 (default: {THRESHOLD})",
    )  # fmt: skip
    options = parser.parse_args()
    host, port = options.host, options.port
    check_limits("--port", port, {"low": 1, "high": 65535})
    require_package("gradio", "tools.demo_page", "requirements-demo.txt")
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        socket.create_server((host, port), family=family).close()
    except (OSError, UnicodeError) as error:
        raise UserError(f"--host '{host}' --port {port}: the page cannot be served there: {reason(error)}") from None
    predictor = AgePredictor(*options.models, threshold=options.threshold)
    for note in predictor.notes:
        print(f"note: {printable(note)}")
    if host not in LOCAL:
        print(f"note: everyone who can reach {host}:{port} can use the page")
    with serve_page(predictor, host, port) as address:
        print(f"the page is at {address} (Ctrl-C ends it)", flush=True)
        while True:  # until a signal raises an exception
            time.sleep(1)


@contextlib.contextmanager
def serve_page(predictor, host, port):
    """Serve the page until the block ends, in threads of its own. Yields its address."""
    # Removed at the end with whatever was uploaded; only this user can read it. Gradio's own lines, which may hold the
    # names of visitors' files, are not printed.
    with (
        private_folder() as folder,
        open(os.devnull, "w", encoding="utf-8") as nowhere,
        contextlib.redirect_stderr(nowhere),
    ):
        os.environ.update(SETTINGS, GRADIO_TEMP_DIR=folder)
        import gradio
        from starlette.middleware import Middleware

        page = build_page(gradio, make_answer(predictor))
        _, address, _ = page.launch(
            server_name=host, server_port=port, prevent_thread_lock=True, quiet=True, max_file_size=IMAGE_LIMIT * MIB,
            theme=gradio.themes.Default(font=("sans-serif",), font_mono=("monospace",)), footer_links=[],
            share=False, mcp_server=False, ssr_mode=False,  # no other servers
            app_kwargs={"middleware": [Middleware(SameOrigin)]},
        )  # fmt: skip
        try:
            yield address
        finally:
            page.close(verbose=False)


@contextlib.contextmanager
def private_folder():
    """A temporary folder, removed at the end; those of servers that were killed are removed, too."""
    for stale in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError), locked_folder(stale) as is_stale:
            if is_stale:
                shutil.rmtree(stale)
    with tempfile.TemporaryDirectory(prefix=PREFIX) as folder, locked_folder(folder):
        yield folder


@contextlib.contextmanager
def locked_folder(folder):
    """Hold a lock on a folder; yields whether no other process holds it: never on Windows. Raises OSError."""
    if not hasattr(os, "O_DIRECTORY"):
        yield False
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        free = False
        with contextlib.suppress(UserError):  # a file system without locks
            free = try_lock(descriptor, folder)
        yield free
    finally:
        os.close(descriptor)


class SameOrigin:
    """An ASGI application that refuses requests which pages of other addresses make."""

    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send):
        headers = dict(scope.get("headers", []))
        origin = headers.get(b"origin")
        if origin is None or origin.partition(b"//")[2] == headers.get(b"host"):
            await self.app(scope, receive, send)
        elif scope["type"] == "http":
            await send({"type": "http.response.start", "status": 403})
            await send({"type": "http.response.body"})


def build_page(gradio, answer):
    """The page, a Gradio Blocks: a photograph, and its answer below."""
    # An upload that was never answered is deleted after 60 seconds.
    with gradio.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(60, 60)) as page:
        gradio.Markdown(f"# {TITLE}\n\n{NOTICE} Adience is for research only.")
        photograph = gradio.File(label="Photograph", file_types=sorted(PICTURE_SUFFIXES), height=150)
        message, bars = gradio.Textbox(label="Answer", interactive=False), gradio.State([])
        with gradio.Row():
            drawn = gradio.Image(show_label=False, interactive=False, buttons=[])
            with gradio.Column():

                @gradio.render(bars)
                def show_bars(faces):
                    for title, probabilities in faces:
                        gradio.Label(probabilities, label=title, show_heading=False)

        # The photograph is cleared, so that the next one can be dropped. Postprocessing would write pictures to files.
        outputs = [message, drawn, bars, photograph]
        photograph.upload(answer, photograph, outputs, postprocess=False, api_visibility="private")
    return page


def make_answer(predictor):
    """A function that answers an uploaded photograph, as `describe` does, and deletes it.

    Gradio keeps the same photograph of two visitors in one file: the second gets the answer of the first.
    """
    known = functools.lru_cache(32)(functools.partial(describe, predictor))

    def answer(path):
        path = Path(path)
        try:
            return known(path)
        finally:
            with contextlib.suppress(OSError):
                path.unlink()
                path.parent.rmdir()  # its name is a hash of the photograph

    return answer


def describe(predictor, path):
    """Predict the faces of a photograph.

    Returns:
        Values of Gradio's components: message, picture with boxes, title and {class: probability} of each face, and
        None in place of the photograph.
    """
    try:
        faces = predictor(path)
        drawn = draw_faces(Photograph(path, faces))
    except Exception as error:
        return f"{path.name} cannot be read: {without_path(explain(error), path)}", None, [], None
    drawn.thumbnail((1280, 1280))
    file = io.BytesIO()
    drawn.save(file, "JPEG", quality=90)
    picture = {"url": "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()}
    bars = [
        (f"Face {number}: {face.group} {percent(face.confidence)}", face.probabilities)
        for number, face in enumerate(faces, 1)
    ]
    count = "1 face" if len(faces) == 1 else f"{len(faces) or 'no'} faces"
    return f"{path.name}: {count}", picture, bars, None


if __name__ == "__main__":
    run_script(main)
