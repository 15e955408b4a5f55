"""The GPUs that people rent, and what a run takes on each of them."""

from dataclasses import dataclass

GIB = 2**30


@dataclass(frozen=True)
class Card:
    """Memory and peak rates, dense and with fp32 accumulation, as the vendor's data sheet gives them.

    `efficiency` is the share of the peak that training is assumed to reach: GeForce cards have a low peak
    with fp32 accumulation and reach more of it, the fastest ones wait for their memory.
    """

    name: str
    gib: int
    half: float  # TFLOP/s in bf16, or in fp16 where there is no bf16
    single: float  # TFLOP/s in fp32
    efficiency: float
    has_bf16: bool = True

    @property
    def memory(self) -> int:
        return self.gib * GIB

    def precision(self, wish: str) -> str:
        """The precision in which this card trains, where runtime.precision is `wish`."""
        if wish != "auto":
            return wish
        return "bf16" if self.has_bf16 else "fp32"

    def seconds(self, flops: float, precision: str) -> float:
        """The time that so many FLOPs take at `efficiency` of the card's peak."""
        peak = self.single if precision == "fp32" else self.half
        return flops / (peak * 1e12 * self.efficiency)


CARDS = (
    Card("RTX 3070", 8, 40.6, 20.3, 0.45),
    Card("RTX 4060", 8, 30.2, 15.1, 0.45),
    Card("RTX 3080", 10, 59.5, 29.8, 0.45),
    Card("RTX 3060", 12, 25.5, 12.7, 0.45),
    Card("RTX 4070", 12, 58.3, 29.1, 0.45),
    Card("T4", 16, 65, 8.1, 0.30, has_bf16=False),
    Card("RTX A4000", 16, 76.7, 19.2, 0.40),
    Card("RTX 4060 Ti", 16, 44.1, 22.1, 0.45),
    Card("RTX 4080", 16, 97.5, 48.7, 0.45),
    Card("RTX 3090", 24, 71, 35.6, 0.45),
    Card("A10G", 24, 70, 31.5, 0.40),
    Card("L4", 24, 121, 30.3, 0.25),
    Card("RTX 4090", 24, 165, 82.6, 0.45),
    Card("RTX 5090", 32, 209, 104.8, 0.45),
    Card("RTX A6000", 48, 155, 38.7, 0.40),
    Card("L40S", 48, 362, 91.6, 0.25),
    Card("A100 40 GB", 40, 312, 19.5, 0.40),
    Card("A100 80 GB", 80, 312, 19.5, 0.40),
    Card("H100", 80, 989, 66.9, 0.30),
    Card("H200", 141, 989, 66.9, 0.30),
    Card("B200", 180, 2250, 75.0, 0.25),
)
