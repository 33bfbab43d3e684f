"""Kill the primary of a busy key under load, and see that no acknowledged write is lost.

Starts five nodes with three copies of each key, writes about 1500 times a second, ends the primary of the hot key with
SIGKILL after 1500 acknowledged writes, goes on until 5000 are acknowledged, and reads every key back. Prints for how
long writes were interrupted and how many were lost; exit status 1 if any was.
"""

from __future__ import annotations

import io
import sys
import threading
import time
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

# This checkout, whatever else is installed.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from zkv import Client, LocalCluster, ZkvError

NODES = 5
REPLICAS = 3
WRITERS = 6
PUTS_PER_S = 1500
KILL_AFTER = 1500
ENOUGH = 5000
# The load goes on for a while after the kill, however fast the writers are.
AFTER_KILL_S = 2.0
GIVE_UP_S = 120.0
HOT_KEY = "hot"
KEYS = [f"key{number}" for number in range(1000)]
PROGRESS_EVERY_S = 0.5


@dataclass(slots=True)
class Written:
    """What one writer did. Only its own thread changes it; counts may be read meanwhile."""

    newest: dict[str, tuple[int, str]] = field(default_factory=dict)
    """Key -> (version, value) of the newest write that was acknowledged to this writer."""
    unknown: dict[str, set[str]] = field(default_factory=dict)
    """Key -> values of the writes that may or may not have been done."""
    acks: list[tuple[float, str]] = field(default_factory=list)
    """(when, key) of each acknowledged write; seconds of time.monotonic."""
    refused: int = 0
    """Writes that were certainly not done."""
    errors: list[str] = field(default_factory=list)


def write(number: int, manager: str, keys: list[str], written: Written, stop: threading.Event) -> None:
    """Put unique values, one put per call, at an even pace, until told to stop."""
    interval_s = WRITERS / PUTS_PER_S
    with Client(manager) as kv:
        due = time.monotonic() + interval_s * number / WRITERS
        count = 0
        while not stop.wait(max(0.0, due - time.monotonic())):
            due += interval_s  # from the schedule: what an interruption held up is caught up on
            key = keys[count % len(keys)]
            value = f"{number}-{count}"
            count += 1
            try:
                result = kv.put(key, value)
            except ZkvError as error:
                written.errors.append(str(error))
                if error.outcome_unknown:
                    written.unknown.setdefault(key, set()).add(value)
                else:
                    written.refused += 1
                continue
            written.acks.append((time.monotonic(), key))
            if result.version > written.newest.get(key, (0, ""))[0]:
                written.newest[key] = (result.version, value)


def read_back(kv: Client, all_written: list[Written]) -> tuple[int, list[str]]:
    """Compare each key with its newest acknowledged write. Returns how many keys were read, and what is wrong."""
    newest: dict[str, tuple[int, str]] = {}
    unknown: dict[str, set[str]] = {}
    for written in all_written:
        for key, put in written.newest.items():
            newest[key] = max(put, newest.get(key, (0, "")))
        for key, values in written.unknown.items():
            unknown.setdefault(key, set()).update(values)
    wrong = []
    for key, (version, value) in newest.items():
        entry = kv.entry(key)
        if entry is None:
            wrong.append(f"{key}: missing, {value!r} (version {version}) was acknowledged")
        elif (entry.version, entry.value) == (version, value):
            continue
        elif entry.version > version and entry.value in unknown.get(key, ()):
            continue  # a later write that got no answer, and was done after all
        else:
            wrong.append(
                f"{key}: {entry.value!r} (version {entry.version}), {value!r} (version {version}) was acknowledged"
            )
    return len(newest), wrong


def longest_gap_ms(times: list[float]) -> float:
    """The longest pause between two neighbours."""
    return max((later - earlier for earlier, later in pairwise(sorted(times))), default=0.0) * 1000


def run() -> int:
    """The whole demonstration; returns the exit status."""
    print(f"Starting {NODES} nodes with {REPLICAS} copies of each key ...", end=" ", flush=True)
    began = time.monotonic()
    with LocalCluster(NODES, REPLICAS) as cluster, cluster.client() as kv:
        print(f"ready in {time.monotonic() - began:.1f} s")
        pids = {node["name"]: node["pid"] for node in cluster.status()["nodes"]}
        for name in cluster.names:
            print(f"  {name}, pid {pids[name]}")
        # Nobody writes now, so these are the primaries by the map that the kill will meet.
        victim = kv.locate(HOT_KEY)
        of_victim = {key for key in [HOT_KEY, *KEYS] if kv.locate(key) == victim}

        print(f"\nWriting about {PUTS_PER_S} puts/s, one put per call, from {WRITERS} clients:")
        print(f"one writes the key {HOT_KEY!r}, the others write {len(KEYS)} keys\n")
        all_written = [Written() for _ in range(WRITERS)]
        stop = threading.Event()
        writers = [
            threading.Thread(
                target=write,
                args=(number, cluster.manager, [HOT_KEY] if number == 0 else KEYS[number - 1 :: WRITERS - 1],
                      all_written[number], stop),
                daemon=True,
            )
            for number in range(WRITERS)
        ]  # fmt: skip
        started = time.monotonic()
        for writer in writers:
            writer.start()
        try:
            killed = load(cluster, started, all_written, victim, pids[victim])
        finally:
            stop.set()
            for writer in writers:
                writer.join()
        took_s = max(when for written in all_written for when, _ in written.acks) - started

        print("\nReading every key back ...", end=" ", flush=True)
        read, wrong = read_back(kv, all_written)
        print(f"{read} keys\n")
    acks = sorted(ack for written in all_written for ack in written.acks)
    before = [when for when, _ in acks if when < killed]
    unknown = sum(len(values) for written in all_written for values in written.unknown.values())
    refused = sum(written.refused for written in all_written)
    at_victim_ms = longest_gap_ms([when for when, key in acks if key in of_victim])
    print(f"  acknowledged   {len(acks)} puts, {len(acks) / took_s:.0f} puts/s")
    print(f"  interrupted    {at_victim_ms:.0f} ms for keys of {victim}, the killed primary")
    print(f"                 {longest_gap_ms([when for when, _ in acks]):.0f} ms for all keys together")
    print(f"                 ({longest_gap_ms(before):.0f} ms was the longest pause before the kill)")
    print(f"  unanswered     {unknown} puts, {refused} refused")
    print(f"  lost           {len(wrong)}")
    for error in sorted({error for written in all_written for error in written.errors})[:5]:
        print(f"  a client said: {error}")
    for line in wrong[:20]:
        print(f"  LOST {line}")
    if wrong:
        print("\nAcknowledged writes were lost. This must not happen: please report it.")
        return 1
    if len(acks) < ENOUGH:
        print(f"\nOnly {len(acks)} of {ENOUGH} writes were acknowledged within {GIVE_UP_S:g} s.")
        return 1
    print("\nNo acknowledged write was lost. All processes are stopped.")
    return 0


def load(cluster: LocalCluster, started: float, all_written: list[Written], victim: str, pid: int) -> float:
    """Watch the writers, kill the victim under their load, and return when that was; ends when enough was written."""
    killed: float | None = None
    next_line = started + PROGRESS_EVERY_S
    while True:
        time.sleep(0.005)
        now = time.monotonic()
        acknowledged = sum(len(written.acks) for written in all_written)
        if killed is None and acknowledged >= KILL_AFTER:
            killed = time.monotonic()
            cluster.kill(victim)
            print(f"  {now - started:4.1f} s  {acknowledged:5} acknowledged   "
                  f"SIGKILL {victim} (pid {pid}), primary of {HOT_KEY!r}")  # fmt: skip
        if now >= next_line:
            next_line += PROGRESS_EVERY_S
            print(f"  {now - started:4.1f} s  {acknowledged:5} acknowledged")
        if now - started > GIVE_UP_S:
            return killed or now
        if killed is not None and acknowledged >= ENOUGH and now - killed >= AFTER_KILL_S:
            return killed


def main() -> int:
    """Run it; what goes wrong is one line."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # progress is to be seen also through a pipe
    try:
        return run()
    except KeyboardInterrupt:
        print("\ninterrupted; all processes are stopped", file=sys.stderr)
        return 130
    except ZkvError as error:
        print(f"\ndemo: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
