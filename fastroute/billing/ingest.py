"""The control plane's task that keeps the ledger up with the journals."""

import asyncio
import logging
from typing import Final

import msgspec

from fastroute.billing.ledger import IngestReport, Ledger, LedgerBusyError, LedgerError

MAX_BACKOFF_S: Final = 30.0

_LOG = logging.getLogger(__name__)


class IngestTotals(msgspec.Struct):
    """Counts since the start, for metrics. `last_error` is None while all is well."""

    rows: int = 0
    duplicates: int = 0
    bad_lines: int = 0
    failures: int = 0
    last_error: str | None = None


class Ingestor:
    """Brings journals into the ledger, again and again. One call of `run_once` at a time.

    ledger_path: opened at the first run and again after an error, so a ledger that is damaged or on a full
    disk at start-up is an error that passes once it has been mended. journal_dir: see `journal_directory`.
    """

    def __init__(self, ledger_path: str, journal_dir: str) -> None:
        self._ledger_path = ledger_path
        self._journal_dir = journal_dir
        self._ledger: Ledger | None = None
        self.totals = IngestTotals()

    def run_once(self) -> IngestReport:
        """Ingest what is there (blocking). Nothing is done while another process is at it.

        Raises LedgerError or OSError; the journals are untouched then.
        """
        try:
            if self._ledger is None:
                self._ledger = Ledger.open(self._ledger_path)
            report = self._ledger.ingest(self._journal_dir)
        except LedgerBusyError:
            return IngestReport()
        except (LedgerError, OSError):
            self.close()
            raise
        self.totals.rows += report.rows
        self.totals.duplicates += report.duplicates
        self.totals.bad_lines += report.bad_lines
        return report

    async def run(self, stop: asyncio.Event, interval_s: float = 0.5) -> None:
        """Ingest every `interval_s` seconds until `stop`, then once more, and close the ledger.

        Errors are logged and slow the pace down, up to `MAX_BACKOFF_S`; they never end the task.
        """
        pause_s = interval_s
        while not stop.is_set():
            if await self._step():
                pause_s = interval_s
            else:
                pause_s = min(pause_s * 2, max(MAX_BACKOFF_S, interval_s))
            try:
                await asyncio.wait_for(stop.wait(), pause_s)
            except TimeoutError:
                continue
        await self._step()
        await asyncio.to_thread(self.close)

    def close(self) -> None:
        """Close the ledger; the next run opens it again."""
        if self._ledger is not None:
            self._ledger.close()
            self._ledger = None

    async def _step(self) -> bool:
        """Run once in a thread; return whether all went well."""
        try:
            report = await asyncio.to_thread(self.run_once)
        except (LedgerError, OSError) as error:
            self._failed(str(error))
            return False
        if report.bad_lines or report.duplicates:
            _LOG.warning("journal: skipped %d bad lines, %d duplicates", report.bad_lines, report.duplicates)
        if report.faults:
            self._failed("; ".join(report.faults))
            return False
        if self.totals.last_error is not None:
            _LOG.info("ledger: ingesting again")
            self.totals.last_error = None
        return True

    def _failed(self, reason: str) -> None:
        self.totals.failures += 1
        if reason != self.totals.last_error:
            _LOG.error("ledger: %s; records wait in the journals", reason)
        self.totals.last_error = reason
