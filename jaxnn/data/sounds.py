"""Sounds in WAV files, and their log-mel features."""

import math
import struct
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxnn.core.validation import listed, require_number, require_positive_integer
from jaxnn.data.optional import require_library

WINDOW, HOP = 0.025, 0.010
"""Seconds of a frame, and from one to the next."""
MELS = 40
FLOOR = 1e-6
"""Is added to the energies: the logarithm of silence is −13.8."""

_PCM, _FLOAT, _EXTENSIBLE = 1, 3, 0xFFFE
_MOST_CHANNELS = 64
_NAMED = 5


class Hearing(NamedTuple):
    """How sounds become features."""

    rate: int
    """Samples in a second."""
    resampled: bool = False
    """Whether sounds of other rates are brought to it."""
    mels: int = MELS
    window: float = WINDOW
    hop: float = HOP
    centred: bool = False
    """Whether the mean over a sound's frames is taken off each band: what a microphone and a voice
    add to all of it."""

    def features(self, path: Path) -> np.ndarray:
        """float32 [frames, mels] of a file; see `log_mel`.

        Raises:
            ValueError: It cannot be read, is too short, or has another rate.
        """
        rate, sound = read_wav(path)
        if rate != self.rate and not self.resampled:
            raise ValueError(
                f"{path}: expected {self.rate} samples a second, as in training, got {rate}; train "
                f"with --rate {self.rate} to have others resampled"
            )
        sound = resample(sound, rate, self.rate)
        try:
            rows = log_mel(sound, self.rate, mels=self.mels, window=self.window, hop=self.hop)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
        return rows - rows.mean(0, dtype=np.float32) if self.centred else rows


def one_rate(paths: Sequence[Path]) -> int:
    """The rate that all of the sounds have.

    Raises:
        ValueError: They differ; those that do are named.
    """
    rates = [read_wav(path)[0] for path in paths]
    most = Counter(rates).most_common(1)[0][0]
    others = [f"{p} ({r})" for p, r in zip(paths, rates, strict=True) if r != most]
    if others:
        more = f" and {len(others) - _NAMED} more" * (len(others) > _NAMED)
        raise ValueError(
            f"sounds: expected all to have {most} samples a second, as most have, got "
            f"{', '.join(others[:_NAMED])}{more}; --rate {most} resamples them"
        )
    return most


def encode_transcripts(transcripts: Sequence[str], alphabet: str, where: str) -> list[np.ndarray]:
    """int32 labels of each: 1 for the first character of the alphabet; 0 is the blank of CTC.

    Raises:
        ValueError: One is empty, or has characters that are not in the alphabet.
    """
    place = {character: label for label, character in enumerate(alphabet, 1)}
    for number, text in enumerate(transcripts, 1):
        if not text:
            raise ValueError(f"{where}, row {number}: expected a transcript, got none")
        if unknown := sorted({*text} - {*place}):
            raise ValueError(
                f"{where}, row {number}: expected characters of the transcripts of the training, "
                f"got {listed(map(repr, unknown))}"
            )
    return [np.array([place[c] for c in text], np.int32) for text in transcripts]


def require_readable(
    paths: Sequence[Path], frames: Sequence[np.ndarray], labels: Sequence[np.ndarray]
) -> None:
    """Raise ValueError, naming the file, where a sound has too few frames for its transcript: one
    for each character, and one more between two that are equal."""
    for path, of, said in zip(paths, frames, labels, strict=True):
        needed = len(said) + int((said[1:] == said[:-1]).sum())
        if needed > len(of):
            raise ValueError(
                f"{path}: expected at least {needed} frames for its {len(said)} characters, got "
                f"{len(of)}: a shorter --hop makes more"
            )


def read_wav(path: str | Path) -> tuple[int, np.ndarray]:
    """(samples in a second, float64 [samples]): integers become −1 to 1, channels their mean.

    Integers of b bits are divided by 2^(b − 1), those of 8 bits after 128 is taken off; floating
    point is taken as it is.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is not a whole RIFF WAVE file of 8, 16, 24 or 32 bits or of floating point,
            has no samples, or some that are not finite.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: expected a WAV file, got none")
    content = path.read_bytes()
    try:
        channels, rate, kind, bits, data = _chunks(content)
    except (ValueError, struct.error) as error:
        raise ValueError(f"{path}: expected a whole WAV file, got {error}") from None
    size = bits // 8
    if len(data) % (size * channels):
        raise ValueError(f"{path}: expected whole samples of {channels} × {bits} bits, got a rest")
    if not data:
        raise ValueError(f"{path}: expected samples, got none")
    if kind == _FLOAT:
        samples = np.frombuffer(data, f"<f{size}").astype(np.float64)
    elif size == 1:
        samples = (np.frombuffer(data, np.uint8).astype(np.float64) - 128) / 128
    else:
        # The bytes of an integer are the highest ones of 32 bits.
        wide = np.zeros((len(data) // size, 4), np.uint8)
        wide[:, 4 - size :] = np.frombuffer(data, np.uint8).reshape(-1, size)
        samples = wide.view("<i4")[:, 0] / 2.0**31
    if not np.isfinite(samples).all():
        raise ValueError(f"{path}: expected finite samples, got NaN or infinity")
    return rate, samples.reshape(-1, channels).mean(1)


def _chunks(content: bytes) -> tuple[int, int, int, int, bytes]:
    """Channels, rate, kind, bits and the bytes of the samples."""
    if content[:4] in (b"RF64", b"RIFX"):
        raise ValueError(f"the form {content[:4].decode()}: save it as RIFF")
    if content[:4] != b"RIFF" or content[8:12] != b"WAVE":
        raise ValueError("other bytes at its beginning")
    place, form = 12, None
    while place + 8 <= len(content):
        name, size = struct.unpack_from("<4sI", content, place)
        inside = content[place + 8 : place + 8 + size]
        if len(inside) < size and name in (b"fmt ", b"data"):
            raise ValueError(f"{len(inside)} of the {size} bytes of {name.decode().strip()}")
        if name == b"fmt ":
            kind, channels, rate, _, _, bits = struct.unpack_from("<HHIIHH", inside)
            if kind == _EXTENSIBLE:
                (kind,) = struct.unpack_from("<H", inside, 24)
            if (kind, bits) not in [(_PCM, b) for b in (8, 16, 24, 32)] + [
                (_FLOAT, 32),
                (_FLOAT, 64),
            ]:
                raise ValueError(
                    f"the format {kind} of {bits} bits: save it as integers of 8, 16, 24 or 32 "
                    "bits or as floating point"
                )
            if not (1 <= channels <= _MOST_CHANNELS and rate):
                raise ValueError(f"{channels} channels at {rate} samples a second")
            form = channels, rate, kind, bits
        elif name == b"data":
            if form is None:
                raise ValueError("samples before their format")
            return *form, inside
        place += 8 + size + size % 2
    raise ValueError("no samples")


def resample(sound: np.ndarray, rate: int, wanted: int) -> np.ndarray:
    """The sound at another rate, by a polyphase filter (`scipy.signal.resample_poly`)."""
    if rate == wanted:
        return sound
    signal = require_library("scipy.signal", "resampling")
    shared = math.gcd(rate, wanted)
    return signal.resample_poly(sound, wanted // shared, rate // shared)


def log_mel(
    sound: np.ndarray,
    rate: int,
    *,
    mels: int = MELS,
    window: float = WINDOW,
    hop: float = HOP,
) -> np.ndarray:
    """float32 [frames, mels], the logarithms of the energies in bands of the mel scale.

    Frame t holds n = window · rate samples from t · hop · rate on, and there are as many as fit.
    With the periodic Hann window w and the FFT of the next power of two N ≥ n, zeros filled in,

        P[t, k] = |Σ_i w[i] x[t · hop · rate + i] exp(−2πj k i / N)|²,  w[i] = sin²(π i / n)
        y[t, m] = log(10⁻⁶ + Σ_k H[m, k] P[t, k])

    H[m] is a triangle from 0 at c[m − 1] up to 1 at c[m] and down to 0 at c[m + 1] over the
    frequencies k · rate / N, where the c[0], …, c[mels + 1] are evenly apart from 0 to rate / 2 on
    the scale mel(f) = 2595 log₁₀(1 + f / 700) (S. Young et al., The HTK Book, 5.4; S. B. Davis and
    P. Mermelstein, IEEE Trans. ASSP 28, 1980).

    Raises:
        ValueError: The sound is shorter than a frame, or a band has no frequency of the FFT.
    """
    require_positive_integer("log_mel", "mels", mels)
    for name, seconds in (("window", window), ("hop", hop)):
        require_number("log_mel", name, seconds, minimum=0, maximum=10, open_minimum=True)
    size, step = round(window * rate), max(round(hop * rate), 1)
    if size < 2 or len(sound) < size:
        raise ValueError(
            f"log_mel: expected at least {max(size, 2)} samples, a frame of {window:g} s, got "
            f"{len(sound)}"
        )
    length = 1 << (size - 1).bit_length()
    frames = np.lib.stride_tricks.sliding_window_view(sound, size)[::step]
    hann = np.sin(np.pi * np.arange(size) / size) ** 2
    power = np.abs(np.fft.rfft(frames * hann, length)) ** 2
    return np.log(FLOOR + power @ mel_filters(rate, length, mels).T).astype(np.float32)


def mel_filters(rate: int, length: int, mels: int) -> np.ndarray:
    """[mels, length / 2 + 1], the triangles H of `log_mel`."""
    highest = 2595 * math.log10(1 + rate / 2 / 700)
    centres = 700 * (10 ** (np.linspace(0, highest, mels + 2) / 2595) - 1)
    frequencies = np.arange(length // 2 + 1) * rate / length
    below, centre, above = (centres[i : i + mels, None] for i in range(3))
    rising, falling = (
        (frequencies - below) / (centre - below),
        (above - frequencies) / (above - centre),
    )
    filters = np.maximum(np.minimum(rising, falling), 0)
    if not filters.any(1).all():
        raise ValueError(
            f"log_mel: expected bands with a frequency each, got {int((~filters.any(1)).sum())} of "
            f"{mels} without at {rate} samples a second: take fewer mels or a longer window"
        )
    return filters
