"""SentenceEncoder: what most users need. A model folder in, embeddings out."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import itertools
import json
import os
import sys
import tempfile
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Float
from tqdm import tqdm

from simcse_jax import hub
from simcse_jax.checks import (
    check_choice,
    check_count,
    check_finite_rows,
    check_matrix,
    check_seed,
    check_type,
    check_unmasked,
    levels_to_caller,
    quoted,
)
from simcse_jax.compilation_cache import enable_compilation_cache
from simcse_jax.cudnn import check_cudnn
from simcse_jax.data.encode_batches import (
    batch_tokens,
    check_ids,
    encode_batches,
    tokenised_chunks,
)
from simcse_jax.data.given_sentences import (
    as_list,
    check_iterable,
    check_strings,
    is_text,
    listed_once,
    positions_among,
)
from simcse_jax.data.packing import TOKENS_PER_SEGMENT
from simcse_jax.data.tokenizer import Tokenizer
from simcse_jax.io import is_there
from simcse_jax.losses.geometry import divide_by_norms, float32_directions, unit_rows
from simcse_jax.models import Batch, BertConfig, SentenceModel
from simcse_jax.models.fused_attention import ATTENTIONS, AttentionName
from simcse_jax.models.int8 import quantize_kernels
from simcse_jax.models.pooling import pooled_size
from simcse_jax.transforms import Transform

DTYPES = ("float32", "bfloat16", "int8")
# Sentences tokenised at a time, and those of a chunk of a stream: its memory is bounded by this.
CHUNK = 16_384


class EncodeOptions(NamedTuple):
    """What `SentenceEncoder.encode` was asked for, the model's settings where that was None.

    Attributes:
        limit: the longest input in tokens.
        refuses_long: whether a longer one is an error.
        warns_of_long: whether longer ones are warned of.
        batch_size: about how many sentences the device gets; None is its usual number.
        normalize: whether vectors are scaled to length one; None is as the model is set.
        prompt: the text before every sentence.
        width: how many dimensions are kept.
    """

    limit: int
    refuses_long: bool
    warns_of_long: bool
    batch_size: int | None
    normalize: bool | None
    prompt: str
    width: int


def embed(
    model: SentenceModel,
    params: hub.Params,
    batch: Batch,
    num_sentences: int,
    dropout_key: Array | None = None,
    scales: hub.Params | None = None,
) -> Float[Array, "S D"]:
    """Encode, pool and project a batch: the pure function behind :class:`SentenceEncoder`.

    Args:
        model: the module.
        params: ``{"encoder": …}``, with ``"pooler"`` for that pooling.
        batch: rows of tokens.
        num_sentences: the static number of sentences S.
        dropout_key: switches dropout on; each sentence has a key of its own, made from it.
        scales: of kernels that are int8, see `simcse_jax.models.int8`.

    Returns:
        float32 ``[S, D]``.
    """
    keys = None if dropout_key is None else jax.random.split(dropout_key, num_sentences)
    variables = {"params": params} | ({} if scales is None else {"scales": scales})
    return model.apply(variables, batch, keys, num_sentences=num_sentences)  # type: ignore[return-value]


# With XLA's own options, on a CPU too: experiments/bench/compiler_options.py found none better.
_embed_jit = jax.jit(embed, static_argnames=("model", "num_sentences"))


def cosine_similarity(
    a: Float[np.ndarray, "n D"], b: Float[np.ndarray, "m D"]
) -> Float[np.ndarray, "n m"]:
    """Cosine of every row of ``a`` with every row of ``b``; 0 for a zero vector.

    Raises:
        ValueError: they are not matrices of one width, or not finite.
    """
    check_unmasked("a", a)
    check_unmasked("b", b)
    a, b = np.asarray(a), np.asarray(b)
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1]:
        raise ValueError(f"embeddings of shapes {a.shape} and {b.shape} cannot be compared")

    def unit(x: np.ndarray) -> np.ndarray:
        x = np.asarray(check_matrix("embeddings", x))
        check_finite_rows("embeddings", x)
        return divide_by_norms(float32_directions(x))

    return unit(a) @ unit(b).T


class SentenceEncoder:
    """A frozen encoder with its tokenizer and pooling, and a transform of its embeddings or none.

    Example:
        >>> encoder = SentenceEncoder.from_pretrained("minilm")
        >>> vectors = encoder.encode(["A man plays a flute.", "Someone makes music."])
        >>> vectors.shape
        (2, 384)

    Attributes:
        config: the architecture.
        params: ``{"encoder": …}`` and, where the folder had them, ``"pooler"`` and ``"mlm"``.
        settings: pooling, normalisation, maximal length, prompts.
        transform: whitening, a flow, or another map fitted to the pooled embeddings; None for none.
        dtype: the compute type; parameters and results are float32.
        attention: "dense", or "cudnn" for rows of more than 64 tokens.
        origin: where the weights come from; None where that is not known.
    """

    def __new__(cls, *args: Any, **_: Any) -> SentenceEncoder:
        """Say how a model is loaded to who gives its name, as to sentence-transformers' class."""
        own = cls.__init__ is not SentenceEncoder.__init__  # which may well take a name
        if args and isinstance(args[0], str | os.PathLike) and not own:
            raise TypeError(
                f"{cls.__name__} is made of parts; a model is loaded by "
                f"{cls.__name__}.from_pretrained({str(args[0])!r})"
            )
        return super().__new__(cls)

    def __init__(
        self,
        config: BertConfig,
        params: hub.Params,
        tokenizer: Tokenizer,
        settings: hub.EncoderSettings | None = None,
        *,
        transform: Transform | None = None,
        dtype: Any = jnp.float32,
        tokenizer_folder: Path | None = None,
        devices: Sequence[jax.Device] | None = None,
        origin: hub.Origin | None = None,
        attention: AttentionName = "dense",
    ):
        """Put the parts together; most callers want :meth:`from_pretrained`.

        Args:
            config: the architecture.
            params: parameters as :func:`simcse_jax.hub.load_params` returns them.
            tokenizer: the model's tokenizer.
            settings: how to pool; default mean pooling.
            transform: applied to the pooled embeddings, before they are scaled to length one.
            dtype: as in :meth:`from_pretrained`.
            tokenizer_folder: where the tokenizer's other files lie, to be copied on saving.
            devices: the rows of a batch are spread over these; default every GPU or TPU of
                this process, or one CPU device.
            origin: where the weights come from, for the card that is written on saving.
            attention: as in :meth:`from_pretrained`.

        Raises:
            ValueError: the model cannot be pooled so, the transform takes other dimensions, or
                there is no such attention here.
        """
        self.config = config
        self.tokenizer = tokenizer
        self.settings = settings or hub.EncoderSettings()
        self.dtype = _checked_dtype(dtype)
        self.tokenizer_folder = tokenizer_folder
        self.origin = origin
        hub.check_settings(self.settings, config, params)
        self._pooled_size = pooled_size(self.settings.pooling, config.hidden_size)
        if transform is not None and transform.input_dim != self._pooled_size:
            raise ValueError(
                f"the transform takes {transform.input_dim} dimensions, the encoder gives "
                f"{self._pooled_size}"
            )
        self.transform = transform
        self._knows_every_id = tokenizer.largest_id() < config.vocab_size
        enable_compilation_cache()
        if devices is None:
            local = jax.local_devices()
            devices = local if local[0].platform != "cpu" else local[:1]
        mesh = jax.sharding.Mesh(np.asarray(devices), ("data",))
        check_choice("attention", attention, ATTENTIONS)
        if attention == "cudnn":
            check_cudnn(config, self.dtype, devices)
        self.attention = attention
        self._rows_sharding = NamedSharding(mesh, PartitionSpec("data"))
        self._everywhere = NamedSharding(mesh, PartitionSpec())
        self.params: hub.Params = jax.device_put(params, self._everywhere)

    @classmethod
    def from_pretrained(
        cls,
        name: str | os.PathLike[str] = "minilm",
        *,
        pooling: str | None = None,
        num_layers: int | None = None,
        normalize: bool | None = None,
        max_length: int | Literal["longest"] | None = None,
        dtype: Any = jnp.float32,
        devices: Sequence[jax.Device] | None = None,
        attention: AttentionName = "dense",
    ) -> SentenceEncoder:
        """Load a model.

        Args:
            name: ``"minilm"``, a folder of Hugging Face, sentence-transformers or ourselves,
                or a hub id.
            pooling: default what the folder says, else mean, with a warning.
            num_layers: keep the first so many layers.
            normalize: default what the folder says, else False.
            max_length: cut inputs to so many tokens; ``"longest"`` for the whole position table;
                default what the folder says, else the whole position table. The command line has
                the same default.
            dtype: the compute type, float32, bfloat16 or int8: with the last, dense layers multiply
                whole numbers of 8 bits, and the rest is float32.
            devices: see the constructor.
            attention: ``"cudnn"`` takes cuDNN's for rows of more than 64 tokens, where there is no
                dropout: for dtype bfloat16, an NVIDIA GPU and a model without relative positions.
                It is compared with ours on the device first. Not measured.

        Raises:
            FileNotFoundError: no such model, or no safetensors in it.
            ValueError: a folder that does not fit together; the message names the file. Or
                another pooling or number of layers than the folder's transform was fitted to, a
                maximal length beyond the model's positions, or no such attention here.
        """
        folder = hub.find_model(name)
        core = hub.encoder_folder(folder)
        whole = hub.read_config(core)
        if max_length == "longest":
            max_length = whole.max_length
        elif max_length is not None:
            _check_length(max_length, whole)
        if num_layers is not None:
            check_count("num_layers", num_layers)
        settings = hub.folder_settings(folder, ask=pooling is None)
        transform = hub.read_transform(folder)
        if transform is not None:
            given = pooled_size(settings.pooling, whole.hidden_size)
            if transform.input_dim != given:
                raise ValueError(
                    f"{folder} ends with a {transform.kind} of {transform.input_dim} dimensions; "
                    f"its encoder gives {given}"
                )
            own = {"pooling": settings.pooling, "num_layers": whole.num_hidden_layers}
            for what, asked in (("pooling", pooling), ("num_layers", num_layers)):
                if asked not in (None, own[what]):
                    raise ValueError(
                        f"{folder} ends with a {transform.kind} that was fitted with {what} "
                        f"{own[what]}; {what} {asked} needs a fit of its own"
                    )
        config, params = hub.load_params(core, whole, num_layers)
        changes = {"pooling": pooling, "normalize": normalize, "max_length": max_length}
        said, settings = settings, hub.replace_settings(settings, changes)
        as_saved = is_there(folder / hub.SETTINGS_FILE) and (config, settings) == (whole, said)
        tokenizer = Tokenizer.from_folder(core, settings.do_lower_case)
        return cls(
            config,
            params,
            tokenizer,
            settings,
            transform=transform,
            dtype=dtype,
            tokenizer_folder=core,
            devices=devices,
            origin=hub.read_origin(str(name), folder)._replace(
                unchanged=as_saved, num_layers=num_layers
            ),
            attention=attention,
        )

    def with_transform(self, transform: Transform | None) -> SentenceEncoder:
        """Return the same encoder with this transform in place of its own, or with none.

        Its vectors are not truncated, whatever the encoder's own are. ``fit`` fits one.

        Raises:
            ValueError: the transform takes other dimensions than the encoder gives.
        """
        return self._but(
            settings=dataclasses.replace(self.settings, truncate_dim=None), transform=transform
        )

    def with_params(self, params: hub.Params) -> SentenceEncoder:
        """Return the same encoder with these parameters, as `simcse_jax.hub.load_params` has them.

        Raises:
            ValueError: they lack what the pooling needs.
        """
        return self._but(params=params)

    def _but(self, **changes: Any) -> SentenceEncoder:
        """Return the same encoder with other parts."""
        origin = None if self.origin is None else self.origin._replace(unchanged=False)
        return SentenceEncoder(**self._parts() | {"origin": origin} | changes)

    def _parts(self) -> dict[str, Any]:
        """Return what the constructor made this encoder of."""
        return {
            "config": self.config,
            "params": self.params,
            "tokenizer": self.tokenizer,
            "settings": self.settings,
            "transform": self.transform,
            "dtype": self.dtype,
            "tokenizer_folder": self.tokenizer_folder,
            "devices": list(self._rows_sharding.mesh.devices.flat),
            "origin": self.origin,
            "attention": self.attention,
        }

    def fit(
        self, transform: type[Transform], sentences: str | Iterable[str], **options: Any
    ) -> SentenceEncoder:
        """Return the same encoder with a transform fitted to sentences in place of its own.

        It is fitted to the pooled embeddings as they are, which is what it is applied to: not
        scaled to length one, even where the folder asks for that afterwards.

        Example:
            >>> whitened = encoder.fit(Whitening, corpus, k=256)

        Args:
            transform: `Whitening`, `Flow`, `Standardization` or `AllButTheTop`.
            sentences: the corpus; no labels are needed.
            options: those of the transform's own ``fit``.

        Raises:
            TypeError: a transform that is not fitted, or as in ``encode``.
            ValueError: as in the transform's own ``fit``.
        """
        fit = getattr(transform, "fit", None)
        if fit is None:
            raise TypeError(f"{transform!r} has nothing to fit; give Whitening or Flow, say")
        vectors = self.with_transform(None).encode(as_list(sentences), normalize=False)
        return self.with_transform(fit(vectors, **options))

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the parts, parameters as NumPy arrays; the devices are the other machine's."""
        parts = self._parts()
        del parts["devices"]
        parts["params"] = jax.tree.map(np.asarray, self.params)
        return _from_parts, (type(self), parts)

    def __repr__(self) -> str:
        devices = self._rows_sharding.mesh.devices
        transform = self.transform
        shown = {
            "model": None if self.tokenizer_folder is None else str(self.tokenizer_folder),
            "pooling": self.settings.pooling,
            "layers": self.config.num_hidden_layers,
            "transform": None if transform is None else transform.kind,
            "dimension": self.dimension,
            "normalize": self.settings.normalize,
            "max_length": self.max_length,
            "dtype": self.dtype.name,
            "devices": f"{devices.size} {devices.flat[0].platform}",
        }
        if self.attention != "dense":
            shown["attention"] = self.attention
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in shown.items())})"

    @functools.cached_property
    def _computed(self) -> hub.Params:
        """What is computed with, by the names of `embed`; in int8 it is made when first needed."""
        if self.dtype != jnp.int8:
            return {"params": self.params}
        numbers, scales = quantize_kernels({"encoder": self.params["encoder"]})
        made = {"params": {**self.params, **numbers}, "scales": scales}
        return jax.device_put(made, self._everywhere)

    @property
    def max_length(self) -> int:
        """Return the longest input in tokens, special tokens included."""
        return self.settings.longest_input(self.config)

    @property
    def dimension(self) -> int:
        """Return the length of an embedding."""
        return self.settings.dimension(self._whole_dimension)

    @property
    def _whole_dimension(self) -> int:
        """The length of an embedding that is not truncated."""
        return self._pooled_size if self.transform is None else self.transform.output_dim

    def encode(
        self,
        sentences: str | Iterable[str],
        *,
        batch_size: int | None = None,
        normalize: bool | None = None,
        show_progress: bool | None = None,
        max_length: int | None = None,
        on_truncation: str = "warn",
        dropout_seed: int | None = None,
        prompt_name: str | None = None,
        prompt: str | None = None,
        truncate_dim: int | None = None,
        normalize_embeddings: bool | None = None,
        show_progress_bar: bool | None = None,
        convert_to_numpy: bool = True,
    ) -> Float[np.ndarray, "*n D"]:
        """Encode sentences, in the order given; equal sentences are computed once.

        Args:
            sentences: one string, or strings in a list, an array, or a Series of pandas or polars;
                an empty or blank one is encoded as the special tokens alone.
            batch_size: about how many sentences the device gets at a time (it has room for
                16 tokens for each, and no more than the sentences have); default 64 on a CPU, 2048
                on each other device.
            normalize: scale to length one; default as the model is set, which is before its
                vectors are truncated.
            show_progress: a progress bar; default where standard error is a terminal and the
                work takes more than a second.
            max_length: cut to so many tokens, without a warning; default as the model is set.
            on_truncation: ``"warn"`` or ``"error"`` where a sentence is too long for the model.
            dropout_seed: switch the encoder's dropout on, with masks drawn from this seed; every
                sentence, also one that is repeated, then has masks of its own. The masks depend
                on the order and on ``batch_size`` too.
            prompt_name: put this prompt of the settings before every sentence; default the default
                prompt of the settings, if there is one.
            prompt: put this text before every sentence, whatever ``prompt_name`` says.
            truncate_dim: keep the first so many dimensions; default as the model is set.
            normalize_embeddings: as sentence-transformers has it: True is ``normalize=True``,
                False is as the model is set.
            show_progress_bar: sentence-transformers' name of ``show_progress``.
            convert_to_numpy: sentence-transformers' name of what is always so.

        Returns:
            float32 ``[n, D]``, ``[0, D]`` for an empty list; ``[D]`` for one string.

        Raises:
            TypeError: no strings, or an option by both of its names.
            ValueError: a length or size below the possible, a sentence too long where
                ``on_truncation`` is ``"error"``, or without a token that the model knows; or no
                prompt of this name.
            FloatingPointError: a vector that is not finite; the message has the sentence.
        """
        if convert_to_numpy is not True:
            raise ValueError(
                f"convert_to_numpy is {convert_to_numpy!r}; encode gives NumPy arrays, and "
                "jax.numpy.asarray puts one on the device"
            )
        if normalize_embeddings is not None:
            _check_one_name("normalize", normalize, "normalize_embeddings")
            normalize = normalize_embeddings or None
        if show_progress_bar is not None:
            _check_one_name("show_progress", show_progress, "show_progress_bar")
            show_progress = show_progress_bar
        only = isinstance(sentences, str)
        sentences = [sentences] if isinstance(sentences, str) else as_list(sentences)
        if dropout_seed is not None:
            check_seed("dropout_seed", dropout_seed)
        options = self._options(
            batch_size, normalize, max_length, on_truncation, prompt_name, prompt, truncate_dim
        )

        distinct = sentences if dropout_seed is not None else list(dict.fromkeys(sentences))
        key = None if dropout_seed is None else jax.random.key(dropout_seed)
        result = np.empty((len(distinct), options.width), np.float32)
        chunks = (distinct[start : start + CHUNK] for start in range(0, len(distinct), CHUNK))
        start = 0
        with tqdm(
            total=len(distinct),
            desc="encode",
            unit=" sentences",
            delay=1,
            disable=None if show_progress is None else not show_progress,
        ) as bar:
            for vectors in self._encode_chunks(chunks, options, key, bar.update):
                result[start : start + len(vectors)] = vectors
                start += len(vectors)
        if only:
            return result[0]
        if len(distinct) == len(sentences):  # with dropout they always are
            return result
        return result[positions_among(distinct, sentences)]

    def encode_stream(
        self,
        sentences: Iterable[str],
        *,
        chunk_size: int = CHUNK,
        batch_size: int | None = None,
        normalize: bool | None = None,
        max_length: int | None = None,
        on_truncation: str = "warn",
        prompt_name: str | None = None,
        prompt: str | None = None,
        truncate_dim: int | None = None,
        on_progress: Callable[[int], Any] | None = None,
    ) -> Iterator[Float[np.ndarray, "n D"]]:
        """Encode sentences as they come, a chunk at a time: `encode` for more than memory holds.

        Two chunks of sentences are held at a time, the one on the device and the one that is
        tokenised meanwhile, and of the vectors one chunk. Equal sentences are computed once within
        a chunk. The vectors of a chunk depend on its sentences alone, to the bit.

        Example:
            >>> with open("corpus.txt", encoding="utf-8") as file:
            ...     for vectors in encoder.encode_stream(map(str.strip, file)):
            ...         index.add(vectors)

        Args:
            sentences: strings, of which no more are taken than the next chunk needs.
            chunk_size: how many sentences each array has, but for the last.
            batch_size: as in `encode`; so are the options that follow.
            normalize: scale to length one.
            max_length: cut to so many tokens, without a warning.
            on_truncation: ``"warn"``, once the sentences have ended, or ``"error"``.
            prompt_name: put this prompt of the settings before every sentence.
            prompt: put this text before every sentence.
            truncate_dim: keep the first so many dimensions.
            on_progress: called with the number of sentences that were done since its last call,
                every time the device has done some.

        Returns:
            An iterator over float32 ``[n, D]``, in the order of the sentences.

        Raises:
            TypeError: as in `encode`; for a sentence that is no string when it is met.
            ValueError: as in `encode`, a ``chunk_size`` below 1, or a NUL character in a sentence.
            FloatingPointError: as in `encode`.
        """
        check_count("chunk_size", chunk_size)
        if on_progress is not None and not callable(on_progress):
            raise TypeError(f"on_progress is {quoted(on_progress)}; it must be a function, or None")
        check_iterable(sentences)
        options = self._options(
            batch_size, normalize, max_length, on_truncation, prompt_name, prompt, truncate_dim
        )
        return self._stream(iter(sentences), chunk_size, options, on_progress or (lambda _: None))

    def _stream(
        self,
        sentences: Iterator[str],
        size: int,
        options: EncodeOptions,
        progress: Callable[[int], Any],
    ) -> Iterator[np.ndarray]:
        """Encode chunks of a stream; those ahead wait here for the places of equal sentences."""
        waiting: deque[tuple[list[str], list[str]]] = deque()

        def distinct_chunks() -> Iterator[list[str]]:
            taken = 0
            while chunk := list(itertools.islice(sentences, size)):
                check_strings(chunk, taken)
                for i, sentence in enumerate(chunk, taken):
                    if "\0" in sentence:  # as in files, of which a corpus is most often read
                        raise ValueError(f"sentence {i} holds a NUL character; leave it out")
                taken += len(chunk)
                waiting.append((chunk, list(dict.fromkeys(chunk))))
                yield waiting[-1][1]

        for vectors in self._encode_chunks(distinct_chunks(), options, None, progress):
            chunk, distinct = waiting.popleft()
            if len(distinct) < len(chunk):
                progress(len(chunk) - len(distinct))
                vectors = vectors[positions_among(distinct, chunk)]
            yield vectors

    def _options(
        self,
        batch_size: int | None,
        normalize: bool | None,
        max_length: int | None,
        on_truncation: str,
        prompt_name: str | None,
        prompt: str | None,
        truncate_dim: int | None,
    ) -> EncodeOptions:
        """Check the options of `encode`, and put in what the settings say where they are None."""
        if truncate_dim is not None:
            check_count("truncate_dim", truncate_dim)
        check_choice("on_truncation", on_truncation, ("warn", "error"))
        check_type("normalize", normalize, bool | None)
        check_type("prompt", prompt, str | None)
        check_type("prompt_name", prompt_name, str | None)
        limit = self.max_length if max_length is None else max_length
        _check_length(limit, self.config)
        if batch_size is not None:
            check_count("batch_size", batch_size)
        prompt = self._prompt(prompt_name) if prompt is None else prompt
        width = self.dimension if truncate_dim is None else min(self._whole_dimension, truncate_dim)
        refuses = on_truncation == "error"
        warns = not refuses and max_length is None
        return EncodeOptions(limit, refuses, warns, batch_size, normalize, prompt, width)

    def _encode_chunks(
        self,
        chunks: Iterable[list[str]],
        options: EncodeOptions,
        key: Array | None,
        progress: Callable[[int], Any],
    ) -> Iterator[np.ndarray]:
        """Encode chunks of sentences: the vectors of each; at the end, warn of those that were cut.

        The warning points at the code that called the library.
        """
        vocab_size = None if self._knows_every_id else self.config.vocab_size
        done = truncated = 0
        for sentences, ids, cut in tokenised_chunks(
            self.tokenizer, chunks, options.prompt, options.limit
        ):
            check_ids(ids, sentences, vocab_size)
            if cut and options.refuses_long:
                are = "sentence is" if cut == 1 else "sentences are"
                raise ValueError(f"{cut} {are} longer than {options.limit} tokens")
            pooled = np.empty((len(ids), self._pooled_size), np.float32)
            own_key = None if key is None else jax.random.fold_in(key, done)
            for order, vectors in self._embed_chunk(
                ids, options.limit, options.batch_size, own_key
            ):
                pooled[order] = vectors
                progress(len(order))
            self._check_finite(pooled, sentences)
            done += len(ids)
            truncated += cut
            yield self._finish(pooled, options.normalize, options.width)
        if truncated and options.warns_of_long:
            were = "was" if truncated == 1 else "were"
            warnings.warn(
                f"{truncated:,} of {done:,} encoded sentences {were} cut to {options.limit} tokens",
                stacklevel=levels_to_caller(),
            )

    def encode_query(
        self, sentences: str | Iterable[str], **options: Any
    ) -> Float[np.ndarray, "*n D"]:
        """Encode queries: ``encode`` with the prompt called "query"; with none if there is none.

        As in sentence-transformers, the default prompt is not put there instead.

        Args:
            sentences: see ``encode``.
            options: those of ``encode``; a prompt among them is taken instead.
        """
        return self._encode_as("query", sentences, options)

    def encode_document(
        self, sentences: str | Iterable[str], **options: Any
    ) -> Float[np.ndarray, "*n D"]:
        """Encode documents: ``encode`` with the prompt called "document"; else as for queries.

        sentence-transformers 6.2 has an empty "document" prompt in every model, so that a
        "passage" or "corpus" prompt is not taken either: name it by ``prompt_name``.

        Args:
            sentences: see ``encode``.
            options: those of ``encode``; a prompt among them is taken instead.
        """
        return self._encode_as("document", sentences, options)

    def _encode_as(
        self, name: str, sentences: str | Iterable[str], options: dict[str, Any]
    ) -> Float[np.ndarray, "*n D"]:
        """Encode with this prompt, empty if the model has none, unless another is asked for."""
        if options.get("prompt") is None and options.get("prompt_name") is None:
            options["prompt"] = self.settings.prompts.get(name, "")
        return self.encode(sentences, **options)

    def _prompt(self, name: str | None) -> str:
        """Return the prompt of this name, or the default one."""
        if name is None:
            return self.settings.prompt
        prompts = self.settings.prompts
        if name not in prompts:
            raise ValueError(f"no prompt is called {name!r}; this model has {[*prompts]}")
        return prompts[name]

    def _finish(
        self, pooled: Float[np.ndarray, "n D"], normalize: bool | None, width: int
    ) -> Float[np.ndarray, "n K"]:
        """Transform, normalise and truncate, in the order of sentence-transformers."""
        vectors = pooled if self.transform is None else self.transform(pooled)
        if normalize is None and self.settings.normalize:
            vectors = unit_rows(vectors)
        vectors = vectors[:, :width]
        return unit_rows(vectors) if normalize else vectors

    def _check_finite(self, pooled: Float[np.ndarray, "n D"], sentences: list[str]) -> None:
        """Raise a FloatingPointError for a vector that holds NaN or infinite numbers."""
        with np.errstate(all="ignore"):
            if np.isfinite(pooled.sum()):
                return
        for i in np.flatnonzero(~np.isfinite(pooled).all(axis=1)):
            raise FloatingPointError(
                f"the vector of {sentences[i][:40]!r} holds NaN or infinite numbers; are the "
                f"model's weights damaged, or too large for {self.dtype}?"
            )

    def _embed_chunk(
        self, ids: list[np.ndarray], limit: int, batch_size: int | None, key: Array | None
    ) -> Iterator[tuple[list[int], np.ndarray]]:
        mesh = self._rows_sharding.mesh
        platform = mesh.devices.flat[0].platform
        pooling = self.settings.pooling
        projection: Literal["pooler"] | None = "pooler" if pooling == "pooler" else None
        dtype = jnp.dtype(jnp.float32) if self.dtype == jnp.int8 else self.dtype
        model = SentenceModel(self.config, pooling, projection, dtype, attention=self.attention)
        computed = self._computed  # once, before there are two threads

        def run(numbered: tuple[int, tuple[Batch, list[int]]]) -> tuple[list[int], np.ndarray]:
            number, (batch, order) = numbered
            rows, length = batch.input_ids.shape
            vectors = _embed_jit(
                model,
                batch=jax.device_put(batch, self._rows_sharding),
                num_sentences=rows * length // TOKENS_PER_SEGMENT,
                dropout_key=None if key is None else jax.random.fold_in(key, number),
                **computed,
            )
            return order, np.asarray(vectors)[: len(order)]

        # Two threads: on a CPU one computes while the other hands over results and small
        # operations that do not fill the cores; on a GPU the next batch is always waiting.
        tokens = batch_tokens(ids, batch_size, platform, mesh.size)
        batches = encode_batches(ids, limit, tokens, mesh.size)
        with ThreadPoolExecutor(2) as workers:
            yield from workers.map(run, enumerate(batches))

    def similarity(
        self,
        a: str | Iterable[str] | Float[np.ndarray, "n D"],
        b: str | Iterable[str] | Float[np.ndarray, "m D"],
    ) -> Float[np.ndarray, "n m"]:
        """Cosine similarity of every ``a`` with every ``b``: embeddings, or sentences.

        Raises:
            ValueError: embeddings of other widths, or not finite; or a model whose folder wants
                its embeddings to be compared otherwise.
        """
        if (name := self.settings.similarity_fn_name) != "cosine":
            raise ValueError(
                f"this model's embeddings are compared by {name!r}, which is not here; "
                "simcse_jax.cosine_similarity compares them by the cosine all the same"
            )
        first: Any = listed_once(a)
        second: Any = first if b is a else listed_once(b)
        first, second = (
            np.atleast_2d(self.encode(x)) if is_text(x) else x for x in (first, second)
        )
        return cosine_similarity(first, second)

    def save_pretrained(self, folder: str | os.PathLike[str]) -> Path:
        """Write a folder that this class, transformers and sentence-transformers load.

        What else lies in the folder stays; a model there is replaced. Its card, ``README.md``, is
        the one that came with a model of ours that is unchanged, else a short one of its own; a
        card of the user's, or one that was edited, stays.

        A linear transform (whitening, the calibrations) becomes a Dense module there. A flow has no
        counterpart: sentence-transformers refuses the folder rather than leave it out.

        Raises:
            OSError: the folder cannot be written, and nothing is left behind, or it is neither
                new nor empty nor a model's.
        """
        params = jax.tree.map(np.asarray, self.params)
        return hub.save_model(
            Path(folder).expanduser(),
            self.config,
            params,
            self.settings,
            self.tokenizer,
            self.tokenizer_folder,
            self.transform,
            self.origin,
        )

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool | None = None,
        token: str | None = None,
        revision: str | None = None,
        commit_message: str = "Add a model of simcse_jax",
    ) -> str:
        """Upload what `save_pretrained` writes to a repository of the Hugging Face hub.

        The repository, and the branch, are made where there is none. A card there that somebody has
        edited stays, unless the model's own card was edited.

        Args:
            repo_id: the repository, as ``"user/name"``.
            private: whether a repository that is made is private; default what the hub says.
            token: of the hub; default the one that ``hf auth login`` has stored.
            revision: the branch; default the main one.
            commit_message: the commit's title.

        Returns:
            The address of the commit.

        Raises:
            ValueError: the hub has no such names of repositories, or no such tokens.
            OSError: the hub cannot be reached or refuses it; the message says what mends it.
        """
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            return hub.upload(
                Path(folder),
                repo_id,
                private=private,
                token=token,
                revision=revision,
                commit_message=commit_message,
            )


def fingerprint(encoder: SentenceEncoder) -> str:
    """Return a digest of all that a vector depends on beside its sentence and the machine."""
    digest = hashlib.blake2b(digest_size=16)
    tokenizer = encoder.tokenizer
    about: tuple[Any, ...] = (encoder.config, encoder.settings, encoder.dtype.name)
    about += (tokenizer.lower_case,)
    if encoder.attention != "dense":  # else as it was before there was a choice
        about += (encoder.attention,)
    digest.update(repr(about).encode())
    digest.update(tokenizer.backend.to_str().encode())
    for place, tensor in jax.tree_util.tree_leaves_with_path(encoder.params):
        digest.update(jax.tree_util.keystr(place).encode())
        digest.update(np.ascontiguousarray(tensor).data)
    if encoder.transform is not None:
        settings, tensors = encoder.transform.state()
        digest.update(json.dumps([encoder.transform.kind, settings], sort_keys=True).encode())
        for name in sorted(tensors):
            digest.update(name.encode())
            digest.update(np.ascontiguousarray(tensors[name]).data)
    return digest.hexdigest()


def _checked_dtype(dtype: Any) -> Any:
    try:
        found = None if dtype is None else jnp.dtype(dtype)
    except TypeError:  # NumPy's, of what is no type
        found = None
    check_choice("dtype", dtype if found is None else found.name, DTYPES)
    return found


def _from_parts(cls: type[SentenceEncoder], parts: dict[str, Any]) -> SentenceEncoder:
    return cls(**parts)


def _check_one_name(name: str, value: object, other: str) -> None:
    if value is not None:
        raise TypeError(f"{name} and {other} are the same option; give one of them")


def _check_length(max_length: int, config: BertConfig) -> None:
    check_count("max_length", max_length, -sys.maxsize)
    if not 2 <= max_length <= config.max_length:
        raise ValueError(f"max_length is {max_length}; this model takes 2 to {config.max_length}")
