"""From label files and images to a table of faces, a decoded cache, and batches (dataset.py, which needs torch)."""

from data.adience import load_faces
from data.cache import open_cache
from data.demo import make_demo_faces
from data.duplicates import Pictures
from data.faces import Faces
from data.split import split_faces

__all__ = ["Faces", "Pictures", "load_faces", "make_demo_faces", "open_cache", "split_faces"]
