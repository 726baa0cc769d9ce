"""What a prior's fields must be: shapes, finite values, proper weights, orthonormal bases."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from dpdm.errors import DpdmError

FIELDS = ("class_weights", "weights", "means", "basis", "variances", "floor", "rest")
_TOLERANCE = 1e-3


def _shape_problem(size: int, fields: Mapping[str, Tensor]) -> str | None:
    missing = [name for name in FIELDS if name not in fields]
    if missing:
        return f"lacks {', '.join(missing)}"
    if fields["means"].ndim != 3 or fields["basis"].ndim != 3:
        return "has means or a basis that is not a (class, component, coefficient) array"
    classes, components, dimension = fields["means"].shape
    rank = fields["basis"].shape[2]
    if classes < 1 or components < 1 or not 1 <= dimension <= size or rank > dimension:
        return (
            f"has {classes} classes, {components} components, {dimension} coefficients and {rank} "
            f"directions for images of {size} values"
        )
    expected = {
        "class_weights": (classes,),
        "weights": (classes, components),
        "basis": (classes, dimension, rank),
        "variances": (classes, rank),
        "floor": (classes,),
        "rest": (size - dimension,),
    }
    for name, shape in expected.items():
        if tuple(fields[name].shape) != shape:
            return f"has {name} of shape {tuple(fields[name].shape)} where {shape} belongs"
    return None


def _value_problem(fields: Mapping[str, Tensor]) -> str | None:
    for name in FIELDS:
        if not fields[name].isfinite().all():
            return f"has {name} that are not finite"
    for name in ("class_weights", "weights", "variances", "floor", "rest"):
        if (fields[name] < 0).any():
            return f"has {name} below zero"
    if not fields["class_weights"].sum() > 0 or not (fields["weights"].sum(dim=1) > 0).all():
        return "has a class whose weights are all zero"
    basis = fields["basis"].double()
    gram = basis.transpose(1, 2) @ basis
    if gram.numel() and (gram - torch.eye(gram.shape[1]).to(gram)).abs().max() > _TOLERANCE:
        return "has a basis whose columns are not orthonormal"
    return None


def _refuse(problem: str | None) -> None:
    if problem is not None:
        raise DpdmError(f"the prior {problem}; fit it again, or take an undamaged copy of its file")


def normalised(
    image_shape: tuple[int, int, int], fields: Mapping[str, Tensor], dtype: torch.dtype
) -> dict[str, Tensor]:
    """The fields in ``dtype`` with weights and class weights that sum to one. Raises DpdmError."""
    _refuse(_shape_problem(math.prod(image_shape), fields) or _value_problem(fields))
    scaled = {name: fields[name].detach().double() for name in FIELDS}
    for name in ("class_weights", "weights"):
        scaled[name] = scaled[name] / scaled[name].sum(dim=-1, keepdim=True)
    return {name: value.to(dtype).contiguous() for name, value in scaled.items()}


def checked(image_shape: tuple[int, int, int], fields: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The fields as they are, if they are those of a prior. Raises DpdmError."""
    problem = _shape_problem(math.prod(image_shape), fields) or _value_problem(fields)
    if problem is None:
        sums = torch.cat([fields["class_weights"].sum().reshape(1), fields["weights"].sum(dim=1)])
        if (sums - 1.0).abs().max() > _TOLERANCE:
            problem = "has weights that do not sum to one"
    _refuse(problem)
    return {name: fields[name] for name in FIELDS}
