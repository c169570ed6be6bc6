"""Copies of one picture: found whatever their scale and compression, and never where the pictures differ."""

import io
import itertools

import numpy as np
import pandas as pd
import pytest
from conftest import REAL_FACES, needs_real_faces
from PIL import Image, ImageEnhance, ImageOps

from data.duplicates import (
    Pictures,
    area_means,
    both_signatures,
    difference_hashes,
    find_pairs,
    same_pictures,
    unit_pictures,
)
from data.faces import Faces
from data.images import decode_face
from tools.check_data import read_signature
from utils.classes import Classes
from utils.errors import UserError


def smooth_picture(rng, side=64):
    """A random picture with structure at the scale of a face's features."""
    coarse = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8))
    return coarse.resize((side, side), Image.Resampling.BICUBIC)


def signatures_of(images):
    return both_signatures(images)[0]


def stack(pictures):
    """PIL images of one size as uint8 (N, 3, S, S)."""
    return np.stack([np.asarray(picture).transpose(2, 0, 1) for picture in pictures])


def pictures_of(images):
    signatures = both_signatures(images)
    return Pictures(signatures, find_pairs(signatures))


def pairs_of(pictures):
    return same_pictures(signatures_of(stack(pictures))).tolist()


def recompressed(picture, quality):
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=quality)
    return Image.open(file).convert("RGB")


class TestAreaMeans:
    @pytest.mark.parametrize(
        ("size", "smaller", "expected"),
        [
            (4, 2, [[1 / 2, 1 / 2, 0, 0], [0, 0, 1 / 2, 1 / 2]]),
            (3, 2, [[2 / 3, 1 / 3, 0], [0, 1 / 3, 2 / 3]]),
            (5, 2, [[2 / 5, 2 / 5, 1 / 5, 0, 0], [0, 0, 1 / 5, 2 / 5, 2 / 5]]),
            (5, 3, [[3 / 5, 2 / 5, 0, 0, 0], [0, 1 / 5, 3 / 5, 1 / 5, 0], [0, 0, 0, 2 / 5, 3 / 5]]),
            (3, 3, [[1, 0, 0], [0, 1, 0], [0, 0, 1]]),
            (2, 4, [[1, 0], [1, 0], [0, 1], [0, 1]]),
            (7, 1, [[1 / 7] * 7]),
        ],
    )
    def test_by_hand(self, size, smaller, expected):
        assert area_means(size, smaller) == pytest.approx(np.array(expected), abs=1e-6)

    @pytest.mark.parametrize("size", [32, 40, 63, 64, 75, 2048])
    def test_a_picture_of_one_grey_keeps_it(self, size):
        assert area_means(size, 32).sum(axis=1) == pytest.approx(np.ones(32), abs=1e-5)


class TestSignatures:
    """32 bytes of the difference hash, then the picture at 8 x 8 greys."""

    def test_greys_by_hand(self):
        colours = [(0, 0, 0), (255, 255, 255), (255, 0, 0), (0, 255, 0), (0, 0, 255), (77, 77, 77)]
        signatures = signatures_of(stack([Image.new("RGB", (48, 48), colour) for colour in colours]))
        assert (signatures.shape, signatures.dtype) == ((6, 96), np.uint8)
        # 0.299, 0.587 and 0.114 of 255 are 76.2, 149.7 and 29.1.
        assert (signatures[:, 32:] == np.array([0, 255, 76, 150, 29, 77])[:, None]).all()

    def test_the_small_picture_by_hand(self):
        """Sixty-four squares of eight pixels each, of 64 greys."""
        greys = np.arange(64, dtype=np.uint8).reshape(8, 8) * 4
        image = greys.repeat(8, axis=0).repeat(8, axis=1)
        assert signatures_of(np.stack([image] * 3)[None])[0, 32:].tolist() == greys.ravel().tolist()

    def test_the_hash_by_hand(self):
        """Brighter to the right everywhere, darker everywhere, and brighter in the upper half only."""
        rising = np.broadcast_to(np.arange(32.0), (32, 32))
        upper = np.where(np.arange(32)[:, None] < 16, rising, rising[:, ::-1])
        hashes = difference_hashes(np.stack([rising, rising[:, ::-1], upper]))
        assert hashes.shape == (3, 256)
        assert hashes[0].all()
        assert not hashes[1].any()
        assert (hashes[2].reshape(16, 16) == (np.arange(16)[:, None] < 8)).all()
        rising = np.broadcast_to((4 * np.arange(32)).astype(np.uint8), (1, 3, 32, 32))
        assert signatures_of(rising)[0, :32].tolist() == [255] * 32
        assert signatures_of(rising[..., ::-1])[0, :32].tolist() == [0] * 32

    @pytest.mark.parametrize("flat", [False, True])
    def test_mirror_images(self, flat):
        """The second signature is that of the mirror image; also where a flat ground has no brighter neighbour."""
        rng = np.random.default_rng(0)
        pictures = stack([smooth_picture(rng, 64) for _ in range(50)])
        if flat:
            pictures[..., :20], pictures[..., 44:] = 255, 255
        own, turned = both_signatures(pictures)
        assert (own == signatures_of(pictures)).all()
        assert (turned == signatures_of(pictures[..., ::-1])).all()
        pairs = same_pictures(both_signatures(pictures[..., ::-1])[1], own)
        assert {(k, k) for k in range(50)} <= set(map(tuple, pairs.tolist()))
        copies = pictures_of(np.concatenate([pictures[:2], pictures[1:2, :, :, ::-1], pictures[:1]]))
        assert [0, 3] in copies.pairs.tolist() and [1, 2] in copies.pairs.tolist()

    @pytest.mark.parametrize("side", [40, 48, 64, 100, 128, 224, 300])
    def test_the_size_of_the_cache_matters_little(self, side):
        """What a run at one size stored is compared with what an evaluation at another size reads."""
        rng = np.random.default_rng(0)
        large = [smooth_picture(rng, 512) for _ in range(50)]
        first = signatures_of(stack(large))
        second = signatures_of(stack([picture.resize((side, side), Image.Resampling.BILINEAR) for picture in large]))
        assert same_pictures(first, second).tolist() == [[k, k] for k in range(50)]

    def test_blocks_make_no_difference(self):
        rng = np.random.default_rng(0)
        images = rng.integers(0, 256, (1500, 3, 32, 32), dtype=np.uint8)
        assert (signatures_of(images)[[0, 1023, 1024, 1499]] == signatures_of(images[[0, 1023, 1024, 1499]])).all()

    def test_of_a_file(self, tmp_path):
        picture = smooth_picture(np.random.default_rng(0), 300)
        picture.save(tmp_path / "a.png")
        expected = both_signatures(decode_face(tmp_path / "a.png", 64)[None])[:, 0]
        assert (read_signature(tmp_path / "a.png") == expected).all()
        (tmp_path / "a.png").write_bytes(b"damaged")
        with pytest.raises(UserError, match=r"a\.png' is no image of the formats"):
            read_signature(tmp_path / "a.png")

    def test_of_nothing(self):
        assert signatures_of(np.zeros((0, 3, 48, 48), np.uint8)).shape == (0, 96)


class TestCorrelations:
    def test_as_numpy(self):
        rng = np.random.default_rng(0)
        first, second = rng.integers(0, 256, (2, 200, 96), dtype=np.uint8)
        second[:100, 32:] = np.clip(first[:100, 32:].astype(int) + rng.integers(-20, 20, (100, 64)), 0, 255)
        expected = [np.corrcoef(a, b)[0, 1] for a, b in zip(first[:, 32:], second[:, 32:], strict=True)]
        products = (unit_pictures(first) * unit_pictures(second)).sum(1)
        assert products == pytest.approx(np.array(expected), abs=1e-5)
        assert max(expected) > 0.95
        assert min(expected) < 0.1

    def test_a_picture_of_one_grey_has_none(self):
        flat, other = np.full((1, 96), 7, np.uint8), np.arange(96, dtype=np.uint8)[None]
        assert not unit_pictures(flat).any()
        assert (unit_pictures(other) ** 2).sum() == pytest.approx(1)

    def test_placeholders_are_not_compared_without_end(self):
        same = np.repeat(np.random.default_rng(0).integers(0, 256, (1, 96), dtype=np.uint8), 3000, axis=0)
        with pytest.raises(UserError, match="more than 2,000,000 pairs of images show the same picture"):
            same_pictures(same)


class TestSamePictures:
    def test_copies_are_found_and_strangers_are_not(self):
        rng = np.random.default_rng(0)
        pictures = [smooth_picture(rng) for _ in range(300)]
        copies = {
            7: pictures[7].resize((20, 20)).resize((64, 64)),
            9: recompressed(pictures[9], 30),
            11: recompressed(pictures[11].resize((200, 200)), 50).resize((64, 64)),
            13: ImageEnhance.Brightness(pictures[13]).enhance(0.9),
            15: pictures[15],
        }
        assert pairs_of([*pictures, *copies.values()]) == [[k, 300 + n] for n, k in enumerate(copies)]

    def test_other_pictures_are_not_copies(self):
        """Mirrored, turned, negative and shifted ones, and those with another one in the middle."""
        rng = np.random.default_rng(1)
        for _ in range(20):
            picture, other = smooth_picture(rng), smooth_picture(rng)
            middle = picture.copy()
            middle.paste(other.crop((16, 16, 48, 48)), (16, 16))
            others = [
                ImageOps.mirror(picture),
                ImageOps.flip(picture),
                picture.rotate(90),
                ImageOps.invert(picture),
                picture.crop((12, 0, 64, 52)).resize((64, 64)),
                middle,
            ]
            assert pairs_of([picture, *others]) == []

    def test_each_of_several_copies_is_paired_with_each_other(self):
        picture = smooth_picture(np.random.default_rng(0))
        assert pairs_of([picture] * 4) == [list(pair) for pair in itertools.combinations(range(4), 2)]

    def test_across_the_borders_of_blocks(self):
        """More than the 1,024 pictures that are compared at once."""
        rng = np.random.default_rng(0)
        images = rng.integers(0, 256, (2500, 3, 32, 32), dtype=np.uint8)
        images[[1023, 1024, 2499]] = images[[5, 1025, 1025]]
        assert same_pictures(signatures_of(images)).tolist() == [[5, 1023], [1024, 1025], [1024, 2499], [1025, 2499]]

    @pytest.mark.parametrize(("count", "others"), [(1500, 0), (700, 900)])
    def test_the_same_pairs_as_a_comparison_of_all(self, count, others):
        """Pictures in close families, as faces are: near to each other, some of them the same."""
        rng = np.random.default_rng(count)
        parents = rng.normal(0, 40, (30, 3, 8, 8))[rng.integers(0, 30, count + others)]
        noise = rng.normal(0, rng.uniform(0, 12, (count + others, 1, 1, 1)), parents.shape)
        images = (128 + parents + noise).clip(0, 255).astype(np.uint8).repeat(8, 2).repeat(8, 3)
        first, second = np.split(signatures_of(images), [count])
        second = second if others else first
        bits = np.unpackbits(first[:, None, :32] ^ second[None, :, :32], axis=2).sum(2, dtype=int)
        alike = (bits <= 30) & (np.corrcoef(first[:, 32:], second[:, 32:])[: len(first), len(first) :] >= 0.99)
        expected = np.argwhere(alike if others else np.triu(alike, 1))
        assert len(expected) > 1000 and (bits <= 30).sum() > 2 * len(expected)
        assert np.array_equal(same_pictures(first, second if others else None), expected)

    def test_two_sets(self):
        """Positions in the first and in the second; a set is not compared with itself."""
        rng = np.random.default_rng(0)
        a, b, c, d = (smooth_picture(rng) for _ in range(4))
        first, second = signatures_of(stack([a, b, b, c])), signatures_of(stack([d, b, a, a]))
        assert sorted(same_pictures(first, second).tolist()) == [[0, 2], [0, 3], [1, 1], [2, 1]]

    @pytest.mark.parametrize("count", [0, 1])
    def test_too_few_pictures_to_compare(self, count):
        signatures = signatures_of(np.zeros((count, 3, 48, 48), np.uint8))
        assert same_pictures(signatures).shape == (0, 2)
        assert same_pictures(signatures, signatures[:0]).shape == (0, 2)

    def test_pictures_of_one_grey_are_no_copies(self):
        """They show nothing that could be recognised."""
        assert pairs_of([Image.new("RGB", (48, 48), (grey, grey, grey)) for grey in (0, 0, 128, 255)]) == []


@pytest.fixture(scope="module")
def photographs():
    """{people's number: photograph}, two from each album."""
    albums = sorted(path for path in (REAL_FACES / "aligned").iterdir() if path.is_dir())
    paths = [path for album in albums for path in sorted(album.glob("*.jpg"))[:2]][:300]
    return {path.name.split(".")[1]: Image.fromarray(decode_face(path, 96).transpose(1, 2, 0)) for path in paths}


@needs_real_faces
class TestRealPhotographs:
    def test_recompressed_and_rescaled_copies(self, photographs):
        some = list(photographs.values())[:100]
        unchanged = signatures_of(stack(some))
        own = {tuple(pair) for pair in same_pictures(unchanged, unchanged).tolist()}
        for change in (
            lambda picture: recompressed(picture, 50),
            lambda picture: picture.resize((48, 48), Image.Resampling.BILINEAR),
            lambda picture: recompressed(picture.resize((64, 64), Image.Resampling.BILINEAR), 75),
            lambda picture: picture.resize((224, 224), Image.Resampling.BICUBIC),
        ):
            found = {tuple(pair) for pair in same_pictures(unchanged, signatures_of(stack(map(change, some)))).tolist()}
            assert {(k, k) for k in range(100)} <= found
            assert found <= own

    def test_copies_under_other_names(self, photographs):
        """All of 45,000 pairs that are alike; seen by eye, each is one photograph, the second pair with and without
        its colours."""
        assert len(photographs) == 300
        names, pictures = zip(*photographs.items(), strict=True)
        found = [(names[first], names[second]) for first, second in pairs_of(pictures)]
        assert found == [("5303", "3128"), ("1695", "1725"), ("1486", "2238"), ("7976", "8648")]


class TestPictures:
    """Faces 0 to 5 in folds 0, 0, 0, 1, 1, 2; 0 = 1, 2 = 3, 0 = 4 and so 1 = 4."""

    @pytest.fixture
    def faces(self):
        columns = {"path": [f"{k}.jpg" for k in range(6)], "fold": [0, 0, 0, 1, 1, 2], "label": [0] * 6}
        return Faces(pd.DataFrame(columns), Classes(("young", "old")))

    @pytest.fixture
    def pictures(self):
        rng = np.random.default_rng(0)
        a, b, c = (smooth_picture(rng) for _ in range(3))
        return pictures_of(stack([a, a, b, b, a, c]))

    def test_pairs(self, pictures):
        assert pictures.pairs.tolist() == [[0, 1], [0, 4], [1, 4], [2, 3]]
        assert (pictures.signatures[:, 0] == pictures.signatures[:, 4]).all()

    def test_pairs_across_folds(self, pictures, faces):
        assert pictures.across_folds(faces).tolist() == [[0, 4], [1, 4], [2, 3]]

    def test_duplicates(self, pictures, faces):
        """Which faces of a fold are shown in the others; a duplicate within the same fold does not count."""
        fold = faces.table.fold
        expected = {0: [True, True, True], 1: [True, True], 2: [False]}
        for held_out, duplicates in expected.items():
            own, others = faces.where(fold == held_out), faces.where(fold != held_out)
            assert pictures.duplicates(own, others).tolist() == duplicates
        # Of the faces 2 and 5 alone, only 3 has a duplicate.
        rest = faces.where(np.isin(np.arange(6), [2, 5]))
        assert pictures.duplicates(faces.where(fold == 1), rest).tolist() == [True, False]
        assert pictures.duplicates(faces.where(fold == 0), faces.where(fold == 9)).tolist() == [False] * 3


def test_pairs_are_found_whichever_of_the_two_is_mirrored():
    """Signatures by hand: the second picture's mirror image is far from the first in 31 bits, the first's is not."""
    small = np.arange(64, dtype=np.uint8)
    signatures = np.zeros((2, 2, 96), np.uint8)
    signatures[:, :, 32:] = small
    signatures[0, 0, :20] = 255  # the pictures themselves differ in more than 30 bits
    signatures[1, 0, :3] = 255  # mirrored first and second: 24 bits
    signatures[1, 1, :20], signatures[1, 1, 20:24] = 255, 127  # first and mirrored second: 28 bits
    assert find_pairs(signatures).tolist() == [[0, 1]]
    signatures[1, 1, 20:25] = 255  # 40 bits
    assert find_pairs(signatures).tolist() == [[0, 1]]
    signatures[1, 0, :4] = 255  # 32 bits
    assert find_pairs(signatures).tolist() == []
