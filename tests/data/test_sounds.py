"""WAV files and log-mel features, beside what SciPy and the standard library make of them."""

import struct
import wave

import numpy as np
import pytest
import scipy.fft
import scipy.signal
from scipy.io import wavfile

from jaxnn.data.sounds import Hearing, log_mel, mel_filters, one_rate, read_wav, resample


def noise(count=1000, channels=1, seed=0):
    return np.random.default_rng(seed).uniform(-0.9, 0.9, (count, channels))


SCALES = {
    "uint8": lambda x: np.round(x * 127 + 128).astype(np.uint8),
    "int16": lambda x: np.round(x * 32767).astype(np.int16),
    "int32": lambda x: np.round(x * (2**31 - 1)).astype(np.int32),
    "float32": lambda x: x.astype(np.float32),
    "float64": lambda x: x,
}


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("kind", SCALES)
def test_a_file_has_the_samples_that_scipy_reads(kind, channels, tmp_path):
    path, x = tmp_path / "a.wav", noise(101, channels)
    wavfile.write(path, 8000, SCALES[kind](x))
    rate, sound = read_wav(path)
    _, read = wavfile.read(path)
    scale = {"uint8": 128, "int16": 2**15, "int32": 2**31}.get(kind, 1)
    right = (read.reshape(101, channels).astype(float) - 128 * (kind == "uint8")) / scale
    assert rate == 8000
    np.testing.assert_array_equal(sound, right.mean(1))


def test_24_bits_and_an_extensible_header(tmp_path):
    values = np.array([0, 1, -1, 2**23 - 1, -(2**23)], np.int32)
    raw = b"".join(int(v).to_bytes(3, "little", signed=True) for v in values)
    with wave.open(str(tmp_path / "a.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(3)
        file.setframerate(44100)
        file.writeframes(raw)
    np.testing.assert_array_equal(read_wav(tmp_path / "a.wav")[1], values / 2**23)
    guid = struct.pack("<H", 1) + bytes.fromhex("000000001000800000aa00389b71")
    form = struct.pack("<HHIIHHHHI", 0xFFFE, 1, 44100, 132300, 3, 24, 22, 24, 0) + guid
    chunks = b"LIST\3\0\0\0abc\0" + b"fmt " + struct.pack("<I", len(form)) + form
    chunks += b"data" + struct.pack("<I", len(raw)) + raw
    content = b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WAVE" + chunks
    (tmp_path / "b.wav").write_bytes(content)
    np.testing.assert_array_equal(read_wav(tmp_path / "b.wav")[1], values / 2**23)


def edited(content, place, value):
    return content[:place] + value + content[place + len(value) :]


REFUSED = {
    "empty": (lambda c: b"", "other bytes at its beginning"),
    "another format": (lambda c: b"ID3" + c, "other bytes at its beginning"),
    "cut off": (lambda c: c[:-7], r"193 of the 200 bytes of data"),
    "a lying size": (lambda c: edited(c, 40, b"\xff\xff\xff\x7f"), "200 of the 2147483647 bytes"),
    "mu-law": (lambda c: edited(c, 20, b"\7\0"), "the format 7 of 16 bits: save it as"),
    "no channels": (lambda c: edited(c, 22, b"\0\0"), "0 channels at 8000"),
    "no rate": (lambda c: edited(c, 24, b"\0\0\0\0"), "1 channels at 0"),
    "no data": (lambda c: edited(c, 36, b"DATA"), "no samples"),
    "data first": (lambda c: edited(c, 12, b"fmu "), "samples before their format"),
    "no sample": (lambda c: edited(c, 40, b"\0\0\0\0"), "samples, got none"),
    "three channels": (lambda c: edited(c, 22, b"\3\0"), "whole samples of 3 × 16 bits"),
    "RF64": (lambda c: edited(c, 0, b"RF64"), "save it as RIFF"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_a_file_is_refused_by_its_name(kind, tmp_path):
    path = tmp_path / "a.wav"
    wavfile.write(path, 8000, np.zeros(100, np.int16))
    change, message = REFUSED[kind]
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(ValueError, match=rf"a\.wav: expected .*{message}"):
        read_wav(path)


def test_what_is_not_finite_or_not_there_is_refused(tmp_path):
    wavfile.write(tmp_path / "a.wav", 8000, np.array([0, np.nan], np.float32))
    with pytest.raises(ValueError, match="finite samples"):
        read_wav(tmp_path / "a.wav")
    with pytest.raises(FileNotFoundError, match="expected a WAV file, got none"):
        read_wav(tmp_path / "b.wav")


@pytest.mark.parametrize(("rate", "mels"), [(16000, 40), (8000, 23), (22050, 64)])
def test_log_mel_is_what_scipy_gives_frame_by_frame(rate, mels):
    sound = noise(rate // 10)[:, 0]
    size, hop = round(0.025 * rate), round(0.01 * rate)
    length = 2 ** int(np.ceil(np.log2(size)))
    hann = scipy.signal.get_window("hann", size)

    def mel(f):
        return 2595 * np.log10(1 + f / 700)

    corners = np.linspace(0, mel(rate / 2), mels + 2)
    hertz = 700 * (10 ** (corners / 2595) - 1)
    rows = []
    for start in range(0, len(sound) - size + 1, hop):
        spectrum = scipy.fft.rfft(sound[start : start + size] * hann, length)
        power = spectrum.real**2 + spectrum.imag**2
        f = scipy.fft.rfftfreq(length, 1 / rate)
        energies = [
            np.interp(f, hertz[m : m + 3], [0, 1, 0], left=0, right=0) @ power for m in range(mels)
        ]
        rows.append(np.log(np.array(energies) + 1e-6))
    found = log_mel(sound, rate, mels=mels)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, rows, rtol=1e-5, atol=1e-5)


def test_a_tone_is_loudest_in_the_band_around_it_and_silence_is_the_floor():
    time = np.arange(8000) / 16000
    loudest = log_mel(np.sin(2 * np.pi * 1000 * time), 16000).argmax(1)
    centres = 700 * (10 ** (np.linspace(0, 2595 * np.log10(1 + 8000 / 700), 42) / 2595) - 1)[1:-1]
    assert set(loudest) == {int(np.abs(centres - 1000).argmin())}
    np.testing.assert_allclose(log_mel(np.zeros(500), 16000), np.log(1e-6), rtol=1e-6)


@pytest.mark.parametrize(
    ("samples", "options", "message"),
    [
        (399, {}, "at least 400 samples, a frame of 0.025 s, got 399"),
        (400, {"mels": 300}, "take fewer mels or a longer window"),
        (400, {"hop": 0.0}, "hop"),
        (400, {"mels": 0}, "mels"),
    ],
)
def test_bad_arguments_are_refused(samples, options, message):
    with pytest.raises(ValueError, match=message):
        log_mel(np.zeros(samples), 16000, **options)


def test_resampling_keeps_a_tone():
    tone = np.sin(2 * np.pi * 440 * np.arange(44100) / 44100)
    found = resample(tone, 44100, 16000)
    right = np.sin(2 * np.pi * 440 * np.arange(16000) / 16000)
    np.testing.assert_allclose(found[200:-200], right[200:-200], atol=2e-3)
    assert resample(tone, 8000, 8000) is tone
    assert mel_filters(16000, 512, 40).shape == (40, 257)


def test_sounds_of_another_rate_are_heard_only_where_they_are_to_be_resampled(tmp_path):
    slow, fast = tmp_path / "slow.wav", tmp_path / "fast.wav"
    wavfile.write(slow, 8000, noise(800))
    wavfile.write(fast, 16000, noise(1600))
    heard = Hearing(8000, resampled=True, mels=20).features(fast)
    np.testing.assert_array_equal(
        heard, log_mel(resample(noise(1600)[:, 0], 16000, 8000), 8000, mels=20)
    )
    with pytest.raises(
        ValueError, match=r"fast.wav: expected 8000 samples .* train with --rate 8000"
    ):
        Hearing(8000).features(fast)
    assert one_rate([slow, slow]) == 8000
    with pytest.raises(ValueError, match=r"got .*fast.wav \(16000\); --rate 8000 resamples them"):
        one_rate([slow, slow, fast])
