"""The tree of settings: frozen, validated, and public in every field.

Nothing here is computed from private data. Defaults are the paper's MNIST settings (Dockhorn et
al., TMLR 2023, appendix); the presets are its rows or this project's own.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator


def _not_boolean(value: Any) -> Any:
    """YAML's ``yes`` must not become one training step."""
    if isinstance(value, bool):
        raise ValueError("is true or false where a number belongs")
    return value


Integer = Annotated[int, BeforeValidator(_not_boolean)]
Real = Annotated[float, BeforeValidator(_not_boolean)]
Positive = Annotated[Real, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[Real, Field(ge=0, allow_inf_nan=False)]
Count = Annotated[Integer, Field(ge=0)]
PositiveCount = Annotated[Integer, Field(ge=1)]
SamplerName = Literal["churn", "heun", "ddim", "ddim-stochastic", "dpmpp-2m"]
Precision = Literal["auto", "float32", "bfloat16"]
Detail = Literal["kept", "reduced"]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=False)


class DataConfig(_Section):
    """Which images, and what is declared public about them."""

    spec: str | None = Field(
        None, description="name or path of the training images; --data overrides it"
    )
    image_size: Annotated[Integer, Field(ge=4, le=1024)] | None = Field(
        None, description="centre crop and resize to this many pixels a side"
    )
    channels: Annotated[Integer, Field(ge=1, le=4)] | None = Field(
        None, description="convert to this many channels (1 grey, 3 RGB)"
    )
    on_error: Literal["fail", "skip"] = Field(
        "fail", description="what to do with an unreadable image"
    )
    labels: bool = Field(True, description="false trains an unconditional model")
    public_size: PositiveCount | None = Field(
        None, description="declared number of units; unset, the exact count is treated as public"
    )


class PrivacyConfig(_Section):
    """The promise."""

    enabled: bool = Field(True, description="false trains without clipping and noise, and says so")
    epsilon: Positive = 10.0
    delta: Annotated[Real, Field(gt=0, lt=1)] = 1e-5
    accountant: Literal["pld", "rdp"] = "pld"
    max_grad_norm: Positive = Field(1.0, description="clipping norm C of a unit's gradient")
    unit: Literal["image", "group"] = Field(
        "image", description="what is protected: one image, or all images of one group (person)"
    )
    max_images_per_unit: PositiveCount | None = Field(
        None, description="images of a group that share its views in a step; unset, views.count"
    )
    histogram_share: Annotated[Real, Field(ge=0, lt=1)] = Field(
        0.0, description="share of epsilon for a noised class histogram, for --labels histogram"
    )
    ledger: str | None = Field(
        None, description="a ledger shared with other runs on the same data; unset, the run's own"
    )
    noise_seed: Integer | None = Field(
        None, description="fixes noise and sampling: reproducible, and not private"
    )
    noise_draws: PositiveCount = Field(
        1, description="Gaussians summed for each noise value; 4 hampers floating-point attacks"
    )

    @property
    def keeps_promise(self) -> bool:
        """Whether there is noise, and noise that nobody can repeat."""
        return self.enabled and self.noise_seed is None


class ViewsConfig(_Section):
    """Noisy copies of a unit averaged before clipping (noise multiplicity, paper eq. 7)."""

    count: PositiveCount = 32
    law: Literal["iid", "stratified", "stratified-antithetic"] = "iid"


class PriorConfig(_Section):
    """Noised class statistics and the mixture of Gaussians fitted to them."""

    enabled: bool = False
    share: Annotated[Real, Field(gt=0, le=1)] = Field(
        0.5,
        description="share of epsilon for the statistics; all of it where training.steps=0",
    )
    dimension: PositiveCount | None = Field(
        None, description="number of low DCT frequencies modelled; unset, a public rule"
    )
    clusters: PositiveCount | None = Field(
        None, description="Gaussians per class; unset, a public rule"
    )
    cluster_directions: Count | None = Field(
        None,
        description="leading directions of a class in which each of its Gaussians has a covariance "
        "of its own; 0: none; unset, a public rule",
    )
    normalise: Literal["none", "brightness", "shift", "affine", "auto"] = Field(
        "none",
        description="what differs between images of one shape and is modelled apart from it: "
        "brightness; shift adds the place, affine size and slant. For light shapes on a dark "
        "ground; public knowledge, or auto: with a tenth of the prior's budget it, augment and "
        "texture are chosen by noised votes of the images",
    )
    texture: bool = Field(
        False, description="a share for the energy of each class beyond the modelled frequencies"
    )
    detail: Detail = Field(
        "kept",
        description="with texture, samples differ in their amount of fine detail: its energy as "
        "released (kept), or a third of it (reduced), which is smoother",
    )
    calibrate: bool = Field(
        True,
        description="samples are drawn and compared with the released means and variances, and the "
        "prior is moved by what they lack (nearer to the real images); where classes have clusters "
        "and no poses but brightness are modelled",
    )
    augment: Annotated[Real, Field(ge=0, le=3)] = Field(
        0.0,
        description="strength of public warps and contrast of the prior's samples; 1: 6 degrees, "
        "6% in size, 2% in place (standard deviations)",
    )

    @model_validator(mode="after")
    def _chosen_or_told(self) -> Self:
        if self.normalise == "auto" and (self.augment or self.texture):
            raise ValueError(
                "prior.normalise=auto chooses prior.augment and prior.texture too: leave them out, "
                "or set prior.normalise=none (images as they are), brightness, shift or affine"
            )
        return self


class LabellerConfig(_Section):
    """A classifier trained on the private images with DP-SGD, which labels the samples.

    Softmax regression on scattering features: few weights, which DP-SGD learns well.
    """

    enabled: bool = False
    share: Annotated[Real, Field(gt=0, lt=1)] = Field(
        0.2, description="share of epsilon for the labeller"
    )
    epochs: Positive = Field(
        20.0, description="expected passes over the data; steps = epochs / q, at most 500"
    )
    batch_size: PositiveCount = Field(4096, description="expected units per step")
    learning_rate: Positive | None = Field(
        None, description="of momentum SGD; unset, by a public rule from noise, steps and features"
    )
    max_grad_norm: Positive = 0.1


class WarmupConfig(_Section):
    """Training on samples of the prior, before any private gradient: post-processing."""

    steps: Count = 0
    batch_size: PositiveCount = 256
    learning_rate: Positive = 1e-3
    pool: PositiveCount = Field(20_000, description="prior samples drawn to train on")


class DiffusionConfig(_Section):
    """The triplet (preconditioning, noise distribution, loss weight) and the base."""

    config: Literal["vp", "ve", "v", "edm"] = "edm"
    base: Literal["auto", "skip", "informed", "prior"] = Field(
        "auto",
        description="what the network corrects: c_skip x, the prior's posterior mean (prior), or "
        "both, weighed by c_skip (informed); auto: prior if enabled",
    )
    sigma_range: tuple[Positive, Positive] | None = Field(
        None,
        description="train between these noise levels only, for samples that start from the prior; "
        "unset, all of the DM config's",
    )

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.sigma_range is not None and self.sigma_range[0] >= self.sigma_range[1]:
            raise ValueError("sigma_range: the first noise level must be below the second")
        return self


class NetworkConfig(_Section):
    """The DDPM++ U-Net."""

    base_channels: PositiveCount = 32
    multipliers: tuple[PositiveCount, ...] = (1, 2, 2)
    blocks: PositiveCount = Field(2, description="residual blocks a level")
    attention: tuple[PositiveCount, ...] = Field(
        (7,), description="resolutions with self-attention"
    )
    dropout: Annotated[Real, Field(ge=0, lt=1)] = 0.0
    patch: PositiveCount = Field(1, description="pixel-unshuffle factor before the network")
    noise_frequencies: tuple[Positive, Positive] = Field(
        (1.0, 1e-4), description="highest and lowest frequency of the noise embedding"
    )
    label_dropout: Annotated[Real, Field(ge=0, lt=1)] = Field(
        0.1, description="share of views trained without their label, for guidance"
    )
    init: str | None = Field(
        None,
        description="first weights: procedural (pretrained on images made by code, shipped), or a "
        "file of `dpdm pretrain`; unset, random",
    )


class TrainingConfig(_Section):
    """DP-SGD and its optimiser."""

    batch_size: PositiveCount = Field(
        4096, description="expected units per step, B; q = B / public size"
    )
    largest_rate: Annotated[Real, Field(gt=0, le=1)] | None = Field(
        None,
        description="most of the units in a step, as a share: a larger batch_size is lowered; "
        "unset, a batch larger than the data is refused",
    )
    steps: Count = Field(4394, description="steps the noise is planned for")
    least_signal: NonNegative = Field(
        0.0,
        description="with a prior: no gradient steps where their signal to noise is less",
    )
    max_steps: Count | None = Field(
        None, description="stop earlier, with the epsilon actually spent"
    )
    microbatch: PositiveCount | Literal["auto"] = Field(
        "auto",
        description="units in forward and backward passes at a time; auto: what memory allows",
    )
    precision: Precision = Field(
        "auto",
        description="of the network's matrix products; auto: bfloat16 where the device computes it",
    )
    learning_rate: Positive = 3e-4
    schedule: Literal["constant", "cosine"] = "constant"
    ema_decay: Annotated[Real, Field(ge=0, lt=1)] = 0.999
    checkpoint_every: PositiveCount = 100
    seed: Annotated[Integer, Field(ge=0)] = Field(
        0, description="initialisation, warm-up, samples; published, so never of views or noise"
    )

    @property
    def steps_to_do(self) -> int:
        """The planned steps, or ``max_steps`` where that is fewer."""
        return self.steps if self.max_steps is None else min(self.steps, self.max_steps)


MOST_LABELLER_GUIDANCE = 20.0
"""With 3 samples are no better than with 1, and more takes longer."""


class SamplerSettings(_Section):
    """One way to sample; names and units of Karras et al. 2022, Algorithm 2."""

    sampler: SamplerName = "churn"
    start: Literal["noise", "prior"] = Field(
        "noise", description="begin with noise alone, or with the prior's samples and noise on them"
    )
    steps: PositiveCount = 40
    guidance: NonNegative = 0.0
    sigma_min: Positive = 0.002
    sigma_max: Positive = 80.0
    rho: Positive = 7.0
    s_churn: NonNegative = 0.0
    s_min: NonNegative = 0.0
    s_max: Positive = 1e9
    s_noise: Positive = 1.0
    reading: Literal["together", "labeller"] = Field(
        "together",
        description="where there is a labeller, labels are what it finds in an image, together "
        "with the class that the image was drawn for, or alone: better for CNNs where it is good",
    )
    labeller_guidance: Annotated[Real, Field(ge=0, le=MOST_LABELLER_GUIDANCE)] = Field(
        0.0,
        description="move samples to where the labeller finds their label, by so much of the "
        "gradient of log p(label | image); teaches classifiers what the labeller knows",
    )

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.sigma_min >= self.sigma_max:
            raise ValueError("sigma_min must be below sigma_max")
        return self


class SamplingConfig(SamplerSettings):
    """How the release's own samples are drawn, and other settings of the paper by name."""

    count: PositiveCount = Field(1000, description="images in release/samples.npz")
    precision: Precision = Field(
        "auto",
        description="of the network's matrix products; auto: bfloat16 where the device computes it",
    )
    batch_size: PositiveCount = 500
    alternatives: dict[str, SamplerSettings] = Field(
        default_factory=dict, description="named settings for `dpdm sample --settings NAME`"
    )


class EvaluationConfig(_Section):
    """What `dpdm run` measures, on the private side."""

    classifiers: bool = True
    memorisation: bool = Field(
        True, description="also compare samples with their nearest real images, in pixels"
    )
    seeds: PositiveCount = 1
    stages: bool = Field(
        True, description="also measure the prior alone and the network after warm-up"
    )


class Config(_Section):
    """The whole tree of a run."""

    name: str = "custom"
    about: str = ""
    data: DataConfig = DataConfig()
    privacy: PrivacyConfig = PrivacyConfig()
    views: ViewsConfig = ViewsConfig()
    prior: PriorConfig = PriorConfig()
    labeller: LabellerConfig = LabellerConfig()
    warmup: WarmupConfig = WarmupConfig()
    diffusion: DiffusionConfig = DiffusionConfig()
    network: NetworkConfig = NetworkConfig()
    training: TrainingConfig = TrainingConfig()
    sampling: SamplingConfig = SamplingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()

    @property
    def base(self) -> Literal["skip", "informed", "prior"]:
        """``diffusion.base``, or what auto stands for."""
        base = self.diffusion.base
        if base == "auto":
            return "prior" if self.prior.enabled else "skip"
        return base

    @property
    def image_passes(self) -> int:
        """Images through the network in all planned DP-SGD steps, expected."""
        return self.training.steps_to_do * self.training.batch_size * self.views.count

    def with_settings(self, section: str, **settings: object) -> Self:
        """The same with other settings in a section, which are taken as they are, unchecked."""
        changed = getattr(self, section).model_copy(update=settings)
        return self.model_copy(update={section: changed})

    def without_labeller(self) -> Self:
        """The same without a labeller, and without what samples have of it."""
        settings = self.sampling.alternatives.items()
        alternatives = {n: s.model_copy(update={"labeller_guidance": 0.0}) for n, s in settings}
        changed = self.with_settings("labeller", enabled=False)
        return changed.with_settings("sampling", labeller_guidance=0.0, alternatives=alternatives)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        base = self.diffusion.base
        if self.base != "skip" and not self.prior.enabled:
            raise ValueError(f"diffusion.base={base} needs prior.enabled=true")
        if self.training.steps == 0 and not self.prior.enabled:
            raise ValueError(
                "training.steps=0 with prior.enabled=false releases nothing; set one of them"
            )
        if self.network.init is not None and self.base == "prior":
            raise ValueError(
                f"network.init={self.network.init}: there is no pretrained network that "
                "corrects the prior; set diffusion.base=informed or skip"
            )
        most = self.privacy.max_images_per_unit
        if most is not None and (self.privacy.unit == "image" or most > self.views.count):
            raise ValueError(
                f"privacy.max_images_per_unit={most} needs privacy.unit=group and at least as many "
                f"views (views.count={self.views.count}): each view is of one image"
            )
        if self.warmup.steps and not self.prior.enabled:
            raise ValueError(
                "warmup.steps needs prior.enabled=true: there is nothing to warm up on"
            )
        named = {f"sampling.alternatives.{n}": s for n, s in self.sampling.alternatives.items()}
        for key, settings in {"sampling": self.sampling, **named}.items():
            self._check_sampling(key, settings)
        return self

    def _check_sampling(self, key: str, settings: SamplerSettings) -> None:
        if settings.start == "prior" and not self.prior.enabled:
            raise ValueError(f"{key}.start=prior needs prior.enabled=true")
        if settings.labeller_guidance and not self.labeller.enabled:
            raise ValueError(
                f"{key}.labeller_guidance={settings.labeller_guidance:g} needs "
                "labeller.enabled=true; set it to 0 or train one"
            )
        if self.diffusion.sigma_range is None:
            return
        low, high = self.diffusion.sigma_range
        if settings.sigma_max > high or settings.sigma_min < low:
            raise ValueError(
                f"{key}.sigma_min={settings.sigma_min:g} to sigma_max={settings.sigma_max:g} goes "
                f"beyond diffusion.sigma_range={low:g},{high:g}: the network is not trained there"
            )
