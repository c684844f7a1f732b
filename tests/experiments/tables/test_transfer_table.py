"""The command that scores transfer tasks; their protocol is tested with the evaluation."""

from experiments.tables import transfer


def test_the_command(golden, tmp_path, capsys):
    folder = tmp_path / "SST" / "binary"
    folder.mkdir(parents=True)
    for split, first in (("train", 0), ("dev", 20), ("test", 40)):
        rows = [
            f"the {w} plays {t} {i}\t{w == 'man':d}"
            for i, (w, t) in enumerate([("man", "flute"), ("dog", "food")] * 10, first)
        ]
        (folder / f"sentiment-{split}").write_text("\n".join(rows))
    scores = transfer.main(
        transfer.TransferTable(
            tmp_path,
            model=str(golden / "tiny-bert"),
            pooling="mean",
            tasks=("SST2",),
            output=tmp_path / "out" / "r.json",
        )
    )
    assert scores["SST2"].accuracy == 100  # another word for each class
    assert (tmp_path / "out" / "r.json").is_file()
    assert "100.00" in capsys.readouterr().out
