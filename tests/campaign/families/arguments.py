"""Arguments of public functions: of other types, ranks and sizes, and numbers that are none."""

from __future__ import annotations

import dataclasses
import functools
import math
import os
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import simcse_jax
from simcse_jax import SentenceEncoder, config, hub, io, objectives, training, transforms
from simcse_jax.data import augmentation, nli, senteval, training_text, wikipedia
from simcse_jax.data.batches import TrainingBatches
from simcse_jax.data.packing import deal, pack_rows
from simcse_jax.evaluation import geometry, isotropy, search, sts, triplets
from simcse_jax.losses import cosine_regression, info_nce, masked_lm, nli_softmax, triplet
from simcse_jax.losses.geometry import unit_rows
from simcse_jax.models import BertConfig, one_a_row
from simcse_jax.transforms.base import check_embeddings
from tests.campaign.bases import GOLDEN, TEXTS
from tests.campaign.cases import Case
from tests.tiny_data import SENTENCES

N, D = 12, 8


class Function(NamedTuple):
    """A public function and arguments that it takes.

    Attributes:
        name: of the function.
        call: the function.
        arguments: valid ones, by name; made afresh for each case.
        finite: whether it must refuse numbers that are none; otherwise they may come out again.
        scale_free: arguments whose length does not matter, like those of a cosine.
    """

    name: str
    call: Callable[..., Any]
    arguments: Callable[[], dict[str, Any]]
    finite: bool = True
    scale_free: tuple[str, ...] = ()


def make(base: Path, random: Random, folder: Path) -> Case:
    """Put one or two hostile values for a function's arguments."""
    function = random.choice(FUNCTIONS)
    valid = function.arguments()
    given = dict(valid)
    open_to = [name for name, value in valid.items() if pool(value)]
    alike, non_finite, huge, notes = True, False, False, []
    for name in random.sample(open_to, min(len(open_to), random.choice((1, 1, 1, 2)))):
        hostile = choose(valid[name], random, name in function.scale_free)
        given[name] = hostile.value
        alike &= hostile.alike
        non_finite |= hostile.non_finite
        huge |= hostile.huge
        notes.append(f"{name}={hostile.about}")

    def run() -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return values_of(function.call(**given))

    def check(found: list[np.ndarray]) -> str | None:
        fair = is_number if huge else is_finite
        if not all(map(fair, found)) and (function.finite or not non_finite):
            return f"silently wrong: a result that is not finite, {str(found)[:200]}"
        if not alike:
            return None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            expected = values_of(function.call(**function.arguments()))
        if len(found) == len(expected) and all(map(agree, found, expected)):
            return None
        return f"silently wrong: {str(found)[:150]} instead of {str(expected)[:150]}"

    return Case(f"{function.name}({', '.join(notes)})", run, check, files=False)


def values_of(result: Any) -> list[np.ndarray]:
    """Return every number of a result, in an order of its own."""
    if isinstance(result, SentenceEncoder):
        result = result.encode(TEXTS)
    if isinstance(result, transforms.Transform):
        result = result(points(3))
    if dataclasses.is_dataclass(result) and not isinstance(result, type):
        result = [getattr(result, field.name) for field in dataclasses.fields(result)]
    leaves = jax.tree.leaves(result)
    arrays = []
    for leaf in leaves:
        if isinstance(leaf, np.ndarray | jax.Array | np.number | int | float) and (
            not isinstance(leaf, jax.Array)
            or not jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        ):
            array = np.asarray(leaf)
            # NumPy takes bfloat16 for bytes.
            arrays.append(array.astype(np.float32) if array.dtype == jnp.bfloat16 else array)
    return arrays


def is_finite(x: np.ndarray) -> bool:
    return x.dtype.kind not in "fc" or bool(np.isfinite(x).all())


def is_number(x: np.ndarray) -> bool:
    return x.dtype.kind not in "fc" or not np.isnan(x).any()


def agree(x: np.ndarray, y: np.ndarray) -> bool:
    if x.shape != y.shape:
        return False
    if x.dtype.kind not in "fc":
        return bool(np.array_equal(x, y))
    return bool(np.allclose(x, y, rtol=2e-2, atol=2e-2, equal_nan=True))


# ---------------------------------------------------------------------------------------------
# Hostile values
# ---------------------------------------------------------------------------------------------


class Hostile(NamedTuple):
    """A value in place of a valid one.

    Attributes:
        about: what it is.
        value: it.
        alike: whether it means the same, so that the result must be the same.
        non_finite: whether numbers that are none are in it, or would follow from it.
        huge: whether infinity is what it comes to.
    """

    about: str
    value: Any
    alike: bool = False
    non_finite: bool = False
    huge: bool = False


ANY: tuple[Any, ...] = (None, True, "x", b"x", "", -1, 0, 1.5, [], (), {}, object(), 1j)
WHOLE = (-1, 0, 1, 2, 3, 7, 10**6, 10**9, 2**31, 2**63, 10**30, -(10**30), True, False)
REAL = (0.0, -0.0, 1e-300, 1e300, -1.0, 1.0, 0.5, 2.0, math.nan, math.inf, -math.inf)
STRINGS = (
    "",
    " ",
    "x",
    "mean",
    "cls",
    "layer-0",
    "layer--1",
    "layer-99",
    "last-2",
    "é",
    "\x00",
    "a/b",
)


def pool(value: Any) -> bool:
    """Tell whether there are hostile values for such a value."""
    return isinstance(value, np.ndarray | int | float | str | list | tuple | Path)


def choose(value: Any, random: Random, scale_free: bool) -> Hostile:
    """Choose a hostile value in place of a valid one."""
    if isinstance(value, str):
        return plain(random.choice(STRINGS))
    if random.random() < 0.15:
        return plain(random.choice(ANY))
    if isinstance(value, np.ndarray):
        return random.choice(arrays(value, scale_free))()
    if isinstance(value, list | tuple):
        return random.choice(sequences(value))
    if isinstance(value, Path):
        return plain(
            random.choice((Path(), Path("new"), Path("new/er"), "new", b"new", Path("a\x00b")))
        )
    return plain(random.choice((*WHOLE, *REAL)))


def plain(value: Any) -> Hostile:
    about = "object()" if type(value) is object else repr(value)
    number = isinstance(value, int | float)
    none = number and not math.isfinite(value)
    return Hostile(about, value, False, none, number and not none and abs(value) > 1e5)


def sequences(value: Any) -> list[Hostile]:
    items = list(value)
    first = items[:1]
    return [
        Hostile("nothing", type(value)()),
        Hostile("one", type(value)(first)),
        Hostile("a generator", (item for item in items), not isinstance(value, str)),
        Hostile(
            "the other of list and tuple", tuple(items) if isinstance(value, list) else items, True
        ),
        Hostile("with None", type(value)([*items, None])),
        Hostile("with 1.5", type(value)([*items, 1.5])),
        Hostile("with -1", type(value)([*items, -1])),
        Hostile("with a string", type(value)([*items, "a dog"])),
        Hostile("with an empty string", type(value)([*items, ""])),
        Hostile("with a lone surrogate", type(value)([*items, "a \ud83d dog"])),
        Hostile("with a NUL", type(value)([*items, "a \x00 dog"])),
        Hostile("with 100,000 letters", type(value)([*items, "a" * 100_000])),
        Hostile("nested", type(value)([items, items])),
        Hostile("a set", set(items) if all(isinstance(i, str | int) for i in items) else set()),
        Hostile("an array of objects", np.array(items, dtype=object)),
        Hostile("reversed", type(value)(items[::-1])),
        Hostile("doubled", type(value)(items + items)),
    ]


def arrays(value: np.ndarray, scale_free: bool) -> list[Callable[[], Hostile]]:
    real = value.dtype.kind == "f"

    def put(number: Any) -> Callable[[], Hostile]:
        def change() -> Hostile:
            new = np.array(value)
            new.reshape(-1)[new.size // 2] = number
            # No label of so many classes; under jit nobody can refuse it.
            return Hostile(f"with {number}", new, False, not abs(number) < 1e5)

        return change

    def of(about: str, make: Callable[[], Any], alike: bool = False) -> Callable[[], Hostile]:
        return lambda: Hostile(about, make(), alike)

    def large(about: str, make: Callable[[], Any]) -> Callable[[], Hostile]:
        # Squares are beyond the largest number, unless length does not matter.
        return lambda: Hostile(about, make(), scale_free, not scale_free, not scale_free)

    found = [
        of("no rows", lambda: value[:0]),
        of("one row", lambda: value[:1]),
        of("two rows", lambda: value[:2]),
        of("no columns", lambda: value[..., :0]),
        of("one column less", lambda: value[..., :-1]),
        of("flat", lambda: value.reshape(-1)),
        of("one dimension more", lambda: value[None]),
        of("a scalar", lambda: np.float32(1)),
        of("zeros", lambda: np.zeros_like(value)),
        of("equal rows", lambda: np.ones_like(value)),
        of("strings", lambda: value.astype(str)),
        of("objects", lambda: value.astype(object)),
        of("complex", lambda: value.astype(complex)),
        of("bool", lambda: value > 0),
        of("a ragged list", lambda: [[1.0], [1.0, 2.0]]),
        of("a list of lists", value.tolist, True),
        of("a jax array", lambda: jnp.asarray(value), True),
        of("big endian", lambda: value.astype(value.dtype.newbyteorder(">")), True),
        of("Fortran order", lambda: np.asfortranarray(value), True),
        of("read-only", lambda: read_only(value), True),
        of("a strided view", lambda: np.repeat(value, 2, axis=0)[::2], True),
        of("a masked array", lambda: np.ma.masked_array(value), True),
    ]
    if real:
        found += [put(math.nan), put(math.inf), put(-math.inf)]
        found += [
            of("float64", lambda: value.astype(np.float64), True),
            of("float16", lambda: value.astype(np.float16), True),
            of("bfloat16", lambda: jnp.asarray(value, jnp.bfloat16), True),
            of("whole numbers", lambda: np.round(value * 10).astype(int)),
            large("1e30 times", lambda: value * np.float32(1e30)),
            of("1e-30 times", lambda: value * np.float32(1e-30), scale_free),
            large("float64, 1e300 times", lambda: value.astype(np.float64) * 1e300),
        ]
    else:
        found += [put(-1), put(10**6)]
        found += [
            of("int8", lambda: value.astype(np.int8), value.size > 0 and value.max() < 100),
            of("int64", lambda: value.astype(np.int64), True),
            of("float", lambda: value.astype(np.float32)),
        ]
    return found


def read_only(value: np.ndarray) -> np.ndarray:
    new = value.copy()
    new.setflags(write=False)
    return new


# ---------------------------------------------------------------------------------------------
# Functions
# ---------------------------------------------------------------------------------------------


def points(rows: int = N, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(rows, D)).astype(np.float32)


@functools.cache
def encoder() -> SentenceEncoder:
    return SentenceEncoder.from_pretrained(GOLDEN / "tiny-bert")


def two(first: str = "x", second: str = "y") -> Callable[[], dict[str, Any]]:
    return lambda: {first: points(), second: points(seed=1)}


def three() -> dict[str, Any]:
    return {"anchors": points(), "positives": points(seed=1), "negatives": points(seed=2)}


def entail() -> list[nli.NliExample]:
    labels = ("entailment", "contradiction", "neutral")
    return [nli.NliExample(SENTENCES[i // 3], SENTENCES[i + 9], labels[i % 3]) for i in range(9)]


def articles() -> list[wikipedia.Article]:
    parts = [tuple(SENTENCES[3 * i : 3 * i + 3]) for i in range(4)]
    sections = tuple(wikipedia.Section(f"H{i}", part) for i, part in enumerate(parts))
    return [wikipedia.Article(f"T{i}", sections) for i in range(3)]


def stsb() -> dict[str, senteval.StsTask]:
    scores = np.arange(8) / 2
    pairs = senteval.Pairs("test", tuple(SENTENCES[:8]), tuple(SENTENCES[8:16]), scores)
    return {"STS-B": senteval.StsTask("STS-B", (pairs,))}


def encode(sentences: Any) -> np.ndarray:
    return np.stack([np.random.default_rng(len(s) + ord(s[4])).normal(size=D) for s in sentences])


def batches(**options: Any) -> Any:
    text = training_text.TrainingText((tuple(SENTENCES),))
    found = TrainingBatches(text, encoder().tokenizer, **options)
    return found.batch(0).sentences


def schedule(steps: Any, **options: Any) -> Any:
    optimizer = training.make_optimizer(training.OptimizerConfig(**options), steps)
    params = {"w": jnp.ones((2, 2))}
    updates, _ = optimizer.update(params, optimizer.init(params), params)
    return updates


def objective(kind: Any) -> Callable[..., Any]:
    def build(**fields: Any) -> Any:
        made = kind(**fields)
        enc = encoder()
        model = objectives.Model(enc.config, enc.params, enc.tokenizer, "cls", jnp.dtype("float32"))
        made.init(model, jax.random.key(0))
        made.build(model)
        return made

    return build


def bert(**fields: Any) -> Any:
    return jax.tree.map(lambda x: np.zeros(()), hub.expected_shapes(BertConfig(**fields)))


def loaded(**options: Any) -> SentenceEncoder:
    return SentenceEncoder.from_pretrained(GOLDEN / "tiny-bert", **options)


def flow(**options: Any) -> Any:
    fields = {
        "levels": options.pop("levels"),
        "depth": options.pop("depth"),
        "width": options.pop("width"),
    }
    return transforms.Flow.fit(
        options.pop("embeddings"), transforms.FlowConfig(**fields), **options
    )


def kept(keep: Any, step: Any) -> Any:
    with training.RunCheckpoints(Path("checkpoints"), {"a": 1}, keep=keep) as checkpoints:
        state = {"w": jnp.arange(3.0)}
        checkpoints.save(step, state, jax.random.key(0), {})
        return checkpoints.restore(state, jax.random.key(0)).state


def trained(**changes: Any) -> Any:
    sentences = changes.pop("sentences")
    for length in ("max_steps", "epochs"):  # a run that is to take days takes days
        if is_real(changes.get(length)) and 100 < changes[length] < 2**31:
            changes[length] = 100
    # In a folder of its own: what gives the same is trained twice.
    os.chdir(tempfile.mkdtemp(prefix="train-", dir="."))
    return simcse_jax.train(
        "unsup_simcse",
        sentences=sentences,
        evaluate=lambda encoder: {"x": float(encoder.encode(["a dog"]).sum())},
        **{"model": str(GOLDEN / "tiny-bert"), "output_dir": Path("run"), **changes},
    )


def is_real(value: Any) -> bool:
    return isinstance(value, int | float | np.number) and not isinstance(value, bool)


def saved(folder: Any) -> Any:
    return hub.read_settings(Path(encoder().save_pretrained(folder))).max_length or 0


def written(path: Any, value: Any) -> Any:
    io.write_json(path, value)
    return io.read_json(path)


def draw() -> np.random.Generator:
    return np.random.default_rng(0)


def weights() -> dict[str, Any]:
    ids = np.arange(12, dtype=np.int32).reshape(3, 4)
    return {"input_ids": ids, "attention_mask": np.ones((3, 4), np.int32)}


def replaced(**changes: Any) -> Any:
    return config.from_json(
        config.to_json(config.replace(config.CONFIGS["unsup_simcse"], **changes))
    )


FUNCTIONS = [
    # The doors
    Function(
        "from_pretrained",
        loaded,
        lambda: dict(pooling="mean", num_layers=2, normalize=False, max_length=16, dtype="float32"),
    ),
    Function(
        "encode",
        lambda **k: encoder().encode(**k),
        lambda: dict(
            sentences=list(TEXTS),
            batch_size=4,
            normalize=False,
            max_length=16,
            on_truncation="warn",
            dropout_seed=1,
        ),
    ),
    Function(
        "encode sentences",
        lambda **k: encoder().encode(**k),
        lambda: dict(sentences=list(TEXTS), batch_size=64),
    ),
    Function(
        "similarity", lambda **k: encoder().similarity(**k), two("a", "b"), scale_free=("a", "b")
    ),
    Function(
        "similarity of sentences",
        lambda **k: encoder().similarity(**k),
        lambda: dict(a=list(TEXTS), b=SENTENCES[:3]),
    ),
    Function(
        "cosine_similarity", simcse_jax.cosine_similarity, two("a", "b"), scale_free=("a", "b")
    ),
    Function("save_pretrained", saved, lambda: dict(folder=Path("new"))),
    Function(
        "train",
        trained,
        lambda: dict(
            sentences=SENTENCES[:16],
            batch_size=8,
            max_length=16,
            max_steps=2,
            epochs=1.0,
            eval_every=2,
            learning_rate=1e-3,
            seed=1,
            seeds=(),
            num_layers=1,
            dropout=0.1,
            temperature=0.05,
            grad_cache_chunks=1,
            output_dir=Path("run"),
            weight_decay=0.0,
            warmup_steps=0,
            mlm_weight=0.0,
        ),
    ),
    # Configurations
    Function(
        "replace",
        replaced,
        lambda: dict(
            batch_size=8,
            max_length=16,
            max_steps=2,
            epochs=1.0,
            learning_rate=1e-3,
            seed=1,
            seeds=(1, 2),
            temperature=0.05,
            pooling="cls",
            dtype="float32",
            share=0.1,
            window=1,
            train_files=(Path("a.txt"),),
            head="none",
            schedule="linear",
            positives="same",
        ),
    ),
    Function(
        "SimCSE",
        objective(objectives.SimCSE),
        lambda: dict(
            head="train_only",
            temperature=0.05,
            hard_negative_weight=0.0,
            similarity="cosine",
            symmetric=False,
            implementation="auto",
            mask_duplicates=False,
            mlm_weight=0.1,
            mlm_probability=0.15,
        ),
    ),
    Function(
        "Sbert",
        objective(objectives.Sbert),
        lambda: dict(
            kind="softmax",
            concatenation="uv-diff",
            use_bias=True,
            num_labels=3,
            score="cosine",
            margin=1.0,
            distance="euclidean",
        ),
    ),
    Function("MaskedLM", objectives.MaskedLM, lambda: dict(probability=0.15)),
    Function(
        "BertConfig",
        bert,
        lambda: dict(
            vocab_size=64,
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=48,
            max_position_embeddings=24,
            type_vocab_size=2,
            hidden_act="gelu",
            layer_norm_eps=1e-12,
            hidden_dropout_prob=0.1,
            pad_token_id=0,
            model_type="bert",
        ),
    ),
    Function(
        "make_optimizer",
        schedule,
        lambda: dict(
            steps=10,
            learning_rate=1e-3,
            schedule="linear",
            warmup_steps=0,
            warmup_ratio=0.1,
            weight_decay=0.01,
            clip_norm=1.0,
            beta1=0.9,
            beta2=0.999,
            eps=1e-8,
        ),
    ),
    # Transforms
    Function(
        "Whitening.fit",
        transforms.Whitening.fit,
        lambda: dict(embeddings=points(), k=3, ddof=1, floor=1e-6, normalize=False),
    ),
    Function(
        "Standardization.fit",
        transforms.Standardization.fit,
        lambda: dict(embeddings=points(), ddof=0, normalize=False),
    ),
    Function(
        "AllButTheTop.fit",
        transforms.AllButTheTop.fit,
        lambda: dict(embeddings=points(), k=1, normalize=False),
    ),
    Function(
        "Flow.fit",
        flow,
        lambda: dict(
            embeddings=points(),
            levels=1,
            depth=1,
            width=4,
            epochs=1,
            seed=0,
            batch_size=4,
            shuffle=True,
        ),
    ),
    Function("transforms.fit", transforms.fit, lambda: dict(kind="whitening", embeddings=points())),
    Function("Moments.of", transforms.Moments.of, lambda: dict(embeddings=points())),
    Function(
        "Affine",
        lambda x, **k: transforms.Affine(**k)(x),
        lambda: dict(
            x=points(),
            mean=points(1)[0].astype(float),
            matrix=points(D).astype(float)[:, :3],
            normalize=False,
            bias=points(1)[0, :3].astype(float),
        ),
    ),
    Function(
        "check_embeddings", check_embeddings, lambda: dict(embeddings=points(), dim=D, least=1)
    ),
    # Losses: numbers that are none may come out again, as from every function of JAX
    Function(
        "info_nce",
        info_nce.info_nce,
        lambda: dict(
            anchors=points(),
            positives=points(seed=1),
            hard_negatives=points(seed=2),
            temperature=0.05,
            hard_negative_weight=0.0,
            similarity="cosine",
            symmetric=False,
            group_ids=np.arange(N),
            implementation="auto",
            block_size=4,
        ),
        finite=False,
    ),
    Function("info_nce plain", info_nce.info_nce, two("anchors", "positives"), finite=False),
    Function(
        "info_nce_reference", info_nce.info_nce_reference, two("anchors", "positives"), finite=False
    ),
    Function(
        "masked_lm_loss",
        masked_lm.masked_lm_loss,
        lambda: dict(logits=points(6).reshape(2, 3, D), labels=np.arange(6).reshape(2, 3) % D),
        finite=False,
    ),
    Function(
        "nli_softmax",
        nli_softmax.nli_softmax,
        lambda: dict(logits=points()[:, :3], labels=np.arange(N) % 3),
        finite=False,
    ),
    Function("pair_features", nli_softmax.pair_features, two("u", "v"), finite=False),
    Function(
        "triplet_loss",
        triplet.triplet_loss,
        lambda: three() | dict(margin=1.0, distance="euclidean"),
        finite=False,
    ),
    Function(
        "cosine_regression",
        cosine_regression.cosine_regression,
        lambda: dict(
            u=points(),
            v=points(seed=1),
            similarities=np.linspace(0, 1, N, dtype=np.float32),
            score="cosine",
        ),
        finite=False,
    ),
    Function("unit_rows", unit_rows, lambda: dict(x=points()), finite=False, scale_free=("x",)),
    # Evaluation
    Function(
        "similarity_search",
        search.similarity_search,
        lambda: dict(
            queries=points(4),
            corpus=points(seed=1),
            top_k=3,
            similarity="cosine",
            query_block=2,
            corpus_block=8,
            exclude_self=False,
        ),
        scale_free=("queries", "corpus"),
    ),
    Function(
        "similarity_search plain",
        search.similarity_search,
        lambda: dict(queries=points(4), corpus=points(seed=1), top_k=3),
        scale_free=("queries", "corpus"),
    ),
    Function(
        "paired_similarity",
        sts.paired_similarity,
        lambda: two()() | dict(similarity="cosine"),
        scale_free=("x", "y"),
    ),
    Function(
        "pearson",
        sts.pearson,
        lambda: dict(x=points()[:, 0], y=points()[:, 1]),
        scale_free=("x", "y"),
    ),
    Function(
        "spearman",
        sts.spearman,
        lambda: dict(x=points()[:, 0], y=points()[:, 1]),
        scale_free=("x", "y"),
    ),
    Function(
        "evaluate_sts",
        lambda **k: sts.results_to_json(sts.evaluate_sts(encode, stsb(), **k)),
        lambda: dict(similarity="cosine"),
    ),
    Function(
        "triplet_accuracy", triplets.triplet_accuracy, lambda: three() | dict(distance="euclidean")
    ),
    Function("alignment", geometry.alignment, lambda: two()() | dict(alpha=2.0)),
    Function("uniformity", geometry.uniformity, lambda: dict(x=points(), t=2.0, block=4)),
    Function("singular_spectrum", isotropy.singular_spectrum, lambda: dict(x=points())),
    Function("average_cosine", isotropy.average_cosine, lambda: dict(x=points())),
    Function("partition_isotropy", isotropy.partition_isotropy, lambda: dict(x=points())),
    Function("isoscore", isotropy.isoscore, lambda: dict(x=points())),
    Function(
        "frequency_bins",
        isotropy.frequency_bins,
        lambda: dict(
            embeddings=points(),
            counts=np.arange(N)[::-1].copy() + 1,
            edges=(0, 4, 10),
            neighbours=(1, 2),
            block=4,
        ),
    ),
    # Data
    Function(
        "TrainingBatches",
        batches,
        lambda: dict(batch_size=8, max_length=16, seed=1, views=2, shards=2, prefetch=2),
    ),
    Function(
        "TrainingText",
        training_text.TrainingText,
        lambda: dict(
            columns=(tuple(SENTENCES[:3]), tuple(SENTENCES[3:6])), description="x", labels=(0, 1, 2)
        ),
    ),
    Function(
        "Pairs",
        senteval.Pairs,
        lambda: dict(
            name="x", sentences1=("a", "b"), sentences2=("c", "d"), scores=np.array([1.0, 2.0])
        ),
    ),
    Function("nli_triplets", lambda **k: nli.nli_triplets(entail(), **k), lambda: dict(seed=0)),
    Function(
        "section_triplets",
        lambda **k: wikipedia.section_triplets(articles(), **k),
        lambda: dict(seed=0, per_article=2, lead=False),
    ),
    Function(
        "split_articles",
        lambda **k: wikipedia.split_articles(articles(), **k),
        lambda: dict(test_fraction=0.5, seed=0),
    ),
    Function(
        "crop",
        lambda **k: augmentation.crop(rng=draw(), **k),
        lambda: dict(sentence=SENTENCES[0], share=0.5),
    ),
    Function(
        "delete_words",
        lambda **k: augmentation.delete_words(rng=draw(), **k),
        lambda: dict(sentence=SENTENCES[0], share=0.5),
    ),
    Function(
        "mask_words",
        lambda **k: augmentation.mask_words(rng=draw(), **k),
        lambda: dict(sentence=SENTENCES[0], share=0.5, mask="[MASK]"),
    ),
    Function(
        "next_sentence_pairs",
        augmentation.next_sentence_pairs,
        lambda: dict(documents=[SENTENCES[:4], SENTENCES[4:8]], window=1, seed=0),
    ),
    Function("pack_rows", pack_rows, lambda: dict(lengths=[3, 4, 5, 6], row_length=8)),
    Function("deal", deal, lambda: dict(lengths=[3, 4, 5, 6], shards=2)),
    Function("one_a_row", one_a_row, weights),
    Function("RunCheckpoints", kept, lambda: dict(keep=1, step=3)),
    Function("write_json", written, lambda: dict(path=Path("new.json"), value=[1, "x"])),
]
