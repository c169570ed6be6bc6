"""Every batched transform against torchvision, image by image; GridMask against its paper's construction."""

import dataclasses
import math
import shutil

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as reference

from augment import AugmentConfig, make_transforms
from augment.border import RandomBorder
from augment.color import (
    ColorJitter,
    Normalize,
    adjust_brightness,
    adjust_contrast,
    adjust_hue,
    adjust_saturation,
)
from augment.geometry import RandomAffine, affine_matrices, flip, resize, warp
from augment.gridmask import GridMask, grid_masks
from augment.pipeline import TrainAugment, to_network_input
from utils.options import fill_defaults

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
NO_AFFINE = dict.fromkeys(["flip", "rotation"], 0)
NO_JITTER = dict.fromkeys(["brightness", "contrast", "saturation", "hue"], 0)
NO_GRIDMASK = dict.fromkeys(["gridmask_start", "gridmask_end"], 0)
OFF = {**NO_AFFINE, **NO_JITTER, **NO_GRIDMASK}
seeds = st.integers(0, 2**32 - 1)


def make_config(**settings):
    config = AugmentConfig(**settings)
    fill_defaults(config, {})
    return config


def make_augment(size=48, count=16, seed=0, compiled=False, **settings):
    """The augmentation of a first epoch."""
    config = make_config(**settings)
    transforms = make_transforms(config, size, 0, MEAN, STD)
    generator = torch.Generator().manual_seed(seed)
    return TrainAugment(transforms, size, count, generator, compiled)


def random_images(seed, count=4, size=33):
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(count, 3, size, size, generator=generator)
    images[0] = images[0, :1]  # a grey image has no hue
    images[1] = images[1].round()  # saturated colours, ties between channels
    return images


def one_by_one(function, images, parameters):
    return torch.stack([function(image, float(p)) for image, p in zip(images, parameters, strict=True)])


def rotate(images, degrees):
    return warp(images, affine_matrices(degrees), "bilinear")


def rotate_bilinear(image, degrees):
    return reference.rotate(image, degrees, interpolation=InterpolationMode.BILINEAR)


@settings(deadline=None, max_examples=40)
@given(seed=seeds, low=st.floats(-0.5, 0.5), high=st.floats(-0.5, 0.5))
@pytest.mark.parametrize(
    ("ours", "theirs", "shift", "scale", "tolerance"),
    [
        (adjust_brightness, reference.adjust_brightness, 1, 2, 1e-6),
        (adjust_contrast, reference.adjust_contrast, 1, 2, 1e-6),
        (adjust_saturation, reference.adjust_saturation, 1, 2, 1e-6),
        # Hue divides by the chroma: float32 rounding grows where colours are nearly grey.
        (adjust_hue, reference.adjust_hue, 0, 1, 1e-5),
        # Sampling positions are computed in float32 by different expressions.
        (rotate, rotate_bilinear, 0, 40, 1e-4),
    ],
    ids=["brightness", "contrast", "saturation", "hue", "rotation"],
)
def test_equals_torchvision(ours, theirs, shift, scale, tolerance, seed, low, high):
    images = random_images(seed)
    parameters = torch.tensor([shift, shift + scale * low, shift + scale * high, shift + scale * (low + high) / 2])
    assert (ours(images.clone(), parameters) - one_by_one(theirs, images, parameters)).abs().max() <= tolerance


def test_rotation_turns_counter_clockwise():
    image = torch.zeros(1, 1, 5, 5)
    image[0, 0, 0, 2] = 1  # twelve o'clock
    turned = rotate(image, torch.tensor([90.0]))
    assert turned[0, 0].round().nonzero().tolist() == [[2, 0]]  # nine o'clock


def test_normalize_equals_torchvision():
    images = random_images(0)
    expected = reference.normalize(images, list(MEAN), list(STD))
    normalisation = Normalize(MEAN, STD)
    parameters = normalisation.draw(4, torch.Generator())
    assert torch.equal(normalisation.apply(images, parameters), expected)


def test_network_input_by_hand():
    images = torch.full((1, 3, 2, 2), 255, dtype=torch.uint8)
    # (1 - 0.485) / 0.229 and so on.
    prepared = to_network_input(images, MEAN, STD)
    assert prepared[0, :, 0, 0].tolist() == pytest.approx([2.2489083, 2.4285714, 2.64], abs=1e-6)


class TestBorder:
    def test_widths_by_hand(self):
        images = RandomBorder(1).apply(torch.ones(3, 3, 10, 10), torch.tensor([0.0, 0.05, 0.16]))
        assert images.sum((2, 3)).tolist() == [[100] * 3, [100] * 3, [36] * 3]  # two pixels on each side
        assert images[2, 0, 1:9, 1:9].sum() == 36 and images[2, 0, 2:8, 2:8].sum() == 36

    def test_what_is_drawn(self):
        widths = RandomBorder(0.25).draw(20000, torch.Generator().manual_seed(0))
        drawn = widths[widths > 0]
        assert len(drawn) / 20000 == pytest.approx(0.25, abs=0.02)
        assert drawn.max() <= 0.12 and drawn.mean() == pytest.approx(0.06, abs=0.002)


class TestGridMask:
    @staticmethod
    def by_the_paper(size, period, offset_x, offset_y, ratio):
        """Kept stripes of ceil(r d) pixels, drawn one at a time, as the paper describes the grid."""
        kept = np.zeros((size, size), dtype=bool)
        width = math.ceil(ratio * period)
        for start in range(-2 * period, size + period, period):
            for line in range(start, start + width):
                if 0 <= line - offset_x < size:
                    kept[:, line - offset_x] = True
                if 0 <= line - offset_y < size:
                    kept[line - offset_y, :] = True
        return kept

    @staticmethod
    def ours(size, ratio, *parameters):
        mask = GridMask(1, ratio, image_size=size)
        return grid_masks(size, mask.make_grids(*(torch.tensor([value]) for value in parameters)))[0].bool().numpy()

    @staticmethod
    def many(ratio, size, count=600):
        return grid_masks(size, GridMask(1, ratio, image_size=size).draw(count, torch.Generator().manual_seed(0)))

    @settings(deadline=None, max_examples=50)
    @given(st.integers(20, 90), st.integers(5, 80), st.integers(0, 79), st.integers(0, 79), st.floats(0.1, 0.9))
    def test_unrotated_masks_equal_the_papers(self, size, period, x, y, ratio):
        x, y = x % period, y % period
        kept = self.ours(size, ratio, period, x, y, 0)
        assert (kept == self.by_the_paper(size, period, x, y, ratio)).all()

    @pytest.mark.parametrize("degrees", [90, 37, 211])
    def test_rotated_masks_equal_a_rotated_grid(self, degrees):
        size, period, large = 64, 40, 640
        edge = (large - size) // 2
        offset = (7 - edge) % period  # the same grid, seen from the large square's corner
        unrotated = self.by_the_paper(large, period, offset, offset, 0.6)
        turned = Image.fromarray(unrotated).rotate(-degrees, Image.Resampling.NEAREST)
        expected = np.asarray(turned)[edge : edge + size, edge : edge + size]
        kept = self.ours(size, 0.6, period, 7, 7, degrees)
        # Both pick the nearest pixel, so they may differ along the edges of the squares only.
        assert (kept == expected).mean() > 0.97

    @pytest.mark.parametrize("ratio", [0.3, 0.5, 0.6])
    @pytest.mark.parametrize("size", [224, 64])
    def test_kept_area(self, ratio, size):
        kept = self.many(ratio, size)
        area = kept.mean().item()
        shortest = {224: 96, 64: 27}[size]
        squares = [(1 - math.ceil(ratio * period) / period) ** 2 for period in range(shortest, size)]
        assert area == pytest.approx(1 - np.mean(squares), abs=0.005)
        # The paper's 1 - (1 - r)^2 but for ceil(r d), which widens the stripes by half a pixel on average.
        assert area == pytest.approx(1 - (1 - ratio) ** 2, abs={224: 0.012, 64: 0.025}[size])

    def test_every_image_is_touched_at_small_sizes(self):
        kept = self.many(0.6, 64)
        assert (kept.flatten(1).all(1)).float().mean() < 0.05

    def test_period_and_offset_ranges(self):
        period, x, y, angle = GridMask(1).draw_grids(20000, torch.Generator().manual_seed(0))
        assert (period.min(), period.max()) == (96, 223)
        assert ((x >= 0) & (x < period) & (y >= 0) & (y < period)).all()
        assert (angle.min(), angle.max()) == (0, 359)
        mask = GridMask(1, rotated=False, image_size=112)
        period, _, _, angle = mask.draw_grids(20000, torch.Generator().manual_seed(0))
        assert (period.min(), period.max()) == (48, 111)
        assert (angle == 0).all()

    def test_probability_and_fill(self):
        images = torch.full((4000, 3, 48, 48), 255, dtype=torch.uint8)
        augment = make_augment(48, 4000, **NO_AFFINE, **NO_JITTER, gridmask_start=0.7)
        masked = augment(images, torch.arange(4000))
        touched = (masked == 0).flatten(1).any(1).float().mean().item()
        assert touched == pytest.approx(0.7, abs=0.03)
        # White, normalised, or the mean colour: one mask for all channels.
        assert masked[:, 2].unique().tolist() == pytest.approx([0.0, (1 - 0.406) / 0.225])
        assert torch.equal(masked[:, 0] == 0, masked[:, 2] == 0)

    def test_probability_rises_linearly(self):
        config = make_config(gridmask_start=0.6, gridmask_end=0.8)
        rise = [make_transforms(config, 224, epoch / 4, MEAN, STD)[-1].probability for epoch in range(5)]
        assert rise == pytest.approx([0.6, 0.65, 0.7, 0.75, 0.8])


class TestTrainAugment:
    images = torch.randint(0, 256, (16, 3, 48, 48), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))

    everyone = torch.arange(16)

    @staticmethod
    def augment(seed=0, **settings):
        return make_augment(seed=seed, **settings)

    def test_same_seed_same_batch(self):
        first, second = (self.augment(5)(self.images, self.everyone) for _ in range(2))
        assert torch.equal(first, second)
        assert first.dtype == torch.float32

    def test_a_faces_draw_does_not_depend_on_its_batch(self):
        whole = self.augment()(self.images, self.everyone)
        some = torch.tensor([11, 3, 12])
        # The sampling positions are rounded differently.
        assert torch.allclose(self.augment()(self.images[some], some), whole[some], atol=1e-4)

    def test_parts_equal_the_whole_batch(self, monkeypatch):
        whole = self.augment()(self.images, self.everyone)
        monkeypatch.setattr("augment.pipeline.PIXELS_PER_CORE", 1)
        assert torch.allclose(self.augment()(self.images, self.everyone), whole, atol=1e-4)

    def test_the_pipeline_equals_torchvisions_with_the_same_parameters(self):
        augment = make_augment(**NO_GRIDMASK, interpolation="bilinear")
        matrices, factors, _ = augment.parameters
        flipped = matrices[:, 0, 0] < 0
        degrees = torch.rad2deg(matrices[:, 1, 0].asin())  # this entry is the sine of the angle
        expected = []
        for face, image in enumerate(self.images):
            image = reference.to_dtype(image, torch.float32, scale=True)
            image = reference.horizontal_flip(image) if flipped[face] else image
            image = rotate_bilinear(image, float(degrees[face]))
            for column, name in enumerate(("brightness", "contrast", "saturation", "hue")):
                image = getattr(reference, f"adjust_{name}")(image, float(factors[face, column]))
            expected.append(reference.normalize(image, list(MEAN), list(STD)))
        assert 4 <= flipped.sum() <= 12
        assert degrees.abs().max() <= 20
        assert (augment(self.images, self.everyone) - torch.stack(expected)).abs().max() < 5e-4

    def test_nothing_switched_on_is_plain_preparation(self):
        augment = self.augment(**OFF)
        assert torch.equal(augment(self.images, self.everyone), to_network_input(self.images, MEAN, STD))

    def test_larger_images_are_shrunk_first(self):
        augment = make_augment(40, **OFF)
        shrunk = augment(self.images, self.everyone)
        pillows = [
            np.asarray(Image.fromarray(i.permute(1, 2, 0).numpy()).resize((40, 40), Image.BILINEAR))
            for i in self.images
        ]
        expected = to_network_input(torch.from_numpy(np.stack(pillows)).permute(0, 3, 1, 2), MEAN, STD)
        assert shrunk.shape == (16, 3, 40, 40)
        assert (shrunk - expected).abs().max() <= 1.001 / 255 / 0.224  # one grey level

    def test_each_face_is_drawn_for_itself(self):
        same = self.images[:1].expand(16, -1, -1, -1)
        augmented = self.augment(**NO_GRIDMASK)(same, self.everyone)
        assert len(augmented.flatten(1).unique(dim=0)) == 16

    @pytest.mark.skipif(not shutil.which("g++"), reason="no C++ compiler here")
    def test_compiled_it_does_the_same(self):
        settings = {"scale": 0.1, "shift": 0.1, "border": 0.5}
        plain = make_augment(**settings)
        expected = plain(self.images, self.everyone)
        compiled = make_augment(compiled=True, **settings)
        assert (compiled(self.images, self.everyone) - expected).abs().max() < 1e-3
        # A later epoch, with another probability of GridMask, uses the same compiled code.
        later = make_augment(compiled=True, seed=1, gridmask_start=0.7, **settings)
        with torch.compiler.set_stance("fail_on_recompile"):
            later(self.images, self.everyone)

    @pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU here")
    def test_gpu_draws_what_the_cpu_draws(self):
        cpu, gpu = (
            self.augment(3)(self.images.to(device), self.everyone.to(device)).cpu() for device in ("cpu", "cuda")
        )
        assert (cpu - gpu).abs().max() < 1e-3


class TestWarp:
    """Crop, flip, rotation, scale and shift are one warp."""

    @settings(deadline=None, max_examples=30)
    @given(seeds, st.floats(-40, 40), st.floats(0.8, 1.25), st.integers(-6, 6), st.integers(-6, 6))
    def test_rotation_scale_and_shift_equal_torchvisions_affine(self, seed, degrees, scale, right, down):
        images = random_images(seed)
        shift = torch.tensor([[2 * right / 33, 2 * down / 33]]).expand(4, 2)
        matrices = affine_matrices(torch.full((4,), degrees), scale=torch.full((4,), scale), shift=shift)
        expected = reference.affine(
            images, -degrees, [right, down], scale, [0.0], interpolation=InterpolationMode.BILINEAR
        )
        assert (warp(images, matrices, "bilinear") - expected).abs().max() <= 2e-4

    @settings(deadline=None, max_examples=30)
    @given(seeds, st.floats(-40, 40))
    def test_the_default_is_torchvisions_rotation(self, seed, degrees):
        """Nearest, black outside. Positions are rounded differently: a pixel halfway between two may take the other."""
        images = random_images(seed)
        ours, theirs = warp(images, affine_matrices(torch.full((4,), degrees))), reference.rotate(images, degrees)
        assert ((ours != theirs).any(dim=1).float().mean()) < 0.01

    @pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic"])
    def test_a_quarter_turn_is_exact(self, interpolation):
        images = random_images(6)
        turned = warp(images, affine_matrices(torch.full((4,), 90.0)), interpolation)
        assert torch.allclose(turned, images.rot90(1, (2, 3)), atol=1e-4)

    def test_halfway_between_two_pixels(self):
        """A row of 0 0 1 1; bicubic weights with a = -0.75 are -3/32, 19/32, 19/32 and -3/32."""
        images = torch.tensor([0.0, 0, 1, 1]).expand(1, 1, 4, 4)
        half = affine_matrices(torch.zeros(1), shift=torch.tensor([[0.25, 0.0]]))  # the image is 2 wide
        assert warp(images, half, "bilinear", "border")[0, 0, 0].tolist() == pytest.approx([0, 0, 0.5, 1])
        assert warp(images, half, "bicubic", "border")[0, 0, 0].tolist() == pytest.approx([0, -3 / 32, 0.5, 35 / 32])

    def test_what_lies_outside(self):
        """A row of 1 2 3 4 moves two pixels to the right."""
        images = torch.tensor([1.0, 2, 3, 4]).expand(1, 1, 4, 4)
        moved = affine_matrices(torch.zeros(1), shift=torch.tensor([[1.0, 0.0]]))
        rows = {
            padding: warp(images, moved, "nearest", padding)[0, 0, 0].tolist()
            for padding in ("zeros", "border", "reflection")
        }
        assert rows == {"zeros": [0, 0, 1, 2], "border": [1, 1, 1, 2], "reflection": [2, 1, 1, 2]}

    @pytest.mark.parametrize("size", [17, 24, 40, 48])
    def test_resizing_is_torchvisions(self, size):
        images = random_images(5, size=40)
        assert torch.allclose(resize(images, size), reference.resize(images, [size, size]), atol=1e-6)
        pixels = (255 * images).to(torch.uint8)
        found, expected = resize(pixels, size), reference.resize(pixels, [size, size])
        assert found.dtype == torch.uint8
        assert (found.int() - expected.int()).abs().max() <= 1  # torchvision may compute with whole numbers

    def test_flips_are_torchvisions(self):
        images, flipped = random_images(4), torch.tensor([True, False, True, False])
        expected = torch.stack([reference.horizontal_flip(i) if f else i for i, f in zip(images, flipped, strict=True)])
        assert torch.equal(flip(images, flipped), expected)
        assert torch.equal(warp(images, affine_matrices(torch.zeros(4), flipped)), expected)

    def test_flips_alone_equal_the_warps(self):
        images = random_images(5)
        only_flips, with_rotation = RandomAffine(0.5, 0, 0, 0), RandomAffine(0.5, 1e-6, 0, 0)
        first, second = (t.draw(4, torch.Generator().manual_seed(2)) for t in (only_flips, with_rotation))
        assert sorted({float(x) for x in first[:, 0, 0]}) == [-1, 1]
        assert torch.allclose(only_flips.apply(images, first), with_rotation.apply(images, second), atol=1e-4)


class TestTransforms:
    """The list of transforms that a configuration gives."""

    @staticmethod
    def names(**settings):
        return [type(t).__name__ for t in make_transforms(make_config(**settings), 48, 0, MEAN, STD)]

    def test_every_field_is_an_option_with_a_help_text(self):
        fields = dataclasses.fields(AugmentConfig)
        assert len(fields) == 15
        assert all(field.metadata["help"] for field in fields)

    def test_defaults(self):
        assert self.names() == ["RandomAffine", "ColorJitter", "Normalize", "GridMask"]

    def test_transforms_that_do_nothing_are_left_out(self):
        assert self.names(**OFF) == ["Normalize"]
        assert self.names(**NO_AFFINE) == ["ColorJitter", "Normalize", "GridMask"]
        assert self.names(**NO_JITTER) == ["RandomAffine", "Normalize", "GridMask"]
        assert self.names(**OFF, border=0.1) == ["RandomBorder", "Normalize"]

    @pytest.mark.parametrize("setting", [{"flip": 0.5}, {"rotation": 1}, {"scale": 0.1}, {"shift": 0.1}])
    def test_each_part_of_the_affine_transform_counts(self, setting):
        assert self.names(**{**OFF, **setting}) == ["RandomAffine", "Normalize"]

    def test_jitter_stays_within_its_strengths(self):
        factors = ColorJitter(0.1, 0.2, 0.0, 0.02).draw(20000, torch.Generator().manual_seed(0))
        assert factors.amin(0).tolist() == pytest.approx([0.9, 0.8, 1, -0.02], abs=1e-3)
        assert factors.amax(0).tolist() == pytest.approx([1.1, 1.2, 1, 0.02], abs=1e-3)

    def test_one_list_entry_adds_a_transform(self):
        class Invert:
            def draw(self, count, generator):
                return torch.rand(count, generator=generator) < 0.5

            def apply(self, images, inverted):
                return torch.where(inverted[:, None, None, None], 1 - images, images)

        augment = TrainAugment([Invert()], 40, 32, torch.Generator().manual_seed(0))
        black = torch.zeros(3, 3, 40, 40, dtype=torch.uint8)
        positions = torch.tensor([30, 2, 17])
        images = augment(black, positions)
        assert images.amin((1, 2, 3)).tolist() == images.amax((1, 2, 3)).tolist()
        assert images[:, 0, 0, 0].tolist() == augment.parameters[0][positions].tolist()
