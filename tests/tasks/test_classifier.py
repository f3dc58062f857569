"""The one way to train a classifier."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from vaelab.noise import Noise
from vaelab.tasks import Recipe, classify, fit


@pytest.mark.parametrize("num_images, size", [(10, 4), (3, 3), (8, 4)])
def test_an_epoch_has_whole_batches_of_different_images(num_images: int, size: int) -> None:
    recipe = Recipe(steps=7, batch_size=4)
    batches = list(recipe.indices(Noise(0).order, num_images))
    assert [len(index) for index in batches] == [size] * 7
    an_epoch = num_images // size
    for first in range(0, 7, an_epoch):
        visited = torch.cat(batches[first : first + an_epoch])
        assert len(visited.unique()) == len(visited)
    many = torch.cat(list(Recipe(steps=60, batch_size=4).indices(Noise(0).order, num_images)))
    assert len(many.unique()) == num_images, "no image is always left out"


def test_the_learning_rate_rises_and_falls_in_straight_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    network, rates = nn.Sequential(nn.Flatten(), nn.Linear(4, 2)), []

    class Noted(torch.optim.Adam):
        def step(self, closure: object = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
            rates.append(self.param_groups[0]["lr"])
            super().step()

    monkeypatch.setattr(torch.optim, "Adam", Noted)
    recipe = Recipe(steps=10, batch_size=2, rate=1.0, warmup=4)
    fit(network, lambda index, step: (torch.ones(2, 1, 2, 2), index % 2), Noise(0).order, 4, recipe, "it")
    assert rates == pytest.approx([0.25, 0.5, 0.75, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1])


def test_it_learns_and_names_the_most_probable_class() -> None:
    y = torch.arange(2500) % 2
    x = y[:, None, None, None] * 2.0 - 1 + torch.zeros(1, 1, 2, 2)
    with Noise(0).initialisation():
        network = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    told: list[int] = []

    def progress(what: str, done: int, total: int | None) -> None:
        assert (what, total) == ("it", 60)
        told.append(done)

    def batch(index: Tensor, step: int) -> tuple[Tensor, Tensor]:
        assert step == len(told)
        return x[index], y[index]

    with torch.no_grad():  # whatever is set around it
        fit(network, batch, Noise(0).order, len(x), Recipe(60, 8, rate=0.1, warmup=5), "it", progress)
    assert told == list(range(1, 61))
    assert torch.equal(classify(network, x), y)
