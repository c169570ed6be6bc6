"""Open a page for photographs in the browser: drop one, see its faces, their age groups and where the network looks.

    python -m tools.demo_page MODEL [MODEL ...] [--host 127.0.0.1] [--port 7860] [--threshold 70]

Several models are fused. The page is served on this machine and needs nothing from outside. A photograph is deleted as
soon as its answer is there; what the page shows of it is only in the browser.
"""

import contextlib
import errno
import importlib.util
import os
import socket
import tempfile
import threading

from utils.cli import printable, run_script, start_script

if __name__ == "__main__":
    start_script()  # before the imports below, which take a while

from data.cache import IMAGE_LIMIT
from data.photographs import PHOTO_SUFFIXES
from evaluation.detection import require_detector
from report.photographs import NOTICE
from utils.errors import UserError
from utils.foreign import MIB
from utils.options import Parser

ADVICE = "tools.demo_page needs the package gradio: python -m pip install -r requirements-demo.txt"
TITLE = "Age groups from faces"
LICENCE = "Adience is for research only."
LOCAL = ("127.0.0.1", "localhost", "::1")
SECONDS = 60  # after which an upload that was never answered is deleted, looked for as often
# Read by Gradio when it is imported: nothing is reported, checked or remembered, and its own first request, which asks
# the page whether it is there, goes through no proxy.
SETTINGS = {"GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_RUN_HISTORY": "False", "NO_PROXY": "*", "no_proxy": "*"}
FONTS = ("ui-sans-serif", "system-ui", "sans-serif")  # the reader's own


def read_command_line():
    parser = Parser(prog="python -m tools.demo_page", description=__doc__.splitlines()[0], epilog=NOTICE)
    parser.add_argument("models", nargs="+", metavar="MODEL", help="model files: fold_0.pt and the like")
    parser.add_argument(
        "--host", default=LOCAL[0], metavar="ADDRESS",
        help="address to serve on; 0.0.0.0 lets everyone in who reaches this machine (default: 127.0.0.1)",
    )  # fmt: skip
    parser.add_argument("--port", type=int, default=7860, metavar="N", help="port to serve on (default: 7860)")
    parser.add_argument(
        "--threshold", type=float, default=70, metavar="X", help="least confidence of the detector, 0-100 (default: 70)"
    )
    options = parser.parse_args()
    if not 0 <= options.threshold <= 100:
        raise UserError(f"--threshold {options.threshold:g}: expected a number from 0 to 100")
    if not 1 <= options.port <= 65535:
        raise UserError(f"--port {options.port}: expected a number from 1 to 65535")
    if importlib.util.find_spec("gradio") is None:
        raise UserError(ADVICE)
    require_detector()
    check_address(options.host, options.port)
    return options


def check_address(host, port):
    """Raises UserError where nothing can be served there."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as tried:
            tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server does
            tried.bind(address)
    except (OSError, UnicodeError) as error:
        number = getattr(error, "errno", None)
        if number == errno.EADDRINUSE:
            raise UserError(f"--port {port}: it is in use on {host}; choose another one") from None
        if number == errno.EACCES:
            raise UserError(f"--port {port}: the system does not allow it; choose one above 1023") from None
        raise UserError(f"--host '{host}': expected an address of this machine such as {LOCAL[0]}") from None


def check_arguments():
    read_command_line()


if __name__ == "__main__":
    run_script(check_arguments)  # before torch is imported, which takes seconds

from evaluation.predictor import AgePredictor
from report.demo import explain_photograph, results_html, style


def main():
    options = read_command_line()
    predictor = AgePredictor(*options.models, threshold=options.threshold / 100)
    for note in predictor.notes:
        print(f"note: {printable(note)}")
    if options.host not in LOCAL:
        print(f"note: everyone who can reach {options.host}:{options.port} can use the page")
    with serve_page(predictor, options.host, options.port) as address:
        print(f"the page is at {address} (Ctrl-C ends it)", flush=True)
        wait()


def wait():
    """Wait for a signal, which is an exception (`run_script`)."""
    threading.Event().wait()


@contextlib.contextmanager
def serve_page(predictor, host, port):
    """Serve the page until the block ends, in threads of its own. Yields its address. Raises UserError."""
    # Removed at the end with whatever was uploaded; only this user can look into it.
    with tempfile.TemporaryDirectory(prefix="age_groups_") as folder:
        page, look = build_page(predictor, folder)
        try:
            _, address, _ = page.launch(
                server_name=host,
                server_port=port,
                prevent_thread_lock=True,
                share=False,
                quiet=True,
                ssr_mode=False,  # another server, of Node.js
                mcp_server=False,
                footer_links=[],
                max_file_size=IMAGE_LIMIT * MIB,
                **look,
            )
        except OSError as error:
            raise UserError(f"--port {port}: the page cannot be served on {host}: {error}") from None
        try:
            yield address
        finally:
            page.close(verbose=False)


def build_page(predictor, folder):
    """The page: a place for a photograph, and what `predictor` says of it below.

    Args:
        predictor: an AgePredictor.
        folder: where Gradio keeps an upload until it is answered.

    Returns:
        (a Gradio Blocks, settings of its launch that say how it looks).
    """
    os.environ.update(SETTINGS, GRADIO_TEMP_DIR=str(folder))
    import gradio

    def answer(path):
        if path is None:
            return "", None
        try:
            return results_html(explain_photograph(predictor, path), len(predictor.models)), None
        finally:
            with contextlib.suppress(OSError):
                os.unlink(path)
                os.rmdir(os.path.dirname(path))  # its name is a hash of the photograph

    with gradio.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(SECONDS, SECONDS)) as page:
        gradio.Markdown(f"# {TITLE}\n\n{' '.join(NOTICE.split())} {LICENCE}")
        photograph = gradio.File(label="Photograph", file_types=sorted(PHOTO_SUFFIXES), height=150)
        results = gradio.HTML(apply_default_css=False)
        # The photograph leaves its place with the answer, so that the next one can be dropped.
        photograph.upload(answer, photograph, [results, photograph], api_visibility="private")
    theme = gradio.themes.Default(font=FONTS, font_mono=("ui-monospace", "monospace"), primary_hue="blue")
    return page, {"theme": theme, "css": style()}


if __name__ == "__main__":
    run_script(main)
