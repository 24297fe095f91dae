"""Spectra as models of sound take them."""

import numpy as np

RATE = 16000
HOP = 160  # samples between frames of nsnet2, half of each


def mel_filters(bins: int, filters: int) -> np.ndarray:
    """Return [filters, bins] triangles on Slaney's mel scale, each of area one, for 0 to 8 kHz."""

    def to_mel(hertz: np.ndarray) -> np.ndarray:
        high = 15 + np.log(np.maximum(hertz, 1) / 1000) / (np.log(6.4) / 27)
        return np.where(hertz < 1000, hertz * 3 / 200, high)

    def to_hertz(mel: np.ndarray) -> np.ndarray:
        return np.where(mel < 15, mel * 200 / 3, 1000 * np.exp(np.log(6.4) / 27 * (mel - 15)))

    edges = to_hertz(np.linspace(0, to_mel(np.array(RATE / 2)), filters + 2))
    lines = np.linspace(0, RATE / 2, bins)
    low, middle, high = (edges[k : filters + k, None] for k in range(3))
    rise, fall = (lines - low) / (middle - low), (high - lines) / (high - middle)
    return np.maximum(0, np.minimum(rise, fall)) * 2 / (high - low)


def power(sound: np.ndarray, length: int, step: int) -> np.ndarray:
    """Return [frames, length // 2 + 1] powers under a Hann window."""
    frames = np.lib.stride_tricks.sliding_window_view(sound, length)[::step]
    return np.abs(np.fft.rfft(frames * np.hanning(length + 1)[:-1], axis=1)) ** 2


def decibels(mel: np.ndarray) -> np.ndarray:
    """Return powers in dB under the loudest, at least -80, moved and scaled to -1 to 1."""
    level = 10 * np.log10(np.maximum(mel, 1e-10))
    return np.asarray((np.maximum(level - level.max(), -80) + 40) / 40)


def spectrum(sound: np.ndarray) -> np.ndarray:
    """Return [..., frames, 161] as nsnet2's package makes it: root of Hann, half overlapping."""
    frames = np.lib.stride_tricks.sliding_window_view(sound, 2 * HOP, axis=-1)[..., ::HOP, :]
    return np.fft.rfft(frames * np.sqrt(np.hanning(2 * HOP)), axis=-1)


def sound_of(spectra: np.ndarray) -> np.ndarray:
    """Return what :func:`spectrum` was made of, but for the first and last half frame."""
    frames = np.fft.irfft(spectra, 2 * HOP, axis=-1) * np.sqrt(np.hanning(2 * HOP))
    return frames[..., 1:, :HOP].reshape(*frames.shape[:-2], -1) + frames[..., :-1, HOP:].reshape(
        *frames.shape[:-2], -1
    )
