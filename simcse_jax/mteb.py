"""A model for mteb, the Massive Text Embedding Benchmark: encoded here, scored there."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from scipy.spatial.distance import cdist

from simcse_jax import hub
from simcse_jax.checks import check_choice
from simcse_jax.encoder import SentenceEncoder, cosine_similarity, fingerprint
from simcse_jax.extras import needs

Embeddings = Float[np.ndarray, "n D"]


def _dot(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return a @ b.T


def _euclidean(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return -cdist(a, b)


def _manhattan(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return -cdist(a, b, "cityblock")


# sentence-transformers' four, higher for closer rows.
_SIMILARITIES: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "cosine": cosine_similarity,
    "dot": _dot,
    "euclidean": _euclidean,
    "manhattan": _manhattan,
}


class MtebEncoder:
    """An encoder as mteb's ``EncoderProtocol`` wants it, for `mteb.evaluate`.

    Example:
        >>> whitened = encoder.fit(Whitening, corpus)
        >>> mteb.evaluate(MtebEncoder(whitened, "me/whitened"), tasks=mteb.get_tasks(["STS12"]))

    Attributes:
        encoder: what encodes.
        mteb_model_meta: what mteb files the scores under; what is not known of the model (its
            licence, its training data and the like) is None there.
    """

    def __init__(
        self,
        encoder: SentenceEncoder,
        name: str,
        revision: str | None = None,
        options: Mapping[str, Any] | None = None,
    ):
        """Describe an encoder to mteb; :func:`load` does so for a folder or a model of the hub.

        Args:
            encoder: what encodes.
            name: ``"organization/model"``, as mteb names models.
            revision: default a digest of weights, settings, tokenizer and transform. mteb does not
                run a task again for a name and a revision that it has scores of.
            options: how the model was changed as it was loaded; its scores are kept apart.

        Raises:
            MissingExtra: mteb is not installed.
            ValueError: a name without an organization, or embeddings that are to be compared in a
                way that is not known here.
        """
        check_choice(
            "similarity_fn_name", encoder.settings.similarity_fn_name, tuple(_SIMILARITIES)
        )
        if "/" not in name:
            raise ValueError(f"name is {name!r}; mteb names models 'organization/model'")
        self.encoder = encoder
        self.mteb_model_meta = _model_meta(encoder, name, revision or fingerprint(encoder), options)

    def encode(
        self,
        inputs: Iterable[Mapping[str, Any]],
        *,
        task_metadata: Any,
        hf_split: str,
        hf_subset: str,
        prompt_type: str | None = None,
        **options: Any,
    ) -> Embeddings:
        """Encode what mteb hands over.

        The prompt is the model's own: the one named for the task or its type, if there is one, as
        mteb names them; else that of `encode_query` or `encode_document`; where mteb asks for
        neither, the default one.

        Args:
            inputs: batches with sentences as ``"text"``.
            task_metadata: of the task; its name and type choose among prompts.
            hf_split: the part of the data set, which makes no difference.
            hf_subset: the subset of the task, which makes no difference.
            prompt_type: ``"query"`` or ``"document"``.
            options: those of `SentenceEncoder.encode`.

        Raises:
            TypeError: an option that `SentenceEncoder.encode` has not, such as ``precision``.
            ValueError: as in `SentenceEncoder.encode`.
        """
        with needs("mteb"):
            from mteb.models.abs_encoder import get_prompt_name

        sentences = [sentence for batch in inputs for sentence in batch["text"]]
        prompts = dict(self.encoder.settings.prompts)
        if (prompt := get_prompt_name(prompts, task_metadata, prompt_type)) is not None:
            return self.encoder.encode(sentences, prompt_name=prompt, **options)
        if prompt_type == "query":
            return self.encoder.encode_query(sentences, **options)
        if prompt_type == "document":
            return self.encoder.encode_document(sentences, **options)
        return self.encoder.encode(sentences, **options)

    def similarity(self, embeddings1: Any, embeddings2: Any) -> Float[np.ndarray, "n m"]:
        """Compare every row of one with every row of the other, as the model's folder says."""
        compare = _SIMILARITIES[self.encoder.settings.similarity_fn_name]
        return compare(_matrix(embeddings1), _matrix(embeddings2))

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> Float[np.ndarray, "n"]:
        """Compare each row of one with the same row of the other, as `evaluate_sts` does."""
        from simcse_jax.evaluation.sts import paired_similarity

        name: Any = self.encoder.settings.similarity_fn_name
        return paired_similarity(_matrix(embeddings1), _matrix(embeddings2), name)


def load(name: str | os.PathLike[str] = "minilm", **options: Any) -> MtebEncoder:
    """Load a model for `mteb.evaluate`.

    A model of the hub is called by its own name and commit. A folder is ``"local/"`` and its name,
    with a digest of what is in it for a revision, so that a model trained anew is scored anew.

    Example:
        >>> mteb.evaluate(load("runs/stsb/best"), tasks=mteb.get_tasks(["STSBenchmark"]))

    Args:
        name: as in `SentenceEncoder.from_pretrained`.
        options: those of `SentenceEncoder.from_pretrained`.

    Raises:
        MissingExtra: mteb is not installed.
        FileNotFoundError: as in `SentenceEncoder.from_pretrained`.
        ValueError: as in `SentenceEncoder.from_pretrained`, or as in `MtebEncoder`.
    """
    with needs("mteb"):
        import mteb  # noqa: F401  (before a model is fetched)

    folder = hub.find_model(name)
    encoder = SentenceEncoder.from_pretrained(folder, **options)
    changes = {k: v for k, v in options.items() if v is not None and k != "devices"}
    if "dtype" in changes:
        changes["dtype"] = jnp.dtype(changes["dtype"]).name
    given = Path(name).expanduser()
    # huggingface_hub keeps what it fetched in snapshots/COMMIT.
    fetched = folder.parent.name == "snapshots" and not given.is_dir()
    known_as = str(name) if fetched and "/" in str(name) else f"local/{given.absolute().name}"
    return MtebEncoder(encoder, known_as, folder.name if fetched else None, changes)


def _model_meta(
    encoder: SentenceEncoder, name: str, revision: str, options: Mapping[str, Any] | None
) -> Any:
    """Return mteb's ``ModelMeta`` of an encoder."""
    with needs("mteb"):
        from mteb.models.model_meta import ModelMeta, ScoringFunction

    parameters = jax.tree.leaves(encoder.params)
    return ModelMeta(
        loader=None,
        name=name,
        revision=revision,
        release_date=None,
        languages=None,
        n_parameters=sum(leaf.size for leaf in parameters),
        n_embedding_parameters=encoder.params["encoder"]["embeddings"]["word"]["embedding"].size,
        memory_usage_mb=sum(leaf.nbytes for leaf in parameters) / 2**20,
        max_tokens=encoder.max_length,
        embed_dim=encoder.dimension,
        license=None,
        open_weights=None,
        public_training_code=None,
        public_training_data=None,
        framework=["JAX"],
        similarity_fn_name=ScoringFunction(encoder.settings.similarity_fn_name),
        use_instructions=any(encoder.settings.prompts.values()),
        training_datasets=None,
        experiment_kwargs=dict(options) if options else None,
    )


def _matrix(embeddings: Any) -> Embeddings:
    return np.atleast_2d(np.asarray(embeddings, np.float32))
