"""Predictions of a model for a set of faces, and their quality: metrics, decoding, calibration, bootstrap."""
