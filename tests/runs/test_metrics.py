import math

import pytest

from vaelab.errors import SettingError
from vaelab.runs import metrics
from vaelab.runs.metrics import MetricsWriter, read


def test_values_read_back_exactly_and_columns_keep_their_order(tmp_path):
    path = tmp_path / "metrics.csv"
    with MetricsWriter(path) as writer:
        writer.append(1, {"b": 0.1 + 0.2, "a": math.inf})
        writer.append(2, {"a": -1e-300})
        writer.append(3, {"c": math.nan})
    assert path.read_text().splitlines()[0] == "step,b,a,c"
    rows = read(path)
    assert rows[0] == {"step": 1, "b": 0.1 + 0.2, "a": math.inf}
    assert rows[1] == {"step": 2, "a": -1e-300}
    assert math.isnan(rows[2]["c"])


def test_equal_steps_are_one_row_in_which_the_later_value_stands(tmp_path):
    path = tmp_path / "metrics.csv"
    with MetricsWriter(path) as writer:
        writer.append(1, {"a": 0.123456789, "b": 1.0})
        writer.append(1, {"b": 2.0, "a": 5.0})  # shorter than what stood there
        writer.append(1, {"c": 3.0})  # a new column
        assert read(path) == [{"step": 1, "a": 5.0, "b": 2.0, "c": 3.0}]
        writer.append(2, {"a": 1.0})
        writer.append(2, {"b": 7.25})  # longer, in place
        assert read(path)[1:] == [{"step": 2, "a": 1.0, "b": 7.25}]
        with pytest.raises(ValueError, match="step 1 after step 2"):
            writer.append(1, {"a": 0.0})


def test_every_append_is_in_the_file_at_once(tmp_path):
    writer = MetricsWriter(tmp_path / "metrics.csv")
    for step in range(5):
        writer.append(step, {"a": step})
        assert len(read(tmp_path / "metrics.csv")) == step + 1
    writer.close()


def test_a_cut_back_and_continued_file_equals_an_undisturbed_one(tmp_path):
    def log(writer, steps):
        for step in steps:
            writer.append(step, {"train/elbo": -step / 7})
            if step % 3 == 0:
                writer.append(step, {"val/elbo": -step / 9})

    with MetricsWriter(tmp_path / "whole.csv") as writer:
        log(writer, range(1, 12))
    for k in range(12):
        path = tmp_path / f"{k}.csv"
        with MetricsWriter(path) as writer:
            log(writer, range(1, 12))
        with open(path, "a") as file:
            file.write("12,-1.5")  # torn
        with MetricsWriter(path) as writer:
            writer.truncate_after(k)
            log(writer, range(k + 1, 12))
        assert path.read_bytes() == (tmp_path / "whole.csv").read_bytes()


def test_a_torn_last_line_is_dropped(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_text("step,a\n1,0.5\n2,0.123456789")
    assert read(path) == [{"step": 1, "a": 0.5}]
    with MetricsWriter(path) as writer:
        writer.append(2, {"a": 0.25})
    assert path.read_text() == "step,a\n1,0.5\n2,0.25\n"


@pytest.mark.parametrize("key", ["step", "", "a,b", "a\nb", 'a"b'])
def test_a_key_that_cannot_be_a_column_is_refused(tmp_path, key):
    with MetricsWriter(tmp_path / "m.csv") as writer, pytest.raises(ValueError, match="cannot name"):
        writer.append(1, {key: 1.0})
    assert read(tmp_path / "m.csv") == []


def test_a_run_goes_on_with_what_is_too_long_for_a_file_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.setattr(metrics, "MOST", 100)
    with MetricsWriter(tmp_path / "metrics.csv") as writer:
        for step in range(1, 41):
            writer.append(step, {"train/loss": 1 / step})
    with MetricsWriter(tmp_path / "metrics.csv") as writer:
        writer.truncate_after(30)
        writer.append(31, {"val/elbo": -1.0})
    assert len(metrics.read(tmp_path / "metrics.csv", metrics.OWN)) == 31
    with pytest.raises(SettingError, match="larger than the 100 bytes"):
        metrics.read(tmp_path / "metrics.csv", metrics.MOST)


@pytest.mark.parametrize("line", ["2,0.5,1.0", "x,0.5", "2,half"])
def test_a_line_that_is_none_of_ours_is_refused_by_the_name_of_the_file(tmp_path, line):
    path = tmp_path / "metrics.csv"
    path.write_text(f"step,train/loss\n1,0.5\n{line}\n")
    for reading in (metrics.read, MetricsWriter):
        with pytest.raises(SettingError, match=r"metrics\.csv: is not a table of metrics"):
            reading(path)


def test_a_foreign_file_is_refused(tmp_path):
    (tmp_path / "m.csv").write_text("epoch,a\n1,2\n")
    with pytest.raises(ValueError, match="first column"):
        read(tmp_path / "m.csv")
