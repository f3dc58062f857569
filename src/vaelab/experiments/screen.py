"""What a run says on the screen before it begins."""

from __future__ import annotations

import logging
import warnings

from rich.panel import Panel
from rich.table import Table
from rich.text import Text
from torch import nn

from vaelab.experiments.assembly import Parts
from vaelab.experiments.parent import Parent, differences
from vaelab.runs import RunDirectory
from vaelab.training import Trainer


def quiet_lightning() -> None:
    """Lightning's remarks about devices and tips are not repeated: the heading says what runs on what."""
    for name in ("lightning.pytorch", "lightning.fabric", "lightning"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # We have data loaders without workers on purpose: the data are tensors in memory.
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    # Where Slurm is installed, not each run is a job of its: which process starts which is said (vaelab.training.ranks).
    warnings.filterwarnings("ignore", message=".*`srun` command is available.*")
    warnings.filterwarnings("ignore", message=".*isinstance.treespec, LeafSpec.*", category=FutureWarning)


def banner(sentence: str) -> Panel:
    """What nobody may overlook."""
    return Panel(Text(sentence, style="bold"), border_style="yellow", title="other data than asked for")


def heading(parts: Parts, trainer: Trainer, run: RunDirectory) -> Text:
    """Data, device, length, directory: two lines."""
    data, plan = parts.data, parts.plan
    device = trainer.strategy.root_device.type
    where = device if trainer.world_size == 1 else f"{trainer.world_size} x {device}"
    protocol = "dequantized" if data.protocol.dequantize else f"binarize={data.protocol.binarize}"
    if data.classes is not None:
        protocol += f", classes {', '.join(map(str, data.classes))}"
    if data.mutate:
        protocol += f", {data.mutate:.0%} of the training pixels random"
    sizes = f"{data.size('train'):,} train, {data.size('val'):,} val, {data.size('test'):,} test images"
    length = f"{plan.num_steps:,} steps, {plan.steps_per_epoch:,} an epoch"
    return Text(f"{data.dataset} ({protocol}): {sizes} | {length} | {where}, {trainer.precision}\n{run.path}")


def descent(parts: Parts, parent: Parent) -> Text:
    """Whose weights a run starts from, and in which settings it differs."""
    assert parts.inherited is not None
    lines = [f"from {parent.run.path}: {', '.join(parts.inherited['loaded'])}"]
    if parts.inherited["new"]:
        lines[0] += f" | new: {', '.join(parts.inherited['new'])}"
    return Text("\n".join([*lines, *(f"  {line}" for line in differences(parent.config, parts.config))]))


def model_table(model: nn.Module) -> Table:
    """The parts of a model and their sizes; how many weights are trained, where it is not all."""
    table = Table(box=None, pad_edge=False)
    table.add_column("part")
    table.add_column("kind")
    table.add_column("parameters", justify="right")
    for name, part in model.named_children():
        table.add_row(name, type(part).__name__, f"{_size(part):,}")
    table.add_row("total", "", f"{_size(model):,}", style="bold")
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    if trained < _size(model):
        table.add_row("trained", "", f"{trained:,}", style="bold")
    return table


def _size(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())
