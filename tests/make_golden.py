"""Make the golden files that `make test` compares with, so that it needs no torch.

Run in the environment of `make test-oracle`::

    .venv-oracle/bin/python tests/make_golden.py

It writes `tests/golden/`: a tiny random BERT and RoBERTa with every hidden state, pooler output,
masked-LM logits and gradients as torch computes them, and sentence-transformers' embeddings of a
few sentences by all-MiniLM-L6-v2.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.models import Pooling, Transformer
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertForPreTraining,
    CamembertConfig,
    CamembertForMaskedLM,
    DistilBertConfig,
    DistilBertForMaskedLM,
    ElectraConfig,
    ElectraModel,
    MPNetConfig,
    MPNetForMaskedLM,
    RobertaConfig,
    RobertaForMaskedLM,
    RobertaModel,
    XLMRobertaConfig,
    XLMRobertaForMaskedLM,
)

from simcse_jax.data.embedded import minilm_folder

GOLDEN = Path(__file__).parent / "golden"
TEXT = "a an the man woman dog cat plays runs eats flute piano food grass park music loud"
SENTENCES = [
    "A man plays a flute.",
    "A woman is playing the piano in the park!",
    "The dog runs.",
    "",
    "Zürich, 2021: naïve cafés cost €5 — or so.",
    "One sentence that is a good deal longer than the others, so that padding matters to it "
    "and the positions run on for a while before the end comes.",
]


def main() -> None:
    """Write every golden file afresh."""
    shutil.rmtree(GOLDEN, ignore_errors=True)
    shape = {
        "hidden_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "intermediate_size": 48,
        "vocab_size": 64,
    }
    torch.manual_seed(0)
    bert = BertForPreTraining(BertConfig(**shape, max_position_embeddings=24)).eval()
    state = bert.state_dict()
    write("tiny-bert", bert.config, state, bert_tokenizer(), bert.bert, bert.cls.predictions)

    torch.manual_seed(1)
    config = RobertaConfig(
        **shape, max_position_embeddings=26, pad_token_id=1, type_vocab_size=1, layer_norm_eps=1e-5
    )
    roberta, head = RobertaModel(config).eval(), RobertaForMaskedLM(config).eval()
    state = {f"roberta.{k}": v for k, v in roberta.state_dict().items()}
    state |= {k: v for k, v in head.state_dict().items() if k.startswith("lm_head.")}
    head.lm_head.decoder.weight = roberta.embeddings.word_embeddings.weight
    state["lm_head.decoder.weight"] = head.lm_head.decoder.weight
    write("tiny-roberta", config, state, roberta_tokenizer(), roberta, head.lm_head)

    write_relatives(shape)

    golden = {}
    for pooling in ("cls", "mean", "max"):
        transformer = Transformer(str(minilm_folder()))
        model = SentenceTransformer(modules=[transformer, Pooling(384, pooling)], device="cpu")
        golden[pooling] = model.encode(SENTENCES)
    save_file(golden, GOLDEN / "minilm.safetensors")
    (GOLDEN / "minilm_sentences.json").write_text(json.dumps(SENTENCES, indent=1) + "\n")


def write_relatives(shape) -> None:
    """The models that differ from BERT by names or by a part."""
    torch.manual_seed(2)
    special = {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}
    robertas = {
        "tiny-xlm-roberta": (XLMRobertaConfig, XLMRobertaForMaskedLM),
        "tiny-camembert": (CamembertConfig, CamembertForMaskedLM),
    }
    for name, (config, kind) in robertas.items():
        model = kind(
            config(
                **shape,
                **special,
                max_position_embeddings=26,
                type_vocab_size=1,
                layer_norm_eps=1e-5,
            )
        ).eval()
        write(name, model.config, None, roberta_tokenizer(), model.roberta, model.lm_head, model)

    model = DistilBertForMaskedLM(
        DistilBertConfig(
            vocab_size=64, dim=32, n_layers=3, n_heads=4, hidden_dim=48, max_position_embeddings=24
        )
    ).eval()

    def head(hidden):
        return model.vocab_projector(
            model.vocab_layer_norm(model.activation(model.vocab_transform(hidden)))
        )

    write("tiny-distilbert", model.config, None, bert_tokenizer(), model.distilbert, head, model)

    # More positions than the others: the buckets of distances widen from 8 on.
    model = MPNetForMaskedLM(MPNetConfig(**shape, max_position_embeddings=160)).eval()
    write(
        "tiny-mpnet",
        model.config,
        None,
        roberta_tokenizer(),
        model.mpnet,
        model.lm_head,
        model,
        lengths=(9, 4, 2, 100),
    )

    model = ElectraModel(
        ElectraConfig(**shape, embedding_size=16, max_position_embeddings=24)
    ).eval()
    write("tiny-electra", model.config, None, bert_tokenizer(), model, None, model)


def write(name, config, state, tokenizer, encoder, mlm, model=None, lengths=(9, 4, 2, 12)) -> None:
    """One model folder and, in it, what torch computes with it.

    ``state`` holds the tensors, or is None for those of ``model``.
    """
    folder = GOLDEN / name
    folder.mkdir(parents=True)
    if model is None:
        randomise(encoder)
        randomise(mlm)
    else:
        randomise(model)
        tied = {"lm_head.decoder.weight", "lm_head.decoder.bias", "vocab_projector.weight"}
        state = {k: v for k, v in model.state_dict().items() if k not in tied}
    weights = {k: v.detach().contiguous().numpy().copy() for k, v in state.items()}
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(config.to_json_string())
    tokenizer.save(str(folder / "tokenizer.json"))

    rng = np.random.default_rng(0)
    width = max(lengths)
    mask = np.arange(width)[None] < np.array(lengths)[:, None]
    ids = np.where(mask, rng.integers(5, 64, (4, width)), config.pad_token_id)
    out = encoder(
        input_ids=torch.tensor(ids), attention_mask=torch.tensor(mask), output_hidden_states=True
    )
    golden = {"input_ids": ids.astype(np.int32), "attention_mask": mask}
    for i, state_ in enumerate(out.hidden_states):
        golden[f"hidden_{i}"] = np.where(mask[..., None], state_.detach().numpy(), 0)
    if getattr(out, "pooler_output", None) is not None:
        golden["pooler"] = out.pooler_output.detach().numpy()
    if mlm is not None:
        logits = mlm(out.last_hidden_state)
        golden["mlm"] = np.where(mask[..., None], logits.detach().numpy(), 0)

    # A scalar that every parameter of the encoder moves: its gradients are compared one by one.
    weight = torch.tensor(mask)[..., None] * torch.linspace(-1, 1, config.hidden_size)
    loss = (torch.tanh(out.last_hidden_state) * weight).sum()
    encoder.zero_grad()
    loss.backward()
    golden["loss"] = loss.detach().numpy()
    for key, parameter in encoder.named_parameters():
        if parameter.grad is not None:
            golden[f"grad.{key}"] = parameter.grad.numpy()
    save_file(
        {k: np.ascontiguousarray(v) for k, v in golden.items()}, folder / "golden.safetensors"
    )


def randomise(module) -> None:
    """Every parameter random, biases and norms too: zeros and ones would hide mistakes."""
    with torch.no_grad():
        for key, parameter in module.named_parameters():
            one = 1.0 if "norm" in key.lower() and key.endswith("weight") else 0.0
            parameter.copy_(one + 0.1 * torch.randn(parameter.shape))


def bert_tokenizer() -> Tokenizer:
    """WordPiece over sixty-four entries."""
    letters = list("abcdefghijklmnopqrstuvwxyz.!,?")
    vocab = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *TEXT.split()[1:]]
    vocab += ["##s", "##ing", *(f"##{c}" for c in "abcdefghijklmnop")]
    vocab = {token: i for i, token in enumerate(dict.fromkeys(vocab[:64]))}
    tokenizer = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.add_special_tokens(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"])
    return tokenizer


def roberta_tokenizer() -> Tokenizer:
    """Byte-level BPE with no merges over sixty-four entries: lower-case letters and a little."""
    vocab = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", "Ġ", *"abcdefghijklmnopqrstuvwxyz"]
    vocab += list("ABCDEFGHIJKLMNOPQRSTUVWXYZ.!,?:;")
    vocab = {token: i for i, token in enumerate(vocab[:64])}
    tokenizer = Tokenizer(models.BPE(vocab, [], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<s>", "<pad>", "</s>", "<unk>", "<mask>"])
    return tokenizer


if __name__ == "__main__":
    main()
