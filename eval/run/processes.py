"""Several processes with one evaluation: they wait for one another through files, with a time limit."""
import json
import pathlib
import shutil
import time

import jax
import orbax.checkpoint as ocp

from eval import command
from indigo_jax.images.picture import one_line, show

_LIMIT = 300  # seconds for what all processes do at about the same time


class Peers:
    """The processes of a run. Each tells in a file of its own how far it is; alone, one does nothing at all.

    Its methods raise ValueError, one line, when another process has stopped or is silent for too long.

    Args:
        output: a folder that all of them see.
        time_limit: seconds without news after which one stops waiting.
    """

    def __init__(self, output, time_limit: float):
        self.index, self.count = jax.process_index(), jax.process_count()
        self._folder, self._limit, self._told = pathlib.Path(output) / ".processes", time_limit, 0.0

    def begin(self) -> None:
        """Wait until all are here and see each other's files."""
        if self.count > 1:
            self._write(done=0)
            self.barrier("eval.run begins")
            self._watch(lambda states: len(states) == self.count, min(self._limit, _LIMIT))

    def tell(self, done: int) -> None:
        """Say that so many pictures are done; not oftener than once a second."""
        if self.count > 1 and time.monotonic() > self._told + 1:
            self._write(done=done)

    def fail(self, error) -> None:
        """Say that this process stops."""
        if self.count > 1:
            self._write(error=one_line(error))

    def wait(self) -> None:
        """Say that this process has nothing left to do, and wait until that is true of all."""
        if self.count > 1:
            self._write(finished=True)
            self._watch(lambda states: sum("finished" in state for state in states.values()) == self.count,
                        self._limit)

    def end(self) -> None:
        """Wait until all are here, then remove the files."""
        if self.count > 1:
            self.barrier("eval.run ends")
            if self.index == 0:
                shutil.rmtree(self._folder, ignore_errors=True)

    def barrier(self, name: str) -> None:
        """Wait for all processes, for five minutes or as many seconds as the time limit has."""
        seconds = min(self._limit, _LIMIT)
        try:
            ocp.multihost.get_barrier_sync_fn()(key=name, timeout_ms=int(seconds * 1000))
        except RuntimeError as error:
            raise ValueError(f"process {self.index}: of {self.count} processes not all came within {seconds:g} s; look "
                             f"at what the others printed ({one_line(error)[:120]})") from error

    def _write(self, **state):
        self._told = time.monotonic()
        command.write(self._folder / f"{self.index}.json", json.dumps(state))

    def _watch(self, enough, seconds):
        before, since = None, time.monotonic()
        while True:
            states = {}
            for index in range(self.count):
                try:
                    states[index] = json.loads((self._folder / f"{index}.json").read_text(encoding="utf-8"))
                except (OSError, ValueError):  # not yet seen here
                    continue
            stopped = [f"process {index} stopped: {state['error']}" for index, state in states.items()
                       if "error" in state]
            if stopped:
                raise ValueError(stopped[0])
            if enough(states):
                return
            if states != before:
                before, since = states, time.monotonic()
            elif time.monotonic() - since > seconds:
                late = [index for index in range(self.count) if "finished" not in states.get(index, {})]
                raise ValueError(f"no news for {seconds:g} s in {show(self._folder)} from process "
                                 f"{', '.join(map(str, late))}; all processes must see the same --output; start again: "
                                 "what is done is kept")
            time.sleep(0.1)
