import json

import pytest

from simcse_jax.data.nli import NliExample, NliTriplet, is_nli_split, nli_triplets, read_nli

PREMISE = "A man plays."


def examples(*pairs):
    return [NliExample(PREMISE, hypothesis, label) for hypothesis, label in pairs]


def write_jsonl(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def write_split(folder, premises, hypotheses, labels, split="dev"):
    folder.mkdir(exist_ok=True)
    for name, lines in (("s1", premises), ("s2", hypotheses), ("labels", labels)):
        (folder / f"{name}.{split}").write_text("".join(f"{line}\n" for line in lines))
    return folder


def test_snli_and_multinli_dev_hold_5875_triplets(shared_data):
    files = [read_nli(shared_data / "nli" / f"{name}_dev.jsonl") for name in ("snli", "mnli")]
    assert [len(file.examples) for file in files] == [9842, 9815]
    both = [example for file in files for example in file.examples]
    triplets = nli_triplets(both, seed=0)
    assert len(triplets) == len({t.premise for t in triplets}) == 5875
    labels = {(e.premise, e.hypothesis, e.label) for e in both}
    assert all((t.premise, t.entailment, "entailment") in labels for t in triplets)
    assert all((t.premise, t.contradiction, "contradiction") in labels for t in triplets)


def test_the_draw_depends_on_the_seed_and_the_premise_alone():
    many = examples(("a", "entailment"), *((f"c{i}", "contradiction") for i in range(50)))
    other = NliExample("Other.", "x", "entailment")
    denied = NliExample("Other.", "y", "contradiction")
    assert nli_triplets(many, seed=1) == nli_triplets(many, seed=1)
    assert nli_triplets([other, denied, *many], seed=1)[1:] == nli_triplets(many, seed=1)
    assert len({nli_triplets(many, seed=s)[0].contradiction for s in range(20)}) > 5


def test_a_premise_needs_an_entailment_and_a_contradiction():
    assert nli_triplets(examples(("a", "entailment"), ("b", "neutral"))) == []
    assert nli_triplets(examples(("a", "contradiction"))) == []
    assert nli_triplets(examples(("a", "entailment"), ("b", "contradiction"))) == [
        NliTriplet(PREMISE, "a", "b")
    ]


def test_a_hypothesis_called_both_is_no_contradiction():
    both = examples(("a", "entailment"), ("a", "contradiction"))
    assert nli_triplets(both) == []
    # With a neutral one the rest stays, and what lacks one is left out.
    more = examples(("a", "entailment"), ("b", "contradiction"), ("c", "neutral"))
    assert nli_triplets(more, neutral=True) == [(PREMISE, "a", "b", "c")]
    assert nli_triplets(more) == [(PREMISE, "a", "b")]
    assert nli_triplets(more[:2], neutral=True) == []
    assert nli_triplets([*both, *examples(("b", "contradiction"))])[0].contradiction == "b"


def test_snlis_own_fields_and_the_undecided_label(tmp_path):
    row = {"annotator_labels": ["neutral"], "sentence1": "p", "sentence2": "h", "pairID": "1"}
    path = write_jsonl(
        tmp_path / "snli.jsonl", [{**row, "gold_label": x} for x in ("neutral", "-")]
    )
    file = read_nli(path)
    assert file.examples == (NliExample("p", "h", "neutral"),)
    assert file.unlabelled == 1


def test_the_hubs_numbers_are_labels(tmp_path):
    rows = [{"premise": "p", "hypothesis": "h", "label": n} for n in (0, 1, 2, -1)]
    file = read_nli(write_jsonl(tmp_path / "hub.jsonl", rows))
    assert [e.label for e in file.examples] == ["entailment", "neutral", "contradiction"]
    assert file.unlabelled == 1


def test_in_tsv_a_quote_is_text(tmp_path):
    path = tmp_path / "nli.tsv"
    path.write_text('premise\thypothesis\tlabel\n"He said\tso."\tentailment\n', encoding="utf-8")
    assert read_nli(path).examples == (NliExample('"He said', 'so."', "entailment"),)


def test_split_files_by_folder_or_by_any_of_the_three(tmp_path, shared_data):
    folder = write_split(tmp_path / "snli", ["p", "q"], ["h", "i"], ["neutral", "-"])
    expected = (NliExample("p", "h", "neutral"),)
    for path in (folder, folder / "s1.dev", folder / "s2.dev", folder / "labels.dev"):
        assert is_nli_split(path)
        assert read_nli(path).examples == expected
    assert not is_nli_split(tmp_path)
    assert not is_nli_split(tmp_path / "s1.txt")
    assert len(read_nli(shared_data / "nli" / "snli_test").examples) == 9824


def test_bad_input_says_where_and_how_to_mend(tmp_path):
    rows = [{"premise": "p", "hypothesis": "h", "label": x} for x in ("neutral", "maybe")]
    with pytest.raises(ValueError, match=r"bad\.jsonl, line 2: the label 'maybe' is none of"):
        read_nli(write_jsonl(tmp_path / "bad.jsonl", rows))
    with pytest.raises(ValueError, match=r"columns a; NLI needs premise, hypothesis and label"):
        read_nli(write_jsonl(tmp_path / "other.jsonl", [{"a": "b"}]))
    folder = write_split(tmp_path / "uneven", ["p", "q"], ["h"], ["neutral"])
    with pytest.raises(ValueError, match="have 2, 1 and 1 lines; line n of each"):
        read_nli(folder)
    write_split(folder, ["p"], ["h"], ["neutral"], split="train")
    with pytest.raises(ValueError, match=r"found labels\.dev, labels\.train; name one file"):
        read_nli(folder)
    (folder / "s2.dev").unlink()
    with pytest.raises(FileNotFoundError, match=r"s2\.dev does not exist"):
        read_nli(folder / "s1.dev")
    with pytest.raises(ValueError, match=r"s1\.dev is empty"):
        read_nli(write_split(tmp_path / "empty", [], [], []))
