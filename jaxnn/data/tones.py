"""Sounds made of tones, with the symbols they stand for: sequences without an alignment."""

from typing import NamedTuple

import numpy as np

PITCHES = 300 * 2 ** (np.arange(8) / 6)
"""Hertz, whole tones from 300 up; symbol k stands for pitch k − 1."""
RATE, FRAME = 4000, 128
"""Samples in a second and in a frame."""
BINS = 32
"""Frequencies of a frame that are kept, in steps of RATE / FRAME = 31.25 Hz."""


class Tones(NamedTuple):
    """Sounds as power spectra of frames, and what they say."""

    x: np.ndarray
    """float32 [examples, frames, BINS], log(1 + power); 0 after the end of a sound."""
    lengths: np.ndarray
    """int32 [examples], the frames of each sound."""
    symbols: np.ndarray
    """int32 [examples, symbols], 1 to 8 in the order of the tones, filled up with −1."""


def make_tones(examples: int = 2000, longest: int = 8, noise: float = 0.3, seed: int = 0) -> Tones:
    """Sequences of 1 to ``longest`` tones of varying duration, pause, pitch, timbre and loudness.

    A tone lasts 2.5 to 8 frames of 32 ms, is out of tune by up to 1 %, has a first overtone of 0 to
    0.6 and an amplitude of 0.5 to 1.5, and rises and falls within 10 ms; pauses are 1 to 4 frames.
    The noise is normal with standard deviation ``noise``.
    """
    rng = np.random.default_rng(seed)
    sounds, spoken = [], []
    for _ in range(examples):
        symbols = rng.integers(1, len(PITCHES) + 1, rng.integers(1, longest + 1))
        parts = [_pause(rng)]
        for symbol in symbols:
            parts += [_tone(rng, float(PITCHES[symbol - 1])), _pause(rng)]
        sound = np.concatenate(parts)
        frames = -(-len(sound) // FRAME)
        sound = np.pad(sound, (0, frames * FRAME - len(sound)))
        sounds.append(_spectra(sound + rng.normal(0, noise, len(sound))))
        spoken.append(symbols)
    return Tones(
        fill_up(sounds, 0).astype(np.float32),
        np.array([len(sound) for sound in sounds], np.int32),
        fill_up(spoken, -1).astype(np.int32),
    )


def _pause(rng: np.random.Generator) -> np.ndarray:
    return np.zeros(int(rng.uniform(1, 4) * FRAME))


def _tone(rng: np.random.Generator, pitch: float) -> np.ndarray:
    time = np.arange(int(rng.uniform(2.5, 8) * FRAME)) / RATE
    pitch, phases = pitch * rng.uniform(0.99, 1.01), rng.uniform(0, 2 * np.pi, 2)
    wave = np.sin(2 * np.pi * pitch * time + phases[0])
    wave += rng.uniform(0, 0.6) * np.sin(4 * np.pi * pitch * time + phases[1])
    swell = np.minimum(1, np.minimum(time, time[-1] - time) / 0.01)
    return rng.uniform(0.5, 1.5) * swell * wave


def _spectra(sound: np.ndarray) -> np.ndarray:
    frames = sound.reshape(-1, FRAME) * np.hanning(FRAME)
    return np.log1p(np.abs(np.fft.rfft(frames))[:, 1 : BINS + 1] ** 2)


def fill_up(rows: list[np.ndarray], value: float) -> np.ndarray:
    """[rows, longest, ...]: each row with ``value`` behind it, up to the longest."""
    longest = max(map(len, rows))
    return np.stack(
        [
            np.pad(r, [(0, longest - len(r)), *[(0, 0)] * (r.ndim - 1)], constant_values=value)
            for r in rows
        ]
    )
