"""The card of a model, its ``README.md``: facts in, Markdown out.

Its header is the YAML that the Hugging Face hub reads, scores in the form ``model-index``. The last
line of a card says that it was written here and has a digest of the rest, by which `is_unedited`
knows a card that somebody has changed: that one is the user's, and is never overwritten.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from simcse_jax.checks import counted, is_unicode
from simcse_jax.hub.settings import EncoderSettings
from simcse_jax.io import is_there, open_data, write_text
from simcse_jax.models.pooling import ditto_head

CARD_FILE = "README.md"
PLACE = "path/to/this/folder"
"""What a card's snippets load, until it is known where the model lies: see `placed`."""
MINILM = "sentence-transformers/all-MiniLM-L6-v2"
"""The hub's name of the embedded model."""


class Origin(NamedTuple):
    """Where the weights of a model come from.

    Attributes:
        name: for people: a hub id, or the name of a local folder.
        hub_id: on the Hugging Face hub; None for a local folder.
        revision: the commit there; None where it is not known.
        readme: the text of the card that came with it; None for none.
        unchanged: whether the model is as a folder of ours has it, whose card then is its own.
        num_layers: how many of its first layers were kept; None for all.
    """

    name: str
    hub_id: str | None = None
    revision: str | None = None
    readme: str | None = None
    unchanged: bool = False
    num_layers: int | None = None


class ModelFacts(NamedTuple):
    """What a model is, and how it is used.

    Attributes:
        architecture: its type and size, for people.
        dimension: the length of an embedding.
        max_length: the longest input in tokens.
        settings: how it is used.
        transforms: the kinds of the transforms after the pooling, in their order.
        elsewhere: whether sentence-transformers has modules for all of it.
    """

    architecture: str
    dimension: int
    max_length: int
    settings: EncoderSettings
    transforms: tuple[str, ...] = ()
    elsewhere: bool = True


class Score(NamedTuple):
    """A score of a model on data.

    Attributes:
        task: the hub's name of the task, such as ``"semantic-similarity"``.
        dataset: the data, for people.
        dataset_id: the data, for ``model-index``.
        split: which part of it; None for all.
        metric: for ``model-index``, named as sentence-transformers names it.
        measure: what was measured, for people.
        value: times 100.
        protocol: how it was measured, in a sentence.
        size: how many pairs or triplets, for people; "" where that is not said.
    """

    task: str
    dataset: str
    dataset_id: str
    split: str | None
    metric: str
    measure: str
    value: float
    protocol: str
    size: str = ""


class Training(NamedTuple):
    """How a model was trained.

    Attributes:
        method: its name, for people.
        objective: what was minimised, in a sentence.
        papers: whose method it is, as keys of `BIBTEX`.
        data: what was read, in a sentence.
        dataset: the name of the data set; None for files.
        hub_datasets: the data on the hub, if it is from there.
        rows: the number of examples.
        columns: the number of sentences of an example.
        labels: whether each example has a label.
        fingerprint: the digest of the text.
        steps: the number of updates.
        settings: every setting that moves a number, by section.
        is_configuration: whether ``simcse-jax train`` takes these settings as a file.
        hardware: what it was trained on.
        versions: of Python and the packages, by name.
        note: what is to be known of its scores, in whole sentences.
    """

    method: str
    objective: str
    papers: tuple[str, ...]
    data: str
    dataset: str | None
    hub_datasets: tuple[str, ...]
    rows: int
    columns: int
    labels: bool
    fingerprint: str
    steps: int
    settings: Mapping[str, Any]
    is_configuration: bool
    hardware: str
    versions: Mapping[str, str]
    note: str


class Outcome(NamedTuple):
    """What a finished training has given.

    Attributes:
        chosen: which step's model this is, and why, in a sentence.
        scores: of this model.
        before: of the model before training.
    """

    chosen: str
    scores: Sequence[Score] = ()
    before: Sequence[Score] = ()


BIBTEX = {
    "simcse": """@inproceedings{gao2021simcse,
  title = {{SimCSE}: Simple Contrastive Learning of Sentence Embeddings},
  author = {Gao, Tianyu and Yao, Xingcheng and Chen, Danqi},
  booktitle = {Proceedings of EMNLP 2021},
  year = {2021},
  url = {https://arxiv.org/abs/2104.08821}
}""",
    "whitened_cse": """@inproceedings{zhuo2023whitenedcse,
  title = {{WhitenedCSE}: Whitening-based Contrastive Learning of Sentence Embeddings},
  author = {Zhuo, Wenjie and Sun, Yifan and Wang, Xiaohan and Zhu, Linchao and Yang, Yi},
  booktitle = {Proceedings of ACL 2023},
  year = {2023},
  url = {https://arxiv.org/abs/2305.17746}
}""",
    "simcse_plus_plus": """@inproceedings{xu2023simcseplusplus,
  title = {{SimCSE++}: Improving Contrastive Learning for Sentence Embeddings from Two
           Perspectives},
  author = {Xu, Jiahao and Shao, Wei and Chen, Lihui and Liu, Lemao},
  booktitle = {Proceedings of EMNLP 2023},
  year = {2023},
  url = {https://arxiv.org/abs/2305.13192}
}""",
    "esimcse": """@inproceedings{wu2022esimcse,
  title = {{ESimCSE}: Enhanced Sample Building Method for Contrastive Learning of Unsupervised
           Sentence Embedding},
  author = {Wu, Xing and Gao, Chaochen and Zang, Liangjun and Han, Jizhong and Wang, Zhongyuan
            and Hu, Songlin},
  booktitle = {Proceedings of COLING 2022},
  year = {2022},
  url = {https://arxiv.org/abs/2109.04380}
}""",
    "ditto": """@inproceedings{chen2023ditto,
  title = {Ditto: A Simple and Efficient Approach to Improve Sentence Embeddings},
  author = {Chen, Qian and Wang, Wen and Zhang, Qinglin and Zheng, Siqi and Deng, Chong and
            Yu, Hai and Liu, Jiaqing and Ma, Yukun and Zhang, Chong},
  booktitle = {Proceedings of EMNLP 2023},
  year = {2023},
  url = {https://arxiv.org/abs/2305.10786}
}""",
    "sbert": """@inproceedings{reimers2019sentencebert,
  title = {Sentence-{BERT}: Sentence Embeddings using Siamese {BERT}-Networks},
  author = {Reimers, Nils and Gurevych, Iryna},
  booktitle = {Proceedings of EMNLP-IJCNLP 2019},
  year = {2019},
  url = {https://arxiv.org/abs/1908.10084}
}""",
    "bert": """@inproceedings{devlin2019bert,
  title = {{BERT}: Pre-training of Deep Bidirectional Transformers for Language Understanding},
  author = {Devlin, Jacob and Chang, Ming-Wei and Lee, Kenton and Toutanova, Kristina},
  booktitle = {Proceedings of NAACL-HLT 2019},
  year = {2019},
  url = {https://arxiv.org/abs/1810.04805}
}""",
    "flow": """@inproceedings{li2020bertflow,
  title = {On the Sentence Embeddings from Pre-trained Language Models},
  author = {Li, Bohan and Zhou, Hao and He, Junxian and Wang, Mingxuan and Yang, Yiming
            and Li, Lei},
  booktitle = {Proceedings of EMNLP 2020},
  year = {2020},
  url = {https://arxiv.org/abs/2011.05864}
}""",
    "whitening": """@article{su2021whitening,
  title = {Whitening Sentence Representations for Better Semantics and Faster Retrieval},
  author = {Su, Jianlin and Cao, Jiarun and Liu, Weijie and Ou, Yangyiwen},
  journal = {arXiv preprint arXiv:2103.15316},
  year = {2021},
  url = {https://arxiv.org/abs/2103.15316}
}""",
    "all_but_the_top": """@inproceedings{mu2018allbutthetop,
  title = {All-but-the-Top: Simple and Effective Postprocessing for Word Representations},
  author = {Mu, Jiaqi and Viswanath, Pramod},
  booktitle = {International Conference on Learning Representations},
  year = {2018},
  url = {https://arxiv.org/abs/1702.01417}
}""",
    "simcse_jax": """@software{simcse_jax,
  title = {simcse_jax: sentence embeddings in JAX},
  author = {The simcse_jax authors},
  year = {2026}
}""",
}
"""The papers of the methods, by the names of the methods; transforms by their kinds."""

TASKS = {
    "semantic-similarity": "Semantic Similarity",
    "triplet": "Triplet",
    "natural-language-inference": "Natural Language Inference",
}
"""The tasks of `Score` by the hub's names, with what sentence-transformers calls them."""
_SURROGATES = re.compile("[\ud800-\udfff]")
"""Halves of letters, which UTF-8 has not: what Python makes of a file's name in another code."""
_COLUMNS = {1: "a sentence", 2: "a pair of sentences", 3: "three sentences"}


def _columns(number: int) -> str:
    return _COLUMNS.get(number, f"{number} sentences")


# ---------------------------------------------------------------------------------------------
# The card
# ---------------------------------------------------------------------------------------------


def model_card(
    model: ModelFacts,
    origin: Origin | None = None,
    training: Training | None = None,
    outcome: Outcome | None = None,
) -> str:
    """Write the card of a model.

    Args:
        model: what it is.
        origin: where its weights come from, or where training began; None where that is not known.
        training: how it was trained; None where it was not trained here.
        outcome: what the training has given; None before its end.

    Returns:
        The text of `CARD_FILE`, header and all.
    """
    title = _encodable(_title(model, origin, training))
    parts = [
        f"---\n{_header(title, model, origin, training, outcome)}\n---",
        f"# {_plain(title)}",
        _summary(model, origin, training),
        *_usage(model),
        *_about_model(model, origin),
    ]
    if training is not None:
        parts += [*_about_training(training, outcome), *_about_scores(training, outcome)]
    else:
        parts += ["## Scores", "Not measured: this model was saved without an evaluation."]
    parts += _citations(model, training)
    return _signed(_encodable("\n\n".join(parts) + "\n"))


def _title(model: ModelFacts, origin: Origin | None, training: Training | None) -> str:
    name = "a model" if origin is None else origin.name
    if origin is not None and origin.hub_id is not None:
        name = name.rpartition("/")[2]
    if training is not None:
        return f"{training.method[0].upper()}{training.method[1:]} from {name}"
    if model.transforms:
        return f"{name} with {_listed(model.transforms)}"
    return "Sentence embeddings" if origin is None else name


def _header(
    title: str,
    model: ModelFacts,
    origin: Origin | None,
    training: Training | None,
    outcome: Outcome | None,
) -> str:
    """Return the YAML, without the lines around it."""
    from huggingface_hub import EvalResult, ModelCardData

    tags = ["sentence-transformers"] if model.elsewhere else []
    tags += ["sentence-similarity", "feature-extraction", "simcse_jax", "jax"]
    tags += [kind for kind in model.transforms if kind in BIBTEX]
    if training is not None:
        tags += [*training.papers, f"dataset_size:{training.rows}"]
    results = [
        EvalResult(
            task_type=score.task,
            task_name=TASKS[score.task],
            dataset_type=score.dataset_id,
            dataset_name=_encodable(score.dataset),
            dataset_split=score.split,
            metric_type=score.metric,
            metric_name=score.measure,
            metric_value=round(score.value / 100, 6),
        )
        for score in (() if outcome is None else outcome.scores)
    ]
    known = _known(origin)
    data = ModelCardData(
        language=known.get("language"),
        license=known.get("license"),
        license_name=known.get("license_name"),
        license_link=known.get("license_link"),
        base_model=(origin and origin.hub_id) or known.get("base_model"),
        datasets=None if training is None else list(training.hub_datasets) or None,
        library_name="sentence-transformers" if model.elsewhere else "simcse_jax",
        pipeline_tag="sentence-similarity",
        tags=list(dict.fromkeys(tags)),
        metrics=list(dict.fromkeys(result.metric_type for result in results)) or None,
        model_name=title if results else None,
        eval_results=results or None,
    )
    return data.to_yaml(line_break="\n")


def _known(origin: Origin | None) -> dict[str, Any]:
    """Return language, licence and the model before, where the card of the origin says them."""
    data = _header_of(None if origin is None else origin.readme)
    names = ("language", "license", "license_name", "license_link", "base_model")
    known = {name: data[name] for name in names if _is_name(data.get(name))}
    for name in ("language", "base_model"):
        values = data.get(name)
        if isinstance(values, list) and values and all(map(_is_name, values)):
            known[name] = values
    return known


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip()) and is_unicode(value)


def _header_of(readme: str | None) -> dict[str, Any]:
    """Return what the header of a card says; nothing where there is none that can be read."""
    found = re.match(r"\s*---\n(.*?)\n---[ \t]*(\n|$)", readme or "", re.DOTALL)
    if found is None or len(found[1]) > _LONGEST_HEADER:
        return {}
    try:
        data = _parsed(found[1])
    except Exception:  # the parser has others than its own, and no save fails for somebody's card
        return {}
    return data if isinstance(data, dict) else {}


_LONGEST_HEADER = 65_536
"""In letters. What is longer is not read: the parser takes a second for it."""


def _parsed(text: str) -> Any:
    """Return what YAML says, but for aliases and merge keys, by which a line becomes gigabytes.

    Raises:
        Exception: it is no such YAML.
    """
    import yaml

    class Loader(yaml.SafeLoader):
        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.AliasEvent):
                raise yaml.YAMLError("an alias")
            return super().compose_node(parent, index)

        def flatten_mapping(self, node: Any) -> None:
            if any(key.tag == "tag:yaml.org,2002:merge" for key, _ in node.value):
                raise yaml.YAMLError("a merge key")
            super().flatten_mapping(node)

    return yaml.load(text, Loader)


def _summary(model: ModelFacts, origin: Origin | None, training: Training | None) -> str:
    start = "a model whose name is not recorded" if origin is None else _linked(origin)
    made = (
        f"It starts from {start} and was saved by simcse_jax; no training is recorded for it."
        if training is None
        else f"It was trained from {start} by {training.method}, with simcse_jax."
    )
    return (
        f"This model maps a sentence to a vector of {model.dimension} numbers, so that sentences "
        f"can be compared, searched and clustered. {made}"
    )


def _usage(model: ModelFacts) -> list[str]:
    compared = "\nprint({}.similarity(vectors, vectors))"
    cosine = model.settings.similarity_fn_name == "cosine"
    sentences = '["A man plays a flute.", "Someone makes music."]'
    shape = f"print(vectors.shape)  # (2, {model.dimension})"
    here = f"""from simcse_jax import SentenceEncoder

encoder = SentenceEncoder.from_pretrained("{PLACE}")
vectors = encoder.encode({sentences})
{shape}{compared.format("encoder") if cosine else ""}"""
    there = f"""from sentence_transformers import SentenceTransformer

model = SentenceTransformer("{PLACE}")
vectors = model.encode({sentences})
{shape}{compared.format("model")}"""
    parts = [
        "## How to use it",
        "With simcse_jax (`pip install simcse_jax`):",
        _block("python", here),
    ]
    if model.elsewhere:
        parts += [
            "With sentence-transformers (`pip install sentence-transformers`):",
            _block("python", there),
        ]
    else:
        ends = f"what this model ends with ({_listed(model.transforms)})"
        pooling = model.settings.pooling
        parts.append(
            f"sentence-transformers has no module for "
            f"{f'the pooling {pooling}' if ditto_head(pooling) else ends}: it refuses the folder "
            "rather than leave that out."
        )
    return parts


def _about_model(model: ModelFacts, origin: Origin | None) -> list[str]:
    settings = model.settings
    known = _known(origin)
    licence = known.get("license_name", known.get("license"))
    facts = {
        "Encoder": model.architecture,
        "Starts from": "not recorded" if origin is None else _origin(origin),
        "Pooling": f"`{settings.pooling}`",
        "Transform of the pooled vector": _listed(model.transforms) or "none",
        "Scaled to length one": "yes" if settings.normalize else "no",
        "Dimensions": str(model.dimension),
        "Longest input": f"{model.max_length} tokens, special tokens included; more is cut off",
        "Vectors are compared by": settings.similarity_fn_name,
        "Prompts": _prompts(settings),
        "Language": _inherited(known.get("language")),
        "Licence": _inherited(licence),
    }
    return ["## The model", _list(facts)]


def _prompts(settings: EncoderSettings) -> str:
    if not settings.prompts:
        return "none"
    default = settings.default_prompt_name
    named = [f"{_code(name)} puts {_code(text)} first" for name, text in settings.prompts.items()]
    used = "none is used unless it is asked for" if default is None else f"{_code(default)} is used"
    return f"{'; '.join(named)}; {used}"


def _inherited(value: str | list[str] | None) -> str:
    if value is None:
        return "not recorded"
    return f"{_joined(value)}, as the card of the model that it starts from says"


def _about_training(training: Training, outcome: Outcome | None) -> list[str]:
    files = "" if training.dataset is None else f"{_code(training.dataset)}; "
    facts = {
        "Data": f"{files}{_plain(training.data)}",
        "Examples": f"{training.rows:,}, each {_columns(training.columns)}"
        + (" with a label" if training.labels else ""),
        "Fingerprint of the text": f"`{training.fingerprint}` (BLAKE2b over all examples)",
        "Updates": f"{training.steps:,}",
        "This model": "the run had not ended when this was written"
        if outcome is None
        else outcome.chosen,
        "Hardware": _plain(training.hardware),
        "Versions": ", ".join(f"{name} {version}" for name, version in training.versions.items()),
    }
    settings = json.dumps(training.settings, indent=2, ensure_ascii=False)
    about = (
        "Files and folders are named without the folders above them."
        if not training.is_configuration
        else "As a file, this is a configuration of `simcse-jax train`; files and folders are "
        "named without the folders above them."
    )
    details = "<details><summary>All settings that the weights depend on</summary>"
    return [
        "## Training",
        training.objective,
        _list(facts),
        f"{details}\n\n{about}\n\n{_block('json', settings)}\n\n</details>",
    ]


def _about_scores(training: Training, outcome: Outcome | None) -> list[str]:
    if outcome is None:
        said = "Not measured yet: the run writes its scores here when it ends."
        return ["## Scores", said]
    if not outcome.scores:
        return ["## Scores", "Not measured: the run had no data to score its models on."]
    before = {_key(score): score.value for score in outcome.before}
    columns = ["Data", "Measure", "Score × 100", *(["Before training"] if before else [])]
    rows = []
    for score in outcome.scores:
        row = [_plain(_named(score)), score.measure, f"{score.value:.2f}"]
        if before:
            known = before.get(_key(score))
            row.append("" if known is None else f"{known:.2f}")
        rows.append(row)
    marks = ["---", "---", *(["---:"] * (len(columns) - 2))]
    table = "\n".join(f"| {' | '.join(cells)} |" for cells in (columns, marks, *rows))
    protocols = dict.fromkeys(_plain(score.protocol) for score in outcome.scores)
    return ["## Scores", table, *protocols, _plain(training.note)]


def _key(score: Score) -> tuple[str | None, ...]:
    return score.dataset_id, score.split, score.metric


def _named(score: Score) -> str:
    return ", ".join(filter(None, (score.dataset, score.split, score.size)))


def _citations(model: ModelFacts, training: Training | None) -> list[str]:
    keys = list(() if training is None else training.papers)
    keys += ["ditto"] if ditto_head(model.settings.pooling) else []
    keys += [*model.transforms, "simcse_jax"]
    papers = "\n\n".join(BIBTEX[key] for key in dict.fromkeys(keys) if key in BIBTEX)
    return ["## Citation", _block("bibtex", papers)]


# ---------------------------------------------------------------------------------------------
# Markdown
# ---------------------------------------------------------------------------------------------


def _list(facts: Mapping[str, str]) -> str:
    return "\n".join(f"- **{name}:** {text}" for name, text in facts.items())


def _block(language: str, text: str) -> str:
    return f"```{language}\n{text}\n```"


def _code(text: str) -> str:
    """Quote text that may hold anything as code in a line."""
    quoted = json.dumps(text, ensure_ascii=False)
    fence = "`" * (1 + max(map(len, re.findall("`+", quoted)), default=0))
    return f"{fence}{quoted}{fence}"


def _encodable(text: str) -> str:
    """Replace what UTF-8 has not, by which YAML or the whole card could not be written."""
    return _SURROGATES.sub("\ufffd", text)


def _plain(text: str) -> str:
    """Escape what Markdown would take for more than text, in a line."""
    return re.sub(r"([\\`*_<>\[\]|#&~])", r"\\\1", " ".join(text.split()))


def _listed(names: Iterable[str]) -> str:
    return ", then ".join(name.replace("_", " ") for name in names)


def _joined(value: str | list[str]) -> str:
    return _plain(value if isinstance(value, str) else ", ".join(value))


def _origin(origin: Origin) -> str:
    at = "" if origin.revision is None else f", revision `{origin.revision}`"
    kept = "" if origin.num_layers is None else f", its first {counted(origin.num_layers, 'layer')}"
    before = None if origin.hub_id is not None else _known(origin).get("base_model")
    came = "" if before is None else f"; that starts from {_joined(before)}, as its card says"
    return f"{_linked(origin)}{at}{kept}{came}"


def _linked(origin: Origin) -> str:
    if origin.hub_id is None:
        return f"the local folder {_code(origin.name)}"
    return f"[{origin.hub_id}](https://huggingface.co/{origin.hub_id})"


# ---------------------------------------------------------------------------------------------
# Whose card it is
# ---------------------------------------------------------------------------------------------

_SIGNATURE = (
    "<!-- Written by simcse_jax. Edit this card as you like: saving the model again leaves an "
    "edited card as it is. {} -->\n"
)
_LOADS = re.compile(r'(SentenceEncoder\.from_pretrained|SentenceTransformer)\("[^"]*"\)')
_SIGNED = re.compile(r"<!-- Written by simcse_jax\..* ([0-9a-f]{16}) -->")


def _signed(text: str) -> str:
    return text + "\n" + _SIGNATURE.format(_digest(text))


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def is_unedited(card: str) -> bool:
    """Tell whether a card was written here, by whatever version, and is as it was written."""
    text, _, last = card.removesuffix("\n").rpartition("\n")
    found = _SIGNED.fullmatch(last)
    return found is not None and card.endswith("\n") and found[1] == _digest(text)


def placed(card: str, place: str) -> str:
    """Return a card whose snippets load the model from a place: a folder, or a hub id.

    In a card that was edited, only `PLACE` gives way.
    """
    if not is_unedited(card):
        return card.replace(f'("{PLACE}")', f'("{place}")')
    moved = _LOADS.sub(lambda found: f'{found[1]}("{place}")', card)
    return _signed(moved.removesuffix("\n").rpartition("\n")[0])


def read_card(folder: Path) -> str | None:
    """Read the card of a folder; None where there is none that can be read."""
    try:
        with open_data(folder / CARD_FILE) as file:
            return file.read().decode("utf-8-sig").replace("\r\n", "\n")
    except (OSError, ValueError):
        return None


def is_users(folder: Path) -> bool:
    """Tell whether a folder has a card that is not to be overwritten: no card that we wrote.

    A link is the user's whatever it leads to, for we write none.
    """
    if not is_there(folder / CARD_FILE):
        return False
    card = read_card(folder)
    return (folder / CARD_FILE).is_symlink() or card is None or not is_unedited(card)


def write_card(folder: Path, card: str) -> None:
    """Write a card into a model's folder, unless that has one of the user's."""
    if not is_users(folder):
        write_text(folder / CARD_FILE, card)


def read_origin(name: str, folder: Path) -> Origin:
    """Say where the weights come from that a model is loaded with.

    Args:
        name: as `simcse_jax.hub.find_model` was given it.
        folder: what it returned.
    """
    readme = read_card(folder)
    if name == "minilm":
        return Origin(MINILM, MINILM, readme=readme)
    if Path(name).expanduser().is_dir():
        return Origin(local_name(folder), readme=readme)
    commit = folder.name if re.fullmatch("[0-9a-f]{40}", folder.name) else None
    return Origin(name, name, commit, readme)


def local_name(folder: Path) -> str:
    """Return the name of a local folder, of a run's model with that of the run; no whole path."""
    folder = folder.expanduser().resolve()
    parts = folder.parts[-2:] if folder.name in ("best", "last") else folder.parts[-1:]
    return "/".join(parts)
