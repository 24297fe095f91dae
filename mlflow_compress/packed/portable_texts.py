"""The decoding functions' bodies, in ONNX's text syntax.

``$NAME`` stands for another text. Numbers are int32 where there are many, for the memory: ONNX
Runtime keeps all that it computes in one pass of folding constants.
"""

__all__ = [
    "FLAT_LEVELS",
    "LEVEL",
    "LEVEL4",
    "LEVELS_FUNCTION",
    "MACROS",
    "MERGE_MACROS",
    "SEGMENTS_FUNCTION",
    "SQUARE",
    "TOP",
    "descend",
    "walk",
]

# The bits of `tree`, most significant first.
_UNPACK = """
  weights64 = Constant<value_ints=[128, 64, 32, 16, 8, 4, 2, 1]>()
  weights = Cast<to=6>(weights64)
  one = ReduceMin<keepdims=0>(weights)
  two = Add(one, one)
  wide = Cast<to=6>(tree)
  shifted = Div(wide, weights)
  bit = Mod(shifted, two)
  flat = Constant<value_ints=[-1]>()
  inner = Reshape(bit, flat)
  first_axis = Sub(one, one)
  leaf = Sub(one, inner)
  entries64 = Size(symbols)
  entries = Cast<to=6>(entries64)
"""

# next: [nodes, 2^k], where k bits lead from each inner node. emit: [slots, nodes, 2^k], the codes
# that they complete (0: none). Returns both for 2k bits.
SQUARE = """
(next, emit) => (next2, emit2) {
  twice = Gather(next, next)
  next2 = Flatten(twice)
  second = Gather<axis=1>(emit, next)
  last_axis = Constant<value_ints=[3]>()
  narrow = Unsqueeze(emit, last_axis)
  size = Shape(second)
  first = Expand(narrow, size)
  both = Concat<axis=0>(first, second)
  planes = Constant<value_ints=[0, 0, -1]>()
  emit2 = Reshape(both, planes)
}
"""

# The table of the automaton, its walk through all segments at once, and the codes completed.
_SEGMENTS = """
  $UNPACK
  inner_count = CumSum(inner, first_axis)
  next = Mul(inner, inner_count)
  pairs = Constant<value_ints=[-1, 2]>()
  next1 = Reshape(next, pairs)
  leaf_count = CumSum(leaf, first_axis)
  rank = Mul(leaf, leaf_count)
  emitted = Mod(rank, entries)
  emitted2 = Reshape(emitted, pairs)
  front = Constant<value_ints=[0]>()
  emit1 = Unsqueeze(emitted2, front)
  next2, emit2 = mc.square(next1, emit1)
  next4, emit4 = mc.square(next2, emit2)
  $MERGE
  next8, emit8 = mc.square(next4, $EMIT)
  bytes64 = Constant<value_int=256>()
  bytes = Cast<to=6>(bytes64)
  rows = Mul(next8, bytes)
  table = Reshape(rows, flat)
  starts_wide = Cast<to=6>(starts)
  state = Mul(starts_wide, bytes)
  by_step = Transpose(stream)
  steps = Cast<to=6>(by_step)
  end, path = mc.$WALK(table, state, steps)
  in_order = Transpose(path)
  emit_rows = Flatten(emit8)
  emit_table = Transpose(emit_rows)
  symbol_table = Gather(symbols, emit_table)
  mask_table = Cast<to=9>(emit_table)
  slots_filled = Gather(symbol_table, in_order)
  mask = Gather(mask_table, in_order)
  mask_flat = Reshape(mask, flat)
  decoded = Compress(slots_filled, mask_flat)
"""

# Where codes have four bits or more, at most one ends within a nibble: one slot for the nibble
# does, not four, which saves most of the memory. It takes 100 bytes; small models go without.
_MERGE = """
  grouped = Reshape(emit4, slots)
  group_axis = Constant<value_ints=[1]>()
  merged = ReduceSum<keepdims=0>(grouped, group_axis)
"""

SEGMENTS_FUNCTION = "(stream, starts, tree, symbols $SLOTS) => (decoded) { $BODY_SEGMENTS }"

# All symbols whose code has another bit take it, in order.
LEVEL = """
(node, before, inner, child) => (node2, last) {
  active = Gather(inner, node)
  axis = Constant<value_int=0>()
  nth = CumSum(active, axis)
  place = Add(nth, before)
  bit = Gather(inner, place)
  used = Mul(active, bit)
  base = Gather(child, node)
  node2 = Add(base, used)
  last = ReduceMax(place)
}
"""

_LEVELS = """
  $UNPACK
  inners = CumSum(inner, first_axis)
  leaves = CumSum<exclusive=1>(leaf, first_axis)
  inner_part = Mul(inner, inners)
  leaf_part = Mul(leaf, leaves)
  parts = Add(inner_part, leaf_part)
  child = Add(inners, parts)
  node0 = Cast<to=6>(roots)
  doubled = Mul(entries, two)
  three = Add(one, two)
  last0 = Sub(doubled, three)
  $DESCEND
  rank = Gather(leaves, bottom)
  decoded = Gather(symbols, rank)
"""

LEVELS_FUNCTION = "(tree, symbols, roots) => (decoded) { $BODY_LEVELS }"

# Up to this depth, calls of `level` one by one are smaller than calls of `level4`.
FLAT_LEVELS = 5

_BACKGROUND = """
  front = Constant<value_int=0>()
  background = Gather(symbols, front)
"""

_SCATTER = """
  shape = Constant<value_ints: ints = @shape>()
  full = Expand(background, shape)
  minus = Constant<value_ints=[-1]>()
  full_flat = Reshape(full, minus)
  moves = Cast<to=7>(gaps)
  zero = Constant<value_int=0>()
  reached = CumSum(moves, zero)
  places = Add(reached, minus)
  filled = ScatterElements(full_flat, places, values)
  weight = Reshape(filled, shape)
"""

# Everything needed only where nodes say how many slots a nibble has.
MERGE_MACROS = {
    "MERGE": _MERGE,
    "EMIT": "merged",
    "SLOTS": ", slots",
    "SLOTS1": ", slots1",
    "HAS_SLOTS": ", slots",
    "HAS_SLOTS1": ", slots1",
    "TAKE_SLOTS": "slots = Constant<value_ints: ints = @slots>()",
    "TAKE_SLOTS1": "slots1 = Constant<value_ints: ints = @slots1>()",
}
MACROS = {
    "UNPACK": _UNPACK,
    "BODY_SEGMENTS": _SEGMENTS,
    "SEGMENTS": _SEGMENTS,
    "CALL_SEGMENTS": "decoded = mc.segments(stream, starts, tree, symbols $SLOTS)",
    "BODY_LEVELS": _LEVELS,
    "LEVELS": _LEVELS,
    "CALL_LEVELS": "decoded = mc.levels(tree, symbols, roots)",
    "BACKGROUND": _BACKGROUND,
    "SCATTER": _SCATTER,
    "SCATTER_DECODED": _SCATTER.replace("gaps", "decoded"),
    **MERGE_MACROS,
}

# The functions that nodes of the graph call; all others are helpers.
TOP = {
    "Huffman": """
<shape $HAS_SLOTS> (stream, starts, tree, symbols) => (weight, decoded) {
  $TAKE_SLOTS
  $SEGMENTS
  shape = Constant<value_ints: ints = @shape>()
  weight = Reshape(decoded, shape)
}
""",
    "Sparse": """
<shape $HAS_SLOTS1 $HAS_SLOTS>
(stream1, starts1, tree1, symbols1, stream, starts, tree, symbols) => (weight, gaps, values) {
  $TAKE_SLOTS1
  $TAKE_SLOTS
  gaps = mc.segments(stream1, starts1, tree1, symbols1 $SLOTS1)
  values = mc.segments(stream, starts, tree, symbols $SLOTS)
  $BACKGROUND
  $SCATTER
}
""",
    "Gaps": """
<shape $HAS_SLOTS> (stream, starts, tree, symbols, values, background) => (weight, decoded) {
  $TAKE_SLOTS
  $SEGMENTS
  $SCATTER_DECODED
}
""",
    "Levels": """
<shape> (tree, symbols) => (weight) {
  shape = Constant<value_ints: ints = @shape>()
  size = ReduceProd(shape)
  root = Constant<value_int=1>()
  roots = Expand(root, size)
  $LEVELS
  weight = Reshape(decoded, shape)
}
""",
    "SparseLevels": """
<shape, count> (tree1, symbols1, tree, symbols) => (weight) {
  root = Constant<value_int=1>()
  size = Constant<value_ints: ints = @count>()
  roots = Expand(root, size)
  gaps = mc.levels(tree1, symbols1, roots)
  values = mc.levels(tree, symbols, roots)
  $BACKGROUND
  $SCATTER
}
""",
    "GapsLevels": """
<shape, count> (tree, symbols, values, background) => (weight) {
  root = Constant<value_int=1>()
  size = Constant<value_ints: ints = @count>()
  roots = Expand(root, size)
  $LEVELS
  $SCATTER_DECODED
}
""",
    "Fixed": """
<shape, weights> (packed, symbols) => (weight) {
  weights = Constant<value_ints: ints = @weights>()
  wide = Cast<to=7>(packed)
  shifted = Div(wide, weights)
  size = Size(symbols)
  index = Mod(shifted, size)
  shape = Constant<value_ints: ints = @shape>()
  shaped = Reshape(index, shape)
  weight = Gather(symbols, shaped)
}
""",
}
LEVEL4 = "(node0, last0, inner, child) => (bottom, last4) { $DESCEND4 }"


def descend(helper: str, times: int) -> str:
    """Calls of ``level`` or ``level4``, each going on from the one before."""
    nodes = [*(f"node{i}" for i in range(times)), "bottom"]
    return "\n".join(
        f"{nodes[i + 1]}, last{i + 1} = mc.{helper}({nodes[i]}, last{i}, inner, child)"
        for i in range(times)
    )


MACROS["DESCEND4"] = descend("level", 4)


def walk(radix: int, inner: str, opset: int) -> str:
    """Unroll ``radix`` steps of the automaton, or calls of the function ``inner``."""
    ways = f"<num_outputs={radix}>" if opset >= 18 else ""
    lines = [", ".join(f"b{i}" for i in range(radix)) + f" = Split{ways}(bytes)"]
    for i in range(radix):
        before, after = (f"s{i}" if i else "state"), (f"s{i + 1}" if i + 1 < radix else "end")
        if inner:
            lines.append(f"{after}, p{i} = mc.{inner}(table, {before}, b{i})")
        else:
            lines += [f"p{i} = Add({before}, b{i})", f"{after} = Gather(table, p{i})"]
    lines.append("path = Concat<axis=0>(" + ", ".join(f"p{i}" for i in range(radix)) + ")")
    return "(table, state, bytes) => (end, path) {\n" + "\n".join(lines) + "\n}"
