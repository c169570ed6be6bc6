"""What a model says of a set of faces, and how good that is: predictions, metrics, decoding, views, bootstrap."""
