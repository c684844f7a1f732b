"""The STS readers: the real files' counts, the traps of the format, the errors."""

from pathlib import Path

import numpy as np
import pytest

from simcse_jax.data.senteval import TASKS, Pairs, read_sickr, read_sts, read_stsb

STS13 = "STS/STS13-en-test"
STSB_TEST = "STS/STSBenchmark/sts-test.csv"
SICK_TEST = "SICK/SICK_test_annotated.txt"
SICK_HEADER = "pair_ID\tsentence_A\tsentence_B\trelatedness_score\tentailment_judgment\n"


def write(root: Path, file: str, text: str | bytes) -> Path:
    path = root / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def write_sts13(root: Path) -> None:
    for subset in ("FNWN", "headlines", "OnWN"):
        write(root, f"{STS13}/STS.input.{subset}.txt", "a b\tc d\ne\tf\ng\th\n")
        write(root, f"{STS13}/STS.gs.{subset}.txt", "1.5\n\n4\n")


def stsb_row(score: str = "2.5", s1: str = "a", s2: str = "b", more: str = "") -> str:
    return f"main-news\theadlines\t2013\t0001\t{score}\t{s1}\t{s2}{more}\n"


def test_real_counts(shared_data):
    tasks = read_sts(shared_data / "senteval")
    counts = {name: len(task) for name, task in tasks.items()}
    assert counts == {
        "STS12": 3108,
        "STS13": 1500,
        "STS14": 3750,
        "STS15": 3000,
        "STS16": 1186,
        "STS-B": 1379,
        "SICK-R": 4927,
    }
    assert tuple(tasks) == TASKS
    assert [s.name for s in tasks["STS13"].subsets] == ["FNWN", "headlines", "OnWN"]
    assert [s.name for s in tasks["STS-B"].subsets] == ["test"]
    for task in tasks.values():
        for subset in task.subsets:
            assert subset.scores.dtype == np.float64
            assert 0 <= subset.scores.min() <= subset.scores.max() <= 5
            assert all((*subset.sentences1, *subset.sentences2))
    assert tasks["STS-B"].subsets[0].sentences1[0] == "a girl is styling her hair ."


def test_real_counts_of_the_other_splits(shared_data):
    folder = shared_data / "senteval"
    assert [len(read_stsb(folder, s)) for s in ("train", "dev", "test")] == [5749, 1500, 1379]
    assert [len(read_sickr(folder, s)) for s in ("train", "dev", "test")] == [4500, 500, 4927]


def test_blank_gold_lines_are_dropped_wherever_they_are(tmp_path):
    write_sts13(tmp_path)
    write(tmp_path, f"{STS13}/STS.gs.FNWN.txt", " \n2\n\n")  # also the first and the last line
    fnwn, headlines, _ = read_sts(tmp_path, ["STS13"])["STS13"].subsets
    assert (fnwn.sentences1, fnwn.sentences2) == (("e",), ("f",))
    assert (headlines.sentences1, headlines.sentences2) == (("a b", "g"), ("c d", "h"))
    np.testing.assert_array_equal(headlines.scores, [1.5, 4.0])


def test_smt_and_unlisted_files_are_not_read(tmp_path):
    write_sts13(tmp_path)
    write(tmp_path, f"{STS13}/STS.gs.SMT.txt", "1\n")
    write(tmp_path, f"{STS13}/STS2016.input.FNWN.ascii", b"\xff")
    assert len(read_sts(tmp_path, ["STS13"])["STS13"]) == 6


def test_quotes_are_text_and_white_space_is_single(tmp_path):
    rows = stsb_row(s1='"a  quoted', s2=' b\u00a0"x" ') + stsb_row(s1='it"s', s2="c")
    write(tmp_path, STSB_TEST, rows)
    pairs = read_stsb(tmp_path)
    assert pairs.sentences1 == ('"a quoted', 'it"s')
    assert pairs.sentences2 == ('b "x"', "c")


def test_further_columns_are_ignored(tmp_path):
    write_sts13(tmp_path)
    write(tmp_path, f"{STS13}/STS.input.OnWN.txt", "a\tb\tsource\nc\td\ne\tf\t1\t2\n")
    write(tmp_path, STSB_TEST, stsb_row(more="\tsource one\tsource two") + stsb_row())
    assert read_sts(tmp_path, ["STS13"])["STS13"].subsets[2].sentences2 == ("b", "f")
    assert read_stsb(tmp_path).sentences2 == ("b", "b")


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_line_ends_byte_order_mark_and_unusual_breaks(tmp_path, end):
    # U+0085 and U+2028 are line breaks to str.splitlines, but not in these files
    header = SICK_HEADER.rstrip("\n")
    text = end.join([header, "1\ta\u0085b\tc\u2028d\t4.5\tNEUTRAL", "2\te\tf\t1\tNEUTRAL"])
    write(tmp_path, SICK_TEST, b"\xef\xbb\xbf" + text.encode())  # and no line end at the end
    pairs = read_sickr(tmp_path)
    assert (pairs.sentences1, pairs.sentences2) == (("a b", "e"), ("c d", "f"))
    np.testing.assert_array_equal(pairs.scores, [4.5, 1.0])


def test_tasks_come_in_the_papers_order(tmp_path):
    write_sts13(tmp_path)
    write(tmp_path, STSB_TEST, stsb_row())
    assert list(read_sts(tmp_path, ["STS-B", "STS13"])) == ["STS13", "STS-B"]


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        (f"{STS13}/STS.gs.FNWN.txt", "1\n2\n", r"STS\.gs\.FNWN\.txt ends at line 2 but .*3 lines"),
        (f"{STS13}/STS.input.FNWN.txt", "a\tb\n", r"STS\.input\.FNWN\.txt ends at line 1 but .*3"),
        (f"{STS13}/STS.gs.OnWN.txt", "1\n\nbad\n", r"STS\.gs\.OnWN\.txt, line 3: .*'bad'.*number"),
        (f"{STS13}/STS.gs.OnWN.txt", "1\n\nnan\n", r"STS\.gs\.OnWN\.txt, line 3: .*'nan'.*finite"),
        (f"{STS13}/STS.gs.OnWN.txt", "\n\n\n", r"STS\.gs\.OnWN\.txt has no score on any line"),
        (f"{STS13}/STS.input.OnWN.txt", "a\tb\nc\td\ne\n", r"OnWN\.txt, line 3: 1 tab.*expected 2"),
        (f"{STS13}/STS.input.OnWN.txt", b"a\tb\n\xe9\td\ne\tf\n", r"OnWN\.txt, line 2: not UTF-8"),
        (STSB_TEST, stsb_row() + "a\tb\tc\n", r"sts-test\.csv, line 2: 3 tab.*expected 7"),
        (STSB_TEST, stsb_row() + stsb_row(score=""), r"sts-test\.csv, line 2: the score ''"),
        (STSB_TEST, "", r"sts-test\.csv holds no pairs"),
        (SICK_TEST, SICK_HEADER + "1\ta\tb\n", r"annotated\.txt, line 2: 3 tab.*expected 4"),
        (SICK_TEST, SICK_HEADER + "1\ta\tb\tx\tN\n", r"annotated\.txt, line 2: the score 'x'"),
        (SICK_TEST, "1\ta\tb\t1\tN\n", r"annotated\.txt, line 1: the header.*'pair_ID', found '1'"),
        (SICK_TEST, "", r"annotated\.txt, line 1: the header"),
    ],
)
def test_bad_files_name_file_line_and_mend(tmp_path, file, text, message):
    write_sts13(tmp_path)
    write(tmp_path, STSB_TEST, stsb_row())
    write(tmp_path, SICK_TEST, SICK_HEADER + "1\ta\tb\t1\tN\n")
    tasks = ["STS13", "STS-B", "SICK-R"]
    assert sum(map(len, read_sts(tmp_path, tasks).values())) == 8
    write(tmp_path, file, text)
    with pytest.raises(ValueError, match=message):
        read_sts(tmp_path, tasks)


def test_missing_files_are_counted_and_the_first_named(tmp_path):
    write_sts13(tmp_path)
    (tmp_path / STS13 / "STS.gs.FNWN.txt").unlink()
    said = rf"{tmp_path} lacks 1 of 6 files \({STS13}/STS.gs.FNWN.txt\): give the folder that holds"
    with pytest.raises(FileNotFoundError, match=said):
        read_sts(tmp_path, ["STS13"])
    with pytest.raises(FileNotFoundError, match="SentEval's STS/ and SICK/") as error:
        read_sts(tmp_path)
    message = str(error.value)
    assert f"{tmp_path} lacks 45 of 50 files (STS/STS12-en-test/STS.input.MSRpar.txt, " in message
    assert message.count(".txt") == 3
    assert ".txt, …): give" in message
    with pytest.raises(FileNotFoundError, match=r"sts-dev\.csv"):
        read_stsb(tmp_path, "dev")
    with pytest.raises(FileNotFoundError, match=r"SICK_trial\.txt"):
        read_sickr(tmp_path, "dev")


@pytest.mark.usefixtures("unchecked")
def test_unknown_names(tmp_path):
    with pytest.raises(ValueError, match=r"no STS task 'STS17': choose from STS12, .*SICK-R"):
        read_sts(tmp_path, ["STS17"])
    with pytest.raises(ValueError, match="STS-B has no split 'trial': choose from train, dev"):
        read_stsb(tmp_path, "trial")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="SICK-R has no split 'trial'"):
        read_sickr(tmp_path, "trial")  # type: ignore[arg-type]


def test_pairs_of_unequal_length():
    with pytest.raises(ValueError, match=r"'x' need as many .*got 1, 2 and scores of shape \(1,\)"):
        Pairs("x", ("a",), ("b", "c"), np.array([1.0]))


@pytest.mark.parametrize("score", [np.inf, np.nan])
def test_pairs_of_no_number(score):
    with pytest.raises(ValueError, match="scores of the pairs 'x' must be finite"):
        Pairs("x", ("a", "b"), ("b", "c"), np.array([1.0, score]))
