"""Per-unit gradients of the denoising loss, on a GPU as one recorded graph.

A microbatch of the paper's network is some thousand calls of small kernels. Asked for one by one
they keep a GPU waiting; recorded once as a CUDA graph, the same calls are made by a single one.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from dpdm.diffusion.denoiser import Denoiser
from dpdm.diffusion.objective import corrected_loss
from dpdm.privacy.gradients import per_unit_gradients, settled

Gradients = dict[str, Tensor]
Found = tuple[Tensor, Gradients]


class Differentiation:
    """A callable from views to the (U,) mean losses of units and their gradients (U, *shape).

    What it returns on a GPU is overwritten by its next call.

    Args:
        denoiser: whose network is differentiated; gradients have the names of its parameters.
        views: V; the views of a unit are adjacent.
    """

    def __init__(self, denoiser: Denoiser, views: int) -> None:
        self.denoiser, self.views = denoiser, views
        drops = any(isinstance(m, torch.nn.Dropout) and m.p for m in denoiser.modules())
        # A recorded graph would not follow the generator that dropout is seeded in.
        self._may_record = not drops
        self._recording: Recording | None = None

    def __call__(
        self, images: Tensor, sigma: Tensor, noise: Tensor, labels: Tensor | None
    ) -> Found:
        """``images`` (U*V, C, H, W) in [-1, 1], ``sigma`` (U*V,), ``noise`` like images, ``labels``
        (U*V,) or None: as ``denoising_loss`` takes them."""
        with torch.no_grad():
            # A base may ask how many images a class has, which is no part of a graph.
            base = self.denoiser.base(images + sigma.reshape(-1, 1, 1, 1) * noise, sigma, labels)
        inputs = (images, base.mean, base.inputs, sigma, labels)
        if images.is_cuda and self._may_record:
            if self._recording is not None and self._recording.fits(inputs):
                return self._recording(inputs)
            if settled(self.denoiser, corrected_loss, inputs, self.views):
                try:
                    self._recording = None  # its memory first
                    self._recording = Recording(self._differentiate, inputs)
                    return self._recording(inputs)
                except RuntimeError as error:
                    self._may_record = False
                    reason = (str(error).splitlines() or [""])[0]
                    warnings.warn(f"no CUDA graph, steps are slower: {reason}", stacklevel=2)
        return self._differentiate(inputs)

    def _differentiate(self, inputs: Sequence[Tensor | None]) -> Found:
        # A microbatch is as large as it should be, and a resumed run takes the same passes.
        return per_unit_gradients(
            self.denoiser, corrected_loss, inputs, views=self.views, whole=True
        )


class Recording:
    """``function(inputs)`` as a CUDA graph with inputs and outputs of its own."""

    def __init__(
        self, function: Callable[[Sequence[Tensor | None]], Found], inputs: Sequence[Tensor | None]
    ) -> None:
        self._inputs = [None if x is None else x.clone() for x in inputs]
        beside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        beside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(beside):  # libraries prepare themselves on a stream's first call
            function(self._inputs)
        torch.cuda.current_stream().wait_stream(beside)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._outputs = function(self._inputs)

    def fits(self, inputs: Sequence[Tensor | None]) -> bool:
        """Whether the inputs have the shapes of those that it was recorded with."""
        return [None if x is None else x.shape for x in self._inputs] == [
            None if x is None else x.shape for x in inputs
        ]

    def __call__(self, inputs: Sequence[Tensor | None]) -> Found:
        for own, new in zip(self._inputs, inputs, strict=True):
            if own is not None and new is not None:
                own.copy_(new)
        self._graph.replay()
        return self._outputs
