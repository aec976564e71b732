"""Small tokenizers with chat templates that behave as the published ones of well-known model families."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

_LLAMA_3 = """{{ bos_token }}
{%- if not date_string is defined %}{% set date_string = strftime_now('%d %b %Y') %}{% endif %}
{%- if messages[0]['role'] == 'system' %}{% set system = messages[0]['content'] | trim %}{% set turns = messages[1:] %}
{%- else %}{% set system = '' %}{% set turns = messages %}{% endif %}
{{- '<|start_header_id|>system<|end_header_id|>\n\nToday Date: ' + date_string + '\n\n' + system + '<|eot_id|>' }}
{%- for message in turns %}
{{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' + message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"""

_CHATML = """{%- for message in messages %}
{%- if loop.first and message['role'] != 'system' %}{{ '<|im_start|>system\nDEFAULT<|im_end|>\n' }}{% endif %}
{{- '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"""

_QWEN_3 = """{%- for message in messages %}
{%- set content = message['content'] %}
{%- if message['role'] == 'assistant' and '</think>' in content %}
{%- set content = content.split('</think>')[-1].lstrip('\n') %}{% endif %}
{{- '<|im_start|>' + message['role'] + '\n' + content + '<|im_end|>' + '\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}
{%- if enable_thinking is defined and enable_thinking is false %}{{ '<think>\n\n</think>\n\n' }}{% endif %}
{%- endif %}"""

_GEMMA_2 = """{{ bos_token }}
{%- if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}
{%- for message in messages %}
{%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Roles must alternate') }}{% endif %}
{%- set role = 'model' if message['role'] == 'assistant' else message['role'] %}
{{- '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"""

_GEMMA_3 = """{{ bos_token }}{% set turns = messages %}{% set prefix = '' %}
{%- if messages[0]['role'] == 'system' %}
{%- set prefix = messages[0]['content'] + '\n\n' %}{% set turns = messages[1:] %}{% endif %}
{%- for message in turns %}
{%- set role = 'model' if message['role'] == 'assistant' else message['role'] %}
{{- '<start_of_turn>' + role + '\n' + (prefix if loop.first else '') + message['content'] | trim + '<end_of_turn>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"""

_MISTRAL = """{{ bos_token }}{% for message in messages %}
{%- if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}
{%- elif message['role'] == 'assistant' %}{{ ' ' + message['content'] + eos_token }}
{%- else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}
{%- endfor %}"""

_PHI_3 = """{%- for message in messages %}
{{- '<|' + message['role'] + '|>\n' + message['content'] + '<|end|>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"""


@dataclass(frozen=True)
class Family:
    """A family of models: its special tokens (beginning and end of a text first), other added ones, the token that ends
    a turn, and the prompt for the system message SYSTEM and the user message USER."""

    tokenizer: Callable[[Family], Any]
    template: str
    special: tuple[str, ...]
    stop: str
    prompt: str
    added: tuple[str, ...] = ()

    def build(self) -> Any:
        """A tokenizer with the chat template."""
        from tokenizers import AddedToken

        tokenizer = self.tokenizer(self)
        tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in self.added])
        tokenizer.chat_template = self.template
        return tokenizer


def byte_level(family: Family) -> Any:
    """BPE over bytes, as of Llama 3, Qwen and SmolLM2."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("<", "|"), ("|", ">"), ("i", "m"), ("Ġ", "a"), ("e", "n"), ("en", "d")]
    tokens = [*family.special, *alphabet, *("".join(pair) for pair in merges)]
    core = Tokenizer(models.BPE(vocab={token: index for index, token in enumerate(tokens)}, merges=merges))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    return _wrapped(core, family)


def sentencepiece_bpe(family: Family) -> Any:
    """BPE over characters with byte fallback, as of Gemma, Mistral and Phi-3."""
    from tokenizers import Tokenizer, decoders, models, normalizers

    pieces = ["▁", "\n", *(chr(code) for code in range(33, 127)), *(f"<0x{byte:02X}>" for byte in range(256))]
    merges = [("<", "/"), ("[", "/"), ("e", "n"), ("en", "d"), ("▁", "a")]
    tokens = ["<unk>", *family.special, *pieces, *("".join(pair) for pair in merges)]
    core = Tokenizer(
        models.BPE(
            vocab=dict(zip(tokens, range(len(tokens)), strict=True)),
            merges=merges,
            unk_token="<unk>",
            byte_fallback=True,
            fuse_unk=True,
        )
    )
    core.normalizer = normalizers.Replace(" ", "▁")
    core.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    return _wrapped(core, family, unk_token="<unk>")


def unigram(family: Family) -> Any:
    """SentencePiece's unigram model, whose vocabulary holds the control tokens as pieces."""
    from tokenizers import Tokenizer, decoders, models, normalizers

    pieces = [(token, 0.0) for token in ("<unk>", *family.special)]
    pieces += [(char, -5.0) for char in ("▁", "\n", *(chr(code) for code in range(33, 127)))]
    core = Tokenizer(models.Unigram(pieces, unk_id=0))
    core.normalizer = normalizers.Replace(" ", "▁")
    core.decoder = decoders.Replace("▁", " ")
    return _wrapped(core, family, unk_token="<unk>")


def _wrapped(core: Any, family: Family, **more: str) -> Any:
    from transformers import PreTrainedTokenizerFast

    bos, eos, *others = family.special
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token=bos,
        eos_token=eos,
        pad_token=eos,
        additional_special_tokens=[*others, family.stop] if family.stop != eos else others,
        **more,
    )


_CHATML_PROMPT = "<|im_start|>system\nSYSTEM<|im_end|>\n<|im_start|>user\nUSER<|im_end|>\n<|im_start|>assistant\n"
_CHATML_TOKENS = ("<|endoftext|>", "<|end|>", "<|im_start|>", "<|im_end|>")

FAMILIES = {
    "llama-3": Family(
        byte_level,
        _LLAMA_3,
        ("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
        "<|eot_id|>",
        "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nToday Date: 26 Jul 2024\n\nSYSTEM<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nUSER<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
    ),
    "qwen2.5": Family(
        byte_level, _CHATML.replace("DEFAULT", "You are Qwen."), _CHATML_TOKENS, "<|im_end|>", _CHATML_PROMPT
    ),
    "qwen3": Family(
        byte_level, _QWEN_3, _CHATML_TOKENS, "<|im_end|>", _CHATML_PROMPT, added=("<think>", "</think>", "<tool_call>")
    ),
    "gemma-2": Family(
        sentencepiece_bpe,
        _GEMMA_2,
        ("<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"),
        "<end_of_turn>",
        "<bos><start_of_turn>user\nSYSTEM\n\nUSER<end_of_turn>\n<start_of_turn>model\n",
        added=("<unused7>", "\n\n"),
    ),
    "gemma-3": Family(
        sentencepiece_bpe,
        _GEMMA_3,
        ("<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"),
        "<end_of_turn>",
        "<bos><start_of_turn>user\nSYSTEM\n\nUSER<end_of_turn>\n<start_of_turn>model\n",
        added=("<start_of_image>",),
    ),
    "mistral": Family(
        sentencepiece_bpe, _MISTRAL, ("<s>", "</s>", "[INST]", "[/INST]"), "</s>", "<s>[INST] SYSTEM\n\nUSER [/INST]"
    ),
    "phi-3": Family(
        sentencepiece_bpe,
        _PHI_3,
        ("<s>", "<|endoftext|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"),
        "<|end|>",
        "<|system|>\nSYSTEM<|end|>\n<|user|>\nUSER<|end|>\n<|assistant|>\n",
    ),
    "unigram": Family(unigram, _CHATML, _CHATML_TOKENS, "<|im_end|>", _CHATML_PROMPT),
}
