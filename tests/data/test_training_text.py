import json

import pytest

from simcse_jax.data.training_text import (
    NLI_LABELS,
    ColumnChoice,
    TrainingText,
    read_labelled_nli,
    read_sentences,
    read_training_file,
)


def write(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
    return path


def test_a_txt_file_is_a_sentence_a_line(tmp_path):
    path = write(tmp_path / "a.txt", '\ufeffOne.\r\n\n  \nTwo,\tand "more"\u2028.\nThree.')
    text = read_training_file(path)
    assert text.kind == "sentences"
    assert text.columns == (("One.", 'Two,\tand "more"\u2028.', "Three."),)
    assert text.description == ("a.txt: 3 sentences from 1 column; 2 blank lines left out")
    assert len(text) == 3
    assert text.rows([2, 0]) == [("Three.",), ("One.",)]


def test_simcses_own_files(shared_data):
    wiki = read_training_file(shared_data / "wikipedia" / "wiki1m_head.txt")
    assert (wiki.kind, len(wiki)) == ("sentences", 11_914)
    nli = read_training_file(shared_data / "nli" / "nli_for_simcse_head.csv")
    assert (nli.kind, len(nli)) == ("triplets", 9)
    assert nli.rows([7]) == [("Gays and lesbians.", "Homosexuals.", "Heterosexuals.")]
    assert nli.columns[1][5] == "There are a few Christian mosaics left in the building.  "
    assert "(sent0, sent1, hard_neg)" in nli.description


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl"])
@pytest.mark.parametrize(("width", "kind"), [(1, "sentences"), (2, "pairs"), (3, "triplets")])
def test_the_number_of_columns_decides(tmp_path, suffix, width, kind):
    names = ("sent0", "sent1", "hard_neg")[:width]
    rows = [("a b", "c d", "e f")[:width], ("g", "h", "i")[:width]]
    if suffix == ".jsonl":
        content = "\n".join(json.dumps(dict(zip(names, row, strict=True))) for row in rows)
    else:
        mark = "," if suffix == ".csv" else "\t"
        content = "\n\n".join(mark.join(row) for row in (names, *rows))  # blank lines are no rows
    text = read_training_file(write(tmp_path / f"x{suffix}", content))
    assert text.kind == kind
    assert text.columns == tuple(zip(*rows, strict=True))
    assert ", ".join(names) in text.description


@pytest.mark.parametrize("end", ["\r", "\r\n"])
@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("x.txt", ["a b", "g"]),
        ("x.csv", ["sent0", "a b", '"g"']),
        ("x.tsv", ["sent0", "a b", "g"]),
        ("x.jsonl", ['{"sent0": "a b"}', '{"sent0": "g"}']),
    ],
)
def test_every_end_of_line_ends_a_row(tmp_path, name, lines, end):
    text = read_training_file(write(tmp_path / name, end.join([*lines, ""])))
    assert text.columns == (("a b", "g"),)


def test_empty_cells_become_a_space(tmp_path):
    csv = write(tmp_path / "x.csv", "sent0,sent1\na,\n,b\n")
    assert read_training_file(csv).columns == (("a", " "), (" ", "b"))
    jsonl = write(
        tmp_path / "x.jsonl", '{"sent0": "a", "sent1": null}\n{"sent1": "", "sent0": "b"}'
    )
    assert read_training_file(jsonl).columns == (("a", "b"), (" ", " "))


def test_a_csv_cell_may_hold_commas_quotes_and_line_breaks(tmp_path):
    path = write(tmp_path / "x.csv", 'sent0,sent1\n"a, ""b""\nc",d\n')
    assert read_training_file(path).columns == (('a, "b"\nc',), ("d",))


def test_nli_becomes_triplets_over_all_files(tmp_path, shared_data):
    nli = shared_data / "nli"
    text = read_training_file([nli / "snli_dev.jsonl", nli / "mnli_dev.jsonl"], seed=3)
    assert (text.kind, len(text)) == ("triplets", 5875)
    assert "5,875 triplets" in text.description
    assert "19,657 NLI pairs with seed 3" in text.description
    assert len(read_training_file(nli / "snli_test")) == 2921
    one = write(tmp_path / "1.csv", "premise,hypothesis,label\np,h,entailment\np,x,-\n")
    two = write(tmp_path / "2.csv", "premise,hypothesis,label\np,n,contradiction\n")
    assert read_training_file([one, two]).rows([0]) == [("p", "h", "n")]
    assert "1 more without a label left out" in read_training_file([one, two]).description


def test_several_files_are_read_as_one(tmp_path):
    files = [write(tmp_path / f"{name}.txt", f"{name}\n") for name in "ab"]
    assert read_training_file(files).columns == (("a", "b"),)


def test_the_fingerprint_tells_texts_apart():
    same = TrainingText((("a", "b"),))
    assert same.fingerprint == TrainingText((("a", "b"),), "another description").fingerprint
    others = [(("b", "a"),), (("ab", ""),), (("a",), ("b",)), (("a", "b", ""),)]
    assert len({same.fingerprint, *(TrainingText(c).fingerprint for c in others)}) == 5


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.txt", "", r"x\.txt is empty; it needs a sentence on each line"),
        ("x.txt", "\n \n", r"x\.txt is empty"),
        ("x.txt", b"good\nb\xe4d\n", r"x\.txt, line 2: not UTF-8 \(byte 0xe4\); convert"),
        ("x.csv", b"a,b\nc,\xff\n", r"x\.csv, line 2: not UTF-8"),
        ("x.csv", "", r"x\.csv is empty; it needs a header such as"),
        ("x.tsv", "\n", r"x\.tsv is empty; it needs a header of tab-separated"),
        ("x.jsonl", "\n", r"x\.jsonl is empty; it needs a JSON object"),
        ("x.csv", "sent0,sent1\n", r"x\.csv holds the header 'sent0, sent1' and no rows"),
        ("x.csv", "a,b,c\n1,2,3\n4,5\n", r"x\.csv, line 3: too few columns, 2 for the header's 3"),
        ("x.tsv", "a\tb\n1\n", r"x\.tsv, line 2: too few columns, 1 for the header's 2"),
        (
            "x.csv",
            "sentence\nOne, two.\n",
            r"x\.csv, line 2: too many columns, .*quote its",
        ),
        ("x.csv", 'a,b\n1,2\n"3,4\n5,6\n', r"x\.csv, line 3: not a row .*mend its quotes"),
        ("x.csv", "A man plays.,A man.\n", r"the first row should name the columns"),
        ("x.csv", "one;two\na b;c d\n", r"x\.csv, line 1: the one column 'one;two' looks like"),
        (
            "x.csv",
            "a,b,c,d\n1,2,3,4\n",
            r"x\.csv, line 1: 4 columns \(a, b, c, d\), which is neither",
        ),
        ("x.csv", "a,b,score\n1,2,3\n", r"the column 'score' holds no sentences; leave it out"),
        ("x.jsonl", '{"a": "b"}\n{"a": \n', r"x\.jsonl, line 2: not JSON \(Expecting value"),
        ("x.jsonl", '["a"]\n', r"line 1: a JSON object with named texts is wanted"),
        ("x.jsonl", '{"a": "b"}\n{"a": "c", "a": "d"}\n', r"line 2: .*'a' is there twice; leave"),
        ("x.jsonl", "[" * 9999 + "\n", r"line 1: its JSON is nested too deep to be read; each"),
        (
            "x.jsonl",
            '{"a": "b", "c": "d"}\n{"a": "b"}',
            r"line 2: 'c' is missing, .* a, c;",
        ),
        ("x.jsonl", '{"a": "b"}\n{"a": "b", "c": 1}', r"line 2: 'c' is new, for the"),
        ("x.jsonl", '{"a": "b"}\n{"a": 1}', r"line 2: 'a' is 1, not a text; put it in quotes"),
        ("x.jsonl", '{"a": "b\\u0000"}', r"line 1: 'a' holds the escape \\u0000; delete it"),
        ("x.jsonl", '{"a": "\\ud83d"}', r"line 1: 'a' holds half of a surrogate pair"),
        ("x.arrow", "A", r"ends in '\.arrow'.* one of \.txt, \.csv, \.tsv, \.jsonl, \.parquet"),
        ("x", "a", r"ends in 'no suffix'"),
        ("x.csv", "premise,hypothesis,label\np,h,neutral\n", r"no premise of the 1 labelled NLI"),
    ],
)
def test_bad_input_says_where_and_how_to_mend(tmp_path, name, content, message):
    with pytest.raises(ValueError, match=message) as error:
        read_training_file(write(tmp_path / name, content))
    assert "\n" not in str(error.value)


def test_files_that_do_not_go_together(tmp_path):
    one = write(tmp_path / "one.txt", "a\n")
    two = write(tmp_path / "two.csv", "a,b\nc,d\n")
    nli = write(tmp_path / "nli.csv", "premise,hypothesis,label\np,h,neutral\n")
    with pytest.raises(ValueError, match="have 1 and 2 columns"):
        read_training_file([one, two])
    with pytest.raises(ValueError, match="mix raw NLI"):
        read_training_file([one, nli])
    with pytest.raises(ValueError, match="no training file was given"):
        read_training_file([])
    with pytest.raises(FileNotFoundError, match=r"gone\.txt does not exist"):
        read_training_file(tmp_path / "gone.txt")


def test_training_text_needs_equal_columns():
    with pytest.raises(ValueError, match="equally long and not empty, got 1, 2 rows"):
        TrainingText((("a",), ("b", "c")))
    with pytest.raises(ValueError, match=r"or more, not 0"):
        TrainingText(())
    more = TrainingText((("a",),) * 4)
    assert more.kind == "examples"
    assert more.description.endswith("the others are hard negatives (supervised)")
    assert TrainingText((("a",),)).description.startswith("training text: 1 sentence from 1 column")


def test_every_sentence_of_files_of_all_kinds(tmp_path):
    nli = write(
        tmp_path / "nli.jsonl",
        '{"premise": "p", "hypothesis": "h", "label": "neutral"}\n'
        '{"premise": "p", "hypothesis": "i", "label": "contradiction"}\n'
        '{"premise": "q", "hypothesis": "j", "label": "-"}\n',
    )
    pairs = write(tmp_path / "pairs.tsv", "sent0\tsent1\na\tb\nc\td\n")
    text = write(tmp_path / "t.txt", "x\ny\nx\n")
    # Row by row, repeated ones kept, whatever the label; pairs without one left out.
    assert read_sentences(nli) == ["p", "h", "p", "i"]
    assert read_sentences([pairs, text]) == ["a", "b", "c", "d", "x", "y", "x"]
    with pytest.raises(FileNotFoundError, match="nowhere"):
        read_sentences(tmp_path / "nowhere.txt")
    with pytest.raises(ValueError, match="empty.txt"):
        read_sentences(write(tmp_path / "empty.txt", ""))


def test_labelled_nli_keeps_every_pair_with_the_hubs_numbers(tmp_path):
    rows = [
        {"premise": "A.", "hypothesis": "B.", "label": "entailment"},
        {"premise": "A.", "hypothesis": "C.", "label": "-"},
        {"premise": "D.", "hypothesis": "E.", "label": 2},
    ]
    path = write(tmp_path / "a.jsonl", "\n".join(map(json.dumps, rows)))
    folder = tmp_path / "split"
    folder.mkdir()
    for name, line in (("s1", "F."), ("s2", "G."), ("labels", "neutral")):
        write(folder / f"{name}.test", f"{line}\n")
    text = read_labelled_nli([path, folder])
    assert NLI_LABELS == ("entailment", "neutral", "contradiction")
    assert text.columns == (("A.", "D.", "F."), ("B.", "E.", "G."))
    assert text.labels == (0, 2, 1)
    assert text.description == (
        "a.jsonl and split: 3 NLI pairs (1 entailment, 1 neutral, 1 contradiction), 1 more "
        "without a label left out"
    )
    assert read_labelled_nli(path).labels == (0, 2)


def test_labelled_nli_that_cannot_be_read(tmp_path):
    with pytest.raises(ValueError, match="no NLI file was given"):
        read_labelled_nli([])
    with pytest.raises(FileNotFoundError, match="no.jsonl"):
        read_labelled_nli(tmp_path / "no.jsonl")
    row = {"premise": "A.", "hypothesis": "C.", "label": "-"}
    path = write(tmp_path / "a.jsonl", json.dumps(row))
    with pytest.raises(ValueError, match="no NLI pair has a label"):
        read_labelled_nli(path)


def test_labels_are_part_of_the_fingerprint_and_as_many_as_rows():
    columns = (("A.", "B."), ("C.", "D."))
    prints = {
        TrainingText(columns, labels=labels).fingerprint
        for labels in (None, (0, 1), (1, 0), (0.0, 1.0))
    }
    assert len(prints) == 4
    # As it was before there were labels: checkpoints of older runs know it.
    assert TrainingText((("A.",),)).fingerprint == "ef6b304f86ccd5b8f8754f379e3f09e6"
    with pytest.raises(ValueError, match="training text of 2 rows has 1 label;"):
        TrainingText(columns, labels=(0,))


@pytest.mark.parametrize(
    ("rows", "columns", "message"),
    [
        (["id,a,b", "1,a dog,a cat", "2,a man,a hat"], (), "'id' holds numbers, no sentences"),
        (["a,b,stars", "a dog,a cat,4.5", "a man,a hat,3"], (), "'stars' holds numbers"),
        (
            ["a,b,stars", "a dog,a cat,4.5", "a man,a hat,3"],
            ("a", "stars"),
            "'stars' holds numbers",
        ),
        (
            ["premise,hypothesis,gold", "a dog,a cat,neutral", "a man,a hat,entailment"],
            ("premise", "hypothesis", "gold"),
            "'gold' holds the labels of NLI; leave columns out",
        ),
        (["premise,hypothesis", "a dog,no dog"], (), "columns of NLI, but there is no label; add"),
        (["premise,hypothesis,label,label", "a,b,0,1"], (), "several columns 'label'; rename all"),
    ],
)
def test_numbers_and_labels_are_no_sentences(tmp_path, rows, columns, message):
    file = tmp_path / "rows.csv"
    file.write_text("\n".join(rows) + "\n")
    with pytest.raises(ValueError, match=message):
        read_training_file(file, choice=ColumnChoice(columns))


def test_nli_without_labels_can_be_meant(tmp_path):
    file = write(tmp_path / "rows.csv", "premise,hypothesis\na dog,the dog\n")
    text = read_training_file(file, choice=ColumnChoice(("premise", "hypothesis")))
    assert text.columns == (("a dog",), ("the dog",))
