"""Photographs of one's own: their faces are found, cut out as the model was trained, classified, listed and drawn."""
