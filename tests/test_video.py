"""Videos and cameras: faces followed from frame to frame, one answer for each, and what a truncated file holds."""

import csv
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import call
from PIL import Image
from test_detection import PORTRAIT

import predict
from photos.predictor import Face
from photos.video import FACES_KEPT, LOST, Track, assign, follow, overlap
from utils.errors import UserError

av = pytest.importorskip("av", reason="the extra requirements-predict.txt is not installed")


def face_at(left, top=0.0, side=10.0):
    return Face((left, top, side, side), 0.9, 0.0, "old", {"young": 0.25, "old": 0.75}, 0.75)


def test_overlap_by_hand():
    assert overlap((0, 0, 10, 10), (0, 0, 10, 10)) == 1
    assert overlap((0, 0, 10, 10), (5, 0, 10, 10)) == pytest.approx(50 / 150)
    assert overlap((0, 0, 10, 10), (5, 5, 10, 10)) == pytest.approx(25 / 175)
    assert overlap((0, 0, 10, 10), (10, 0, 10, 10)) == overlap((0, 0, 1, 1), (5, 5, 1, 1)) == 0


def test_faces_go_to_the_track_that_they_cover_most():
    """Two faces move apart; their order in the frame does not matter, and a third one begins a track."""
    tracks = []
    assign([face_at(0), face_at(20)], tracks, 0.0)
    assign([face_at(22), face_at(1)], tracks, 0.2)
    assign([face_at(60), face_at(2), face_at(24)], tracks, 0.4)
    assert [[box[0] for _, box in track.places] for track in tracks] == [[0, 1, 2], [20, 22, 24], [60]]
    assert tracks[0].span == (0.0, 0.4, 3)


def test_a_face_that_was_away_for_long_is_another_track():
    tracks = []
    assign([face_at(0)], tracks, 0.0)
    assign([face_at(0)], tracks, LOST)
    assign([face_at(0)], tracks, 2 * LOST + 0.1)
    assert [len(track.places) for track in tracks] == [2, 1]
    assert tracks[0].box_at(LOST / 4) == (0, 0, 10, 10)
    assert tracks[0].box_at(2 * LOST) is None


def test_a_long_track_keeps_few_faces_that_are_spread_over_it():
    track = Track()
    for second in range(1000):
        track.add(float(second), face_at(second))
    kept = [face.box[0] for face in track.faces]
    assert len(track.places) == 1000 and FACES_KEPT / 2 <= len(kept) <= FACES_KEPT
    assert set(np.diff(kept)) == {32.0}


def write_video(path, frames, rate=25):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=rate)
        stream.width, stream.height, stream.pix_fmt = *frames[0].size, "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_image(frame)))
        container.mux(stream.encode())


@pytest.fixture
def clip(tmp_path, monkeypatch):
    """Four seconds: a portrait that moves to the right, and from the second to the third second a smaller one."""
    monkeypatch.chdir(tmp_path)
    frames = []
    for k in range(100):
        frame = Image.new("RGB", (640, 360), (90, 110, 100))
        frame.paste(PORTRAIT.resize((200, 234)), (20 + k, 60))
        if 50 <= k < 75:
            frame.paste(PORTRAIT.resize((150, 176)), (450, 20))
        frames.append(frame)
    write_video("clip.mkv", frames)
    return Path("clip.mkv")


class TestAClip:
    def test_one_row_and_one_line_for_each_face(self, clip, capsys):
        assert call(predict, clip, "--csv", "ages.csv", "--threads", 1) == 0
        lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("clip.mkv")]
        assert len(lines) == 2
        assert lines[0].startswith("clip.mkv  face 1 of 2  0.0-3.") and " years (" in lines[0]
        first, second = csv.DictReader(Path("ages.csv").read_text().splitlines())
        assert (float(first["first_second"]), float(first["last_second"])) == pytest.approx((0, 3.9), abs=0.2)
        assert (float(second["first_second"]), float(second["last_second"])) == pytest.approx((2, 3), abs=0.25)
        assert 15 <= int(first["sightings"]) <= 25 and 4 <= int(second["sightings"]) <= 7
        assert sum(float(value) for name, value in first.items() if name.startswith("p_")) == pytest.approx(1, abs=1e-3)

    def test_a_truncated_file_gives_what_was_there_and_status_1(self, clip, capsys):
        content = clip.read_bytes()
        clip.write_bytes(content[: len(content) * 4 // 5])
        assert call(predict, clip, "--threads", 1) == 1
        face, problem = capsys.readouterr().out.splitlines()[-2:]
        assert face.startswith("clip.mkv  face 1 of ")
        assert problem.startswith("clip.mkv  cannot be read further: it ends after ")

    def test_it_is_drawn(self, clip):
        assert call(predict, clip, "--draw", "seen", "--threads", 1) == 0
        with av.open("seen/000001_clip.drawn.mp4") as container:
            frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        assert len(frames) == 100
        yellow = (np.abs(frames[60].astype(int) - [255, 212, 0]) < 40).all(-1)
        assert yellow[:, :300].sum() > 300 and yellow[:, 400:].sum() > 300
        assert not (np.abs(frames[10].astype(int) - [255, 212, 0]) < 40).all(-1)[:, 400:].any()

    @pytest.mark.parametrize("content", [b"", b"not a video", b"\x00" * 5000])
    def test_what_is_no_video(self, content, clip, capsys):
        clip.write_bytes(content)
        assert call(predict, clip) == 1
        assert capsys.readouterr().out.splitlines()[-1].startswith("clip.mkv  cannot be read: ")


# FFmpeg's own source of pictures in place of a camera's: the clip without an end, at its speed.
CAMERA = """
import sys
sys.path.insert(0, sys.argv.pop(1))
import predict, photos.video
from utils.cli import run_script
photos.video.CAMERAS[sys.platform] = ("lavfi", "movie=clip.mkv:loop=0,setpts=(N+900)/25/TB,realtime")
{before}
run_script(predict.main)
"""
# A signal that comes while the first row is printed, and not while the camera is read.
WHILE_PRINTING = """
import os, signal
def lines_of(*arguments, lines_of=predict.lines_of):
    predict.lines_of = lines_of
    os.kill(os.getpid(), signal.SIGINT)
    return lines_of(*arguments)
predict.lines_of = lines_of
"""


def start_camera(before=""):
    script = CAMERA.format(before=before)
    command = [sys.executable, "-c", script, str(Path(predict.__file__).parent), "--camera", "0", "--threads", "1"]
    return subprocess.Popen([*command, "--csv", "ages.csv"], stdout=subprocess.PIPE, text=True)


class TestACamera:
    def test_one_row_for_each_face_that_has_gone_until_ctrl_c(self, clip):
        with start_camera() as process:
            first = process.stdout.readline()
            process.send_signal(signal.SIGINT)
            later = process.stdout.read()
        assert process.returncode == 0
        assert first.startswith("camera 0  face 1 of 1  2.0-") and " years (" in first  # the face of a second is gone
        rows = list(csv.DictReader(Path("ages.csv").read_text().splitlines()))
        assert len(rows) == 1 + len(later.splitlines()) == 2  # and the one that was before it
        assert (float(rows[1]["first_second"]), rows[1]["photo"]) == (0.0, "camera 0")

    def test_ctrl_c_while_a_row_is_printed(self, clip):
        with start_camera(WHILE_PRINTING) as process:
            printed = process.stdout.read().splitlines()
        assert (process.returncode, len(printed)) == (0, 2)
        assert len(Path("ages.csv").read_text().splitlines()) == 3

    def test_one_that_is_lost_keeps_what_it_has_shown(self, clip, monkeypatch, capsys):
        def follow_and_lose(find_faces, camera):
            yield next(follow(find_faces, clip))
            raise UserError(f"cannot read '{camera}': No such device")

        monkeypatch.setattr("photos.predictor.follow", follow_and_lose)
        assert call(predict, "--camera", "0", "--csv", "ages.csv", "--threads", 1) == 1
        assert capsys.readouterr().out.splitlines()[-1] == "camera 0  cannot be read: No such device"
        assert len(Path("ages.csv").read_text().splitlines()) == 3

    @pytest.mark.parametrize(
        "arguments, message",
        [
            (["99"], "cannot read 'camera 99': No such file or directory"),
            (["0", "clip.mkv"], "--camera 0 with 'clip.mkv': only models, --csv and --json go with it"),
            (["0", "--adapt"], "--camera 0 with --adapt: only models, --csv and --json go with it"),
            (["0", "--draw", "seen"], "--camera 0 with --draw: only models, --csv and --json go with it"),
        ],
    )
    def test_what_it_refuses(self, arguments, message, clip, capsys):
        assert call(predict, "--camera", *arguments) == 2
        assert capsys.readouterr().err == f"error: {message}\n"
