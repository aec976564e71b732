"""Builders that the tests of several packages share: tasks, tiny adapters and encoders, manifests."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from searchlora.adapters.attach import new_adapter, save_adapter
from searchlora.adapters.golden import prompt_hash
from searchlora.adapters.manifest import Base, Dataset, ManifestDraft, Precision
from searchlora.adapters.operations import store_adapter
from searchlora.adapters.peft_folder import WEIGHTS
from searchlora.adapters.store import Store
from searchlora.adapters.stored import StoredAdapter
from searchlora.data.building import build
from searchlora.eval.evaluation import Evaluation
from searchlora.inference.constrained import Constraints
from searchlora.models.fingerprint import fingerprint
from searchlora.models.load import load_encoder, load_model, load_tokenizer
from searchlora.models.resolve import BaseModel, resolve
from searchlora.outputs import FreeText, OutputSpec
from searchlora.progress import Progress, silent
from searchlora.recipe import EncoderRecipe, Recipe, load_encoder_recipe, load_recipe, parse_recipe
from searchlora.records import Document, Record
from searchlora.retrieval.encoder import TextEncoder
from searchlora.retrieval.encoding import TextEncoding
from searchlora.retrieval.vector_file import DistinctTexts, write_vectors
from searchlora.task import EncoderTask, GenerationTask

PROMPT = "{% block system %}Echo the query.{% endblock %}{% block user %}Query: {{ query }}{% endblock %}"


class EchoTask(GenerationTask):
    """Answers with the query itself."""

    name = "echo"
    reads: Mapping[str, str] = {"query": "query"}
    writes = "query"
    formats: Mapping[str, Any] = {}

    def target(self, record: Record) -> str:
        return str(record["query"])

    def output(self, record: Record) -> OutputSpec:
        del record
        return FreeText()

    def evaluate(self, inputs: Any) -> Any:
        raise NotImplementedError


def echo_task(folder: Path, prompt: str = PROMPT) -> EchoTask:
    """The task in a folder of its own, so that a test may change its template."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "prompt.jinja").write_text(prompt, encoding="utf-8")
    records = [{"id": f"e{n}", "group": f"e{n}", "query": query} for n, query in enumerate(("red shoes", "tents"))]
    write_jsonl(folder / "examples.jsonl", records)
    return EchoTask(folder)


def recipe_for(base: BaseModel, **lora: Any) -> Recipe:
    """An unquantised fp32 recipe of rank 4; `lora` is laid over it."""
    values = {"r": 4, "alpha": 8, **lora}
    return parse_recipe({"base": base.name, "method": "lora", "precision": "fp32", "lora": values})


def train_a_little(model: Any, steps: int = 3) -> Any:
    """A few steps of AdamW on random tokens; returns the model in eval mode."""
    import torch

    torch.manual_seed(1)
    ids = torch.randint(3, 200, (2, 24))
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    model.train()
    for _ in range(steps):
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


def trained_adapter_folder(base: BaseModel, folder: Path, steps: int = 3, seed: int = 0, **lora: Any) -> Path:
    """A plain PEFT folder with an adapter trained for `steps` steps; 0 leaves its delta zero."""
    import torch

    recipe = recipe_for(base, **lora)
    torch.manual_seed(seed)
    model = new_adapter(load_model(base, precision="fp32"), recipe)
    save_adapter(train_a_little(model, steps), folder, recipe)
    return folder


def draft_for(base: BaseModel, task: GenerationTask, **values: Any) -> ManifestDraft:
    """A draft without golden logits, for tests of the store alone."""
    recipe = recipe_for(base)
    return ManifestDraft(
        task=task.name,
        task_version=task.version,
        base=Base(name=base.name, fingerprint=fingerprint(base.path)),
        recipe=recipe.model_dump(),
        trained=Precision(quantization="none", precision="fp32"),
        dataset=Dataset(fingerprint="d" * 64, card={"rows": 12}),
        prompt_hash=prompt_hash(task),
        metrics={"loss": 1.25},
        training={"seconds": 1.5, "parameters_trained": 1234},
        **values,
    )


def copy_of(base: BaseModel, folder: Path) -> BaseModel:
    """The same base in another folder, to be changed by a test."""
    shutil.copytree(base.path, folder)
    return resolve(str(folder))


def edit_weights(folder: Path, change: Any) -> None:
    """Rewrite an adapter's tensors with what `change` (a dictionary to a dictionary) makes of them."""
    from safetensors.torch import load_file, save_file

    file = folder / WEIGHTS
    tensors = change(load_file(file))
    file.unlink()
    save_file(tensors, file)


def random_adapter_folder(
    base: BaseModel, folder: Path, seed: int, overrides: tuple[str, ...] = (), *, spread: float = 0.3
) -> tuple[Path, Recipe]:
    """A plain PEFT folder whose weights have this standard deviation, and its recipe."""
    import torch

    recipe = load_recipe({}, overrides=[f"base={base.name}", "method=lora", "lora.r=4", *overrides])
    model = new_adapter(load_model(base, precision="fp32"), recipe)
    generator = torch.Generator().manual_seed(seed)
    for name, value in model.named_parameters():
        if "lora_" in name:
            value.data = torch.randn(value.shape, generator=generator) * spread
    save_adapter(model, folder, recipe)
    return folder, recipe


def random_adapter(
    store: Store, name: str, task: GenerationTask, base: BaseModel, folder: Path, seed: int
) -> StoredAdapter:
    """A stored and checked adapter with random weights."""
    made, recipe = random_adapter_folder(base, folder, seed)
    return store_adapter(store, name, made, task=task, recipe=recipe, base=base)


class FirstWord(GenerationTask):
    name = "first-word"
    reads: ClassVar = {"text": "query"}
    writes = "word"
    formats: ClassVar = {}

    def target(self, record):
        return record["text"].split()[0]

    def output(self, record):
        del record
        return FreeText()

    def evaluate(self, inputs):
        right = {r["id"]: float(o == self.target(r)) for r, o in zip(inputs.records, inputs.outputs, strict=True)}
        return Evaluation("accuracy", {"accuracy": right}, inputs.clusters)


def first_word(folder: Path) -> FirstWord:
    """The task, its files written into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "prompt.jinja").write_text("{% block user %}\n{{ text }}\n{% endblock %}\n", encoding="utf-8")
    (folder / "recipe.yaml").write_text("{}\n", encoding="utf-8")
    write_jsonl(folder / "examples.jsonl", [{"id": "e", "group": "e", "text": "tent boot"}])
    (folder / "record.schema.json").write_text('{"type": "object", "properties": {"text": {}}}', encoding="utf-8")
    return FirstWord(folder)


def word_records(count: int) -> list[dict[str, str]]:
    words = ("tent", "boot", "stove", "rope", "lamp")
    return [
        {"id": f"r{n}", "group": f"g{n}", "text": f"{words[n % 5]} {words[n // 5 % 5]} {'x' * (n % 7)}".strip()}
        for n in range(count)
    ]


class Shout(EncoderTask):
    name = "shout"
    formats: ClassVar = {}

    def query(self, record):
        return record["text"]

    def positives(self, record):
        return () if "label" in record else (record["text"].upper(),)

    def negatives(self, record):
        return record.get("negatives", ())

    def label(self, record):
        return record.get("label")

    def evaluate(self, inputs):
        raise NotImplementedError


def shout(folder: Path) -> Shout:
    """The task, its files written into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "recipe.yaml").write_text("{}\n", encoding="utf-8")
    records = [{"id": f"e{n}", "group": f"e{n}", "text": text} for n, text in enumerate(("red tent", "wool socks"))]
    write_jsonl(folder / "examples.jsonl", records)
    return Shout(folder)


def encoder_recipe_for(base: BaseModel, *overrides: str) -> EncoderRecipe:
    return load_encoder_recipe({}, overrides=[f"base={base.name}", "lora.r=4", *overrides])


def random_encoder_folder(base: BaseModel, folder: Path, *, seed: int = 0, scale: float = 0.5) -> Path:
    """A plain PEFT folder with random weights; a scale of 0 leaves its delta zero."""
    import torch

    recipe = encoder_recipe_for(base)
    model = new_adapter(load_encoder(base, device="cpu"), recipe)
    generator = torch.Generator().manual_seed(seed)
    for name, value in model.named_parameters():
        if "lora_" in name:
            value.data = torch.randn(value.shape, generator=generator) * scale
    save_adapter(model, folder, recipe)
    return folder


def random_encoder_adapter(
    store: Store, name: str, task: EncoderTask, base: BaseModel, folder: Path, *, seed: int = 0
) -> StoredAdapter:
    """A stored and checked adapter with random weights."""
    made = random_encoder_folder(base, folder, seed=seed)
    return store_adapter(store, name, made, task=task, recipe=encoder_recipe_for(base), base=base)


def write_jsonl(file: Path, rows: Iterable[Any]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


def read_jsonl(file: Path) -> list[Any]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def native_dataset(task: Any, folder: Path, rows: Iterable[Any], **options: Any) -> Path:
    """The folder of a dataset of rows in the task's own format, which are written beside it."""
    build(task, write_jsonl(folder.with_name(f"{folder.name}.jsonl"), rows), format="native", out=folder, **options)
    return folder


def edit_json(file: Path, change: Callable[[Any], object]) -> None:
    """Change the value of a JSON file, also of a stored one, which is read-only."""
    values = json.loads(file.read_text(encoding="utf-8"))
    change(values)
    file.chmod(0o644)
    file.write_text(json.dumps(values), encoding="utf-8")


def admission(base: BaseModel, spec: OutputSpec) -> Callable[[str], bool]:
    """Whether the grammar of an output, in the tokens of a base, admits a text as a whole answer."""
    tokenizer = load_tokenizer(base)
    stop = tokenizer.convert_tokens_to_ids("<|im_end|>")
    constraints = Constraints(tokenizer, len(tokenizer), stop)

    def admits(text: str) -> bool:
        (matcher,) = constraints.matchers([spec.grammar])
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        return bool(matcher.validate_tokens([*ids, stop]) == len(ids) + 1)

    return admits


def encode_to(
    folder: Path, documents: Sequence[Document], encoder: TextEncoder, progress: Progress = silent, **options: Any
) -> float:
    """Write the vectors of documents into a folder; returns the length of the longest."""
    texts = DistinctTexts.of(documents)
    return write_vectors(folder, texts, documents.__getitem__, encoder, TextEncoding(**options), progress)
