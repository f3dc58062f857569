import io
import sys
from typing import Any

import numpy as np
import pytest
from matplotlib.container import ErrorbarContainer
from matplotlib.text import Annotation
from PIL import Image

from vaelab import figures
from vaelab.figures.style import DPI, NONE, PAD, TEN, VAL

rng = np.random.default_rng(0)


def pixels(figure):
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI)
    return np.asarray(Image.open(buffer).convert("RGB"))


def pictures(c=1, h=28, w=28):
    def images(*shape):
        return rng.random((*shape, c, h, w))

    z = rng.normal(size=(200, 2))
    return {
        "samples": figures.samples(images(64), "samples"),
        "one": figures.samples(images(1), "a single image with a title much wider than the image"),
        "reconstructions": figures.reconstructions(images(20), images(20)),
        "traversal": figures.traversal(images(3, 7), np.linspace(-3, 3, 7), [0, 12, 63], [12.31, 2.0, 0.1]),
        "manifold": figures.manifold(images(6, 6), np.linspace(0.05, 0.95, 6)),
        "interpolation": figures.interpolation(images(3, 6)),
        "accuracies": figures.accuracies(
            {"real": rng.random(5), "a long name of an arm, 50 % of $x$": rng.random(5)},
            dict.fromkeys(["real", "a long name of an arm, 50 % of $x$"], 0.1),
            "a title that is " + "very " * 20 + "long",
        ),
        "accuracies of one": figures.accuracies({"real": [0.5]}, {"real": 0.0}),
        "beside real": figures.beside_real(
            [images(5), images(1)], [images(5), images(2)], ["0", "a long name"], "title"
        ),
        "analogies": figures.analogies(images(3), images(3, 10), range(10)),
        "labelled interpolation": figures.interpolation(
            images(2, 6), ["images 0 → 8, linear", "images 0 → 8, spherical"], "t" * 60
        ),
        "arithmetic": figures.arithmetic(images(2, 4), [(4, 9), (9, 4)], [0, 0.5, 1]),
        "neighbours": figures.neighbours(images(5), images(5, 4), rng.random((5, 4))),
        "latents": figures.latents(z, np.arange(200) % 11 - 1, (0.5, 0.25), ("PC 1", "PC 2")),
        "curves": figures.learning_curves(
            [{"step": s, "train/elbo": -s, "val/rate": 1} for s in range(9)], 3
        ),
        "rates": figures.rate_per_dimension(rng.random(64), rng.random(64) > 0.5),
        "rate and distortion": figures.rate_distortion([30, 20, 9], [60, 70, 95], [0.5, 1, 4]),
        "against a setting": against([2, 2, 8, 8], ["mlp", "conv"] * 2, legend="encoder, of a long name"),
        "against a formula": against(
            ["$\\frac{$", "\x1b"] * 2, ["$^$", "$^$", "_", "_"], title="$\\x$", legend="$"
        ),
        "against one": against(
            [4], [""], [-1234.5], [np.nan], title="a title that is " + "very " * 20 + "long"
        ),
        "against long words": against(["a_very_long_name_of_something_" + c for c in "abcdef"], [""] * 6),
    }


def against(values, lines, means=None, errors=None, **more):
    """A picture of ``n`` points, ``means`` 0, 1, 2, ... and errors 0.5 unless said otherwise."""
    means = range(len(values)) if means is None else means
    errors = [0.5] * len(values) if errors is None else errors
    return figures.against_setting(
        values, means, errors, lines, **{"setting": "x", "number": "y", "title": "t", **more}
    )


@pytest.mark.parametrize("c, h, w", [(1, 28, 28), (3, 8, 12)])
def test_nothing_is_cut_off_and_the_ground_is_white(c, h, w):
    for name, figure in pictures(c, h, w).items():
        image = pixels(figure)
        edges = [image[:4], image[-4:], image[:, :4], image[:, -4:]]
        border = np.concatenate([edge.reshape(-1, 3) for edge in edges])
        assert (border == 255).all(), name
        assert max(image.shape) <= 2300, name


def test_every_image_pixel_is_a_whole_number_of_equal_picture_pixels():
    images = rng.integers(0, 256, (4, 1, 28, 28)) / 255.0
    image = pixels(figures.samples(images))[PAD:-PAD, PAD:-PAD, 0]
    scale = image.shape[0] // (2 * 28 + 2)
    assert image.shape == (58 * scale, 58 * scale)
    first = image[: 28 * scale, : 28 * scale].reshape(28, scale, 28, scale)
    np.testing.assert_array_equal(first, np.broadcast_to(first[:, :1, :, :1], first.shape))
    assert np.abs(first[:, 0, :, 0] - 255 * images[0, 0]).max() <= 1


def test_colour_order_range_and_broken_pixels():
    images = np.zeros((1, 3, 4, 4))
    images[0, 0] = 7.0  # clipped to red
    images[0, :, 0, 0] = np.nan
    image = pixels(figures.samples(images))
    assert (image == [255, 0, 0]).all(axis=-1).any()
    assert (image == (217, 0, 140)).all(axis=-1).any()


def test_an_inputs_row_lies_above_its_outputs():
    image = pixels(figures.reconstructions(np.zeros((3, 1, 8, 8)), np.full((3, 1, 8, 8), 0.6)))
    across = image.shape[1] - PAD - 10
    column = [int(v) for v in image[:, across, 0] if v != 255]
    assert column == sorted(column)
    assert set(column) == {0, 153}


def test_the_manifolds_second_axis_grows_upwards():
    images = np.zeros((2, 2, 1, 8, 8))
    images[1, 0] = 0.6  # z_1 high, z_0 low: upper left
    image = pixels(figures.manifold(images, [0.1, 0.9]))
    rows, columns = np.nonzero((image == 0).all(axis=-1))
    inside = image[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1, 0]
    upper, left = inside.shape[0] // 2, inside.shape[1] // 2
    assert (inside[2 : upper - 2, 2 : left - 2] == 153).all()
    assert (inside[upper + 2 : -2, 2:-2] == 0).all()
    assert (inside[2:-2, left + 2 : -2] == 0).all()


def test_the_ends_of_an_interpolation_are_framed():
    image = pixels(figures.interpolation(np.zeros((1, 5, 1, 8, 8))))
    frame = tuple(int(VAL[i : i + 2], 16) for i in (1, 3, 5))
    columns = np.nonzero((image == frame).all(axis=-1).any(axis=0))[0]
    assert columns.min() < image.shape[1] * 0.2
    assert columns.max() > image.shape[1] * 0.8
    assert not ((columns > image.shape[1] * 0.3) & (columns < image.shape[1] * 0.7)).any()


def test_unlabelled_codes_are_grey_and_classes_have_their_colours():
    z = np.array([[0.0, 0.0], [1.0, 1.0], [2.0, 0.0]])
    axes = figures.latents(z, np.array([-1, 3, 3])).axes[0]
    grey, coloured = axes.collections[:2]
    assert len(np.asarray(grey.get_offsets())) == 1
    assert len(np.asarray(coloured.get_offsets())) == 2
    legend = axes.get_legend()
    assert legend is not None
    assert [t.get_text() for t in legend.get_texts()] == ["3", "none"]
    assert len(set(TEN)) == 10


def test_a_sketch_of_codes_has_each_class_in_its_colour_at_its_place():
    # class 3 below, 4 above, each its digit between its points; a class of a point alone that is not finite is not there
    z = np.array([[-1.0, -3.0], [1.0, -3.0], [-1.0, 3.0], [1.0, 3.0], [0.0, 0.0], [np.nan, 0.0]])
    sketch = figures.latents_sketch(z, np.array([3, 3, 4, 4, -1, 5]))
    assert sketch.shape == (512, 512, 3)
    assert sketch.dtype == np.uint8

    def extent(colour):
        """First row and column, last row and column."""
        blended = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) * 0.75 + 255 * 0.25
        found = np.argwhere((np.abs(sketch - blended) <= 2).all(-1))
        return [*found.min(0).tolist(), *found.max(0).tolist()]

    across = (512 - 2 * PAD) / 3  # one scale for both axes
    for colour, down in ((TEN[3], 512 - PAD), (TEN[4], PAD)):
        assert extent(colour) == pytest.approx([down, 256 - across / 2, down, 256 + across / 2], abs=5)
    assert sketch[256, 256].tolist() == [int(NONE[i : i + 2], 16) for i in (1, 3, 5)]
    assert np.ptp(np.argwhere((sketch < 255).any(-1)), axis=0).max() < 512 - PAD, "nothing else is there"
    assert (figures.latents_sketch(np.full((2, 2), np.inf), np.zeros(2)) == 255).all()


def test_learning_curves_draw_what_was_logged_and_mark_the_selected_step():
    rows = [{"step": s, "train/elbo": -500.0 if s < 5 else -100.0 - s / 100} for s in range(100)]
    axes = figures.learning_curves(rows, best_step=42).axes
    assert [line.get_label() for line in axes[0].get_lines()] == ["train", "selected"]
    assert axes[0].get_ylim()[0] > -110  # the first steps do not flatten the rest
    assert list(np.asarray(axes[0].get_lines()[1].get_xdata())) == [42, 42]
    assert [t.get_text() for t in axes[1].texts] == ["not logged"]


def test_of_a_short_training_learning_curves_have_whole_steps_and_whole_values():
    rows = [{"step": s, "train/elbo": -46.79 - s / 1e4} for s in (15, 30)]
    figure = figures.learning_curves(rows)
    figure.draw_without_rendering()
    axis = figure.axes[0]
    assert all(tick.is_integer() for tick in axis.get_xticks())
    assert axis.yaxis.get_offset_text().get_text() == ""


def test_rates_are_sorted_and_named_by_their_dimension():
    axes = figures.rate_per_dimension([0.5, 2.0, 0.0, 1.0], [True, True, False, True]).axes[0]
    boxes = [bar.get_extents().transformed(axes.transData.inverted()) for bar in axes.patches]
    bars = {round((box.x0 + box.x1) / 2): round(box.y1, 9) for box in boxes}
    assert [bars[i] for i in range(4)] == [2.0, 1.0, 0.5, 0.0]
    assert [t.get_text() for t in axes.get_xticklabels()] == ["1", "3", "0", "2"]
    legend = axes.get_legend()
    assert legend is not None
    assert [t.get_text() for t in legend.get_texts()] == ["active (3)", "inactive (1)"]
    assert "3.50 nats" in axes.get_title(loc="left")


def test_on_a_grey_line_rate_and_distortion_add_up_to_minus_the_elbo_beside_it():
    axes = figures.rate_distortion([30.0, 9.0, 20.0], [60.0, 95.0, 70.0], [0.5, 4, 1]).axes[0]
    *lines, joined = (np.asarray(line.get_xydata()) for line in axes.get_lines())
    assert len(lines) > 3
    assert all(np.ptp(line.sum(1)) < 1e-9 for line in lines)
    sums = np.array([line.sum(1)[0] for line in lines])
    labels = [t for t in axes.texts if isinstance(t, Annotation) and t.get_text().startswith("−")]
    assert labels
    for label in labels:
        at = sum(label.xy)
        assert at == pytest.approx(-float(label.get_text().replace("−", "-")))
        assert np.abs(sums - at).min() < 1e-9
    assert joined[:, 0].tolist() == [30.0, 20.0, 9.0]  # in the order of beta
    assert [t.get_text() for t in axes.texts if "beta" in t.get_text()] == [
        r"$\beta$ = 0.5", r"$\beta$ = 4", r"$\beta$ = 1",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "values, scale",
    [(np.geomspace(1e-4, 1e-2, 9) * 1.0001, "log"), (np.array([1.0001e-4, 2.70232e-3, 2.92876e-3, 6.77031e-3]), "log"), (np.linspace(0.1, 1, 9), "linear"), (np.arange(4, 100, 7), "linear")],
)  # fmt: skip
def test_numbers_that_a_search_has_drawn_have_an_axis(values: Any, scale: str) -> None:
    n = len(values)
    figure = figures.against_setting(
        values.tolist(), np.arange(n), np.full(n, np.nan), [str(k) for k in range(n)], setting="a", number="b", title="c"
    )  # fmt: skip
    (axes,) = figure.axes
    assert axes.get_xscale() == scale
    assert {str(line.get_marker()) for line in axes.lines} == {"o"}
    places = np.concatenate([np.asarray(line.get_xdata(), dtype=float) for line in axes.lines])
    assert sorted(places) == pytest.approx(sorted(values))


@pytest.mark.parametrize(
    "values, scale",
    [
        ([2, 8, 32], "log"), ([1, 2, 3, 4], "linear"), ([1e-4, 1e-3, 1e-2], "log"), ([0.5, 0.6, 0.7], "linear"), ([2, 8], "linear"),
        ([0.001, 1], "log"), ([-1, 0, 1], "linear"), ([100, 110, 121], "linear"), ([0.1, 0.3, 1, 3, 10], "log"),
    ],
)  # fmt: skip
def test_numbers_stand_on_an_axis_that_spaces_them_evenly_and_are_its_labels(values, scale):
    axes = against(values, [""] * len(values)).axes[0]
    assert axes.get_xscale() == scale
    assert list(axes.get_xticks()) == values
    assert [t.get_text() for t in axes.get_xticklabels()] == [f"{v:g}" for v in values]
    low, high = axes.get_xlim()
    assert low < min(values) < max(values) < high


@pytest.mark.parametrize(
    "values, labels",
    [
        (["mlp", "conv", "mlp"], ["mlp", "conv"]), ([True, False], ["true", "false"]), ([0, 1e-4, 1e-3, 1e-2, 1], ["0", "0.0001", "0.001", "0.01", "1"]),
        ([None, 1], ["null", "1"]), ([10**400, 1], ["1" + "0" * 36 + "...", "1"]), ([[1, 2], "x" * 50], ["[1, 2]", "x" * 37 + "..."]),
    ],
)  # fmt: skip
def test_words_and_numbers_that_no_axis_holds_apart_stand_side_by_side(values, labels):
    axes = against(values, [""] * len(values)).axes[0]
    assert axes.get_xscale() == "linear"
    assert list(axes.get_xticks()) == list(range(len(labels)))
    assert [t.get_text() for t in axes.get_xticklabels()] == labels


def drawn(axes) -> list[ErrorbarContainer]:
    return axes.containers


def bars(axes):
    """The lower and upper ends of every error bar."""
    return [sorted(segment[:, 1].tolist()) for c in drawn(axes) for segment in c.lines[2][0].get_segments()]


def test_lines_join_the_points_of_one_text_in_the_order_of_the_setting_with_their_errors():
    figure = against(
        [8, 2, 8, 2], ["a", "a", "b", "b"], [3, 1, 4, 2], [0.5, 0.25, 0.5, np.nan], legend="encoder"
    )
    axes = figure.axes[0]
    points = {c.get_label(): np.asarray(c.lines[0].get_xydata()).tolist() for c in drawn(axes)}
    assert points == {"a": [[2, 1], [8, 3]], "b": [[2, 2], [8, 4]]}
    assert bars(axes) == [[0.75, 1.25], [2.5, 3.5], [2, 2], [3.5, 4.5]]
    assert all(c.lines[0].get_linewidth() > 0 for c in drawn(axes))
    legend = axes.get_legend()
    assert legend is not None
    assert (legend.get_title().get_text(), [t.get_text() for t in legend.get_texts()]) == (
        "encoder",
        ["a", "b"],
    )
    low, high = axes.get_ylim()
    assert low < 0.75
    assert high > 4.5


def test_a_search_is_points_and_many_lines_have_no_legend():
    search = against([0.1 * i for i in range(30)], [str(i) for i in range(30)]).axes[0]
    assert all(c.lines[0].get_linewidth() == 0 for c in drawn(search))
    many = against([1, 2] * 11, [str(i // 2) for i in range(22)]).axes[0]
    assert all(c.lines[0].get_linewidth() > 0 for c in drawn(many))
    assert search.get_legend() is many.get_legend() is None


def test_points_that_lie_on_each_other_share_a_label():
    axes = figures.rate_distortion([30.0, 0.02, 0.0], [60.0, 95.0, 95.1], [0.5, 3, 10]).axes[0]
    assert [t.get_text() for t in axes.texts if "beta" in t.get_text()] == [
        r"$\beta$ = 0.5",
        r"$\beta$ = 3, 10",
    ]


def test_equal_figures_make_equal_bytes_without_a_time_stamp(tmp_path):
    images = rng.random((4, 1, 8, 8))
    a = figures.save(figures.samples(images, "t"), tmp_path / "deep" / "a.png").read_bytes()
    b = figures.save(figures.samples(images, "t"), tmp_path / "deep" / "b.png").read_bytes()
    assert a == b
    assert not {"Software", "Creation Time", "date:create"} & set(Image.open(io.BytesIO(a)).info)
    assert sorted(p.name for p in (tmp_path / "deep").iterdir()) == ["a.png", "b.png"]


@pytest.mark.parametrize(
    "draw",
    [
        lambda: figures.samples(np.zeros((4, 2, 8, 8))),
        lambda: figures.samples(np.zeros((0, 1, 8, 8))),
        lambda: figures.samples(np.zeros((8, 8))),
        lambda: figures.reconstructions(np.zeros((2, 1, 8, 8)), np.zeros((3, 1, 8, 8))),
        lambda: figures.traversal(np.zeros((2, 3, 1, 8, 8)), [0, 1], [0, 1], [0.0, 0.0]),
        lambda: figures.manifold(np.zeros((2, 3, 1, 8, 8)), [0, 1]),
        lambda: figures.interpolation(np.zeros((2, 2, 1, 8, 8))),
        lambda: figures.analogies(np.zeros((2, 1, 8, 8)), np.zeros((2, 4, 1, 8, 8)), range(3)),
        lambda: figures.neighbours(np.zeros((2, 1, 8, 8)), np.zeros((3, 4, 1, 8, 8)), np.zeros((3, 4))),
        lambda: figures.neighbours(np.zeros((2, 1, 8, 8)), np.zeros((2, 4, 1, 8, 8)), np.zeros((2, 3))),
        lambda: figures.latents(np.zeros((3, 3)), np.zeros(3)),
        lambda: figures.latents_sketch(np.zeros((3, 2)), np.zeros(2)),
        lambda: figures.rate_per_dimension(np.zeros(3), np.zeros(2, dtype=bool)),
        lambda: figures.rate_per_dimension([1.0, np.nan]),
        lambda: figures.rate_distortion([1.0], [1.0, 2.0], [1.0]),
        lambda: figures.rate_distortion([1.0], [np.inf], [1.0]),
        lambda: figures.rate_distortion([1.0], [1.0], [1.0], [[1.0]]),
        lambda: against([1, 2], ["", ""], means=[1.0]),
        lambda: against([1, 2], [""]),
        lambda: against([], []),
        lambda: against([1], [""], means=[np.nan]),
    ],
)
def test_a_wrong_shape_is_refused_by_name(draw):
    with pytest.raises(ValueError, match=r"images|x_hat|z2|rates|errors|neighbours|means"):
        draw()


def test_no_pyplot():
    assert "matplotlib.pyplot" not in vars(figures)
    assert not any(name == "plt" for name in vars(figures))
    assert figures.__name__ in sys.modules


def test_a_sample_stands_framed_before_its_neighbours_the_nearest_first():
    greys = np.array([0.2, 0.4, 0.6])
    images = np.broadcast_to(greys[:, None, None, None], (3, 1, 8, 8))
    figure = figures.neighbours(images[None, 0], images[None, 1:], [[1.5, 2.5]])
    image = pixels(figure)
    across = [int(v) for v in image[-PAD - 10, :, 0]]
    assert [v for i, v in enumerate(across) if v in (51, 102, 153) and v != across[i - 1]] == [51, 102, 153]
    frame = tuple(int(VAL[i : i + 2], 16) for i in (1, 3, 5))
    columns = np.nonzero((image == frame).all(axis=-1).any(axis=0))[0]
    assert columns.max() < across.index(102)
    assert "1.5" in [text.get_text() for text in figure.axes[0].texts]


def test_the_image_of_an_analogy_stands_framed_before_its_classes():
    greys = np.array([0.2, 0.4, 0.6])
    images = np.broadcast_to(greys[:, None, None, None], (3, 1, 8, 8))
    figure = figures.analogies(images[None, 0], images[None, 1:], [4, 7])
    image = pixels(figure)
    across = [int(v) for v in image[-PAD - 10, :, 0]]
    assert [v for i, v in enumerate(across) if v in (51, 102, 153) and v != across[i - 1]] == [51, 102, 153]
    frame = tuple(int(VAL[i : i + 2], 16) for i in (1, 3, 5))
    columns = np.nonzero((image == frame).all(axis=-1).any(axis=0))[0]
    assert columns.max() < across.index(102)
    assert {"data", "4", "7"} <= {text.get_text() for text in figure.axes[0].texts}


def test_rows_of_neighbours_that_do_not_fit_are_counted_in_the_title():
    figure = figures.neighbours(np.zeros((90, 1, 8, 8)), np.zeros((90, 4, 1, 8, 8)), np.zeros((90, 4)))
    assert "(first 80 of 90)" in figure.axes[0].texts[-1].get_text()


def test_real_images_stand_left_of_those_of_the_model_and_missing_ones_are_white():
    dark, bright = np.zeros((2, 1, 8, 8)), np.full((2, 1, 8, 8), 0.6)
    image = pixels(figures.beside_real([dark, dark[:1]], [bright, bright], ["0", "1"]))
    is_dark, is_bright = ((image == level).all(2) for level in (0, 153))
    assert np.flatnonzero(is_dark.any(0)).max() < np.flatnonzero(is_bright.any(0)).min()
    assert is_dark.sum() * 4 == is_bright.sum() * 3


def test_accuracies_are_drawn_from_above_with_means_and_errors():
    figure = figures.accuracies({"a": [0.5, 0.7], "b": [0.9, 0.9]}, {"a": 0.1, "b": 0.0})
    (axes,) = figure.axes
    assert [text.get_text() for text in axes.get_yticklabels()] == ["a", "b"]
    assert axes.yaxis_inverted()
    bars = [item for item in axes.containers if isinstance(item, ErrorbarContainer)]
    (mean, _, (line,)) = bars[0].lines
    assert mean.get_xdata() == pytest.approx([0.6])
    assert line.get_segments()[0][:, 0] == pytest.approx([0.5, 0.7])


def test_an_animation_shows_every_frame_under_its_label_and_lasts_longest_on_the_last():
    frames = rng.integers(0, 256, (3, 16, 24, 3), dtype=np.uint8)
    content = figures.animation(
        frames, ["step 0", "step 10", "a label that is wider than the images are, by far"]
    )
    assert content == figures.animation(
        frames, ["step 0", "step 10", "a label that is wider than the images are, by far"]
    )
    with Image.open(io.BytesIO(content)) as image:
        assert (getattr(image, "n_frames", None), image.info["loop"]) == (3, 0)
        seconds = []
        for i, frame in enumerate(frames):
            image.seek(i)
            seconds.append(image.info["duration"])
            shown = np.asarray(image.convert("RGB")).astype(int)
            scale = 448 // 24
            below = shown[-PAD - 16 * scale : -PAD, PAD : PAD + 24 * scale]
            # 256 colours for 384 random ones
            assert np.abs(below[::scale, ::scale] - frame).mean() < 25
            assert (shown[:PAD] == 255).all()
            assert (shown[:, -PAD // 2 :] == 255).all(), "nothing is cut off"
            assert (shown[PAD : -PAD - 16 * scale] < 128).any(), "the label is there"
        assert seconds == [200, 200, 2000]


def test_an_animation_of_grey_frames_is_grey():
    frames = np.repeat(rng.integers(0, 256, (2, 8, 8, 1), dtype=np.uint8), 3, axis=-1)
    with Image.open(io.BytesIO(figures.animation(frames, ["a", "b"]))) as image:
        image.seek(1)
        shown = np.asarray(image.convert("RGB")).astype(int)
    assert (shown == shown[..., :1]).all()
    below = shown[-PAD - 448 : -PAD, PAD : PAD + 448][::56, ::56]
    assert np.abs(below - frames[1]).max() <= 3, "64 greys"


@pytest.mark.parametrize("frames, labels", [(np.zeros((0, 8, 8, 3), np.uint8), []), (np.zeros((1, 8, 8, 1), np.uint8), ["a"]), (np.zeros((1, 8, 8, 3)), ["a"]), (np.zeros((1, 8, 8, 3), np.uint8), [])])  # fmt: skip
def test_what_is_no_animation_is_refused(frames, labels):
    with pytest.raises(ValueError, match=r"frame"):
        figures.animation(frames, labels)
