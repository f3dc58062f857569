"""What can be seen to be wrong with a choice of labelled images before there are any. Imports no torch."""

from __future__ import annotations

from vaelab.errors import SettingError, integer


def check(
    num_labels: int | None, label_seed: int | None, labelled_per_batch: int | None, batch_size: int
) -> None:
    """Refuse settings that no choice of labels could follow; they are those of :class:`vaelab.data.ImageDataModule`."""
    if num_labels is not None:
        integer("data.num_labels", num_labels, 1, " or null")
    beside = {"label_seed": label_seed, "labelled_per_batch": labelled_per_batch}
    for name, value in beside.items():
        if value is not None and num_labels is None:
            raise SettingError(f"data.{name}", value, "needs data.num_labels: all labels are known")
    if label_seed is not None:
        integer("data.label_seed", label_seed, 0, " or null")
    if labelled_per_batch is not None:
        integer("data.labelled_per_batch", labelled_per_batch, 1, " or null")
        if labelled_per_batch > batch_size:
            rule = f"must be at most data.batch_size={batch_size}"
            raise SettingError("data.labelled_per_batch", labelled_per_batch, rule)
