"""What a prior's fields must be: shapes, finite values, proper weights, orthonormal bases."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from dpdm.diffusion.pose import POSE_SIZES
from dpdm.errors import DpdmError

_GAUSSIANS = ("class_weights", "weights", "means", "basis", "variances", "floor")
FIELDS = (*_GAUSSIANS, "rest")
POSED_FIELDS = (*FIELDS, "poses", "pose_scale", "augment", "detail", "roots")
_TOLERANCE = 1e-3

COLOUR_AXES = "colour_axes"
"""Name of the matrix (C, C) from channels to axes of colour, stored beside the fields."""


def _shape_problem(size: int, fields: Mapping[str, Tensor]) -> str | None:
    posed = "poses" in fields
    missing = [name for name in (POSED_FIELDS if posed else FIELDS) if name not in fields]
    if missing:
        return f"lacks {', '.join(missing)}"
    if (
        fields["means"].ndim != 3
        or fields["basis"].ndim != 3
        or (posed and fields["poses"].ndim != 2)
    ):
        return "has means, a basis or poses with too few or too many axes"
    classes, components, whole = fields["means"].shape
    rank = fields["basis"].shape[2]
    poses = fields["poses"].shape[1] if posed else 0
    dimension = whole - poses
    if (
        classes < 1
        or components < 1
        or not 1 <= dimension <= size
        or rank > whole
        or poses not in POSE_SIZES.values()
    ):
        return (
            f"has {classes} classes, {components} components, {dimension} coefficients, {poses} "
            f"pose parameters and {rank} directions for images of {size} values"
        )
    rest, own = size - dimension, fields["roots"].shape[-1] if posed else 0
    if own > rank:
        return f"has roots in {own} directions where there are {rank}"
    expected = {
        "class_weights": (classes,),
        "weights": (classes, components),
        "means": (classes, components, whole),
        "basis": (classes, whole, rank),
        "variances": (classes, rank),
        "floor": (classes, whole) if posed and fields["floor"].ndim == 2 else (classes,),
        "rest": (classes, rest) if posed else (rest,),
        "poses": (classes, poses),
        "pose_scale": (poses,),
        "augment": (),
        "detail": (2,),
        "roots": (classes, components, own, own),
    }
    for name in POSED_FIELDS if posed else FIELDS:
        if tuple(fields[name].shape) != expected[name]:
            return f"has {name} of shape {tuple(fields[name].shape)} where {expected[name]} belongs"
    return None


def _value_problem(fields: Mapping[str, Tensor]) -> str | None:
    posed = "poses" in fields
    for name in POSED_FIELDS if posed else FIELDS:
        if not fields[name].isfinite().all():
            return f"has {name} that are not finite"
    positive = ("class_weights", "weights", "variances", "floor", "rest")
    for name in (*positive, "pose_scale", "augment", "detail") if posed else positive:
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


def refuse_channels_apart(image_shape: tuple[int, int, int], tensors: Mapping[str, Tensor]) -> None:
    """Raises DpdmError for a prior of colour images whose coefficients are those of channels."""
    if image_shape[0] > 1 and COLOUR_AXES not in tensors:
        raise DpdmError(
            "the prior is of a version of dpdm that modelled red, green and blue apart: train "
            "again, or use that version, which model.yaml names"
        )


def normalised(
    image_shape: tuple[int, int, int], fields: Mapping[str, Tensor], dtype: torch.dtype
) -> dict[str, Tensor]:
    """The fields in ``dtype`` with weights and class weights that sum to one. Raises DpdmError."""
    _refuse(_shape_problem(math.prod(image_shape), fields) or _value_problem(fields))
    names = POSED_FIELDS if "poses" in fields else FIELDS
    scaled = {name: fields[name].detach().double() for name in names}
    for name in ("class_weights", "weights"):
        scaled[name] = scaled[name] / scaled[name].sum(dim=-1, keepdim=True)
    return {name: value.to(dtype).contiguous() for name, value in scaled.items()}


def checked(image_shape: tuple[int, int, int], fields: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The fields as they are, if they are those of a prior. Raises DpdmError.

    A sampler of before there were ``roots`` has none; one whose ``detail`` is a single number d has
    amounts of it between 1 - d and 1; one of before coefficients had a ``floor`` of their own has
    one for each class.
    """
    weights, detail = fields.get("weights"), fields.get("detail")
    if "poses" in fields and "roots" not in fields and weights is not None and weights.ndim == 2:
        fields = {**fields, "roots": weights.new_zeros(*weights.shape, 0, 0)}
    if detail is not None and detail.ndim == 0:
        fields = {**fields, "detail": torch.stack([1.0 - detail, torch.ones_like(detail)])}
    problem = _shape_problem(math.prod(image_shape), fields) or _value_problem(fields)
    if problem is None:
        sums = torch.cat([fields["class_weights"].sum().reshape(1), fields["weights"].sum(dim=1)])
        if (sums - 1.0).abs().max() > _TOLERANCE:
            problem = "has weights that do not sum to one"
    _refuse(problem)
    return {name: fields[name] for name in (POSED_FIELDS if "poses" in fields else FIELDS)}
