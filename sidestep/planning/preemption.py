"""What preemptions cost, and how often to commit so that they cost least."""

from dataclasses import dataclass
from math import sqrt

PUSH_BYTES = 50e6  # a second, assumed of the way to the store
COMMIT_SECONDS = 2.0  # assumed of a commit beside the push: listing, digests, the record
RESTART_SECONDS = 300.0  # assumed: another machine, its image, the weights, the start


@dataclass(frozen=True)
class Preemptions:
    """All in seconds, but for the share."""

    between: float  # on the average
    commit: float  # how long one takes
    interval: float  # between commits, the best
    share: float  # of the machine's time that is lost: to commits, to work done twice, and to restarts


def plan_for_preemptions(state_bytes: float, between: float) -> Preemptions:
    """The best interval between commits where a machine is taken away every `between` seconds.

    Young's first order and Daly's next ones, "A higher order estimate of the optimum checkpoint interval for
    restart dumps" (2006), equation 37; training is taken to wait for a commit, which it does only in part.
    """
    commit = COMMIT_SECONDS + state_bytes / PUSH_BYTES
    if commit >= 2 * between:
        interval = between
    else:
        ratio = commit / (2 * between)
        interval = sqrt(2 * commit * between) * (1 + sqrt(ratio) / 3 + ratio / 9) - commit
    share = commit / interval + (interval / 2 + RESTART_SECONDS) / between
    return Preemptions(between, commit, interval, share)
