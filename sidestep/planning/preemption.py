"""The cost of preemptions, and the interval between commits at which they cost least."""

from dataclasses import dataclass
from math import sqrt

PUSH_BYTES = 50e6  # a second, assumed of the way to the store
COMMIT_SECONDS = 2.0  # assumed of a commit beside the push: listing, digests, the record
RESTART_SECONDS = 300.0  # assumed: another machine, its image, the weights, the start


@dataclass(frozen=True)
class Preemptions:
    """Commits and losses of a run whose machine is taken away now and then. Seconds, but for the share."""

    uptime: float  # that a machine is kept, on the average
    commit: float  # that one takes
    interval: float  # between commits, the best
    lost_share: float  # of the machine's time: to commits, to work done twice, and to restarts


def plan_for_preemptions(state_bytes: float, uptime: float) -> Preemptions:
    """The best interval between commits where a machine is taken away every `uptime` seconds on the average.

    Young's first order and Daly's next ones, "A higher order estimate of the optimum checkpoint interval for
    restart dumps" (2006), equation 37; training is taken to wait for a commit, which it does only in part.
    """
    commit = COMMIT_SECONDS + state_bytes / PUSH_BYTES
    if commit >= 2 * uptime:
        interval = uptime
    else:
        ratio = commit / (2 * uptime)
        interval = sqrt(2 * commit * uptime) * (1 + sqrt(ratio) / 3 + ratio / 9) - commit
    share = commit / interval + (interval / 2 + RESTART_SECONDS) / uptime
    return Preemptions(uptime, commit, interval, share)
