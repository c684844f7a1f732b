"""The card of a model: valid for the hub's own reader, true, and never in place of the user's."""

import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from huggingface_hub import ModelCard

from simcse_jax import SentenceEncoder, Whitening, hub
from simcse_jax.hub import EncoderSettings, ModelFacts, Origin, Outcome, Score, Training, model_card
from simcse_jax.hub.card import BIBTEX, PLACE, is_unedited, placed, read_origin
from simcse_jax.io import read_json

TEXTS = ["a dog eats", "the cat sat", "a bird", "two dogs eat the bird"]
FACTS = ModelFacts("bert, 2 layers of width 32", 32, 16, EncoderSettings())
TRAINING = Training(
    method="supervised SimCSE",
    objective="InfoNCE.",
    papers=("simcse",),
    data="nli.csv: <b>3</b> triplets",
    dataset=None,
    hub_datasets=("user/data",),
    rows=3,
    columns=3,
    labels=False,
    fingerprint="0a1b",
    steps=4,
    settings={"data": {"batch_size": 8}},
    is_configuration=True,
    hardware="a CPU",
    versions={"Python": "3.11"},
    note="One seed.",
)
README = (
    "---\nlanguage: [en, de]\nlicense: other\nlicense_name: mine\ntags: [theirs]\n---\n# Theirs\n"
)


@pytest.fixture(scope="module")
def encoder(golden):
    return SentenceEncoder.from_pretrained(golden / "tiny-bert", pooling="mean")


def header(card):
    return yaml.safe_load(re.match(r"---\n(.*?)\n---\n", card, re.DOTALL)[1])


def score(dataset, metric, value, split="test"):
    return Score("semantic-similarity", dataset, dataset.lower(), split, metric, metric, value, ".")


def snippets(card, place):
    """The Python of a card, with the folder in it."""
    return [
        code.replace(PLACE, str(place)) for code in re.findall("```python\n(.*?)```", card, re.S)
    ]


def test_the_hub_reads_the_scores_back(tmp_path):
    scores = [score("STS-B", "spearman_cosine", 78.561234567), score("Lee", "x", -1.5, None)]
    before = [scores[0]._replace(value=60.0)]
    origin = Origin("user/base", "user/base", "a" * 40, README, num_layers=2)
    card = model_card(FACTS, origin, TRAINING, Outcome("after update 4", scores, before))
    (tmp_path / "README.md").write_text(card)
    data = ModelCard.load(tmp_path / "README.md").data
    found = {(r.dataset_name, r.dataset_split, r.metric_type): r for r in data.eval_results}
    assert found["STS-B", "test", "spearman_cosine"].metric_value == 0.785612
    assert found["Lee", None, "x"].metric_value == -0.015
    assert len(found) == 2
    assert data.model_name == "Supervised SimCSE from base"
    raw = header(card)
    assert raw["base_model"] == "user/base"
    assert raw["datasets"] == ["user/data"]
    assert (raw["language"], raw["license"], raw["license_name"]) == (["en", "de"], "other", "mine")
    assert {"sentence-transformers", "simcse", "dataset_size:3"} <= set(raw["tags"])
    assert "theirs" not in raw["tags"]
    assert "| STS-B, test | spearman_cosine | 78.56 | 60.00 |" in card
    assert "| Lee | x | -1.50 |  |" in card
    assert f"revision `{'a' * 40}`, its first 2 layers" in card
    assert "nli.csv: \\<b\\>3\\</b\\> triplets" in card


def test_a_local_start_model_says_what_it_starts_from():
    origin = Origin("mine/best", readme="---\nbase_model: user/base\n---\n")
    card = model_card(FACTS, origin, TRAINING)
    assert header(card)["base_model"] == "user/base"
    assert "# Supervised SimCSE from mine/best\n" in card
    assert '`"mine/best"`; that starts from user/base, as its card says' in card
    assert header(model_card(FACTS, Origin("hub/a", "hub/a")))["base_model"] == "hub/a"


def test_what_is_not_known_is_not_said():
    card = model_card(FACTS)
    assert not {"language", "license", "base_model", "model-index"} & set(header(card))
    assert "**Starts from:** not recorded" in card
    assert "**Language:** not recorded" in card
    assert "Not measured: this model was saved without an evaluation." in card
    assert "Not measured yet" in model_card(FACTS, None, TRAINING)
    nothing = model_card(FACTS, None, TRAINING, Outcome("after update 4"))
    assert "Not measured: the run had no data to score its models on." in nothing
    assert "model-index" not in header(nothing)


@pytest.mark.parametrize(
    "readme",
    [
        *("", "# no header", "---\n- a list\n---\n", "---\n{\n---\n", "---\na: &a [*a]\n---\n"),
        *("---\nlanguage: 3\nlicense: [1]\n---\n", "---\nlanguage: ''\n---\n", "---\n? [a]\n---\n"),
    ],
)
def test_a_start_model_s_card_that_says_nothing(readme):
    card = model_card(FACTS, Origin("base", readme=readme))
    assert not {"language", "license", "base_model"} & set(header(card))
    assert 'the local folder `"base"`' in card


@pytest.mark.parametrize(
    "header",
    [
        "a0: &a0 {x: 1}\n"
        + "".join(f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 9)}]}}\n" for i in range(1, 12)),
        "a: &a 1\nb: *a\nlicense: mit",
        "<<: {license: mit}",
        "license: mit\nx: " + "y" * 70_000,
        'license: "\\ud800"',
        *("license: mit\na: !!bool foo", "license: mit\na: !!int ''", "license: mit\na: 0x_"),
        *("license: mit\na: !!timestamp foo", "license: mit\na: !!binary é"),
    ],
    ids=lambda header: header[:20].encode("unicode_escape").decode(),
)
def test_a_header_that_is_a_bomb_or_breaks_the_parser_is_as_if_it_were_not_there(header):
    card = model_card(FACTS, Origin("base", readme=f"---\n{header}\n---\n# Theirs\n"))
    assert card == model_card(FACTS, Origin("base"))


def test_names_that_markdown_would_take_for_more():
    settings = EncoderSettings(prompts={"query": "``` | <b>\n# q: "}, default_prompt_name="query")
    name = "my_*model*<script>"
    card = model_card(FACTS._replace(settings=settings), Origin(name))
    assert "# my\\_\\*model\\*\\<script\\>\n" in card
    assert '`"query"` puts ````"``` | <b>\\n# q: "```` first' in card


def test_names_of_scores_that_markdown_or_html_would_take_for_more():
    name = "# [x](y) <b>\n| `a`&lt;.csv"
    card = model_card(FACTS, None, TRAINING, Outcome("after update 4", [score(name, "m", 1.0)]))
    shown = "\\# \\[x\\](y) \\<b\\> \\| \\`a\\`\\&lt;.csv"
    assert f"| {shown}, test | m | 1.00 |\n" in card
    assert header(card)["model-index"][0]["results"][0]["dataset"]["name"] == name


def test_names_that_are_not_utf_8():
    name = os.fsdecode(b"\xff.csv")
    training = TRAINING._replace(data=name, note=name, settings={"train_files": [name]})
    card = model_card(FACTS, Origin(name), training, Outcome(name, [score(name, "m", 1.0)]))
    assert is_unedited(card.encode().decode())
    assert "| \ufffd.csv, test | m | 1.00 |\n" in card
    assert header(card)["model-index"][0]["results"][0]["dataset"]["name"] == "\ufffd.csv"


def test_whose_a_card_of_many_markers_is_takes_no_longer():
    """A search for a marker from every line on would take minutes."""
    assert not is_unedited("\n<!-- Written by simcse_jax. " * 100_000)
    assert not is_unedited("<!-- Written by simcse_jax. 0123456789abcdef -->\n" * 100_000)


def test_an_edited_card_is_known():
    card = model_card(FACTS)
    assert is_unedited(card)
    assert not is_unedited(card.replace("vector", "point"))
    assert not is_unedited(card + "More.\n")
    assert not is_unedited("# Mine\n")
    assert is_unedited(card.replace("Edit this card as you like", "As another version says it"))
    moved = placed(card, "user/model")
    assert is_unedited(moved)
    assert moved.count('("user/model")') == 2
    assert placed(moved, PLACE) == card
    edited = placed(card.replace("# ", "# My ", 1), "user/model")
    assert 'from_pretrained("user/model")' in edited
    assert not is_unedited(edited)


def test_the_papers_are_those_of_the_citation_file():
    """Titles and years of CITATION.cff, and every author's surname."""
    file = Path(__file__).parents[2] / "CITATION.cff"
    for paper in yaml.safe_load(file.read_text())["references"][:4]:

        def plain(text):
            return re.sub("[{}]", "", text).lower()

        (entry,) = (x for x in map(plain, BIBTEX.values()) if plain(paper["title"]) in x)
        assert f"year = {paper['year']}" in entry
        for author in paper["authors"]:
            assert f"{author['family-names']}, {author['given-names']}".lower() in entry


def test_where_a_model_is_from(tmp_path):
    commit = "0123456789" * 4
    snapshot = tmp_path / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (snapshot / "README.md").write_text(README)
    found = read_origin("user/model", snapshot)
    assert found == Origin("user/model", "user/model", commit, README)
    assert read_origin(str(snapshot), snapshot) == Origin(commit, readme=README)
    best = tmp_path / "mine" / "best"
    best.mkdir(parents=True)
    assert read_origin(str(best), best) == Origin("mine/best")
    (tmp_path / "README.md").write_bytes(b"\xff\xfe")
    assert read_origin(str(tmp_path), tmp_path).readme is None


def test_a_saved_model_s_snippet_runs(encoder, tmp_path):
    encoder.save_pretrained(tmp_path)
    assert "README.md" in read_json(tmp_path / "simcse_jax.json")["files"]
    card = (tmp_path / "README.md").read_text()
    here, there = snippets(card, tmp_path)
    assert "from sentence_transformers import" in there  # run in tests/oracle
    known = {}
    exec(here, known)
    sentences = ["A man plays a flute.", "Someone makes music."]
    np.testing.assert_array_equal(known["vectors"], encoder.encode(sentences))
    assert f"(2, {encoder.dimension})" in here
    assert "# tiny-bert\n" in card
    assert str(encoder.tokenizer_folder) not in card


def test_transforms_and_their_papers(encoder, tmp_path):
    vectors = encoder.encode(TEXTS)
    encoder.with_transform(Whitening.fit(vectors, k=2)).save_pretrained(tmp_path / "whitened")
    card = (tmp_path / "whitened" / "README.md").read_text()
    assert BIBTEX["whitening"] in card
    assert "whitening" in header(card)["tags"]
    assert "**Dimensions:** 2\n" in card


def test_what_sentence_transformers_cannot_load_is_said():
    card = model_card(FACTS._replace(transforms=("flow",), elsewhere=False))
    assert BIBTEX["flow"] in card
    assert header(card)["library_name"] == "simcse_jax"
    assert "sentence-transformers" not in header(card)["tags"]
    (_,) = snippets(card, "anywhere")
    assert "it refuses the folder rather than leave that out" in card


def test_a_user_s_card_stays(encoder, tmp_path):
    theirs, ours = tmp_path / "theirs", tmp_path / "ours"
    shutil.copytree(encoder.tokenizer_folder, theirs)
    (theirs / "README.md").write_text("# Mine\n")
    (tmp_path / "text").write_text("# Elsewhere\n")
    encoder.save_pretrained(ours)
    written = (ours / "README.md").read_text()
    (ours / "README.md").write_text("# Mine\n" + written)
    for folder, text in ((theirs, "# Mine\n"), (ours, "# Mine\n" + written)):
        for _ in range(3):
            encoder.save_pretrained(folder)
            assert (folder / "README.md").read_text() == text
    listed = [read_json(f / "simcse_jax.json")["files"] for f in (theirs, ours)]
    assert ["README.md" in files for files in listed] == [False, False]
    # What is no file, or leads elsewhere, is the user's too.
    for make in (Path.mkdir, lambda path: path.symlink_to(tmp_path / "text")):
        folder = tmp_path / "other"
        shutil.copytree(encoder.tokenizer_folder, folder)
        make(folder / "README.md")
        encoder.save_pretrained(folder)
        assert (folder / "README.md").is_dir() or (folder / "README.md").is_symlink()
        shutil.rmtree(folder)
    assert (tmp_path / "text").read_text() == "# Elsewhere\n"


def test_a_link_or_what_is_no_file_stays_in_a_saved_model_s_folder(encoder, tmp_path):
    """In place of our card, by which it is on the list of our files."""
    encoder.save_pretrained(tmp_path / "model")
    card = tmp_path / "model" / "README.md"
    ours = card.read_text()
    (tmp_path / "text").write_text("# Elsewhere\n")
    (tmp_path / "ours").write_text(ours)
    makes = (
        *(lambda name=name: card.symlink_to(f"../{name}") for name in ("text", "ours", "nothing")),
        *(card.mkdir, lambda: os.mkfifo(card)),
    )
    for make in makes:
        card.rmdir() if card.is_dir() else card.unlink()
        encoder.save_pretrained(tmp_path / "model")
        assert is_unedited(card.read_text())
        card.unlink()
        make()
        for _ in range(2):
            before = card.lstat()
            encoder.save_pretrained(tmp_path / "model")
            assert (card.lstat().st_ino, card.lstat().st_mode) == (before.st_ino, before.st_mode)
    assert (tmp_path / "text").read_text() == "# Elsewhere\n"
    assert (tmp_path / "ours").read_text() == ours
    assert hub.is_whole(tmp_path / "model")


def test_the_card_of_an_unchanged_model_goes_along(encoder, tmp_path):
    encoder.save_pretrained(tmp_path / "model")
    mine = "# Mine\n" + (tmp_path / "model" / "README.md").read_text()
    (tmp_path / "model" / "README.md").write_text(mine)
    again = SentenceEncoder.from_pretrained(tmp_path / "model")
    again.save_pretrained(tmp_path / "copy")
    assert (tmp_path / "copy" / "README.md").read_text() == mine
    for changed in (
        again.with_transform(Whitening.fit(encoder.encode(TEXTS), k=2)),
        again.with_params(again.params),
        SentenceEncoder.from_pretrained(tmp_path / "model", num_layers=1),
        SentenceEncoder.from_pretrained(tmp_path / "model", pooling="cls"),
    ):
        changed.save_pretrained(tmp_path / "changed")
        card = (tmp_path / "changed" / "README.md").read_text()
        assert is_unedited(card)
        assert "# Mine" not in card


def test_a_start_model_s_card_is_not_copied(encoder, tmp_path):
    shutil.copytree(encoder.tokenizer_folder, tmp_path / "base")
    (tmp_path / "base" / "README.md").write_text(README)
    base = SentenceEncoder.from_pretrained(tmp_path / "base", pooling="mean")
    base.save_pretrained(tmp_path / "saved")
    card = (tmp_path / "saved" / "README.md").read_text()
    assert "# Theirs" not in card
    assert header(card)["language"] == ["en", "de"]


def test_a_card_that_was_deleted_does_not_spoil_the_model(encoder, tmp_path):
    encoder.save_pretrained(tmp_path)
    (tmp_path / "README.md").unlink()
    assert hub.is_whole(tmp_path)
    SentenceEncoder.from_pretrained(tmp_path).save_pretrained(tmp_path)
    assert is_unedited((tmp_path / "README.md").read_text())
