"""Many samples in parts: the same numbers, whatever the parts, and as much memory as there is."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from oracles import Oracle
from vaelab.batch import Batch
from vaelab.evidence import RowLimit, streamed
from vaelab.evidence.streaming import ImageLimit, in_halves
from vaelab.models import Terms

K = 12


def log_w(terms: Terms) -> Tensor:
    return terms.log_w


class Small:
    """A model on a machine whose memory holds only so many samples."""

    def __init__(self, oracle: Oracle, rows: int, error: type[RuntimeError] = torch.OutOfMemoryError, text: str = "") -> None:  # fmt: skip
        self.oracle, self.rows, self.error, self.text = oracle, rows, error, text
        self.seen: list[int] = []

    def __call__(self, batch: Batch, eps: Tensor) -> Any:
        self.seen.append(eps.shape[0] * eps.shape[1])
        if self.seen[-1] > self.rows:
            raise self.error(self.text)
        return self.oracle.model(batch, eps)


@pytest.mark.parametrize("rows", [1, 2, 5, 7, 12, 13, 40, 1000])
def test_parts_give_what_the_whole_gives(rows: int) -> None:
    oracle, small = Oracle(exact=False), Small(Oracle(exact=False), rows)
    eps = oracle.eps(K)
    parts = streamed(small, oracle.batch, eps, RowLimit(rows), log_w)
    torch.testing.assert_close(parts, oracle.model(oracle.batch, eps).log_w, rtol=1e-12, atol=1e-12)
    assert max(small.seen) <= rows
    assert sum(small.seen) == K * 7, "no sample is computed twice"


@pytest.mark.parametrize(
    "error, text",
    [
        (torch.OutOfMemoryError, "CUDA out of memory. Tried to allocate"),
        (RuntimeError, "DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes."),
        (RuntimeError, "MPS backend out of memory"),
    ],
)
def test_less_memory_than_thought_halves_the_limit_and_nothing_else(
    error: type[RuntimeError], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    oracle, limit = Oracle(exact=False), RowLimit(100)
    small = Small(oracle, 13, error, text)
    parts = streamed(small, oracle.batch, oracle.eps(K), limit, log_w)
    torch.testing.assert_close(parts, oracle.model(oracle.batch, oracle.eps(K)).log_w, rtol=1e-12, atol=1e-12)
    assert limit.on(torch.device("cpu")) == 12
    assert capsys.readouterr().out.count("out of memory: going on with") == 3
    small.seen.clear()
    streamed(small, oracle.batch, oracle.eps(K), limit, log_w)
    assert max(small.seen) <= 12, "the limit stays"


def test_what_no_limit_helps_is_raised() -> None:
    oracle = Oracle(exact=False)
    with pytest.raises(torch.OutOfMemoryError):
        streamed(Small(oracle, 0), oracle.batch, oracle.eps(K), RowLimit(8), log_w)
    with pytest.raises(RuntimeError, match="shapes"):
        streamed(Small(oracle, 0, RuntimeError, "shapes"), oracle.batch, oracle.eps(K), RowLimit(8), log_w)


def test_fewer_images_at_once_are_remembered(capsys: pytest.CaptureFixture[str]) -> None:
    seen: list[int] = []

    def measure(images: slice) -> dict[str, Tensor]:
        seen.append(images.stop - images.start)
        if seen[-1] > 3:
            raise torch.OutOfMemoryError
        return {"index": torch.arange(images.start, images.stop)}

    limit = ImageLimit(10)
    assert in_halves(measure, 10, limit)["index"].tolist() == list(range(10))
    assert seen == [10, 5, 3, 3, 3, 1]
    seen.clear()
    assert in_halves(measure, 7, limit)["index"].tolist() == list(range(7))
    assert seen == [3, 3, 1], "the limit stays"
    assert capsys.readouterr().out.count("out of memory") == 2
    with pytest.raises(RuntimeError, match="shapes"):
        in_halves(lambda images: (_ for _ in ()).throw(RuntimeError("shapes")), 2, limit)
