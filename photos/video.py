"""Videos and cameras: faces are followed from frame to frame, and the probabilities of each track are averaged."""

import contextlib
import sys
from dataclasses import dataclass, field

from utils.cli import printable, require_package
from utils.errors import UserError
from utils.signals import Interruption

VIDEO_SUFFIXES = {".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi"}
SEARCHES_PER_SECOND = 6
MISSING = 1.0  # seconds at the end without a picture that make a video incomplete
LOST = 1.0  # seconds without a sighting that end a track
LEAST_OVERLAP = 0.3  # intersection over union of two boxes of one face
LEAST_SIGHTINGS = 3  # a track with fewer is left out
FACES_KEPT = 60  # of a track, spread over it; their probabilities are averaged
# {system: (FFmpeg's name for its cameras, the address of one)}
CAMERAS = {"linux": ("v4l2", "/dev/video{}"), "darwin": ("avfoundation", "{}"), "win32": ("dshow", "video={}")}


@dataclass(frozen=True)
class Camera:
    """A camera of this machine, by its number, or on Windows by its name."""

    name: str

    def __str__(self):
        return f"camera {self.name}"

    @property
    def source(self):
        """(address, format, options) for PyAV. Raises UserError on a system whose cameras it does not know."""
        if sys.platform not in CAMERAS:
            raise UserError(f"--camera {self.name}: not known for {sys.platform}, only for {', '.join(CAMERAS)}")
        system, address = CAMERAS[sys.platform]
        return address.format(self.name), system, {"framerate": "30"} if system == "avfoundation" else {}


@dataclass
class Track:
    """One face in a video.

    Attributes:
        places: (second, box) of each sighting.
        faces: the Faces of some of them, at most FACES_KEPT.
        every: how many sightings there are for each of these.
    """

    places: list = field(default_factory=list)
    faces: list = field(default_factory=list)
    every: int = 1

    def add(self, second, face):
        if len(self.places) % self.every == 0:
            self.faces.append(face)
        if len(self.faces) > FACES_KEPT:
            self.faces, self.every = self.faces[::2], 2 * self.every
        self.places.append((second, face.box))

    @property
    def span(self):
        """(first second, last second, number of sightings)."""
        return round(self.places[0][0], 2), round(self.places[-1][0], 2), len(self.places)

    def is_sure(self):
        """Whether it is no mistake of the detector, and no face that flashes by."""
        return len(self.places) >= LEAST_SIGHTINGS

    def box_at(self, second):
        """The box of the sighting that is nearest in time; None where the face is lost."""
        nearest, box = min(self.places, key=lambda place: abs(place[0] - second))
        return box if abs(nearest - second) <= LOST / 2 else None


def follow(find_faces, path):
    """Yield the Tracks of a video or Camera as they end, those of at least LEAST_SIGHTINGS.

    Ctrl-C, or SIGTERM, ends what a Camera shows, at whatever moment it comes.

    Args:
        find_faces: a function from a PIL image to its Faces.
        path: the video, or the Camera.

    Raises:
        UserError: it cannot be read, or no further, or the package av is not installed.
    """
    tracks, ending, next_search = [], None, 0.0
    with Interruption("frame") if isinstance(path, Camera) else contextlib.nullcontext() as interruption:
        try:
            for second, frame in frames_of(path):
                if interruption and interruption.requested:
                    break
                if second < next_search:
                    continue
                next_search = second + 1 / SEARCHES_PER_SECOND
                assign(find_faces(upright(frame)), tracks, second)
                ended = [track for track in tracks if second - track.places[-1][0] > LOST]
                tracks = [track for track in tracks if track not in ended]
                yield from filter(Track.is_sure, ended)
        except UserError as problem:
            ending = problem
        yield from filter(Track.is_sure, tracks)
    if ending is not None:
        raise ending


def frames_of(path):
    """Yield (second, frame of PyAV) of a video or Camera. Raises UserError where it cannot be read, or no further."""
    require_package("av", "reading videos", "requirements-predict.txt")
    import av

    live = isinstance(path, Camera)
    address, system, options = path.source if live else (str(path), None, {})
    start = None if live else 0.0  # a camera's clock may have run for days
    try:
        with av.open(address, format=system, options=options) as container:
            if not container.streams.video:
                raise UserError(f"cannot read '{path}': it has no pictures")
            container.streams.video[0].thread_type = "AUTO"
            whole, second = (container.duration or 0) / av.time_base, 0.0
            for number, frame in enumerate(container.decode(video=0)):
                second = number / 25 if frame.time is None else frame.time
                start = second if start is None else start
                yield second - start, frame
            if second < whole - MISSING:  # some containers end without an error
                raise UserError(f"cannot read '{path}': it ends after {second:.1f} of {whole:.1f} seconds")
    except (OSError, ValueError, av.FFmpegError) as error:
        raise UserError(f"cannot read '{path}': {printable(getattr(error, 'strerror', None) or error)}") from None


def upright(frame):
    """A frame as a PIL image in RGB, turned as a phone's video says."""
    image = frame.to_image()
    return image.rotate(frame.rotation, expand=True) if getattr(frame, "rotation", 0) else image


def assign(faces, tracks, second):
    """Add each face of a frame to the track whose last box it covers most, or begin a new one."""
    alive = [track for track in tracks if second - track.places[-1][0] <= LOST]
    pairs = [
        (overlap(face.box, track.places[-1][1]), k, n) for k, face in enumerate(faces) for n, track in enumerate(alive)
    ]
    left, free = set(range(len(faces))), set(range(len(alive)))
    for shared, k, n in sorted(pairs, reverse=True):
        if shared >= LEAST_OVERLAP and k in left and n in free:
            alive[n].add(second, faces[k])
            left.remove(k)
            free.remove(n)
    for k in sorted(left):
        tracks.append(Track())
        tracks[-1].add(second, faces[k])


def overlap(first, second):
    """Intersection over union of two boxes: left, top, width, height."""
    wide = min(first[0] + first[2], second[0] + second[2]) - max(first[0], second[0])
    high = min(first[1] + first[3], second[1] + second[3]) - max(first[1], second[1])
    shared = max(0, wide) * max(0, high)
    return shared / (first[2] * first[3] + second[2] * second[3] - shared)
