"""Architectures: whether adapters share batches, and how exactly an engine computes what PEFT computes.

    python -m benchmarks.architectures             about a minute
    python -m benchmarks.architectures --table     the table of the page `docs/how-to/choose-an-engine.md`

A random model of two to four layers of each architecture, in fp32 on the CPU, with two random adapters of rank 4 on
all linear layers (of a mixture of experts, on its attention), in one batch with the bare base. Choices and greedy
answers are compared with PEFT's model of each adapter alone. The windows are shorter than most prompts. `equal bits`
compares each request alone with the same request in the batch, under `batch_invariant: true`.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM

from benchmarks.common import RESULTS, parser, save_figures
from searchlora.eval.formatting import markdown_table
from searchlora.inference.batched.forward import check_batching
from searchlora.inference.batched.model_runner import batched_core
from searchlora.inference.scheduling.engine_core import EngineCore
from searchlora.inference.scheduling.requests import GenerateRequest, Limits, ScoreRequest
from searchlora.inference.sequential import score_sequences, sequential_core
from searchlora.inference.settings import LocalSettings
from searchlora.models.experts import is_mixture_of_experts

_SIZES = {
    **{"vocab_size": 260, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "pad_token_id": 0},
    **{"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 256},
}
_MIXED = {"sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"]}

#: Name -> transformers' kind of model, and settings.
ARCHITECTURES: dict[str, tuple[str, dict[str, Any]]] = {
    "Qwen2.5": ("qwen2", {}),
    "Qwen3": ("qwen3", {}),
    "Llama 3": ("llama", {"rope_theta": 500_000.0}),
    "Gemma 1": ("gemma", {}),
    "Gemma 2": ("gemma2", _MIXED),
    "Gemma 3 (text)": ("gemma3_text", _MIXED),
    "Mistral v0.1 (window)": ("mistral", {"sliding_window": 8}),
    "Mistral v0.3": ("mistral", {"sliding_window": None}),
    "Phi-3 (window)": ("phi3", {"sliding_window": 8}),
    "Phi-4": ("phi3", {"sliding_window": None}),
    "SmolLM3": ("smollm3", {"num_hidden_layers": 4}),
    "OLMo 2": ("olmo2", {}),
    "Granite": ("granite", {"logits_scaling": 8.0}),
    "Mixtral": ("mixtral", {"num_local_experts": 4}),
    "Qwen3-MoE": ("qwen3_moe", {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}),
}
_ADAPTERS = (None, "a", "b")
_PROMPTS = [tuple(3 + (7 * row + 11 * place) % 250 for place in range(5 + 4 * row)) for row in range(9)]
_CHOICES = ((5, 6, 2), (5, 7, 8, 2), (9, 2))
_STOP, _TOKENS = 2, 8


def main() -> None:
    arguments = parser("architectures")
    arguments.add_argument("--table", action="store_true", help="print the table of the saved results")
    if arguments.parse_args().table:
        print(table(json.loads((RESULTS / "architectures.json").read_text(encoding="utf-8"))["architectures"]))
        return
    measured = []
    for name in ARCHITECTURES:
        measured.append(measure(name))
        print(table(measured[-1:]).splitlines()[-1], flush=True)
    print(table(measured))
    save_figures("architectures", [], [], {"architectures": measured})


def measure(name: str) -> dict[str, Any]:
    """How one architecture is computed."""
    with tempfile.TemporaryDirectory() as place, torch.inference_mode(False):
        folders = {adapter: Path(place) / adapter for adapter in _ADAPTERS if adapter}
        for seed, folder in enumerate(folders.values()):
            _save_adapter(_model(name), folder, seed)
        is_batched = check_batching(_model(name)).shares_batches
        answers, scores = _run(_core(name, folders, is_batched, invariant=False))
        exact, largest = 0, 0.0
        for row, prompt in enumerate(_PROMPTS):
            adapter = _ADAPTERS[row % 3]
            model = PeftModel.from_pretrained(_model(name), folders[adapter]).eval() if adapter else _model(name)
            exact += answers[row] == _greedy(model, prompt)
            wanted = score_sequences(model, prompt, _CHOICES, len(_CHOICES))
            pairs = zip(scores[row], wanted.log_probabilities, strict=True)
            largest = max(largest, *(abs(found - own) for found, own in pairs))
        _model(name).config.save_pretrained(place)
        is_mixture = is_mixture_of_experts(Path(place))
        core = _core(name, folders, is_batched and not is_mixture, invariant=True)
        together = _run(core)
        alone = [_run(core, [row]) for row in range(len(_PROMPTS))]
        equal = sum((together[0][row], together[1][row]) == (alone[row][0][0], alone[row][1][0]) for row in range(9))
    return {
        "name": name,
        "batched": is_batched,
        "batched_if_invariant": is_batched and not is_mixture,
        "greedy_equal": exact,
        "max_difference": largest,
        "bits_equal": equal,
        "n": len(_PROMPTS),
    }


def table(measured: list[dict[str, Any]]) -> str:
    """The table of the page, in Markdown."""
    rows = [
        [
            row["name"],
            _batching(row),
            f"{row['greedy_equal']} of {row['n']}",
            "≤ 1e-5" if row["max_difference"] <= 1e-5 else f"{row['max_difference']:.1e}",
            "yes" if row["bits_equal"] == row["n"] else f"no ({row['bits_equal']} of {row['n']})",
        ]
        for row in measured
    ]
    header = [
        "architecture",
        "adapters",
        "greedy answers equal to PEFT's",
        "largest difference of a score",
        "equal bits",
    ]
    return markdown_table(header, rows)


def _batching(row: dict[str, Any]) -> str:
    if row["batched"] != row["batched_if_invariant"]:
        return "in one batch; one at a time with `batch_invariant`"
    return "in one batch" if row["batched"] else "one at a time"


def _model(name: str) -> Any:
    kind, settings = ARCHITECTURES[name]
    torch.manual_seed(1)
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **{**_SIZES, **settings})).eval()


def _save_adapter(model: Any, folder: Path, seed: int) -> None:
    # PEFT's all-linear includes the parameters of experts, which are not linear layers.
    has_experts = any(path.endswith("experts") for path, _ in model.named_modules())
    targets = ["q_proj", "k_proj", "v_proj", "o_proj"] if has_experts else "all-linear"
    adapted = get_peft_model(model, LoraConfig(r=4, lora_alpha=8, target_modules=targets))
    generator = torch.Generator().manual_seed(seed)
    for key, value in adapted.named_parameters():
        if "lora_" in key:
            value.data = torch.randn(value.shape, generator=generator) * 0.3
    adapted.save_pretrained(str(folder))


def _core(name: str, folders: dict[str, Path], is_batched: bool, *, invariant: bool) -> EngineCore:
    settings = LocalSettings(max_loras=2, prefix_tokens=0, batch_invariant=invariant)
    limits, model = Limits(16, 8192, 512, 64), _model(name).requires_grad_(False)

    def fetch(adapter: str) -> Any:
        return nullcontext(folders[adapter])

    if is_batched:
        return batched_core(model, _STOP, fetch, settings, limits)
    return sequential_core(model, _STOP, 0, fetch, settings, limits, None)


def _run(core: EngineCore, rows: list[int] | None = None) -> tuple[list[list[int]], list[tuple[float, ...]]]:
    chosen = [(_PROMPTS[row], _ADAPTERS[row % 3]) for row in (range(len(_PROMPTS)) if rows is None else rows)]
    answers = [GenerateRequest(ids=prompt, adapter=adapter, max_new_tokens=_TOKENS) for prompt, adapter in chosen]
    scores = [ScoreRequest(ids=prompt, adapter=adapter, choices=_CHOICES) for prompt, adapter in chosen]
    core.finish([*answers, *scores])
    return [each.result.result() for each in answers], [each.result.result().log_probabilities for each in scores]


def _greedy(model: Callable[..., Any], prompt: tuple[int, ...]) -> list[int]:
    answer: list[int] = []
    with torch.inference_mode():
        while len(answer) < _TOKENS and answer[-1:] != [_STOP]:
            answer.append(int(model(input_ids=torch.tensor([[*prompt, *answer]])).logits[0, -1].argmax()))
    return answer


if __name__ == "__main__":
    main()
