"""Resolving, fingerprinting and loading base models."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from searchlora.errors import BaseModelError, BaseModelMoved
from searchlora.models.fingerprint import fingerprint
from searchlora.models.load import computed_in, load_model, load_tokenizer
from searchlora.models.processor import SWITCH, multiplies_bf16
from searchlora.models.resolve import CATALOGUE, PackagedWeights, public_name, resolve
from searchlora.prompts import Renderer
from searchlora.testing import build_tiny_base

SMALL = "smollm2-135m-instruct-q4_1"


@pytest.fixture
def copy(tiny_base, tmp_path):
    return shutil.copytree(tiny_base.path, tmp_path / "copy")


def test_a_copy_has_the_same_fingerprint_and_changed_weights_another(tiny_base, copy, tmp_path):
    assert fingerprint(copy) == fingerprint(tiny_base.path)
    file = copy / "model.safetensors"
    content = file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert fingerprint(copy).tensors != fingerprint(tiny_base.path).tensors
    other = build_tiny_base(tmp_path / "other", seed=9, hidden=64)
    assert fingerprint(other).tensors != fingerprint(copy).tensors
    assert fingerprint(other).tokenizer == fingerprint(copy).tokenizer


def test_sharded_weights_have_the_fingerprint_of_a_single_file(tiny_base, copy):
    tensors = load_file(copy / "model.safetensors")
    names = sorted(tensors)
    (copy / "model.safetensors").unlink()
    save_file({name: tensors[name] for name in names[::2]}, copy / "model-00001-of-00002.safetensors")
    save_file({name: tensors[name] for name in names[1::2]}, copy / "model-00002-of-00002.safetensors")
    assert fingerprint(copy) == fingerprint(tiny_base.path)


def test_template_and_tokenizer_changes_are_distinguished(tiny_base, copy):
    (copy / "chat_template.jinja").write_text("{{ messages }}", encoding="utf-8")
    whole, changed = fingerprint(tiny_base.path), fingerprint(copy)
    assert (changed.tokenizer, changed.tensors) == (whole.tokenizer, whole.tensors)
    assert changed.template != whole.template
    tokenizer = json.loads((copy / "tokenizer.json").read_text(encoding="utf-8"))
    tokenizer["added_tokens"] = tokenizer["added_tokens"][:-1]
    (copy / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    assert fingerprint(copy).tokenizer != whole.tokenizer


def reconfigure(folder, **settings):
    file = folder / "config.json"
    values = {**json.loads(file.read_text(encoding="utf-8")), **settings}
    file.write_text(json.dumps({key: value for key, value in values.items() if value is not ...}), encoding="utf-8")


@pytest.mark.parametrize(
    "setting",
    [
        {"rope_parameters": {"rope_theta": 1e6, "rope_type": "default"}},
        {"num_attention_heads": 2, "num_key_value_heads": 1},
        {"rms_norm_eps": 0.1},
        {"hidden_act": "gelu"},
        {"quantization_config": {"quant_method": "fp8"}},
    ],
)
def test_configuration_that_affects_arithmetic_changes_the_fingerprint(tiny_base, copy, setting):
    reconfigure(copy, **setting)
    whole, changed = fingerprint(tiny_base.path), fingerprint(copy)
    assert changed.config != whole.config
    assert changed.model_copy(update={"config": whole.config}) == whole


@pytest.mark.parametrize(
    "setting",
    [
        {"_name_or_path": "elsewhere", "transformers_version": "4.40.0", "use_cache": False},
        {"dtype": ..., "torch_dtype": "bfloat16"},
        {"pad_token_id": 1, "attention_bias": False, "head_type": None},
        {"rope_parameters": ..., "rope_theta": 10000, "rope_scaling": None},
    ],
)
def test_configuration_without_effect_on_arithmetic_keeps_the_fingerprint(tiny_base, copy, setting):
    reconfigure(copy, **setting)
    assert fingerprint(copy) == fingerprint(tiny_base.path)


def test_both_spellings_of_rope_scaling_have_one_fingerprint():
    from searchlora.models.fingerprint import hash_config

    old = {"rope_theta": 1e4, "rope_scaling": {"type": "linear", "factor": 2.0}}
    new = {"rope_parameters": {"rope_type": "linear", "factor": 2, "rope_theta": 10000.0}}
    assert hash_config(old) == hash_config(new) != hash_config({"rope_theta": 1e4})


def test_a_truncated_cached_fingerprint_is_recomputed(copy, tmp_path, monkeypatch):
    monkeypatch.setenv("SEARCHLORA_CACHE", str(tmp_path / "cache"))
    found = fingerprint(copy)
    (memo,) = (tmp_path / "cache" / "fingerprints").iterdir()
    memo.write_text(found.tensors[:10], encoding="utf-8")
    assert fingerprint(copy) == found
    assert [file.read_text(encoding="utf-8") for file in memo.parent.iterdir()] == [found.tensors]


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json"])
def test_a_base_is_hashed_again_whose_time_of_modification_was_set_back(copy, name, tmp_path, monkeypatch):
    monkeypatch.setenv("SEARCHLORA_CACHE", str(tmp_path / "cache"))
    found, file = fingerprint(copy), copy / name
    times, content = file.stat(), file.read_bytes()
    last = bytes([content[-1] ^ 1])
    changed = content[:-1] + last if name == "model.safetensors" else content.replace(b'"1.0"', b'"1.1"', 1)
    assert changed != content
    file.write_bytes(changed)
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert fingerprint(copy) != found


def test_fingerprints_work_without_a_cache_and_conversions_do_not(copy, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("", encoding="utf-8")
    monkeypatch.setenv("SEARCHLORA_CACHE", str(tmp_path / "file"))
    assert fingerprint(copy).tensors
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    with pytest.raises(BaseModelError, match=r"cache cannot be written.*SEARCHLORA_CACHE"):
        resolve(str(tmp_path / "model.gguf"))


@pytest.mark.parametrize(
    ("missing", "says"),
    [("config.json", "config.json"), ("model.safetensors", "safetensors"), ("tokenizer.json", "tok")],
)
def test_an_incomplete_folder_names_the_missing_files(copy, missing, says):
    (copy / missing).unlink()
    with pytest.raises(BaseModelError, match=f"holds no .*{says}"):
        resolve(str(copy))


@pytest.mark.parametrize(("name", "says"), [("nowhere", "no base model 'nowhere'"), ("x/y.gguf", "no such GGUF file")])
def test_a_missing_base_is_an_error(name, says):
    with pytest.raises(BaseModelError, match=says):
        resolve(name)


def test_an_unavailable_hub_id_is_one_clear_error(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(BaseModelError, match="'nobody/nothing' could not be downloaded from the hub"):
        resolve("nobody/nothing")


@pytest.fixture
def hub(tiny_base, tmp_path, monkeypatch):
    """A hub with a cached commit of `x/base` that records calls; `...` marks network access."""
    cached = shutil.copytree(tiny_base.path, tmp_path / "cached1")
    asked = []

    def snapshot(repo, *, revision, local_files_only, **_):
        asked.append((revision, "cache" if local_files_only else "network"))
        if local_files_only and revision in (None, "cached1"):
            return str(cached)
        if local_files_only:
            raise FileNotFoundError(repo)
        newest = tmp_path / (revision or "newest")
        shutil.copytree(tiny_base.path, newest, dirs_exist_ok=True)
        return str(newest)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    return cached, asked


def test_a_cached_base_is_not_updated_from_the_hub_and_another_revision_is_downloaded(hub):
    _, asked = hub
    assert resolve("x/base").revision == "cached1"
    assert resolve("x/base", ask_hub=False).revision == "cached1"
    assert asked == [(None, "cache")] * 2
    assert resolve("x/base", "other2").revision == "other2"
    assert asked[2:] == [("other2", "cache"), ("other2", "network")]
    with pytest.raises(BaseModelError, match="not in the cache"):
        resolve("x/base", "third3", ask_hub=False)
    assert ("third3", "network") not in asked


def test_an_interrupted_download_is_resumed(hub):
    cached, _ = hub
    index = {"weight_map": {"a": "model.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (cached / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    assert resolve("x/base").revision == "newest"
    (cached / "model.safetensors.index.json").unlink()
    (cached / "tokenizer.json").unlink()
    assert resolve("x/base").revision == "newest"


def test_a_damaged_gguf_file_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("SEARCHLORA_CACHE", str(tmp_path / "cache"))
    file = tmp_path / "model.gguf"
    file.write_bytes(b"GGUF" + bytes(100))
    with pytest.raises(BaseModelError, match="cannot be read as GGUF"):
        resolve(str(file))
    assert not list((tmp_path / "cache").rglob("config.json"))


def test_converting_a_gguf_file_prints_nothing(tiny_base, tmp_path, monkeypatch, capfd):
    """The file itself is stood in for by the tiny base; reading a real one is a slow test."""
    import transformers
    from transformers.utils import logging

    from searchlora.models.resolve import convert_gguf

    for kind in (transformers.AutoModelForCausalLM, transformers.AutoTokenizer):
        read = kind.from_pretrained
        monkeypatch.setattr(
            kind,
            "from_pretrained",
            lambda _, gguf_file, read=read, **settings: read(tiny_base.path, **settings),  # noqa: ARG005
        )
    logging.enable_progress_bar()
    convert_gguf(tmp_path / "model.gguf", tmp_path / "converted")
    assert capfd.readouterr() == ("", "")
    assert fingerprint(tmp_path / "converted") == fingerprint(tiny_base.path)


@pytest.mark.parametrize("name", ["~nobody-here/base", "x" * 5000, "nul\0byte", "two\nlines", "~nobody-here/base.GGUF"])
def test_a_name_that_is_not_a_path_is_one_clear_error(name):
    with pytest.raises(BaseModelError, match=r"is not a path|there is no") as error:
        resolve(name)
    assert str(error.value).isprintable()  # a name cannot forge a line of a log
    assert public_name(name) == name


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("config.json", b"{"),
        ("config.json", b"\xff\xfe"),
        ("config.json", b'{"a":' * 100_000),
        ("config.json", b'{"architectures": [5], "model_type": 7}'),
        ("config.json", b'{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "num_attention_heads": 0}'),
        ("model.safetensors", (1 << 62).to_bytes(8, "little") + b"{}"),
        ("model.safetensors", (2).to_bytes(8, "little") + b"[]"),
        ("model.safetensors", (7).to_bytes(8, "little") + b'{"a":1}'),
        ("model.safetensors", b"no"),
        ("tokenizer.json", b"[]"),
        ("tokenizer.json", b'{"model": {"type": "none"}}'),
        ("tokenizer_config.json", b"{"),
        ("chat_template.jinja", b"\xff"),
        ("model.safetensors.index.json", b'{"weight_map": {"a": "../../etc/passwd"}}'),
    ],
)
def test_odd_files_in_a_base_folder_are_clear_errors(copy, file, content):
    (copy / file).write_bytes(content)
    base = resolve(str(copy))
    for use in (lambda: fingerprint(copy), lambda: load_tokenizer(base), lambda: load_model(base)):
        try:
            use()
        except BaseModelError as error:
            assert str(copy) in str(error)


def test_folders_and_links_in_place_of_files_are_missing_files(copy):
    weights = copy / "model.safetensors"
    weights.unlink()
    for place in (weights.mkdir, lambda: weights.symlink_to(copy / "nowhere")):
        place()
        with pytest.raises(BaseModelError, match=r"holds no \*\.safetensors"):
            resolve(str(copy))
        if weights.is_dir():
            weights.rmdir()


def test_weights_that_lack_a_tensor_are_refused(copy):
    """transformers would fill it with random numbers and go on."""
    tensors = load_file(copy / "model.safetensors")
    name = next(name for name in tensors if "down_proj" in name)
    save_file({key: value for key, value in tensors.items() if key != name}, copy / "model.safetensors")
    with pytest.raises(BaseModelError, match=f"lack 1 tensors: {name}"):
        load_model(resolve(str(copy)))


def test_a_base_moved_while_in_use_has_its_own_error(copy):
    base = resolve(str(copy))
    copy.rename(copy.with_name("elsewhere"))
    for use in (lambda: fingerprint(copy), lambda: load_tokenizer(base), lambda: load_model(base)):
        with pytest.raises(BaseModelMoved, match="is not there any more"):
            use()


def test_pickles_in_a_base_folder_are_never_read(copy, monkeypatch):
    import pickle

    def refused(*_args, **_kwargs):
        raise AssertionError("a pickle was read")

    for name in ("pytorch_model.bin", "training_args.bin", "PYTORCH_MODEL.BIN", "optimizer.pt", "x.pkl"):
        (copy / name).write_bytes(b"cos\nsystem\n")
    for module, function in ((torch, "load"), (pickle, "load"), (pickle, "loads"), (pickle, "Unpickler")):
        monkeypatch.setattr(module, function, refused)
    base = resolve(str(copy))
    load_model(base)
    load_tokenizer(base)
    (copy / "adapter_config.json").write_text('{"base_model_name_or_path": "other/base", "peft_type": "LORA"}')
    (copy / "adapter_model.bin").write_bytes(b"cos\nsystem\n")
    for use in (lambda: resolve(str(copy)), lambda: load_model(base)):
        with pytest.raises(BaseModelError, match="the folder of an adapter"):
            use()


def test_files_beside_a_gguf_file_are_not_read(tmp_path, monkeypatch):
    monkeypatch.setenv("SEARCHLORA_CACHE", str(tmp_path / "cache"))
    asked = []

    def from_pretrained(folder, **_):
        asked.append(sorted(file.name for file in Path(folder).iterdir()))
        raise ValueError("stop")

    monkeypatch.setattr("transformers.AutoModelForCausalLM.from_pretrained", from_pretrained)
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    (tmp_path / "adapter_config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").write_bytes(b"cos\nsystem\n")
    with pytest.raises(BaseModelError, match="cannot be read as GGUF"):
        resolve(str(tmp_path / "model.gguf"))
    assert asked == [["model.gguf"]]


def test_a_loaded_base_is_frozen(tiny_base):
    for quantization in ("none", "nf4"):
        model = load_model(tiny_base, quantization=quantization)
        assert not any(value.requires_grad for value in model.parameters())
        assert not model.training


@pytest.mark.slow
@pytest.mark.parametrize("rows", [1, 3])
def test_the_output_layer_is_given_the_last_column_with_plain_strides(tiny_base, rows):
    """With others, PyTorch copies the weight of the output layer, which is half of a forward pass at 0.5B."""
    model = load_model(tiny_base, precision="fp32", device="cpu")
    given = []
    model.get_output_embeddings().register_forward_hook(lambda _, inputs, __: given.append(inputs[0]))
    model(input_ids=torch.ones(rows, 5, dtype=torch.long), use_cache=False, logits_to_keep=1)
    assert given[0].shape[:2] == (rows, 1)
    assert given[0].stride() == torch.empty(given[0].shape).stride()


def test_the_packaged_base_answers_and_is_converted_once():
    entry = CATALOGUE[SMALL]
    assert isinstance(entry, PackagedWeights)
    base = resolve(SMALL)
    before = (base.path / "model.safetensors").stat().st_mtime_ns
    assert resolve(SMALL).path == base.path
    assert (base.path / "model.safetensors").stat().st_mtime_ns == before
    assert "quantization_config" not in json.loads((base.path / "config.json").read_text(encoding="utf-8"))
    renderer = Renderer(load_tokenizer(base))
    ids = torch.tensor([renderer.prompt_ids([{"role": "user", "content": "What is the capital of France?"}])])
    answer = load_model(base).generate(ids, max_new_tokens=12, do_sample=False)[0, ids.shape[1] :]
    assert "Paris" in renderer.decode(answer.tolist())


@pytest.mark.slow
def test_the_packaged_base_has_the_fingerprint_recorded_in_adapters():
    """The conversion must be the same on every machine; otherwise adapters would not be portable."""
    found = fingerprint(resolve(SMALL).path)
    assert found.architecture == "LlamaForCausalLM"
    assert found.tensors == "5fdcab4789f1a995287ddba5c1bde4d37ad53acdd25c6b6f970c39292ddd6375"


def test_bf16_is_computed_in_fp32_where_the_processor_cannot_multiply_it(tiny_base, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setenv(SWITCH, "baseline")
        assert not multiplies_bf16()
    for able, expected in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr("searchlora.models.load.multiplies_bf16", lambda able=able: able)
        assert load_model(tiny_base, device="cpu").dtype == expected
        assert load_model(tiny_base, device="cpu", to_write=True).dtype == torch.bfloat16
        assert load_model(tiny_base, precision="fp32", device="cpu").dtype == torch.float32
    assert (computed_in("bf16", "cpu"), computed_in("bf16", "cuda")) == ("fp32", "bf16")
