"""Sixteen float32 lanes as a value type inside numba kernels.

LLVM vectors written as such stay in registers over whole loops; the same code written as
loops over small arrays goes through memory at every step. On AVX-512 a vector is one
register, elsewhere LLVM splits it (AVX2: two, NEON: four), with the same results.

Operators `+ - * /`, comparisons and `& | ~` of masks work lane by lane; a scalar float on
either side is broadcast.
"""

from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic as _numba_intrinsic
from numba.np.arrayobj import make_array

from gs_decoder.raster.cpu.vector_type import (
    FLOAT,
    I32,
    INTEGERS,
    LANES,
    VECTOR,
    as_vector,
    emit_broadcast,
    mask,
    vector,
)


def intrinsic(function: Callable[..., Any]) -> Any:
    """numba's `intrinsic`, whose own type asks callers for the typing context too."""
    return _numba_intrinsic(function)


def _call(builder: Any, name: str, result: Any, arguments: Sequence[Any]) -> Any:
    kind = ir.FunctionType(result, [argument.type for argument in arguments])
    function = cgutils.get_or_insert_function(builder.module, kind, name)
    return builder.call(function, arguments)


def _is_vector_tuple(kind: Any) -> bool:
    return isinstance(kind, types.UniTuple | types.Tuple) and all(
        item is vector for item in kind.types
    )


def _is_real(*kinds: Any) -> bool:
    return all(kind is vector or isinstance(kind, types.Float) for kind in kinds)


@intrinsic
def fma(typingctx: Any, a: Any, b: Any, c: Any) -> Any:
    """a*b + c, rounded once."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        lanes = [as_vector(builder, value) for value in args]
        return _call(builder, f"llvm.fma.v{LANES}f32", VECTOR, lanes)

    return (vector(a, b, c), codegen) if _is_real(a, b, c) else None


@intrinsic
def select(typingctx: Any, condition: Any, a: Any, b: Any) -> Any:
    """Lane by lane: a where `condition` holds, else b."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.select(args[0], as_vector(builder, args[1]), as_vector(builder, args[2]))

    return (vector(condition, a, b), codegen) if _is_real(a, b) and condition is mask else None


@intrinsic
def minimum(typingctx: Any, a: Any, b: Any) -> Any:
    """Lane by lane the smaller one; b where a is NaN."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        x, y = (as_vector(builder, value) for value in args)
        return builder.select(builder.fcmp_ordered("<", x, y), x, y)

    return (vector(a, b), codegen) if _is_real(a, b) else None


@intrinsic
def maximum(typingctx: Any, a: Any, b: Any) -> Any:
    """Lane by lane the larger one; b where a is NaN."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        x, y = (as_vector(builder, value) for value in args)
        return builder.select(builder.fcmp_ordered(">", x, y), x, y)

    return (vector(a, b), codegen) if _is_real(a, b) else None


def _unary(name: str) -> Callable[..., Any]:
    def typing(typingctx: Any, a: Any) -> Any:
        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            return _call(builder, f"llvm.{name}.v{LANES}f32", VECTOR, args)

        return (vector(a), codegen) if a is vector else None

    return typing


square_root = intrinsic(_unary("sqrt"))
floor = intrinsic(_unary("floor"))
ceiling = intrinsic(_unary("ceil"))
absolute = intrinsic(_unary("fabs"))


@intrinsic
def broadcast(typingctx: Any, a: Any) -> Any:
    """The scalar in every lane."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return emit_broadcast(builder, args[0])

    return (vector(a), codegen) if isinstance(a, types.Float) else None


@intrinsic
def any_lane(typingctx: Any, condition: Any) -> Any:
    """Whether the mask holds in at least one lane."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        word = builder.bitcast(args[0], ir.IntType(LANES))
        return builder.icmp_unsigned("!=", word, ir.Constant(ir.IntType(LANES), 0))

    return (types.boolean(condition), codegen) if condition is mask else None


@intrinsic
def mask_bits(typingctx: Any, condition: Any) -> Any:
    """The mask as an integer, lane 0 in the lowest bit."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.zext(builder.bitcast(args[0], ir.IntType(LANES)), ir.IntType(64))

    return (types.int64(condition), codegen) if condition is mask else None


# Rounding constant, then 2^f on [-0.5, 0.5] from the highest power down: Chebyshev interpolation
# of degree 6, relative error 3e-9 before rounding. Adding 1.5 * 2^23 leaves round(x) in the low
# bits of the mantissa.
EXP2_TABLE = (
    12582912.0,
    0.000154614447,
    0.00134004282,
    0.00961805668,
    0.0555032723,
    0.240226509,
    0.693147207,
    1.0,
)


@intrinsic
def exp2(typingctx: Any, a: Any, table: Any) -> Any:
    """2^a for a in [-126, 126], relative error about 1e-7; anything, NaN too, for other a.

    `table` holds the vectors of `EXP2_TABLE`. They come from outside because compiled constants
    would be fetched anew in every round of a loop.
    """

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        x = args[0]
        rounding, result, *rest = cgutils.unpack_tuple(builder, args[1])
        shifted = builder.fadd(x, rounding)
        fraction = builder.fsub(x, builder.fsub(shifted, rounding))
        for coefficient in rest:
            result = _call(
                builder, f"llvm.fma.v{LANES}f32", VECTOR, [result, fraction, coefficient]
            )
        exponent = builder.shl(
            builder.bitcast(shifted, INTEGERS), ir.Constant(INTEGERS, [23] * LANES)
        )
        bits = builder.add(builder.bitcast(result, INTEGERS), exponent)
        return builder.bitcast(bits, VECTOR)

    matches = a is vector and _is_vector_tuple(table) and len(table) == len(EXP2_TABLE)
    return (vector(a, table), codegen) if matches else None


@intrinsic
def log2(typingctx: Any, a: Any) -> Any:
    """log2(a) for normal positive a, by LLVM's own lowering lane by lane."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        kind = ir.FunctionType(FLOAT, [FLOAT])
        function = cgutils.get_or_insert_function(builder.module, kind, "log2f")
        result = ir.Constant(VECTOR, ir.Undefined)
        for lane in range(LANES):
            value = builder.call(function, [builder.extract_element(args[0], I32(lane))])
            result = builder.insert_element(result, value, I32(lane))
        return result

    return (vector(a), codegen) if a is vector else None


def _element(context: Any, builder: Any, kind: Any, array: Any, index: Any) -> Any:
    data = make_array(kind)(context, builder, array).data
    return builder.gep(data, [index])


def _is_flat(kind: Any) -> bool:
    return (
        isinstance(kind, types.Array)
        and kind.ndim == 1
        and kind.layout == "C"
        and kind.dtype == types.float32
    )


@intrinsic
def load(typingctx: Any, array: Any, index: Any) -> Any:
    """array[index : index+16] of a contiguous float32 vector."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        pointer = _element(context, builder, sig.args[0], args[0], args[1])
        return builder.load(builder.bitcast(pointer, VECTOR.as_pointer()), align=4)

    return (vector(array, types.intp), codegen) if _is_flat(array) else None


@intrinsic
def spread(typingctx: Any, array: Any, index: Any) -> Any:
    """array[index] in every lane; `index` must not be negative."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return emit_broadcast(
            builder, builder.load(_element(context, builder, sig.args[0], args[0], args[1]))
        )

    return (vector(array, types.intp), codegen) if _is_flat(array) else None


@intrinsic
def store(typingctx: Any, array: Any, index: Any, value: Any) -> Any:
    """array[index : index+16] = value."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        pointer = _element(context, builder, sig.args[0], args[0], args[1])
        builder.store(args[2], builder.bitcast(pointer, VECTOR.as_pointer()), align=4)
        return context.get_dummy_value()

    matches = _is_flat(array) and value is vector
    return (types.void(array, types.intp, value), codegen) if matches else None


@intrinsic
def load_strided(typingctx: Any, array: Any, index: Any, stride: Any) -> Any:
    """array[index + lane*stride] in every lane."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        result = ir.Constant(VECTOR, ir.Undefined)
        where = args[1]
        for lane in range(LANES):
            pointer = _element(context, builder, sig.args[0], args[0], where)
            result = builder.insert_element(result, builder.load(pointer), I32(lane))
            where = builder.add(where, args[2])
        return result

    return (vector(array, types.intp, types.intp), codegen) if _is_flat(array) else None


@intrinsic
def store_strided(typingctx: Any, array: Any, index: Any, stride: Any, value: Any) -> Any:
    """array[index + lane*stride] = the lane's value."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        where = args[1]
        for lane in range(LANES):
            pointer = _element(context, builder, sig.args[0], args[0], where)
            builder.store(builder.extract_element(args[3], I32(lane)), pointer)
            where = builder.add(where, args[2])
        return context.get_dummy_value()

    matches = _is_flat(array) and value is vector
    return (types.void(array, types.intp, types.intp, value), codegen) if matches else None


def _transpose(builder: Any, rows: list[Any]) -> list[Any]:
    """16 vectors as rows of a square -> its columns, in four rounds of pairwise shuffles."""
    step = 1
    while step < LANES:
        result = list(rows)
        for i in range(LANES):
            if i & step:
                continue
            low = [lane - step + LANES if lane & step else lane for lane in range(LANES)]
            high = [lane + LANES if lane & step else lane + step for lane in range(LANES)]
            a, b = rows[i], rows[i + step]
            result[i] = builder.shuffle_vector(a, b, ir.Constant(INTEGERS, low))
            result[i + step] = builder.shuffle_vector(a, b, ir.Constant(INTEGERS, high))
        rows = result
        step *= 2
    return rows


@intrinsic
def load_columns(typingctx: Any, array: Any, index: Any) -> Any:
    """16 rows of 16 from array[index] on -> tuple of the 16 columns."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        rows = []
        where = args[1]
        for _ in range(LANES):
            pointer = _element(context, builder, sig.args[0], args[0], where)
            rows.append(builder.load(builder.bitcast(pointer, VECTOR.as_pointer()), align=4))
            where = builder.add(where, ir.Constant(where.type, LANES))
        return context.make_tuple(builder, sig.return_type, _transpose(builder, rows))

    result = types.UniTuple(vector, LANES)
    return (result(array, types.intp), codegen) if _is_flat(array) else None


@intrinsic
def store_columns(typingctx: Any, array: Any, index: Any, columns: Any) -> Any:
    """Write 16 columns as 16 rows of 16 from array[index] on."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        where = args[1]
        for row in _transpose(builder, list(cgutils.unpack_tuple(builder, args[2]))):
            pointer = _element(context, builder, sig.args[0], args[0], where)
            builder.store(row, builder.bitcast(pointer, VECTOR.as_pointer()), align=4)
            where = builder.add(where, ir.Constant(where.type, LANES))
        return context.get_dummy_value()

    matches = _is_flat(array) and _is_vector_tuple(columns) and len(columns) == LANES
    return (types.void(array, types.intp, columns), codegen) if matches else None


def _fold(builder: Any, a: Any, b: Any, width: int, span: int) -> Any:
    """Join two vectors: in every group of 2*span lanes, runs of `width` of a and b, added up.

    Of each group the first half of the runs is added to the second half; a's sums stand before
    b's. Within 128 bits this is one unpack instruction a side.
    """
    low: list[int] = []
    high: list[int] = []
    for group in range(0, LANES, 2 * span):
        for run in range(0, span, width):
            first = [group + run + i for i in range(width)]
            low += first + [LANES + lane for lane in first]
            second = [lane + span for lane in first]
            high += second + [LANES + lane for lane in second]
    return builder.fadd(
        builder.shuffle_vector(a, b, ir.Constant(INTEGERS, low)),
        builder.shuffle_vector(a, b, ir.Constant(INTEGERS, high)),
    )


# (width, span) of the four rounds: inside 128 bits, then across them.
_FOLDS = ((1, 2), (2, 2), (4, 8), (8, 8))


@intrinsic
def lane_sums(typingctx: Any, vectors: Any) -> Any:
    """A tuple of up to 16 vectors -> one vector whose lane i is the sum of the i-th vector.

    All sums are folded together: two shuffles and one addition join two vectors, a third of
    the work of summing one after the other.
    """

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        row: list[Any] = list(cgutils.unpack_tuple(builder, args[0]))
        row += [None] * (LANES - len(row))
        for width, span in _FOLDS:
            row = [
                None if a is None else _fold(builder, a, a if b is None else b, width, span)
                for a, b in zip(row[::2], row[1::2])
            ]
        return row[0]

    matches = _is_vector_tuple(vectors)
    return (vector(vectors), codegen) if matches else None


@intrinsic
def fetch_add(typingctx: Any, array: Any, index: Any, amount: Any) -> Any:
    """Add to an int64 counter that threads share; returns what it held before."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        pointer = _element(context, builder, sig.args[0], args[0], args[1])
        return builder.atomic_rmw("add", pointer, args[2], "monotonic")

    matches = isinstance(array, types.Array) and array.dtype == types.int64
    return (types.int64(array, types.intp, types.int64), codegen) if matches else None


@intrinsic
def lowest_bit(typingctx: Any, word: Any) -> Any:
    """Index of the lowest set bit of a non-zero int64."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.cttz(args[0], ir.Constant(ir.IntType(1), 1))

    return (types.int64(types.int64), codegen) if isinstance(word, types.Integer) else None
