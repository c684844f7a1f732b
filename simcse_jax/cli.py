"""The console command: ``simcse-jax encode`` and ``simcse-jax evaluate``."""

from __future__ import annotations

import dataclasses
import os
import sys
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import tyro

from simcse_jax.io import read_lines, write_json, written_file


@dataclasses.dataclass(frozen=True)
class Model:
    """Which model, and how it is used."""

    model: str = "minilm"
    """'minilm' (embedded), a model folder, or a Hugging Face hub id."""
    pooling: str | None = None
    """cls, pooler, mean, max, last-2, first-last, embedding-last, layer-K; default: as the model
    says."""
    num_layers: int | None = None
    """Keep the first so many layers."""
    max_length: int | None = None
    """Cut sentences to so many tokens; default: the whole position table."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """The compute type."""
    batch_size: int | None = None
    """Sentences at a time; default: 64 on a CPU, 2048 on a GPU or TPU."""

    def load(self):
        """The encoder, with nothing cut unless asked."""
        from simcse_jax.encoder import SentenceEncoder

        return SentenceEncoder.from_pretrained(
            self.model,
            pooling=self.pooling,
            num_layers=self.num_layers,
            max_length=self.max_length or "longest",
            dtype=self.dtype,
        )


@dataclasses.dataclass(frozen=True)
class Encode:
    """Encode a text file, a sentence a line, into a NumPy file of float32 [lines, D]."""

    input: tyro.conf.Positional[str]
    """The file, UTF-8; '-' is standard input."""
    output: Path
    """The .npy file to write."""
    normalize: bool | None = None
    """Scale to length one; default: as the model says."""
    model: Annotated[Model, tyro.conf.arg(name="")] = Model()

    def run(self) -> None:
        """Do it."""
        sentences = read_lines(self.input)
        with written_file(self.output) as temporary:
            encoder = self.model.load()
            vectors = encoder.encode(
                sentences, batch_size=self.model.batch_size, normalize=self.normalize
            )
            with temporary.open("wb") as file:
                np.save(file, vectors)
        print(f"{self.output}: float32 {list(vectors.shape)}")


@dataclasses.dataclass(frozen=True)
class Evaluate:
    """Score a model on the seven STS tasks, in the protocols all, mean and wmean."""

    data: Path
    """The folder that holds SentEval's STS/ and SICK/."""
    output: Path | None = None
    """A JSON file for the results."""
    tasks: tuple[str, ...] = ()
    """Some of STS12 STS13 STS14 STS15 STS16 STS-B SICK-R; default: all."""
    model: Annotated[Model, tyro.conf.arg(name="")] = Model()

    def run(self) -> None:
        """Do it."""
        from simcse_jax.data.senteval import TASKS, read_sts
        from simcse_jax.evaluation.sts import evaluate_sts, format_table, results_to_json

        if unknown := set(self.tasks) - set(TASKS):
            raise ValueError(f"no STS task is called {unknown.pop()!r}; they are {' '.join(TASKS)}")
        tasks = read_sts(self.data, self.tasks or TASKS)
        output: AbstractContextManager[Path | None] = (
            nullcontext() if self.output is None else written_file(self.output)
        )
        with output as temporary:
            encoder = self.model.load()
            results = evaluate_sts(
                lambda sentences: encoder.encode(sentences, batch_size=self.model.batch_size),
                tasks,
            )
            settings = dataclasses.asdict(self.model) | {"pooling": encoder.settings.pooling}
            if temporary is not None:
                write_json(temporary, results_to_json(results) | {"settings": settings})
        print(f"{self.model.model}, {encoder.settings.pooling} pooling\n\n{format_table(results)}")
        if self.output:
            print(f"\nresults in {self.output}")


def main(args: list[str] | None = None) -> None:
    """Run the command; what the user can mend is one line on standard error and exit code 2."""
    command = tyro.extras.subcommand_cli_from_dict(
        {"encode": Encode, "evaluate": Evaluate}, prog="simcse-jax", args=args
    )
    run_or_explain(command.run)


def run_or_explain(run) -> None:
    """Call ``run``; an error in the input becomes one line instead of a traceback."""
    try:
        run()
    except (OSError, ValueError, TypeError) as error:
        if os.environ.get("SIMCSE_JAX_TRACEBACK"):
            raise
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
