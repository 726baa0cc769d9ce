"""The phases of a training in order (histogram, labeller, prior, warm-up, DP-SGD, release), and
what is saved."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dpdm.config import Config
from dpdm.data import PublicFacts
from dpdm.diffusion.denoiser import Denoiser
from dpdm.diffusion.mixture import Mixture
from dpdm.diffusion.objective import denoising_loss
from dpdm.errors import DpdmError
from dpdm.lanes import Lanes
from dpdm.memory import peak_memory
from dpdm.networks import Labeller, load_weights, save_weights
from dpdm.privacy import Event, NoisedSum, PrivateUnits, Session, validate
from dpdm.promise import build_statement, render_markdown, steps_within
from dpdm.release.build import build_denoiser
from dpdm.release.files import STATEMENT, write_text
from dpdm.release.model import write_release_model
from dpdm.release.precision import autocast_dtype, place
from dpdm.release.seal import seal_release
from dpdm.training.checkpoint import (
    Phase,
    TrainingState,
    list_checkpoints,
    load_checkpoint,
    phase_of,
    save_checkpoint,
)
from dpdm.training.draws import keyed_generator
from dpdm.training.events import Callback, TrainingEvent
from dpdm.training.folder import RunFolder
from dpdm.training.interrupt import Interrupted, InterruptFlag
from dpdm.training.labeller import LabellerState, train_labeller
from dpdm.training.loop import StepRecord, dp_sgd, saved_steps, warm_up
from dpdm.training.microbatch import resolve_microbatch, usable_lanes
from dpdm.training.plan import Plan, exceeds_budget
from dpdm.training.pretraining import FirstWeights, begin_from, first_weights
from dpdm.training.prior import choose, fit_prior
from dpdm.training.view_gradients import images_per_unit

_EPSILON_REPORTS = 12
"""How often a training asks the accountant what was spent so far: an answer takes 0.1 s."""


def build_for(
    config: Config,
    facts: PublicFacts,
    mixture: Mixture | None,
    pretrained: FirstWeights | None = None,
) -> torch.nn.Module:
    """A denoiser for images of this shape and these classes, with fresh or pretrained weights."""
    generator = keyed_generator(config.training.seed, "initial weights")
    denoiser = build_denoiser(config, facts.image_shape, len(facts.classes), mixture, generator)
    if pretrained is not None and isinstance(denoiser, Denoiser):
        begin_from(denoiser, pretrained)
    return denoiser


class Trainer:
    """One call of ``train``: the phases in order, and what is written between steps."""

    def __init__(
        self,
        facts: PublicFacts,
        units: PrivateUnits,
        config: Config,
        plan: Plan,
        folder: RunFolder,
        session: Session,
        interrupt: InterruptFlag,
        tell: Callback,
        device: torch.device,
    ) -> None:
        self.facts, self.units = facts, units
        self.config, self.plan, self.folder = config, plan, folder
        self.session, self.interrupt, self.tell, self.device = session, interrupt, tell, device
        # Read once, before anything is spent: the statement must not depend on the file later.
        self.pretrained = first_weights(config, facts.image_shape[0])
        self.started = time.perf_counter()
        self.budget_stop = False

    def run(self) -> None:
        """Class histogram, labeller, prior, warm-up, DP-SGD, release."""
        try:
            self._phases()
        except BaseException:  # what it took so far counts when it goes on
            self.folder.update_state(training_seconds=self._seconds())
            raise

    def _seconds(self) -> float:
        """That the training took so far, earlier calls that were stopped included."""
        before = float(self.folder.read_state().get("training_seconds", 0.0))
        return before + time.perf_counter() - self.started

    def _phases(self) -> None:
        histogram = self._histogram()
        labeller = self._labeller()
        self._stop_if_asked("the prior")
        mixture = self._prior()
        denoiser = build_for(self.config, self.facts, mixture, self.pretrained)
        place(denoiser, self.device)
        network = None
        if isinstance(denoiser, Denoiser):
            denoiser.precision = autocast_dtype(self.config.training.precision, self.device)
            state = self._train(denoiser, mixture)
            network = state.ema.tensors if state.ema.updates else state.network.state_dict()
        self._release(network, mixture, histogram, labeller)

    def _stop_if_asked(self, before: str) -> None:
        """Between two phases, whose results are saved."""
        if self.interrupt.raised:
            raise Interrupted(f"interrupted before {before}; {self._afterwards()}")

    def _labeller(self) -> Tensor | None:
        """The labeller's weight; trained from where it was left, None where there is none."""
        plan, path = self.plan.labeller, self.folder.labeller
        if plan is None:
            return None
        state = LabellerState.begin(self._fresh_labeller())
        if path.is_file():
            self._require(state.load(path))
        if state.step < plan.steps:
            self._check_statistics_budget(plan.events(), begun=True)
            records = saved_steps(
                train_labeller(self.config, plan, state, self.units, self.session),
                plan.steps,
                lambda: state.save(path, self._ledger_head()),
                self.config.training.checkpoint_every,
                self.interrupt,
                self._afterwards(),
            )
            for record in records:
                self.tell(TrainingEvent("step", record=record, steps=plan.steps))
        return state.labeller.weight.detach()

    def _fresh_labeller(self) -> Labeller:
        return Labeller(self.facts.image_shape, len(self.facts.classes))

    def _histogram(self) -> Tensor | None:
        """The noised shares of the classes, (Y,), released once; None where none is asked for."""
        if not self.config.privacy.histogram_share:
            return None
        path, classes = self.folder.histogram, len(self.facts.classes)
        if path.is_file():
            tensors, metadata = load_weights(path)
            self._require(metadata.get("ledger_head", ""))
            return tensors["histogram"]
        self._check_statistics_budget(self.plan.histogram_events())
        mechanism = NoisedSum("class histogram", self.plan.histogram_noise, 1.0)
        counts = mechanism.release(
            self.units, lambda _, labels: np.eye(classes)[labels], self.session
        )
        shares = torch.from_numpy(counts[0]).float().clamp(min=0.0)
        shares = shares / shares.sum() if shares.sum() > 0 else torch.full((classes,), 1 / classes)
        save_weights(path, {"histogram": shares}, {"ledger_head": self._ledger_head()})
        return shares

    def _prior(self) -> Mixture | None:
        design = self.plan.prior
        if design is None:
            return None
        path = self.folder.prior
        if path.is_file():
            tensors, metadata = load_weights(path)
            self._require(metadata.get("ledger_head", ""))
            return Mixture.from_tensors(tensors, self.facts.image_shape).to(self.device)
        self._check_statistics_budget(design.events())
        self.tell(TrainingEvent("prior", "fitting the prior to noised statistics"))
        started = time.perf_counter()
        prior, seed = self.config.prior, self.config.training.seed
        about = self.units, self.facts.image_shape, len(self.facts.classes)
        augment, texture = prior.augment, prior.texture
        if design.choice is not None:
            chosen = choose(*about, design, self.session, seed, prior.detail)
            design, augment = chosen.design, chosen.candidate.augment
            texture = chosen.candidate.texture
            self.tell(TrainingEvent("prior", f"prior.normalise=auto: {chosen.in_words()}"))
            self.folder.update_state(prior_chosen=chosen.to_json())
        mixture = fit_prior(
            *about,
            design,
            self.session,
            seed,
            augment,
            prior.detail,
            texture,
            prior.calibrate,
        )
        save_weights(path, mixture.to_tensors(), {"ledger_head": self._ledger_head()})
        self.folder.update_state(prior_seconds=time.perf_counter() - started)
        self.tell(TrainingEvent("prior", epsilon=self._epsilon()))
        return mixture.to(self.device)

    def _check_statistics_budget(
        self, planned: list[tuple[Event, int]], *, begun: bool = False
    ) -> None:
        """A release that was killed half-way is spent, and done again only within the budget.

        Of one that may have ``begun``, and goes on where it was stopped, what the ledger holds is
        not planned again.
        """
        ledger, privacy = self.session.ledger, self.config.privacy
        if ledger is None or self.session.repeatable or not len(ledger.counted_events(ledger.run)):
            return
        events = {"begun" if begun else "again": planned}
        if exceeds_budget(self.config, ledger, ledger.run, **events):
            raise DpdmError(
                f"{self.folder.path}: the run was stopped while it released statistics, and with "
                f"what is still to be released it would exceed epsilon {privacy.epsilon:g}; the "
                "ledger keeps what was spent: start a new run with --force or another --out"
            )

    def _train(self, denoiser: Denoiser, mixture: Mixture | None) -> TrainingState:
        config, network = self.config, denoiser.network
        checkpoints = list_checkpoints(self.folder.checkpoints)
        phase = phase_of(checkpoints[-1]) if checkpoints else "warm-up"
        state = self._fresh_state(denoiser, phase)
        if checkpoints:
            self._require(load_checkpoint(checkpoints[-1], state))
        if state.phase == "warm-up":
            if config.warmup.steps and mixture is not None:
                labelled = bool(self.facts.classes)
                records = warm_up(config, denoiser, mixture, state, labelled)
                self._drive(records, state, config.warmup.steps)
                state.ema.copy_to(network)
            if config.warmup.steps or config.network.init:
                save_weights(self.folder.warmed_up, state.ema.tensors, {})
            state = self._fresh_state(denoiser, "DP-SGD")
            self._save(state)
        if self.plan.steps:
            self._validate(denoiser)
            with Lanes(usable_lanes(config, self.device)) as lanes:
                steps = dp_sgd(
                    config,
                    self.plan,
                    denoiser,
                    self.units,
                    self.session,
                    state,
                    self._microbatch(denoiser, lanes.count),
                    lanes,
                    self._budget(),
                )
                with closing(steps) as records:
                    self._drive(records, state, config.training.steps_to_do)
        self.folder.update_state(steps_done=state.step, budget_stop=self.budget_stop)
        return state

    def _microbatch(self, denoiser: Denoiser, lanes: int) -> int:
        """What ``auto`` found stays for the whole run, so that a resumed one repeats its rounding.

        Sums of gradients round differently with another number.
        """
        kept = self.folder.read_state().get("microbatch")
        if self.config.training.microbatch == "auto" and kept is not None:
            return int(kept)
        found = resolve_microbatch(self.config, denoiser, self.facts, self.device, lanes)
        self.folder.update_state(microbatch=found)
        return found

    def _save(self, state: TrainingState) -> None:
        save_checkpoint(self.folder.checkpoints, state, self._ledger_head())

    def _ledger_head(self) -> str:
        return "" if self.session.ledger is None else self.session.ledger.head

    def _require(self, ledger_head: str) -> None:
        """Refuses a file written when the ledger held more than it does now."""
        if self.session.ledger is not None and ledger_head:
            self.session.ledger.require(ledger_head)

    def _fresh_state(self, denoiser: Denoiser, phase: Phase) -> TrainingState:
        return TrainingState.begin(denoiser.network, phase, self.config.training.ema_decay)

    def _validate(self, denoiser: Denoiser) -> None:
        """Two random units, nothing private: no unit may influence another's loss or gradient."""
        views = self.config.views.count
        generator = keyed_generator(0, "validation")
        count = 2 * min(views, 2)
        shape = (count, *self.facts.image_shape)
        labels = None
        if self.facts.classes:
            labels = torch.zeros(count, dtype=torch.int64, device=self.device)
        inputs = (
            torch.rand(shape, generator=generator).to(self.device) * 2 - 1,
            torch.rand(count, generator=generator).to(self.device) + 0.1,
            torch.randn(shape, generator=generator).to(self.device),
            labels,
        )
        validate(denoiser, denoising_loss, inputs, views=min(views, 2))

    def _budget(self) -> Callable[[], bool]:
        """A question to ask before each step: does the budget, by the ledger, allow one more?"""
        ledger, event, privacy = self.session.ledger, self.plan.step_event, self.config.privacy
        if ledger is None or event is None or self.session.repeatable:
            return lambda: True
        most = max(self.plan.steps, ledger.count(event) + 1)
        own = ledger.counted_events(ledger.run)
        others = [(known, count) for _, known, count in own if known != event]
        allowed = steps_within(
            privacy.epsilon, privacy.delta, event, others, privacy.accountant, at_most=most
        )
        if ledger.budget is not None:
            every = Counter[Event]()
            for _, known, count in ledger.counted_events():
                every[known] += count
            every[event] -= ledger.count(event)
            others = list(every.items())
            allowed = min(
                allowed,
                steps_within(*ledger.budget, event, others, privacy.accountant, at_most=most),
            )

        def may_step() -> bool:
            if ledger.count(event) < allowed:
                return True
            self.budget_stop = True
            self.tell(
                TrainingEvent(
                    "stopped",
                    "stopped before the step that would exceed the budget: steps done again after "
                    "an interruption are counted twice",
                )
            )
            return False

        return may_step

    def _drive(self, records: Iterator[StepRecord], state: TrainingState, steps: int) -> None:
        """Runs a loop: logs, saves at intervals and at Ctrl-C, stops there."""
        report_every = max(1, steps // _EPSILON_REPORTS)
        every = self.config.training.checkpoint_every
        how = (lambda: self._save(state), every, self.interrupt, self._afterwards())
        for record in saved_steps(records, steps, *how):
            spent = None
            if record.phase == "DP-SGD" and (record.step % report_every == 0):
                spent = self._epsilon()
            self.folder.append_metrics(
                {
                    "phase": record.phase,
                    "step": record.step,
                    "loss": record.loss,
                    "epsilon": spent,
                    "units": record.private_units,
                    "clipped": record.private_clipped_share,
                    "nonfinite": record.private_nonfinite_units,
                    "images": record.images,
                    "seconds": round(record.seconds, 4),
                }
            )
            self.tell(TrainingEvent("step", record=record, steps=steps, epsilon=spent))

    def _afterwards(self) -> str:
        return f"saved in {self.folder.path}: --resume goes on"

    def _epsilon(self) -> float | None:
        ledger, privacy = self.session.ledger, self.config.privacy
        return None if ledger is None else ledger.epsilon(privacy.delta, privacy.accountant)

    def _release(
        self,
        network: dict[str, torch.Tensor] | None,
        mixture: Mixture | None,
        histogram: Tensor | None,
        labeller: Tensor | None,
    ) -> None:
        source = None if self.pretrained is None else self.pretrained.source
        state = self.folder.read_state()
        # Killed from here on, a resumed run makes its release again, and whole.
        self.folder.update_state(trained=False)
        write_statement(self.folder, self.config, self.facts, self.session, source)
        write_release_model(
            self.folder.release,
            self.config,
            self.facts.image_shape,
            self.facts.classes,
            network,
            mixture,
            histogram,
            labeller,
            state.get("prior_chosen"),
        )
        # Samples and report of an earlier release of this run are not this release's.
        self.folder.drop_drawn()
        self.folder.update_state(
            trained=True,
            seal=seal_release(self.folder.release),
            training_seconds=self._seconds(),
            peak_memory_bytes=max(state.get("peak_memory_bytes", 0), peak_memory(self.device)),
            device=str(self.device),
        )
        self.tell(TrainingEvent("released", str(self.folder.release), epsilon=self._epsilon()))


def write_statement(
    folder: RunFolder,
    config: Config,
    facts: PublicFacts,
    session: Session,
    pretrained_on: str | None,
) -> None:
    """Writes ``privacy.json`` and ``PRIVACY.md`` from the ledger."""
    noise, ledger = session.noise, session.ledger
    shared: dict[str, Any] = {}
    if ledger is not None and config.privacy.ledger is not None:
        shared = {
            "this_run": ledger.counted_events(ledger.run),
            "runs": len(ledger.runs),
            "budget": ledger.budget,
        }
    statement = build_statement(
        [] if ledger is None else ledger.counted_events(),
        delta=config.privacy.delta,
        accountant=config.privacy.accountant,
        unit=config.privacy.unit,
        noise_source="none" if ledger is None else noise.description,
        enabled=config.privacy.enabled,
        seeded=ledger is not None and not noise.private,
        planned_epsilon=config.privacy.epsilon,
        image_shape=facts.shape,
        classes=len(facts.classes),
        public_size=facts.public_size,
        public_size_declared=facts.public_size_declared,
        max_images_per_unit=images_per_unit(config) if config.privacy.unit == "group" else None,
        pretrained_on=pretrained_on,
        **shared,
    )
    write_text(folder.release / STATEMENT, json.dumps(statement, indent=2) + "\n")
    write_text(folder.release / "PRIVACY.md", render_markdown(statement))
