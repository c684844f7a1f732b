"""A model in mteb: its run gives what `simcse-jax evaluate` gives, its prompts are mteb's."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from tiny_data import write_stsb

from simcse_jax import SentenceEncoder, cli
from simcse_jax.data.embedded import minilm_folder
from simcse_jax.data.senteval import read_sts
from simcse_jax.mteb import MtebEncoder, load

mteb = pytest.importorskip("mteb")
datasets = pytest.importorskip("datasets")
st = pytest.importorskip("sentence_transformers")

pytestmark = [pytest.mark.oracle, pytest.mark.filterwarnings("ignore::DeprecationWarning")]

DOCS = Path(__file__).resolve().parents[2] / "docs"


class LocalSts(mteb.abstasks.AbsTaskSTS):
    """The test pairs of STS-B, out of SentEval's file instead of mteb's copy on the hub."""

    metadata = mteb.TaskMetadata(
        name="LocalSts",
        description="The test pairs of STS-B.",
        type="STS",
        category="t2t",
        dataset={"path": "local", "revision": "local"},
        eval_langs=["eng-Latn"],
        main_score="cosine_spearman",
    )

    def __init__(self, folder):
        super().__init__()
        (pairs,) = read_sts(folder, ("STS-B",))["STS-B"].subsets
        columns = {
            "sentence1": list(pairs.sentences1),
            "sentence2": list(pairs.sentences2),
            "score": pairs.scores.tolist(),
        }
        self.dataset = datasets.DatasetDict(test=datasets.Dataset.from_dict(columns))
        self.data_loaded = True


@pytest.fixture
def senteval(tmp_path):
    """The first 300 test pairs of the real STS-B where it is at hand, else made ones."""
    real = DOCS.parents[1] / "shared/data/senteval/STS/STSBenchmark/sts-test.csv"
    write_stsb(tmp_path)
    if real.is_file():
        lines = real.read_text("utf-8").splitlines(keepends=True)[:300]
        (tmp_path / "STS/STSBenchmark/sts-test.csv").write_text("".join(lines), "utf-8")
    return tmp_path


def scores(model, folder, cache):
    results = mteb.evaluate(
        model,
        tasks=[LocalSts(folder)],
        cache=mteb.ResultCache(cache),
        show_progress_bar=False,
        co2_tracker=False,
    )
    (result,) = results.task_results
    return result.scores["test"][0]


@pytest.mark.parametrize("options", [{}, {"pooling": "cls", "num_layers": 2}])
def test_a_run_gives_what_evaluate_gives(options, senteval, tmp_path):
    output = tmp_path / "ours.json"
    command = ["evaluate", "--data", str(senteval), "--tasks", "STS-B", "--output", str(output)]
    for name, value in options.items():
        command += [f"--{name.replace('_', '-')}", str(value)]
    cli.main(command)
    ours = json.loads(output.read_text())["tasks"]["STS-B"]

    theirs = scores(load("minilm", **options), senteval, tmp_path / "cache")
    assert 100 * theirs["spearman"] == pytest.approx(ours["all"], abs=1e-4)
    assert 100 * theirs["pearson"] == pytest.approx(ours["pearson"]["all"], abs=1e-4)
    if not options:  # mteb's own cosines are float32, which orders those close to 1 by chance
        assert 100 * theirs["cosine_spearman"] == pytest.approx(ours["all"], abs=1e-4)


def test_what_is_known_of_a_model(tmp_path):
    theirs = st.SentenceTransformer(str(minilm_folder()), device="cpu")
    parameters = sum(p.numel() for p in theirs.parameters())
    meta = load("minilm").mteb_model_meta
    assert meta.name == "local/minilm"
    assert meta.n_parameters == parameters
    assert meta.n_embedding_parameters == theirs[0].model.get_input_embeddings().weight.numel()
    assert meta.memory_usage_mb == pytest.approx(4 * parameters / 2**20)
    assert meta.max_tokens == theirs.max_seq_length
    assert meta.embed_dim == theirs.get_embedding_dimension()
    assert meta.similarity_fn_name.value == theirs.similarity_fn_name
    assert meta.framework == ["JAX"]
    assert not meta.use_instructions
    assert meta.experiment_name is None


def test_another_model_of_the_same_name_is_scored_anew(golden, tmp_path):
    """mteb keeps scores by name and revision; a folder's revision is its content."""
    shutil.copytree(golden / "tiny-bert", tmp_path / "a" / "best")
    shutil.copytree(golden / "tiny-bert", tmp_path / "b" / "best")
    first = load(tmp_path / "a" / "best", pooling="mean").mteb_model_meta
    same = load(tmp_path / "b" / "best", pooling="mean").mteb_model_meta
    assert (first.name, first.revision) == (same.name, same.revision)
    assert first.name == "local/best"
    assert "pooling" in first.experiment_name
    changed = SentenceEncoder.from_pretrained(tmp_path / "b" / "best", pooling="mean")
    changed.params["encoder"]["embeddings"]["norm"]["bias"] += 1e-3
    changed.save_pretrained(tmp_path / "b" / "best")
    assert load(tmp_path / "b" / "best", pooling="mean").mteb_model_meta.revision != first.revision


def test_a_model_of_the_hub_has_its_name_and_commit(golden, tmp_path, monkeypatch):
    commit = "0123456789abcdef0123456789abcdef01234567"
    folder = tmp_path / "models--me--tiny" / "snapshots" / commit
    shutil.copytree(golden / "tiny-bert", folder)
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: str(folder))
    meta = load("me/tiny", pooling="mean").mteb_model_meta
    assert (meta.name, meta.revision) == ("me/tiny", commit)


# In words that the tiny model knows, so that each makes other vectors.
PROMPTS = {
    "query": "dog ",
    "STS": "cat ",
    "STSBenchmark-query": "woman ",
    "Clustering": "piano ",
}


@pytest.mark.filterwarnings("ignore:The `get_sentence_embedding_dimension` method:FutureWarning")
@pytest.mark.parametrize("default", [None, "Clustering"])
def test_prompts_are_chosen_as_mteb_does(default, golden, tmp_path):
    """Against mteb's own wrapper of sentence-transformers, with the same folder."""
    encoder = SentenceEncoder.from_pretrained(golden / "tiny-bert", pooling="mean")
    encoder.save_pretrained(tmp_path)
    config = tmp_path / "config_sentence_transformers.json"
    prompts = {"prompts": PROMPTS, "default_prompt_name": default}
    config.write_text(json.dumps(json.loads(config.read_text()) | prompts))
    (tmp_path / "simcse_jax.json").unlink()
    wrapper = mteb.models.SentenceTransformerEncoderWrapper
    theirs = wrapper(st.SentenceTransformer(str(tmp_path), device="cpu"))
    ours = load(tmp_path)
    assert ours.mteb_model_meta.use_instructions

    texts = ["the dog eats", "a man", "music"]
    inputs = [{"text": texts[:2]}, {"text": texts[2:]}]
    loader = mteb._create_dataloaders._create_dataloader_from_texts(texts, batch_size=2)
    seen = []
    for task in ({"type": "STS"}, {"type": "STS", "name": "STSBenchmark"}, {"type": "Retrieval"}):
        metadata = LocalSts.metadata.model_copy(update=task)
        where = {"task_metadata": metadata, "hf_split": "test", "hf_subset": "default"}
        for prompt_type in (None, *mteb.types.PromptType):
            mine = ours.encode(inputs, prompt_type=prompt_type, **where)
            expected = theirs.encode(loader, prompt_type=prompt_type, **where)
            np.testing.assert_allclose(mine, expected, atol=1e-5)
            seen.append(mine.round(3).tobytes())
    assert len(set(seen)) == 4 + (default is not None)  # every prompt, and none


@pytest.mark.parametrize("name", ["cosine", "dot", "euclidean", "manhattan"])
def test_similarities_are_those_of_sentence_transformers(name, golden, tmp_path):
    encoder = SentenceEncoder.from_pretrained(golden / "tiny-bert", pooling="mean")
    encoder.save_pretrained(tmp_path)
    for file in ("config_sentence_transformers.json", "simcse_jax.json"):
        raw = json.loads((tmp_path / file).read_text())
        (tmp_path / file).write_text(json.dumps(raw | {"similarity_fn_name": name}))
    ours = load(tmp_path)
    assert ours.mteb_model_meta.similarity_fn_name.value == name
    theirs = st.SentenceTransformer(str(tmp_path), device="cpu")
    a, b = np.random.default_rng(0).normal(size=(2, 5, 32)).astype(np.float32)
    every, paired = theirs.similarity(a, b[:3]), theirs.similarity_pairwise(a, b)
    np.testing.assert_allclose(ours.similarity(a, b[:3]), every, atol=1e-5)
    np.testing.assert_allclose(ours.similarity_pairwise(a, b), paired, atol=1e-5)


def test_what_is_refused(golden):
    encoder = SentenceEncoder.from_pretrained(golden / "tiny-bert", pooling="mean")
    with pytest.raises(ValueError, match="name is 'tiny'; mteb names models"):
        MtebEncoder(encoder, "tiny")
    model = MtebEncoder(encoder, "me/tiny")
    where = {"task_metadata": LocalSts.metadata, "hf_split": "test", "hf_subset": "default"}
    with pytest.raises(TypeError, match="precision"):
        model.encode([{"text": ["a dog"]}], precision="int8", **where)


def test_the_snippet_of_the_docs_runs(senteval, monkeypatch):
    page = (DOCS / "evaluation.md").read_text("utf-8")
    (code,) = re.findall(r"^```python\n(import mteb\n.*?)^```", page, re.DOTALL | re.MULTILINE)
    evaluate = mteb.evaluate
    monkeypatch.setattr(mteb, "get_tasks", lambda names: [LocalSts(senteval)])
    monkeypatch.setattr(mteb, "evaluate", lambda *a, **k: evaluate(*a, **k, cache=None))
    known = {}
    exec(compile(code, "evaluation.md", "exec"), known)
    assert known["results"].task_results[0].scores["test"][0]["spearman"] > 0.5
