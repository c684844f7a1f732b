"""Hugging Face's names of the same parts, by the kind of the encoder: of tensors and settings."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from simcse_jax.checks import quoted
from simcse_jax.models.config import WITHOUT_TOKEN_TYPES, BertConfig


class Family(NamedTuple):
    """How one ``model_type`` names what all of them have.

    Attributes:
        architecture: the class of transformers that loads the encoder.
        prefix: what its other classes put before the encoder's names.
        layers: the list of layers.
        attention: query, key and value, of a layer.
        attention_output: the projection after them.
        attention_norm: the layer norm after the attention.
        intermediate: the wide layer of the feed-forward part.
        output: its narrow layer.
        output_norm: the layer norm after it.
        mlm: the masked-LM head's dense layer, layer norm and bias.
        config_names: its own names of fields of ``config.json``, by ours.
        defaults: what an absent field means, where it differs from `BertConfig`.
        ignored: tied copies, and heads that sentence embeddings have no use for.
    """

    architecture: str
    prefix: str
    layers: str = "encoder.layer"
    attention: tuple[str, str, str] = (
        "attention.self.query",
        "attention.self.key",
        "attention.self.value",
    )
    attention_output: str = "attention.output.dense"
    attention_norm: str = "attention.output.LayerNorm"
    intermediate: str = "intermediate.dense"
    output: str = "output.dense"
    output_norm: str = "output.LayerNorm"
    mlm: tuple[str, str, str] = ("lm_head.dense", "lm_head.layer_norm", "lm_head.bias")
    config_names: Mapping[str, str] = {}
    defaults: Mapping[str, Any] = {}
    ignored: str = r"^lm_head\.decoder\."


_ROBERTA = Family(
    "RobertaModel", prefix="roberta", defaults={"pad_token_id": 1, "type_vocab_size": 1}
)

FAMILIES: dict[str, Family] = {
    "bert": Family(
        "BertModel",
        prefix="bert",
        mlm=(
            "cls.predictions.transform.dense",
            "cls.predictions.transform.LayerNorm",
            "cls.predictions.bias",
        ),
        ignored=r"^cls\.predictions\.decoder\.(weight|bias)$|^cls\.seq_relationship\.",
    ),
    "roberta": _ROBERTA,
    "xlm-roberta": _ROBERTA._replace(architecture="XLMRobertaModel"),
    "camembert": _ROBERTA._replace(architecture="CamembertModel"),
    "distilbert": Family(
        "DistilBertModel",
        prefix="distilbert",
        layers="transformer.layer",
        attention=("attention.q_lin", "attention.k_lin", "attention.v_lin"),
        attention_output="attention.out_lin",
        attention_norm="sa_layer_norm",
        intermediate="ffn.lin1",
        output="ffn.lin2",
        output_norm="output_layer_norm",
        mlm=("vocab_transform", "vocab_layer_norm", "vocab_projector.bias"),
        config_names={
            "hidden_size": "dim",
            "num_hidden_layers": "n_layers",
            "num_attention_heads": "n_heads",
            "intermediate_size": "hidden_dim",
            "hidden_act": "activation",
            "hidden_dropout_prob": "dropout",
            "attention_probs_dropout_prob": "attention_dropout",
        },
        defaults={"num_hidden_layers": 6, "type_vocab_size": 0},
        ignored=r"^vocab_projector\.weight$",
    ),
    "mpnet": Family(
        "MPNetModel",
        prefix="mpnet",
        attention=("attention.attn.q", "attention.attn.k", "attention.attn.v"),
        attention_output="attention.attn.o",
        attention_norm="attention.LayerNorm",
        defaults={
            "vocab_size": 30527,
            "pad_token_id": 1,
            "type_vocab_size": 0,
            "relative_attention_num_buckets": 32,
        },
    ),
    "electra": Family(
        "ElectraModel",
        prefix="electra",
        defaults={
            "embedding_size": 128,
            "hidden_size": 256,
            "num_attention_heads": 4,
            "intermediate_size": 1024,
        },
        ignored=r"^(discriminator_predictions|generator_predictions|generator_lm_head)\.",
    ),
}


def family(config: BertConfig) -> Family:
    """Return how this kind of encoder names its parts."""
    return FAMILIES[config.model_type]


# ---------------------------------------------------------------------------------------------
# config.json
# ---------------------------------------------------------------------------------------------


def config_from_json(raw: Mapping[str, Any]) -> BertConfig:
    """Make the architecture of what a ``config.json`` says; null is as if it were not said.

    Raises:
        ValueError: a model type or a size that cannot be.
    """
    model_type = raw.get("model_type")
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        raise ValueError(f"model_type is {quoted(model_type)}; only {', '.join(FAMILIES)} are read")
    kind = FAMILIES[model_type]
    found = dict(kind.defaults)
    for name in config_fields(model_type):
        value = raw.get(kind.config_names.get(name, name))
        if value is not None:
            found[name] = value
    return BertConfig(**found)


def config_to_json(config: BertConfig) -> dict[str, Any]:
    """Return what a ``config.json`` says of the architecture, for transformers and for us."""
    kind = family(config)
    fields = {
        kind.config_names.get(name, name): getattr(config, name)
        for name in config_fields(config.model_type)
    }
    return {"architectures": [kind.architecture], **fields}


def config_fields(model_type: str) -> list[str]:
    """Return the fields of `BertConfig` that this model type's ``config.json`` has."""
    absent = {
        "embedding_size": model_type != "electra",
        "relative_attention_num_buckets": model_type != "mpnet",
        "type_vocab_size": model_type in WITHOUT_TOKEN_TYPES,
        "layer_norm_eps": model_type == "distilbert",
    }
    names = [field.name for field in dataclasses.fields(BertConfig)]
    return [name for name in names if not absent.get(name, False)]


# ---------------------------------------------------------------------------------------------
# Tensors
# ---------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Entry:
    """One parameter of ours and the tensors it is made of.

    A kernel is the transpose of torch's weight; several sources are concatenated along the
    output axis (the fused query, key and value).
    """

    path: tuple[str, ...]
    sources: tuple[str, ...]
    transpose: bool = False


def _dense(path: tuple[str, ...], *sources: str) -> list[Entry]:
    return [
        Entry((*path, "kernel"), tuple(f"{s}.weight" for s in sources), transpose=True),
        Entry((*path, "bias"), tuple(f"{s}.bias" for s in sources)),
    ]


def _norm(path: tuple[str, ...], source: str) -> list[Entry]:
    return [
        Entry((*path, "scale"), (f"{source}.weight",)),
        Entry((*path, "bias"), (f"{source}.bias",)),
    ]


def encoder_table(config: BertConfig) -> list[Entry]:
    """Return the encoder's names, without any prefix."""
    kind = family(config)
    kinds_of_embeddings = ("word", "position", *(("token_type",) if config.type_vocab_size else ()))
    table = [
        Entry(("embeddings", name, "embedding"), (f"embeddings.{name}_embeddings.weight",))
        for name in kinds_of_embeddings
    ]
    table += _norm(("embeddings", "norm"), "embeddings.LayerNorm")
    if config.embedding_width != config.hidden_size:
        table += _dense(("embeddings", "projection"), "embeddings_project")
    if config.relative_attention_num_buckets:
        source = "encoder.relative_attention_bias.weight"
        table.append(Entry(("relative_positions", "embedding"), (source,)))
    for i in range(config.num_hidden_layers):
        ours, theirs = f"layer_{i}", f"{kind.layers}.{i}"
        attention = [f"{theirs}.{name}" for name in kind.attention]
        table += _dense((ours, "attention", "qkv"), *attention)
        table += _dense((ours, "attention", "output"), f"{theirs}.{kind.attention_output}")
        table += _norm((ours, "attention_norm"), f"{theirs}.{kind.attention_norm}")
        table += _dense((ours, "intermediate"), f"{theirs}.{kind.intermediate}")
        table += _dense((ours, "output"), f"{theirs}.{kind.output}")
        table += _norm((ours, "output_norm"), f"{theirs}.{kind.output_norm}")
    return table


def tables(config: BertConfig) -> dict[str, list[Entry]]:
    """Return the names of every part of the parameters that this kind of encoder has.

    The masked-LM head's carry no prefix of the encoder's.
    """
    kind = family(config)
    parts = {"encoder": encoder_table(config)}
    if config.has_pooler:
        parts["pooler"] = _dense(("dense",), "pooler.dense")
    if config.has_masked_lm_head:
        dense, norm, bias = kind.mlm
        parts["mlm"] = [
            *_dense(("dense",), dense),
            *_norm(("norm",), norm),
            Entry(("bias",), (bias,)),
        ]
    return parts


def our_name(config: BertConfig, name: str) -> str:
    """Return a tensor's name as the tables have it: without prefix, by today's names."""
    kind = family(config)
    name = name.removeprefix(f"{kind.prefix}.")
    name = re.sub(r"LayerNorm\.gamma$", "LayerNorm.weight", name)
    name = re.sub(r"LayerNorm\.beta$", "LayerNorm.bias", name)
    name = re.sub(r"^mlp\.dense\.", "pooler.dense.", name)  # SimCSE's own code
    if config.model_type == "bert":
        name = re.sub(r"^lm_head\.", "cls.predictions.", name)  # the same
    return name


def is_ignored(config: BertConfig, name: str) -> bool:
    """Tell whether a tensor of this name is a buffer, a tied copy or a head without use here."""
    buffers = r"embeddings\.(position_ids|token_type_ids)$"
    return re.search(f"{buffers}|{family(config).ignored}", name) is not None


def layer_of(config: BertConfig, name: str) -> int | None:
    """Return the number of the layer that a tensor of this name belongs to; None for no layer."""
    found = re.match(rf"^{re.escape(family(config).layers)}\.(\d+)\.", name)
    return None if found is None else int(found[1])
