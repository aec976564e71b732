"""Recipes: precedence of files and overrides, and errors that name the key."""

from __future__ import annotations

import re

import pytest

from searchlora.errors import RecipeError
from searchlora.experiments import train
from searchlora.recipe import for_size, load_encoder_recipe, load_recipe
from tests.docs.blocks import ROOT


def test_overrides_take_precedence_over_the_file_and_the_file_over_the_default(tmp_path):
    file = tmp_path / "recipe.yaml"
    file.write_text("lora: {r: 8}\noptim: {learning_rate: 5e-4, epochs: 2}\n", encoding="utf-8")
    recipe = load_recipe(
        {"lora": {"r": 4, "alpha": 8}, "seed": 1}, file, ["optim.epochs=3", "optim.learning_rate=2e-4"]
    )
    assert (recipe.lora.r, recipe.lora.alpha, recipe.seed) == (8, 8, 1)
    assert (recipe.optim.learning_rate, recipe.optim.epochs) == (2e-4, 3)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("lora.rank=8", "unknown key 'lora.rank'.*alpha, dropout, r, target_modules, variant"),
        ("colour=red", "unknown key 'colour'"),
        ("lora.r=0", "'lora.r' = 0"),
        ("lora.variant=qora", "'lora.variant' = 'qora'"),
        ("optim.epochs=-1", "'optim.epochs' = -1"),
        ("lora.r", "not of the form key=value"),
        ("base=[", "is not a YAML value"),
        (".".join(["lora"] * 100_000) + "=1", "a key of 100000 parts"),
        ("optim.learning_rate=.nan", "'optim.learning_rate' = nan"),
        ("validation={metric: nDCG@10, generate_rows: 0}", "validation.metric.*needs outputs"),
    ],
)
def test_an_invalid_value_is_named(override, says):
    with pytest.raises(RecipeError, match=says):
        load_recipe({}, overrides=[override])


def test_a_refused_value_is_named_by_where_it_was_given(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("lora: {r: 4, alpha: 8}\n", encoding="utf-8")
    for override in ("lora.r=0", "lora={r: 0}"):
        with pytest.raises(RecipeError, match=r"^--set lora\.r: 'lora\.r' = 0"):
            load_recipe({}, file, ["seed=1", override])
    file.write_text("lora: {r: 0}\n", encoding="utf-8")
    with pytest.raises(RecipeError, match=r"mine\.yaml: 'lora\.r' = 0"):
        load_recipe({}, file, ["lora.alpha=8"])


@pytest.mark.parametrize("load", [load_recipe, load_encoder_recipe])
def test_the_learning_rate_of_lora_is_refused_where_all_weights_are_trained(load, tmp_path):
    with pytest.raises(RecipeError, match=r"--set optim\.learning_rate: has no effect.*optim\.full_learning_rate"):
        load({}, overrides=["method=full", "optim.learning_rate=1e-4"])
    both = ["optim.learning_rate=1e-4", "optim.full_learning_rate=1e-5"]  # a sweep over methods needs both
    assert load({"optim": {"learning_rate": 1e-3}}, overrides=["method=full"]).is_full
    assert load({}, overrides=["method=full", *both]).optim.full_learning_rate == 1e-5
    file = tmp_path / "recipe.yaml"
    file.write_text("method: full\noptim: {learning_rate: 1.0e-5}\n")
    with pytest.raises(RecipeError, match=r"recipe\.yaml, optim\.learning_rate: has no effect"):
        load({}, file)
    file.write_text("optim: {learning_rate: 1.0e-4}\n")
    assert load({}, file, overrides=["method=full"]).is_full


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("a: [", "not YAML"),
        ("just words", "not a mapping"),
        (b"base: \xff", "not UTF-8"),
        ("1: 2", "'1' = 1 is refused: keys should be strings"),
        ("lora: {alpha: .inf}", "'lora.alpha' = inf"),
        ("seed: -1", "'seed' = -1"),
    ],
)
def test_a_file_that_is_not_a_recipe_is_named(tmp_path, content, says):
    file = tmp_path / "bad.yaml"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(RecipeError, match=rf"bad\.yaml.*{says}"):
        load_recipe({}, file)
    with pytest.raises(RecipeError, match=r"none\.yaml"):
        load_recipe({}, tmp_path / "none.yaml")


def test_only_qlora_quantises_and_only_full_has_its_own_learning_rate():
    assert [load_recipe({"method": method}).quantization for method in ("full", "lora", "qlora")] == [
        *("none", "none", "nf4")
    ]
    assert load_recipe({}).method == "qlora" and load_encoder_recipe({}).method == "lora"


def test_a_larger_base_has_the_published_learning_rates_unless_others_are_given():
    default = {"optim": {"learning_rate": 1e-3, "batch_size": 16}, "lora": {"r": 8}}
    rates = {
        parameters: load_recipe(for_size(default, parameters)).optim
        for parameters in (135_000_000, 500_000_000, 8_000_000_000, 70_000_000_000)
    }
    assert [optim.learning_rate for optim in rates.values()] == [1e-3, 5e-4, 2e-4, 1e-4]
    assert [optim.full_learning_rate for optim in rates.values()] == pytest.approx([5e-5, 5e-5, 2e-5, 1e-5])
    assert all(optim.batch_size == 16 for optim in rates.values())
    given = load_recipe(for_size(default, 8_000_000_000), overrides=["optim.learning_rate=3e-4"]).optim
    assert given.learning_rate == 3e-4
    assert for_size(default, 135_000_000) == default


@pytest.mark.parametrize(
    ("parameters", "overrides", "warning"),
    [
        (135_000_000, ["optim.learning_rate=3e-3"], None),
        (500_000_000, ["optim.learning_rate=3e-3"], "the learning rate 0.003 is above 0.0005"),
        (500_000_000, ["optim.learning_rate=4e-4"], None),
        (8_000_000_000, ["method=full", "optim.full_learning_rate=1e-4"], "`--set optim.full_learning_rate=2e-05`"),
    ],
)
def test_a_given_rate_above_that_of_the_size_is_warned_of(monkeypatch, tiny_base, parameters, overrides, warning):
    monkeypatch.setattr(train, "base_parameters", lambda _: parameters)
    said = train._rate_warning(load_recipe({}, overrides=overrides), tiny_base)
    assert said is None if warning is None else warning in said


@pytest.mark.parametrize(
    ("overrides", "on_gpu", "warned"),
    [
        (["lora.dropout=0.05"], False, True),
        ([], False, False),
        (["lora.dropout=0.05"], True, False),
        (["lora.dropout=0.05", "method=full"], False, False),
    ],
)
def test_dropout_is_warned_of_where_it_costs_the_compiled_kernels(monkeypatch, overrides, on_gpu, warned):
    monkeypatch.setattr(train, "uses_gpu", lambda: on_gpu)
    said = train._dropout_warning(load_recipe({}, overrides=overrides))
    assert (said is not None and "`--set lora.dropout=0`" in said) == warned


RECIPES = sorted(
    file.relative_to(ROOT).as_posix()
    for folder in ("tasks", "benchmarks", "searchlora/scaffold")
    for file in (ROOT / folder).rglob("*.yaml")
    if re.search(r"^(optim|lora|improve):", file.read_text(encoding="utf-8"), re.MULTILINE)
)


@pytest.mark.parametrize("name", RECIPES)
def test_the_recipes_of_tasks_benchmarks_and_new_tasks_have_known_keys(name, tmp_path):
    file = tmp_path / "recipe.yaml"
    file.write_text((ROOT / name).read_text(encoding="utf-8").replace("$max_new_tokens", "8"), encoding="utf-8")
    (load_encoder_recipe if re.search("embed|encoder", name) else load_recipe)({}, file)
