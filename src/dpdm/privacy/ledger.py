"""The append-only list of mechanisms that ran on a data set, and what they cost together.

A file of :mod:`dpdm.chain`: a header, then a record of every use of the data, written for a run.
Runs may share a ledger, one after another, and its budget. Noise is drawn after a record is on
disk: a torn last line, as a kill leaves it, is of a mechanism that drew none, and is dropped; a
whole one counts, and so does a step done again with fresh noise. So a ledger may overstate what was
spent, by a record for each kill, and never understates it.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Self

from dpdm.chain import Chain
from dpdm.errors import DpdmError, RequestError
from dpdm.privacy.accounting import (
    ADJACENCY,
    Accountant,
    CountedEvent,
    Event,
    canonical,
    epsilon,
    event_from_json,
    require_delta,
)

FORMAT = 1
_RUN = "run"
_Use = tuple[str, str, Event, str]  # run, mechanism, event, JSON of the params


class Ledger:
    """The verified content of a ledger, and what its records add up to. A context manager.

    From :meth:`create` or :meth:`open` it is locked and written to, by one process at a time; from
    :func:`read_ledger` it is as it stood. ``run`` is recorded, and counted by :meth:`count`;
    ``budget`` is the (epsilon, delta) that all runs together keep to, or None.
    """

    def __init__(self, chain: Chain, run: str) -> None:
        """Callers use the ways named above."""
        self.run, self.header, self._chain = run, chain.lines[0], chain
        self._uses: Counter[_Use] = Counter()
        self._counts: Counter[tuple[str, str, Event]] = Counter()
        self._allowed: Counter[Event] = Counter()
        self._accountant: Accountant = "pld"
        line = self.header
        try:
            if line["format"] != FORMAT:
                raise ValueError(line["format"])
            limits = line.get("budget")
            self.budget = None if limits is None else (limits["epsilon"], limits["delta"])
            for line in chain.lines[1:]:
                self._add(_use(line))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            chain.close()
            raise DpdmError(
                f"{chain.path}, line {line['sequence'] + 1}: this version of dpdm cannot read it; "
                f"use {line.get('software', self.header.get('software'))} or newer"
            ) from error

    @classmethod
    def create(
        cls,
        path: str | Path,
        *,
        dataset: str,
        unit: str,
        noise_source: str,
        run: str = _RUN,
        budget: tuple[float, float] | None = None,
    ) -> Self:
        """A new ledger, open for writing; ``dataset`` is the operator's name for it, not computed.

        Raises :class:`RequestError`: the file exists, or the budget makes no promise;
        :class:`DpdmError`: it cannot be written or locked.
        """
        header: dict[str, Any] = {"format": FORMAT, "dataset": dataset, "unit": unit}
        header |= {"adjacency": ADJACENCY, "noise_source": noise_source}
        if budget is not None:
            require_delta(budget[1])
            if not 0 < budget[0] < float("inf"):
                raise RequestError(f"budget of epsilon {budget[0]:g}: must be positive and finite")
            header["budget"] = {"epsilon": float(budget[0]), "delta": float(budget[1])}
        return cls(Chain.create(Path(path), header), run)

    @classmethod
    def open(cls, path: str | Path, *, run: str = _RUN) -> Self:
        """An existing ledger, verified, open for writing; a torn last line is dropped.

        Raises :class:`DpdmError`: any other damage, naming the line; it is not there, or locked.
        """
        return cls(Chain.open(Path(path)), run)

    @property
    def runs(self) -> tuple[str, ...]:
        """The names of the runs, in the order of their first record."""
        return tuple(dict.fromkeys(run for run, _, _ in self._counts))

    @property
    def repeated(self) -> int:
        """How many records are of a step that its run had recorded before."""
        return len(self) - len(self._uses)

    @property
    def head(self) -> str:
        """The hash of the last line; see :meth:`require`."""
        return self._chain.head

    def __len__(self) -> int:
        """The number of records, the header not counted."""
        return len(self._chain.lines) - 1

    def require(self, head: str) -> None:
        """Raises :class:`DpdmError` unless a line has the hash ``head``: it may be cut short."""
        self._chain.require(head)

    def require_unit(self, unit: str) -> None:
        """Raises :class:`RequestError` unless this is the unit that the ledger is about."""
        if (found := self.header["unit"]) != unit:
            raise RequestError(
                f"{self._chain.path}: its unit is {found!r}, that of this run {unit!r}, and what "
                "they spend does not add up; give the run another ledger"
            )

    def record(self, mechanism: str, event: Event, /, **params: Any) -> None:
        """Appends one use of the data; on disk when it returns. Call it before drawing the noise.

        ``params`` are public JSON values, such as the step's number.

        Raises :class:`DpdmError`: beyond the budget; or not written, and the ledger is closed.
        """
        content: dict[str, Any] = {"run": self.run, "mechanism": mechanism}
        content |= {"event": event.to_json(), "params": params}
        use = _use(content)
        if self.budget is not None and not self._allowed[event]:
            self.check_budget([*self._allowed.items(), (event, 1)], self._accountant)
        self._chain.append(content)
        self._allowed[event] -= 1
        self._add(use)

    def record_once(self, mechanism: str, event: Event, /, **params: Any) -> bool:
        """:meth:`record` unless this run has recorded the same; whether it was new.

        Only for noise that a step done again draws identically, from a seed and the step's number:
        it releases the identical result, and counts once.
        """
        new = (self.run, mechanism, event, _dumps(params)) not in self._uses
        if new:
            self.record(mechanism, event, **params)
        return new

    def check_budget(self, planned: Iterable[CountedEvent], accountant: Accountant = "pld") -> None:
        """Refuses (event, count) pairs still to come that exceed the budget, if there is one.

        Until it is asked again, :meth:`record` takes these as checked, and checks any other itself.

        Raises :class:`DpdmError`: all records and ``planned`` together would exceed it.
        """
        if self.budget is None:
            return
        (limit, delta), planned = self.budget, canonical(planned)
        done = [use[1:] for use in self.counted_events()]
        total = epsilon([*done, *planned], delta, accountant)
        if not total <= limit:
            spent, more = self.epsilon(delta, accountant), epsilon(planned, delta, accountant)
            raise DpdmError(
                f"{self._chain.path}: at its delta, {delta:g}, epsilon {spent:.5g} is spent and "
                f"{more:.5g} is planned, which compose to {total:.5g}, but the budget is "
                f"{limit:g}; plan a smaller epsilon"
            )
        self._allowed, self._accountant = Counter(dict(planned)), accountant

    def count(self, event: Event) -> int:
        """How often the event ran in this run, under any mechanism's name."""
        return sum(n for _, known, n in self.counted_events(self.run) if known == event)

    def counted_events(self, run: str | None = None) -> list[tuple[str, Event, int]]:
        """(mechanism, event, how often) of a run, or of all, in the order of first use."""
        total: Counter[tuple[str, Event]] = Counter()
        for (name, mechanism, event), count in self._counts.items():
            if run in (None, name):
                total[mechanism, event] += count
        return [(mechanism, event, count) for (mechanism, event), count in total.items()]

    def epsilon(
        self, delta: float, accountant: Accountant = "pld", run: str | None = None
    ) -> float:
        """What a run, or all together, spent; see :func:`dpdm.privacy.accounting.epsilon`."""
        return epsilon([use[1:] for use in self.counted_events(run)], delta, accountant)

    def close(self) -> None:
        """Ends writing and gives the lock back; what was read stays."""
        self._chain.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _add(self, use: _Use) -> None:
        self._uses[use] += 1
        self._counts[use[:3]] += 1


def read_ledger(path: str | Path, *, run: str = _RUN) -> Ledger:
    """The ledger as it stands, verified, not locked and not to be written to.

    Raises :class:`DpdmError` naming the line of any damage but a torn last line, which is left out.
    """
    return Ledger(Chain.read(Path(path)), run)


def _use(line: dict[str, Any]) -> _Use:
    run, mechanism = line.get("run", _RUN), line["mechanism"]
    # dpdm's first version wrote no run, and a count that was always 1.
    if type(run) is not str or type(mechanism) is not str or line.get("count", 1) != 1:
        raise ValueError(line)
    return run, mechanism, event_from_json(line["event"]), _dumps(line["params"])


def _dumps(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), allow_nan=False)
