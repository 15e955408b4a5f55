"""Weights of samples by their noise level: min-SNR (arXiv 2303.09556) in the form that fits a velocity."""

from torch import Tensor


def min_snr(t: Tensor, gamma: float) -> Tensor:
    """min((1 − t)², γ · t²) of each timestep, by which the squared error of the velocity noise − x0 counts.

    Min-SNR weights the squared error of x0 by min(SNR, γ). Here x_t = t·noise + (1 − t)·x0, so that
    SNR = ((1 − t) / t)²; and as x0 = x_t − t · velocity, an error of x0 is t times that of the velocity:

        min(SNR, γ) · ‖x0' − x0‖² = min(SNR, γ) · t² · ‖v' − v‖² = min((1 − t)², γ · t²) · ‖v' − v‖²

    The known min(SNR, γ) / (SNR + 1) is for another velocity, of noise levels whose squares add up to 1. At
    t = 0 and at t = 1 it is 0. It is largest where both are equal, at t = 1 / (1 + √γ), and its integral is
    γ / (3 · (1 + √γ)²).
    """
    return ((1 - t) ** 2).minimum(gamma * t**2)
