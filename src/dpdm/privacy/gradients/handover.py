"""Functions of torch that hand themselves over to an interceptor as a whole, without doing so.

Some of torch's Python functions ask first whether an interceptor is active and, if so, pass it
their whole call. What they do inside is then out of its sight. These are the same functions, from
the same code, that do not ask.
"""

from __future__ import annotations

from types import FunctionType
from typing import Any

import torch
import torch.nn.functional as F


def _without_handover(function: Any) -> Any:
    names = {**function.__globals__, "has_torch_function": lambda tensors: False}
    body = FunctionType(
        function.__code__, names, function.__name__, function.__defaults__, function.__closure__
    )
    body.__kwdefaults__ = function.__kwdefaults__
    return body


multi_head_attention = _without_handover(F.multi_head_attention_forward)
autograd_grad = _without_handover(torch.autograd.grad)
autograd_backward = _without_handover(torch.autograd.backward)
