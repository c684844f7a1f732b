"""The figures: their numbers against direct computation, their pictures without overlap."""

import dataclasses
import itertools
import json
from pathlib import Path

import jax
import matplotlib.text
import numpy as np
import pytest
from tiny_data import SENTENCES

import experiments
from experiments.figures import __main__ as figures
from experiments.figures import draw as figures_draw
from experiments.figures.measure import NAMES, Figures, methods, model_folder
from simcse_jax import SentenceEncoder, trainer
from simcse_jax.data.senteval import read_stsb
from simcse_jax.evaluation.geometry import alignment_uniformity
from simcse_jax.evaluation.isotropy import frequency_bins
from simcse_jax.evaluation.sts import paired_similarity, spearman
from simcse_jax.training import make_mesh

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def no_figure_is_left_open():
    yield
    figures_draw.plt.close("all")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for split in ("train", "dev", "test"):
        path = folder / "STS" / "STSBenchmark" / f"sts-{split}.csv"
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = [
            ("g", "f", "y", str(i), f"{i % 11 / 2}", *rng.choice(SENTENCES, 2, replace=False))
            for i in range(44)
        ]
        path.write_text("".join("\t".join(row) + "\n" for row in rows))
    (folder / "text.txt").write_text("\n".join(SENTENCES) + "\n")
    return folder


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory, golden):
    """What a training run leaves: a model and its metrics."""
    folder = tmp_path_factory.mktemp("run")
    encoder = SentenceEncoder.from_pretrained(golden / "tiny-bert", pooling="mean")
    encoder.save_pretrained(folder / "seed-0" / "best")
    lines = [{"step": i + 1, "alignment": i / 10, "uniformity": -i / 5} for i in range(25)]
    lines.insert(5, {"step": 5, "eval": {"stsb_dev": 1.0}})
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "seed-0" / "metrics.jsonl").write_text(text)
    return folder


@pytest.fixture(scope="module")
def settings(data, golden, run_folder, tmp_path_factory):
    return Figures(
        eval_data=data,
        model=str(golden / "tiny-bert"),
        depths=(2,),
        trained={"trained": run_folder},
        corpus=(data / "text.txt",),
        edges=(0, 3, 10),
        train_files=(data / "text.txt",),
        positives=("dropout", "no-dropout"),
        run_layers=1,
        steps=3,
        every=2,
        batch_size=8,
        max_length=16,
        output_dir=tmp_path_factory.mktemp("figures"),
    )


@pytest.fixture(scope="module")
def drawn(settings):
    """All figures once; on one device, several are tested with the training step."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer, "make_mesh", lambda: make_mesh(jax.devices()[:1]))
        figures.main(settings)
    return {name: json.loads((settings.output_dir / f"{name}.json").read_text()) for name in NAMES}


def test_every_figure_has_three_files(drawn, settings):
    for name in NAMES:
        png, pdf = (settings.output_dir / f"{name}.{kind}" for kind in ("png", "pdf"))
        assert png.read_bytes().startswith(b"\x89PNG")
        assert pdf.read_bytes().startswith(b"%PDF")
        assert drawn[name]["settings"]["seed"] == 0
    names = {f"{name}.{kind}" for name in NAMES for kind in ("json", "png", "pdf")}
    assert {path.name for path in settings.output_dir.iterdir()} == names


def test_no_path_is_written(drawn, settings):
    text = json.dumps(drawn)
    assert str(settings.output_dir.parent) not in text


def test_plane(drawn, settings, data, golden):
    rows = {row["method"]: row for row in drawn["plane"]["methods"]}
    assert list(rows) == [
        "cls",
        "mean",
        "first-last",
        "cls, 2 layers",
        "cls + whitening",
        "cls + flow",
        "cls, 2 layers + whitening",
        "cls, 2 layers + flow",
        "trained",
    ]
    pairs = [read_stsb(data, split) for split in ("train", "dev", "test")]
    encoder = SentenceEncoder.from_pretrained(golden / "tiny-bert", pooling="cls", num_layers=2)
    plane = alignment_uniformity(lambda s: encoder.encode(s), pairs)
    row = rows["cls, 2 layers"]
    assert row["alignment"] == pytest.approx(plane.alignment, rel=1e-4)
    assert row["uniformity"] == pytest.approx(plane.uniformity, rel=1e-4, abs=1e-5)
    x, y = (encoder.encode(c) for c in (pairs[2].sentences1, pairs[2].sentences2))
    expected = 100 * spearman(paired_similarity(x, y), pairs[2].scores)
    assert row["stsb_test"] == pytest.approx(expected, abs=0.01)
    # a trained model is used with its own pooling
    same = ("alignment", "uniformity", "stsb_test", "isoscore")
    assert [rows["trained"][k] for k in same] == pytest.approx([rows["mean"][k] for k in same])
    assert rows["cls + whitening"]["isoscore"] > rows["cls"]["isoscore"]


def test_another_pooling_is_the_start_of_every_method(settings):
    rows = methods(dataclasses.replace(settings, pooling="max", depths=(), trained={}))
    labels = ["cls", "mean", "first-last", "max", "max + whitening", "max + flow"]
    assert [row.label for row in rows] == labels
    assert [row.pooling for row in rows[-3:]] == ["max"] * 3


def test_spectrum(drawn):
    whole, first = drawn["spectrum"]["panels"]
    assert [m["method"] for m in whole["methods"]] == [
        "cls",
        "cls + whitening",
        "cls + flow",
        "trained",
    ]
    assert len(first["methods"]) == 3
    for method in (*whole["methods"], *first["methods"]):
        assert method["spectrum"][0] == 1
        assert np.all(np.diff(method["spectrum"]) <= 0)


def test_cosines(drawn, data, golden):
    value = drawn["cosines"]
    rows = {row["method"]: row for row in value["methods"]}
    for row in rows.values():
        # scores are 0, 0.5, …, 5 in turn: 5 belongs to the last band
        assert [band["pairs"] for band in row["bands"]] == [24, 24, 24, 24, 36]
    for band in rows["cls + whitening"]["bands"]:  # the others are sharp for the grid
        assert np.trapezoid(band["density"], value["grid"]) == pytest.approx(1, abs=0.02)
    encoder = SentenceEncoder.from_pretrained(golden / "tiny-bert", pooling="mean")
    parts = [read_stsb(data, split) for split in ("train", "dev", "test")]
    x = encoder.encode([s for p in parts for s in p.sentences1])
    y = encoder.encode([s for p in parts for s in p.sentences2])
    cosines = paired_similarity(x, y)
    last = np.concatenate([p.scores for p in parts]) >= 4
    assert rows["mean"]["bands"][-1]["median"] == pytest.approx(np.median(cosines[last]), abs=1e-5)


def test_frequency(drawn, settings, golden):
    encoder = SentenceEncoder.from_pretrained(golden / "tiny-bert", pooling="mean")
    table = np.asarray(encoder.params["encoder"]["embeddings"]["word"]["embedding"])
    backend = encoder.tokenizer.backend
    words = [i for i in range(len(table)) if i not in encoder.tokenizer.special_ids()]
    words = [i for i in words if not (backend.id_to_token(i) or "[unused0]").startswith("[unused")]
    counts = np.zeros(len(table), int)
    for sentence in SENTENCES:
        for i in backend.encode(sentence, add_special_tokens=False).ids:
            counts[i] += 1
    rows = frequency_bins(table[words], counts[words], (0, 3, 10))
    expected = json.loads(json.dumps([dataclasses.asdict(row) for row in rows]))
    assert drawn["frequency"]["bins"] == expected
    assert drawn["frequency"]["tokens_in_corpus"] == counts.sum()


def test_runs(drawn, settings):
    runs = drawn["path"]["runs"]
    assert list(runs) == list(settings.positives)
    starts = [tuple(records[0].values()) for records in runs.values()]
    assert len(set(starts)) == 1  # one model, measured without dropout
    ends = [records[-1]["uniformity"] for records in runs.values()]
    assert len(set(ends)) == len(ends)
    assert [r["step"] for r in runs["dropout"]] == [0, 2, 3]
    # ten steps a mean: 0.0 … 0.9, 1.0 … 1.9, 2.0 … 2.4
    assert drawn["path"]["batches"]["trained"]["alignment"] == pytest.approx([0.45, 1.45, 2.2])
    records = drawn["bound"]["records"]
    m = records[0]["sentences"]
    for record, short in zip(records, runs["dropout"], strict=True):
        assert record["uniformity"] == short["uniformity"]
        assert record["gram_total"] / m <= record["gram_largest"] * (1 + 1e-9)


def test_redraw_measures_nothing(drawn, settings, monkeypatch, tmp_path):
    monkeypatch.setattr(figures, "measure", None)
    names = ("plane", "spectrum")
    for name in names:
        (tmp_path / f"{name}.json").write_text(json.dumps(drawn[name]))
    change = {"figures": names, "redraw": True, "output_dir": tmp_path}
    figures.main(dataclasses.replace(settings, **change))
    for name in names:
        again = (tmp_path / f"{name}.pdf").read_bytes()
        assert again == (settings.output_dir / f"{name}.pdf").read_bytes()


def test_texts_do_not_overlap(drawn):
    for name, function in figures_draw.DRAW.items():
        figure = function(drawn[name])
        figure.canvas.draw()
        renderer = figure.canvas.get_renderer()
        for axes in figure.axes:
            texts = [*axes.texts, axes.title, axes.xaxis.label, axes.yaxis.label]
            for axis in (axes.xaxis, axes.yaxis) if axes.axison else ():
                low, high = sorted(axis.get_view_interval())
                texts += [t.label1 for t in axis.get_major_ticks() if low <= t.get_loc() <= high]
            boxes = [
                (text.get_text(), matplotlib.text.Text.get_window_extent(text, renderer))
                for text in texts
                if text.get_text() and text.get_visible()
            ]
            for (a, first), (b, second) in itertools.combinations(boxes, 2):
                assert not first.overlaps(second), (name, a, b)


def texts_of(figure):
    texts = [text for axes in figure.axes for text in (axes.title, *axes.texts)]
    return "\n".join(text.get_text() for text in (*texts, *figure.texts) if text.get_text())


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("plane", "Spearman × 100 on STS-B test"),
        ("path", "Spearman × 100 on STS-B dev"),
        ("cosines", "the whole of STS-B; the numbers are their Spearman × 100"),
    ],
)
def test_a_score_says_of_which_split_it_is(drawn, name, says):
    figure = figures_draw.DRAW[name](drawn[name])
    assert says in texts_of(figure)


def test_every_axis_has_a_name(drawn):
    for name in ("plane", "path", "bound", "frequency"):
        figure = figures_draw.DRAW[name](drawn[name])
        for axes in figure.axes:
            if axes.get_label() != "<colorbar>":
                assert axes.get_xlabel(), name
                # the frequency figure names what is drawn in its titles
                assert axes.get_ylabel() or (axes.get_title() and name == "frequency"), name


def test_the_runs_are_drawn_apart():
    """Each run has a colour, a line and a marker of its own, and its end is drawn larger."""
    value = json.loads(
        (Path(experiments.__file__).parent / "results/figures/path.json").read_text()
    )
    whole, zoom, *_ = figures_draw.draw_path(value).axes
    lines = [line for line in zoom.lines if len(line.get_xdata()) > 1]
    assert len(lines) == len(value["runs"])
    for look in ("get_color", "get_linestyle", "get_marker"):
        assert len({getattr(line, look)() for line in lines}) == len(lines)
    assert np.ptp(zoom.get_xlim()) < np.ptp(whole.get_xlim())
    for line, records in zip(lines, value["runs"].values(), strict=True):
        assert list(line.get_ydata()) == [r["alignment"] for r in records]


def test_labels_find_room():
    figure, axes = figures_draw.plt.subplots(figsize=(5, 4))
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    points = [(0.5 + 0.01 * i, 0.5, f"method {i}") for i in range(8)]
    figures_draw.place_labels(axes, points)
    renderer = figure.canvas.get_renderer()
    boxes = [matplotlib.text.Text.get_window_extent(t, renderer) for t in axes.texts]
    assert len(boxes) == 8
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))
    with pytest.raises(ValueError, match="no room for the label 'xxx"):
        figures_draw.place_labels(axes, [(0.5, 0.5, "x" * 200)])
    figures_draw.plt.close(figure)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"figures": ()}, "--figures needs one or more of plane"),
        ({"steps": 0}, "--steps, --every and --positives"),
        ({"eval_data": None, "figures": ("plane",)}, "give --eval-data"),
        ({"eval_data": None, "figures": ("bound",)}, "give --eval-data"),
        ({"figures": ("frequency",), "edges": (0, 10_000)}, "the last edge is rank 10000"),
    ],
)
def test_bad_settings(settings, tmp_path, change, says):
    with pytest.raises(ValueError, match=says):
        figures.main(dataclasses.replace(settings, output_dir=tmp_path / "out", **change))
    assert not (tmp_path / "out").exists()


def test_missing_files(settings, tmp_path):
    with pytest.raises(FileNotFoundError, match="neither a model folder nor a run's"):
        model_folder(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"plane\.json"):
        figures.main(dataclasses.replace(settings, redraw=True, output_dir=tmp_path))
