"""Settings: recipes, shares of the epochs, records, and values that contradict each other."""

import dataclasses
import json
import os
import re

import pytest

from data.load import load_data
from models import MODELS
from training.arguments import make_parser
from training.config import DEMO_DEFAULTS, FIELDS, RECIPES, SECTIONS, Config, differences, from_record, read_config
from training.setup import set_up_folds
from utils.errors import UserError
from utils.options import as_tuples, default_of, to_record


def test_defaults_are_the_experiment():
    """What `python main.py` does, from the table of the experiment."""
    config = Config()
    assert (config.model, config.negative_slope, config.shortcut, config.image_size) == ("resnet18", 0.2, "3x3", 224)
    assert (config.epochs, config.batch_size, config.loss) == (100, 128, "cross_entropy")
    assert (config.lr, config.schedule, config.lr_steps, config.lr_gamma) == (0.1, "step", (20, 50, 75), 0.1)
    assert (config.momentum, config.weight_decay, config.init) == (0.0, 0.0, "pytorch")
    assert (config.flip, config.rotation, config.hue) == (0.5, 20, 0.02)
    assert (config.brightness, config.contrast, config.saturation) == (0.1, 0.1, 0.1)
    assert (config.optimizer, config.interpolation, config.padding) == ("sgd", "nearest", "zeros")
    assert (config.gridmask_ratio, config.gridmask_start, config.gridmask_end) == (0.6, 0.6, 0.8)
    assert config.gridmask_rotated
    assert (config.folds, config.label_policy, config.seed) == ((0, 1, 2, 3, 4), "strict", 0)


def test_a_recipe_gives_defaults_and_explicit_values_come_first():
    modern = Config(recipe="modern", epochs=20)
    assert (modern.optimizer, modern.momentum, modern.weight_decay, modern.loss) == ("muon", 0.9, 0.01, "sord")
    assert (modern.lr, modern.shortcut) == (0.2, "pooled")
    assert modern.warmup == 2.0  # a tenth of the epochs
    assert Config(recipe="modern", loss="corn").loss == "corn"
    assert Config(recipe="robust", epochs=20) == dataclasses.replace(
        modern, recipe="robust", standardize=0.6, border=0.2
    )
    # Even where the explicit value is the option's own default.
    assert Config(recipe="modern", momentum=0.0).momentum == 0.0


@pytest.mark.parametrize(
    ("epochs", "steps"),
    [(100, (20, 50, 75)), (20, (4, 10, 15)), (15, (3, 8, 11)), (4, (1, 2, 3)), (2, (1, 2)), (1, (1,))],
)
def test_the_published_decay_is_a_share_of_the_epochs(epochs, steps):
    assert Config(epochs=epochs).lr_steps == steps
    assert Config(epochs=epochs, lr_steps=(5,)).lr_steps == (5,)


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("epochs", [1, 2, 3, 100])
def test_a_recipe_works_for_any_number_of_epochs(recipe, epochs):
    assert Config(recipe=recipe, epochs=epochs).warmup < epochs


def test_the_recipe_in_python_means_what_it_means_on_the_command_line():
    given = vars(make_parser().parse_args(["--recipe", "modern", "--epochs", "6"]))
    given = {name: value for name, value in given.items() if name in FIELDS}
    assert Config(**as_tuples(given)) == Config(recipe="modern", epochs=6)


def test_a_record_comes_back():
    config = Config(recipe="modern", folds=(0, 3), epochs=7)
    assert from_record("config.json", to_record(config)) == config


def test_faces_that_fill_no_batch_are_told_of(small_faces, capsys):
    """Of 32 training faces, batches of 20 leave out 12; those of 14 four, and those of 16 none."""
    labels, images = map(str, small_faces)
    for size, expected in ((20, "note: each epoch leaves out 12 of 32 training faces,"), (14, ""), (16, "")):
        config = Config(label_dir=labels, image_dir=images, batch_size=size, image_size=40, width=0.125)
        faces, _ = load_data(**config.data_source)
        set_up_folds(config, faces, 1)
        shown = capsys.readouterr().out
        assert shown.startswith(expected) and len(shown.splitlines()) == bool(expected)


def test_records_of_other_versions(capsys):
    """Renamed settings keep their value; unknown ones are named, and refused where the run has to compute the same."""
    assert from_record("x.pt", {"crop": 1.0, "mixup": 0.0, "inner_width": 0.5}) == Config(mid_width=0.5)
    assert from_record("x.pt", {"standardize": True}) == Config(standardize=1.0)  # by the whole image
    assert from_record("x.pt", {"first_size": 0, "grey": 0.0, "lr": 0.2}, strict=True) == Config(lr=0.2, shuffle="all")
    assert capsys.readouterr().out == ""
    assert from_record("x.pt", {"grey": 0.5, "first_size": 64}) == Config()
    note = "note: x.pt records settings that this version does not have: grey 0.5, first_size 64\n"
    assert capsys.readouterr().out == note
    assert from_record("x.pt", {"balance": "loss", "grad_clip": 0.0, "decay_weights_only": False}) == Config()
    assert capsys.readouterr().out.endswith("does not have: balanced_loss True\n")
    with pytest.raises(UserError, match=r"^'x.pt' was trained with settings that this version does not have: grey 0.5"):
        from_record("x.pt", {"grey": 0.5, "first_size": 64}, strict=True)


def test_the_config_of_a_run_directory_comes_back(tmp_path):
    config = Config(recipe="modern", folds=(0, 3), epochs=7, width=0.5)
    (tmp_path / "config.json").write_text(json.dumps(to_record(config)))
    assert read_config(tmp_path) == config


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "' is damaged: Expecting value"),
        ("[1, 2]", "' is damaged: it holds a list, not a dict$"),
        ("[" * 200_000, "' is damaged: "),
        ('{"a": ' * 200_000, "' is damaged: "),
        ('{"epochs": ' + "9" * 5000 + "}", "' is damaged: "),
        ('{"colour": "red"}', "' was trained with settings that this version does not have: colour red$"),
        ('{"epochs": 0}', "': --epochs 0: expected a number from 1 to 100000$"),
        ('{"epochs": "7"}', "': --epochs 7: expected a whole number$"),
        ('{"lr": NaN}', "': --lr nan: expected a number from 0 to 1000000.0$"),
        ('{"folds": [[0]]}', r"': --folds \[0\]: expected a whole number$"),
        ('{"recipe": {}}', "': --recipe {}: "),
        ('{"recipe": {"original": 1}}', "': --recipe {'original': 1}: expected a text$"),
        ('{"recipe": ["original"]}', "': --recipe "),
    ],
    ids=lambda value: value[:20],
)
def test_a_damaged_config_is_named(tmp_path, text, message):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(UserError, match=f"^'{re.escape(str(tmp_path))}/config.json{message}"):
        read_config(tmp_path, strict=True)


def test_a_config_that_is_no_regular_file_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "config.json")
    with pytest.raises(UserError, match=r"config\.json' is a named pipe; expected a regular file$"):
        read_config(tmp_path)


def test_replacing_a_setting_keeps_the_others():
    config = dataclasses.replace(Config(recipe="modern"), precision="bf16")
    assert (config.precision, config.momentum) == ("bf16", 0.9)


def test_differences_are_named_and_what_is_free_to_change_is_not():
    recorded = Config(seed=0, lr=0.01, folds=(0,), precision="bf16")
    assert differences(recorded, {"seed": 1, "lr": 0.02}) == "seed was 0, now 1; lr was 0.01, now 0.02"
    assert differences(recorded, {"threads": 2, "run_dir": "x", "precision": "auto", "seed": 0}) == ""
    assert differences(recorded, {"precision": "fp32"}) == "precision was bf16, now fp32"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"decode": "val"}, "--decode val: there are no validation faces to choose on; add --val-fraction 0.1"),
        ({"warmup": 100.0}, "--warmup 100.0: expected less than the 100 --epochs"),
        ({"nesterov": True}, "--nesterov with --momentum 0: Nesterov's form needs a momentum above 0"),
        ({"folds": ()}, "--folds : name each fold once, out of 0 to 4"),
        ({"folds": (1, 1)}, "--folds 1 1: name each fold once, out of 0 to 4"),
        ({"recipe": "best"}, "--recipe best: choose from original, modern, robust"),
        ({"loss": "nonsense"}, "--loss nonsense: choose from cross_entropy, "),
        ({"epochs": "many"}, "--epochs many: expected a whole number"),
        ({"epochs": True}, "--epochs True: expected a whole number"),
        ({"lr": float("nan")}, "--lr nan: expected a number from 0 to 1000000.0"),
        ({"folds": 3}, "--folds 3: expected several values"),
        ({"lr": (0.1,)}, "expected one value"),
        ({"model": 3}, "--model 3: expected a text"),
        ({"standardize": 0.001}, "--standardize 0.001: expected 0, or a share from 0.1 to 1"),
        ({"width": 0.06}, "--width 0.06: expected a number from 0.0625 to 4"),
        ({"width": 4.5}, "--width 4.5: expected a number from 0.0625 to 4"),
        ({"width": "wide"}, "--width wide: expected a number"),
    ],
)
def test_settings_that_make_no_sense(settings, message):
    with pytest.raises(UserError, match=re.escape(message)):
        Config(**settings)


class TestNetworkOptions:
    def test_a_network_gets_the_options_that_it_has(self):
        assert Config(negative_slope=0.1).network_options() == {
            "negative_slope": 0.1,
            "shortcut": "3x3",
            "max_pool": True,
            "init": "pytorch",
            "zero_init": False,
            "standardize": 0.0,
            "width": 1.0,
            "mid_width": 1.0,
        }
        assert Config(model="mobilenet_v3_small", width=0.5).network_options() == {"width": 0.5}

    @pytest.mark.parametrize("model", MODELS)
    @pytest.mark.parametrize("recipe", RECIPES)
    def test_a_recipe_fits_every_network(self, model, recipe):
        Config(model=model, recipe=recipe).network_options()

    def test_an_option_that_a_network_does_not_have_is_an_error(self):
        message = "--shortcut 1x1: mobilenet_v3_small has no such option; its options are --width"
        with pytest.raises(UserError, match=re.escape(message)):
            Config(model="mobilenet_v3_small", shortcut="1x1")


def test_every_field_has_a_section_and_a_help_text():
    names = [field.name for section in SECTIONS for field in dataclasses.fields(section)]
    assert sorted(names) == sorted(FIELDS)
    assert all(len(FIELDS[name].metadata["help"]) > 5 for name in names)
    assert all(default_of(field) is not None for field in FIELDS.values())
    assert set(DEMO_DEFAULTS) <= set(names)
    assert all(set(recipe) <= set(names) for recipe in RECIPES.values())


def test_options_show_the_defaults_and_the_help_ends_with_the_recipes():
    text = make_parser().format_help()
    for title in ("data:", "network:", "optimisation:", "augmentation:", "evaluation:", "machine:"):
        assert f"\n{title}\n" in text
    assert re.search(r"--momentum X\s+momentum of sgd and muon \(default: 0.0\)", text)
    modern = "--recipe modern stands for --optimizer muon --lr 0.2 --momentum 0.9 --weight-decay 0.01 --schedule cosine"
    assert modern in " ".join(text.split())
    assert " ".join(text.split()).endswith("origin than the training faces, adds --standardize 0.6 --border 0.2.")


def test_options_are_not_abbreviated():
    with pytest.raises(UserError, match="unrecognized arguments: --image x"):
        make_parser().parse_args(["--image", "x"])
