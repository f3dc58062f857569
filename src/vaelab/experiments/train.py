"""A configuration in, a run directory with its number out."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from secrets import token_hex
from typing import Any

import numpy as np
import torch
from PIL import Image
from rich.console import Console

from vaelab import figures
from vaelab.build import build
from vaelab.data.datamodule import ImageDataModule
from vaelab.errors import RunFailed, SettingError
from vaelab.experiments.assembly import COPYING, Parts, assemble, build_trainer, check_engine, check_takes
from vaelab.experiments.cards import cards, fallback_warning, protocol_record, selected_by
from vaelab.experiments.environment import torch_record
from vaelab.experiments.parent import Parent
from vaelab.experiments.ranks import CHECKPOINT, PRUNING, RUN_DIRECTORY, announce, is_main_process
from vaelab.experiments.recording import Ending, recorded
from vaelab.experiments.request import Request
from vaelab.experiments.screen import banner, descent, heading, model_table, quiet_lightning
from vaelab.loading import give_weights, weights_bytes, weights_digest
from vaelab.report import try_to_report
from vaelab.runs import (
    Card,
    ConsoleLog,
    RunDirectory,
    Secrets,
    code_record,
    complete_manifest,
    drift,
    read_arrays,
    read_manifest,
    start_manifest,
    write_atomically,
    write_cards,
    write_yaml,
)
from vaelab.runs.cards import table
from vaelab.runs.frames import Frames
from vaelab.runs.interruption import Interrupted, StopRequest
from vaelab.runs.lock import held
from vaelab.runs.manifest import missing
from vaelab.runs.metrics import OWN, STEP, validation_at
from vaelab.runs.metrics import read as read_metrics
from vaelab.runs.status import Status
from vaelab.training import (
    Callback,
    Checkpoints,
    MetricsFile,
    PerImageParts,
    Pruning,
    Report,
    RunProgress,
    StepsDone,
    TrackerPictures,
    Trainer,
    VAEModule,
    close_wandb,
    draw,
    open_wandb,
)
from vaelab.training.checkpoints import Found, file_digest, newest, read_checkpoint
from vaelab.training.loggers import (
    WandbTracker,
    extremes,
    log_animation,
    log_picture,
    mark_pruned,
    record_files,
    wandb_sweep,
)
from vaelab.training.pictures import Artist

#: the test's values, image by image
PER_IMAGE = "per_image.npz"


@dataclass(frozen=True)
class Result:
    """What a run came to.

    Attributes:
        directory: of the run.
        cards: its numbers; none of a run that was given up.
        score: of the selected checkpoint in validation, of a run that was given up its last one; None without validation.
    """

    directory: Path
    cards: list[Card]
    score: float | None


def train(
    config: dict[str, Any],
    request: Request = Request(),
    callbacks: Sequence[Callback] = (),
    report: Report | None = None,
) -> Result:
    """Train, validate, test the selected checkpoint, and write the run directory.

    Args:
        config: resolved, primitives only.
        request: how it was asked for.
        callbacks: Lightning callbacks beside those that the configuration names.
        report: told the score of each validation, and which one it is, it says whether to give the run up (status ``pruned``: it is not tested); None = nobody is told.

    Raises:
        SettingError: something a person got wrong; nothing was written.
        RunFailed: the run began and did not complete; its directory says why.
    """
    prepare_process()
    check_takes(config, [*request.overrides, *request.chosen])
    parent = None if config["init_from"] is None else Parent.open(config["init_from"])
    parts = assemble(config, parent)
    trainer = build_trainer(parts)
    check_engine(parts, trainer)
    trainer.callbacks.extend(callbacks)  # pyright: ignore[reportAttributeAccessIssue]
    if not is_main_process():
        return as_rank(parts, trainer)
    run = RunDirectory.create(
        request.parent or Path(config["paths"]["log_dir"]) / config["name"], request.directory
    )

    def begin(secrets: Secrets) -> None:
        _write_record(parts, trainer, run, request, parent, secrets)
        if request.note is not None:
            request.note.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(request.note, str(run.path.resolve()))
        if request.fallback_reason is not None:
            Console().print(banner(request.fallback_reason))
        _say_what_runs(parts, trainer, run)
        if request.stack is not None:
            print(f"trained as member {request.stack['member']} of {drift.together(request.stack)}")
        if parent is not None:
            Console().print(descent(parts, parent))

    with held(run.path, "carried out"):
        return carry_out(parts, trainer, run, begin, token_hex(8), report=report)


def prepare_process() -> None:
    """What holds for the whole process, and moves numbers or costs time."""
    torch.set_flush_denormal(
        True
    )  # Adam's second moments become denormal within an epoch, and then cost a third of it
    if (
        not torch.cuda.is_available()
    ):  # torch asks at every optimizer step, in Lightning's way: 0.1 ms each where there is no driver
        os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "0"
    quiet_lightning()


def as_rank(parts: Parts, trainer: Trainer) -> Result:
    """In a rank that was started by running the command again: it only trains and tests."""
    run, stop = RunDirectory(Path(os.environ[RUN_DIRECTORY])), StopRequest()
    named = os.environ.get(CHECKPOINT)
    found = None if named is None else newest(run.checkpoints)[0]
    assert found is None or str(found.path) == named
    pruning = Pruning(parts.config["score"]["name"], None) if PRUNING in os.environ else None
    try:
        with stop.watching():
            _fit_and_test(parts, trainer, run, stop, found, pruning)
    except Interrupted as error:
        raise RunFailed(str(error), error.exit_status) from error
    return Result(run.path, [], None)


def carry_out(
    parts: Parts,
    trainer: Trainer,
    run: RunDirectory,
    begin: Callable[[Secrets], None],
    tracker_id: str,
    found: Found | None = None,
    report: Report | None = None,
) -> Result:
    """Train, test and record, in a run directory that is there.

    Args:
        parts: of the run.
        trainer: that carries them out.
        run: the directory.
        begin: called first, with what no record may hold, within what goes into ``console.log``; after it the manifest is there.
        tracker_id: of the run at the tracker.
        found: the checkpoint that the run goes on from; None = from the first step.
        report: as of :func:`train`.

    Raises:
        RunFailed: it did not complete; the directory says why.
    """
    config = parts.config
    announce(
        run.path,
        None if found is None else found.path,
        resumed=run.manifest_file.is_file(),
        may_be_given_up=report is not None,
    )
    pruning = None
    if report is not None:
        pruning = Pruning(config["score"]["name"], report, _scores(run, config["score"]["name"]))
    secrets = Secrets.of(os.environ, config)
    with ExitStack() as stack:
        for name in (RUN_DIRECTORY, CHECKPOINT, PRUNING):
            stack.callback(os.environ.pop, name, None)
        if config["report"]:
            stack.callback(try_to_report, run.path)  # last, when the status and the log are whole
        console = stack.enter_context(ConsoleLog(run.console_file, secrets.redact))
        ending = stack.enter_context(recorded(run, secrets.redact))
        begin(secrets)
        if config["trainer"]["enable_progress_bar"]:
            trainer.callbacks.insert(0, RunProgress(console.screen))  # pyright: ignore[reportAttributeAccessIssue]
        trainer.loggers = [MetricsFile(run.metrics_file), *_loggers(parts, run, ending, tracker_id)]
        for callback in trainer.callbacks:  # pyright: ignore[reportAttributeAccessIssue]
            if isinstance(callback, TrackerPictures):
                callback.frames = Frames(run.frames)
        trainer.callbacks.append(StepsDone(ending.heartbeat))  # pyright: ignore[reportAttributeAccessIssue]
        started = time.perf_counter()
        checkpoints, step, seconds = _fit_and_test(parts, trainer, run, ending.stop, found, pruning)
        if checkpoints.given_up is not None:
            _give_up(run, ending, trainer, checkpoints, config["score"]["name"])
            print(f"{time.perf_counter() - started:.0f} s  {run.path}")
            return Result(run.path, [], checkpoints.given_up.score)
        numbers = _cards(parts, run, checkpoints, seconds)
        _finish(parts, trainer, run, checkpoints, step, numbers)
        Console().print(table(numbers))
        print(f"{time.perf_counter() - started:.0f} s  {run.path}")
    checkpoints.discard()
    return Result(run.path, numbers, checkpoints.best_score)


def _fit_and_test(
    parts: Parts,
    trainer: Trainer,
    run: RunDirectory,
    stop: StopRequest,
    found: Found | None,
    pruning: Pruning | None,
) -> tuple[Checkpoints, int, float]:
    """Train, then test the selected weights, unless the run was given up; what every rank does. Returns the last step and the seconds of the test too."""
    config, module = parts.config, parts.module
    checkpoints = Checkpoints(
        run.checkpoints,
        config["score"]["name"],
        config["score"]["mode"],
        config["checkpoints"]["every_n_steps"],
        config["checkpoints"].get("keep", "best_and_last"),  # an older run has none
    )
    callbacks = [checkpoints] if pruning is None else [checkpoints, pruning]  # the best one is saved first
    trainer.callbacks.extend(callbacks)  # pyright: ignore[reportAttributeAccessIssue]
    module.stop, module.fault_file = stop, run.skipped_batch_file
    module.fingerprint = MetricsFile(run.fingerprint_file)
    if found is None or not found.finished:
        with stop.deferred():
            trainer.fit(
                module,
                datamodule=parts.data,
                ckpt_path=None if found is None else found.path,
                weights_only=True,
            )
    module.fingerprint.finalize("success")
    step = checkpoints.read_back()
    if checkpoints.given_up is not None:
        return checkpoints, step, 0.0
    load_weights(module, checkpoints.selected)
    return checkpoints, step, measure(parts, trainer, run.path / PER_IMAGE)


def measure(parts: Parts, trainer: Trainer, per_image: Path) -> float:
    """Measure what the data module says is tested by the module's estimator; what every rank does.

    The main process leaves the values of all images at ``per_image``; those that are found in the folder of parts beside it,
    ``per_image/``, are not measured again.

    Returns:
        the wall-clock seconds that the measurement took.
    """
    module, data = parts.module, parts.data
    results = PerImageParts(per_image.with_suffix(""))
    tested = data.tested
    index = torch.arange(data.size(tested.split)) if tested.index is None else tested.index
    earlier = results.read()
    if earlier:
        index = index[~torch.isin(index, torch.from_numpy(earlier["index"]).long())]
        print(f"{len(earlier['index'])} images are measured already, {len(index)} are left", flush=True)
    data.tested = replace(tested, index=index, batch_size=module.estimator.images_at_once)
    module.results = results
    if len(index):
        try:
            trainer.test(module, datamodule=data, verbose=False)
        finally:
            results.flush()
    return results.merge(per_image) / trainer.world_size if is_main_process() else 0.0


def load_weights(module: VAEModule, checkpoint: Path) -> None:
    """Give the module the weights of a checkpoint. Raises SettingError for one that cannot be read, or of another model."""
    content = read_checkpoint(checkpoint)
    weights = content.get("state_dict") if isinstance(content, dict) else None
    if not isinstance(weights, dict):
        raise SettingError("checkpoint", checkpoint, "holds no weights")
    give_weights(module, weights, checkpoint)


def _write_record(
    parts: Parts,
    trainer: Trainer,
    run: RunDirectory,
    request: Request,
    parent: Parent | None,
    secrets: Secrets,
) -> None:
    config, data = parts.config, parts.data
    write_yaml(run.config_file, secrets.redact(config))
    write_yaml(run.overrides_file, secrets.words(request.overrides))
    if request.defaults is not None:
        write_yaml(run.defaults_file, secrets.redact(request.defaults))
    manifest = start_manifest(
        run,
        argv=request.argv,
        overrides=request.overrides,
        experiment=request.experiment,
        seed=config["seed"],
        precision=str(trainer.precision),
        parent=None if parent is None else _parent_record(parent, parts),
        sweep=request.sweep,
        data=data_record(data, request.requested_data, request.fallback_reason),
        config=config,
        code=code_record(run, secrets),
        secrets=secrets,
        **({} if request.stack is None else {"stack": request.stack}),
        **torch_record(trainer),
    )
    for line in missing(manifest):
        print(line)


def data_record(
    data: ImageDataModule, requested: str | None = None, fallback_reason: str | None = None
) -> dict[str, Any]:
    """What the manifest says of the data, and of those that they took the place of."""
    assert data.images is not None
    return {
        "requested": requested or data.dataset,
        "actual": data.dataset,
        "fallback_reason": fallback_reason,
        "digests": dict(data.images.digests),
        "splits": data.split_digests(),
        "notes": list(data.images.notes),
        "image_shape": list(data.image_shape),
        "num_levels": data.images.num_levels,
        "num_classes": data.num_classes,
        "labels": data.label_record(),
        "num_train": data.size("train"),
        "num_val": data.size("val"),
        "num_test": data.size("test"),
        "protocol": data.protocol.record(),
    }


def _parent_record(parent: Parent, parts: Parts) -> dict[str, Any]:
    """Where the first weights came from."""
    return {
        "run": parent.run.name,
        "directory": str(parent.run.path),
        "weights": file_digest(parent.run.weights_file),
        "parts": parts.inherited,
    }


def _say_what_runs(parts: Parts, trainer: Trainer, run: RunDirectory) -> None:
    console = Console()
    console.print(heading(parts, trainer, run))
    console.print(model_table(parts.module.model))


def _loggers(parts: Parts, run: RunDirectory, ending: Ending, tracker_id: str) -> list[Any]:
    """The loggers that ``logger`` asks for, beside ``metrics.csv``."""
    node = parts.config["logger"]
    kind = node["name"]
    if kind == "none":
        return []
    if kind == "wandb":
        if any(str(parts.config["trainer"]["strategy"]).startswith(name) for name in COPYING):
            print(
                "logger=wandb cannot follow the copied processes of this strategy: metrics.csv only (trainer=ddp can)"
            )
            return []
        manifest = read_manifest(run)
        sweep, tracker = manifest.get("sweep"), manifest["tracker"] or {}
        of_agent = wandb_sweep(os.environ) or tracker.get("sweep")  # resumed, it is what it was
        group = sweep["name"] if sweep else None if of_agent else parts.config["name"]
        logger = open_wandb(
            run.path,
            project=node["project"],
            entity=node["entity"],
            name=run.name,
            group=node["group"] or group,  # W&B has the runs of a sweep of its own together without one
            job_type="sweep" if sweep else None,
            tags=[str(tag) for tag in parts.config["tags"]],
            config=parts.config,
            run_id=tracker_id,
        )
        if logger is None:
            return []
        ending.actions.append(lambda exit_status: _close(logger, exit_status, run))
        if not logger.offline:
            print(f"W&B: {logger.run.url}")
        noted = {"kind": "wandb", "id": logger.version, "project": node["project"]}
        _note_tracker(run, noted if of_agent is None else {**noted, "sweep": of_agent})
        logger.keep(record_files(run))
        return [logger]
    # A folder of its own in the run directory, named after the logger.
    logger = build({k: v for k, v in node.items() if k != "name"}, "logger", save_dir=run.path, name=kind)
    ending.actions.append(lambda exit_status: _close(logger, exit_status, run))
    return [logger]


def _close(logger: Any, exit_status: int, run: RunDirectory) -> None:
    if not isinstance(logger, WandbTracker):
        try:
            logger.finalize("success" if exit_status == 0 else "failed")
        except Exception as error:  # the run has its record already
            print(f"{type(logger).__name__} did not close: {error}")
        return
    rows = read_metrics(run.metrics_file, OWN) if run.metrics_file.is_file() else []
    logger.summarize(extremes(rows))
    upload = close_wandb(logger, exit_status, lambda: record_files(run))
    if upload is not None:
        print(f"W&B kept the run on disk; to upload it:  {upload}")


def _note_tracker(run: RunDirectory, tracker: dict[str, Any]) -> None:
    complete_manifest(run, Status.RUNNING, tracker=tracker)


def _cards(parts: Parts, run: RunDirectory, checkpoints: Checkpoints, seconds: float) -> list[Card]:
    how = selected_by(parts.config, checkpoints.best_score is not None)
    data = read_manifest(run)["data"]
    warning = fallback_warning(data["requested"], data["actual"]) if data["fallback_reason"] else None
    protocol = make_protocol(parts, how)
    numbers = make_cards(parts, run.path / PER_IMAGE, protocol, seconds, warning)
    write_cards(run.evaluation_file, numbers)
    return numbers


def make_protocol(parts: Parts, selected_by: str) -> dict[str, Any]:
    """The protocol of a measurement of these parts, for their cards."""
    record = protocol_record(parts.config, parts.data.protocol, parts.label, selected_by)
    return {**record, "data": parts.data.identity}


def make_cards(
    parts: Parts,
    per_image: Path,
    protocol: dict[str, Any],
    seconds: float,
    warning: str | None = None,
) -> list[Card]:
    """The cards of a test, from its per-image values."""
    values = read_arrays(per_image)
    for name, column in values.items():
        lost = int((~np.isfinite(column)).sum())
        if lost and not name.startswith("acceptance"):  # nan where there was no trajectory
            advice = "the run diverged; lower optimizer.lr, or bound the gradient with optimizer.clip_norm"
            raise FloatingPointError(f"{name} of {lost} of {len(column)} images is not finite: {advice}")
    made = cards(
        values,
        parts.module.estimator,
        split=parts.data.tested.split,
        protocol=protocol,
        num_pixels=int(np.prod(parts.data.image_shape)),
        checkpoint=weights_digest(parts.module.evaluated.state_dict()),
        seconds=seconds,
        closed_form=parts.module.objective.traits.closed_form_kl,
        warning=warning,
    )
    return [replace(card, seed=parts.module.noise.seed) for card in made]


def _scores(run: RunDirectory, score: str) -> dict[int, float]:
    """Step -> score, of the validations that a run has had so far."""
    rows = read_metrics(run.metrics_file) if run.metrics_file.is_file() else []
    return {int(row[STEP]): row[score] for row in rows if score in row}


def _give_up(
    run: RunDirectory, ending: Ending, trainer: Trainer, checkpoints: Checkpoints, score: str
) -> None:
    """Of a run that was given up: what is known of it."""
    found = checkpoints.given_up
    assert found is not None
    place = f"at validation {found.validation} of {found.validations}"
    ending.status, ending.why = Status.PRUNED, place
    mark_pruned(trainer.loggers)
    complete_manifest(run, Status.RUNNING, best_score=checkpoints.best_score, given_up=asdict(found))
    print(f"pruned {place}: {score} {found.score:.6g}; vae-resume {run.path} goes on with it all the same")


def _finish(
    parts: Parts,
    trainer: Trainer,
    run: RunDirectory,
    checkpoints: Checkpoints,
    step: int,
    numbers: list[Card],
) -> None:
    """Weights, pictures, and the numbers in every logger."""
    module = parts.module
    write_atomically(run.weights_file, weights_bytes(module.evaluated.state_dict()))
    metrics = {f"{card.split}/{card.metric}": card.value for card in numbers}
    selected = validation_at(run.metrics_file, checkpoints.best_step, OWN)
    for logger in trainer.loggers:
        logger.log_metrics(metrics, step=step)
        if isinstance(logger, WandbTracker):
            logger.summarize(selected)
    module.evaluated.eval()
    artist = Artist(module.evaluated, parts.data, module.noise, generates=module.objective.learns_evidence)
    for path in draw_pictures(artist, run, run.figures, checkpoints.best_step):
        with Image.open(path) as image:
            log_picture(trainer.loggers, f"figures/{path.stem}", np.asarray(image.convert("RGB")), step)
    try:
        animation = draw_animation(run, run.figures, parts.plan.steps_per_epoch)
    except SettingError as error:  # somebody has changed a frame: no reason for the run to fail
        print(f"no animation: {error}")
        animation = None
    if animation is not None:
        log_animation(trainer.loggers, "figures/animation", animation, step)
    complete_manifest(
        run,
        Status.RUNNING,
        best_score=checkpoints.best_score,
        best_step=checkpoints.best_step,
        steps=step,
        checkpoints={
            path.name: file_digest(path) for path in (checkpoints.last, checkpoints.best) if path.is_file()
        },
        weights=file_digest(run.weights_file),
        cards=[card.to_dict() for card in numbers],
    )


def draw_pictures(artist: Artist, run: RunDirectory, folder: Path, best_step: int | None) -> list[Path]:
    """Every picture of a run, into ``folder``. Returns the files."""
    rows = read_metrics(run.metrics_file, OWN) if run.metrics_file.is_file() else []  # weights from elsewhere
    pictures = draw(artist, rows, best_step)
    return [figures.save(figure, folder / f"{name}.png") for name, figure in pictures.items()]


def draw_animation(run: RunDirectory, folder: Path, steps_per_epoch: int) -> Path | None:
    """The run's frames as ``samples.gif`` in ``folder``; None where it has none."""
    frames = Frames(run.frames).read()
    if not frames:
        return None
    labels = [f"step {frame.step:,}, epoch {frame.step / steps_per_epoch:.4g}" for frame in frames]
    path = folder / "samples.gif"
    write_atomically(path, figures.animation(np.stack([frame.picture for frame in frames]), labels))
    return path
