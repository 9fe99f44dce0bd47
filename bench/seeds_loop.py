"""The plain way to train: a DataLoader over PIL images, torchvision's transforms, and a float32 loop.

It follows the papers' recipes, uses the libraries as documented, and is not tuned.
"""

import time
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from distsim.data.augment import CUTOUT, DEGREES, PADDING, TRANSLATION
from distsim.models import build
from distsim.seeds import torch_stream
from distsim.specs import Recipe


class Pictures(Dataset[tuple[torch.Tensor, int]]):
    def __init__(self, images: torch.Tensor, labels: torch.Tensor, transform: Any) -> None:
        from torchvision.transforms.functional import to_pil_image

        self._images = [to_pil_image(image) for image in images]
        self._labels, self._transform = labels.tolist(), transform

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self._transform(self._images[index]), self._labels[index]


class Cutout:
    """Sets a square around a random pixel to zero."""

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        _, height, width = image.shape
        y, x = int(torch.randint(height, ())), int(torch.randint(width, ()))
        half = CUTOUT // 2
        image[:, max(0, y - half) : y + half, max(0, x - half) : x + half] = 0
        return image


def transforms(recipe: Recipe, size: int, normalise: tuple[torch.Tensor, torch.Tensor]) -> Any:
    from torchvision import transforms as tv

    steps: list[Any] = []
    if "crop" in recipe.augment:
        steps.append(tv.RandomCrop(size, padding=PADDING))
    if "flip" in recipe.augment:
        steps.append(tv.RandomHorizontalFlip())
    if "affine" in recipe.augment:
        steps.append(tv.RandomAffine(DEGREES, translate=(TRANSLATION, TRANSLATION)))
    steps += [tv.ToTensor(), tv.Normalize(*(values.tolist() for values in normalise))]
    if "cutout" in recipe.augment:
        steps.append(Cutout())
    return tv.Compose(steps)


def optimizer(recipe: Recipe, network: nn.Module) -> torch.optim.Optimizer:
    parameters = network.parameters()
    if recipe.optimizer == "adam":
        return torch.optim.Adam(parameters, lr=1e-3 * recipe.lr, weight_decay=recipe.weight_decay)
    return torch.optim.SGD(parameters, lr=1e-3 * recipe.lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay)


def images_a_second(material: Any, workers: int, enough: float) -> float:
    """Measure images a second after the first batch, for `enough` seconds; with workers, for one epoch at most."""
    problem = material.problem
    recipe = problem.recipe
    batch = min(recipe.batch_size, len(material.images))
    data = Pictures(material.images, material.labels, transforms(recipe, problem.size, material.normalise))
    loader = DataLoader(data, batch, shuffle=True, num_workers=workers, drop_last=True)
    network = build(problem, material.classes, torch_stream(0, "initialisation")).train()
    for module in network.modules():
        if hasattr(module, "reseed"):
            module.reseed(0, torch.device("cpu"))
    rule = optimizer(recipe, network)
    done, started = 0, 0.0
    while True:
        for images, labels in loader:
            loss = nn.functional.cross_entropy(network(images), labels)
            rule.zero_grad()
            loss.backward()
            rule.step()
            if started == 0.0:  # the first batch starts the workers and loads libraries
                started = time.perf_counter()
                continue
            done += batch
            if time.perf_counter() - started > enough:
                return done / (time.perf_counter() - started)
        if workers and done:  # another epoch would start the workers again, which is not measured
            return done / (time.perf_counter() - started)
