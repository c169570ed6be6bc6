"""From label files and images to a table of faces, a decoded cache, and batches (dataset.py, which needs torch)."""
