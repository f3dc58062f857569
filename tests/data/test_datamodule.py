"""What a batch of training and of evaluation is."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from vaelab.data import datamodule
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


@pytest.mark.parametrize("settings", [{"binarize": "fixed"}, {"support": "density"}])
def test_random_training_images_are_drawn_by_the_seed_and_few_are_among_many(
    settings: dict[str, Any],
) -> None:
    whole = make(**settings)
    few, more = (make(train_size=n, train_subset="random", **settings) for n in (10, 30))
    places = Noise(0).subset(50)[:30]
    assert torch.equal(more.grey("train", torch.arange(30)), whole.grey("train", places))
    assert torch.equal(more.labels("train"), whole.labels("train")[places])
    assert torch.equal(few.grey("train", torch.arange(10)), more.grey("train", torch.arange(10)))
    # what is sampled once for an image does not depend on which others there are
    drawn = more.evaluation_batch("train", torch.arange(30))
    assert torch.equal(drawn.x, whole.evaluation_batch("train", places).x)
    assert torch.equal(drawn.y, whole.labels("train")[places])
    other = make(seed=1, train_size=10, train_subset="random", **settings)
    assert other.split_digests()["train"] != few.split_digests()["train"]
    assert other.split_digests()["val"] == few.split_digests()["val"]


def test_grey_images_are_those_of_the_file_whatever_the_protocol() -> None:
    data = images(val=12)
    module = make(data=data, val_size=5, binarize="fixed")
    assert torch.equal(module.grey("test", torch.arange(TEST)), data.test.x / 255)
    assert data.val is not None
    official = torch.cat([data.train.x, data.val.x]) / 255
    assert torch.equal(module.grey("train", torch.arange(N + 7)), official[: N + 7])
    assert torch.equal(module.grey("val", torch.tensor([4, 0])), official[[N + 11, N + 7]])


def test_a_density_gets_dequantised_pixels_that_change_with_the_step() -> None:
    module, index = make(support="density"), torch.arange(50)
    a, b = module.train_batch(index, 0).x, module.train_batch(index, 1).x
    assert not torch.equal(a, b)
    assert torch.equal((a * 256).floor(), images().train.x[:50].float())
    assert torch.equal((b * 256).floor(), images().train.x[:50].float())


@pytest.mark.parametrize("val, val_size, expected", [(15, None, 15), (0, None, N // 10), (15, 5, 5)])
def test_null_validates_on_what_the_data_set_has_or_on_a_tenth(
    val: int, val_size: int | None, expected: int
) -> None:
    module = make(data=images(val=val), val_size=val_size)
    assert [module.size("train"), module.size("val")] == [N + val - expected, expected]


def test_images_that_do_not_fit_on_the_device_stay_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """The device is one that has no memory at all: what arrives there is known by its shape."""
    free = {
        "bytes": 2 * (N + TEST + 4 * TEST) * 20
    }  # the splits as bytes, those that are tested as float32 too
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free["bytes"], 2**40))
    module, device = make(val_size=0), torch.device("cuda")
    assert not datamodule._fits(module._splits, device)
    free["bytes"] += 1
    assert datamodule._fits(module._splits, device)
    assert datamodule._fits(module._splits, torch.device("cpu"))
    monkeypatch.setattr(datamodule, "_fits", lambda splits, device: False)
    module.move_to(torch.device("meta"), torch.float64)
    assert {split.x.device.type for split in module._splits.values()} == {"cpu"}
    looked_up, select = [], torch.Tensor.index_select

    def index_select(self: torch.Tensor, dim: int, index: torch.Tensor) -> torch.Tensor:
        looked_up.append(index.device.type)
        return select(self, dim, index)

    monkeypatch.setattr(torch.Tensor, "index_select", index_select)
    for batch in (
        module.train_batch(torch.tensor([3, 1]), 0),
        module.evaluation_batch("test", torch.tensor([3, 1])),
    ):
        assert (batch.x.device.type, batch.x.dtype, batch.x.shape) == ("meta", torch.float64, (2, 1, 5, 4))
        assert batch.y.device.type == "meta"
    assert module._pixels["test"].device.type == "cpu"
    assert set(looked_up) == {"cpu"}, "an index on the device does not reach images in memory"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("binarize", ["none", "fixed", "dynamic"])
@pytest.mark.parametrize("split", ["train", "test"])
def test_streamed_batches_are_those_of_images_on_the_device(
    monkeypatch: pytest.MonkeyPatch, binarize: str, split: str
) -> None:
    device, batches = torch.device("cuda", 0), []
    for fits in (True, False):
        monkeypatch.setattr(datamodule, "_fits", lambda splits, device, fits=fits: fits)
        module = make(binarize=binarize)
        module.move_to(device)
        assert module._splits["train"].x.device.type == ("cuda" if fits else "cpu")
        index = torch.tensor([3, 1, 4], device=device)
        batch = module.train_batch(index, 7) if split == "train" else module.evaluation_batch("test", index)
        assert batch.x.device == batch.y.device == batch.index.device == device
        batches.append(batch)
    assert torch.equal(batches[0].x, batches[1].x)
    assert torch.equal(batches[0].y, batches[1].y)


@pytest.mark.parametrize(
    "settings, names",
    [
        ({"batch_size": 0}, "data.batch_size=0"),
        ({"batch_size": 2.5}, "data.batch_size=2.5"),
        ({"val_size": N}, f"data.val_size={N}.*0 to {N - 1}"),
        ({"val_size": -1}, "data.val_size=-1"),
        ({"train_size": 51}, "data.train_size=51.*at most 50"),
        ({"train_size": 7, "train_subset": "last"}, "data.train_subset=last: must be one of first, random"),
        ({"train_subset": "random"}, "data.train_subset=random: needs data.train_size"),
        ({"eval_batch_size": None}, "data.eval_batch_size"),
        ({"val_size": 2.5}, "data.val_size=2.5.* or null"),
        (
            {"path": "own.npz"},
            "data.path=own.npz: data=made up does not take it; data=arrays, data=folder does",
        ),
    ],
)
def test_refused(settings: dict[str, Any], names: str) -> None:
    with pytest.raises(SettingError, match=names):
        make(**settings)


def test_the_digest_of_a_split_says_which_images_are_in_it() -> None:
    before = make().split_digests()
    assert make(seed=5, batch_size=3, binarize="dynamic").split_digests() == before, "how they are visited"
    fewer = make(val_size=9).split_digests()
    assert {name for name in before if fewer[name] != before[name]} == {"train", "val"}
    assert make(val_size=0).split_digests()["test"] == before["test"]
    for change in ("pixel", "label", "order"):
        data = images()
        x, y = data.train.x, data.train.y
        if change == "pixel":
            x[3, 0, 2, 2] ^= 1
        elif change == "label":
            y[3] += 1
        else:
            x[:2], y[:2] = x[:2].flip(0), y[:2].flip(0)
        digests = make(data=data).split_digests()
        assert {name for name in before if digests[name] != before[name]} == {"train"}
    assert make(binarize="fixed").split_digests() != make(binarize="fixed", noise_seed=1).split_digests()


def test_of_many_images_every_nth_is_digested(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datamodule, "DIGESTED", 20 * 30)
    before = make().split_digests()
    for image, counts in ((4, True), (5, False)):
        data = images()
        data.train.x[image] = 0
        assert (make(data=data).split_digests()["train"] != before["train"]) is counts


def test_only_the_images_of_the_chosen_classes_are_left_in_every_split() -> None:
    data, module = images(val=12), make(data=images(val=12), classes=[7, 0, 3], val_size=2)
    assert module.classes == (0, 3, 7)
    assert data.val is not None
    for split, stored in (("test", data.test), ("train", data.train)):
        kept = torch.isin(stored.y, torch.tensor([0, 3, 7]))
        found = module.evaluation_batch(split, torch.arange(module.size(split)))
        torch.testing.assert_close(found.x, stored.x[kept][: len(found.x)] / 255)
        assert set(found.y.tolist()) <= {0, 3, 7}
    left_out = module.held_out()
    assert len(left_out) + module.size("test") == TEST
    assert not set(left_out.y.tolist()) & {0, 3, 7}
    assert len(make().held_out()) == 0
    assert make(classes=[0, 3, 7]).split_digests() != make(classes=[0, 3]).split_digests()


@pytest.mark.parametrize("binarize", ["none", "threshold", "fixed", "dynamic"])
def test_a_share_of_the_training_pixels_becomes_any_level(binarize: str) -> None:
    index = torch.arange(50)
    plain, mutated = make(binarize=binarize), make(binarize=binarize, mutate=0.3)
    before, after = (module.train_batch(index, 3).x for module in (plain, mutated))
    levels = 256 if binarize == "none" else 2
    # a pixel that is replaced keeps its level with probability 1 / levels
    expected = 0.3 * (1 - 1 / levels)
    assert (before != after).float().mean().item() == pytest.approx(expected, abs=0.05)
    assert torch.equal(mutated.train_batch(index, 3).x, after)
    assert not torch.equal(mutated.train_batch(index, 4).x, after)
    for split in ("val", "test"):
        few = torch.arange(5)
        assert torch.equal(plain.evaluation_batch(split, few).x, mutated.evaluation_batch(split, few).x)


def test_added_images_are_measured_as_those_of_a_split_are() -> None:
    module, others = make(binarize="dynamic"), images().test
    module.add("others", others)
    assert module.size("others") == TEST
    found = module.evaluation_batch("others", torch.arange(TEST))
    same = module.evaluation_batch("test", torch.arange(TEST))
    assert set(found.x.unique().tolist()) == {0.0, 1.0}
    assert not torch.equal(found.x, same.x), "the same images under another name have noise of their own"
    assert torch.equal(found.x[4:5], module.evaluation_batch("others", torch.tensor([4])).x)


@pytest.mark.parametrize(
    "settings, names",
    [
        ({"classes": []}, r"data\.classes=\[\]: must be null or a list"),
        ({"classes": [1, 1]}, "a list of different labels"),
        ({"classes": [True]}, "a list of different labels"),
        ({"classes": [3, 11]}, "has 11, which no training image is; there are 0, 1, 2"),
        ({"mutate": 1.0}, r"data\.mutate=1\.0: must be a number >= 0 and below 1"),
    ],
)
def test_classes_and_shares_that_are_none_are_refused(settings: dict[str, Any], names: str) -> None:
    with pytest.raises(SettingError, match=names):
        make(**settings)
