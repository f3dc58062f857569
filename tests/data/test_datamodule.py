"""What a batch of training and of evaluation is."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from vaelab.data.datamodule import ImageDataModule
from vaelab.data.datasets import ImageData, Split
from vaelab.errors import SettingError
from vaelab.noise import Noise

N, TEST = 60, 20


def images(levels: int = 256, val: int = 0) -> ImageData:
    generator = torch.Generator().manual_seed(0)

    def split(n: int) -> Split:
        x = torch.randint(0, levels, (n, 1, 5, 4), generator=generator, dtype=torch.uint8)
        return Split(x, torch.randint(0, 10, (n,), generator=generator))

    return ImageData("made up", levels, split(N), split(TEST), split(val) if val else None, {})


def make(seed: int = 0, data: ImageData | None = None, **settings: Any) -> ImageDataModule:
    module = ImageDataModule(
        "made up", "nowhere", noise=Noise(seed), pixel_noise=Noise(settings.get("noise_seed", 0)), images=data or images(),
        **{"val_size": 10, **settings},
    )  # fmt: skip
    module.setup()
    return module


def test_validation_is_cut_from_the_end_of_training_and_the_test_set_stays() -> None:
    data, module = images(), make()
    assert [module.size(split) for split in ("train", "val", "test")] == [50, 10, TEST]
    val = module.evaluation_batch("val", torch.arange(10))
    torch.testing.assert_close(val.x, data.train.x[50:] / 255)
    assert torch.equal(val.y, data.train.y[50:])
    torch.testing.assert_close(module.evaluation_batch("test", torch.arange(TEST)).x, data.test.x / 255)


def test_an_official_validation_set_is_the_validation_set() -> None:
    data = images(levels=2, val=15)
    module = make(data=data, val_size=15)
    assert data.val is not None
    assert torch.equal(module.evaluation_batch("val", torch.arange(15)).x, data.val.x.float())
    everything = make(data=data, val_size=0)
    assert everything.size("train") == N + 15


def test_a_training_batch_is_a_function_of_index_and_step() -> None:
    module, index = make(binarize="dynamic"), torch.tensor([3, 1, 4])
    first, again, later = (module.train_batch(index, step) for step in (7, 7, 8))
    assert torch.equal(first.x, again.x)
    assert not torch.equal(first.x, later.x), "dynamic binarisation samples anew at each visit"
    assert set(first.x.unique().tolist()) == {0.0, 1.0}
    assert torch.equal(first.y, images().train.y[index])
    assert not torch.equal(first.x, make(seed=1, binarize="dynamic").train_batch(index, 7).x)


def test_a_rank_takes_its_rows_of_the_global_batch() -> None:
    module, index = make(binarize="dynamic"), torch.arange(11)
    whole = module.train_batch(index, 3)
    for rank in range(3):
        part = module.train_batch(index, 3, slice(rank, None, 3))
        assert torch.equal(part.x, whole.x[rank::3])
        assert torch.equal(part.index, index[rank::3])


def test_fixed_pixels_are_the_same_at_every_visit_and_for_every_seed_of_the_run() -> None:
    index = torch.arange(50)
    a, b = make(seed=0, binarize="fixed"), make(seed=1, binarize="fixed")
    assert torch.equal(a.train_batch(index, 0).x, b.train_batch(index, 9).x)
    assert torch.equal(a.evaluation_batch("train", index).x, a.train_batch(index, 0).x)
    assert not torch.equal(
        a.train_batch(index, 0).x, make(binarize="fixed", noise_seed=1).train_batch(index, 0).x
    )


@pytest.mark.parametrize("settings", [{"binarize": "dynamic"}, {"binarize": "fixed"}, {"support": "density"}])
def test_evaluation_pixels_do_not_depend_on_seed_batch_or_cut(settings: dict[str, Any]) -> None:
    a, b = make(seed=0, **settings), make(seed=1, train_size=7, **settings)
    for split in ("val", "test"):
        whole = a.evaluation_batch(split, torch.arange(10)).x
        assert torch.equal(whole, b.evaluation_batch(split, torch.arange(10)).x)
        assert torch.equal(whole[[2, 9]], a.evaluation_batch(split, torch.tensor([2, 9])).x)
    # an image is binarised alike whether it is used for validation or for training
    training = make(val_size=0, **settings).evaluation_batch("train", torch.arange(50, 60)).x
    assert torch.equal(a.evaluation_batch("val", torch.arange(10)).x, training)


def test_a_density_gets_dequantised_pixels_that_change_with_the_step() -> None:
    module, index = make(support="density"), torch.arange(50)
    a, b = module.train_batch(index, 0).x, module.train_batch(index, 1).x
    assert not torch.equal(a, b)
    assert torch.equal((a * 256).floor(), images().train.x[:50].float())
    assert torch.equal((b * 256).floor(), images().train.x[:50].float())


@pytest.mark.parametrize(
    "settings, names",
    [
        ({"batch_size": 0}, "data.batch_size=0"),
        ({"batch_size": 2.5}, "data.batch_size=2.5"),
        ({"val_size": N}, f"data.val_size={N}.*0 to {N - 1}"),
        ({"val_size": -1}, "data.val_size=-1"),
        ({"train_size": 51}, "data.train_size=51.*at most 50"),
        ({"eval_batch_size": None}, "data.eval_batch_size"),
    ],
)
def test_refused(settings: dict[str, Any], names: str) -> None:
    with pytest.raises(SettingError, match=names):
        make(**settings)
