"""Locks of the embedded server: what threads, forks and closed files do to them."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from tasker.database.embedded.locks import FileLock, exclusive, is_free
from tasker.errors import EmbeddedServerError
from tests.forking import in_child


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "some.lock"


def test_shared_locks_live_beside_one_another_and_keep_the_exclusive_one_out(path: Path) -> None:
    first, second, third = FileLock(path), FileLock(path), FileLock(path)
    assert first.try_acquire(shared=True)
    assert second.try_acquire(shared=True)
    assert not third.try_acquire()
    first.release()
    assert not third.try_acquire()
    second.release()
    assert third.try_acquire()
    third.release()


def test_threads_exclude_one_another(path: Path) -> None:
    inside, most = 0, 0
    guard = threading.Lock()

    def enter() -> None:
        nonlocal inside, most
        for _ in range(5):
            with exclusive(path, timeout_seconds=30, purpose="test"):
                with guard:
                    inside += 1
                    most = max(most, inside)
                with guard:
                    inside -= 1

    threads = [threading.Thread(target=enter) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1


def test_waiting_for_too_long_says_for_whom_and_what(path: Path) -> None:
    with exclusive(path, timeout_seconds=1, purpose="the test"):
        with pytest.raises(EmbeddedServerError, match=r"waited 0\.05 s .*some\.lock \(the test\)"):
            FileLock(path).acquire(timeout_seconds=0.05, purpose="the test")


def test_a_child_shares_an_inherited_lock_and_closing_it_there_takes_nothing_from_the_parent(path: Path) -> None:
    lock = FileLock(path, inherited=True)
    assert lock.try_acquire(shared=True)

    def work() -> None:
        assert lock.is_held()
        lock.give_up()

    assert in_child(work) == 0
    assert not FileLock(path).try_acquire()
    lock.give_up()
    assert is_free(path)


def test_a_child_forked_while_a_lock_is_held_does_not_keep_it(path: Path) -> None:
    ready, go_on = os.pipe(), os.pipe()
    lock = FileLock(path)
    assert lock.try_acquire()
    child = os.fork()
    if child == 0:  # pragma: no cover - the child's coverage is not measured
        os.write(ready[1], b".")
        os.read(go_on[0], 1)
        os._exit(0)
    os.read(ready[0], 1)
    lock.give_up()  # closed only, as by a parent that was killed
    assert is_free(path)
    os.write(go_on[1], b".")
    os.waitpid(child, 0)
    for descriptor in (*ready, *go_on):
        os.close(descriptor)


def test_a_removed_file_means_that_the_lock_is_no_longer_held(path: Path) -> None:
    lock = FileLock(path)
    assert lock.try_acquire()
    assert lock.is_held()
    path.unlink()
    assert not lock.is_held()
    path.touch()
    assert not lock.is_held()
    lock.release()


def test_a_file_that_others_closed_is_not_closed_once_more(path: Path) -> None:
    lock = FileLock(path, inherited=True)
    assert lock.try_acquire()
    number = lock.fileno()
    os.close(number)
    other = os.open(os.devnull, os.O_RDONLY)
    assert other == number
    assert not lock.is_held()
    lock.give_up()
    os.fstat(other)
    os.close(other)


def test_asking_makes_no_file(path: Path) -> None:
    assert is_free(path)
    assert not path.exists()


def test_a_link_in_the_lock_files_place_is_not_followed(path: Path, tmp_path: Path) -> None:
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic links"):
        FileLock(path).try_acquire()
    assert not (tmp_path / "elsewhere").exists()
