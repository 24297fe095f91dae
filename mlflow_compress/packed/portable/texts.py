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
    "SPREAD",
    "SQUARE",
    "STREAMS",
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
"""

# next: [nodes, 2^k], where k bits lead from each inner node, `value` what to give for each node.
# emit: [slots, nodes, 2^k], the codes that they complete (0: none). For 2k bits, as two axes of k.
SQUARE = """
(next, value, emit) => (twice, both) {
  twice = Gather(value, next)
  second = Gather<axis=1>(emit, next)
  last_axis = Constant<value_ints=[3]>()
  narrow = Unsqueeze(emit, last_axis)
  size = Shape(second)
  first = Expand(narrow, size)
  both = Concat<axis=0>(first, second)
}
"""

# For each place of `like`, which of the stretches that begin at the places `at` (0 first) it is in.
SPREAD = """
(like, at) => (which) {
  zero = Sub(like, like)
  places = Cast<to=6>(at)
  axis = Constant<value_int=0>()
  one64 = Constant<value_ints=[1]>()
  one = Cast<to=6>(one64)
  size = Shape(at)
  ones = Expand(one, size)
  marks = ScatterElements(zero, places, ones)
  count = CumSum(marks, axis)
  which = Sub(count, one)
}
"""

# The table of the automaton of all trees, its walk through all segments at once, and the codes
# completed. `forest` holds four numbers for each tree; docs/format.md, section 7.
_STREAMS = """
  $UNPACK
  pairs = Constant<value_ints=[-1, 2]>()
  inner_count = CumSum(inner, first_axis)
  leaf_count = CumSum(leaf, first_axis)
  inner1 = Reshape(inner, pairs)
  leaf1 = Reshape(leaf, pairs)
  inner_count1 = Reshape(inner_count, pairs)
  leaf_count1 = Reshape(leaf_count, pairs)
  forest64 = Constant<value_ints: ints = @forest>()
  forest32 = Cast<to=6>(forest64)
  fours = Constant<value_ints=[-1, 4]>()
  trees = Reshape(forest32, fours)
  roots = Gather<axis=1>(trees, first_axis)
  first_child = Gather<axis=1>(inner1, first_axis)
  of_node = mc.spread(first_child, roots)
  per_node = Gather(trees, of_node)
  root, inner_before, leaf_before, codes = Split<axis=1 $FOUR_WAYS>(per_node)
  child = Sub(inner_count1, inner_before)
  to_child = Mul(inner1, child)
  to_root = Mul(leaf1, root)
  next1 = Add(to_child, to_root)
  rank = Sub(leaf_count1, leaf_before)
  emitted = Mod(rank, codes)
  emitted_leaf = Mul(leaf1, emitted)
  front = Constant<value_ints=[0]>()
  emit1 = Unsqueeze(emitted_leaf, front)
  planes = Constant<value_ints=[0, 0, -1]>()
  next2_bits, emit2_bits = mc.square(next1, next1, emit1)
  next2 = Flatten(next2_bits)
  emit2 = Reshape(emit2_bits, planes)
  next4_bits, emit4_bits = mc.square(next2, next2, emit2)
  next4 = Flatten(next4_bits)
  emit4 = Reshape(emit4_bits, planes)
  $MERGE
  bytes64 = Constant<value_int=256>()
  bytes = Cast<to=6>(bytes64)
  row = Mul(next4, bytes)
  narrow = Cast<to=4>($EMIT)
  row8, emit8 = mc.square(next4, row, narrow)
  table = Reshape(row8, flat)
  starts32 = Cast<to=6>(starts)
  segments = Constant<value_ints: ints = @segments>()
  of_segment = mc.spread(starts32, segments)
  root_of_segment = Gather(roots, of_segment)
  start = Add(starts32, root_of_segment)
  state = Mul(start, bytes)
  by_step = Transpose(stream)
  end, path = mc.$WALK(table, state, by_step)
  in_order = Transpose(path)
  emit_rows = Flatten(emit8)
  emit_table = Transpose(emit_rows)
  mask_table = Cast<to=9>(emit_table)
  slots_filled = Gather(emit_table, in_order)
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
  entries64 = Size(symbols)
  entries = Cast<to=6>(entries64)
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

LEVELS_FUNCTION = "(tree, symbols, roots) => (decoded) { $LEVELS_BODY }"

# Up to this depth, calls of `level` one by one are smaller than calls of `level4`.
FLAT_LEVELS = 5

_BACKGROUND = """
  front = Constant<value_int=0>()
  background = Gather(symbols, front)
"""

_SCATTER = """
  shape = Constant<value_ints: ints = @shape>()
  elements = ReduceProd(shape)
  full = Expand(background, elements)
  minus = Constant<value_ints=[-1]>()
  moves = Cast<to=7>(gaps)
  zero = Constant<value_int=0>()
  reached = CumSum(moves, zero)
  places = Add(reached, minus)
  filled = ScatterElements(full, places, values)
  weight = Reshape(filled, shape)
"""

# Everything needed only where the streams' node says how many slots a nibble has.
MERGE_MACROS = {
    "MERGE": _MERGE,
    "EMIT": "merged",
    "HAS_SLOTS": ", slots",
    "TAKE_SLOTS": "slots = Constant<value_ints: ints = @slots>()",
}


def _take(result: str, start: str, end: str, symbols: str) -> str:
    """The items of one stream: what stands for the codes from place ``start`` to ``end``."""
    return f"""
  {result}_codes = Slice(codes, {start}, {end})
  {result}_wide = Cast<to=6>({result}_codes)
  {result} = Gather({symbols}, {result}_wide)
"""


MACROS = {
    "UNPACK": _UNPACK,
    "LEVELS_BODY": _LEVELS,
    "LEVELS": _LEVELS,
    "CALL_LEVELS": "decoded = mc.levels(tree, symbols, roots)",
    "BACKGROUND": _BACKGROUND,
    "SCATTER": _SCATTER,
    "SCATTER_DECODED": _SCATTER.replace("gaps", "decoded"),
    **MERGE_MACROS,
}
_AT = "at = Constant<value_ints: ints = @at>()"
_TO = "to = Constant<value_ints: ints = @to>()"

STREAMS = f"""
<forest, segments $HAS_SLOTS> (stream, starts, tree) => (decoded) {{
  $TAKE_SLOTS
  {_STREAMS}
}}
"""

# The functions that nodes of the graph call; all others are helpers.
TOP = {
    "Huffman": f"""
<shape, at, to> (codes, stream, starts, tree, symbols) => (weight) {{
  {_AT}
  {_TO}
  {_take("items", "at", "to", "symbols")}
  shape = Constant<value_ints: ints = @shape>()
  weight = Reshape(items, shape)
}}
""",
    "Sparse": f"""
<shape, at, to, end>
(codes, stream1, starts1, tree1, symbols1, stream, starts, tree, symbols) => (weight) {{
  {_AT}
  {_TO}
  end = Constant<value_ints: ints = @end>()
  {_take("gaps", "at", "to", "symbols1")}
  {_take("values", "to", "end", "symbols")}
  $BACKGROUND
  $SCATTER
}}
""",
    "Gaps": f"""
<shape, at, to> (codes, stream, starts, tree, symbols, values, background) => (weight) {{
  {_AT}
  {_TO}
  {_take("decoded", "at", "to", "symbols")}
  $SCATTER_DECODED
}}
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
    parts = ", ".join(f"b{i}" for i in range(radix))
    # wide only here, where the bytes are few: what int32 takes is what limits large models
    lines = [] if inner else ["wide = Cast<to=6>(bytes)"]
    lines.append(f"{parts} = Split{ways}({'bytes' if inner else 'wide'})")
    for i in range(radix):
        before, after = (f"s{i}" if i else "state"), (f"s{i + 1}" if i + 1 < radix else "end")
        if inner:
            lines.append(f"{after}, p{i} = mc.{inner}(table, {before}, b{i})")
        else:
            lines += [f"p{i} = Add({before}, b{i})", f"{after} = Gather(table, p{i})"]
    lines.append("path = Concat<axis=0>(" + ", ".join(f"p{i}" for i in range(radix)) + ")")
    return "(table, state, bytes) => (end, path) {\n" + "\n".join(lines) + "\n}"
