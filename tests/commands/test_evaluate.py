"""vae-evaluate of weights that were trained elsewhere."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from vaelab.commands import entry, evaluate, sample
from vaelab.runs import read_cards, read_manifest
from vaelab.runs.directory import find_runs

Refused = Callable[..., str]
MODEL = ["data=digits", "data.binarize=threshold", "encoder.hidden=[5]", "decoder.hidden=[6]", "latent_dim=2"]


class Elsewhere(nn.Module):
    """A VAE as somebody else names its parts."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.fc1, self.mu, self.logvar = nn.Linear(64, 5), nn.Linear(5, 2), nn.Linear(5, 2)
        self.fc3, self.fc4 = nn.Linear(2, 6), nn.Linear(6, 64)

    def log_px(self, x: torch.Tensor, eps: torch.Tensor) -> torch.Tensor:
        """Log-weights ``[K, B]``."""
        h = torch.relu(self.fc1(x))
        mean, log_variance = self.mu(h), self.logvar(h)
        z = mean + (0.5 * log_variance).exp() * eps
        p = torch.distributions.Bernoulli(logits=self.fc4(torch.relu(self.fc3(z))))
        q = torch.distributions.Normal(mean, (0.5 * log_variance).exp())
        prior = torch.distributions.Normal(0.0, 1.0)
        return p.log_prob(x).sum(-1) + prior.log_prob(z).sum(-1) - q.log_prob(z).sum(-1)


NAMES = {
    "fc1": "encoder.layers.0", "mu": "posterior.mean", "logvar": "posterior.log_variance", "fc3": "decoder.layers.0", "fc4": "decoder.output",
}  # fmt: skip
KEY_MAP = {f"{a}.{kind}": f"{b}.{kind}" for a, b in NAMES.items() for kind in ("weight", "bias")}


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DATA_DIR", str(tmp_path / "data"))
    (tmp_path / "mine.yaml").write_text("".join(f"- {line}\n" for line in MODEL))
    (tmp_path / "names.yaml").write_text("".join(f"{a}: {b}\n" for a, b in KEY_MAP.items()))
    weights = Elsewhere().state_dict()
    save_file(weights, tmp_path / "w.safetensors")
    torch.save({"state_dict": weights, "epoch": 3}, tmp_path / "w.pt")
    return tmp_path


@pytest.mark.parametrize("name", ["w.safetensors", "w.pt"])
def test_the_numbers_are_those_of_their_own_code(
    files: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["config=mine.yaml", f"weights={name}", "key_map=names.yaml", "estimator.num_samples=2000", "trainer.accelerator=cpu"]  # fmt: skip
    assert entry.run("evaluate", evaluate.task, argv=asked) == 0, capsys.readouterr().err
    (run,) = find_runs(files / "logs")
    cards = {card.metric: card for card in read_cards(run.evaluation_file)}
    assert read_manifest(run)["imported"]["weights"] == name
    assert cards["nll"].protocol["selected_by"] == "elsewhere"
    from sklearn.datasets import load_digits

    data: Any = load_digits()
    x = torch.from_numpy(data.data[-360:] / 16 > 0.5).float()
    with torch.no_grad():
        log_w = Elsewhere().log_px(x, torch.randn(2000, 360, 2))
    theirs = -(log_w.double().logsumexp(0) - torch.tensor(2000.0).log()).mean().item()
    assert cards["nll"].se_mc is not None
    assert abs(cards["nll"].value - theirs) < 5 * 2**0.5 * cards["nll"].se_mc
    assert entry.run("sample", sample.task, argv=[f"run={run.path}"]) == 0, capsys.readouterr().err
    assert (run.path / "samples" / "selected_seed0" / "samples.png").is_file()


def test_what_does_not_fit_is_refused_and_nothing_is_written(files: Path, refused_here: Refused) -> None:
    def said(*argv: str) -> str:
        return refused_here("trainer.accelerator=cpu", *argv)

    both = ("config=mine.yaml", "weights=w.pt")
    assert said().startswith("run: has to be given, as in vae-evaluate run=DIR")
    assert said("config=mine.yaml").startswith("weights: has to be given")
    assert said("run=logs", "weights=w.pt").startswith("weights=w.pt: goes without run=DIR")
    assert said("config=none.yaml", "weights=w.pt") == "config=none.yaml: no such file"
    assert said("config=mine.yaml", "weights=none.pt") == "weights=none.pt: no such file"
    assert said("config=mine.yaml", "weights=mine.yaml").startswith("weights=mine.yaml: holds no tensors")
    message = said(*both)
    assert message.startswith("weights=w.pt: are not this model's weights: ")
    assert "encoder.layers.0.weight [5, 64] is missing" in message
    (files / "names.yaml").write_text("fc7.weight: encoder.layers.0.weight\n")
    message = said(*both, "key_map=names.yaml")
    assert message.startswith(
        "key_map=names.yaml: names fc7.weight, which is not in the weights (did you mean 'fc"
    )
    (files / "mine.yaml").write_text("- latent_dmi=3\n")
    assert "latent_dmi" in said(*both)


@pytest.mark.parametrize("kept", [0, 1, 40, 300, 700, 1200])
def test_a_file_that_torch_cannot_read_is_refused(files: Path, refused_here: Refused, kept: int) -> None:
    content = (files / "w.pt").read_bytes()
    (files / "w.pt").write_bytes(content[:kept] + bytes(reversed(content[kept:])))
    said = refused_here("config=mine.yaml", "weights=w.pt", "key_map=names.yaml")
    assert said.startswith("weights=w.pt: holds no tensors that can be read safely")


def test_interrupted_it_goes_on_in_the_directory_that_was_made(
    files: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopping(*arguments: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("vaelab.evidence.ImportanceEstimator.__call__", stopping)
    asked = ["config=mine.yaml", "weights=w.pt", "key_map=names.yaml", "trainer.accelerator=cpu"]
    assert entry.run("evaluate", evaluate.task, argv=asked) == 130
    (run,) = find_runs(files / "logs")
    assert (
        f"vae-evaluate run={run.path.relative_to(files)}, with the other settings as typed, begins again"
        in capsys.readouterr().err
    )


@pytest.mark.parametrize(
    "wrong, message",
    [
        ("estimator.repetitions=0", "estimator.repetitions=0: must be a positive integer"),
        ("estimator=ais", "estimator=ais: needs a number that may be called nll"),
        ("estimator=bdmc", "estimator=bdmc: is for models with at most 1 "),
        ("split=train", "split=train: must be one of test, val"),
        ("split=val", "split=val: the run has no validation images"),
        ("num_images=361", "num_images=361: must be at most 360"),
        ("num_images=0", "num_images=0: must be a positive integer"),
        ("seed=9223372036854775808", "seed=9223372036854775808: must be an integer from 0 to"),
        ("checkpoint=best", "checkpoint=best: weights from elsewhere are one checkpoint"),
        ("binarize=grey", "binarize=grey: must be one of"),
        ("force=1", "force=1: must be true or false"),
        ("trainer.accelerator=gpuu", "trainer.accelerator=gpuu: You selected an invalid accelerator"),
        ("trainer.devices=0", "trainer.devices=0: "),
        ("estimator=sample_quality estimator.num_samples=3", "estimator.num_samples=3: "),
        ("estimator=sample_quality num_images=3", "num_images=3: must be at least 20 here"),
        ("estimator=latents estimator.probe_images=100000", "estimator.probe_images=100000: must be at most"),
        ("estimator=latents trainer.devices=2", "trainer.devices=2: estimator=latents takes one device"),
    ],
)
def test_nothing_is_written_before_the_whole_evaluation_is_valid(
    files: Path, refused_here: Refused, wrong: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if wrong == "split=val":
        (files / "mine.yaml").write_text((files / "mine.yaml").read_text() + "- data.val_size=0\n")
    if wrong == "estimator=ais":
        (files / "mine.yaml").write_text((files / "mine.yaml").read_text().replace("threshold", "none"))
    if wrong == "estimator=bdmc":
        monkeypatch.setattr(sys.modules["vaelab.evidence.ais"], "MAX_DIMENSIONS", 1)
    base = ["config=mine.yaml", "weights=w.pt", "key_map=names.yaml"]
    here = [] if "accelerator" in wrong else ["trainer.accelerator=cpu"]
    assert refused_here(*base, *here, *wrong.split()).startswith(message)


@pytest.mark.slow
def test_two_processes_share_one_run_directory(files: Path) -> None:
    asked = [
        "config=mine.yaml",
        "weights=w.pt",
        "key_map=names.yaml",
        "estimator.num_samples=20",
        "num_images=20",
    ]
    devices = ["trainer.accelerator=cpu", "trainer.devices=2", "trainer.strategy=ddp"]
    code = "import sys; from vaelab.commands import evaluate; sys.exit(evaluate.main())"
    (files / "command.py").write_text(code)
    done = subprocess.run(
        [sys.executable, "command.py", *asked, *devices], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (run,) = find_runs(files / "logs")
    assert {card.num_images for card in read_cards(run.evaluation_file)} == {20}


@pytest.fixture
def refused_here(files: Path, capsys: pytest.CaptureFixture[str]) -> Refused:
    def _refused(*argv: str) -> str:
        capsys.readouterr()
        assert entry.run("evaluate", evaluate.task, argv=list(argv)) == 2
        assert not (files / "logs").exists()
        return capsys.readouterr().err.removeprefix("vae-evaluate: ").strip()

    return _refused
