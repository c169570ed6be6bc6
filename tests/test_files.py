"""Files of others are opened with care, our own appear whole or not at all, and errors are one plain line."""

import errno
import io
import json
import os
import pathlib
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time

import pytest
from conftest import ROOT

from utils.cli import explain, fail, printable, run_script
from utils.errors import UserError
from utils.files import atomic_write, check_output, locked, replaced_outputs, write_json, write_text
from utils.reading import exists, open_regular, read_bytes, read_json, read_text, starts_with


def tree(folder):
    """{name: content} of everything in a folder."""
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


class TestForeignFiles:
    """utils/reading.py: regular files only, and not without limit."""

    def test_a_file_comes_back_as_it_is(self, tmp_path):
        (tmp_path / "a").write_bytes("grüße\r\n".encode())
        (tmp_path / "link").symlink_to(tmp_path / "a")
        for name in ("a", "link"):
            assert read_bytes(tmp_path / name, 1) == "grüße\r\n".encode()
            assert read_text(tmp_path / name, 1) == "grüße\n"  # universal newlines, as of open()

    @pytest.mark.parametrize("kind", ["a named pipe", "a folder", "a device", "a socket"])
    def test_what_is_no_regular_file_is_refused_at_once(self, tmp_path, kind):
        path = tmp_path / "x"
        server = socket.socket(socket.AF_UNIX)
        if kind == "a named pipe":
            os.mkfifo(path)
        elif kind == "a folder":
            path.mkdir()
        elif kind == "a device":
            path.symlink_to("/dev/zero")
        else:
            server.bind(str(path))
        # A socket cannot even be opened.
        message = "No such device" if kind == "a socket" else f"' is {kind}; expected a regular file$"
        with server:
            for read in (lambda: open_regular(path, 1), lambda: read_bytes(path, 1), lambda: read_json(path)):
                with pytest.raises(UserError, match=message):
                    read()

    def test_what_is_missing_or_has_an_impossible_name_is_refused(self, tmp_path):
        (tmp_path / "endless").symlink_to(tmp_path / "endless")
        for path, message in (
            (tmp_path / "nowhere", "No such file or directory"),
            (tmp_path / "endless", "Too many levels of symbolic links"),
            (tmp_path / ("x" * 300), "File name too long"),
            ("a\0b", "embedded null byte"),
            ("", "No such file or directory"),
        ):
            with pytest.raises(UserError, match=f"(?s)^cannot read '.*': {message}$"):
                read_bytes(path, 1)
        for path in (tmp_path / "nowhere", tmp_path / "endless", tmp_path / ("x" * 300), "a\0b"):
            assert not exists(path)
        assert exists(tmp_path)

    def test_what_is_too_large_is_refused(self, tmp_path):
        (tmp_path / "a").touch()
        os.truncate(tmp_path / "a", 2**20)
        assert len(read_bytes(tmp_path / "a", 1)) == 2**20
        os.truncate(tmp_path / "a", 2**40)  # a terabyte of nothing
        with pytest.raises(UserError, match=r"a' has 1,048,576 MiB; at most 1 are read$"):
            read_bytes(tmp_path / "a", 1)
        with pytest.raises(UserError, match=r"a' has 1,048,576 MiB; at most 16 are read$"):
            read_json(tmp_path / "a")

    @pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="needs /proc")
    def test_a_file_that_is_larger_than_its_size_says_is_refused(self):
        assert os.path.getsize("/proc/self/status") == 0
        with pytest.raises(UserError, match=r"^'/proc/self/status' has more than the 0 MiB that are read$"):
            read_bytes("/proc/self/status", 0)

    def test_no_descriptor_stays_open(self, tmp_path):
        os.mkfifo(tmp_path / "pipe")
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(20):
            for path in (tmp_path / "pipe", tmp_path, "/dev/zero"):
                with pytest.raises(UserError):
                    read_bytes(path, 1)
        assert len(os.listdir("/proc/self/fd")) == before

    def test_other_text_than_utf_8_is_refused(self, tmp_path):
        (tmp_path / "a").write_bytes(b"abc\xff")
        with pytest.raises(UserError, match=r"a' cannot be read as UTF-8 text: .*byte 0xff in position 3"):
            read_text(tmp_path / "a", 1)

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("[" * 200_000, "a' is damaged: "),
            ('{"a":' * 200_000, "a' is damaged: "),
            ("", "a' is damaged: Expecting value"),
            ("9" * 5000, "a' is damaged: "),
            ('{"a": 1} more', "a' is damaged: Extra data"),
            ("[1, 2]", "a' is damaged: it holds a list, not a dict$"),
            ("null", "a' is damaged: it holds a NoneType, not a dict$"),
        ],
        ids=lambda text: text[:10],
    )
    def test_damaged_json_is_refused(self, tmp_path, text, message):
        (tmp_path / "a").write_text(text)
        with pytest.raises(UserError, match=message) as caught:
            read_json(tmp_path / "a")
        assert len(str(caught.value)) < 500

    def test_the_start_of_a_file(self, tmp_path):
        (tmp_path / "a").write_text("grüße\nan alle")
        assert starts_with(tmp_path / "a", "x", "grüße\nan")
        assert not starts_with(tmp_path / "a", "rüße", "grüße\nan alle und")


class TestAtomicWrite:
    def test_the_file_appears_whole_and_folders_are_made(self, tmp_path):
        path = tmp_path / "deep" / "er" / "a.json"
        write_json(path, {"a": "ü"})
        assert json.loads(path.read_text()) == {"a": "ü"}
        assert [p.name for p in path.parent.iterdir()] == ["a.json"]

    def test_an_error_within_the_block_keeps_the_old_file(self, tmp_path):
        path = tmp_path / "a.txt"
        path.write_text("old")
        with pytest.raises(ZeroDivisionError), atomic_write(path) as unfinished:
            unfinished.write_text("half of the new")
            raise ZeroDivisionError
        assert tree(tmp_path) == {"a.txt": "old"}

    def test_a_killed_process_keeps_the_old_file(self, tmp_path):
        (tmp_path / "a.txt").write_text("old")
        code = (
            "import os, signal, sys; from utils.files import atomic_write\n"
            "with atomic_write(sys.argv[1]) as unfinished:\n"
            "    unfinished.write_text('half'); os.kill(os.getpid(), signal.SIGKILL)"
        )
        call = [sys.executable, "-c", code, str(tmp_path / "a.txt")]
        assert subprocess.run(call, cwd=ROOT).returncode == -signal.SIGKILL
        assert (tmp_path / "a.txt").read_text() == "old"
        write_text(tmp_path / "a.txt", "new")
        assert tree(tmp_path) == {"a.txt": "new"}

    @pytest.mark.parametrize("before", ["old", None])
    def test_a_link_stays_a_link(self, tmp_path, before):
        (tmp_path / "real").mkdir()
        if before is not None:
            (tmp_path / "real" / "a.txt").write_text(before)
        (tmp_path / "second").symlink_to("real/a.txt")
        (tmp_path / "first").symlink_to("second")
        write_text(tmp_path / "first", "new")
        assert (tmp_path / "first").is_symlink()
        assert (tmp_path / "second").is_symlink()
        assert not (tmp_path / "real" / "a.txt").is_symlink()
        assert (tmp_path / "real" / "a.txt").read_text() == "new"

    def test_a_device_is_written_to_and_stays_one(self):
        before = os.stat("/dev/null")
        write_text("/dev/null", "x" * 100_000)
        after = os.stat("/dev/null")
        assert stat.S_ISCHR(after.st_mode)
        assert (after.st_ino, after.st_rdev) == (before.st_ino, before.st_rdev)
        with pytest.raises(UserError, match=r"^cannot write '/dev/full': No space left on device"):
            write_text("/dev/full", "x")

    def test_a_pipe_with_a_reader_gets_everything(self, tmp_path):
        pipe, received = tmp_path / "pipe", []
        os.mkfifo(pipe)
        text = "0123456789" * 30_000  # more than a pipe holds
        # For reading and writing, so that it neither waits for a writer nor ends before there is one.
        end = os.fdopen(os.open(pipe, os.O_RDWR), "rb", buffering=1 << 20)
        reader = threading.Thread(target=lambda: received.append(end.read(len(text))))
        reader.start()
        write_text(pipe, text)
        reader.join(60)
        assert received == [text.encode()]
        assert stat.S_ISFIFO(pipe.lstat().st_mode)
        assert [path.name for path in tmp_path.iterdir()] == ["pipe"]

    def test_a_pipe_that_nobody_reads_is_an_error(self, tmp_path):
        os.mkfifo(tmp_path / "pipe")
        with pytest.raises(UserError, match=r"^cannot write '.*pipe': No such device or address"):
            write_text(tmp_path / "pipe", "x")
        assert stat.S_ISFIFO((tmp_path / "pipe").lstat().st_mode)

    @pytest.mark.parametrize("name", ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"])
    def test_the_standard_output_is_a_file_like_any_other(self, tmp_path, name):
        """Into a pipe, and behind what a redirected output already holds."""
        code = f"from utils.files import write_text; write_text({name!r}, 'written')"
        call = [sys.executable, "-c", code]
        assert subprocess.run(call, cwd=ROOT, capture_output=True, text=True).stdout == "written"
        (tmp_path / "log").write_text("before ")
        with open(tmp_path / "log", "a") as log:
            subprocess.run(call, cwd=ROOT, stdout=log, check=True)
        assert tree(tmp_path) == {"log": "before written"}

    def test_places_that_cannot_be_written(self, tmp_path):
        (tmp_path / "file").write_text("keep")
        (tmp_path / "folder").mkdir()
        (tmp_path / "folder" / "a").write_text("keep")
        (tmp_path / "endless").symlink_to(tmp_path / "endless")
        for path in (
            tmp_path / "file" / "a",
            tmp_path / "folder",
            tmp_path / ("x" * 300),
            "a\0b",
            "/proc/nowhere",
            "/dev/nowhere/a",
        ):
            with pytest.raises(UserError, match=r"(?s)^cannot write '.*': "):
                write_text(path, "x")
        assert tree(tmp_path) == {"file": "keep", "folder/a": "keep"}


class TestCheckOutput:
    def check(self, path):
        check_output(path, lambda path: read_json(path)["kind"] == "ours", "a report of ours")

    def test_what_may_be_written(self, tmp_path):
        (tmp_path / "ours").write_text('{"kind": "ours"}')
        (tmp_path / "empty").touch()
        (tmp_path / "link").symlink_to(tmp_path / "ours")
        os.mkfifo(tmp_path / "pipe")
        for path in ("ours", "empty", "link", "pipe", "missing", "missing/deeper"):
            self.check(tmp_path / path)
        for path in ("/dev/null", "/dev/stdout"):
            self.check(path)

    def test_what_is_not_replaced(self, tmp_path):
        (tmp_path / "theirs").write_text('{"kind": "theirs"}')
        (tmp_path / "text").write_text("precious")
        (tmp_path / "link").symlink_to(tmp_path / "text")
        (tmp_path / "folder").mkdir()
        with pytest.raises(UserError, match=r"folder' is a folder: name the file for a report of ours$"):
            self.check(tmp_path / "folder")
        for name in ("theirs", "text", "link"):
            message = rf"^'.*/{name}' exists and is not a report of ours; it is not replaced: choose another name$"
            with pytest.raises(UserError, match=message):
                self.check(tmp_path / name)


class TestReplacedOutputs:
    """The files that the manifest lists are there, whole, at every moment; foreign ones stay."""

    def open(self, folder):
        return replaced_outputs(folder, "index.csv", lambda name: name.endswith((".png", ".csv")))

    def fill(self, folder, files):
        for name, text in files.items():
            (folder / name).write_text(text)

    def test_new_ones_replace_old_ones_and_foreign_ones_stay(self, tmp_path):
        self.fill(tmp_path, {"a.png": "old", "b.png": "old", "index.csv": "a b", "notes.txt": "somebody's"})
        (tmp_path / "folder.png").mkdir()
        with self.open(tmp_path) as staging:
            self.fill(staging, {"b.png": "new", "c.png": "new", "index.csv": "b c"})
            assert (tmp_path / "a.png").read_text() == (tmp_path / "b.png").read_text() == "old"
        new = {"b.png": "new", "c.png": "new", "index.csv": "b c", "notes.txt": "somebody's", ".lock": ""}
        assert tree(tmp_path) == new
        assert (tmp_path / "folder.png").is_dir()

    @pytest.mark.parametrize("error", [OSError, UserError, KeyboardInterrupt, SystemExit])
    def test_an_error_changes_nothing(self, tmp_path, error):
        self.fill(tmp_path, {"a.png": "old", "index.csv": "a", "notes.txt": "somebody's", ".lock": ""})
        before = tree(tmp_path)
        with pytest.raises(error), self.open(tmp_path) as staging:
            self.fill(staging, {"a.png": "new", "b.png": "new"})
            raise error("the disk is full")
        assert tree(tmp_path) == before
        assert not (tmp_path / ".outputs.unfinished").exists()

    def test_the_manifest_comes_last(self, tmp_path):
        """z.png cannot be moved, since a folder has its name: the old manifest and what it lists are still there."""
        self.fill(tmp_path, {"a.png": "old", "index.csv": "a"})
        (tmp_path / "z.png").mkdir()
        with pytest.raises(OSError), self.open(tmp_path) as staging:
            self.fill(staging, {"index.csv": "b z", "b.png": "new", "z.png": "new"})
        assert (tmp_path / "index.csv").read_text() == "a"
        assert (tmp_path / "a.png").read_text() == "old"

    def test_the_folder_is_made_and_what_a_killed_process_left_is_removed(self, tmp_path):
        folder = tmp_path / "deep" / "error"
        for content in ("first", "second"):
            with self.open(folder) as staging:
                self.fill(staging, {"index.csv": content})
            assert tree(folder) == {"index.csv": content, ".lock": ""}
            (folder / ".outputs.unfinished").mkdir()
            self.fill(folder / ".outputs.unfinished", {"x.png": "half"})

    def test_a_link_in_the_place_of_the_staging_folder_is_not_followed(self, tmp_path):
        (tmp_path / "mine").mkdir()
        self.fill(tmp_path / "mine", {"a.png": "precious"})
        (tmp_path / "error").mkdir()
        (tmp_path / "error" / ".outputs.unfinished").symlink_to(tmp_path / "mine")
        with pytest.raises(OSError), self.open(tmp_path / "error") as staging:
            self.fill(staging, {"index.csv": ""})
        assert (tmp_path / "mine" / "a.png").read_text() == "precious"

    def test_a_signal_waits_until_all_files_are_moved(self, tmp_path):
        """Ctrl-C, sent while the files are moved, interrupts afterwards: the outputs belong together."""
        count = 2000
        self.fill(tmp_path, {f"{k}.png": "old" for k in range(count)} | {"index.csv": "old"})
        main = threading.main_thread().ident

        def interrupt():
            while (tmp_path / ".outputs.unfinished" / "0.png").exists():
                pass
            signal.pthread_kill(main, signal.SIGINT)

        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            with pytest.raises(KeyboardInterrupt):
                with self.open(tmp_path) as staging:
                    self.fill(staging, {f"{k}.png": "new" for k in range(count)} | {"index.csv": "new"})
                    sender = threading.Thread(target=interrupt)
                    sender.start()
                sender.join()
                time.sleep(10)  # never reached the end of
        finally:
            signal.signal(signal.SIGINT, before)
        assert {path.read_text() for path in tmp_path.iterdir() if path.name != ".lock"} == {"new"}


class TestLock:
    @pytest.mark.parametrize("kind", ["link", "dangling link", "file", "folder", "pipe"])
    def test_something_else_is_neither_emptied_nor_waited_for(self, tmp_path, kind):
        precious, lock = tmp_path / "precious.txt", tmp_path / ".lock"
        precious.write_text("precious")
        if kind in ("link", "dangling link"):
            lock.symlink_to(precious if kind == "link" else tmp_path / "nowhere")
        elif kind == "file":
            lock.write_text("precious")
        elif kind == "folder":
            lock.mkdir()
        else:
            os.mkfifo(lock)
        message = r"\.lock' is no lock file, which is an empty regular one; move it away$"
        with pytest.raises(UserError, match=message), locked(lock, lambda: None):
            pass
        assert precious.read_text() == "precious"
        assert kind != "file" or lock.read_text() == "precious"
        assert not (tmp_path / "nowhere").exists()

    def test_where_no_file_can_be_is_an_error(self):
        """It is not waited for."""
        with pytest.raises(OSError), locked(pathlib.Path("/proc/.lock"), lambda: None):
            pass

    def test_only_one_process_holds_it(self, tmp_path):
        code = (
            "import sys; from utils.files import locked\n"
            "with locked(sys.argv[1], lambda: None): print('held', flush=True); sys.stdin.read()"
        )
        call = [sys.executable, "-c", code, str(tmp_path / ".lock")]
        with subprocess.Popen(call, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
            assert other.stdout.readline() == "held\n"

            def refuse():
                raise UserError("busy")

            with pytest.raises(UserError, match=r"^busy$"), locked(tmp_path / ".lock", refuse):
                pass
            other.kill()
        with locked(tmp_path / ".lock", refuse):  # the system released it
            pass


class TestPrintable:
    """What comes from outside is shown as it is, on one line, and moves no cursor."""

    @pytest.mark.parametrize(
        ("text", "shown"),
        [
            ("plain text, grüße 顔", "plain text, grüße 顔"),
            ("\x1b]0;title\x07\x1b[2J", r"\x1b]0;title\x07\x1b[2J"),
            ("\x9b2J", r"\x9b2J"),
            ("gpj.\u202eevil", r"gpj.\u202eevil"),
            ("a\u200bb\ufeff", r"a\u200bb\ufeff"),
            ("two\nlines\r\n\tand\u2028more\x85", "two lines and more"),
            ("\0\x08\x7f", r"\x00\x08\x7f"),
            ("\udcff", r"\udcff"),  # a byte of a file name that is no UTF-8
            ("\U000e0001", r"\U000e0001"),
            (pathlib.Path("a/b"), "a/b"),
            ("", ""),
        ],
    )
    def test_characters(self, text, shown):
        assert printable(text) == shown

    def test_the_middle_of_a_long_text_is_left_out(self):
        text = printable("a" * 300 + "b" * 300 + "c" * 300)
        # 500 characters: two thirds from the start, " ... ", and the rest from the end.
        assert text == "a" * 300 + "b" * 33 + " ... " + "c" * 162
        assert printable("x" * 500) == "x" * 500
        assert len(printable("x" * 501)) == 500
        assert len(printable("\u202e" * 500)) == 500
        assert len(printable("\U0001f600" * 10_000)) == 500


class TestFail:
    def test_a_message_of_20_megabytes_is_one_line_at_once(self, capsys):
        begun = time.monotonic()
        assert fail("\x1b[2J\u202e\n" * 5_000_000) == 2
        assert time.monotonic() - begun < 30
        line = capsys.readouterr().err
        assert line.startswith(r"error: \x1b[2J\u202e \x1b[2J\u202e ")
        assert line.count("\n") == 1
        assert len(line) <= 501

    @pytest.mark.parametrize(
        ("encoding", "message", "line"),
        [
            ("ascii", "'grüße 顔.jpg' is missing", rb"error: 'gr\xfc\xdfe \u9854.jpg' is missing"),
            ("utf-8", f"'{os.fsdecode(b'caf' + bytes([0xE9]))}' is missing", rb"error: 'caf\udce9' is missing"),
            ("ascii", "顔" * 400, rb"error: " + rb"\u9854" * 54 + rb"\u ... " + rb"\u9854" * 27),
        ],
    )
    def test_a_stream_without_the_characters_gets_their_codes(self, monkeypatch, encoding, message, line):
        stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
        monkeypatch.setattr(sys, "stderr", stream)
        assert fail(message) == 2
        assert stream.buffer.getvalue() == line + b"\n"
        assert len(line) <= 500

    @pytest.mark.parametrize("behind", ["/dev/full", None])
    def test_a_full_disk_or_nothing_behind_standard_error_changes_nothing(self, behind):
        code = "import sys; from utils.cli import prepare_streams, fail; prepare_streams(); sys.exit(fail('anything'))"
        redirection = f"2>{behind}" if behind else "2>&-"
        call = ["sh", "-c", f'"$0" -c "$1" {redirection}', sys.executable, code]
        assert subprocess.run(call, cwd=ROOT).returncode == 2


class SignalsItself:
    """Python drops an exception that __del__ raises, here that of a signal."""

    def __init__(self, number):
        self.number = number

    def __del__(self):
        os.kill(os.getpid(), self.number)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_whose_exception_is_dropped_still_ends_the_script(capfd, number, status):
    cleaned = []

    def main():
        try:
            SignalsItself(number)
            cleaned.append("went on")
            time.sleep(30)
        finally:
            cleaned.append("cleaned up")

    before = time.monotonic()
    with pytest.raises(SystemExit) as ending:
        run_script(main)
    assert ending.value.code == status
    assert cleaned == ["went on", "cleaned up"]
    assert time.monotonic() - before < 10
    assert capfd.readouterr().err == ("\ninterrupted\n" if number == signal.SIGINT else "")
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)  # nothing is raised later


class TestExplain:
    def raised(self, error):
        try:
            raise error
        except BaseException as caught:
            return caught

    @pytest.mark.parametrize(
        ("error", "line"),
        [
            (UserError("'x' is damaged"), "'x' is damaged"),
            (MemoryError(), "no memory is left; a smaller --batch-size or --image-size needs less"),
            (
                RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried 8 bytes\nand a trace"),
                "DefaultCPUAllocator: can't allocate memory: you tried 8 bytes; a smaller --batch-size or --image-size"
                " needs less",
            ),
            (RuntimeError("std::bad_alloc"), "std::bad_alloc; a smaller --batch-size or --image-size needs less"),
            (OSError(28, "No space left on device"), "cannot write to the standard output: No space left on device"),
            (OSError(13, "Permission denied", "/root/x"), "'/root/x': Permission denied"),
        ],
    )
    def test_what_a_user_can_do_something_about(self, error, line):
        assert explain(self.raised(error)) == line

    def test_a_mistake_in_this_program_says_where(self):
        line = explain(self.raised(KeyError("name")))
        number = TestExplain.raised.__code__.co_firstlineno + 2
        assert line == (
            f"internal error: KeyError in test_files.py:{number}: 'name' (AGE_TRACEBACK=1 shows the traceback)"
        )

    def test_the_whole_of_a_mistake_is_shown_on_request(self, monkeypatch, capsys):
        explain(self.raised(KeyError("name")))
        assert capsys.readouterr().err == ""
        monkeypatch.setenv("AGE_TRACEBACK", "1")
        explain(self.raised(KeyError("name")))
        shown = capsys.readouterr().err
        assert shown.startswith("Traceback (most recent call last):")
        assert shown.endswith("KeyError: 'name'\n")


WRITE_SLOWLY = """
import sys, time
from utils.files import atomic_write
with atomic_write(sys.argv[1]) as unfinished, open(unfinished, "w") as file:
    file.write(sys.argv[2])
    print("began", flush=True)
    sys.stdin.readline()
    file.write(sys.argv[2])
"""


class TestTwoWriters:
    """Each writer has a file of its own, and the last one to end wins, whole."""

    def start(self, path, text):
        call = [sys.executable, "-c", WRITE_SLOWLY, str(path), text]
        writer = subprocess.Popen(call, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert writer.stdout.readline() == "began\n"
        return writer

    def test_both_end(self, tmp_path):
        first, second = (self.start(tmp_path / "a.txt", text) for text in "12")
        for writer, expected in ((second, "22"), (first, "11")):
            writer.communicate("\n")
            assert writer.returncode == 0
            assert (tmp_path / "a.txt").read_text() == expected
        assert tree(tmp_path) == {"a.txt": "11"}

    def test_one_is_killed_and_its_file_goes_with_the_next_writer(self, tmp_path):
        first, second = (self.start(tmp_path / "a.txt", text) for text in "12")
        second.kill()
        second.communicate()
        assert len(tree(tmp_path)) == 2
        write_text(tmp_path / "a.txt", "3")  # it removes the killed one's file, and not that of the first
        assert len(tree(tmp_path)) == 2
        first.communicate("\n")
        assert first.returncode == 0
        assert tree(tmp_path) == {"a.txt": "11"}


class TestWithoutLocks:
    def test_a_file_system_without_locks_gets_a_sentence(self, tmp_path, monkeypatch):
        def flock(descriptor, operation):
            raise OSError(errno.ENOSYS, "Function not implemented")

        monkeypatch.setattr("utils.files.fcntl.flock", flock)
        message = r"^the file system of '.*\.lock' has no locks \(Function not implemented\); choose another folder$"
        with pytest.raises(UserError, match=message), locked(tmp_path / ".lock"):
            pass
        write_text(tmp_path / "a.txt", "written")  # which needs none
        assert (tmp_path / "a.txt").read_text() == "written"


class TestWaitingForALock:
    def wait_for_one_held(self, seconds, path, when_busy=None):
        """Wait for a lock that another holds for some seconds."""
        held = threading.Event()

        def hold():
            with locked(path):
                held.set()
                time.sleep(seconds)

        holder = threading.Thread(target=hold)
        holder.start()
        held.wait()
        with locked(path, when_busy):
            holder.join()

    def test_a_moment_is_not_told(self, tmp_path, capsys):
        self.wait_for_one_held(0.3, tmp_path / ".lock")
        assert capsys.readouterr().err == ""

    def test_who_has_told_it_waits_a_minute(self, tmp_path, monkeypatch, capsys):
        monkeypatch.setattr("utils.files.SECONDS_BEFORE_A_LINE", 0.1)
        self.wait_for_one_held(0.5, tmp_path / ".lock", when_busy=lambda: print("busy"))
        assert capsys.readouterr() == ("busy\n", "")

    def test_a_long_wait_is_told_once_a_minute(self, tmp_path, monkeypatch, capsys):
        monkeypatch.setattr("utils.files.SECONDS_BEFORE_A_LINE", 0.1)
        self.wait_for_one_held(0.5, tmp_path / ".lock")
        assert capsys.readouterr().err == f"waiting for the process that holds '{tmp_path}/.lock'\n"


def test_a_file_that_another_writer_took_for_a_killed_ones_is_made_again(tmp_path, monkeypatch):
    """Between its creation and its lock, it looks like one of a process that was killed."""
    make, calls = tempfile.mkstemp, []

    def make_and_lose(*arguments):
        descriptor, name = make(*arguments)
        calls.append(name)
        if len(calls) == 1:
            os.unlink(name)
        return descriptor, name

    monkeypatch.setattr(tempfile, "mkstemp", make_and_lose)
    write_text(tmp_path / "a.txt", "whole")
    assert (tmp_path / "a.txt").read_text() == "whole" and len(calls) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_what_a_writer_leaves_is_removed_wherever_it_was_killed(tmp_path):
    """Its only file has the name of an unfinished one from the first moment on."""
    pid = os.fork()
    if not pid:
        os.replace = os.chmod = lambda *arguments, **settings: os.kill(os.getpid(), signal.SIGKILL)
        write_text(tmp_path / "a.txt", "x")
    os.waitpid(pid, 0)
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(".a.") and left.name.endswith(".unfinished.txt")
    write_text(tmp_path / "a.txt", "whole")
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]
