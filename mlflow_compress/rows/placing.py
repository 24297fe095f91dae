"""Where the rows are: fits arrays, as a person gives them, to the inputs that a model declares."""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from mlflow_compress.errors import DataError, UnsaidError
from mlflow_compress.records import InputLayout, InputSpec, Layout
from mlflow_compress.rows.declared import Declared, Size, shown
from mlflow_compress.rows.ragged import Array, Ragged

__all__ = ["Placed", "place", "unsaid"]


@dataclass(frozen=True)
class Placed:
    """Arrays with the rows first, and how the model takes them; see :class:`Rows`."""

    inputs: dict[str, Array]
    shared: dict[str, np.ndarray]
    layout: Layout


def place(
    arrays: Mapping[str, Array],
    count: int,
    inputs: Mapping[str, Declared],
    outputs: Mapping[str, Declared],
    specs: Mapping[str, InputSpec] | None = None,
    *,
    label: str = "",
) -> Placed:
    """Find the axis of rows of each input.

    What is certain is found: an array whose first axis are the rows; whose only other axis of as
    many is free in the model; one number, or an array of exactly the fixed shape that the model
    takes, which is the same for every row. Everything else has to be said.

    Args:
        arrays: arrays as the model takes them, all rows put together along its axis of rows.
        count: the number of rows.
        inputs: what the model says of its inputs; all others are left out.
        outputs: what it says of its outputs, for advice.
        specs: what a person says of inputs.
        label: what messages begin with.

    Raises:
        UnsaidError: it cannot be told; the message has the lines to write.
        DataError: an input is missing, or contradicts what was said.
    """
    placing = _Placing(arrays, count, inputs, outputs, dict(specs or {}), label)
    placing.check_specs()
    for name in sorted(inputs, key=lambda name: name not in arrays):  # those that are there first
        placing.put(name)
    return Placed(
        {name: placing.rows[name] for name in inputs if name in placing.rows},
        {name: placing.shared[name] for name in inputs if name in placing.shared},
        Layout(placing.layouts, placing.fixed_batch()),
    )


def unsaid(problem: str, name: str, entry: Mapping[str, object]) -> UnsaidError:
    """Return the error that asks how the model takes an input.

    Args:
        problem: what is wrong.
        name: the input.
        entry: what may have to be said, to show how it is written.
    """
    inner = ", ".join(f"{key}: {value}" for key, value in entry.items())
    option = ",".join(f"{key}:{value}" for key, value in entry.items())
    lines = f"data:\n  inputs:\n    {name}: {{{inner}}}"
    return UnsaidError(
        f"{problem}; say how in the configuration, as here, or to compress with "
        f"--input '{name}={option}'",
        lines,
    )


@dataclass
class _Placing:
    arrays: Mapping[str, Array]
    count: int
    inputs: Mapping[str, Declared]
    outputs: Mapping[str, Declared]
    specs: dict[str, InputSpec]
    label: str
    rows: dict[str, Array] = field(default_factory=dict)
    shared: dict[str, np.ndarray] = field(default_factory=dict)
    layouts: dict[str, InputLayout] = field(default_factory=dict)

    def check_specs(self) -> None:
        for name, spec in self.specs.items():
            if name not in self.inputs:
                raise self._wrong(
                    f"data.inputs: the model has no input {name!r}; it takes "
                    f"{', '.join(self.inputs)}"
                )
            if spec.state_of and self.outputs and spec.state_of not in self.outputs:
                raise self._wrong(
                    f"data.inputs.{name}.state_of: the model has no output {spec.state_of!r}; it "
                    f"gives {', '.join(self.outputs)}"
                )

    def put(self, name: str) -> None:
        """Place one input."""
        spec = self.specs.get(name, InputSpec())
        if name not in self.arrays:
            self._fill(name, spec)
            return
        array = self.arrays[name]
        if isinstance(array, Ragged):
            axis = self._axis_of_ragged(name, array, spec)
            self._add(name, array, axis, spec)
        elif spec.axis == "none":
            self._without_axis(name, array, spec)
        elif spec.axis is not None:
            self._along(name, array, self._axis(name, spec.axis), spec)
        else:
            self._told(name, array, spec)

    def fixed_batch(self) -> int | None:
        """Return the rows per call that the model fixes."""
        for name in (*self.rows, *self.shared):
            axis, dims = self._layout(name).axis, self.inputs[name].dims
            if axis is not None and dims and isinstance(dims[axis], int):
                return int(dims[axis] or 0)
        return None

    def _layout(self, name: str) -> InputLayout:
        return self.layouts.get(name, InputLayout())

    def _add(self, name: str, array: Array, axis: int | None, spec: InputSpec) -> None:
        self.rows[name] = array
        self._remember(name, axis, spec)

    def _share(self, name: str, array: np.ndarray, axis: int | None, spec: InputSpec) -> None:
        self.shared[name] = array
        self._remember(name, axis, spec)

    def _remember(self, name: str, axis: int | None, spec: InputSpec) -> None:
        layout = InputLayout(axis, spec.state_of)
        if layout != InputLayout():
            self.layouts[name] = layout

    def _axis_of_ragged(self, name: str, array: Ragged, spec: InputSpec) -> int | None:
        dims = self.inputs[name].dims
        if isinstance(spec.axis, int):
            return self._axis(name, spec.axis)
        if spec.axis == "none":
            return None
        if dims is None or len(dims) == array.ndim:
            return 0
        rank = len(dims)
        if rank == array.ndim - 1:
            problem = f"a row of {name!r} has {rank} axes, as many as the model takes"
            raise self._unsaid(f"{problem}; it may take one row at a time", name, {"axis": "none"})
        raise self._wrong(
            f"{name!r}: its rows have {array.ndim - 1} axes, the model takes {shown(dims)}"
        )

    def _axis(self, name: str, axis: int) -> int:
        dims = self.inputs[name].dims
        rank = axis + 1 if dims is None else len(dims)
        if not -rank <= axis < rank:
            raise self._wrong(
                f"data.inputs.{name}.axis: the model takes {shown(dims or ())}, which has no axis "
                f"{axis}"
            )
        return axis % rank

    def _along(self, name: str, array: np.ndarray, axis: int, spec: InputSpec) -> None:
        """Place an array whose axis of rows was said."""
        rank = len(self.inputs[name].dims or array.shape)
        if array.ndim == rank + 1 and len(array) == self.count and array.shape[axis + 1] == 1:
            self._add(name, array.squeeze(axis + 1), axis, spec)  # one call's array for each row
        elif array.ndim == rank and array.shape[axis] == self.count:
            self._add(name, np.moveaxis(array, axis, 0), axis, spec)
        elif array.ndim == rank and array.shape[axis] == 1:
            self._share(name, array, axis, spec)
        else:
            raise self._wrong(
                f"{name!r} has shape {list(array.shape)}, expected {self.count} rows along axis "
                f"{axis}, as the other inputs have, or 1, of {shown(self.inputs[name].dims or ())}"
            )

    def _without_axis(self, name: str, array: np.ndarray, spec: InputSpec) -> None:
        """Place an array that has no axis of rows in the model."""
        rank = len(self.inputs[name].dims or array.shape)
        if array.ndim == rank + 1 and len(array) == self.count:
            self._add(name, array, None, spec)
        elif array.ndim == rank:
            self._share(name, array, None, spec)
        elif rank == 0 and array.size == 1:
            self._share(name, array.reshape(()), None, spec)
        else:
            raise self._wrong(
                f"{name!r} has shape {list(array.shape)}, the model takes "
                f"{shown(self.inputs[name].dims or ())}, the same for every row or one for each of "
                f"{self.count}"
            )

    def _told(self, name: str, array: np.ndarray, spec: InputSpec) -> None:
        """Place an array of which nothing was said."""
        declared = self.inputs[name]
        dims = array.shape if declared.dims is None else declared.dims
        here = [k for k, size in enumerate(array.shape) if size == self.count]
        if not dims:
            self._number(name, array, spec)
        elif array.ndim == len(dims) and here[:1] == [0] and not self._is_row_axis(dims, here):
            self._add(name, array, 0, spec)
        elif array.ndim == len(dims) and (axis := self._only_axis(declared, array, here)):
            self._along(name, array, axis, spec)
        elif declared.dims is not None and declared.is_fixed and array.shape == dims:
            self._share(name, array, None, spec)
        elif declared.is_fixed and here[:1] == [0] and self._is_one_call(declared, array):
            self._add(name, array, None, spec)
        elif array.ndim == len(dims) and (axis := self._single_axis(declared, array)) is not None:
            self._share(name, array, axis, spec)
        elif here[:1] == [0] and not self._is_one_call(declared, array):
            self._add(name, array, 0, spec)  # a shape that does not fit is refused later on
        else:
            raise self._question(name, array, dims)

    def _is_one_call(self, declared: Declared, array: np.ndarray) -> bool:
        """Whether a row has the shape that the model takes, so that it may take one at a time."""
        dims = declared.dims
        return dims is not None and array.ndim == len(dims) + 1 and declared.fits(array.shape[1:])

    def _number(self, name: str, array: np.ndarray, spec: InputSpec) -> None:
        if array.size == 1:
            self._share(name, array.reshape(()), None, spec)
        elif array.shape == (self.count,):
            self._add(name, array, None, spec)
        else:
            raise self._wrong(
                f"{name!r} has shape {list(array.shape)}, the model takes one number: give one, or "
                f"one for each of the {self.count} rows"
            )

    def _row_names(self) -> set[str]:
        """Return the names that stand for the number of rows, as far as it is known."""
        names = set()
        for name, declared in self.inputs.items():
            array, dims = self.arrays.get(name), declared.dims
            if array is None or not dims or array.ndim != len(dims):
                continue
            axis = self.specs.get(name, InputSpec()).axis
            if axis is None and len(array) == self.count:
                axis = 0
            size = dims[axis] if isinstance(axis, int) and axis < len(dims) else None
            if isinstance(size, str):
                names.add(size)
        return names

    def _is_row_axis(self, dims: tuple[Size, ...], here: Sequence[int]) -> bool:
        """Whether another axis than the first, whose size is fixed, is named as the rows are."""
        named = [k for k in here[1:] if dims[k] in self._row_names() and isinstance(dims[k], str)]
        return isinstance(dims[0], int) and bool(named)

    def _only_axis(self, declared: Declared, array: np.ndarray, here: Sequence[int]) -> int | None:
        """Return the one axis after the first that the rows can be along, or None."""
        dims = declared.dims or (None,) * array.ndim
        fitting = [k for k in here if k and declared.fits(array.shape, but=k)]
        if len(fitting) > 1:
            fitting = [k for k in fitting if dims[k] in self._row_names()]
        return fitting[0] if len(fitting) == 1 else None

    def _single_axis(self, declared: Declared, array: np.ndarray) -> int | None:
        """Return the axis named as the rows are along which the array has one; it is repeated."""
        dims, names = declared.dims or (), self._row_names()
        axes = [k for k, size in enumerate(dims) if size in names and array.shape[k] == 1]
        return axes[0] if len(axes) == 1 and declared.fits(array.shape) else None

    def _wrong(self, problem: str) -> DataError:
        return DataError(f"{self.label}{problem}")

    def _unsaid(self, problem: str, name: str, entry: Mapping[str, object]) -> UnsaidError:
        return unsaid(f"{self.label}{problem}", name, entry)

    def _question(self, name: str, array: np.ndarray, dims: Sequence[Size]) -> UnsaidError:
        problem = f"{name!r} has shape {list(array.shape)}, the model takes {shown(dims)}"
        if array.ndim == len(dims) + 1:
            return self._unsaid(f"{problem}; it may take one row at a time", name, {"axis": "none"})
        along = [axis for axis, size in enumerate(array.shape) if size == self.count]
        entry: dict[str, object] = {"axis": along[0] if along else "none"}
        if not along and 1 in array.shape:  # as a state that begins the same for every row has
            entry = self._advice(name)
        return self._unsaid(
            f"{problem}, and the data have {self.count} rows: it cannot be told which axis they "
            "are along (none: the same for every row)",
            name,
            entry,
        )

    def _advice(self, name: str) -> dict[str, object]:
        """Guess what a person may want to say of an input."""
        dims = self.inputs[name].dims or ()
        axis = self._likely_axis(dims)
        entry: dict[str, object] = {"axis": "none" if axis is None else axis}
        state = self._likely_state(name)
        return entry | ({"state_of": state} if state else {})

    def _likely_axis(self, dims: Sequence[Size]) -> int | None:
        names = self._row_names()
        for wanted in (
            [k for k, size in enumerate(dims) if isinstance(size, str) and size in names],
            [k for k, size in enumerate(dims) if not isinstance(size, int)],
            [k for k, size in enumerate(dims) if size == 1],
        ):
            if wanted:
                return wanted[0]
        return None

    def _likely_state(self, name: str) -> str:
        """Return the output that looks most like an input, empty when none can be it."""
        mine = self.inputs[name]
        if not mine.dims or mine.dtype is None:
            return ""
        alike = [
            other.name
            for other in self.outputs.values()
            if other.dtype == mine.dtype
            and (other.dims is None or len(other.dims) == len(mine.dims))
            and all(
                a == b or not isinstance(a, int) or not isinstance(b, int)
                for a, b in zip(mine.dims, other.dims or mine.dims, strict=True)
            )
        ]
        close = difflib.get_close_matches(name, alike, n=1, cutoff=0.0)  # noqa: TID251 - the nearest of names that are alike, near or not
        return close[0] if close else ""

    def _fill(self, name: str, spec: InputSpec) -> None:
        """Place an input that is not in the data: a state begins at zeros, others have a value."""
        declared = self.inputs[name]
        if spec.value is None and not spec.state_of:
            problem = (
                f"the model's input {name!r} is missing; the data have {', '.join(self.arrays)}, "
                f"the model takes {', '.join(self.inputs)}"
            )
            if self._likely_state(name):
                problem += ". It may be a state that begins at zeros"
                raise self._unsaid(problem, name, self._advice(name))
            if declared.dims == ():
                problem += ". It may be the same for every row"
                raise self._unsaid(problem, name, {"value": 0})
            raise self._wrong(f"{problem}")
        if declared.dims is None or declared.dtype is None:
            raise self._wrong(f"the model does not say the shape of {name!r}: give it in the data")
        axis = self._likely_axis(declared.dims) if spec.axis is None else spec.axis
        axis = None if axis == "none" else axis if axis is None else self._axis(name, int(axis))
        sizes = self._known_sizes()
        shape = [1 if k == axis else sizes.get(d, d) for k, d in enumerate(declared.dims)]
        if axis is not None and isinstance(declared.dims[axis], int) and declared.dims[axis] != 1:
            shape[axis] = 1
        for k, size in enumerate(shape):
            if not isinstance(size, int):
                raise self._wrong(
                    f"{name!r} is not in the data, and the size of its axis {k} is not known: the "
                    f"model takes {shown(declared.dims)}; give it in the data"
                )
        whole = [int(size or 0) for size in shape]
        self._share(name, np.full(whole, spec.value or 0, declared.dtype), axis, spec)

    def _known_sizes(self) -> dict[Size, int]:
        """Return the size that each name stands for, from the inputs that are there."""
        sizes: dict[Size, int] = {}
        for name, array in self.rows.items():
            axis, dims = self._layout(name).axis, self.inputs[name].dims
            if isinstance(array, Ragged) or dims is None:
                continue
            rest = [size for k, size in enumerate(dims) if k != axis]
            shape = array.shape[1:]
            if len(rest) == len(shape):
                sizes |= {n: s for n, s in zip(rest, shape, strict=True) if isinstance(n, str)}
        return sizes
