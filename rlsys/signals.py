"""Stopping when asked to: a signal sets a flag."""

import contextlib
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass
class Stop:
    """The signal that asked for a stop, if any."""

    requested: str = ""


@contextlib.contextmanager
def stop_signals(*more: signal.Signals) -> Iterator[Stop]:
    """SIGTERM, Ctrl-C and `more` set a flag, for a loop to read; a second one raises KeyboardInterrupt at once.

    Of `more`, those that are ignored stay so: `nohup` means what it says.
    """
    stop = Stop()

    def request(number, frame):
        if stop.requested:
            raise KeyboardInterrupt
        stop.requested = signal.Signals(number).name
        text = f"\nrlsys: {stop.requested}: stopping as soon as all is saved; once more stops at once\n"
        os.write(2, text.encode())  # print is not for signal handlers

    heeded = [number for number in more if signal.getsignal(number) != signal.SIG_IGN]
    numbers = (signal.SIGTERM, signal.SIGINT, *heeded)
    try:
        before = [signal.signal(number, request) for number in numbers]
    except ValueError:  # not the main thread: signals are somebody else's
        yield stop
        return
    try:
        yield stop
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
