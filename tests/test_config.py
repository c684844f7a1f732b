"""Configurations: their fields' names, changing them, JSON and Python files, what is refused."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from simcse_jax import config as configs
from simcse_jax.cli import main, override
from simcse_jax.config import (
    CONFIGS,
    Config,
    DataConfig,
    ModelConfig,
    OptimizerConfig,
    RunConfig,
    fixed_fields,
    load_config,
    replace,
    to_json,
)
from simcse_jax.objectives import SimCSE


@pytest.mark.parametrize("name", CONFIGS)
def test_every_field_has_a_name_of_its_own(name):
    config = CONFIGS[name]
    sections = (config.objective, config.model, config.data, config.optimizer, config.run)
    names = [field.name for section in sections for field in dataclasses.fields(section)]
    assert len(names) == len(set(names))
    assert set(configs.field_names(config)) == set(names)
    assert name in configs.DESCRIPTIONS


@pytest.mark.parametrize("name", CONFIGS)
def test_json_there_and_back(name, tmp_path):
    config = replace(CONFIGS[name], seeds=(1, 2), eval_data=Path("data"), max_steps=7)
    file = tmp_path / "run.json"
    file.write_text(json.dumps(configs.to_json(config)))
    assert load_config(file) == config
    assert load_config(name) == CONFIGS[name]


def test_what_a_json_file_leaves_out_has_its_default(tmp_path):
    file = tmp_path / "run.json"
    file.write_text('{"objective": {"type": "simcse"}, "optimizer": {"learning_rate": 1}}')
    config = load_config(file)
    assert config.objective == SimCSE()
    assert config.optimizer.learning_rate == 1.0
    assert config.data == configs.DataConfig()


def test_a_python_file(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "from simcse_jax.config import CONFIGS, replace\n"
        "CONFIG = replace(CONFIGS['unsup_simcse'], batch_size=8)\n"
    )
    assert load_config(file).data.batch_size == 8
    file.write_text("CONFIG = 3\n")
    with pytest.raises(ValueError, match=r"mine\.py does not define CONFIG"):
        load_config(file)


def test_help_of_an_objective_in_a_python_file(tmp_path, capsys):
    file = tmp_path / "json.py"  # named as a module that there is already
    file.write_text(
        "from __future__ import annotations\n"
        "import dataclasses, json\n"
        "from simcse_jax.config import CONFIGS\n"
        "from simcse_jax.objectives import TokenObjective\n\n"
        "@dataclasses.dataclass(frozen=True)\n"
        "class Pull(TokenObjective):\n"
        '    """Pull the views together."""\n\n'
        "    strength: float = float(json.loads('0.5'))\n"
        '    """How strongly the views are pulled."""\n\n'
        "    views = 2\n\n"
        "    def build(self, model): ...\n\n"
        "CONFIG = dataclasses.replace(CONFIGS['unsup_simcse'], objective=Pull())\n"
    )
    with pytest.raises(SystemExit) as stop:
        main(["train", str(file), "--help"])
    assert stop.value.code == 0
    assert "How strongly the views are pulled." in " ".join(capsys.readouterr().out.split())
    config = replace(load_config(file), strength=2)
    assert config.objective.strength == 2.0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["json.py"]
    file.write_text("CONFIG =\n")
    with pytest.raises(ValueError, match=r"json\.py, line 1: not Python \(invalid syntax\)"):
        load_config(file)
    file.write_text("import sys\nsys.exit(0)\n")
    with pytest.raises(ValueError, match=r"json\.py, line 2: SystemExit: 0"):
        load_config(file)
    file.write_text("x = 1\nx / 0\n")
    with pytest.raises(ValueError, match=r"json\.py, line 2: ZeroDivisionError: division by zero"):
        load_config(file)
    file.write_text(
        "from simcse_jax.config import CONFIGS, replace\n\n"
        "CONFIG = replace(CONFIGS['mlm'], batchsize=3)\n"
    )
    with pytest.raises(ValueError, match=r"json\.py, line 3: .*batchsize"):
        load_config(file)


def test_fields_are_changed_by_name_alone():
    config = replace(CONFIGS["unsup_simcse"], temperature=0.1, batch_size=8, dropout=0.2)
    assert config.objective.temperature == 0.1
    assert config.data.batch_size == 8
    assert config.model.dropout == 0.2
    assert config.optimizer == CONFIGS["unsup_simcse"].optimizer


def test_the_command_line_changes_any_field():
    args = "--temperature 0.1 --train-files a.txt b.txt --seeds 0 1 --no-bias-correction"
    config = override(CONFIGS["unsup_simcse"], "unsup_simcse", args.split())
    assert config == replace(
        CONFIGS["unsup_simcse"],
        temperature=0.1,
        train_files=(Path("a.txt"), Path("b.txt")),
        seeds=(0, 1),
        bias_correction=False,
    )
    assert isinstance(config, Config)


def test_columns_are_a_number_or_names():
    for args, columns in (
        ("--columns 2", 2),
        ("--columns text", ("text",)),
        ("--columns premise entailment contradiction", ("premise", "entailment", "contradiction")),
    ):
        config = override(CONFIGS["sup_simcse"], "sup_simcse", args.split())
        assert config.data.columns == columns
        assert configs.from_json(json.loads(json.dumps(configs.to_json(config)))) == config
    config = replace(CONFIGS["sup_simcse"], columns=["text"])
    assert replace(config, columns="text") == config
    assert replace(config, columns=np.int64(2)).data.columns == 2
    with pytest.raises(ValueError, match="columns is 1.5; it must be a whole number or a tuple"):
        replace(config, columns=1.5)
    with pytest.raises(ValueError, match="--columns is given without a value"):
        override(CONFIGS["sup_simcse"], "sup_simcse", ["--columns", "--seed", "1"])


def test_a_flow_is_not_offered_what_it_does_not_hear(capsys):
    with pytest.raises(SystemExit):
        override(CONFIGS["flow"], "flow", ["--help"])
    said = capsys.readouterr().out
    for name in configs.NOT_OF_A_FLOW:
        assert name in configs.field_names(CONFIGS["flow"])
        assert f"--{name.replace('_', '-')} " not in said
    assert "Write a checkpoint every so many steps" in " ".join(said.split())
    config = override(CONFIGS["flow"], "flow", ["--batch-size", "32"])
    assert config == replace(CONFIGS["flow"], batch_size=32)
    with pytest.raises(ValueError, match="--max-steps has no effect on a flow; leave it out"):
        override(CONFIGS["flow"], "flow", ["--max-steps", "3"])


def test_places_and_what_is_asked_for_may_differ_when_resumed():
    config = CONFIGS["unsup_simcse"]
    moved = replace(config, output_dir=Path("x"), eval_data=Path("y"), resume=True, seeds=(1,))
    assert fixed_fields(moved, "digest") == fixed_fields(config, "digest")
    assert fixed_fields(config, "other") != fixed_fields(config, "digest")
    warmer = replace(config, temperature=0.1)
    assert fixed_fields(warmer, "digest") != fixed_fields(config, "digest")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "must be a JSON object of data, model, objective, optimizer, run"),
        ('{"objectives": {}}', "must be a JSON object of data"),
        (
            "{}",
            "must have a type, one of simcse, whitened_cse, simcse_plus_plus, esimcse, .*, flow, "
            "not None",
        ),
        ('{"objective": {"type": "clip"}}', "not 'clip'"),
        ('{"objective": {"type": "simcse", "tau": 1}}', "objective has no field 'tau'; it has"),
        ('{"objective": {"type": "simcse", "temperature": "hot"}}', "objective.temperature is"),
        ('{"objective": {"type": "simcse", "temperature": -1}}', "temperature is -1.0; it must"),
        ('{"objective": {"type": "simcse"}, "run": {"seed": 1.5}}', "run.seed is 1.5; it must"),
        ('{"objective": {"type": "simcse"}, "run": {"parallel": "none"}}', "one of shard_map"),
        ('{"objective": {"type": "simcse"}, "run": 3}', "run is 3; it must be a JSON object of"),
        ('{"objective": {"type": "simcse"}, "model": null}', "model is None; it must be a JSON"),
        (
            '{"objective": {"type": "simcse"}, "run": {"seed": 1, "seed": 2}}',
            r"the field 'seed' is there twice; leave one out",
        ),
    ],
)
def test_files_that_are_refused(tmp_path, text, message):
    file = tmp_path / "run.json"
    file.write_text(text)
    with pytest.raises(ValueError, match=rf"run\.json.*{message}"):
        load_config(file)


def test_a_run_of_more_steps_than_can_be_counted_is_refused():
    run = replace(CONFIGS["unsup_simcse"], epochs=1e30).run
    with pytest.raises(ValueError, match=r"would take .* steps; fewer than 2\*\*31 are possible"):
        run.total_steps(7)
    assert replace(CONFIGS["unsup_simcse"], epochs=0.5).run.total_steps(7) == 4


@pytest.mark.usefixtures("unchecked")
def test_what_is_refused():
    with pytest.raises(FileNotFoundError, match="there is no configuration 'simce': give one of"):
        load_config("simce")
    with pytest.raises(ValueError, match="no field 'tau'"):
        replace(CONFIGS["unsup_simcse"], tau=1.0)
    for changes, message in (
        ({"eval_every": 0}, "eval_every is 0; it must be at least 1"),
        ({"grad_cache_chunks": 0}, "grad_cache_chunks is 0"),
        ({"max_steps": 0}, "max_steps is 0"),
        ({"epochs": float("inf")}, "epochs is inf; it must be positive and finite"),
        ({"learning_rate": 10**400}, "learning_rate is 1000.*; it must be a number"),
        ({"seeds": (1, 2, 1)}, "seeds has 1 more than once"),
        ({"seed": -1}, "seed is -1; it must be at least 0"),
        (
            {"seeds": (2**32,)},
            "seeds is 4294967296; it must be at least 0 and",
        ),
        ({"per_article": 5}, "per_article is 5, which has no effect: it needs dataset 'wikipedia_"),
        ({"window": 2}, "window is 2, which has no effect: it needs positives 'next-sentence'"),
        ({"share": 0.2, "positives": "synonym"}, "share is 0.2, which has no effect"),
        (
            {"dataset_source": Path("x"), "train_files": (Path("y"),)},
            "dataset_source is x, but train_files are trained on",
        ),
        ({"parallel": "threads"}, "parallel is 'threads'"),
        ({"pooling": "avg"}, "pooling 'avg' is none of"),
        ({"dropout": 1.5}, "dropout is 1.5"),
        ({"dtype": "float16"}, "dtype is 'float16'"),
        ({"positives": "translation"}, "positives is 'translation'"),
        ({"schedule": "step"}, "schedule is 'step'; it must be one of linear, constant, cosine"),
    ):
        with pytest.raises(ValueError, match=message):
            replace(CONFIGS["unsup_simcse"], **changes)


def test_values_of_python_become_those_of_the_field():
    """A folder's name is a string to who writes five lines, and numbers may be NumPy's."""
    changed = replace(
        CONFIGS["unsup_simcse"],
        output_dir="my_run",
        eval_data="senteval",
        seeds=[1, 2],
        batch_size=np.int64(8),
        epochs=2,
        learning_rate=np.float32(0.5),
    )
    assert changed.run.output_dir == Path("my_run")
    assert changed.run.eval_data == Path("senteval")
    assert changed.run.seeds == (1, 2)
    assert changed.data.batch_size == 8
    assert changed.run.epochs == 2.0
    assert changed.optimizer.learning_rate == 0.5
    json.dumps(to_json(changed))


@pytest.mark.parametrize(
    ("field", "value", "wanted"),
    [
        ("batch_size", 1.5, "a whole number"),
        ("batch_size", "64", "a whole number"),
        ("batch_size", True, "a whole number"),
        ("learning_rate", "1e-3", "a number"),
        ("dropout", "0.1", "a number or None"),
        ("resume", 1, "true or false"),
        ("output_dir", 3, "a path"),
        ("seeds", [1.5], "a tuple, each of it a whole number"),
        ("model", None, "a text"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_a_value_of_another_type_is_refused_by_the_name_of_its_field(field, value, wanted):
    with pytest.raises(ValueError, match=rf"{field} is .*; it must be {wanted}"):
        replace(CONFIGS["unsup_simcse"], **{field: value})
    value = tuple(value) if isinstance(value, list) else value
    kinds = (ModelConfig, DataConfig, OptimizerConfig, RunConfig)
    kind = next(k for k in kinds if field in {f.name for f in dataclasses.fields(k)})
    with pytest.raises(ValueError, match=rf"^{field} is .*; it must be {wanted}$"):
        kind(**{field: value})


@pytest.mark.parametrize("kind", [["simcse"], {}, 3, None])
def test_an_objective_of_no_known_type(kind):
    with pytest.raises(ValueError, match="objective must have a type, one of simcse, .*, not"):
        configs.from_json({"objective": {"type": kind}})


@pytest.mark.usefixtures("unchecked")
def test_what_is_no_objective_and_no_folder():
    with pytest.raises(ValueError, match="the objective is 3; it must be one such as SimCSE"):
        configs.Config(3)
    with pytest.raises(ValueError, match=r"objective is <class .*SimCSE'>; it must be one such as"):
        configs.Config(configs.SimCSE)
    with pytest.raises(ValueError, match=r"model is None; it must be a ModelConfig\(\.\.\.\)"):
        configs.Config(configs.SimCSE(), None)
    with pytest.raises(ValueError, match="output_dir is ''"):
        replace(CONFIGS["mlm"], output_dir="")
    empty = "--output-dir is given an empty value; give another, or leave it out"
    with pytest.raises(ValueError, match=empty):
        override(CONFIGS["mlm"], "mlm", ["--output-dir", ""])
    with pytest.raises(ValueError, match=empty):
        override(CONFIGS["mlm"], "mlm", ["--output_dir="])
    with pytest.raises(ValueError, match="--train-files is given twice; give it once, with all"):
        override(CONFIGS["mlm"], "mlm", ["--train-files", "a", "b", "--train_files=c"])
    with pytest.raises(ValueError, match="--columns is given an empty value"):
        override(CONFIGS["mlm"], "mlm", ["--columns", "text", ""])


def test_a_data_set_beside_files_is_refused(tmp_path):
    """However it is spelt, and where the files are those of the configuration."""
    plain = CONFIGS["unsup_simcse"]
    with pytest.raises(ValueError, match="--train-files and --dataset both say what to train on"):
        override(plain, "unsup_simcse", ["--train_files=a.txt", "--dataset=stsb"])
    with pytest.raises(ValueError, match="--dataset has no effect beside the files that the conf"):
        override(replace(plain, train_files=(tmp_path,)), "run.json", ["--dataset", "stsb"])


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("sbert_stsb", {"margin": 5.0}),
        ("sbert_nli", {"score": "shifted"}),
        ("sbert_wikisections", {"num_labels": 4}),
    ],
)
def test_a_field_of_another_kind_of_sentence_bert_is_refused(name, changes):
    with pytest.raises(ValueError, match="which is of Sentence-BERT's .* and not of its"):
        replace(CONFIGS[name], **changes)


def test_the_share_is_the_augmentations_own():
    """Said or not, it is the same run: what was begun with 0.1 in its settings goes on."""
    plain, repeating = CONFIGS["unsup_simcse"], CONFIGS["esimcse"]
    assert fixed_fields(plain)["share"] == fixed_fields(replace(plain, share=0.1))["share"] == 0.1
    assert fixed_fields(repeating)["share"] == 0.32
    assert fixed_fields(replace(repeating, positives="crop"))["share"] == 0.1
    assert replace(repeating, positives="same").data.share is None
    assert replace(plain, share=0.1).data.positives == "same"  # as older versions wrote it
