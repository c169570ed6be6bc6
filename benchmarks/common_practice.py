"""The reference to measure against: what most training scripts do, after PyTorch's ImageNet example.

A DataLoader with two workers decodes each JPEG with Pillow and transforms it by itself with torchvision; the training
step is plain fp32.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from models.network import Network

WORKERS = 2


class ImageFiles(Dataset):
    def __init__(self, paths, labels, transform):
        self.paths, self.labels, self.transform = paths, labels, transform

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, index):
        with Image.open(self.paths[index]) as image:
            return self.transform(image.convert("RGB")), self.labels[index]


class GridMaskOne:
    """GridMask on one tensor (C, S, S): a grid on a square of the diagonal's length, rotated, centre cropped."""

    def __init__(self, ratio=0.6, probability=0.7):
        self.ratio, self.probability = ratio, probability

    def __call__(self, image):
        if np.random.rand() > self.probability:
            return image
        size = image.shape[-1]
        side = math.ceil(math.hypot(size, size))
        period = np.random.randint(size * 96 // 224, size)
        width = math.ceil(self.ratio * period)
        mask = np.zeros((side, side), np.uint8)
        for lines in (mask, mask.T):
            for start in range(-np.random.randint(period), side, period):
                lines[max(start, 0) : max(start + width, 0)] = 1
        mask = np.asarray(Image.fromarray(mask).rotate(np.random.randint(360)))
        edge = (side - size) // 2
        return image * torch.from_numpy(mask[edge : edge + size, edge : edge + size].copy())


def train_transform(size, resized=False):
    """From a PIL image to the network's input; `resized` images have the right size already."""
    steps = [
        transforms.RandomHorizontalFlip(),
        transforms.RandomRotation(20),
        transforms.ColorJitter(0.1, 0.1, 0.1, 0.02),
        transforms.ToTensor(),
        transforms.Normalize(Network.mean, Network.std),
        GridMaskOne(),
    ]
    return transforms.Compose(steps if resized else [transforms.Resize((size, size)), *steps])


def decode(path, size):
    """One JPEG as most loaders read it: decoded at full size, then resized."""
    with Image.open(path) as image:
        return image.convert("RGB").resize((size, size), Image.Resampling.BILINEAR)


def train(model, optimizer, loader, device):
    """One epoch in fp32, channels first."""
    model.train()
    for images, labels in loader:
        step(model, optimizer, images.to(device, non_blocking=True), labels.to(device, non_blocking=True))


def step(model, optimizer, images, labels):
    loss = F.cross_entropy(model(images), labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def make_loader(paths, labels, size, batch_size):
    faces = ImageFiles(paths, labels, train_transform(size))
    return DataLoader(faces, batch_size, shuffle=True, num_workers=WORKERS, pin_memory=torch.cuda.is_available())
