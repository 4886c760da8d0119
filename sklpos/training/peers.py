"""Processes that train one net end together: if one fails, no other waits for it."""

from __future__ import annotations

import json
import queue
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.constants import default_pg_timeout

from sklpos.nets.hints import in_one_line
from sklpos.nets.process import uninterrupted
from sklpos.training.collectives import (
    LostPeersError,
    gather,
    naming_losses,
    part,
    through,
)

# Seconds in which a notice is sent or found, and in which others fail by themselves.
_PATIENCE, _GRACE = 3.0, 1.0
_MEETING = timedelta(seconds=30)
# Bytes of a notice.
_NOTICE = 2048
#: Characters of what processes tell each other of an error.
TOLD = 230
# Tags that no collective uses; gloo deals them to its network interfaces.
_TAG, *_UNUSED_TAGS = range(1000, 1009)


@contextmanager
def connected(agree: Callable[[], None]) -> Iterator[None]:
    """Connect the processes of torch's default group, until all of them are done.

    Within this context, messages go through a group of their own. A process that fails
    tells the others why, and closes its connections: those that wait for it fail at
    once, with the same reason. So do those that wait for a process that has died. The
    default group stays as it is.

    Parameters
    ----------
    agree : callable
        Called first, without arguments, to find out whether the processes may be
        connected; what it raises must be the same in all of them.

    Raises
    ------
    ValueError or RuntimeError
        If another process failed: ValueError if that one did so with a ValueError.
    """
    peers = None
    try:
        # Ctrl-C in one process would leave the others without an answer.
        with uninterrupted():
            agree()
            peers = _Peers()
        with through(peers.group):
            # Nobody may fail before all can hear of it.
            gather(None)
            yield
            # Whoever closed connections now would cut the last message to others.
            with suppress(LostPeersError):
                part()
        peers.done = True
    except BaseException as error:
        if peers is not None:
            with uninterrupted():
                peers.fail(error)
        raise
    finally:
        if peers is not None:
            peers.close()


class _Peers:
    """Connections to the other processes, each with an empty notice from them."""

    def __init__(self):
        self.group = _new_group()
        own = dist.get_rank()
        self.others = [rank for rank in range(dist.get_world_size()) if rank != own]
        self.inbox = {rank: _empty_notice() for rank in self.others}
        # Asked for now, so that a process can send its notice and go.
        self.arrivals = {
            rank: dist.irecv(notice, src=rank, group=self.group, tag=_TAG)
            for rank, notice in self.inbox.items()
        }
        self.heard: queue.Queue[int] = queue.Queue()
        self.found: dict[int, dict | None] = {}
        self.listening = False
        self.done = False

    def fail(self, error: BaseException) -> None:
        """Tell others of an error; or raise theirs if a connection has ended."""
        if isinstance(error, LostPeersError):
            notice = self.reason()
            self.tell(notice)
            kind = ValueError if notice["kind"] == "value" else RuntimeError
            raise kind(notice["text"]) from error.__cause__
        self.tell(_notice_about(error))
        # Others may have failed for a reason of their own; let them find out.
        self.listen(_GRACE)

    def reason(self) -> dict[str, str]:
        """Why another process is gone."""
        self.listen(_PATIENCE, after_first=_PATIENCE / 10)
        notices = [self.found[rank] for rank in sorted(self.found)]
        for notice in filter(None, notices):
            return notice
        lost = [str(rank) for rank in sorted(self.found)]
        who = f"rank {' and '.join(lost)} has" if lost else "another process has"
        text = (
            f"{who} ended or lost its connection, so no process has a new model; start "
            "all processes again."
        )
        return {"kind": "other", "text": text}

    def listen(self, seconds: float, after_first: float | None = None) -> None:
        """Wait a little for notices, or for the ends of connections."""
        if not self.listening:
            self.listening = True
            for rank in self.others:
                # gloo tells of the end of a connection only those that wait for it.
                threading.Thread(target=self._hear, args=(rank,), daemon=True).start()
        end = time.monotonic() + seconds
        while len(self.found) < len(self.others):
            try:
                rank = self.heard.get(timeout=max(end - time.monotonic(), 0.0))
            except queue.Empty:
                return
            self.found[rank] = _read(self.inbox[rank])
            if after_first is not None:
                end = min(end, time.monotonic() + after_first)

    def _hear(self, rank: int) -> None:
        # A notice that did not come is still empty.
        with suppress(RuntimeError):
            self.arrivals[rank].wait()
        self.heard.put(rank)

    def tell(self, notice: dict[str, str]) -> None:
        """Send a notice to all that are still there."""
        text = json.dumps(notice).encode()
        message = _empty_notice()
        message[: len(text)] = torch.frombuffer(bytearray(text), dtype=torch.uint8)
        sent = []
        for rank in self.others:
            with suppress(RuntimeError):
                sent.append(dist.isend(message, rank, group=self.group, tag=_TAG))
        for work in sent:
            with suppress(RuntimeError):
                work.wait(timedelta(seconds=_PATIENCE))

    def close(self) -> None:
        """Drop the connections; after a failure, so that nobody waits for this one."""
        # torch closes those of gloo only with the last reference to the group; but one
        # message that is late closes all.
        for rank in () if self.done else self.others:
            for tag in _UNUSED_TAGS:
                with suppress(RuntimeError):
                    late = dist.irecv(_empty_notice(), rank, self.group, tag)
                    late.wait(timedelta(milliseconds=1))
        dist.destroy_process_group(self.group)


def _new_group() -> Any:
    # All processes are here, so one that does not come has died. Afterwards, another
    # one may keep this one waiting for much longer.
    adjustable = hasattr(dist.ProcessGroup, "set_timeout")
    with naming_losses():
        if not adjustable:
            return dist.new_group(backend="gloo")
        group = dist.new_group(backend="gloo", timeout=_MEETING)
    group.set_timeout(default_pg_timeout)
    return group


def _empty_notice() -> torch.Tensor:
    return torch.zeros(_NOTICE, dtype=torch.uint8)


def _notice_about(error: BaseException) -> dict[str, str]:
    kind = "value" if isinstance(error, ValueError) else "other"
    said = in_one_line(error, TOLD)
    text = f"rank {dist.get_rank()} failed, so no process has a new model: {said}"
    return {"kind": kind, "text": text}


def _read(notice: torch.Tensor) -> dict[str, Any] | None:
    text = bytes(notice.numpy()).rstrip(b"\0")
    return json.loads(text) if text else None
