"""What the SimCSE runs share: from settings to a trained, evaluated and saved model."""

from __future__ import annotations

import dataclasses
import json
import platform
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
from rich.console import Console
from rich.table import Table
from tensorboardX import SummaryWriter

from experiments.bench_encode import cpu_name
from simcse_jax import SentenceEncoder, hub
from simcse_jax.data.lee import pair_indices, read_lee
from simcse_jax.data.senteval import read_sts, read_stsb
from simcse_jax.data.tokenizer import Tokenizer
from simcse_jax.data.training_batches import TrainingBatches
from simcse_jax.data.training_text import TrainingText, read_training_file
from simcse_jax.encoder import cosine_similarity
from simcse_jax.evaluation.sts import evaluate_sts, paired_similarity, results_to_json, spearman
from simcse_jax.models import Batch
from simcse_jax.training import (
    Evaluation,
    MaskingTokens,
    RunCheckpoints,
    TrainSettings,
    compile_step,
    create_state,
    fit,
    make_mesh,
    make_optimizer,
    model_params,
    replicate,
    simcse_step,
)

console = Console(width=110)


@dataclasses.dataclass(frozen=True)
class RunSettings:
    """A run: what is trained on what, and how."""

    model: str = "minilm"
    """'minilm' (embedded), a model folder, or a Hugging Face hub id such as bert-base-uncased."""
    pooling: str = "cls"
    """Of the encoder's output; with cls an MLP head is trained on top, as the authors do."""
    num_layers: int | None = None
    """Keep the first so many layers."""
    train_file: tuple[Path, ...] = ()
    """.txt, .csv, .tsv or .jsonl; the number of columns decides. Default: the embedded text."""
    eval_data: Path | None = None
    """SentEval's folder: STS-B dev on the way, STS-B test at the end. Default: the Lee corpus."""
    all_tasks: bool = False
    """Score all seven STS tasks at the end, not only STS-B."""
    output_dir: Path = Path("runs/simcse")
    """The run's folder."""
    preset: Literal["bert-base", "bert-large", "roberta-base", "roberta-large"] = "bert-base"
    """The paper's batch size, learning rate and epochs for an encoder (SimCSE, table A.1)."""
    batch_size: int | None = None
    """Default: the preset's."""
    learning_rate: float | None = None
    """Default: the preset's."""
    epochs: float | None = None
    """Default: the preset's."""
    max_steps: int | None = None
    max_length: int = 32
    """In tokens."""
    temperature: float = 0.05
    hard_negative_weight: float = 0.0
    """log α, on the own hard negative."""
    mlm_weight: float = 0.0
    """λ of the auxiliary masked-LM loss."""
    mask_duplicates: bool = False
    """Leave the positives of equal sentences out of the denominator."""
    accumulate: int = 1
    """Cut the batch into so many chunks for the encoder; the gradient stays that of the batch."""
    eval_every: int = 125
    """In steps."""
    seed: int = 42
    seeds: tuple[int, ...] = ()
    """Several seeds, each in a folder of its own; mean and standard deviation at the end."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """The compute type."""
    resume: bool = False
    """Continue an interrupted run; a finished one is reused."""


def train_settings(run: RunSettings, supervised: bool) -> TrainSettings:
    """The authors' heads: an MLP over cls only, kept at test time where there is supervision."""
    head = ("train_and_test" if supervised else "train_only") if run.pooling == "cls" else "none"
    same = {f.name for f in dataclasses.fields(TrainSettings)} & {
        f.name for f in dataclasses.fields(RunSettings)
    }
    return TrainSettings(head=head, **{name: getattr(run, name) for name in same})


def hardware() -> str:
    """The device as a results table should name it."""
    devices = jax.devices()
    if devices[0].platform == "cpu":
        return f"{cpu_name()}, {len(devices)} CPU device, jax {jax.__version__}"
    return f"{len(devices)} x {devices[0].device_kind}, jax {jax.__version__}"


def dev_score(encoder: SentenceEncoder, eval_data: Path | None) -> dict[str, float]:
    """Spearman x 100 on STS-B dev, or on the Lee corpus where there is no SentEval folder."""
    if eval_data is None:
        lee = read_lee()
        vectors = encoder.encode(lee.documents, show_progress=False, max_length=encoder.max_length)
        cosines = cosine_similarity(vectors, vectors)[pair_indices()]
        return {"lee_spearman": 100 * spearman(cosines, lee.pair_similarities())}
    pairs = read_stsb(eval_data, "dev")
    vectors = encoder.encode([*pairs.sentences1, *pairs.sentences2], show_progress=False)
    first, second = np.split(vectors, 2)
    return {"stsb_dev": 100 * spearman(paired_similarity(first, second), pairs.scores)}


def test_scores(encoder: SentenceEncoder, run: RunSettings) -> dict[str, Any]:
    """STS at the end: STS-B test, or all seven tasks; Lee without SentEval's folder."""
    if run.eval_data is None:
        return dev_score(encoder, None)
    tasks = read_sts(run.eval_data) if run.all_tasks else read_sts(run.eval_data, ["STS-B"])
    return results_to_json(evaluate_sts(encoder.encode, tasks))


def headline(scores: Mapping[str, Any]) -> float:
    """The one number of a run's closing table."""
    if "tasks" not in scores:
        return scores["lee_spearman"]
    return scores["tasks"]["STS-B"]["all"]


def run_seed(run: RunSettings, text: TrainingText) -> dict[str, Any]:
    """Train one seed, or reuse its finished run.

    The folder then holds ``settings.json``, ``metrics.jsonl``, ``tensorboard/``, ``checkpoints/``,
    ``best/`` and ``last/`` (model folders), and ``results.json``.
    """
    out = run.output_dir
    settings = train_settings(run, supervised=len(text.columns) > 1)
    folder = hub.find_model(run.model)
    config, params = hub.load_params(folder, hub.read_config(folder), run.num_layers)
    tokenizer = Tokenizer.from_folder(folder, hub.read_settings(folder).do_lower_case)

    fixed = dataclasses.asdict(run) | {"text": text.fingerprint}
    for name in ("output_dir", "eval_data", "train_file", "resume", "seeds", "all_tasks"):
        del fixed[name]
    results_file = out / "results.json"
    if results_file.exists() and run.resume:
        results = hub.read_json(results_file)
        if results["settings"] != json.loads(json.dumps(fixed)):
            raise ValueError(f"{results_file} is of other settings; choose another folder")
        console.print(f"{out} is finished already; reusing it")
        return results

    mesh = make_mesh()
    batches = TrainingBatches(
        text,
        tokenizer,
        run.batch_size,
        max_length=run.max_length,
        seed=run.seed,
        device_count=mesh.size,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )
    console.print(f"{text.description}\n{batches.description}")
    total = settings.total_steps(batches.steps_per_epoch)
    optimizer = make_optimizer(settings, total)
    root = jax.random.key(run.seed)
    state = create_state(config, settings, params, optimizer, jax.random.fold_in(root, 0))
    masking = None
    if settings.mlm_weight:
        if tokenizer.mask_id is None:
            raise ValueError(f"{folder} has no mask token, which mlm_weight needs")
        masking = MaskingTokens(tokenizer.mask_id, tuple(tokenizer.special_ids()))
    step = compile_step(simcse_step(config, settings, optimizer, masking=masking, mesh=mesh), mesh)

    def encoder(trained: Any) -> SentenceEncoder:
        return SentenceEncoder(
            config,
            jax.tree.map(np.asarray, model_params(trained, settings)),
            tokenizer,
            hub.EncoderSettings(settings.test_pooling),
            dtype=run.dtype,
            tokenizer_folder=folder,
        )

    def train_batches(start: int):
        for batch in batches.batches(start, total):
            yield Batch(batch.input_ids, batch.attention_mask)

    out.mkdir(parents=True, exist_ok=True)
    hub.write_json(out / "settings.json", fixed)
    started = time.perf_counter()
    metric = "lee_spearman" if run.eval_data is None else "stsb_dev"
    before = dev_score(encoder(state.params), run.eval_data)[metric]
    writer = SummaryWriter(str(out / "tensorboard"))

    def record(values: Mapping[str, Any]) -> None:
        for name, value in {**values, **values.get("eval", {})}.items():
            if name not in ("step", "eval"):
                writer.add_scalar(name, value, values["step"])

    with writer, RunCheckpoints(out / "checkpoints", fixed) as checkpoints:
        result = fit(
            step,
            replicate(state, mesh),
            train_batches,
            replicate(root, mesh),
            total,
            checkpoints=checkpoints,
            resume=run.resume,
            evaluation=Evaluation(
                run.eval_every,
                lambda trained: dev_score(encoder(trained), run.eval_data),
                metric,
                lambda trained, *_: encoder(trained).save_pretrained(out / "best"),
            ),
            metrics_file=out / "metrics.jsonl",
            on_record=record,
            log_every=5,
            description=f"seed {run.seed}",
        )
    if result.interrupted:
        raise SystemExit(f"stopped at step {result.step} of {total}; --resume continues")
    seconds = time.perf_counter() - started
    encoder(result.state.params).save_pretrained(out / "last")
    best = SentenceEncoder.from_pretrained(out / "best", dtype=run.dtype)
    results = {
        "settings": fixed,
        "hardware": hardware(),
        "python": platform.python_version(),
        "steps": total,
        "train_seconds": seconds,
        "dev_metric": metric,
        "dev_before": before,
        "dev_best": result.best["value"],
        "best_step": result.best["step"],
        "best": test_scores(best, run),
        "last": test_scores(encoder(result.state.params), run),
    }
    hub.write_json(results_file, results)
    return results


def main(
    run: RunSettings,
    presets: Mapping[str, Mapping[str, Any]],
    default_text: Callable[[], TrainingText],
) -> None:
    """Train every seed and close with a table.

    Args:
        run: what the user asked for.
        presets: batch size, learning rate and epochs by name of encoder.
        default_text: called where there is no training file.
    """
    unset = {k: v for k, v in presets[run.preset].items() if getattr(run, k) is None}
    run = dataclasses.replace(run, **unset)
    text = read_training_file(run.train_file, seed=run.seed) if run.train_file else default_text()
    many = run.seeds or (run.seed,)
    all_results = []
    for seed in many:
        out = run.output_dir / f"seed-{seed}" if run.seeds else run.output_dir
        all_results.append(run_seed(dataclasses.replace(run, seed=seed, output_dir=out), text))

    score = "Lee" if run.eval_data is None else "STS-B"
    table = Table(title=f"{run.output_dir}: Spearman × 100")
    for name in ("seed", f"{score} dev before", "dev best", "at step", "test, best", "test, last"):
        table.add_column(name, justify="right")
    columns = []
    for seed, results in zip(many, all_results, strict=True):
        numbers = [results["dev_before"], results["dev_best"]]
        tests = [headline(results["best"]), headline(results["last"])]
        columns.append([*numbers, *tests])
        cells = [f"{v:.2f}" for v in numbers] + [str(results["best_step"])]
        table.add_row(str(seed), *cells, *(f"{v:.2f}" for v in tests))
    if len(many) > 1:
        mean, spread = np.mean(columns, 0), np.std(columns, 0, ddof=1)
        cells = [f"{m:.2f} ± {s:.2f}" for m, s in zip(mean, spread, strict=True)]
        table.add_row("mean ± sd", *cells[:2], "", *cells[2:])
        summary = {
            "seeds": list(many),
            "columns": ["dev_before", "dev_best", "test_best", "test_last"],
            "per_seed": columns,
            "mean": mean.tolist(),
            "sd": spread.tolist(),
            "hardware": all_results[0]["hardware"],
            "settings": all_results[0]["settings"] | {"seed": None},
        }
        hub.write_json(run.output_dir / "summary.json", summary)
    console.print(table)
    console.print(f"everything of the run: {run.output_dir}")
