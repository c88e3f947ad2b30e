"""The types of `simd`: sixteen float32 lanes, sixteen truth values, and their operators."""

import operator
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.core import types
from numba.core.typing.templates import ConcreteTemplate, infer_global, signature
from numba.extending import lower_builtin, models, register_model

LANES = 16

FLOAT = ir.FloatType()
I32 = ir.IntType(32)
VECTOR = ir.VectorType(FLOAT, LANES)
INTEGERS = ir.VectorType(I32, LANES)
BITS = ir.VectorType(ir.IntType(1), LANES)


class _VectorType(types.Type):
    def __init__(self) -> None:
        super().__init__(name="float32x16")


class _MaskType(types.Type):
    def __init__(self) -> None:
        super().__init__(name="mask16")


vector = _VectorType()
mask = _MaskType()


@register_model(_VectorType)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Any) -> None:
        super().__init__(manager, kind, VECTOR)


@register_model(_MaskType)
class _MaskModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Any) -> None:
        super().__init__(manager, kind, BITS)


def emit_broadcast(builder: Any, scalar: Any) -> Any:
    """LLVM for a scalar in every lane."""
    if scalar.type == ir.DoubleType():
        scalar = builder.fptrunc(scalar, FLOAT)
    single = builder.insert_element(ir.Constant(VECTOR, ir.Undefined), scalar, I32(0))
    zeros = ir.Constant(INTEGERS, [0] * LANES)
    return builder.shuffle_vector(single, ir.Constant(VECTOR, ir.Undefined), zeros)


def as_vector(builder: Any, value: Any) -> Any:
    """The value itself, or a scalar in every lane."""
    return value if isinstance(value.type, ir.VectorType) else emit_broadcast(builder, value)


def _register(op: Any, result: Any, emit: Callable[[Any, Any, Any], Any]) -> None:
    """`op` on (vector, vector), (vector, float) and (float, vector)."""
    pairs: list[tuple[Any, Any]] = [(vector, vector)]
    for scalar in (types.float32, types.float64):
        pairs += [(vector, scalar), (scalar, vector)]

    class Typing(ConcreteTemplate):
        cases = [signature(result, a, b) for a, b in pairs]  # noqa: RUF012

    infer_global(op)(Typing)

    def lower(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return emit(builder, as_vector(builder, args[0]), as_vector(builder, args[1]))

    for a, b in pairs:
        lower_builtin(op, a, b)(lower)


_register(operator.add, vector, lambda builder, a, b: builder.fadd(a, b))
_register(operator.sub, vector, lambda builder, a, b: builder.fsub(a, b))
_register(operator.mul, vector, lambda builder, a, b: builder.fmul(a, b))
_register(operator.truediv, vector, lambda builder, a, b: builder.fdiv(a, b))
_register(operator.lt, mask, lambda builder, a, b: builder.fcmp_ordered("<", a, b))
_register(operator.le, mask, lambda builder, a, b: builder.fcmp_ordered("<=", a, b))
_register(operator.gt, mask, lambda builder, a, b: builder.fcmp_ordered(">", a, b))
_register(operator.ge, mask, lambda builder, a, b: builder.fcmp_ordered(">=", a, b))


@infer_global(operator.and_)
class _MaskAnd(ConcreteTemplate):
    cases = [signature(mask, mask, mask)]  # noqa: RUF012


@infer_global(operator.or_)
class _MaskOr(ConcreteTemplate):
    cases = [signature(mask, mask, mask)]  # noqa: RUF012


@infer_global(operator.invert)
class _MaskNot(ConcreteTemplate):
    cases = [signature(mask, mask)]  # noqa: RUF012


@infer_global(operator.neg)
class _VectorNegative(ConcreteTemplate):
    cases = [signature(vector, vector)]  # noqa: RUF012


@lower_builtin(operator.and_, mask, mask)
def _lower_and(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    return builder.and_(args[0], args[1])


@lower_builtin(operator.or_, mask, mask)
def _lower_or(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    return builder.or_(args[0], args[1])


@lower_builtin(operator.invert, mask)
def _lower_invert(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    return builder.not_(args[0])


@lower_builtin(operator.neg, vector)
def _lower_negative(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    return builder.fneg(args[0])
