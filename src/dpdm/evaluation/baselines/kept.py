"""One classifier trained with DP-SGD, in a folder of its own: ledger, statement, weights.

    NAME-SEED-KEY/
      ledger.jsonl          written before every use of the data
      state.safetensors     weights and momentum while training goes on
      model.safetensors     the weights at the end
      privacy.json, PRIVACY.md, settings.json
      seconds.json          how long it took, which no statement covers

KEY covers the images, labels, groups and settings, so that weights are never taken for those of
other data, and a call with the same ones spends nothing. All of it stays on the private side.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import nn

from dpdm.data import PublicFacts
from dpdm.errors import DpdmError
from dpdm.evaluation.baselines.recipe import DpRecipe
from dpdm.evaluation.baselines.training import TrainingState, dp_sgd
from dpdm.evaluation.progress import ProgressCallback
from dpdm.networks import load_into, load_weights, save_weights
from dpdm.privacy import Ledger, PrivateUnits, Session, SystemNoise, read_ledger
from dpdm.promise import build_statement, render_markdown
from dpdm.release.files import STATEMENT, read_json, write_text

_COVERED = (
    "The classifier's weights, its settings and this statement.",
    "Everything computed from these without looking at the private data again, by anyone, with any "
    "other knowledge and at any time.",
)
_NOT_COVERED = (
    "The private side: the folder's name, ledger and training time, accuracies on real data.",
)


@dataclass(frozen=True, eq=False)
class Training:
    """One training: where its files lie, what is trained, on what, and how."""

    folder: Path
    network: nn.Module
    units: PrivateUnits
    facts: PublicFacts
    recipe: DpRecipe

    def run(self, progress: ProgressCallback | None, what: str) -> dict[str, Any]:
        """Puts trained weights into the network, from the folder where they are there.

        An interrupted training goes on from its last state; the steps since then are done again,
        and as they are in the ledger already, it takes as many fewer in all.

        Returns: the statement. Raises DpdmError where the folder is damaged, or in use.
        """
        model, ledger_path = self.folder / "model.safetensors", self.folder / "ledger.jsonl"
        if not model.is_file():
            self._train(model, ledger_path, progress, what)
        tensors, metadata = load_weights(model)
        load_into(self.network, tensors, source=str(model))
        ledger = read_ledger(ledger_path)
        ledger.require(metadata["ledger_head"])
        return self._statement(ledger)

    @property
    def seconds(self) -> float:
        """How long the last call of the training took, as it was measured then."""
        return float((read_json(self.folder / "seconds.json") or {}).get("seconds", 0.0))

    def _train(
        self, model: Path, ledger_path: Path, progress: ProgressCallback | None, what: str
    ) -> None:
        started, recipe = time.perf_counter(), self.recipe
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / "state.safetensors"
        state = TrainingState.fresh(self.network, recipe)
        with self._open_ledger(ledger_path, path.is_file()) as ledger:
            if path.is_file():
                ledger.require(state.load(path))
            every = max(1, recipe.steps // 50)
            for done in dp_sgd(state, self.units, recipe, Session(ledger, SystemNoise())):
                if done % every == 0:
                    state.save(path, ledger.head)
                if progress is not None:
                    progress(what, ledger.count(recipe.event), recipe.steps)
            seconds = round(time.perf_counter() - started, 2)
            write_text(self.folder / "seconds.json", json.dumps({"seconds": seconds}) + "\n")
            settings = {**asdict(recipe), "steps_done": state.step}
            write_text(self.folder / "settings.json", json.dumps(settings, indent=2) + "\n")
            save_weights(model, self.network.state_dict(), {"ledger_head": ledger.head})
        path.unlink(missing_ok=True)

    def _open_ledger(self, path: Path, begun: bool) -> Ledger:
        if path.is_file():
            return Ledger.open(path)
        if begun:
            raise DpdmError(
                f"{path}: missing, though this training has spent: restore it from a backup, or "
                "give --baseline-out another folder"
            )
        return Ledger.create(
            path,
            dataset=self.facts.name,
            unit=self.recipe.unit,
            noise_source=SystemNoise().description,
        )

    def _statement(self, ledger: Ledger) -> dict[str, Any]:
        """The statement by the ledger, also written beside it where it is not there yet."""
        path, facts, recipe = self.folder / STATEMENT, self.facts, self.recipe
        if (kept := read_json(path, "; delete it and evaluate again")) is not None:
            return kept
        statement = build_statement(
            ledger.counted_events(),
            delta=recipe.delta,
            accountant="pld",
            unit=recipe.unit,
            noise_source=ledger.header["noise_source"],
            enabled=True,
            seeded=False,
            planned_epsilon=recipe.epsilon,
            image_shape=facts.shape,
            classes=len(facts.classes),
            public_size=facts.public_size,
            public_size_declared=facts.public_size_declared,
            max_images_per_unit=recipe.images_per_unit if recipe.unit == "group" else None,
        )
        if statement["private"]:
            statement["covered"] = list(_COVERED)
            statement["not_covered"] = [*_NOT_COVERED, *statement["not_covered"][1:]]
        write_text(self.folder / "PRIVACY.md", render_markdown(statement))
        write_text(path, json.dumps(statement, indent=2) + "\n")
        return statement
