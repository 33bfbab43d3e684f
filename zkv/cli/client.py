"""`zkv-client`: single operations from a shell.

Started anew for each operation, so it imports nothing that it does not need, and mostly opens no map subscription: it
lives too short for one. The operations on keys that are named are in `zkv.cli.keycommands`, those on all with a prefix
in `zkv.cli.scancommands`; here are those that wait.
"""

from __future__ import annotations

from typing import Any

import click

from zkv import __version__
from zkv.cli import keycommands, scancommands
from zkv.cli.options import CONTEXT, EXIT_LOCK_LOST, EXIT_NOT_LOCKED, Commands, Failure
from zkv.cli.render import as_json
from zkv.cli.session import REQUEST_LIMIT_S, Session, common_options, operation, word
from zkv.errors import UsageError, ZkvError

EPILOG = """\
Examples:

  zkv-client put key1 value1                     OK, server1
  zkv-client get key1                            key1, value1, server1
  zkv-client get key1 --json                     {"key": "key1", "found": true, "value": "value1", ...}
  zkv-client mput a=1 b=2                        one line for each
  zkv-client put visits 5 --type int             values are strings unless --type says otherwise
  zkv-client incr visits                         visits, 6
  zkv-client put leader host1 --if-absent        exit status 5 if there is one already
  zkv-client put session:7 ada --ttl 60          gone after a minute
  zkv-client count user:                         how many keys begin with user:
  zkv-client scan user:                          them and their values
  zkv-client watch user:                         what happens to them, as it happens
  zkv-client lock nightly -- make report         one at a time, on whatever machine
  ZKV_MANAGER=tcp://10.0.0.1:5550 zkv-client get key1

The server named is the one that answered. Each command has --help with examples of its own.

Exit status: 0 done; 1 the key does not exist; 2 wrong usage; 3 no manager, no server for the key,
or no room there; 4 the deadline passed (a write may or may not have been done); 5 the condition did not
hold, nothing was changed; 6 the stored value is of the wrong type, or would become too large, nothing was changed;
130 interrupted. `lock` has the exit status of its command, and those that its --help names.
"""

@click.group(cls=Commands, epilog=EPILOG, context_settings=CONTEXT)
@click.version_option(__version__, prog_name="zkv-client")
@click.pass_context
def main(ctx: click.Context, /, **options: Any) -> None:
    """Read and write single keys of a zkv cluster, list, count, flush and watch them, wait for them, hold locks."""
    ctx.obj = options


@operation("""\
  zkv-client wait ready:1 ready:2 && echo both are there
  zkv-client wait config --timeout 60            exit status 4 if it does not appear in time
  zkv-client wait config --timeout inf
""")
@click.argument("keys", nargs=-1, required=True, metavar="KEY...")
def wait(ctx: click.Context, /, keys: tuple[str, ...], **options: Any) -> None:
    """Wait until all KEYs exist; prints OK as soon as the last of them is put."""
    session, names = Session(ctx, options), list(map(word, keys))
    with session.client(limit_s=REQUEST_LIMIT_S, subscribe=True, keys=names) as kv:
        kv.wait(names, timeout_s=session.timeout_s)
    session.show("OK", keys=names, ok=True)


@operation("""\
  zkv-client lock nightly -- make report         waits for the lock as long as --timeout says
  zkv-client lock nightly --wait 0 -- make report
                                                 exit status 75 if somebody else holds it
  zkv-client lock import --ttl 30 --wait inf -- sh -c 'psql -v token=$ZKV_LOCK_TOKEN -f import.sql'

The lock is renewed while COMMAND runs. It is lost if that does not succeed for --ttl seconds: when this
machine was suspended, or the cluster could not be reached. COMMAND is sent SIGTERM then; but it may have gone
on for a moment while somebody else held the lock, or longer if this process was killed. What COMMAND changes
should therefore refuse tokens less than the greatest that it has seen: ZKV_LOCK_TOKEN grows from holder to
holder. A --ttl below two seconds may run out while a server is replaced.

Exit status: that of COMMAND (128 + N if signal N ended it; 126 or 127 if it cannot be run or found);
2 wrong usage; 75 the lock could not be taken, and COMMAND was not run; 76 the lock was lost meanwhile.
""")
@click.argument("name")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED, metavar="-- COMMAND...")
@click.option(
    "--ttl", "ttl_s", type=click.FloatRange(0.1, 86400), default=10.0, show_default=True, metavar="SECONDS",
    help="For how long the lock stays when its holder vanishes.",
)  # fmt: skip
@click.option(
    "--wait", "wait_s", type=click.FloatRange(min=0), metavar="SECONDS",
    help="How long to wait for the lock; 0: not at all; inf: for ever.  [default: as --timeout]",
)  # fmt: skip
def lock(
    ctx: click.Context, /, name: str, command: tuple[str, ...], ttl_s: float, wait_s: float | None, **options: Any
) -> None:
    """Run COMMAND while holding the lock NAME."""
    session = Session(ctx, options)
    with session.client(limit_s=REQUEST_LIMIT_S, subscribe=True, lock=name) as kv:
        held = kv.lock(name, ttl_s)
        try:
            held.acquire(session.timeout_s if wait_s is None else wait_s)
            if not held.held:  # so slow that its time ran out on the way
                held.renew()
        except UsageError:
            raise
        except ZkvError as error:
            session.show_error(error, lock=name)
            raise Failure(f"{error}: the command was not run", EXIT_NOT_LOCKED) from None
        from zkv.cli.locking import run_locked  # only now: most who are turned away at once come again and again

        outcome = run_locked(kv, held, command)
    if session.json:
        fields = {"lock": name, "ok": not outcome.lost, "token": outcome.token, "status": outcome.status}
        click.echo(as_json(fields | ({"error": "LockLost", "message": outcome.lost} if outcome.lost else {})))
    raise click.exceptions.Exit(EXIT_LOCK_LOST if outcome.lost else outcome.status)


main.params[:0] = common_options()
for _command in (*keycommands.COMMANDS, *scancommands.COMMANDS, wait, lock):
    main.add_command(_command)

if __name__ == "__main__":
    main()
