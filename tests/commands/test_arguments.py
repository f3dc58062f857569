"""What the commands without Hydra say of a flag that they do not have."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from vaelab.commands import reproduce, resume, runs


@pytest.mark.parametrize(
    "main, typed, said",
    [
        (runs.main, ("--prun",), "vae-runs: --prun: unknown flag (did you mean '--prune'?)"),
        (
            runs.main,
            ("--nothing-like-it",),
            "vae-runs: --nothing-like-it: unknown flag (see vae-runs --help)",
        ),
        (
            resume.main,
            ("run", "--dta-dir", "x"),
            "vae-resume: --dta-dir: unknown flag (did you mean '--data-dir'?)",
        ),
        (resume.main, ("run", "other"), "vae-resume: other: one more than it takes (see vae-resume --help)"),
        (
            reproduce.main,
            ("run", "--step", "3"),
            "vae-reproduce: --step: unknown flag (did you mean '--steps'?)",
        ),
        (reproduce.main, (), "vae-reproduce: the following arguments are required: DIR"),
    ],
)
def test_one_line_with_what_was_meant(
    main: Callable[..., int], typed: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(typed)
    assert (caught.value.code, capsys.readouterr().err) == (2, f"{said}\n")
