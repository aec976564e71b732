"""Store at a URL: versions are copied once and verified, aliases move atomically, and others see them."""

from __future__ import annotations

import os
import shutil
import threading
import time
import uuid
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from searchlora.adapters import object_store, remote_files
from searchlora.adapters.aliases import Decision
from searchlora.adapters.manifest import MANIFEST
from searchlora.adapters.object_store import ObjectStore
from searchlora.adapters.peft_folder import WEIGHTS
from searchlora.adapters.remote_files import open_url
from searchlora.adapters.store import Store
from searchlora.adapters.stored import check_hashes
from searchlora.adapters.transfer import pull, push
from searchlora.errors import NameTaken, NotInStore, StoreError, TamperedAdapter, UsageError
from searchlora.files import FileState
from tests.adapters.test_evaluations import record


@pytest.fixture(params=["memory", "s3"])
def url(request, monkeypatch):
    """The URL of a store of its own; what others write is seen at once."""
    monkeypatch.setattr(object_store, "POLL_S", 0.0)
    root = "memory://adapters" if request.param == "memory" else request.getfixturevalue("s3")
    return f"{root}/{uuid.uuid4().hex}"


@pytest.fixture
def memory_url(monkeypatch):
    """For tests with threads. They test our own order of writes and the lock of `create`, and say nothing of S3.

    The local S3 server checks the condition of a write and writes in two steps.
    """
    monkeypatch.setattr(object_store, "POLL_S", 0.0)
    return f"memory://adapters/{uuid.uuid4().hex}"


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """Opens the store on another machine, which has a cache of its own."""

    def open_(url: str, name: str) -> Store:
        with monkeypatch.context() as patch:
            patch.setenv("SEARCHLORA_CACHE", str(tmp_path / name))
            return Store(url)

    return open_


@pytest.fixture
def fetched(monkeypatch):
    """Paths that are fetched."""
    paths: list[str] = []
    original = remote_files.fetch

    def counted(system, source, target, limit):
        paths.append(source.rpartition("/")[2])
        return original(system, source, target, limit)

    monkeypatch.setattr(remote_files, "fetch", counted)
    return paths


def test_a_version_is_the_same_on_another_machine_and_fetched_once(url, machine, trained, draft, fetched):
    stored = Store(url).add("echo", trained, draft)
    other = machine(url, "other")
    assert isinstance(other, ObjectStore) and other.names() == ("echo",)
    (entry,) = other.list()
    assert entry.reference == "echo@1" and entry.summary.task == "echo" and fetched == []
    again = other.get("echo")
    assert again.manifest == stored.manifest and again.path != stored.path
    check_hashes(again)
    assert sorted(fetched) == sorted(stored.manifest.files)
    assert {file.name: file.read_bytes() for file in again.path.iterdir()} == {
        file.name: file.read_bytes() for file in stored.path.iterdir()
    }
    machine(url, "other").get("echo@1")
    assert len(fetched) == len(stored.manifest.files)
    assert Store(Path(url)).place == url


def test_an_alias_that_moves_is_seen_by_others(url, machine, trained, draft):
    one, other = Store(url), machine(url, "other")
    one.add("echo", trained, draft)
    one.add("echo", trained, draft)
    one.alias("echo", "production", 1, reason="first")
    assert other.pin("echo@production") == "echo@1"
    other.alias("echo", "production", 2)
    assert one.pin("echo@production") == "echo@2"
    assert one.rollback("echo", "production").target == 1
    decision = Decision(version=2, outcome="promoted", rules=(), policy={}, evidence={})
    with pytest.raises(StoreError, match="was moved while"):
        other.decide("echo", "production", decision, incumbent=2)
    other.decide("echo", "production", decision, incumbent=1)
    assert one.history("echo") == other.history("echo") == machine(url, "third").history("echo")
    assert [move.target for move in one.history("echo")] == [1, 2, 1, 2]
    assert machine(url, "third").list()[1].aliases == ("production",)


def test_an_alias_is_asked_for_again_only_after_some_seconds(url, machine, trained, draft, monkeypatch):
    one, other = Store(url), machine(url, "other")
    one.add("echo", trained, draft)
    one.add("echo", trained, draft)
    one.alias("echo", "production", 1)
    now = [1000.0]
    monkeypatch.setattr(object_store.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(object_store, "POLL_S", 3.0)
    assert other.pin("echo@production") == "echo@1"
    one.alias("echo", "production", 2)
    assert other.pin("echo@production") == "echo@1"
    now[0] += 3.1
    assert other.pin("echo@production") == "echo@2"


def test_writers_of_files_in_memory_at_the_same_time_lose_no_move(memory_url, machine, trained, draft):
    Store(memory_url).add("echo", trained, draft)
    stores = [machine(memory_url, f"machine-{number}") for number in range(4)]

    def move(number: int) -> int:
        done = 0
        for turn in range(5):
            try:
                stores[number].alias("echo", f"a{number}", 1, reason=f"{number} {turn}")
                done += 1
            except StoreError as error:
                assert "at the same time" in str(error)
        return done

    with ThreadPoolExecutor(4) as pool:
        done = list(pool.map(move, range(4)))
    moves = machine(memory_url, "reader").history("echo")
    assert len(moves) == sum(done) > 0
    assert [sum(move.alias == f"a{number}" for move in moves) for number in range(4)] == done


def test_a_stale_writer_is_refused(url, machine, trained, draft, monkeypatch):
    one, other = Store(url), machine(url, "other")
    one.add("echo", trained, draft)
    one.alias("echo", "a", 1)
    other.alias("echo", "b", 1)
    for look_up in ("_refresh", "_look_up"):
        monkeypatch.setattr(ObjectStore, look_up, lambda *_: None)
    with pytest.raises(StoreError, match="changed from another machine"):
        one.alias("echo", "c", 1)
    monkeypatch.undo()


def test_writers_of_files_in_memory_at_the_same_time_store_different_versions(memory_url, machine, trained, draft):
    first = Store(memory_url)
    first.add("other", trained, draft)
    stores = [machine(memory_url, f"machine-{number}") for number in range(3)]
    with ThreadPoolExecutor(3) as pool:
        stored = list(pool.map(lambda store: store.add("echo", trained, draft).manifest.version, stores))
    assert len(set(stored)) == 3
    assert set(machine(memory_url, "reader").versions("echo")) == set(stored)


def test_a_version_without_its_manifest_is_not_there_and_its_number_is_taken(url, machine, trained, draft):
    store = Store(url)
    store.add("echo", trained, draft)
    system, _ = open_url(url)

    write = system.pipe_file

    def killed(target, content, mode="overwrite"):
        if target.endswith(MANIFEST):
            raise OSError("killed")
        write(target, content, mode=mode)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(system, "pipe_file", killed, raising=False)
        with pytest.raises(StoreError, match="killed"):
            store.add("echo", trained, draft)
    assert store.versions("echo") == machine(url, "other").versions("echo") == (1,)
    assert machine(url, "other").add("echo", trained, draft).reference == "echo@3"


def test_a_changed_file_is_refused(url, machine, trained, draft):
    Store(url).add("echo", trained, draft)
    system, root = open_url(url)
    content = system.cat_file(f"{root}/echo/1/{WEIGHTS}")
    system.pipe_file(f"{root}/echo/1/{WEIGHTS}", content[:-1] + bytes([content[-1] ^ 1]))
    other = machine(url, "other")
    with pytest.raises(TamperedAdapter, match=r"was changed \(against the sha256"):
        other.get("echo")
    system.rm_file(f"{root}/echo/1/{WEIGHTS}")
    with pytest.raises(TamperedAdapter, match="is missing"):
        other.get("echo")
    system.pipe_file(f"{root}/echo/1/{WEIGHTS}", content)
    check_hashes(other.get("echo"))


def test_a_removed_version_disappears_everywhere_and_its_number_is_not_used_again(url, machine, trained, draft):
    one, other = Store(url), machine(url, "other")
    one.add("echo", trained, draft)
    one.add("echo", trained, draft)
    other.get("echo@2")
    assert one.remove("echo@2") == "echo@2"
    assert other.versions("echo") == (1,)
    with pytest.raises(NotInStore):
        other.get("echo@2")
    assert other.add("echo", trained, draft).reference == "echo@3"
    one.alias("echo", "production", 3)
    with pytest.raises(StoreError, match="points to it"):
        other.remove("echo@3")
    other.remove("echo@3", force=True)
    assert one.aliases("echo") == {}


def test_evaluations_are_shared(url, machine, trained, draft):
    one, other = Store(url), machine(url, "other")
    one.add("echo", trained, draft)
    one.record_evaluation("echo", record(value=0.5))
    other.record_evaluation("echo", record(split="validation"))
    other.record_evaluation("echo", record(value=0.7))
    assert one.evaluations("echo") == other.evaluations("echo") == machine(url, "third").evaluations("echo")
    assert [each.value for each in one.evaluations("echo")] == [0.7, 0.7]


def test_an_earlier_store_at_the_same_url_is_not_mistaken_for_this_one(url, trained, draft):
    first = Store(url).add("echo", trained, draft)
    system, root = open_url(url)
    system.rm(root, recursive=True)
    other = Store(url).add("echo", trained, draft.model_copy(update={"metrics": {"loss": 9.0}}))
    assert first.reference == other.reference
    assert Store(url).get("echo@1").manifest.metrics == {"loss": 9.0}


def test_a_store_that_cannot_be_reached_goes_on_with_what_is_known(url, machine, trained, draft, monkeypatch):
    Store(url).add("echo", trained, draft)
    other = machine(url, "other")
    other.pin("echo")

    def unreachable(*_, **__):
        raise OSError("no route to host")

    monkeypatch.setattr(type(open_url(url)[0]), "find", unreachable)
    with pytest.warns(UserWarning, match="no route to host"):
        assert other.pin("echo") == "echo@1"
    with pytest.raises(StoreError, match="no route to host"), warnings.catch_warnings():
        other.pin("unknown")
    monkeypatch.undo()


@pytest.mark.parametrize("root", ["hf://owner/name", "file:///store", "https://example.org/store", Path("hf://owner")])
def test_a_store_cannot_be_at_other_urls(root):
    with pytest.raises(UsageError, match="cannot be at such a URL"):
        Store(root)
    assert Store("memory").place == "memory"


@pytest.mark.parametrize("knows_it", [True, False])
def test_a_service_without_conditional_writes_is_refused_before_anything_is_written(
    memory_url, machine, trained, draft, monkeypatch, knows_it
):
    Store(memory_url).add("echo", trained, draft)
    other = machine(memory_url, "other")
    write = type(other._system).pipe_file

    def overwrites(self, path, value, mode="overwrite"):
        del mode
        write(self, path, value)

    pipe_file = overwrites if knows_it else lambda self, path, value: write(self, path, value)
    monkeypatch.setattr(type(other._system), "pipe_file", pipe_file)
    with pytest.raises(UsageError, match="overwrites files that it must only create"):
        other.alias("echo", "production", 1)
    monkeypatch.undo()
    assert machine(memory_url, "third").aliases("echo") == {}


def test_versions_move_between_stores_by_pull(url, store, trained, draft):
    stored = store.add("echo", trained, draft)
    remote = Store(url)
    assert pull(str(stored.path), store=remote).reference == "echo@1"
    store.add("echo", trained, draft)
    with pytest.raises(NameTaken, match=r"adapters pull FOLDER --store"):
        push("echo@2", f"{url}/echo/2", store=store)
    pulled = pull(f"{url}/echo/1", store=remote, name="copy")
    assert pulled.reference == "copy@1" and remote.names() == ("copy", "echo")
    with pytest.raises(NameTaken):
        remote.adopt(stored.path, pulled.manifest.model_copy(update={"metrics": {"loss": 9.0}}))


def test_the_command_line_takes_a_url(url, cli, trained, draft, monkeypatch):
    assert f"no adapter in {url}" in cli("adapters", "list", "--store", url).out
    Store(url).add("echo", trained, draft)
    assert "echo@1" in cli("adapters", "list", "--store", url).out
    assert cli("adapters", "alias", "echo@1", "production", "--store", url).code == 0
    monkeypatch.setenv("SEARCHLORA_STORE", url)
    assert Store().pin("echo@production") == "echo@1"
    assert os.environ["SEARCHLORA_STORE"] == url


# Processes of one machine, which share a copy


def test_an_older_list_takes_no_move_from_the_copy(url, trained, draft, monkeypatch):
    server = Store(url)
    server.add("echo", trained, draft)
    server.add("echo", trained, draft)
    server.alias("echo", "production", 1)
    command = Store(url)
    assert command.root == server.root
    listed = ObjectStore._find

    def older(store, folder):
        """What was listed before the alias moves, which the server sees before the command goes on."""
        paths = listed(store, folder)
        monkeypatch.setattr(ObjectStore, "_find", listed)
        server.alias("echo", "production", 2)
        assert server.pin("echo@production") == "echo@2"
        return paths

    monkeypatch.setattr(ObjectStore, "_find", older)
    command.list()
    monkeypatch.setattr(object_store, "POLL_S", 60.0)
    assert server.pin("echo@production") == command.pin("echo@production") == "echo@2"
    assert [move.target for move in Store(url).history("echo")] == [1, 2]


def test_a_new_process_writes_no_file_that_is_there(url, trained, draft):
    store = Store(url)
    store.add("echo", trained, draft)
    store.alias("echo", "production", 1)
    store.record_evaluation("echo", record())
    before = {file: FileState.of(file.stat()) for file in (store.root / "echo").iterdir()}
    assert Store(url).list() == store.list()
    assert {file: FileState.of(file.stat()) for file in (store.root / "echo").iterdir()} == before


def test_a_name_that_was_removed_by_hand_begins_anew(url, machine, trained, draft):
    one, other = Store(url), machine(url, "other")
    one.add("echo", trained, draft)
    one.alias("echo", "production", 1)
    assert other.aliases("echo") == {"production": 1}
    system, root = open_url(url)
    system.rm(f"{root}/echo", recursive=True)
    assert one.names() == other.names() == ()
    one.add("echo", trained, draft)
    assert one.aliases("echo") == other.aliases("echo") == {}


def test_a_store_that_does_not_answer_holds_up_one_request_only(url, machine, trained, draft, monkeypatch):
    store = Store(url)
    store.add("echo", trained, draft)
    store.add("echo", trained, draft)
    store.alias("echo", "production", 1)
    store.add("more", trained, draft)
    listed = machine(url, "server").list()
    server = machine(url, "server")
    server.pin("echo")
    machine(url, "other").alias("echo", "production", 2)
    answers, listing = threading.Event(), ObjectStore._find

    def find(store, folder):
        assert answers.wait(60)
        return listing(store, folder)

    monkeypatch.setattr(ObjectStore, "_find", find)
    monkeypatch.setattr(object_store, "WAIT_S", 0.05)
    with pytest.warns(UserWarning, match="does not answer. What was known before is used"):
        assert server.pin("echo@production") == "echo@1"
    monkeypatch.setattr(object_store, "WAIT_S", 60.0)
    assert server.pin("echo@production") == "echo@1"  # without waiting, as the next ones
    assert server.pin("more") == "more@1" and server.list() == listed
    answers.set()
    until = time.monotonic() + 30
    while server.pin("echo@production") != "echo@2":
        assert time.monotonic() < until
        time.sleep(0.01)
    assert server.list()[1].aliases == ("production",)


def test_a_new_process_uses_the_copy_if_no_store_answers(url, machine, trained, draft, monkeypatch):
    store = Store(url)
    store.add("echo", trained, draft)
    machine(url, "server").pin("echo")

    def fails(*_):
        raise StoreError("does not answer")

    server = machine(url, "server")
    server.check_writable()
    monkeypatch.setattr(ObjectStore, "_find", fails)
    with pytest.raises(StoreError, match="does not answer"):
        server.pin("echo")
    assert server.pin("echo") == "echo@1"


def test_a_version_that_a_reader_copied_before_its_writer_renamed_it_is_stored(
    url, machine, trained, draft, monkeypatch
):
    publish = ObjectStore._publish

    def published_and_read(store, new, manifest):
        publish(store, new, manifest)
        assert machine(url, "writer").pin("echo") == "echo@1"

    monkeypatch.setattr(ObjectStore, "_publish", published_and_read)
    writer = machine(url, "writer")
    assert writer.add("echo", trained, draft).reference == "echo@1"
    assert writer.get("echo").weight_bytes > 0


def test_processes_fetch_a_version_once_and_remove_what_a_killed_one_left(url, machine, trained, draft, fetched):
    stored = Store(url).add("echo", trained, draft)
    one, other = machine(url, "other"), machine(url, "other")
    one.pin("echo")
    left = one.root / ".downloads" / "echo@1" / WEIGHTS
    left.parent.mkdir(parents=True)
    left.write_text("half")
    left.chmod(0o444)
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda store: store.get("echo"), (one, other))
    assert first.path == second.path and sorted(fetched) == sorted(stored.manifest.files)
    check_hashes(first)
    assert not left.parent.exists()
    shutil.rmtree(first.path)  # as a user does who was told that a file in it is damaged
    check_hashes(other.get("echo"))


def test_an_upload_that_failed_is_repeated_under_its_number(url, machine, store, trained, draft, monkeypatch):
    stored = store.add("echo", trained, draft)
    remote = Store(url)

    def killed(*_):
        raise StoreError("killed")

    monkeypatch.setattr(remote, "_publish", killed)
    with pytest.raises(StoreError, match="killed"):
        remote.adopt(stored.path, stored.manifest)
    other = machine(url, "other")
    with pytest.raises(NameTaken):
        other.adopt(stored.path, stored.manifest.model_copy(update={"metrics": {"loss": 9.0}}))
    assert other.adopt(stored.path, stored.manifest).reference == "echo@1"
    other.remove("echo@1")
    with pytest.raises(NameTaken):
        machine(url, "third").adopt(stored.path, stored.manifest)


def test_a_first_training_run_is_found_by_the_next_process(url, machine):
    first = Store(url)
    first.check_writable()
    assert Store(url).root == first.root
    late = machine(f"{url}/late", "late")
    machine(f"{url}/late", "other").check_writable()
    late.check_writable()
    assert machine(f"{url}/late", "late").root == late.root
