"""Static int8 by NNCF, in an environment of its own, for ``benchmarks/kinds.py``.

    /path/to/nncf/bin/python nncf_int8.py IN.onnx FEEDS.npz OUT.onnx [transformer]

``FEEDS.npz`` has arrays named ``NUMBER/INPUT``: one calibration run for each number.
"""

import logging
import sys
from collections import defaultdict

import nncf
import numpy as np
import onnx


def main() -> None:
    source, feeds, out, *rest = sys.argv[1:]
    nncf.set_log_level(logging.ERROR)
    runs: dict[int, dict[str, np.ndarray]] = defaultdict(dict)
    with np.load(feeds) as file:
        for name in file.files:
            number, _, input_name = name.partition("/")
            runs[int(number)][input_name] = file[name]
    kind = nncf.ModelType.TRANSFORMER if rest == ["transformer"] else None
    model = nncf.quantize(
        onnx.load(source),
        nncf.Dataset([runs[number] for number in sorted(runs)]),
        model_type=kind,
        subset_size=len(runs),
    )
    onnx.save(model, out)


if __name__ == "__main__":
    main()
