"""What processes of `multiprocessing` need: an end with their parent, and errors that can be sent to it."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import traceback
from threading import Thread

from searchlora.errors import SearchloraError


def end_with_parent() -> None:
    """In a process of `multiprocessing`: end when its parent is killed, too."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def end() -> None:
        parent.join()
        os._exit(1)

    Thread(target=end, daemon=True).start()


def picklable(error: BaseException) -> BaseException:
    """The error, with the lines of this process where it is not one for the user."""
    if not isinstance(error, SearchloraError):
        error.add_note(f"In a child process:\n{traceback.format_exc()}")
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return SearchloraError(f"a child process failed ({type(error).__name__}: {error})")
    return error
