"""An index folder is refused when it does not belong to the corpus or the settings, or was damaged."""

from __future__ import annotations

import hashlib
import json
import os
import shutil

import numpy as np
import pytest

from searchlora.errors import DataError, StaleIndex
from searchlora.pipelines.index_build import build_index
from searchlora.pipelines.stages.bm25 import Bm25Settings
from searchlora.retrieval import index_manifest
from searchlora.retrieval.index_folder import IndexFolder
from searchlora.retrieval.index_manifest import read_manifest


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


def overwrite(file, old, new):
    """Change a file in place, and set its time of modification back."""
    times, content = file.stat(), file.read_bytes()
    with file.open("r+b") as out:
        out.write(content.replace(old, new))
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))


def test_a_change_is_found_whose_time_of_modification_was_set_back(folder, corpus):
    opened = IndexFolder(folder)
    overwrite(folder / "documents.jsonl", b"red", b"rot")
    with pytest.raises(StaleIndex, match=r"documents\.jsonl was changed"):
        IndexFolder(folder)
    with pytest.raises(StaleIndex, match=r"documents\.jsonl was changed"):
        opened.verify()
    overwrite(folder / "documents.jsonl", b"rot", b"red")
    IndexFolder(folder)
    overwrite(corpus, b"red", b"rot")
    with pytest.raises(StaleIndex, match=r"the corpus .* was changed"):
        IndexFolder(folder)


def test_a_cached_hash_that_somebody_wrote_is_not_believed(folder, tmp_path):
    (caches,) = (tmp_path / "cache").glob("hashes")
    for text in ("0" * 64, "é" * 64, ""):
        for cached in caches.iterdir():
            cached.write_text(text)
        IndexFolder(folder)


def test_a_file_that_is_cut_off_or_written_to_in_use_is_refused_and_does_not_kill(folder):
    for name in read_manifest(folder).files:
        file = folder / name
        content = file.read_bytes()
        opened = IndexFolder(folder)
        index = opened.bm25(Bm25Settings().keys())
        os.truncate(file, 10)
        for use in (
            lambda index=index: index.search(["tent"], 3),
            lambda index=index: index.contributions("tent", "2"),
            lambda opened=opened: opened.documents["2"],
            lambda opened=opened: "2" in opened.documents,
            lambda opened=opened: list(opened.documents),
            lambda opened=opened: list(opened.documents.in_order()),
        ):
            with pytest.raises(StaleIndex, match=f"the file {name} was changed in place while the index was in use"):
                use()
        file.write_bytes(content)
        with pytest.raises(StaleIndex, match="was changed in place"):
            index.search(["tent"], 3)
        assert [hit.document for hit in IndexFolder(folder).bm25(index_keys()).search(["tent"], 3)[0]] == ["2"]


def test_an_open_index_outlives_its_files(folder):
    opened = IndexFolder(folder)
    index = opened.bm25(index_keys())
    shutil.rmtree(folder)
    assert [hit.document for hit in index.search(["tent"], 3)[0]] == ["2"]
    assert opened.documents["2"].text == "green tent"


def index_keys():
    return Bm25Settings().keys()


def test_verify_finds_files_that_are_not_in_the_manifest(folder):
    part = next(folder.glob("bm25-*"))
    for extra in (folder / "adapter_model.safetensors", part / "params.index.json", folder / "dense" / "vectors.npy"):
        extra.parent.mkdir(exist_ok=True)
        extra.write_bytes(b"")
        with pytest.raises(StaleIndex, match=f"the file {extra.relative_to(folder)} does not belong to the index"):
            IndexFolder(folder).verify()
        extra.unlink()
    IndexFolder(folder).verify()


def test_a_file_that_is_read_must_be_in_the_manifest(folder):
    manifest = json.loads((folder / "index.json").read_text())
    for name in manifest["files"]:
        files = {other: entry for other, entry in manifest["files"].items() if other != name}
        (folder / "index.json").write_text(json.dumps({**manifest, "files": files}))
        with pytest.raises(DataError, match=f"is damaged .*its list of files lacks {name}"):
            IndexFolder(folder)


ODD_ARRAYS = [
    np.zeros(0, np.int64),
    np.array([0, 2**62, 3]),
    np.array([-5, 0, 9]),
    np.array([9, 0, 9]),
    np.full(3, 10**6, np.int32),
    np.full(3, np.nan, np.float32),
    np.full((3, 2), np.inf),
    np.array(["a", "b", "c"]),
]


@pytest.mark.parametrize("mended", ["arrays", "bytes"])
def test_what_makes_no_sense_is_refused_although_its_hash_is_that_of_the_manifest(folder, mended):
    refused = 0
    for name in read_manifest(folder).files:
        content = (folder / name).read_bytes()
        for array in (
            ODD_ARRAYS if mended == "arrays" else [b"", b"x", content[:-1], content[:-9], b"\xff" + content[1:]]
        ):
            if mended == "arrays":
                np.save(folder / "odd.npy", array)
                (folder / "odd.npy").replace(folder / name)
            else:
                (folder / name).write_bytes(array)
            mend(folder, name)
            try:
                opened = IndexFolder(folder)
                hits = opened.bm25(index_keys()).search(["tent"], 3)[0]
                assert len([opened.documents[hit.document] for hit in hits]) <= 2
            except DataError:
                refused += 1
        (folder / name).write_bytes(content)
        mend(folder, name)
    assert refused > 40
    assert IndexFolder(folder).bm25(index_keys()).search(["tent"], 3)[0][0].document == "2"


def mend(folder, name):
    """Write the size and the hash of a file into the manifest."""
    manifest, content = json.loads((folder / "index.json").read_text()), (folder / name).read_bytes()
    manifest["files"][name] = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    (folder / "index.json").write_text(json.dumps(manifest))


def test_files_are_hashed_once(folder, monkeypatch):
    hashed = []
    real = index_manifest.file_sha256
    monkeypatch.setattr(index_manifest, "file_sha256", lambda file: hashed.append(file) or real(file))
    IndexFolder(folder)
    assert hashed == []  # the build has remembered them
    os.utime(folder / "documents.jsonl")
    IndexFolder(folder)
    IndexFolder(folder)
    assert hashed == [folder / "documents.jsonl"]


def test_a_file_that_changes_while_it_is_hashed_is_hashed_again(corpus, monkeypatch):
    hashed, contents = index_manifest.file_sha256, iter(["sku,text\n1,red couch\n2,green sofa\n", "sku,text\n3,lamp\n"])

    def changes(file):
        digest = hashed(file)
        corpus.write_text(next(contents))
        return digest

    with monkeypatch.context() as patch:
        patch.setattr(index_manifest, "file_sha256", changes)
        identity = index_manifest.corpus_identity(corpus, {})
        assert index_manifest.known_sha256(corpus) != identity.sha256
    assert index_manifest.known_sha256(corpus) == hashed(corpus)
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
        IndexFolder(folder).bm25(Bm25Settings(k1=1.2, stemmer="english").keys())
    assert "k1 is 0.9, and 1.2 in the pipeline; stemmer is None, and 'english' in the pipeline" in refused.value.what


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("{", "is damaged"),
        ("[" * 100_000, "is damaged"),
        ('{"schema_version": 1}', "has the schema version 1, this searchlora reads 2"),
        ('{"schema_version": 2}', "is damaged"),
        ('{"schema_version": 2, "documents": NaN}', "is damaged .*NaN is not a finite number"),
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
