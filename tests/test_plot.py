"""Pictures draw what the model, the store or the arrays say, and render; bad input is refused.

No picture is compared byte by byte: each version of matplotlib draws its own.
"""

import subprocess
import sys
from dataclasses import replace
from unittest import mock

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from scipy.stats import norm

from daskmlr import InputError, MixedLinearRegression, plot, simulate
from daskmlr.kernels.assignment import posterior
from daskmlr.kernels.metrics import calibration_bins, calibration_error
from daskmlr.plot import style


@pytest.fixture(scope="module")
def model(easy_tasks):
    return MixedLinearRegression(3, random_state=0).fit(easy_tasks).model_


@pytest.fixture(scope="module")
def uncertainty(model, easy_tasks):
    return model.uncertainty(easy_tasks)


@pytest.fixture
def draw(tmp_path):
    """Render a figure as PNG and SVG, warnings being errors, and give its only axes."""

    def rendered(figure):
        assert isinstance(figure, Figure)
        figure.savefig(tmp_path / "picture.png")
        figure.savefig(tmp_path / "picture.svg")
        assert (tmp_path / "picture.png").read_bytes()[:4] == b"\x89PNG"
        assert "</svg>" in (tmp_path / "picture.svg").read_text()
        (axes,) = figure.axes
        assert axes.get_xlabel()
        assert axes.get_ylabel() or axes.get_yticklabels()
        assert axes.get_title()
        return axes

    return rendered


def legend(axes):
    return [text.get_text() for text in axes.get_legend().get_texts()]


def line(axes, label):
    (found,) = [drawn for drawn in axes.lines if str(drawn.get_label()).startswith(label)]
    return found


def test_spectrum(model, draw):
    axes = draw(plot.spectrum(model))
    above, below = (drawn for drawn in axes.lines if drawn.get_marker() == "o")
    np.testing.assert_array_equal(
        np.concatenate([above.get_ydata(), below.get_ydata()]), model.eigenvalues
    )
    assert above.get_ydata().min() > model.noise_edge
    assert above.get_markerfacecolor() != below.get_markerfacecolor()
    (edge,) = [drawn for drawn in axes.lines if drawn.get_linestyle() == "--"]
    np.testing.assert_array_equal(edge.get_ydata(), model.noise_edge)
    assert f"noise alone: up to {model.noise_edge:.3g}" in {t.get_text() for t in axes.texts}
    n_above = model.diagnostics["directions_above_noise"]
    assert axes.get_title() == f"{n_above} of {len(model.eigenvalues)} directions above the noise"
    assert axes.get_ylabel() == "eigenvalue (squared units of y)"
    assert axes.get_ylim()[1] > model.eigenvalues.max()


def test_a_spectrum_below_zero_and_without_noise(model, draw):
    axes = draw(plot.spectrum(replace(model, eigenvalues=np.array([2.0, -0.5]), noise_edge=0.0)))
    assert axes.get_ylim()[0] < -0.5


def test_sufficiency_of_a_store(easy_tasks, draw):
    axes = draw(plot.sufficiency(easy_tasks, 3))
    curve, sizes = line(axes, "n(t)"), easy_tasks.task_sizes()
    assert curve.get_drawstyle() == "steps-pre"
    np.testing.assert_array_equal(curve.get_xdata(), np.union1d([1], sizes))
    np.testing.assert_array_equal(
        curve.get_ydata(), [(sizes >= t).sum() for t in curve.get_xdata()]
    )
    light, heavy = line(axes, "enough light"), line(axes, "enough heavy")
    t, n = light.get_data()
    np.testing.assert_allclose((t * n)[1:], 4 * 3**2)  # d k²
    t, n = heavy.get_data()
    np.testing.assert_allclose(n[1:], np.maximum(3**1.5, 3**2 / t[1:]))
    assert heavy.get_xdata().min() >= 2
    assert light.get_linestyle() != heavy.get_linestyle()
    assert len({collection.get_hatch() for collection in axes.collections}) == 2
    assert axes.get_title() == "3 components: enough light tasks, enough heavy tasks"
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
    assert len(legend(axes)) == 3


def test_sufficiency_says_what_is_too_few(easy_tasks, draw):
    assert draw(plot.sufficiency(easy_tasks, 64)).get_title().startswith(
        "64 components: too few light tasks, "
    )  # fmt: skip
    by_default = draw(plot.sufficiency(easy_tasks)).get_title()
    k = int(by_default.split()[0])
    assert by_default == f"{k} components: enough light tasks, enough heavy tasks"
    more = draw(plot.sufficiency(easy_tasks, 2 * k)).get_title()
    assert "too few" in more


def test_sufficiency_of_a_model(model, easy_tasks, draw):
    axes = draw(plot.sufficiency(model))
    curve, sizes = line(axes, "n(t)"), easy_tasks.task_sizes()
    np.testing.assert_array_equal(curve.get_xdata(), [1, 2, 4, 8, 16])
    np.testing.assert_array_equal(curve.get_ydata(), [(sizes >= t).sum() for t in (1, 2, 4, 8, 16)])
    assert axes.get_title().startswith("3 components")
    twice = draw(plot.sufficiency(replace(model, data=2 * model.data)))
    np.testing.assert_array_equal(line(twice, "n(t)").get_ydata(), 2 * curve.get_ydata())


def test_many_different_sizes_are_thinned(draw, easy_tasks, monkeypatch):
    monkeypatch.setattr(plot.evidence, "MOST_STEPS", 4)
    axes = draw(plot.sufficiency(easy_tasks, 3))
    assert len(line(axes, "n(t)").get_xdata()) <= 5


def test_projected_tasks(model, draw):
    axes = draw(plot.projected_tasks(model))
    clouds = axes.collections[:3]
    for i, cloud in enumerate(clouds):
        own = model.heavy_coef[model.heavy_labels == i, :2]
        np.testing.assert_array_equal(cloud.get_offsets(), own)
    centres = np.vstack([centre.get_offsets() for centre in axes.collections[3:]])
    np.testing.assert_array_equal(centres, model.heavy_centres[:, :2])
    assert [text.get_text() for text in axes.texts] == ["0", "1", "2"]
    counts = np.bincount(model.heavy_labels)
    assert legend(axes) == [f"{i} ({counts[i]} tasks)" for i in range(3)]
    assert len({to_hex(cloud.get_facecolor()[0]) for cloud in clouds}) == 3
    assert len({cloud.get_paths()[0].vertices.tobytes() for cloud in clouds}) == 3
    low, high = np.array([axes.get_xlim(), axes.get_ylim()]).T
    assert np.all((low < model.heavy_coef[:, :2]) & (model.heavy_coef[:, :2] < high))
    np.testing.assert_allclose(*(high - low))
    assert axes.get_xlabel() == "coefficient along direction 1 (units of y)"


def test_projected_tasks_along_a_single_direction(tmp_path, draw):
    tasks = simulate(tmp_path / "t", n_components=1, n_features=1, task_groups=[(40, 4)],
                     random_state=0)  # fmt: skip
    one = MixedLinearRegression(1, random_state=0).fit(tasks).model_
    single = replace(one, heavy_coef=one.heavy_coef[:, :1], heavy_centres=one.heavy_centres[:, :1])
    axes = draw(plot.projected_tasks(single))
    assert axes.get_ylabel() == "component"
    assert axes.get_title() == "40 of the largest tasks, of 4 examples"


def test_distances(model, draw):
    axes = draw(plot.distances(model))
    same = model.heavy_labels[:, None] == model.heavy_labels
    apart = np.linalg.norm(model.heavy_coef[:, None] - model.heavy_coef, axis=2)
    pairs = np.triu(np.ones_like(same), 1).astype(bool)
    (within,) = axes.containers
    assert sum(bar.get_height() for bar in within) == (same & pairs).sum()
    (outline,) = [patch for patch in axes.patches if patch.get_hatch()]
    edges = np.unique(outline.get_xy()[:, 0])
    counts, _ = np.histogram(apart[~same & pairs], edges)
    np.testing.assert_array_equal(outline.get_xy()[1 : 2 * len(counts) : 2, 1], counts)
    centres = model.heavy_centres
    expected = [np.linalg.norm(centres[i] - centres[j]) for i, j in ((0, 1), (0, 2), (1, 2))]
    np.testing.assert_allclose(line(axes, "two components").get_xdata(), expected)
    assert set(legend(axes)) == {
        "tasks of one component", "tasks of two components", "two components themselves",
    }  # fmt: skip
    assert axes.get_title() == "124,750 pairs of 500 heavy tasks"


def bars(axes, component):
    """Estimates, and the ends of the intervals, of a component's error bars."""
    points, _, (spans,) = axes.containers[component].lines
    ends = np.array([segment[:, 0] for segment in spans.get_segments()])
    return points.get_xdata(), ends


def test_coefficients_with_their_uncertainty(model, uncertainty, draw):
    axes = draw(plot.coefficients(model, uncertainty, level=0.9))
    names = [label.get_text().split(" (sd ")[0] for label in axes.get_yticklabels()]
    effects = np.abs(model.coef * model.feature_scale).max(axis=0)
    order = np.argsort(-effects)
    assert names == [model.feature_names[j] for j in order]
    low, high = uncertainty.intervals(0.9)
    scale = model.feature_scale[order]
    for i in range(3):
        at, ends = bars(axes, i)
        np.testing.assert_allclose(at, model.coef[i, order] * scale)
        expected = np.column_stack([low.coef[i, order] * scale, high.coef[i, order] * scale])
        np.testing.assert_allclose(ends, expected)
    assert axes.get_title() == "90 % confidence intervals"
    assert axes.get_xlabel() == "coefficient × standard deviation of its feature (units of y)"
    assert legend(axes)[0] == f"0 ({100 * model.weights[0]:.3g} % of tasks)"
    assert len({container.lines[0].get_marker() for container in axes.containers}) == 3


def test_coefficients_as_if_labels_were_certain(model, uncertainty, draw):
    """The components are far apart, so that labels nearly are."""
    axes = draw(plot.coefficients(model))
    assert axes.get_title() == "95 % intervals, as if labels were certain"
    observed = uncertainty.standard_errors("observed")
    errors = observed.coef * model.feature_scale
    order = np.argsort(-np.abs(model.coef * model.feature_scale).max(axis=0))
    for i in range(3):
        half = np.diff(bars(axes, i)[1])[:, 0] / 2 / norm.ppf(0.975)
        np.testing.assert_allclose(half, errors[i, order], rtol=0.02)
    intercepts = plot.components.coefficient_errors(model, None)[1]
    np.testing.assert_allclose(intercepts, observed.intercept, rtol=0.02)


def test_errors_of_many_features_are_those_within_the_subspace(tmp_path, draw):
    tasks = simulate(tmp_path / "t", n_components=2, n_features=30, task_groups=[(900, 5)],
                     noise=0.5, random_state=0, dtype="float64")  # fmt: skip
    with mock.patch("daskmlr.plan.WIDE_FEATURES", 20):
        wide = MixedLinearRegression(2, random_state=0).fit(tasks).model_
    assert wide.is_wide
    block = tasks.read_block(0)
    assert block.n_rows == tasks.n_rows
    label = np.repeat(wide.assign(tasks)["label"], block.sizes)
    inside = (block.X - wide.shift) / wide.scale @ wide.subspace[1:] + wide.subspace[0]
    axes = draw(plot.coefficients(wide))
    shown = [label.get_text().split(" (scale ")[0] for label in axes.get_yticklabels()]
    assert len(shown) == plot.components.MOST_FEATURES
    places = [wide.feature_names.index(name) for name in shown]
    for i in range(2):
        rows = np.column_stack([np.ones(block.n_rows), inside])[label == i]
        covariance = wide.noise_variance[i] * np.linalg.inv(rows.T @ rows)
        variance = [row @ covariance[1:, 1:] @ row for row in wide.subspace[1:][places]]
        half = np.diff(bars(axes, i)[1])[:, 0] / 2 / norm.ppf(0.975)
        np.testing.assert_allclose(half, np.sqrt(variance), rtol=0.02)
        at_zero = np.append(1, wide.subspace[0] - wide.shift / wide.scale @ wide.subspace[1:])
        error = plot.components.coefficient_errors(wide, None)[1][i]
        np.testing.assert_allclose(error, np.sqrt(at_zero @ covariance @ at_zero), rtol=0.02)
    assert axes.get_title().endswith("(12 of 30 features, by effect)")


def test_a_component_of_too_few_examples_has_no_interval(model, draw):
    gram = model.gram.copy()
    gram[2] = np.outer(gram[2][0], gram[2][0]) / gram[2][0, 0]  # as of one example
    axes = draw(plot.coefficients(replace(model, gram=gram)))
    assert all(segment.size == 0 for segment in axes.containers[2].lines[2][0].get_segments())
    assert axes.get_title().endswith("(none where examples are too few)")
    assert np.isfinite(bars(axes, 1)[1]).all()


def test_many_components_are_cut_and_told_apart(model, draw):
    n = 20
    many = replace(
        model,
        **{name: np.repeat(getattr(model, name), 10, axis=0)[:n]
           for name in ("coef", "intercept", "noise_variance", "weights", "gram", "mass",
                        "heavy_centres")},
        heavy_labels=np.arange(500) % n,
    )  # fmt: skip
    axes = draw(plot.coefficients(many))
    assert "12 of 20 components" in axes.get_title()
    assert len(legend(axes)) == 12
    axes = draw(plot.projected_tasks(many))
    assert len(legend(axes)) == 12
    assert len(axes.texts) == n
    signs = {tuple(style.sign(i).values()) for i in range(70)}
    assert len(signs) == 70


def test_convergence(model, draw):
    axes = draw(plot.convergence(model))
    passes = [e["log_likelihood"] for e in model.history if e["stage"] == "refine"]
    drawn = line(axes, "passes over 3,100 tasks")
    np.testing.assert_allclose(drawn.get_ydata(), max(passes) - np.array(passes))
    np.testing.assert_array_equal(drawn.get_xdata(), np.arange(len(passes)) + 1)
    restarts = np.array(model.diagnostics["restart_log_likelihoods"])
    np.testing.assert_allclose(line(axes, "restarts").get_ydata(), restarts[0] - restarts)
    assert axes.get_title() == (
        f"Converged after {model.n_iter} refinement passes; the best restarts agree"
    )
    assert len(axes.get_yticks()) > 1
    assert axes.get_yticklabels()[1].get_text() == "1"


def entries(*stages):
    return tuple(
        {"stage": s[0], **({"log_likelihood": s[1]} if len(s) > 1 else {}),
         **({"start": s[2]} if len(s) > 2 else {})}
        for s in stages
    )  # fmt: skip


def test_runs_of_passes_are_cut_where_tasks_or_starts_change(model, draw):
    history = entries(
        ("moments",), ("refine", -90.0, 0), ("refine", -80.0, 0), ("refine", -70.0, 1),
        ("odd",), ("refine", -500.0), ("odd",), ("refine", -490.0), ("refine", -400.0), ("widen",),
        ("refine", -399.0), ("widen",), ("diagnose",), ("refine", -3.0), ("diagnose",),
    )  # fmt: skip
    axes = draw(plot.convergence(replace(model, history=history, converged=False)))
    runs = [drawn.get_data() for drawn in axes.lines if drawn.get_linestyle() == "-"]
    found = [list(zip(*map(np.ndarray.tolist, run), strict=True)) for run in runs]
    assert found == [[(1, 20), (2, 10)], [(3, 0)], [(4, 0)], [(5, 91), (6, 1), (7, 0)]]
    assert [(text.get_text(), text.xy[0]) for text in axes.texts] == [("odd", 3.5), ("widen", 6.5)]
    assert axes.get_title().startswith("Not converged after 7 refinement passes")


def test_a_robust_fit_and_its_starts_are_drawn(tmp_path, draw):
    tasks = simulate(tmp_path / "t", n_components=3, n_features=3, noise=1.0, random_state=0,
                     task_groups=[(1500, 5), (50, 12)])  # fmt: skip
    robust = MixedLinearRegression(3, random_state=0, robust=0.02).fit(tasks).model_
    axes = draw(plot.convergence(robust))
    assert "odd" in {text.get_text() for text in axes.texts}
    drawn = [drawn for drawn in axes.lines if drawn.get_linestyle() == "-"]
    assert sum(len(run.get_xdata()) for run in drawn) == robust.n_iter
    assert min(run.get_ydata().min() for run in drawn) == 0


TRIALS = [
    {
        "n_components": k,
        "log_likelihood": 0.0,
        "bic": bic,
        "icl": icl,
        "kept": k == 2,
        "bounded": k < 4,
    }
    for k, bic, icl in ((1, 900.0, 900.0), (2, 100.0, 110.0), (3, 104.0, 190.0), (4, 1.0, 1.0))
]


def test_selection(model, draw):
    chosen = replace(model, diagnostics={**model.diagnostics, "selection": TRIALS})
    axes = draw(plot.selection(chosen))
    bic, icl = line(axes, "BIC, smallest 100"), line(axes, "ICL, smallest 110")
    np.testing.assert_array_equal(bic.get_data(), [[1, 2, 3], [800, 0, 4]])
    np.testing.assert_array_equal(icl.get_data(), [[1, 2, 3], [790, 0, 80]])
    assert (bic.get_marker(), bic.get_linestyle()) != (icl.get_marker(), icl.get_linestyle())
    assert axes.get_title() == "Chosen: 3 components"
    assert axes.get_ylim()[1] > 800


def labelled(seed=0, n=3000):
    rng = np.random.default_rng(seed)
    shares, _ = posterior(rng.normal(0, 2, (n, 3)))
    return shares, np.array([rng.choice(3, p=share) for share in shares])


def test_calibration(draw):
    shares, labels = labelled()
    axes = draw(plot.calibration(shares, labels, n_bins=10))
    number, right, confidence = calibration_bins(shares, labels, n_bins=10)
    some = number > 0
    points, _, (spans,) = axes.containers[0].lines
    np.testing.assert_allclose(points.get_xdata(), (confidence / np.maximum(number, 1))[some])
    np.testing.assert_allclose(points.get_ydata(), (right / np.maximum(number, 1))[some])
    assert [text.get_text() for text in axes.texts] == [f"{n:,}" for n in number[some]]
    error = calibration_error(shares, labels, n_bins=10)
    share = 100 * np.mean(shares.argmax(axis=1) == labels)
    assert axes.get_title() == (
        f"Likeliest label of 3,000 tasks: {share:.1f} % right, calibration error {error:.2g}"
    )
    ends = np.array([segment[:, 1] for segment in spans.get_segments()]).T
    inside = (ends[0] <= points.get_xdata()) & (points.get_xdata() <= ends[1])
    assert np.mean(inside) > 0.7  # labels were drawn from the posteriors


def test_bins_of_calibration_are_the_loop():
    shares, labels = labelled(1, 200)
    number, right, confidence = calibration_bins(shares, labels, n_bins=7)
    expected = np.zeros((3, 7))
    for share, label in zip(shares, labels, strict=True):
        highest = max(share)
        expected[:, min(int(highest * 7), 6)] += [1, share[label] == highest, highest]
    np.testing.assert_allclose([number, right, confidence], expected)


def test_calibration_of_certain_labels(draw):
    axes = draw(plot.calibration(np.eye(2)[[0] * 50], [0] * 50))
    assert axes.get_title().startswith("Likeliest label of 50 tasks: 100.0 % right")


def test_predictions(draw):
    rng = np.random.default_rng(0)
    mean, std = rng.normal(size=400), rng.uniform(0.1, 1, 400)
    y = pd.Series(mean + std * rng.normal(size=400), name="delay")
    axes = draw(plot.predictions(y, mean, std, level=0.8))
    inside = np.abs(y - mean) <= norm.ppf(0.9) * std
    within, outside = line(axes, "within"), line(axes, "outside")
    np.testing.assert_array_equal(within.get_data(), [mean[inside], y[inside]])
    np.testing.assert_array_equal(outside.get_data(), [mean[~inside], y[~inside]])
    assert within.get_marker() != outside.get_marker()
    assert axes.get_title() == (
        f"{inside.sum()} of 400 targets ({100 * inside.mean():.1f} %) within their band of 80 %"
    )
    assert (axes.get_xlabel(), axes.get_ylabel()) == (
        "predicted (units of delay)", "seen (units of delay)",
    )  # fmt: skip
    band = axes.collections[0].get_paths()[0].vertices
    assert np.ptp(band[:, 0]) == pytest.approx(np.ptp(mean))
    assert "band of 80 %" in legend(axes)


def test_the_band_is_as_wide_as_the_predictions_say(draw):
    mean = np.linspace(0, 10, 100)
    axes = draw(plot.predictions(mean, mean, np.where(mean < 5, 1.0, 3.0)))
    band = axes.collections[0].get_paths()[0].vertices
    for at, std in ((0, 1.0), (10, 3.0)):
        ends = band[band[:, 0] == at, 1]
        np.testing.assert_allclose(np.ptp(ends), 2 * norm.ppf(0.975) * std)


def test_few_of_many_predictions_are_drawn_and_all_are_counted(draw):
    n = 3 * plot.quality.MOST_POINTS
    y = np.where(np.arange(n) < 30, 9.0, 0.0)
    axes = draw(plot.predictions(y, np.zeros(n), np.ones(n)))
    assert len(line(axes, "within").get_xdata()) < plot.quality.MOST_POINTS
    assert axes.get_title().startswith(f"{n - 30:,} of {n:,} targets")
    assert axes.get_legend().get_title().get_text() == "5,000 of them drawn"


def test_names_are_shown_as_they_are(model, draw):
    """Dollars are no mathematics, and long names are cut."""
    named = replace(
        model, feature_names=("a $ b $", "x_1^2", "n" * 90, r"\frac"), target_name="cost ($\\$)"
    )
    for picture in (plot.coefficients, plot.spectrum, plot.projected_tasks, plot.distances):
        draw(picture(named))
    labels = [text.get_text() for text in draw(plot.coefficients(named)).get_yticklabels()]
    assert max(map(len, labels)) < 50


def test_drawn_on_axes_that_are_given(model, easy_tasks):
    figure = Figure(layout="constrained")
    left, right = figure.subfigures(1, 2)
    axes = left.subplots(), right.subplots()
    assert plot.spectrum(model, ax=axes[0]) is figure
    assert plot.sufficiency(easy_tasks, ax=axes[1]) is figure
    assert [ax.get_title() != "" for ax in axes] == [True, True]


def test_a_fitted_estimator_will_do(model):
    estimator = MixedLinearRegression(3)
    estimator._take(model)
    assert plot.spectrum(estimator).axes[0].get_title() == plot.spectrum(model).axes[0].get_title()


def test_a_notebook_shows_the_figure(model):
    assert plot.spectrum(model)._repr_png_()[:4] == b"\x89PNG"


SHARES = [[0.8, 0.2]] * 2


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: plot.spectrum("trips.model"), "spectrum shows a Model .*, got a str"),
        (lambda m: plot.spectrum(MixedLinearRegression(2)), "got a MixedLinearRegression"),
        (lambda m: plot.spectrum(m, ax=Figure()), "ax must be axes .* got a Figure"),
        (lambda m: plot.sufficiency("t.daskmlr"), "unless of a TaskStore, .* got a str"),
        (lambda m: plot.sufficiency(m, 0), "at least 1, got 0"),
        (lambda m: plot.sufficiency(replace(m, data=())), "does not know the sizes"),
        (lambda m: plot.convergence(replace(m, history=())), "no history of refinement passes"),
        (lambda m: plot.selection(m), "told to have 3 components, .* n_components='auto'"),
        (lambda m: plot.coefficients(m, level=95), "level must lie between 0 and 1.*got 95"),
        (lambda m: plot.coefficients(m, 0.1), "must be an Uncertainty, got a float"),
        (
            lambda m: plot.projected_tasks(replace(m, heavy_coef=np.zeros((0, 2)))),
            "projected_tasks needs the heavy tasks of a fit, and the model keeps none",
        ),
        (lambda m: plot.distances(replace(m, heavy_coef=np.zeros((1, 2)))), "at least 2 heavy"),
        (lambda m: plot.calibration(SHARES, [0]), "have 2 and 1"),
        (lambda m: plot.calibration(SHARES, [0, 2]), "labels"),
        (lambda m: plot.calibration(SHARES, [0, 1], n_bins=0), "at least 1, got 0"),
        (lambda m: plot.calibration(np.zeros((0, 2)), []), r"non-empty .* shape \(0, 2\)"),
        (lambda m: plot.predictions([1.0], [1.0], [1.0, 2.0]), "of one length, got 1, 1, 2"),
        (lambda m: plot.predictions([1.0], [np.nan], [1.0]), "mean has 1 NaN"),
        (lambda m: plot.predictions([], [], []), r"y must be .* not empty, got shape \(0,\)"),
        (lambda m: plot.predictions([1.0], [1.0], [-1.0]), "must not be negative, and is -1"),
        (lambda m: plot.predictions([1.0], [1.0], [1.0], level=1.5), "got 1.5"),
    ],
)
def test_bad_input_is_refused(model, call, message):
    with pytest.raises(InputError, match=message):
        call(model)


def test_uncertainty_of_another_model_is_refused(model, uncertainty):
    with pytest.raises(InputError, match="uncertainty is of another model"):
        plot.coefficients(replace(model, coef=model.coef + 1), uncertainty)


@pytest.mark.parametrize(
    "code",
    [
        "from daskmlr import plot, plot as again; plot.predictions([1.0], [1.0], [1.0]);"
        "assert 'matplotlib.pyplot' not in sys.modules",
        "import daskmlr.plot; daskmlr.plot.spectrum",
        "import daskmlr; sys.exit('matplotlib' in sys.modules)",
        "sys.modules['matplotlib'] = None\ntry:\n import daskmlr.plot\nexcept ImportError as e:\n"
        " sys.exit(\"pip install 'daskmlr[plot]'\" not in str(e))\nsys.exit(2)",
    ],
    ids=["no pyplot", "as a module", "only when asked for", "without matplotlib"],
)
def test_the_import(code):
    subprocess.run([sys.executable, "-W", "error", "-c", f"import sys\n{code}"], check=True)
