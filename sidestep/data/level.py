"""Brings songs to a level, by one gain over the whole song: to a peak, or to a loudness.

Loudness is integrated loudness after ITU-R BS.1770, as FFmpeg's ebur128 filter measures it.
"""

import logging
from fractions import Fraction

import av
from av.filter import Graph
from av.filter.context import FilterContext
from torch import Tensor

from sidestep.data.audio import SAMPLE_RATE

log = logging.getLogger(__name__)

QUIETEST_LUFS = -70.0  # what BS.1770 leaves out as silence; ebur128 gives it where nothing is louder


def normalized(waveform: Tensor, levels: dict[str, float], name: str) -> Tensor:
    """A song [2, N] of float32 at 48 kHz with one gain over all of it, which brings it to `levels`.

    First its peak to the peak level, and from there its loudness down to the loudness asked for: a faint song
    is measured where BS.1770 hears it. One whose loudness lies below even then stays at the peak level, and
    so does one of less than 0.4 s, which has no loudness.
    """
    if not levels:
        return waveform
    waveform = waveform * _factor(levels["peak"] - peak_db(waveform))
    if "lufs" in levels:
        too_loud = loudness(waveform) - levels["lufs"]
        if too_loud >= 0:
            return waveform * _factor(-too_loud)
        log.info(
            "%s is brought to a peak of %g dBFS: its loudness cannot go any higher", name, levels["peak"]
        )
    return waveform


def _factor(gain: float) -> float:
    """dB → factor of the amplitude."""
    return 10 ** (gain / 20)


def peak_db(waveform: Tensor) -> float:
    """The loudest sample in dBFS; -inf for silence."""
    return float(20 * waveform.abs().max().log10())


def loudness(waveform: Tensor) -> float:
    """Integrated loudness in LUFS of [2, N] at 48 kHz; -70 for silence and for less than 0.4 s."""
    graph = Graph()
    source = graph.add_abuffer(
        sample_rate=SAMPLE_RATE, format="fltp", layout="stereo", time_base=Fraction(1, SAMPLE_RATE)
    )
    meter, sink = graph.add("ebur128", "metadata=1"), graph.add("abuffersink")
    source.link_to(meter)
    meter.link_to(sink)
    graph.configure()
    measured = QUIETEST_LUFS
    for start, chunk in enumerate(waveform.split(SAMPLE_RATE, dim=1)):
        frame = av.AudioFrame.from_ndarray(chunk.contiguous().numpy(), "fltp", "stereo")
        frame.sample_rate, frame.pts = SAMPLE_RATE, start * SAMPLE_RATE
        source.push(frame)
        measured = _drain(sink, measured)
    source.push(None)
    return _drain(sink, measured)


def _drain(sink: FilterContext, measured: float) -> float:
    """The loudness of all that has gone in so far, as the last whole tenth of a second carries it."""
    while True:
        try:
            measured = float(sink.pull().metadata.get("lavfi.r128.I", measured))
        except (av.BlockingIOError, av.EOFError):
            return measured
