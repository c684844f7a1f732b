"""tensorflow-datasets builders of the training and evaluation texts, without TensorFlow.

A text is prepared once to array_record files in tensorflow-datasets' folder and from then on read
at random places straight from disk:

    text = load("wiki1m_for_simcse")                                 # downloaded
    text = load("nli_for_simcse", source="folder/I/already/have")    # read from there
    tasks = load("senteval_sts", source="SentEval/data/downstream")  # as `read_sts` gives them
    text = load("embedded_wikipedia")                                # out of gensim's wheel

What comes from `source` is prepared under a digest of its contents: an excerpt is never taken for
the whole file, and a file that changed is prepared anew. Order is the files' order.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args, overload

import numpy as np
import tensorflow_datasets as tfds

from simcse_jax.data import wikipedia
from simcse_jax.data.senteval import Pairs, StsTask, read_sickr, read_sts, read_stsb
from simcse_jax.data.training_text import Kind, TrainingText, read_training_file
from simcse_jax.io import open_data

Split = Literal["train", "dev", "test"]
TextName = Literal["wiki1m_for_simcse", "nli_for_simcse", "embedded_wikipedia"]

_ADDRESS = "https://huggingface.co/datasets/princeton-nlp/datasets-for-simcse/resolve/main/"
_KINDS: dict[int, Kind] = {1: "sentences", 2: "pairs", 3: "triplets"}


@dataclasses.dataclass
class SourceConfig(tfds.core.BuilderConfig):
    """Where a builder takes its text from: a file or folder, or None for the published address."""

    source: Path | None = None


class PreparedText:
    """Training text on disk: the rows of a prepared builder, read as they are asked for.

    It stands wherever `TrainingText` does. A million rows take no time to open; reading all of
    them, as `columns` does, takes most of a minute.

    Attributes:
        names: of the columns.
        description: one sentence for the user about what was prepared.
        fingerprint: the digest of the rows, equal to that of the same `TrainingText`.
    """

    def __init__(self, builder: _TextBuilder):
        self.names: tuple[str, ...] = builder.columns
        self._source = builder.as_data_source("train")
        self.description: str = builder.info.metadata["description"]
        self.fingerprint: str = builder.info.metadata["fingerprint"]

    @property
    def kind(self) -> Kind:
        """Return what the number of columns makes of it."""
        return _KINDS[len(self.names)]

    def __len__(self) -> int:
        return len(self._source)

    def rows(self, indices: Sequence[int]) -> list[tuple[str, ...]]:
        """Return the rows at these places."""
        found = self._source.__getitems__(list(indices))
        return [tuple(row[name].decode("utf-8") for name in self.names) for row in found]

    @cached_property
    def columns(self) -> tuple[tuple[str, ...], ...]:
        """Return all sentences, column by column."""
        return tuple(zip(*self.rows(range(len(self))), strict=True))


# mypy sees no types in tensorflow-datasets, hence not the keyword.
class _Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
    """What all builders share: text features in the files' order."""

    VERSION = tfds.core.Version("1.0.0")
    columns: ClassVar[tuple[str, ...]]

    def _info(self) -> tfds.core.DatasetInfo:
        features = {name: tfds.features.Text() for name in self.columns}
        return tfds.core.DatasetInfo(
            builder=self,
            description=self.__doc__,
            features=tfds.features.FeaturesDict(features),
            metadata=tfds.core.MetadataDict(),
            # Row n of the file is row n here; `TrainingBatches` shuffles.
            disable_shuffling=True,
        )

    def _generate_examples(self, rows: Sequence[tuple[str, ...]]) -> Iterator[tuple[int, dict]]:
        for key, row in enumerate(rows):
            yield key, dict(zip(self.columns, row, strict=True))


class _TextBuilder(_Builder, skip_registration=True):  # type: ignore[call-arg]
    """A builder of training text, all in the split `train`."""

    file_name: ClassVar[str] = ""

    def _read(self, dl_manager: tfds.download.DownloadManager) -> TrainingText:
        source = self.builder_config.source
        if source is None:
            source = Path(dl_manager.download(_ADDRESS + self.file_name))
        return read_training_file(source)

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        text = self._read(dl_manager)
        if len(text.columns) != len(self.columns):
            raise ValueError(
                f"{self.builder_config.source} has {text.kind}, but {self.name} needs "
                f"{_KINDS[len(self.columns)]} ({', '.join(self.columns)}); give its file"
            )
        self.info.metadata["description"] = text.description
        self.info.metadata["fingerprint"] = text.fingerprint
        return {"train": self._generate_examples(list(zip(*text.columns, strict=True)))}


class Wiki1mForSimcse(_TextBuilder):
    """A million sentences of the English Wikipedia: what unsupervised SimCSE trains on."""

    columns = ("text",)
    file_name = "wiki1m_for_simcse.txt"


class NliForSimcse(_TextBuilder):
    """SNLI and MultiNLI as triplets with a hard negative: what supervised SimCSE trains on."""

    columns = ("sent0", "sent1", "hard_neg")
    file_name = "nli_for_simcse.csv"


class EmbeddedWikipedia(_TextBuilder):
    """The sentences of the Wikipedia excerpt in gensim's wheel."""

    columns = ("text",)

    def _read(self, dl_manager: tfds.download.DownloadManager) -> TrainingText:
        return _wikipedia_text()


class SentevalSts(_Builder):
    """The seven STS tasks in SentEval's layout.

    The split `test` holds all of them; `train` and `dev` hold STS-B and SICK-R.
    """

    # Scores are kept as text: tf.train.Example, which the records hold, has 32-bit floats only.
    columns = ("task", "subset", "sentence1", "sentence2", "score")

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        source = self.builder_config.source
        splits = {
            split: {
                "STS-B": StsTask("STS-B", (read_stsb(source, split),)),
                "SICK-R": StsTask("SICK-R", (read_sickr(source, split),)),
            }
            for split in ("train", "dev")
        }
        splits["test"] = read_sts(source)
        return {split: self._generate_examples(_sts_rows(splits[split])) for split in splits}


def _sts_rows(tasks: dict[str, StsTask]) -> list[tuple[str, ...]]:
    return [
        (task.name, subset.name, sentence1, sentence2, repr(float(score)))
        for task in tasks.values()
        for subset in task.subsets
        for sentence1, sentence2, score in zip(
            subset.sentences1, subset.sentences2, subset.scores, strict=True
        )
    ]


_BUILDERS: dict[str, type[_Builder]] = {
    builder.name: builder
    for builder in (Wiki1mForSimcse, NliForSimcse, EmbeddedWikipedia, SentevalSts)
}

NAMES: tuple[str, ...] = tuple(_BUILDERS)
"""What `load` knows."""

TEXTS: tuple[str, ...] = get_args(TextName)
"""Those of them that are training text."""


@overload
def load(
    name: TextName, *, data_dir: str | Path | None = None, source: str | Path | None = None
) -> PreparedText: ...


@overload
def load(
    name: Literal["senteval_sts"],
    *,
    data_dir: str | Path | None = None,
    source: str | Path | None = None,
    split: Split = "test",
) -> dict[str, StsTask]: ...


def load(
    name: str,
    *,
    data_dir: str | Path | None = None,
    source: str | Path | None = None,
    split: Split | None = None,
) -> PreparedText | dict[str, StsTask]:
    """Open a text, prepared before or now.

    Args:
        name: one of `NAMES`.
        data_dir: where prepared texts lie; by default tensorflow-datasets' own folder
            (`$TFDS_DATA_DIR` or `~/tensorflow_datasets`).
        source: a file, or a folder that holds it under its published name; for `senteval_sts` a
            folder in SentEval's layout. Without it training files are downloaded from their
            authors' address, and `senteval_sts` must have been prepared before.
        split: of `senteval_sts`: `test` (the default) has all seven tasks, `train` and `dev` have
            STS-B and SICK-R.

    Returns:
        The training text, or the STS tasks by name.

    Raises:
        FileNotFoundError: no such source, or it lacks a file.
        ValueError: an unknown name or split, or a source that cannot be read.
    """
    if name not in _BUILDERS:
        raise ValueError(f"there is no text {name!r}; choose from {', '.join(NAMES)}")
    if split is not None and (name != "senteval_sts" or split not in ("train", "dev", "test")):
        known = "train, dev, test" if name == "senteval_sts" else "train, which needs no naming"
        raise ValueError(f"{name} has no split {split!r}; it has {known}")
    builder = prepare(name, data_dir=data_dir, source=source)
    if isinstance(builder, _TextBuilder):
        return PreparedText(builder)
    return _sts_tasks(builder.as_data_source(split or "test"))


def prepare(
    name: str, *, data_dir: str | Path | None = None, source: str | Path | None = None
) -> _Builder:
    """Prepare and return the builder behind `load`; see there for arguments and errors."""
    builder_class = _BUILDERS[name]
    folder = None if data_dir is None else str(data_dir)
    config = _config(builder_class, folder, None if source is None else Path(source))
    builder = builder_class(data_dir=folder, config=config)
    if not builder.is_prepared():
        # Written beside and renamed by tensorflow-datasets: nothing half-prepared is left.
        builder.download_and_prepare(file_format="array_record")
    return builder


def _config(
    builder_class: type[_Builder], data_dir: str | None, source: Path | None
) -> SourceConfig:
    name = builder_class.name
    if builder_class is EmbeddedWikipedia:
        if source is not None:
            raise ValueError(f"{name} is read from gensim's wheel; leave the source out")
        # Named by its rows, which change with the parsers' versions.
        return SourceConfig(name=f"gensim_{_wikipedia_text().fingerprint[:16]}")
    if source is not None and not source.exists():
        raise FileNotFoundError(f"{source} does not exist; give the file or folder of {name}")
    if builder_class is SentevalSts:
        if source is None:
            return SourceConfig(name=_only_prepared(name, data_dir))
        read_sts(source)  # says which files are missing before anything is prepared
        files = sorted(p for part in ("STS", "SICK") for p in (source / part).rglob("*"))
        return SourceConfig(name=_local_name([p for p in files if p.is_file()]), source=source)
    if source is None:
        return SourceConfig(name="published")
    assert issubclass(builder_class, _TextBuilder)
    if source.is_dir() and not (source / builder_class.file_name).exists():
        raise FileNotFoundError(
            f"{source} lacks {builder_class.file_name}; give the folder that holds it, or the file"
        )
    file = source / builder_class.file_name if source.is_dir() else source
    return SourceConfig(name=_local_name([file]), source=file)


def _local_name(files: Sequence[Path]) -> str:
    """A name for the contents of files, wherever they lie."""
    digest = hashlib.blake2b(digest_size=8)
    for file in files:
        with open_data(file) as stream:
            digest.update(hashlib.file_digest(stream, hashlib.blake2b).digest())
    return f"local_{digest.hexdigest()}"


def _only_prepared(name: str, data_dir: str | None) -> str:
    folder = Path(data_dir or tfds.core.constants.DATA_DIR).expanduser() / name
    version = str(_BUILDERS[name].VERSION)
    found = sorted(p.parent.parent.name for p in folder.glob(f"*/{version}/dataset_info.json"))
    if not found:
        raise FileNotFoundError(
            f"{name} is not prepared in {folder}; give as source the folder that holds SentEval's "
            "STS/ and SICK/ (its data/downstream)"
        )
    if len(found) > 1:
        raise ValueError(
            f"{folder} holds {name} from {len(found)} different sources ({', '.join(found)}); say "
            "which by giving the source"
        )
    return found[0]


def _wikipedia_text() -> TrainingText:
    found = tuple(wikipedia.sentences(wikipedia.embedded_wikipedia()))
    return TrainingText(
        (found,),
        f"gensim's Wikipedia excerpt: {len(found):,} sentences",
    )


def _sts_tasks(source: Any) -> dict[str, StsTask]:
    subsets: dict[tuple[str, str], list[tuple[str, str, float]]] = {}
    for row in source.__getitems__(range(len(source))):
        task, subset, sentence1, sentence2, score = (
            row[name].decode("utf-8") for name in SentevalSts.columns
        )
        subsets.setdefault((task, subset), []).append((sentence1, sentence2, float(score)))
    tasks: dict[str, list[Pairs]] = {}
    for (task, subset), rows in subsets.items():
        first, second, scores = zip(*rows, strict=True)
        pairs = Pairs(subset, first, second, np.array(scores, np.float64))
        tasks.setdefault(task, []).append(pairs)
    return {task: StsTask(task, tuple(pairs)) for task, pairs in tasks.items()}
