"""`searchlora doctor`: what this machine can run, and the command that adds what is missing."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Literal

import typer

from searchlora.cli.options import JsonOption, StoreOption, option

_DEFAULT_BASE = "smollm2-135m-instruct-q4_1"
_MINIMUM_PYTHON = (3, 11)
_CPU_FEATURES = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")
_SERVER_SECONDS = 5.0


@dataclass(frozen=True)
class Check:
    """The result of one check."""

    name: str
    status: Literal["ok", "missing", "broken"]
    detail: str
    fix: str = ""  # the command or action that changes the status; empty if there is none
    required: bool = False


def doctor(
    server: Annotated[str | None, option("--server URL", "Check that this server answers and list its models.")] = None,
    api_key_env: Annotated[
        str | None, option("--api-key-env NAME", "Environment variable with the server's key.")
    ] = None,
    base: Annotated[
        str | None,
        option("--base MODEL", f"Base model to check, with the memory that it needs. Default: {_DEFAULT_BASE}."),
    ] = None,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check the installation: Python, packages, extras, CPU kernels, GPU, 4-bit, vLLM, base model, store, server.

    With --base it also prints the memory that this base model needs for training and serving, and whether adapters
    share batches.

    The exit code is 0 unless something required is broken: Python, a core package, or a base, store or server that was
    given as an option.
    """
    checks = list(diagnose(server=server, api_key_env=api_key_env, base=base, store=store))
    healthy = all(check.status == "ok" for check in checks if check.required)
    if as_json:
        from searchlora.cli.terminal import print_json

        print_json({"ok": healthy, "checks": [asdict(check) for check in checks]})
    else:
        for check in checks:
            typer.echo(f"{check.status:<8}  {check.name:<16}  {check.detail}")
            if check.fix and check.status != "ok":
                typer.echo(f"{'':<8}  {'':<16}  -> {check.fix}")
        typer.echo("Everything required works." if healthy else "Something required does not work.")
    if not healthy:
        raise typer.Exit(1)


def diagnose(
    *,
    server: str | None = None,
    api_key_env: str | None = None,
    base: str | None = None,
    store: Path | None = None,
) -> Iterator[Check]:
    """Run the checks one by one; a check never raises for what it finds."""
    yield _python()
    yield _core_packages()
    yield from _extras()
    yield _cpu()
    yield from _bf16()
    yield _threads()
    yield from _kernels()
    yield _gpu()
    yield _module("4-bit weights", "bitsandbytes", "pip install 'searchlora[local]'")
    yield _module("vLLM", "vllm", "pip install vllm (Linux with a GPU; needed only on the server's machine)")
    yield _base(base)
    if base is not None:
        yield from _memory(base)
        yield from _batching(base)
    yield _store(store)
    if server is not None:
        yield _server(server, api_key_env)


def _python() -> Check:
    version = platform.python_version()
    if sys.version_info >= _MINIMUM_PYTHON:
        return Check("Python", "ok", f"{version} on {platform.system()} {platform.machine()}", required=True)
    least = ".".join(map(str, _MINIMUM_PYTHON))
    return Check("Python", "broken", version, f"Use Python {least} or later.", required=True)


def _core_packages() -> Check:
    from importlib.metadata import PackageNotFoundError, requires, version

    from packaging.requirements import Requirement

    try:
        needed = [Requirement(text) for text in requires("searchlora") or []]
    except PackageNotFoundError:
        return Check("core packages", "broken", "searchlora is not installed", "pip install searchlora", required=True)
    problems = []
    core = [requirement for requirement in needed if requirement.marker is None or requirement.marker.evaluate()]
    for requirement in core:
        try:
            installed = version(requirement.name)
        except PackageNotFoundError:
            problems.append(f"{requirement} is not installed")
            continue
        if not requirement.specifier.contains(installed, prereleases=True):
            problems.append(f"{requirement} is required, {installed} is installed")
    if problems:
        return Check("core packages", "broken", "; ".join(problems), "pip install --upgrade searchlora", required=True)
    return Check("core packages", "ok", f"searchlora {version('searchlora')}, {len(core)} packages", required=True)


def _extras() -> Iterator[Check]:
    from searchlora.extras import EXTRAS, missing_modules

    for extra in EXTRAS:
        missing = missing_modules(extra)
        detail = f"without {', '.join(missing)}" if missing else "installed"
        fix = f"pip install 'searchlora[{extra}]'" if missing else ""
        yield Check(f"extra {extra}", "missing" if missing else "ok", detail, fix)


def _cpu() -> Check:
    from searchlora.models.processor import cpu_flags

    present = [feature for feature in _CPU_FEATURES if feature in cpu_flags()]
    return Check("CPU", "ok", f"{os.cpu_count()} cores, {', '.join(present) or 'no AVX2 reported'}")


def _bf16() -> Iterator[Check]:
    if find_spec("torch") is None:
        return
    from searchlora.errors import UsageError
    from searchlora.models.processor import multiplies_bf16

    try:
        multiplies = multiplies_bf16()
    except UsageError:  # of the switch of the instructions, which `_kernels` reports
        return
    if multiplies:
        yield Check("bf16", "ok", "this processor multiplies in bf16")
    else:
        yield Check("bf16", "ok", "not by this processor, so fp32 is computed instead, with up to twice the memory")


def _threads() -> Check:
    from searchlora.threads import choose_threads

    detail = str(choose_threads())
    if find_spec("torch") is not None:
        import torch

        detail += f"; PyTorch computes with {torch.get_num_threads()}"
    return Check("threads", "ok", detail)


def _kernels() -> Iterator[Check]:
    from searchlora.models.resolve import cache_dir

    folder = cache_dir() / "native"
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    if not os.access(existing, os.W_OK | os.X_OK):
        yield Check("kernel cache", "broken", f"{folder} cannot be written", "Set SEARCHLORA_CACHE to another folder.")
    else:
        yield Check("kernel cache", "ok", str(folder))
    from searchlora.errors import UsageError
    from searchlora.models.processor import SWITCH, chosen_instruction_set

    fallback = "PyTorch computes instead, with the same results up to rounding"
    try:
        instruction_set = chosen_instruction_set()
    except UsageError as error:
        yield Check("CPU kernels", "broken", f"{SWITCH} {error.what}", error.fix or "")
        return
    if instruction_set is None:
        yield Check("CPU kernels", "missing", f"off by {SWITCH}=0; {fallback}", f"Unset {SWITCH}.")
        return
    if find_spec("torch") is None:
        yield Check("CPU kernels", "missing", "they need PyTorch", "pip install 'searchlora[local]'")
        return
    compiler = (os.environ.get("CC") or "cc").split()[0]
    if platform.system() != "Linux" or shutil.which(compiler) is None:
        fix = "Install a C compiler with OpenMP, such as gcc." if platform.system() == "Linux" else ""
        yield Check("CPU kernels", "missing", f"no C compiler '{compiler}' on Linux; {fallback}", fix)
        return
    import torch

    from searchlora.cpu.backend import instructions

    built = {name: instructions(getattr(torch, name)) for name in ("bfloat16", "float32")}
    failed = [name for name, path in built.items() if path is None]
    if failed:
        fix = f"Check that `{compiler} -fopenmp` compiles and that the kernel cache is private and writable."
        yield Check("CPU kernels", "broken", f"{', '.join(failed)} could not be compiled; {fallback}", fix)
        return
    paths = [f"{name} ({path})" for name, path in built.items()]
    yield Check("CPU kernels", "ok", f"compiled with {compiler} for {instruction_set} instructions: {', '.join(paths)}")


def _gpu() -> Check:
    if find_spec("torch") is None:
        return Check("GPU", "missing", "cannot be checked without PyTorch", "pip install 'searchlora[local]'")
    import torch

    if not torch.cuda.is_available():
        reason = f"PyTorch {torch.__version__} reports none; the CPU is used"
        return Check("GPU", "missing", reason, "Install a driver and a CUDA build of PyTorch, if there is a GPU.")
    names = ", ".join(
        f"{torch.cuda.get_device_name(index)} ({torch.cuda.get_device_properties(index).total_memory / 2**30:.0f} GiB)"
        for index in range(torch.cuda.device_count())
    )
    return Check("GPU", "ok", f"{names}, PyTorch {torch.__version__}")


def _module(name: str, module: str, fix: str) -> Check:
    from importlib.metadata import PackageNotFoundError, version

    if find_spec(module) is None:
        return Check(name, "missing", f"{module} is not installed", fix)
    try:
        return Check(name, "ok", f"{module} {version(module)}")
    except PackageNotFoundError:
        return Check(name, "ok", module)


def _base(name: str | None) -> Check:
    from searchlora.errors import SearchloraError
    from searchlora.models.resolve import CATALOGUE, PackagedWeights, resolve

    base, required = name or _DEFAULT_BASE, name is not None
    entry = CATALOGUE.get(base)
    if isinstance(entry, PackagedWeights):  # not resolved, which would convert the weights
        spec = find_spec(entry.package)
        file = Path(spec.origin).parent / entry.file if spec is not None and spec.origin else None
        if file is None or not file.is_file():
            return Check("base model", "missing", f"{base} is not installed", entry.install, required)
        return Check("base model", "ok", f"{base} in {file}", required=required)
    try:
        base_model = resolve(base, ask_hub=False)
    except SearchloraError as error:
        return Check("base model", "missing", error.what, error.fix or "", required)
    return Check("base model", "ok", f"{base} in {base_model.path}", required=required)


def _memory(name: str) -> Iterator[Check]:
    """The size of a base that is on this machine; nothing for one that is not, which `_base` reports."""
    from searchlora.errors import SearchloraError
    from searchlora.models.memory import base_parameters
    from searchlora.models.resolve import resolve

    try:
        parameters = base_parameters(resolve(name, ask_hub=False).path)
    except SearchloraError:
        return
    yield Check("base weights", "ok", f"{parameters:,} parameters, {_gigabytes(2 * parameters)} in bf16")


def _batching(name: str) -> Iterator[Check]:
    """How a local engine computes a base that generates; it is loaded for this, if memory allows."""
    if find_spec("torch") is None:
        return
    from searchlora.errors import SearchloraError
    from searchlora.inference.batched.forward import check_batching
    from searchlora.inference.out_of_memory import is_out_of_memory
    from searchlora.inference.settings import LocalSettings
    from searchlora.models.load import load_model
    from searchlora.models.memory import base_parameters, free_memory
    from searchlora.models.processor import uses_gpu
    from searchlora.models.resolve import resolve

    try:
        base = resolve(name, ask_hub=False)
    except SearchloraError:  # which `_base` reports
        return
    more_memory = "Run it on a machine with more memory."
    try:
        on_gpu = uses_gpu()
        needed = base_parameters(base.path) * (2 if on_gpu else 4)  # a processor without bf16 holds fp32
        free = free_memory("cuda" if on_gpu else "cpu")
        if needed > free:
            detail = f"not checked: loading the base may take {_gigabytes(needed)}, and {_gigabytes(free)} are free"
            yield Check("batching", "missing", detail, more_memory)
            return
        yield Check("batching", "ok", str(check_batching(load_model(base))))
    except SearchloraError as error:  # such as an encoder, which does not generate
        yield Check("batching", "missing", error.what, error.fix or "")
        return
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        yield Check("batching", "missing", "not checked: memory ran out while the base was loaded", more_memory)
        return
    engine = LocalSettings().engine_id("bf16", base)
    yield Check("engine", "ok", f"{engine}; this is the default of every command but `serve`")


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.2f} GB"


def _store(path: Path | None) -> Check:
    from searchlora.adapters.store import Store
    from searchlora.errors import SearchloraError

    store, required = Store(path), path is not None
    if store.place == str(store.root) and not store.root.is_dir():
        fix = "Train an adapter (`searchlora demo`), or give a store with --store."
        return Check("adapter store", "missing", f"{store.root} does not exist", fix, required)
    try:
        entries = store.list()
    except (SearchloraError, OSError) as error:
        return Check("adapter store", "broken", str(error), "Restore it from a backup.", required)
    damaged = [f"{entry.name}@{entry.version} ({entry.problem})" for entry in entries if entry.summary is None]
    if damaged:
        detail = f"{store.place}: {len(damaged)} of {len(entries)} versions unreadable: {'; '.join(damaged)}"
        return Check("adapter store", "broken", detail, "Remove them with `searchlora adapters remove`.", required)
    return Check("adapter store", "ok", f"{store.place}: {len(entries)} versions", required=required)


def _server(url: str, api_key_env: str | None) -> Check:
    from searchlora.errors import SearchloraError
    from searchlora.http_client import HttpClient

    fix = "Start it (`searchlora serve` or `vllm serve`), and check the URL and the key."
    try:
        key = os.environ.get(api_key_env) if api_key_env else None
        client = HttpClient(url, api_key=key, timeout_s=_SERVER_SECONDS, retries=0)
        models = client.get("/v1/models")
        names = [str(card["id"]) for card in models["data"]]
    except SearchloraError as error:
        return Check("server", "broken", str(error), fix, required=True)
    except (KeyError, TypeError):
        return Check("server", "broken", f"{url} does not list models as OpenAI's API does", fix, required=True)
    listed = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
    return Check("server", "ok", f"{url}: {listed or 'no models'}", required=True)
