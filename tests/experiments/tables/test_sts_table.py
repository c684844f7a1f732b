"""The table of all methods: finished runs are used, rows kept, papers' numbers beside ours."""

import dataclasses
import json
import shutil

import numpy as np
import pytest

from experiments.tables import sts
from experiments.tables.sts import StsTable, lines, main, paper_rows, rows
from simcse_jax import SentenceEncoder
from simcse_jax.data.senteval import Pairs, StsTask, read_sts
from simcse_jax.evaluation.sts import evaluate_sts


@pytest.fixture
def only_stsb(monkeypatch):
    monkeypatch.setattr(sts, "TASKS", ("STS-B",))
    monkeypatch.setattr(sts, "read_sts", lambda folder: read_sts(folder, ["STS-B"]))


@pytest.fixture
def finished(golden, tmp_path):
    """A run of two seeds, whose models differ in their pooling."""
    for seed, pooling in ((0, "cls"), (1, "max")):
        folder = tmp_path / "unsup" / f"seed-{seed}"
        encoder = SentenceEncoder.from_pretrained(golden / "tiny-bert", pooling=pooling)
        encoder.save_pretrained(folder / "best")
        (folder / "results.json").write_text(json.dumps({"settings": {"seed": seed}}))
    return tmp_path / "unsup"


def test_every_row_of_the_papers_is_found():
    for protocol, least in (("all", 8), ("wmean", 11)):
        printed = paper_rows(protocol)
        used = [name for row in rows("first-last") for name in row.paper if name in printed]
        assert len(set(used)) == len(used) >= least
        assert all(len(line) == 8 for line in printed.values())
    known = {name for protocol in ("all", "wmean") for name in paper_rows(protocol)}
    assert all(set(row.paper) <= known | {""} for row in rows("first-last") if row.fit != "target")
    assert paper_rows("mean") == {}


def test_what_is_there_is_measured_and_the_rest_marked(
    only_stsb, finished, golden, tiny_data, tmp_path, monkeypatch, capsys
):
    settings = StsTable(
        tiny_data,
        model=str(golden / "tiny-bert"),
        pooling="cls",
        unsup=finished,
        whitened_cse=finished,
        output_dir=tmp_path / "out",
        seeds=(0,),
    )
    wanted = ("cls", "cls + whitening (target)", "SimCSE, unsupervised", "SimCSE, supervised")
    wanted += ("WhitenedCSE", "SimCSE++")
    chosen = [row for row in rows("cls") if row.label in wanted]
    monkeypatch.setattr(sts, "rows", lambda _: chosen)
    main(settings)
    table = json.loads((tmp_path / "out" / "table.json").read_text())
    assert table["not_run"] == ["SimCSE, supervised"]
    labels = [label for label, _, _ in lines(table, "mean")]
    assert "WhitenedCSE" in labels
    assert "SimCSE++" not in labels  # nobody expects it of a table of the survey
    task = read_sts(tiny_data, ["STS-B"])
    for seed in (0, 1):
        encoder = SentenceEncoder.from_pretrained(finished / f"seed-{seed}" / "best")
        expected = evaluate_sts(encoder.encode, task).tasks["STS-B"].spearman.wmean
        measured = table["rows"]["SimCSE, unsupervised"]["runs"][str(seed)]
        assert measured["tasks"]["STS-B"]["wmean"] == pytest.approx(expected, abs=1e-3)
    text = (tmp_path / "out" / "table.md").read_text()
    assert "seeds 0, 1" in text
    assert "| SimCSE, supervised | – | – | not run |" in text
    assert "| paper: SimCSE-BERT-base sup |" in text
    assert text == capsys.readouterr().out.removesuffix("\n")

    # Rows are read again, not measured again, until what they depend on changes.
    def fail(*_):
        raise AssertionError("measured again")

    monkeypatch.setattr(sts, "measure", fail)
    main(settings)
    assert (tmp_path / "out" / "table.md").read_text() == text
    assert_other_pairs_are_measured_again(settings, tmp_path / "other data", monkeypatch)
    weights = finished / "seed-1" / "best" / "model.safetensors"
    told = weights.read_bytes()
    weights.write_bytes((golden / "tiny-bert" / "model.safetensors").read_bytes())
    with pytest.raises(AssertionError, match="measured again"):
        main(settings)
    weights.write_bytes(told)
    (finished / "seed-1" / "results.json").write_text('{"settings": {"seed": 1, "steps": 9}}')
    with pytest.raises(AssertionError, match="measured again"):
        main(settings)


def assert_other_pairs_are_measured_again(settings, folder, monkeypatch):
    shutil.copytree(settings.eval_data, folder)
    elsewhere = dataclasses.replace(settings, eval_data=folder)
    main(elsewhere)
    pairs = Pairs("test", ("a", "b"), ("c", "d"), np.array([1.0, 2.0]))
    with monkeypatch.context() as patch:
        patch.setattr(sts, "read_sts", lambda _: {"STS-B": StsTask("STS-B", (pairs,))})
        with pytest.raises(AssertionError, match="measured again"):
            main(elsewhere)


def test_rows_depend_on_the_sentences_they_are_fitted_on(tmp_path):
    fitted = next(row for row in rows("cls") if row.fit == "NLI")
    texts = ({"tasks": {"STS-B": ["1"]}, "nli": nli} for nli in ("2", "3"))
    one, other = (sts.row_key(StsTable(tmp_path), fitted, text, {"": "a"}) for text in texts)
    assert one != other
    text = {"tasks": {}, "nli": None}
    assert sts.row_key(StsTable(tmp_path), fitted, text, {"": "b"}) != sts.row_key(
        StsTable(tmp_path), fitted, text, {"": "c"}
    )


def test_a_folder_that_is_no_run(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no results\.json"):
        main(StsTable(tmp_path, unsup=tmp_path))


def test_what_is_no_row_or_no_finished_seed_is_refused_and_kept(
    only_stsb, tiny_data, finished, tmp_path
):
    row = tmp_path / "out" / "rows" / "cls.json"
    row.parent.mkdir(parents=True)
    row.write_text('{"mine": 1}')
    settings = StsTable(tiny_data, output_dir=tmp_path / "out")
    with pytest.raises(ValueError, match=r"cls\.json is no row that this script wrote"):
        main(settings)
    assert row.read_text() == '{"mine": 1}'
    row.write_text('{"key": {}, "hardware": "", "runs": {}}')
    with pytest.raises(ValueError, match=r"cls\.json is no row that this script wrote"):
        main(settings)
    with pytest.raises(ValueError, match="seeds has 1 more than once"):
        main(dataclasses.replace(settings, seeds=(1, 1)))
    (finished / "seed-7").mkdir()
    with pytest.raises(FileNotFoundError, match=r"seed-7 has no results\.json; end its run"):
        sts.run_models(finished)
    (finished / "seed-7" / "results.json").write_text("[]")
    with pytest.raises(ValueError, match="does not hold the results of a run"):
        sts.run_models(finished)


def test_lines_without_any_measurement():
    table = lines({"pooling": "first-last", "rows": {}}, "mean")
    assert {how for _, _, how in table} == {"not run"}


@pytest.mark.parametrize(
    "name", ["minilm_cls", "minilm_5_layers_cls", "minilm_4_layers_mean", "raw_minilm"]
)
def test_the_committed_tables_are_drawn_from_their_numbers(results_folder, name):
    file = results_folder / f"sts_table_{name}.json"
    results = json.loads(file.read_text())
    assert sts.markdown(results) == file.with_suffix(".md").read_text()
    assert sts.latex(results) == file.with_suffix(".tex").read_text()


def test_a_run_of_another_method_is_refused(tiny_data, finished, tmp_path):
    file = finished / "seed-0" / "results.json"
    file.write_text(json.dumps({"settings": {"seed": 0, "type": "simcse"}}))
    with pytest.raises(ValueError, match="is a run of simcse; --esimcse needs one of esimcse"):
        main(StsTable(tiny_data, esimcse=finished, output_dir=tmp_path / "out"))
    file.write_text(json.dumps({"settings": {"seed": 0, "num_layers": 2}}))
    with pytest.raises(ValueError, match="is of num_layers 2; the table is of None"):
        main(StsTable(tiny_data, unsup=finished, output_dir=tmp_path / "out"))
    file.write_text(json.dumps({"settings": {"seed": 0, "text_columns": 3}}))
    with pytest.raises(ValueError, match="trained on 3 columns; --unsup needs a run on sentences"):
        main(StsTable(tiny_data, unsup=finished, output_dir=tmp_path / "out"))
    file.write_text(json.dumps({"settings": {}}))
    with pytest.raises(ValueError, match="is no training's; give the folder of a run"):
        main(StsTable(tiny_data, unsup=finished, output_dir=tmp_path / "out"))
    settings = {"seed": 0, "type": "sbert", "kind": "regression"}
    file.write_text(json.dumps({"settings": settings}))
    with pytest.raises(ValueError, match="of Sentence-BERT's regression; --sbert needs one of its"):
        main(StsTable(tiny_data, sbert=finished, output_dir=tmp_path / "out"))
