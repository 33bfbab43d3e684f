"""Planted bugs: each breaks one rule of SAFETY.md, in the way a plausible mistake would, and must be caught.

A plant is a function that takes a `Patch` and replaces methods of the production classes for the length of a run. A
simulator that stays quiet with a plant in place proves nothing when it stays quiet without.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

from zkv.core import wire
from zkv.core.client import verdicts
from zkv.core.client.batches import Batch
from zkv.core.client.client import ClientCore
from zkv.core.manager import losses, reconfigure
from zkv.core.manager.clock import ClusterClock
from zkv.core.manager.effects import Persist, Publish
from zkv.core.manager.manager import Manager
from zkv.core.node import evaluate, node, walks
from zkv.core.node.clock import Clock
from zkv.core.node.entries import ABSENT, opened
from zkv.core.node.expiring import Expiring
from zkv.core.node.expiry import Expiry
from zkv.core.node.filling import Fill, Filling
from zkv.core.node.following import Following
from zkv.core.node.groups import Group
from zkv.core.node.history import SYSTEM, History, Track
from zkv.core.node.leases import Given, Leases
from zkv.core.node.local import Local
from zkv.core.node.node import Node
from zkv.core.node.reading import Reading
from zkv.core.node.replies import Held
from zkv.core.node.requests import Requests
from zkv.core.node.serving import Serving
from zkv.core.node.sessions import Session, Sessions
from zkv.core.node.store import Store
from zkv.core.node.streams import InStream
from zkv.core.node.tails import Part, Tails
from zkv.core.node.takeover import Takeover, Takeovers
from zkv.core.node.walks import Walk
from zkv.core.node.watching import Watching
from zkv.dump import puts
from zkv.dump.pictures import Pictures
from zkv.dump.puts import Batches
from zkv.sim import restless


class Patch:
    """Replaces attributes and puts them back."""

    def __init__(self) -> None:
        self._former: list[tuple[Any, str, Any]] = []
        self._items: list[tuple[dict[Any, Any], Any, Any]] = []

    def set(self, owner: Any, name: str, value: Any) -> Any:
        """Replace `owner.name`, of a class or a module; returns what was there."""
        former = owner.__dict__[name]
        self._former.append((owner, name, former))
        setattr(owner, name, value)
        return former

    def set_item(self, table: dict[Any, Any], key: Any, value: Any) -> None:
        """Replace an entry of a table."""
        self._items.append((table, key, table[key]))
        table[key] = value

    def undo(self) -> None:
        """Put everything back."""
        for owner, name, former in reversed(self._former):
            setattr(owner, name, former)
        for table, key, item in reversed(self._items):
            table[key] = item


Plant = Callable[[Patch], None]
PLANTS: Final[dict[str, Plant]] = {}


def plant(function: Plant) -> Plant:
    """Register a plant under its name, with dashes."""
    PLANTS[function.__name__.replace("_", "-")] = function
    return function


NEED_DUMPS: Final[set[str]] = set()
"""Plants that only a campaign with dumps and loads can meet."""


def of_dumps(function: Plant) -> Plant:
    """Register a plant that concerns dumps or loads."""
    NEED_DUMPS.add(function.__name__.replace("_", "-"))
    return plant(function)


@contextmanager
def planted(name: str) -> Iterator[None]:
    """Run with one bug in place. Raises KeyError for an unknown name."""
    patch = Patch()
    PLANTS[name](patch)
    try:
        yield
    finally:
        patch.undo()


@plant
def rule_01_named_learners_join(patch: Patch) -> None:
    """The manager takes learners for members of the set before they were reported filled."""
    former = patch.set(Manager, "_adopt", None)

    def adopt(self: Manager, delta: Any) -> None:
        former(self, delta)
        for number in delta.shards:
            self.filled[number] = set(self.map.shards[number].learners)

    patch.set(Manager, "_adopt", adopt)


@plant
def rule_01_wait_list_forgotten(patch: Patch) -> None:
    """An entry names nobody to wait for."""
    for module in (reconfigure, restless):
        patch.set(module, "wait_list", lambda *rest, **named: ())


@plant
def rule_03_stale_epochs_accepted(patch: Patch) -> None:
    """A backup takes entries of an epoch below the one it knows."""

    def unfenced(self: Following, stream: InStream, sender: int, seq: int, shards: Any, versions: Any) -> list[int]:
        return list(range(len(shards)))

    patch.set(Following, "_unfenced", unfenced)


@plant
def rule_05_commit_on_one_ack(patch: Patch) -> None:
    """A write commits when the first member has acknowledged it."""

    def everywhere(self: Serving, streams: Any, seqs: Any) -> bool:
        return any(stream.acked >= seq for stream, seq in zip(streams, seqs, strict=True))

    patch.set(Serving, "_everywhere", everywhere)


@plant
def rule_06_refusal_not_counted(patch: Patch) -> None:
    """A backup forgets to say that it refused: its cumulative acknowledgement covers the refused entry."""
    patch.set(Following, "refusals", lambda self, stream: [])


@plant
def rule_07_gaps_accepted(patch: Patch) -> None:
    """A backup takes batches in any order."""

    def in_order(self: Following, stream: InStream, seq: int) -> bool:
        newer = seq > stream.received
        stream.received = max(stream.received, seq)
        return newer

    patch.set(Following, "_in_order", in_order)


@plant
def rule_08_reads_before_commit(patch: Patch) -> None:
    """A read shows what is applied, committed or not."""
    patch.set(Requests, "_depend", lambda self, waits, shards, shown: None)


@plant
def rule_11_leases_never_expire(patch: Patch) -> None:
    """A primary trusts a grant for ever."""
    former = patch.set(Leases, "granted", None)

    def granted(self: Leases, peer: int, token: int, grantor_version: int, own_version: int) -> bool:
        self.lease_ms = 1e9
        return bool(former(self, peer, token, grantor_version, own_version))

    patch.set(Leases, "granted", granted)


@plant
def rule_12_grants_count_for_all(patch: Patch) -> None:
    """A grant counts whatever maps the two sides have."""
    patch.set(Leases, "counts", lambda self, grantor_version, own_version: True)


@plant
def rule_13_read_leases_not_waited_for(patch: Patch) -> None:
    """A primary drops a member without waiting for the read lease it gave to it."""
    patch.set(Reading, "given_until_ms", lambda self, members: float("-inf"))


@plant
def rule_13_newer_epoch_keeps_lease(patch: Patch) -> None:
    """A backup reads on under a lease of an earlier epoch, and beyond its end."""
    patch.set(Reading, "may_read", lambda self, shard: shard in self._held)


@plant
def rule_14_replica_shows_uncommitted(patch: Patch) -> None:
    """A backup shows what it holds, committed or not."""
    patch.set(Reading, "is_committed", lambda self, shard, version, first: True)


@plant
def rule_15_no_wait(patch: Patch) -> None:
    """A new primary does not wait for the old one's lease."""
    patch.set(Takeovers, "_waited", lambda self, takeover: True)


@plant
def rule_15_wait_too_short(patch: Patch) -> None:
    """A new primary waits a quarter of a lease too little."""
    former = patch.set(Takeovers, "wait_until_ms", None)
    patch.set(Takeovers, "wait_until_ms", lambda self, shard: former(self, shard) - self.local.settings.lease_ms / 4)


@plant
def rule_15_last_grant_forgotten(patch: Patch) -> None:
    """A successor forgets when it last granted to the former primary."""
    patch.set(Given, "primary_changed", lambda self, shard, former: None)


@plant
def rule_16_longest_tail_not_adopted(patch: Patch) -> None:
    """A new primary keeps its own tail, though another member's is longer."""

    def reconcile(self: Takeovers, takeover: Takeover) -> None:
        takeover.resent = {}

    patch.set(Takeovers, "reconcile", reconcile)


@plant
def rule_16_lacking_not_resent(patch: Patch) -> None:
    """A new primary adopts the longest tail, but does not send it to members who lack it."""

    def send_lacking(self: Takeovers) -> None:
        for items in self._resend.values():
            for shard, _, _ in items:
                self.running[shard].resent = {}
        self._resend.clear()

    patch.set(Takeovers, "_send_lacking", send_lacking)


@plant
def rule_18_demotion_says_not_done(patch: Patch) -> None:
    """Held replies of a lost shard are answered "not done here"."""

    def demote(self: Held, shards: set[int]) -> None:
        self.versions = list(self.versions)
        for position, shard in enumerate(self.shards):
            if shard in shards:
                self.set_status(position, wire.MOVED)
        self.blocked -= shards

    patch.set(Held, "demote", demote)


@plant
def rule_20_fills_onto_what_is_there(patch: Patch) -> None:
    """A learner keeps what it had of the shard from an earlier membership, or from a fill that was broken off."""

    def forget(self: Local, shards: Any) -> None:
        for shard in shards:
            if self.boot not in self.map.shards[shard].learners:
                self.store.clear(shard)

    patch.set(Local, "forget", forget)


@plant
def rule_20_sessions_kept(patch: Patch) -> None:
    """A learner forgets the entries it had, and still remembers having made them."""
    patch.set(Sessions, "forget", lambda self, shards: None)


@plant
def rule_20_tails_kept(patch: Patch) -> None:
    """A learner forgets the entries it had, and still offers their tail to a successor."""
    patch.set(Tails, "forget", lambda self, shards: None)


@plant
def rule_20_shards_that_left_count_as_sent(patch: Patch) -> None:
    """A shard that leaves a group under fill and comes back to it is not sent again."""
    patch.set(Fill, "leave", lambda self, shards: None)


@plant
def rule_20_tombstones_dropped_while_filling(patch: Patch) -> None:
    """A primary forgets deletes although a learner of the shard has yet to pass them."""
    former = patch.set(Serving, "drop_tombstones", None)

    def drop_tombstones(self: Serving) -> None:
        learners = {group: group.learners for group in self.groups}
        for group in learners:
            group.learners = ()
        former(self)
        for group, filling in learners.items():
            group.learners = filling

    patch.set(Serving, "drop_tombstones", drop_tombstones)


@plant
def rule_21_chunks_overwrite_newer(patch: Patch) -> None:
    """A chunk replaces what the subscription has brought already."""

    def fill(self: Store, shard: int, keys: Any, versions: Any, values: Any, expiries: Any, now_ms: float) -> None:
        for key, *entry in zip(keys, versions, values, expiries, strict=True):
            self._set(shard, key, tuple(entry))

    patch.set(Store, "fill", fill)


@plant
def rule_22_reported_before_it_has_all(patch: Patch) -> None:
    """A learner counts as filled once everything was sent to it."""

    def promote(self: Filling, fill: Fill) -> None:
        if fill.all_sent and not fill.reported:
            fill.joined = fill.reported = True
            self.serving.join(fill.group, fill.learner)
            self._report(fill)

    patch.set(Filling, "_promote", promote)


@plant
def rule_22_stale_reports_count(patch: Patch) -> None:
    """The manager takes a report of an earlier epoch for one of the present."""

    def fill(self: Manager, boot: int, body: Any) -> None:
        learner, shards, _ = body
        for number in wire.unpack_u64(shards):
            if learner in self.map.shards[number].learners:
                self.filled[number].add(learner)

    patch.set(Manager, "_fill", fill)


@plant
def rule_22_filled_learners_not_required(patch: Patch) -> None:
    """Writes commit without the learner that was reported filled."""
    patch.set(Group, "join", lambda self, learner: None)


@plant
def rule_22_filled_only_when_nothing_is_under_way(patch: Patch) -> None:
    """A learner counts as filled once it has acknowledged every batch sent: under load never."""

    def has_all(self: Filling, fill: Fill, acked: int) -> bool:
        return acked >= self.local.stream_to(fill.learner).last_seq

    patch.set(Filling, "has_all", has_all)


@plant
def rule_23_sessions_not_filled(patch: Patch) -> None:
    """A copy is made of the entries alone: its holder does not recognise retries."""
    patch.set(Filling, "_session_rows", lambda self, fill: None)


@plant
def rule_24_sessions_not_replicated(patch: Patch) -> None:
    """Only the primary remembers what it has executed."""

    def remember(self: Sessions, client: int, batch: int, watermark: int, *rest: Any) -> None:
        self.open(client, watermark, 0.0)

    patch.set(Sessions, "remember", remember)


@plant
def rule_24_record_blanked(patch: Patch) -> None:
    """A demoted primary blanks out a held reply, whose columns are the session's own record."""

    def demote(self: Held, shards: set[int]) -> None:
        for position, shard in enumerate(self.shards):
            if shard in shards and (self.statuses is None or self.statuses[position] in wire.ANSWERS):
                self.set_status(position, wire.MAYBE)
        self.blocked -= shards

    patch.set(Held, "demote", demote)


@plant
def rule_24_watermark_ignored(patch: Patch) -> None:
    """Operations below the watermark are executed: late tries of finished batches among them."""

    def advance(self: Session, watermark: int) -> None:
        for batch in [batch for batch in self.records if batch < watermark]:
            del self.records[batch]

    patch.set(Session, "advance", advance)


@plant
def rule_24_any_miss_counts(patch: Patch) -> None:
    """A client takes "missing" from whichever of its tries says so."""
    patch.set(Batch, "is_latest", lambda self, index, attempt: True)

    def forget(self: Requests, *rest: Any) -> None:
        """Nor does the primary remember it."""

    patch.set(Requests, "_remember_failures", forget)


@plant
def rule_25_duplicates_denied(patch: Patch) -> None:
    """A duplicate of a write that waits for its commit is refused for certain."""
    former = patch.set(Requests, "_admit", None)

    def admit(self: Requests, *rest: Any) -> Any:
        session, status = former(self, *rest)
        return session, wire.NOT_READY if status == wire.MAYBE else status

    patch.set(Requests, "_admit", admit)


@plant
def rule_25_timeouts_reported_as_not_done(patch: Patch) -> None:
    """A client says that a write was not done when it only was not answered."""
    patch.set(verdicts, "in_doubt", lambda batch, index, under_way: False)


@plant
def rule_25_new_identity_for_retries(patch: Patch) -> None:
    """A client retries under a new batch number."""
    former = patch.set(ClientCore, "_try", None)

    def retry(self: ClientCore, batch: Batch, indices: Any) -> None:
        if batch.number and batch.attempt:
            self._open_writes.pop(batch.number, None)
            self._batches += 1
            batch.number = self._batches
            self._open_writes[batch.number] = batch
        former(self, batch, indices)

    patch.set(ClientCore, "_try", retry)


@plant
def rule_27_copies_not_counted_again(patch: Patch) -> None:
    """A write that was taken while there were copies enough is acknowledged when there are not."""
    former = patch.set(Serving, "_finish", None)

    def finish(self: Serving, held: Held) -> None:
        held.writes = False
        former(self, held)

    patch.set(Serving, "_finish", finish)


@plant
def rule_27_early_writes_read(patch: Patch) -> None:
    """What was acknowledged early counts as committed for its readers, too."""
    former = patch.set(Requests, "_execute", None)

    def execute(self: Requests, *rest: Any) -> None:
        former(self, *rest)
        if rest[-1].early:
            for group in self.serving.groups:
                group.committed = self.serving.counter

    patch.set(Requests, "_execute", execute)


@plant
def rule_06_stale_reads_of_refused_entries(patch: Patch) -> None:
    """A primary takes its group's commit point for that of a shard which a member refused."""
    former = patch.set(Reading, "is_committed", None)

    def is_committed(self: Reading, shard: int, version: int, first: dict[int, int]) -> bool:
        group = self.serving.group_of[shard]
        if shard in self.serving.fenced and group is not None:
            return version <= self.serving.bases[shard] + group.committed
        return bool(former(self, shard, version, first))

    patch.set(Reading, "is_committed", is_committed)


@plant
def rule_09_conditions_not_looked_at(patch: Patch) -> None:
    """A put with a condition on the version is a put."""
    patch.set_item(evaluate.EVALUATIONS, wire.PUT_IF_VERSION, evaluate.EVALUATIONS[wire.PUT])


@plant
def rule_09_conditions_looked_at_before_the_batch(patch: Patch) -> None:
    """Operations of one request see the state before it, not what those before them did."""

    def entry(self: Requests, shard: int, key: Any, fresh: dict[Any, Any]) -> Any:
        return opened(self.local.store.tables[shard].get(key, ABSENT))

    patch.set(Requests, "_entry", entry)


@plant
def rule_24_results_not_replicated(patch: Patch) -> None:
    """Backups learn what was written, and not what it returned."""
    former = patch.set(Serving, "replicate", None)
    patch.set(Serving, "replicate", lambda self, waits, part: former(self, waits, part._replace(results=None)))


@plant
def rule_24_results_lost_in_takeovers(patch: Patch) -> None:
    """Who adopts a tail forgets what its writes returned."""
    former = patch.set(Local, "remember", None)
    patch.set(Local, "remember", lambda self, shard, row: former(self, shard, row._replace(result=None)))


@plant
def rule_24_reads_overtaken_by_their_own_writes(patch: Patch) -> None:
    """A read is done again although a write behind it, in the same call, is done."""
    patch.set(Requests, "_overtaken", lambda self, request, record, count: set())


@plant
def rule_24_batches_of_one_call_not_in_order(patch: Patch) -> None:
    """The batches of a call whose operations have an order leave together, and are tried again each for itself."""
    former = patch.set(ClientCore, "_route_alone", None)

    def route_alone(self: ClientCore, call: Any) -> None:
        former(self, call)
        for batch in call.batches:
            follower, batch.next = batch.next, None
            if follower is not None:
                self._try(follower, range(len(follower.keys)))

    patch.set(ClientCore, "_route_alone", route_alone)


@plant
def scans_by_place(patch: Patch) -> None:
    """A page of keys ends at a place in the table, and the next begins there."""

    def page(self: Walk, table: dict[Any, Any], cursor: int, cluster_ms: int, most_bytes: int) -> list[Any]:
        keys = [key for key, entry in table.items() if entry[1] is not None]
        last = cursor + walks.PAGE_KEYS
        return [keys[cursor:last], None, None, None, last if last < len(keys) else None, None]

    patch.set(Walk, "page", page)


@plant
def rule_09_removals_not_replicated(patch: Patch) -> None:
    """What a primary expires or evicts is gone there alone."""

    def remove(self: Serving, rows: Any, kind: int) -> None:
        shards, keys = [shard for shard, _ in rows], [key for _, key in rows]
        versions = self.next_versions(shards)
        self.local.apply(Part(SYSTEM, kind, 0, None, shards, versions, keys, [None] * len(rows)))

    patch.set(Serving, "remove", remove)


@plant
def rule_28_expiries_lost_in_takeovers(patch: Patch) -> None:
    """Who adopts a tail forgets when its entries expire."""
    former = patch.set(Store, "adopt", None)

    def adopt(self: Store, shard: int, rows: Any, now_ms: float) -> Any:
        return former(self, shard, [row._replace(expires_ms=0) for row in rows], now_ms)

    patch.set(Store, "adopt", adopt)


@plant
def rule_28_expiries_lost_in_fills(patch: Patch) -> None:
    """Copies live for ever."""
    former = patch.set(Store, "fill", None)

    def fill(self: Store, shard: int, keys: Any, versions: Any, values: Any, expiries: Any, now_ms: float) -> None:
        former(self, shard, keys, versions, values, [0] * len(keys), now_ms)

    patch.set(Store, "fill", fill)


@plant
def rule_28_own_clocks(patch: Patch) -> None:
    """Each node takes its own clock for cluster time."""
    patch.set(Clock, "at", lambda self, now_ms: int(now_ms))


@plant
def rule_28_the_wall_clock_counts(patch: Patch) -> None:
    """A manager that starts again takes cluster time from the wall clock, and nodes believe it at once."""

    def settle(self: ClusterClock, now_ms: float, wall_ms: float, living: Any) -> str:
        self._offset_ms = wall_ms - now_ms
        return "the wall clock"

    def learn(self: Clock, cluster_ms: float, now_ms: float) -> None:
        if cluster_ms:
            self._offset_ms = cluster_ms - now_ms

    patch.set(ClusterClock, "settle", settle)
    patch.set(Clock, "learn", learn)


@plant
def rule_28_due_entries_forgotten_in_takeovers(patch: Patch) -> None:
    """What was due at a backup when it became primary is never deleted."""
    patch.set(Expiry, "unpark", lambda self, shard: None)


@plant
def rule_28_operations_do_not_look(patch: Patch) -> None:
    """Until what is due is deleted operations show it."""
    patch.set(Expiring, "meet", lambda self, shards, keys: None)


@plant
def watches_told_before_commit(patch: Patch) -> None:
    """Events are told when the primary has made them."""
    patch.set(Watching, "committed", lambda self, shard: self.local.store.positions[shard])


@plant
def watches_not_told_of_adopted_tails(patch: Patch) -> None:
    """What a takeover adopts is in nobody's history."""

    def adopt(self: Local, shard: int, rows: Any) -> None:
        fresh = self.store.adopt(shard, rows, self.now_ms)
        for row in fresh:
            if row.client:
                self.remember(shard, row)
        self.keep_rows({shard: fresh})

    patch.set(Local, "adopt", adopt)


@plant
def watches_believe_in_any_history(patch: Patch) -> None:
    """Nobody notices that the history does not reach back to a token."""
    patch.set(History, "floor", lambda self, shard: 0)


@plant
def watches_inherit_nothing(patch: Patch) -> None:
    """A copy that was filled believes that it knows the history from before, and was told nothing of it."""
    former = patch.set(History, "inherit", None)
    patch.set(History, "inherit", lambda self, shard, floor, events: former(self, shard, floor, ()))


@plant
def watches_tokens_run_ahead(patch: Patch) -> None:
    """A token names the newest entry, committed or not."""
    former = patch.set(Watching, "_answer", None)

    def answer(self: Watching, poll: Any) -> None:
        positions = self.local.store.positions
        poll.held.versions = [
            max(version, positions[shard]) for version, shard in zip(poll.held.versions, poll.held.shards, strict=True)
        ]
        former(self, poll)

    patch.set(Watching, "_answer", answer)


@plant
def watches_told_twice(patch: Patch) -> None:
    """An event is told again with the next answer."""
    former = patch.set(Track, "after", None)
    patch.set(Track, "after", lambda self, version: former(self, version - 1))


@plant
def rule_30_told_before_durable(patch: Patch) -> None:
    """The manager publishes a change before it is durable."""
    former = patch.set(Manager, "step", None)

    def step(self: Manager, *rest: Any) -> list[Any]:
        effects = former(self, *rest)
        return sorted(effects, key=lambda effect: (isinstance(effect, Persist), not isinstance(effect, Publish)))

    patch.set(Manager, "step", step)


@plant
def rule_33_former_life_kept(patch: Patch) -> None:
    """A member keeps what it held of a shard that was created anew since."""
    former = patch.set(node, "_starts_empty", None)

    def starts_empty(boot: int, before: Any, after: Any) -> bool:
        return bool(former(boot, before, after._replace(born=1)))

    patch.set(node, "_starts_empty", starts_empty)


@plant
def rule_33_reset_on_silence(patch: Patch) -> None:
    """Lost shards are created anew although somebody who has the data is only silent."""
    patch.set(losses, "is_proven_lost", lambda *rest: True)


@plant
def stranded_tails_forgotten(patch: Patch) -> None:
    """A member lets its sender's commit point release entries of a shard whose epoch has changed (ARCHITECTURE.md)."""
    patch.set(Local, "strand", lambda self, shards: None)


@plant
def batches_sent_under_the_next_map(patch: Patch) -> None:
    """A node that learns a map in mid-turn sends what it made before under the new header, which vouches for epochs."""
    former = patch.set(Node, "_install", None)

    def install(self: Node, *rest: Any) -> None:
        flush = self.serving.flush
        self.serving.flush = lambda: None  # type: ignore[method-assign]
        try:
            former(self, *rest)
        finally:
            self.serving.flush = flush  # type: ignore[method-assign]

    patch.set(Node, "_install", install)


@of_dumps
def dumps_of_several_moments(patch: Patch) -> None:
    """A picture goes on where another node has taken its shard over, with what is there now."""
    former = patch.set(Pictures, "_take", None)

    def take(self: Pictures, shard: Any, version: int, page: list[Any]) -> bool:
        shard.position = None if shard.position is None else version
        return bool(former(self, shard, version, page))

    patch.set(Pictures, "_take", take)


@of_dumps
def dumps_of_walks_that_thaw(patch: Patch) -> None:
    """A frozen walk shows what is under its keys when their page is asked for."""
    former = patch.set(Walk, "sort", None)

    def sort(self: Walk, *rest: Any) -> int:
        looked = former(self, *rest)
        for part in self._parts.values():
            part[:] = [(place, key, None) for place, key, _ in part]
        return int(looked)

    patch.set(Walk, "sort", sort)


@of_dumps
def loads_renew_lifetimes(patch: Patch) -> None:
    """What was dumped lives on as if no time had passed since."""
    dumped_ms = 0
    begin = patch.set(Batches, "__init__", None)
    former = patch.set(puts, "lifetimes", None)

    def begun(self: Batches, source: Any, contents: Any, *rest: Any, **named: Any) -> None:
        nonlocal dumped_ms
        dumped_ms = contents.head.cluster_ms
        begin(self, source, contents, *rest, **named)

    patch.set(Batches, "__init__", begun)
    patch.set(puts, "lifetimes", lambda expiries, now_ms: former(expiries, dumped_ms or now_ms))


@of_dumps
def loads_drop_expiries(patch: Patch) -> None:
    """What is loaded lives for ever."""
    patch.set(puts, "lifetimes", lambda expiries, now_ms: None)


@of_dumps
def loads_of_void_attempts(patch: Patch) -> None:
    """A load puts what a dump holds of pictures that were begun anew, too."""
    patch.set(Batches, "_counts", lambda self, entries: True)


__all__ = ["NEED_DUMPS", "PLANTS", "planted"]
