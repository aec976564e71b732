"""For tests of plugins: tiny random models with real architectures and tokenizers, and a check of a stage."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from searchlora.pipelines.stages.stage import Stage, StageSettings
    from searchlora.records import Document, SearchContext

CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def build_tiny_base(folder: Path, seed: int = 0, hidden: int = 32) -> Path:
    """Save a random Llama with a byte-level tokenizer and a ChatML template; training it takes about a second.

    Args:
        folder: The folder to write.
        seed: Seed of the weights.
        hidden: Hidden size, a multiple of 4.

    Returns:
        The folder, for use as a base model.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    core = _byte_tokenizer("<|endoftext|>", "<|im_start|>", "<|im_end|>")
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=["<|im_start|>"],
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=core.get_vocab_size(),
        hidden_size=hidden,
        intermediate_size=hidden * 2,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
        eos_token_id=2,
        pad_token_id=0,
    )
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def build_tiny_encoder(folder: Path, *, seed: int = 0) -> Path:
    """Save a random BERT over bytes with mean pooling, as sentence-transformers does; it reads 62 bytes of a text.

    Args:
        folder: The folder to write.
        seed: Seed of the weights.

    Returns:
        The folder of the encoder, for use as a base model.
    """
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import Pooling, Transformer
    from tokenizers import processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    core = _byte_tokenizer("[PAD]", "[CLS]", "[SEP]")
    core.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]", model_max_length=64
    )
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=core.get_vocab_size(),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=64,
        initializer_range=1.0,  # large, so that the vectors of different texts differ
    )
    plain = folder / "plain"
    BertModel(config).save_pretrained(plain)
    tokenizer.save_pretrained(plain)
    modules = [Transformer(str(plain), max_seq_length=64), Pooling(16, pooling_mode="mean")]
    SentenceTransformer(modules=modules, device="cpu").save(str(folder / "encoder"))
    return folder / "encoder"


def _byte_tokenizer(*special: str) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    vocabulary = {token: index for index, token in enumerate([*special, *sorted(pre_tokenizers.ByteLevel.alphabet())])}
    core = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    return core


def check_stage(
    settings: StageSettings,
    searches: Sequence[SearchContext] = (),
    *,
    before: Sequence[StageSettings] = (),
    documents: Iterable[Document] = (),
    store: str | Path | None = None,
) -> list[SearchContext]:
    """Check what every kind of stage keeps: its settings, and the built stage on searches.

    Args:
        searches: With `id` and `query`. Without any, the stage is not built.
        before: Stages that are executed first, such as one that retrieves.
        documents: The corpus.
        store: The adapter store.

    Returns:
        The searches after the stage.

    Raises:
        AssertionError: naming the rule that the stage breaks.
        SearchloraError: if the stage cannot be built, or fails.

    Examples:
        >>> from searchlora.pipelines.stages.bm25 import Bm25Settings
        >>> from searchlora.records import Document
        >>> documents = [Document("d1", "red couch"), Document("d2", "green tent")]
        >>> (found,) = check_stage(Bm25Settings(k=1), [{"id": "q1", "query": "tent"}], documents=documents)
        >>> found["hits"][0].document
        'd2'
    """
    _check_settings(settings)
    if not searches:
        return []
    from searchlora.adapters.store import Store
    from searchlora.errors import EngineError
    from searchlora.inference.engines import Engines
    from searchlora.pipelines.corpus import open_corpus
    from searchlora.pipelines.pipeline import Pipeline
    from searchlora.pipelines.results import result_line
    from searchlora.pipelines.stages.stage import BuildContext, check_order

    check_order([*before, settings], "check_stage")
    stores = Store.of(store)
    context = BuildContext(stores, Engines(stores), open_corpus(documents))
    pipeline = Pipeline.build("check", [*before, settings], context)
    rows: list[Any] = []
    given = [dict(search) for search in searches]
    done = pipeline.execute(given, trace=rows.append)
    assert given == list(searches), "the stage changes the searches that it gets"
    assert [search["id"] for search in done] == [search["id"] for search in given], "searches in another order"
    label = pipeline.labels[-1]
    assert label.split() == [label], f"white space in the label {label!r}"
    assert rows[-1]["output"] or rows[-1]["flags"], "the stage changes nothing"
    assert [json.loads(result_line(row)) for row in rows] == rows, "what it reads and writes changes as JSON"

    def fails(_: Sequence[SearchContext]) -> list[SearchContext]:
        raise EngineError("check_stage lets it fail")

    skipping = replace(
        pipeline,
        stages=[*pipeline.stages[:-1], _calling(pipeline.stages[-1], fails)],
        settings=[*before, settings.model_copy(update={"on_failure": "skip"})],
    )
    for search in skipping.execute(given):
        assert label in search["skipped"], "a stage that fails is not skipped"
        assert not settings.produces_hits or "hits" in search, "`if_skipped` leaves no hits for later stages"
    return done


def _check_settings(settings: StageSettings) -> None:
    from pydantic import ValidationError

    from searchlora.files.yaml_text import parse_yaml

    kind, model = settings.kind, type(settings)
    example = re.match(r"`- (.+?)`: ", model.__doc__ or "")
    content = parse_yaml(example[1]) if example else {}
    assert list(content) == [kind], f"the docstring does not begin with an example: `- {kind}: {{…}}`: what it does"
    assert content[kind].keys() <= model.model_fields.keys(), "the example has keys that the stage does not have"
    undescribed = [name for name, field in model.model_fields.items() if not field.description]
    assert not undescribed, f"keys without a description: {undescribed}"
    assert json.loads(json.dumps(settings.identity())) == settings.identity(), "`identity` is not JSON"
    assert settings.slot_name, "`slot_name` is empty"
    try:
        model.model_validate({**settings.model_dump(), "no such key": 1})
    except ValidationError:
        return
    raise AssertionError("an unknown key is accepted")


def _calling(stage: Stage, call: Any) -> Stage:
    """A copy of a stage that is called in another way."""
    changed: Stage = object.__new__(type("Changed", (type(stage),), {"__call__": lambda _, searches: call(searches)}))
    changed.__dict__.update(stage.__dict__)
    return changed
