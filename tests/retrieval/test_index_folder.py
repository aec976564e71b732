"""An index folder is refused when it does not belong to the corpus or the settings, or was damaged."""

from __future__ import annotations

import json
import shutil

import pytest

from searchlora.data.collection import CorpusFile
from searchlora.errors import DataError, StaleIndex
from searchlora.pipelines.index_build import build_index
from searchlora.pipelines.stages.bm25 import Bm25Settings
from searchlora.retrieval.index_folder import IndexFolder
from searchlora.retrieval.index_manifest import read_manifest


@pytest.fixture
def corpus(tmp_path):
    file = tmp_path / "my products.csv"
    file.write_text("sku,text\n1,red couch\n2,green tent\n")
    return file


@pytest.fixture
def folder(tmp_path, corpus):
    return build_index(CorpusFile(corpus, {"id": ("sku",)}), tmp_path / "index").folder


def test_every_file_is_in_the_manifest_with_its_hash(folder):
    manifest = read_manifest(folder)
    files = {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()}
    assert manifest.files.keys() == files - {"index.json"}
    assert manifest.corpus.columns == {"id": ("sku",)}
    IndexFolder(folder).verify()


def test_a_changed_byte_is_refused_whichever_file_has_it(folder):
    for name in read_manifest(folder).files:
        file = folder / name
        content = file.read_bytes()
        file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        with pytest.raises(StaleIndex, match=rf"the file {name} was changed after the index was built|it is damaged"):
            IndexFolder(folder).verify()
        file.write_bytes(content[:-1])
        with pytest.raises(StaleIndex, match=f"the file {name} was changed: it has"):
            IndexFolder(folder)
        file.unlink()
        with pytest.raises(StaleIndex, match=f"the file {name} is missing"):
            IndexFolder(folder)
        file.write_bytes(content)
    IndexFolder(folder)


def test_an_open_index_outlives_its_files(folder):
    opened = IndexFolder(folder)
    index = opened.bm25(Bm25Settings().keys())
    shutil.rmtree(folder)
    assert [hit.document for hit in index.search(["tent"], 3)[0]] == ["2"]
    assert opened.documents["2"].text == "green tent"


def test_verify_finds_files_that_are_not_in_the_manifest(folder):
    part = next(folder.glob("bm25-*"))
    for extra in (folder / "adapter_model.safetensors", part / "corpus.jsonl", folder / "dense" / "vectors.npy"):
        extra.parent.mkdir(exist_ok=True)
        extra.write_bytes(b"")
        with pytest.raises(StaleIndex, match=f"the file {extra.relative_to(folder)} does not belong to the index"):
            IndexFolder(folder).verify()
        extra.unlink()
    IndexFolder(folder).verify()


def test_a_changed_corpus_is_refused_with_the_command_that_builds_again(folder, corpus):
    times = corpus.stat()
    corpus.write_text("sku,text\n1,red couch\n2,green boot\n")
    with pytest.raises(StaleIndex) as refused:
        IndexFolder(folder, "--pipeline hybrid")
    command = f"searchlora index build '{corpus}' --out {folder} --map id=sku --pipeline hybrid"
    assert refused.value.fix == f"Build the index again: {command}"
    assert f"the corpus {corpus} was changed" in refused.value.what
    corpus.write_text("sku,text\n1,red couch\n2,green tent\n")
    assert corpus.stat().st_mtime_ns != times.st_mtime_ns
    IndexFolder(folder)  # touched, and the same
    corpus.unlink()
    IndexFolder(folder)  # not there, so nothing to compare with


def test_other_settings_are_refused_and_named(folder):
    with pytest.raises(StaleIndex) as refused:
        IndexFolder(folder).bm25(Bm25Settings(k1=1.2, stemmer="english").keys())
    assert "k1 is 0.9, and 1.2 in the pipeline; stemmer is None, and 'english' in the pipeline" in refused.value.what


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("{", "is damaged"),
        ("[" * 100_000, "is damaged"),
        ('{"schema_version": 1}', "has the schema version 1"),
        ('{"schema_version": 3}', "is damaged"),
        ('{"schema_version": 3, "documents": NaN}', "is damaged .*NaN is not a finite number"),
        (None, "is not an index"),
    ],
)
def test_a_manifest_that_cannot_be_read_is_refused(tmp_path, text, complaint):
    if text is not None:
        (tmp_path / "index.json").write_text(text)
    with pytest.raises(DataError, match=complaint):
        IndexFolder(tmp_path)


@pytest.mark.parametrize("name", ["../documents.jsonl", "/etc/passwd", "bm25-0123456789ab/../x", ".hidden"])
def test_no_name_in_a_manifest_leads_out_of_the_folder(folder, name):
    manifest = json.loads((folder / "index.json").read_text())
    manifest["files"] = {name: {"sha256": "0" * 64, "bytes": 1}}
    (folder / "index.json").write_text(json.dumps(manifest))
    with pytest.raises(DataError, match="is damaged"):
        IndexFolder(folder)
