"""How long a request to a store is tried again: one law for all of them.

Long enough to outlast a server's restart, and over about a minute after the first failure at the latest, so
that whoever asked can decide what to do about a store that stays away.
"""

import random

TRIES = 3  # at least so many, however slow each was,
SECONDS = 30.0  # and at least for so long after the first failure
LONGEST_PAUSE = 8.0
CONNECT_SECONDS = 10  # for a connection; also how long a server may leave 128 KiB of an upload unread
READ_SECONDS = 20  # of silence where an answer is due; what the system still holds of an upload counts in

_jitter = random.SystemRandom()  # training seeds the global generator, and uploads run beside it


def pause(failures: int, since_first: float) -> float | None:
    """Seconds to wait before the next try; None when it is time to give up.

    Args:
        failures: of this request so far, at least one.
        since_first: seconds since the first of them.
    """
    if failures >= TRIES and since_first >= SECONDS:
        return None
    return min(2.0 ** (failures - 1), LONGEST_PAUSE) * _jitter.uniform(0.5, 1)
