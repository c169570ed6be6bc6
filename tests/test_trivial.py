"""TrivialAugment's operations against torchvision's own, image by image."""

import math

import pytest
import torch
from test_augment import random_images
from torchvision.transforms import autoaugment
from torchvision.transforms.v2 import functional as reference

from augment.trivial import OPERATIONS, draw_operations, trivial_augment

PLACE = {name: place for place, name in enumerate(OPERATIONS)}
STRENGTHS = torch.tensor([0.3, -0.66, 0.99])
SHEAR = {"shear_x": 0, "shear_y": 1}


def images_in_bytes(seed=0, size=48):
    return (random_images(seed, count=3, size=size) * 255).round() / 255


def ours(name, images, strengths):
    return OPERATIONS[name][0](images, strengths)


@pytest.mark.parametrize("name", ["brightness", "saturation", "contrast", "sharpness"])
def test_colours(name):
    images, factors = images_in_bytes(), 1 + STRENGTHS
    theirs = getattr(reference, f"adjust_{name}")
    expected = torch.stack([theirs(image, float(factor)) for image, factor in zip(images, factors, strict=True)])
    assert (ours(name, images, factors) - expected).abs().max() < 1e-5


@pytest.mark.parametrize("name", ["shear_x", "shear_y", "translate_x", "translate_y", "rotate"])
def test_geometry(name):
    images = images_in_bytes()
    expected = []
    strengths = STRENGTHS * {"translate_x": 30, "translate_y": 30, "rotate": 120}.get(name, 1)
    for image, strength in zip(images, strengths.tolist(), strict=True):
        if name in SHEAR:
            shear = [0.0, 0.0]
            shear[SHEAR[name]] = math.degrees(math.atan(strength))
            expected.append(reference.affine(image, 0.0, [0, 0], 1.0, shear, center=[0, 0]))
        elif name == "rotate":
            expected.append(reference.rotate(image, strength))
        else:
            pixels = [int(strength), 0] if name == "translate_x" else [0, int(strength)]
            expected.append(reference.affine(image, 0.0, pixels, 1.0, [0.0, 0.0]))
    # Both read the nearest pixel; where two are equally near, rounding decides.
    same = (ours(name, images, strengths) == torch.stack(expected)).float().mean()
    assert same > (0.999 if name.startswith("translate") else 0.98)


def test_bytes():
    images = images_in_bytes()
    whole = (images * 255).round().to(torch.uint8)
    for bits in (2, 5, 8):
        assert torch.equal(
            (ours("posterize", images, torch.full((3,), float(bits))) * 255).round().to(torch.uint8),
            reference.posterize(whole, bits),
        )
    for threshold in (0.0, 0.4, 1.0):
        expected = reference.solarize(whole, threshold * 255).float() / 255
        assert (ours("solarize", images, torch.full((3,), threshold)) - expected).abs().max() < 1e-6


@pytest.mark.parametrize("name", ["autocontrast", "equalize"])
def test_histograms(name):
    images = images_in_bytes() * 0.5 + 0.1
    images = (images * 255).round() / 255
    images[2] = 0.2  # a channel of one value stays
    whole = (images * 255).round().to(torch.uint8)
    expected = torch.stack([getattr(reference, name)(image) for image in whole]).float() / 255
    assert (ours(name, images, torch.zeros(3)) - expected).abs().max() <= (
        1.01 / 255 if name == "autocontrast" else 1e-6
    )


def test_draws_cover_torchvisions_space():
    drawn = draw_operations(60_000, torch.Generator().manual_seed(0))
    space = autoaugment.TrivialAugmentWide()._augmentation_space(31)
    assert len(space) == len(OPERATIONS) == 14
    for (name, place), (theirs, signed) in zip(PLACE.items(), space.values(), strict=True):
        strengths = drawn[drawn[:, 0] == place, 1]
        assert len(strengths) / 60_000 == pytest.approx(1 / 14, abs=0.01)
        neutral = 1.0 if name in ("brightness", "saturation", "contrast", "sharpness") else 0.0
        scale = 255 if name == "solarize" else 1
        expected = {
            round(sign * float(value) / scale + neutral, 4)
            for value in theirs.flatten()
            for sign in (1, -1)[: 1 + signed]
        }
        assert {round(value, 4) for value in strengths.tolist()} == expected


def test_each_image_gets_its_own_operation():
    images = images_in_bytes()
    drawn = torch.tensor([[PLACE["identity"], 0.0], [PLACE["solarize"], 0.0], [PLACE["posterize"], 1.0]])
    result = trivial_augment(images, drawn)
    assert torch.equal(result[0], images[0])
    assert torch.allclose(result[1], 1 - images[1])
    assert len(result[2].unique()) <= 2
