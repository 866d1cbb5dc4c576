"""A worker's connection to another one of the same model: frames both ways, and none waits for the other.

Two that both waited for the other one to read would do so for ever: what cannot be sent now is kept, and
what comes is taken as it comes.
"""

import socket
from collections import deque
from typing import Final

from exo.shards import frames
from exo.shards.frames import FromWorker, ToWorker

# Bytes that are read at once.
_PIECE: Final = 1 << 20


class Link:
    """To be asked `receive` whenever there is something to read, and `flush` once there is room while some
    of it is `unsent`. Both raise `ConnectionError` where the other side is gone."""

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        self._connection = connection
        self._received = bytearray()
        self._unsent: deque[memoryview] = deque()

    def fileno(self) -> int:
        return self._connection.fileno()

    def close(self) -> None:
        self._connection.close()

    @property
    def unsent(self) -> bool:
        return bool(self._unsent)

    def send(self, message: ToWorker | FromWorker, payload: memoryview | None = None) -> None:
        size = len(payload) if payload else 0
        head = frames.encode(message, size)
        if payload and size <= frames.SMALL:
            self._unsent.append(memoryview(head + payload))
        else:
            self._unsent.append(memoryview(head))
            if payload:
                self._unsent.append(payload)
        self.flush()

    def flush(self) -> None:
        while self._unsent:
            try:
                sent = self._connection.send(self._unsent[0])
            except BlockingIOError:
                return
            except OSError as error:
                raise ConnectionResetError(str(error)) from error
            self._unsent[0] = self._unsent[0][sent:]
            if not self._unsent[0]:
                self._unsent.popleft()

    def receive(self) -> list[tuple[bytes, bytearray]]:
        """The frames that are whole by now: a header and a payload each. Raises `EngineFailed` for what is
        no frame."""
        try:
            piece = self._connection.recv(_PIECE)
        except BlockingIOError:
            return []
        except OSError as error:
            raise ConnectionResetError(str(error)) from error
        if not piece:
            raise ConnectionResetError("the other worker is gone")
        self._received += piece
        whole = []
        while (size := self._first()) and size <= len(self._received):
            start = frames.HEAD.size
            end = start + frames.lengths(bytes(self._received[:start]))[0]
            whole.append((bytes(self._received[start:end]), self._received[end:size]))
            del self._received[:size]
        return whole

    def _first(self) -> int:
        """Bytes of the first frame; 0 while they are not known."""
        start = frames.HEAD.size
        if len(self._received) < start:
            return 0
        return start + sum(frames.lengths(bytes(self._received[:start])))
