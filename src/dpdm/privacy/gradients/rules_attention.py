"""Per-unit gradients of torch's multi-head attention: its own body, projections intercepted.

``F.multi_head_attention_forward`` hands itself over to an interceptor as a whole. Its body is run
here once more with interception within, where its leading dimensions are known to be (time, batch),
flattened before the output projection.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch.nn.functional as F
from torch import Tensor

from dpdm.privacy.gradients.handover import multi_head_attention

if TYPE_CHECKING:
    from dpdm.privacy.gradients.interception import UnitCopies


def _multi_head_attention(copies: UnitCopies, query: Tensor, *args: Any, **kwargs: Any) -> Any:
    if query.ndim != 3:
        return NotImplemented
    with copies.time_major(query.shape[1]):
        return multi_head_attention(query, *args, **kwargs)


RULES: dict[Any, Callable[..., Any]] = {F.multi_head_attention_forward: _multi_head_attention}
