"""Speech by espeak-ng, and noise, as models of sound take them. 16 kHz throughout."""

import subprocess
import tempfile
import wave
from dataclasses import dataclass
from math import gcd

import numpy as np
from scipy.signal import resample_poly

from real.spectra import RATE, decibels, mel_filters, power
from real.store import Rows, Store
from real.texts import paragraphs

_VOICES = [
    f"{language}+{variant}"
    for language in ("en-us", "en-gb", "de", "fr-fr")
    for variant in ("m1", "m3", "m5", "m7", "f1", "f2", "f4", "croak", "whisper")
]
_UTTERANCES = 288  # eight for each voice
_RANGES = {"cal": range(180), "eval": range(180, _UTTERANCES)}
_SEEDS = {"cal": 21, "eval": 22}


@dataclass(frozen=True)
class Utterance:
    """Samples at 16 kHz, and who speaks."""

    voice: int
    sound: np.ndarray


def utterances(store: Store, part: str) -> list[Utterance]:
    """Return what espeak-ng says; one part's texts are not the other's, the voices are."""
    file = store.root / "data" / "speech.npz"
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng(5)
        spoken = [_speak(index % len(_VOICES), rng) for index in range(_UTTERANCES)]
        np.savez(file, **{str(index): sound for index, sound in enumerate(spoken)})
    with np.load(file) as kept:
        return [Utterance(index % len(_VOICES), kept[str(index)]) for index in _RANGES[part]]


def _speak(voice: int, rng: np.random.Generator) -> np.ndarray:
    text = paragraphs()[rng.integers(len(paragraphs()))][:300]
    speed, pitch = (str(rng.integers(*limits)) for limits in ((130, 200), (30, 70)))
    with tempfile.NamedTemporaryFile(suffix=".wav") as spoken:
        command = ["espeak-ng", "-v", _VOICES[voice], "-s", speed, "-p", pitch, "-w", spoken.name]
        subprocess.run([*command, "--stdin"], input=text, text=True, check=True)
        with wave.open(spoken.name) as file:
            rate = file.getframerate()
            samples = np.frombuffer(file.readframes(file.getnframes()), np.int16) / 32768
    common = gcd(rate, RATE)
    return np.asarray(resample_poly(samples, RATE // common, rate // common), np.float32)


def noise(kind: int, length: int, others: list[Utterance], rng: np.random.Generator) -> np.ndarray:
    """Return white noise, a rumble, or other people's speech."""
    white = rng.standard_normal(length)
    if kind == 1:
        rumble = np.cumsum(white)
        return rumble - np.convolve(rumble, np.ones(800) / 800, "same")
    if kind == 2:
        return np.resize(others[rng.integers(len(others))].sound, length)
    return white


def mixed(
    sound: np.ndarray, snr: float, kind: int, others: list[Utterance], rng: np.random.Generator
) -> np.ndarray:
    """Return a sound with noise ``snr`` dB below it."""
    added = noise(kind, len(sound), others, rng)
    scale = np.std(sound) / max(np.std(added), 1e-9) * 10 ** (-snr / 20)
    return sound + added * scale


def dnsmos(store: Store, part: str, seconds: int = 144160) -> Rows:
    """Return nine seconds of speech, noisy or clipped, [rows, 144160]."""
    spoken, rng = utterances(store, part), np.random.default_rng(_SEEDS[part])
    rows = []
    for index in range({"cal": 120, "eval": 100}[part]):
        sound = np.resize(spoken[index % len(spoken)].sound, seconds)
        sound = sound * rng.uniform(0.2, 1) / np.abs(sound).max()
        kind = int(rng.integers(4))
        if kind == 3:
            sound = np.clip(sound, -0.15, 0.15)
        rows.append(np.clip(mixed(sound, rng.uniform(-5, 40), kind, spoken, rng), -1, 1))
    return Rows({"input_1": np.stack(rows).astype(np.float32)})


def dnsmos_p808(store: Store, part: str) -> Rows:
    """Return the same as mel spectra in dB, [rows, 900, 120]."""
    filters = mel_filters(161, 120)
    rows = [
        decibels(power(np.pad(sound[:-160], 160), 321, 160)[:900] @ filters.T)
        for sound in dnsmos(store, part).inputs["input_1"].astype(np.float64)
    ]
    return Rows({"input_1": np.stack(rows).astype(np.float32)})


def aecmos(store: Store, part: str) -> Rows:
    """Return mel spectra of far end, microphone and cleaned sound, and the first state, zeros.

    Two seconds, and forty frames that say what is spoken: [rows, 3, 165, 160] and [4, 1, 64].
    """
    spoken, rng = utterances(store, part), np.random.default_rng([_SEEDS[part], 1])
    filters, length = mel_filters(257, 160), 2 * RATE
    rows = []
    for _ in range({"cal": 200, "eval": 150}[part]):
        far, near = (_piece(spoken, length, rng) for _ in range(2))
        echo = np.convolve(far, rng.standard_normal(400) * np.exp(-np.arange(400) / 60), "same")
        echo *= rng.uniform(0.05, 1) * np.std(far) / max(np.std(echo), 1e-9)
        near = near * rng.uniform(0, 1)
        clean = near + echo * 10 ** (-rng.uniform(0, 40) / 20)
        clean = np.clip(clean, -1, 1) if rng.random() < 0.7 else np.clip(clean, -0.1, 0.1)
        scenario = int(rng.integers(3))  # near end alone, far end alone, both
        marks = (float(scenario != 0), float(scenario != 1), 1.0)
        features = []
        for sound, mark in zip((far, near + echo, clean), marks, strict=True):
            level = decibels(power(np.pad(sound, 256), 513, 256)[:125] @ filters.T)
            frames = [level, np.full((20, 160), mark), np.zeros((20, 160))]
            features.append(np.concatenate(frames))
        rows.append(np.stack(features))
    return Rows({"input": np.stack(rows).astype(np.float32), "h0": np.zeros((4, 1, 64), "f4")})


def _piece(spoken: list[Utterance], length: int, rng: np.random.Generator) -> np.ndarray:
    sound = np.resize(spoken[rng.integers(len(spoken))].sound, 4 * length).astype(np.float64)
    start = int(rng.integers(3 * length))
    return sound[start : start + length] * rng.uniform(0.2, 1)


def melspec(store: Store, part: str) -> Rows:
    """Return two seconds of speech with a little noise, as the wake word's front end takes it."""
    spoken, rng = utterances(store, part), np.random.default_rng([_SEEDS[part], 2])
    rows = []
    for _ in range({"cal": 240, "eval": 150}[part]):
        sound = mixed(_piece(spoken, 2 * RATE, rng), rng.uniform(5, 50), 0, spoken, rng)
        rows.append(sound * 8000)
    return Rows({"input": np.stack(rows).astype(np.float32)})


def resemblyzer(store: Store, part: str) -> Rows:
    """Return 1.6 s of speech as 40 mel powers, [rows, 160, 40], and who speaks."""
    spoken, rng = utterances(store, part), np.random.default_rng([_SEEDS[part], 3])
    filters = mel_filters(201, 40)
    rows, voices = [], []
    for utterance in spoken:
        loudness = max(np.sqrt(np.mean(utterance.sound**2)), 1e-9)
        sound = utterance.sound * (10 ** (-30 / 20) / loudness)
        sound = sound + rng.standard_normal(len(sound)) * 10 ** rng.uniform(-4.5, -3)
        mel = power(np.pad(sound, 200, mode="reflect"), 400, 160) @ filters.T
        for _ in range(5 if len(mel) > 170 else 0):
            start = int(rng.integers(len(mel) - 160))
            rows.append(mel[start : start + 160])
            voices.append(utterance.voice)
    return Rows({"mels": np.stack(rows).astype(np.float32)}, {"labels": np.array(voices)})
