"""Other looks at the same faces: functions of normalised images (B, 3, L, L) -> (B, 3, S, S)."""

# Krizhevsky et al. and Levi and Hassner cut crops of 227 pixels out of 256.
CROP_SHARE = 227 / 256


def flipped(images):
    return images.flip(-1)


VIEWS = {"plain": None, "flip": flipped}


def enlarged_size(size):
    """Side of the images that crops of `size` are cut from."""
    return round(size / CROP_SHARE)


def ten_crops(size):
    """Ten views that cut the corners and the middle, as they are and mirrored (Krizhevsky et al., 2012)."""
    rest = enlarged_size(size) - size
    places = [(0, 0), (0, rest), (rest, 0), (rest, rest), (rest // 2, rest // 2)]

    def crop(top, left, mirrored):
        def view(images):
            images = images[:, :, top : top + size, left : left + size]
            return flipped(images) if mirrored else images

        return view

    return [crop(top, left, mirrored) for mirrored in (False, True) for top, left in places]
