"""Transfer tasks: SentEval's files, and its protocol against loops written out as SentEval's."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold

from simcse_jax.data.transfer import TRANSFER_TASKS, Labelled, TransferTask, read_transfer
from simcse_jax.evaluation.transfer import REGULARISATION, average, evaluate_transfer

ROWS = {
    "MR/rt-polarity.pos": "a  fine film .\nwarm , and funny\n",
    "MR/rt-polarity.neg": "dull\n",
    "CR/custrev.pos": "it works\n",
    "CR/custrev.neg": "it broke\n\n",
    "SUBJ/subj.objective": "he leaves town\n",
    "SUBJ/subj.subjective": "a wise caf\xe9 comedy\n",
    "MPQA/mpqa.pos": "good\n",
    "MPQA/mpqa.neg": "bad\n",
    "SST/binary/sentiment-train": "so good\t1\nso bad\t0\n",
    "SST/binary/sentiment-dev": "fair\t1\n",
    "SST/binary/sentiment-test": "poor\t0\n",
    "TREC/train_5500.label": "DESC:manner How did it begin ?\nHUM:ind Who : he ?\n",
    "TREC/TREC_10.label": "NUM:dist How far is it ?\n",
    "MRPC/msr_paraphrase_train.txt": 'Quality\tid\tid\t1\t2\n1\t7\t8\tHe said " so .\tSo he said\n',
    "MRPC/msr_paraphrase_test.txt": "\ufeffQuality\tid\tid\t1\t2\r\n0\t7\t8\tcaf\xe9\tb\r\n",
}


@pytest.fixture
def folder(tmp_path):
    for name, text in ROWS.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        encoding = "utf-8" if name.startswith(("SST", "MRPC")) else "latin-1"
        path.write_bytes(text.encode(encoding))
    return tmp_path


def test_every_file_as_senteval_reads_it(folder):
    tasks = read_transfer(folder)
    assert tuple(tasks) == TRANSFER_TASKS
    assert tasks["MR"].splits["all"].columns == (("a fine film .", "warm , and funny", "dull"),)
    assert tasks["MR"].splits["all"].labels.tolist() == [1, 1, 0]
    assert tasks["CR"].splits["all"].columns == (("it works", "it broke"),)
    assert tasks["SUBJ"].splits["all"].columns[0] == ("he leaves town", "a wise caf\xe9 comedy")
    assert tasks["SST2"].splits["train"].columns == (("so good", "so bad"),)
    assert {k: v.labels.tolist() for k, v in tasks["SST2"].splits.items()} == {
        "train": [1, 0], "dev": [1], "test": [0],
    }  # fmt: skip
    assert tasks["TREC"].splits["train"].columns == (("How did it begin ?", "Who : he ?"),)
    assert tasks["TREC"].splits["train"].labels.tolist() == [1, 3]
    assert tasks["TREC"].splits["test"].labels.tolist() == [5]
    assert tasks["MRPC"].splits["train"].columns == (('He said " so .',), ("So he said",))
    assert tasks["MRPC"].splits["test"].columns == (("caf\xe9",), ("b",))


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("SST/binary/sentiment-dev", "fair\t2\n", "sentiment-dev, line 1: .*a tab, and 0 or 1"),
        ("TREC/TREC_10.label", "NUM:a b\nODD:x y\n", "TREC_10.label, line 2: 'ODD:x y'"),
        ("MRPC/msr_paraphrase_test.txt", "header\n1\ta\n", "test.txt, line 2: .*separated by tabs"),
        ("SST/binary/sentiment-train", "\n", "sentiment-train holds no sentence"),
    ],
)
def test_a_line_that_is_not_as_it_should(folder, name, text, message):
    (folder / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        read_transfer(folder)


def test_a_missing_file_and_an_unknown_task(folder):
    (folder / "CR/custrev.neg").unlink()
    with pytest.raises(FileNotFoundError, match="custrev.neg is missing; .*SentEval"):
        read_transfer(folder, ["CR"])
    with pytest.raises(ValueError, match="no transfer task is called 'SICK'"):
        read_transfer(folder, ["SICK"])


# --- The protocol ----------------------------------------------------------------------------

DIM = 6


def vector(sentence):
    """A sentence "k" is row k of a fixed matrix."""
    return np.random.default_rng(int(sentence)).normal(size=DIM).astype(np.float32)


def encode(sentences):
    return np.stack([vector(s) for s in sentences])


def noisy(first, count, pairs=False):
    """Labels that a linear rule gives, a fifth of them flipped."""
    rng = np.random.default_rng(first)
    names = [tuple(str(first + count * c + i) for i in range(count)) for c in range(1 + pairs)]
    u = encode(names[0])
    score = (u * encode(names[1])).sum(1) if pairs else u @ np.linspace(-1, 1, DIM)
    labels = ((score > 0) ^ (rng.random(count) < 0.2)).astype(np.int64)
    return Labelled(tuple(names), labels)


def best_by_folds(x, y, folds):
    """SentEval's inner loop: the C of the best mean accuracy, the first of equal ones."""
    means = []
    for c in REGULARISATION:
        scores = []
        for a, b in StratifiedKFold(folds, shuffle=True, random_state=1111).split(x, y):
            model = LogisticRegression(C=c, random_state=1111, max_iter=10_000).fit(x[a], y[a])
            scores.append(model.score(x[b], y[b]))
        means.append(np.mean(scores))
    return REGULARISATION[int(np.argmax(means))], 100 * max(means)


def test_nested_folds_as_senteval_runs_them():
    data = noisy(0, 90)
    x, y = encode(data.columns[0]), data.labels
    dev, test = [], []
    for a, b in StratifiedKFold(3, shuffle=True, random_state=1111).split(x, y):
        c, score = best_by_folds(x[a], y[a], 3)
        model = LogisticRegression(C=c, random_state=1111, max_iter=10_000).fit(x[a], y[a])
        dev.append(score)
        test.append(100 * model.score(x[b], y[b]))
    found = evaluate_transfer(encode, [TransferTask("MR", {"all": data})], folds=3)["MR"]
    assert found.accuracy == pytest.approx(np.mean(test))
    assert found.dev_accuracy == pytest.approx(np.mean(dev))
    assert found.f1 is None
    assert 60 < found.accuracy < 95  # neither chance nor the labels themselves


def test_pairs_are_seen_as_difference_and_product():
    train, test = noisy(1000, 120, pairs=True), noisy(2000, 60, pairs=True)

    def features(data):
        u, v = (encode(c) for c in data.columns)
        return np.hstack([np.abs(u - v), u * v])

    x, y = features(train), train.labels
    c, dev = best_by_folds(x, y, 4)
    model = LogisticRegression(C=c, random_state=1111, max_iter=10_000).fit(x, y)
    called = model.predict(features(test))
    right = np.sum((called == 1) & (test.labels == 1))
    f1 = 2 * right / (np.sum(called == 1) + np.sum(test.labels == 1))
    task = TransferTask("MRPC", {"train": train, "test": test})
    found = evaluate_transfer(encode, [task], folds=4)["MRPC"]
    assert found.accuracy == pytest.approx(100 * np.mean(called == test.labels))
    assert found.dev_accuracy == pytest.approx(dev)
    assert found.f1 == pytest.approx(100 * f1)


def test_sst_is_chosen_on_dev_and_trained_on_train_alone():
    splits = {"train": noisy(3000, 80), "dev": noisy(4000, 60), "test": noisy(5000, 60)}
    x = {k: encode(v.columns[0]) for k, v in splits.items()}
    models = [
        LogisticRegression(C=c, random_state=1111, max_iter=10_000).fit(
            x["train"], splits["train"].labels
        )
        for c in REGULARISATION
    ]
    dev = [m.score(x["dev"], splits["dev"].labels) for m in models]
    test = models[int(np.argmax(dev))].score(x["test"], splits["test"].labels)
    found = evaluate_transfer(encode, [TransferTask("SST2", splits)])
    assert found["SST2"].accuracy == pytest.approx(100 * test)
    assert average(found) == found["SST2"].accuracy


@pytest.mark.parametrize(
    ("labels", "folds", "message"),
    [
        ([0, 0, 0, 0], 2, "one class only"),
        ([0, 0, 0, 1], 2, "a class of 1 sentence, too few for 2 folds"),
        ([0, 0, 1, 1], 1, "folds is 1"),
    ],
)
def test_bad_input(labels, folds, message):
    data = Labelled((("1", "2", "3", "4"),), np.array(labels))
    with pytest.raises(ValueError, match=message):
        evaluate_transfer(encode, [TransferTask("MR", {"all": data})], folds=folds)
