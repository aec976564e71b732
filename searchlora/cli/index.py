"""`searchlora index`: build an index folder, load a corpus into a search engine, and inspect both."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from searchlora.cli.options import (
    DeviceOption,
    JsonOption,
    MapOption,
    ParametersOption,
    StoreOption,
    argument,
    corpus_of,
    example,
    option,
    takes,
)

if TYPE_CHECKING:
    from searchlora.retrieval.engine_index import LoadedIndex
    from searchlora.retrieval.index_manifest import IndexManifest

IndexArgument = Annotated[Path, argument("INDEX", "Index folder, from `index build`.")]

app = typer.Typer(
    no_args_is_help=True,
    help="Build an index folder of a corpus, or load the corpus into a search engine.",
    rich_markup_mode=None,
)


class IndexedOptions(NamedTuple):
    """Options of the commands that index a corpus for pipelines."""

    columns: MapOption = []
    settings: ParametersOption = []
    store: StoreOption = None
    device: DeviceOption = None

    def given(self) -> dict[str, Any]:
        """The arguments of a verb; the device was chosen when the option was read."""
        return {"overrides": self.settings, "store": self.store}


@app.command(epilog=example("searchlora index build products.jsonl --out products-index --pipeline hybrid"))
@takes(IndexedOptions)
def build(
    corpus: Annotated[Path, argument("CORPUS", "Documents: rows with id, title and text.")],
    out: Annotated[Path, option("--out FOLDER", "Index folder to write.")],
    options: IndexedOptions,
    pipeline: Annotated[
        list[str],
        option("--pipeline PIPELINE", "Pipeline that will search the index: YAML file or built-in name; repeatable."),
    ] = ["bm25"],
    as_json: JsonOption = False,
) -> None:
    """Build an index folder: the documents of a corpus, with the BM25 matrices and vectors that pipelines search.

    Pass the folder as the corpus of `run`, `search`, an experiment or a pipeline file. An index that is there is
    replaced when the new one is complete, unless it has all that the pipelines need of the same corpus.
    """
    from searchlora.cli.terminal import print_json, progress_bars
    from searchlora.pipelines.index_build import build_index

    with progress_bars() as steps:
        source = corpus_of(corpus, options.columns)
        built = build_index(source, out, pipelines=pipeline, steps=steps, **options.given())
    if as_json:
        print_json({"index": str(out), "built": built.built, **_summary(built.manifest)})
    else:
        typer.echo(f"{'Wrote' if built.built else 'Up to date:'} {out}\n{_lines(built.manifest)}")


@app.command(epilog=example("searchlora index load products.jsonl --pipeline shop.yaml"))
@takes(IndexedOptions)
def load(
    corpus: Annotated[Path, argument("CORPUS", "Documents: rows with id, title and text, or an index folder.")],
    pipeline: Annotated[
        list[str],
        option("--pipeline PIPELINE", "Pipeline that will search the engine: YAML file or built-in name; repeatable."),
    ],
    options: IndexedOptions,
    as_json: JsonOption = False,
) -> None:
    """Load a corpus into the search engines that the text_search and vector_search stages of pipelines name.

    Documents are sent in batches, with their vectors for vector_search. The
    engine searches the old index until the new one is complete.
    """
    from searchlora.cli.terminal import print_json, progress_bars
    from searchlora.pipelines.engine_load import load_corpus

    with progress_bars() as steps:
        indexes = load_corpus(corpus_of(corpus, options.columns), pipelines=pipeline, steps=steps, **options.given())
    if as_json:
        print_json([_loaded(index) for index in indexes])
    else:
        typer.echo("\n".join(_loaded_lines(index) for index in indexes))


@app.command(epilog=example("searchlora index show products-index --json"))
def show(index: IndexArgument, as_json: JsonOption = False) -> None:
    """Print the corpus, the parts and the settings of an index."""
    from searchlora.cli.terminal import print_json
    from searchlora.retrieval.index_manifest import read_manifest

    manifest = read_manifest(index)
    if as_json:
        print_json(manifest.model_dump(mode="json"))
    else:
        typer.echo(f"corpus: {manifest.corpus.path} (sha256 {manifest.corpus.sha256})\n{_lines(manifest)}")


@app.command(epilog=example("searchlora index verify products-index"))
def verify(index: IndexArgument) -> None:
    """Verify the hash of every file of an index, and of its corpus if the file still exists."""
    from searchlora.cli.terminal import progress_bars
    from searchlora.retrieval.index_folder import IndexFolder

    opened = IndexFolder(index)
    with progress_bars() as steps:
        opened.verify(steps("Hashing"))
    typer.echo(f"{index}: {len(opened.manifest.files)} files are as they were built")


def _loaded(loaded: LoadedIndex) -> dict[str, Any]:
    """A loaded index without the hashes of its model."""
    record = loaded.record.model_dump(mode="json", exclude={"vectors": {"keys": {"encoder"}}})
    return {"index": loaded.index, "loaded": loaded.loaded, "generation": loaded.generation, **record}


def _loaded_lines(loaded: LoadedIndex) -> str:
    record, vectors = loaded.record, loaded.record.vectors
    lines = [f"{'Loaded' if loaded.loaded else 'Up to date:'} {loaded.index}", f"{record.documents:,} documents"]
    if record.text is not None:
        lines.append(f"full text: {', '.join(record.text.fields)} ({record.text.analyzer})")
    if vectors is not None:
        structure = "hnsw" if vectors.graph else "exact"
        lines.append(f"vectors of {vectors.adapter or vectors.model}: {vectors.dimensions} dimensions ({structure})")
    return "\n".join(lines)


def _summary(manifest: IndexManifest) -> dict[str, Any]:
    """The manifest without the hashes of files and models."""
    dumped = manifest.model_dump(mode="json", exclude={"files": True, "dense": {"__all__": {"keys": {"encoder"}}}})
    return {**dumped, "bytes": sum(file.bytes for file in manifest.files.values())}


def _lines(manifest: IndexManifest) -> str:
    lines = [f"{manifest.documents:,} documents, {sum(file.bytes for file in manifest.files.values()):,} bytes"]
    for part in manifest.bm25:
        keys = part.keys.model_dump(exclude_none=True)
        lines.append(f"BM25: {part.terms:,} terms ({', '.join(f'{name}={value}' for name, value in keys.items())})")
    for dense in manifest.dense:
        structures = ", ".join(["flat", *(structure.kind for structure in dense.structures)])
        shape = f"{dense.vectors:,} × {dense.dimensions}"
        lines.append(f"vectors of {dense.adapter or dense.model}: {shape} ({structures}; {dense.keys.precision})")
    return "\n".join(lines)
