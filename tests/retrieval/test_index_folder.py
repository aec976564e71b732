"""An index folder is refused when it does not belong to the corpus or the settings, or was damaged."""

from __future__ import annotations

import json
import os

import pytest

from searchlora.errors import DataError, StaleIndex
from searchlora.pipelines.index_build import build_index
from searchlora.pipelines.retrievers import bm25_keys
from searchlora.pipelines.stage_settings import Bm25Settings
from searchlora.retrieval import index_folder
from searchlora.retrieval.index_folder import IndexFolder, read_manifest


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SEARCHLORA_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def corpus(tmp_path):
    file = tmp_path / "my products.csv"
    file.write_text("sku,text\n1,red couch\n2,green tent\n")
    return file


@pytest.fixture
def folder(tmp_path, corpus):
    from searchlora.data.collection import CorpusFile

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
        file.write_bytes(bytes([content[0] ^ 1]) + content[1:])
        with pytest.raises(StaleIndex, match=f"the file {name} was changed after the index was built"):
            IndexFolder(folder)
        file.write_bytes(content[:-1])
        with pytest.raises(StaleIndex, match=f"the file {name} was changed: it has"):
            IndexFolder(folder)
        file.unlink()
        with pytest.raises(StaleIndex, match=f"the file {name} is missing"):
            IndexFolder(folder)
        file.write_bytes(content)
    IndexFolder(folder)


def test_verify_finds_what_kept_its_time_of_change(folder):
    file = folder / "documents.jsonl"
    IndexFolder(folder)
    times, content = file.stat(), file.read_bytes()
    with file.open("r+b") as out:
        out.write(content.replace(b"red", b"rot"))
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    opened = IndexFolder(folder)
    with pytest.raises(StaleIndex, match=r"documents\.jsonl was changed"):
        opened.verify()


def test_files_are_hashed_once(folder, monkeypatch):
    hashed = []
    real = index_folder.file_sha256
    monkeypatch.setattr(index_folder, "file_sha256", lambda file: hashed.append(file) or real(file))
    IndexFolder(folder)
    assert hashed == []  # the build has remembered them
    os.utime(folder / "documents.jsonl")
    IndexFolder(folder)
    IndexFolder(folder)
    assert hashed == [folder / "documents.jsonl"]


def test_a_file_that_changes_while_it_is_hashed_is_hashed_again(corpus, monkeypatch):
    hashed, contents = index_folder.file_sha256, iter(["sku,text\n1,red couch\n2,green sofa\n", "sku,text\n3,lamp\n"])

    def changes(file):
        digest = hashed(file)
        corpus.write_text(next(contents))
        return digest

    with monkeypatch.context() as patch:
        patch.setattr(index_folder, "file_sha256", changes)
        identity = index_folder.corpus_identity(corpus, {})
        assert index_folder.known_sha256(corpus) != identity.sha256
    assert index_folder.known_sha256(corpus) == hashed(corpus)
    assert identity.changed()


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
        IndexFolder(folder).bm25(bm25_keys(Bm25Settings(k1=1.2, stemmer="english")))
    assert "k1 is 0.9, and 1.2 in the pipeline; stemmer is None, and 'english' in the pipeline" in refused.value.what


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("{", "is damaged"),
        ("[" * 100_000, "is damaged"),
        ('{"schema_version": 1}', "has the schema version 1, this searchlora reads 2"),
        ('{"schema_version": 2}', "is damaged"),
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
