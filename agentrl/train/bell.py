"""Waking the trainer when a group of episodes has ended, so that it need not poll its buffer."""

from __future__ import annotations

import zmq

WAITING = 1000
"""Rings that may wait to be heard; one is as good as many."""


class Bell:
    """The trainer's end: waits for a ring.

    Args:
        host: address of this machine that the rollout processes can reach.

    What a ring contains is never looked at: it only makes the trainer look at its buffer.
    """

    def __init__(self, host: str = "127.0.0.1") -> None:
        self._socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.PULL)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.RCVHWM, WAITING)
        self._socket.setsockopt(zmq.IPV6, int(":" in host))
        port: int = self._socket.bind_to_random_port(f"tcp://{f'[{host}]' if ':' in host else host}")
        self.address = f"tcp://{f'[{host}]' if ':' in host else host}:{port}"

    def wait(self, seconds: float) -> bool:
        """Wait for a ring; whether there was one. Those that came meanwhile count as one."""
        rung = bool(self._socket.poll(round(1000 * seconds)))
        while self._socket.poll(0):
            self._socket.recv()
        return rung

    def close(self) -> None:
        """Hear nothing more."""
        self._socket.close()


class Ringer:
    """A rollout process's end.

    Args:
        address: of the bell.
    """

    def __init__(self, address: str) -> None:
        self._socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.PUSH)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.SNDHWM, WAITING)
        self._socket.setsockopt(zmq.IPV6, int("[" in address))
        self._socket.connect(address)

    def ring(self) -> None:
        """Wake the trainer. Never waits: where rings pile up, it will look anyway."""
        try:
            self._socket.send(b"", zmq.NOBLOCK)
        except zmq.Again:
            return
