"""Optional dependencies ("extras") and the error that names the one to install.

The core install evaluates, keeps adapters, asks remote engines and runs pipelines without torch. Everything else
imports its libraries when it is called; where one is missing, the user is told which extra brings it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

from searchlora.errors import MissingExtra

#: Extra -> the top-level modules that it installs, as in `pyproject.toml`; the smallest extras first.
EXTRAS: dict[str, tuple[str, ...]] = {
    "report": ("matplotlib",),
    "local": ("torch", "peft", "accelerate", "bitsandbytes", "gguf"),
    "encoders": ("torch", "peft", "sentence_transformers", "faiss"),
    "ltr": ("lightgbm",),
    "postgres": ("psycopg",),
    "milvus": ("pymilvus", "milvus_lite", "grpc"),
    "opensearch": ("opensearchpy",),
    "serve": ("torch", "peft", "fastapi", "uvicorn", "prometheus_client", "starlette"),
    "train": ("torch", "peft", "accelerate", "bitsandbytes", "sentence_transformers", "matplotlib", "trl", "datasets"),
    "pyterrier": ("pyterrier", "pandas"),
    "langchain": ("langchain_core",),
    "llamaindex": ("llama_index",),
    "ray": ("ray",),
}


def missing_modules(extra: str) -> tuple[str, ...]:
    """The modules of an extra that are not installed; empty where the extra is complete.

    Raises:
        KeyError: for an extra that does not exist.
    """
    return tuple(module for module in EXTRAS[extra] if find_spec(module) is None)


def extra_for(module: str) -> str | None:
    """The smallest extra that installs a module, named by its full or top-level name; None for any other module.

    Examples:
        >>> extra_for("sentence_transformers.losses")
        'encoders'
        >>> extra_for("torch")
        'local'
        >>> extra_for("numpy") is None
        True
    """
    top = module.partition(".")[0]
    return next((extra for extra, modules in EXTRAS.items() if top in modules), None)


def missing_extra(error: ModuleNotFoundError) -> MissingExtra | None:
    """The error to show instead of a failed import; None where the module belongs to no extra."""
    extra = extra_for(error.name or "")
    if extra is None:
        return None
    return MissingExtra(
        f"this needs the module '{error.name}', which is not installed",
        fix=f"Install it with: pip install 'searchlora[{extra}]'.",
    )


def require(module: str) -> None:
    """Raise `MissingExtra` unless a module that an extra installs is there, without importing it."""
    if find_spec(module) is None and (missing := missing_extra(ModuleNotFoundError(name=module))) is not None:
        raise missing


@contextmanager
def importing() -> Iterator[None]:
    """Imports at the top of a module that a user imports, such as those of `searchlora.interop`.

    Raises:
        MissingExtra: instead of the failed import of a module that an extra installs.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise missing_extra(error) or error from None
