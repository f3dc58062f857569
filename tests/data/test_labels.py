"""Which labels a run is told, and which rows of a minibatch labelled images get."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from vaelab.data.chunks import ChunkPlan
from vaelab.data.datamodule import ImageDataModule
from vaelab.data.datasets import ImageData, Split
from vaelab.data.labels import draw
from vaelab.errors import SettingError
from vaelab.noise import Noise

N, CLASSES, SIZE = 60, 5, 50


def balanced() -> ImageData:
    """60 images of five classes, of which validation takes ten."""
    generator = torch.Generator().manual_seed(0)

    def split(n: int) -> Split:
        x = torch.randint(0, 256, (n, 1, 5, 4), generator=generator, dtype=torch.uint8)
        return Split(x, torch.arange(n) % CLASSES)

    return ImageData("made up", 256, split(N), split(20), None, {})


def make(seed: int = 0, data: ImageData | None = None, **settings: Any) -> ImageDataModule:
    module = ImageDataModule(
        "made up", "nowhere", noise=Noise(seed), pixel_noise=Noise(0), images=data or balanced(),
        **{"val_size": 10, **settings},
    )  # fmt: skip
    module.setup()
    return module


def labelled(seed: int = 0, **settings: Any) -> ImageDataModule:
    given = {"num_labels": 10, **settings}
    return make(seed, **given)


def told(module: ImageDataModule) -> Tensor:
    """The images whose labels a run is told."""
    return (module.train_batch(torch.arange(SIZE), 0).y >= 0).nonzero().squeeze(-1)


@pytest.mark.parametrize("num_labels", [5, 10, 25])
def test_every_class_has_equally_many_labels_and_the_right_ones(num_labels: int) -> None:
    batch = labelled(num_labels=num_labels).train_batch(torch.arange(SIZE), 0)
    known = batch.y >= 0
    assert torch.equal(batch.y[known], (torch.arange(SIZE) % CLASSES)[known])
    assert torch.bincount(batch.y[known], minlength=CLASSES).tolist() == [num_labels // CLASSES] * CLASSES


def test_the_choice_is_that_of_its_seed_and_the_run_has_one_where_none_is_given() -> None:
    first = told(labelled(seed=0))
    assert torch.equal(first, told(labelled(seed=0)))
    assert not torch.equal(first, told(labelled(seed=1)))
    module = labelled(seed=1, label_seed=0, label_noise=Noise(0))
    assert torch.equal(first, told(module))
    record = module.label_record()
    assert record is not None
    assert record["images"] == labelled(seed=0).label_record()["images"]  # pyright: ignore[reportOptionalSubscript]
    assert record["images"] != labelled(seed=1).label_record()["images"]  # pyright: ignore[reportOptionalSubscript]
    assert make().label_record() is None


def test_fewer_labels_are_some_of_the_more() -> None:
    fewer, more = (set(told(labelled(num_labels=n)).tolist()) for n in (10, 25))
    assert fewer < more


def test_validation_and_test_keep_their_labels() -> None:
    module, whole = labelled(), make()
    for split, size in (("val", 10), ("test", 20)):
        index = torch.arange(size)
        assert torch.equal(module.evaluation_batch(split, index).y, whole.evaluation_batch(split, index).y)  # pyright: ignore[reportArgumentType]
    assert module.num_classes == CLASSES
    assert module.split_digests()["train"] != whole.split_digests()["train"]
    assert module.split_digests()["test"] == whole.split_digests()["test"]


def steps(module: ImageDataModule, number: int, accumulate: int = 1) -> list[Tensor]:
    """The images of the first steps, as they are handed to training."""
    module.plan = ChunkPlan(module.rows.per_epoch, module.rows.per_batch * accumulate, number, chunk_steps=3)
    return [module.step_index(step) for step in range(number)]


def test_labelled_images_get_their_rows_of_every_batch_and_an_epoch_is_of_the_others() -> None:
    module = labelled(batch_size=12, labelled_per_batch=4)
    known = set(told(module).tolist())
    seen = steps(module, 10)  # 40 others, eight a step: five steps an epoch
    for index in seen:
        assert [i in known for i in index.tolist()] == [False] * 8 + [True] * 4
    epochs = [torch.cat([index[:8] for index in seen[:5]]), torch.cat([index[:8] for index in seen[5:]])]
    assert all(epoch.sort().values.tolist() == sorted(set(range(SIZE)) - known) for epoch in epochs)
    assert not torch.equal(*epochs)
    beside = torch.cat([index[8:] for index in seen])
    passages = beside.split(10)  # every passage has each of the ten once
    assert all(set(passage.tolist()) == known for passage in passages)
    assert len({tuple(passage.tolist()) for passage in passages}) == len(passages)


def test_more_rows_than_labels_show_images_more_than_once() -> None:
    module = labelled(num_labels=5, batch_size=20, labelled_per_batch=12)
    known, beside = told(module).tolist(), steps(module, 5)[0][8:]
    assert sorted(torch.bincount(beside, minlength=SIZE)[known].tolist()) == [2, 2, 2, 3, 3]


def test_batches_of_labelled_images_alone() -> None:
    module = labelled(batch_size=5, labelled_per_batch=5)
    known = told(module).tolist()
    seen = steps(module, 4)
    assert all(sorted(torch.cat(seen[i : i + 2]).tolist()) == known for i in (0, 2))
    assert module.plan is not None
    assert module.plan.steps_per_epoch == SIZE // 5  # as many as of all images


def test_accumulated_minibatches_have_as_many_labelled_images_each() -> None:
    one = steps(labelled(batch_size=12, labelled_per_batch=4), 4)
    two = steps(labelled(batch_size=12, labelled_per_batch=4), 2, accumulate=2)
    for part in (0, 1):
        both = one[2 * part : 2 * part + 2]
        assert torch.equal(two[part][:16], torch.cat([index[:8] for index in both]))
        assert torch.equal(two[part][16:], torch.cat([index[8:] for index in both]))


@pytest.mark.parametrize(
    "settings, mixed",
    [
        ({"batch_size": 12, "labelled_per_batch": 4}, False),
        ({"batch_size": 5, "labelled_per_batch": 5}, False),
        ({"batch_size": 12}, True),
        ({"batch_size": 12, "num_labels": None}, False),
    ],
)
@pytest.mark.parametrize("accumulate", [1, 2])
def test_where_labels_begin_is_known_without_looking(
    settings: dict[str, Any], mixed: bool, accumulate: int
) -> None:
    module = labelled(**settings)
    for index in steps(
        module, 6, accumulate
    ):  # 40 images in eights, or 50 in twelves: the last batch is short
        first = module.first_labelled(len(index))
        assert (first is None) == mixed
        if first is not None:
            given = module.train_batch(index, 0).y >= 0
            assert torch.equal(given, torch.arange(len(index)) >= first)


@pytest.mark.parametrize(
    "settings, setting, rule",
    [
        ({"num_labels": 7}, "data.num_labels", "must be a multiple of 5"),
        ({"num_labels": 100}, "data.num_labels", "must be at most 50: a class has 10 training images"),
        ({"num_labels": 0}, "data.num_labels", "must be a positive integer or null"),
        ({"num_labels": None, "label_seed": 1}, "data.label_seed", "needs data.num_labels"),
        ({"num_labels": None, "labelled_per_batch": 1}, "data.labelled_per_batch", "needs data.num_labels"),
        ({"labelled_per_batch": 9, "batch_size": 8}, "data.labelled_per_batch", "at most data.batch_size=8"),
        ({"num_labels": 50, "batch_size": 8, "labelled_per_batch": 4}, "data.labelled_per_batch", "all 50 are labelled"),
        ({"label_seed": -1}, "data.label_seed", "must be an integer >= 0 or null"),
    ],
)  # fmt: skip
def test_a_choice_that_cannot_be_made_is_refused(settings: dict[str, Any], setting: str, rule: str) -> None:
    with pytest.raises(SettingError, match=rule) as error:
        labelled(**settings)
    assert error.value.setting == setting


def test_images_without_labels_leave_nothing_to_choose() -> None:
    data = balanced()
    bare = ImageData("made up", 256, Split(data.train.x, torch.full((N,), -1)), data.test, None, {})
    with pytest.raises(SettingError, match="needs data with a label for every image"):
        make(data=bare, num_labels=10)


def test_the_draw_takes_the_first_of_each_class() -> None:
    y, order = torch.tensor([0, 0, 1, 1, 1]), torch.tensor([4, 1, 0, 3, 2])
    assert draw(y, 2, order).tolist() == [1, 4]


def test_classes_that_are_left_out_need_no_labels() -> None:
    y, order = torch.tensor([0, 0, 3, 3, 3]), torch.tensor([4, 1, 0, 3, 2])
    assert draw(y, 2, order).tolist() == [1, 4]
    with pytest.raises(SettingError, match="must be a multiple of 2,"):
        draw(y, 3, order)
    with pytest.raises(SettingError, match="must be at most 4: a class has 2"):
        draw(y, 6, order)
