"""What the held-out songs of a finished run say of its checkpoints, for a musician."""

import posixpath
from dataclasses import dataclass

from sidestep.report.contents import At, Published, Validation

FEW = 5
"""Held-out songs below which a difference may be chance; as in `training.verdict`."""
ERRORS = 2.0  # standard errors, likewise


@dataclass(frozen=True)
class Advice:
    """Attributes:
    headline: which checkpoint to use, and why.
    remarks: what to know about it, a sentence each.
    """

    headline: str
    remarks: list[str]


def advice_of(found: Validation, published: Published | None = None) -> Advice:
    """By the best held-out loss. Nothing is said for sure that a few songs cannot tell.

    `published` is the checkpoint that adapter/ is; None: nobody has said.
    """
    first, best, last = found.first, found.best, found.last
    if best is None:
        return Advice("Use none of these checkpoints: the held-out loss was never finite.", _why_not_finite())
    remarks = [_how_sure(found)]
    if _is_worse(first, best):
        headline = (
            "Better use none of these checkpoints: on songs that it has not seen, the adapter never got "
            "better than the model without it."
        )
        return Advice(headline, [*remarks, _MORE])
    if found.gain and found.gain.mean > -ERRORS * found.gain.standard_error:
        headline = (
            f"No checkpoint is clearly better than no adapter. The lowest held-out loss is that of "
            f"{_name(best)}, and the difference may be chance."
        )
        return Advice(headline, [*remarks, _MORE])
    if best.step == last.step:
        headline = f"Use the last checkpoint, {_name(best)}: the held-out loss is lowest there."
        return Advice(headline, [*remarks, "It was still falling: with more epochs, it may fall further."])
    after = "After that, it gets no better."
    if _memorizes(found, best):
        after = "After that, the adapter memorizes: better on songs that it trains on, and worse on others."
    headline = f"Use {_name(best)}: the held-out loss is lowest there. {after}"
    return Advice(headline, [*remarks, *_where_it_is(best, published)])


_MORE = (
    "What may help: more songs, songs that have more in common, a higher or lower learning rate, or more "
    "modules; and more held-out songs, to tell smaller differences."
)


def _why_not_finite() -> list[str]:
    return ["A lower learning rate, or runtime.precision fp32, keeps the loss finite."]


def _name(at: At) -> str:
    return posixpath.basename(at.checkpoint) if at.checkpoint else f"the one of step {at.step}"


def _where_it_is(best: At, published: Published | None) -> list[str]:
    if published and published.step == best.step:
        return ["The folder adapter/ has it."]
    if best.checkpoint is None:
        return [f"The checkpoint of step {best.step} was not kept: train.best: true keeps it."]
    return [f"`sidestep publish` with --checkpoint {_name(best)} makes it the adapter."]


def _is_worse(first: At, best: At) -> bool:
    return first.held_out is not None and best.smoothed is not None and best.smoothed >= first.held_out


def _memorizes(found: Validation, best: At) -> bool:
    """Whether after the best the loss on trained songs falls, and that on held-out ones rises for sure."""
    after, then, now = found.after_best, best.trained, found.last.trained
    if after is None or then is None or now is None:
        return False
    return after.mean > ERRORS * after.standard_error and now < then


def _how_sure(found: Validation) -> str:
    count = found.songs_held_out
    if found.gain:
        by, word = abs(found.gain.mean), "lower" if found.gain.mean < 0 else "higher"
        return (
            f"At its best, the loss on the {count} held-out songs is {by:.4f} {word} than without the "
            f"adapter, with a standard error of {found.gain.standard_error:.4f}: more than twice that is "
            "hardly chance."
        )
    if count < FEW:
        songs = "Only one song is" if count == 1 else f"Only {count} songs are"
        return f"{songs} held out: what they say may be chance. Trust your ears more than this page."
    return "The loss of single songs is not finite, so how sure the difference is cannot be said."
