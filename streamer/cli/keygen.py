"""Keys for a daemon and for who may connect to it.

`keygen daemon` makes the daemon's key and its allow-list; any other NAME makes a client's key, best
on the client's own machine: only its public file has to travel.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from tyro.conf import FlagCreatePairsOff


@dataclass(kw_only=True, slots=True)
class Options:
    """Writes NAME.key (public) and NAME.key_secret."""

    name: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="NAME")]
    """Name of the key; `daemon` is the daemon's own."""
    dir: Path | None = None
    """Folder for the files (~/.config/splatstream/keys)."""
    allow: tuple[Literal["ingest", "watch", "control"], ...] = ()
    """Also allow the new key, where the daemon's folder is this one."""
    sessions: tuple[str, ...] = ()
    """With --allow ingest or control: in these sessions alone; `*` in a name: any characters."""
    force: FlagCreatePairsOff[bool] = False
    """Replace a key of that name: whoever uses the old one is locked out."""


def run(options: Options) -> int:
    """Makes the files and says what to copy where."""
    from streamer.access.daemon import ALLOWED, DAEMON, make_keys_folder
    from streamer.access.keys import (
        PUBLIC,
        SECRET,
        KeyFileError,
        default_keys_dir,
        make_private_folder,
        new_keypair,
        write_keypair,
        write_public,
    )

    folder = (options.dir or default_keys_dir()).expanduser().absolute()
    secret, public = folder / f"{options.name}{SECRET}", folder / f"{options.name}{PUBLIC}"
    allowed = folder / ALLOWED
    if options.name == DAEMON:
        if options.allow or options.sessions:
            raise KeyFileError("--allow: the daemon's own key needs no rights")
        make_keys_folder(folder, force=options.force)
        print(f"{secret}: the daemon's secret; it stays here")
        print(f"{public}: clients need a copy of it (--server-key)")
        print(f"{allowed}/{{ingest,watch,control}}/: put clients' public keys here")
        print(f"start the daemon with: splatstream serve --keys {folder}")
        return 0
    _check_sessions(options)
    missing = [right for right in options.allow if not (allowed / right).is_dir()]
    if missing:
        raise KeyFileError(
            f"--allow: {allowed / missing[0]} is not there: make the daemon's key first "
            f"(splatstream keygen {DAEMON}), or leave --allow out and copy {public.name} to it"
        )
    folders = options.sessions or (".",)
    places = [allowed / right / session for right in options.allow for session in folders]
    for place in places:
        if (place / public.name).exists() and not options.force:
            raise KeyFileError(
                f"{place / public.name} is there already, another client's perhaps: take another "
                "name, or --force to replace the key"
            )
    pair = new_keypair()
    write_keypair(folder, options.name, pair, force=options.force)
    for place in places:
        make_private_folder(place)
        write_public(place / public.name, pair.public)
    print(f"{secret}: the client's secret; it stays where the client runs")
    if options.allow:
        where = f", in {', '.join(options.sessions)} alone" if options.sessions else ""
        print(f"allowed here to: {', '.join(options.allow)}{where}")
    else:
        print(
            f"{public}: copy it into the daemon's allowed/ingest/ (sending), allowed/watch/ "
            "(reading) or allowed/control/ (pause, reset, save)"
        )
    print(f"connect with: --key {secret} --server-key {DAEMON}{PUBLIC}")
    return 0


def _check_sessions(options: Options) -> None:
    from streamer.access.keys import KeyFileError
    from streamer.access.rights import BY_SESSION, is_pattern

    if options.sessions and not options.allow:
        raise KeyFileError("--sessions: limits what --allow gives: say which right, --allow ingest")
    for right in options.allow:
        if options.sessions and right not in BY_SESSION:
            raise KeyFileError(
                f"--sessions: who may {right} sees all sessions: give that right by another call, "
                "without --sessions"
            )
    for name in options.sessions:
        if not is_pattern(name):
            raise KeyFileError(
                f"--sessions: {name!r} is no name of a session: characters A-Za-z0-9_.-, and * for "
                "any of them"
            )
