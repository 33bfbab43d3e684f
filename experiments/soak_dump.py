"""The process of the soak that dumps the cluster while it is loaded and tormented, and loads each dump into another.

What that one holds then must be what the dump holds, entry for entry, and nothing else; what a dump shows is read at
one moment between its beginning and its end. Now and then a dump is killed on its way, which must leave no file, or the
small cluster is filled until it refuses writes.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

from soak_processes import PATIENCE_S, Worker
from soak_records import group_of, shown, text_of

from zkv import Client, OutOfMemory, ZkvError
from zkv.core import wire
from zkv.dump.dumping import dump
from zkv.dump.format import Entries, Reader
from zkv.dump.loading import ClusterTime, load, verify
from zkv.dump.whole import SUFFIX, WholeFile
from zkv.net.admin import AdminLink
from zkv.values import TYPED

REST_S: Final = 4.0
COMMAND_S: Final = 60.0
LOOSE_MS: Final = 800
"""By how much a time to live may differ: two clusters' clocks, and what it takes to ask."""
STUFFING_BYTES: Final = 200_000
OTHER_LIMIT_BYTES: Final = 24 * 2**20
"""Memory limit of the nodes of the cluster that is loaded into."""

Held = dict[str | bytes, tuple[int, Any, int]]
"""Key -> version, value, expiry."""


class Dumper(Worker):
    """Dumps, loads, compares."""

    def run(self) -> None:
        """Work until `stopped`."""
        number = 0
        with (
            tempfile.TemporaryDirectory(prefix="dumps-", dir=self.job.directory.parent) as directory,
            Client(self.job.manager, timeout_s=PATIENCE_S) as kv,
            Client(self.job.other_manager, timeout_s=30) as other,
        ):
            while not self.stopped.wait(REST_S if number else REST_S / 2):
                file = Path(directory) / "dump"
                self._round(kv, other, file, number)
                file.unlink(missing_ok=True)
                number += 1

    def _round(self, kv: Client, other: Client, file: Path, number: int) -> None:
        if number % 4 == 3:
            self._killed(file)
        began_ms = self.recorder.now_ms()
        if not self._dump(kv, file, by_command=number % 2 == 1):
            return
        ended_ms = self.recorder.now_ms()
        held = self._read(file)
        self._note_dump(held, began_ms, ended_ms)
        self._load(other, file, held, by_command=number % 3 == 1)
        if number % 3 == 2:
            self._fill(other)

    # --- dumping ---------------------------------------------------------------------------------------------------

    def _command(self, verb: str, file: Path, manager: str) -> list[str]:
        return [sys.executable, "-P", "-m", "zkv.cli.admin", verb, str(file), "--manager", manager, "--timeout", "10"]

    def _killed(self, file: Path) -> None:
        """A dump that is killed leaves no file, and is in nobody's way."""
        command = self._command("dump", file, self.job.manager)
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            until_s = time.monotonic() + COMMAND_S
            partial = file.with_name(file.name + SUFFIX)
            while process.poll() is None and not partial.exists() and time.monotonic() < until_s:
                time.sleep(0.002)
            process.kill()
        if file.exists() and process.returncode:
            self.recorder.violation("a dump that was killed left a file")
        self.report.counts["dumps killed"] += process.returncode != 0

    def _dump(self, kv: Client, file: Path, *, by_command: bool) -> bool:
        began_ms = self.recorder.now_ms()
        if by_command:
            done = subprocess.run(
                self._command("dump", file, self.job.manager), capture_output=True, text=True, timeout=COMMAND_S,
                check=False,
            )  # fmt: skip
            if done.returncode:
                self.report.errors[f"zkv-admin dump: exit status {done.returncode}"] += 1
                self.recorder.note("noted", text=f"zkv-admin dump: {done.stderr}", at_ms=began_ms)
                if "Traceback" in done.stderr or file.exists():
                    self.recorder.violation(f"zkv-admin dump: {done.stderr}")
                return False
        else:
            try:
                with WholeFile(file) as whole:
                    done_so_far = dump(kv, whole, timeout_s=PATIENCE_S)
                    whole.keep()
            except ZkvError as error:
                self.failed("dump", error)
                return False
            self.report.counts["shards dumped anew"] += done_so_far.begun_anew
        self.done("call: dump", began_ms)
        return True

    def _read(self, file: Path) -> Held:
        """What a dump holds; each key once."""
        held: Held = {}
        with file.open("rb") as stream:
            attempts = verify(stream).attempts
            stream.seek(0)
            for _, content in Reader(stream):
                if not isinstance(content, Entries) or attempts[content.shard] != content.attempt:
                    continue
                versions, expiries = wire.unpack_u64(content.versions), wire.unpack_u64(content.expiries)
                for key, version, value, expiry in zip(content.keys, versions, content.values, expiries, strict=True):
                    if key in held:
                        self.recorder.violation(f"a dump holds {key!r} twice")
                    held[key] = version, TYPED.decode(value), expiry
        return held

    def _note_dump(self, held: Held, began_ms: float, ended_ms: float) -> None:
        """A dump is a scan, and what it shows is read."""
        for key, (version, value, _) in held.items():
            self.recorder.read(text_of(key), began_ms, ended_ms, version, value)
        self.report.counts["entries dumped"] += len(held)
        seen = [text_of(key) for key in held if group_of(text_of(key))]
        self.recorder.note("scan", prefix=None, start_ms=began_ms, end_ms=ended_ms, seen=seen)

    # --- loading ---------------------------------------------------------------------------------------------------

    def _load(self, other: Client, file: Path, held: Held, *, by_command: bool) -> None:
        began_ms = self.recorder.now_ms()
        other.flush()
        other.flush(b"")
        with AdminLink(self.job.other_manager, timeout_s=10) as link:
            cluster_ms = ClusterTime(link.cluster_ms()).now_ms
        if by_command:
            self._load_in_part(file)
            done = subprocess.run(
                self._command("load", file, self.job.other_manager), capture_output=True, text=True, timeout=COMMAND_S,
                check=False,
            )  # fmt: skip
            if done.returncode:
                self.recorder.violation(f"zkv-admin load: {done.stderr}")
                return
        else:
            with file.open("rb") as stream:
                contents = verify(stream)
                stream.seek(0)
                load(other, stream, contents, cluster_ms)
        found = {entry.key: entry.value for prefix in ("", b"") for entry in other.scan(prefix)}
        now_ms = cluster_ms()
        for key, (_, value, expiry) in held.items():
            if key in found:
                wrong = found.pop(key) != value
            else:
                wrong = not 0 < expiry <= now_ms + LOOSE_MS
            if wrong:
                self.recorder.violation(f"a dump holds {key!r}, and not what was loaded from it: {value!r:.200}")
        if found:
            self.recorder.violation(f"what was loaded from a dump holds more than it: {sorted(map(str, found))[:5]}")
        self._compare_ttls(other, held, cluster_ms)
        self.done("call: load", began_ms)

    def _load_in_part(self, file: Path) -> None:
        """A load that is killed somewhere on its way is repaired by the next."""
        with subprocess.Popen(
            self._command("load", file, self.job.other_manager), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as process:
            self.stopped.wait(self.rng.uniform(0.1, 0.8))
            process.kill()
        self.report.counts["loads killed"] += process.returncode != 0

    def _compare_ttls(self, other: Client, held: Held, cluster_ms: Any) -> None:
        expiring = [(key, expiry) for key, (_, _, expiry) in held.items() if expiry][:50]
        for key, expiry in expiring:
            left_ms = expiry - cluster_ms()
            left_s = other.ttl(key)
            if left_ms > LOOSE_MS if left_s is None else abs(1000 * left_s - left_ms) > LOOSE_MS:
                self.recorder.violation(f"{key!r} has {left_s} s to live where a dump left it {left_ms} ms")
        self.report.counts["times to live compared"] += len(expiring)

    # --- memory ----------------------------------------------------------------------------------------------------

    def _fill(self, other: Client) -> None:
        """Beyond the limit writes are refused with figures, reads and deletes go on, and then there is room again."""
        began_ms, stuffing, put = self.recorder.now_ms(), b"s" * STUFFING_BYTES, []
        refusal: OutOfMemory | None = None
        for number in range(4 * OTHER_LIMIT_BYTES // STUFFING_BYTES):
            key = f"stuffing-{number}"
            try:
                other.put(key, stuffing)
            except OutOfMemory as error:
                refusal = error
                break
            put.append(key)
        if refusal is None or refusal.outcome_unknown or refusal.limit_bytes != OTHER_LIMIT_BYTES:
            self.recorder.violation(f"a full cluster says {refusal!r}")
            return
        if other.get(key) is not None or other.get(put[0]) != stuffing:
            self.recorder.violation("a full cluster does not show what it holds, or shows what it refused")
        if not all(result.existed for result in other.mdelete(put)):
            self.recorder.violation("a full cluster does not delete")
        other.put(key, shown(key, None))
        other.delete(key)
        self.done("call: filled up", began_ms)
