"""A map's surfaces as a triangle mesh with colours.

MAP is a 3DGS PLY file, a folder of `splatstream run`, or the address of a running daemon. Depth is
rendered from its cameras (cameras.json beside it, the daemon's key frames, or --cameras) and from
beside them, carried on from where it is sure to where it is not, and fused; small holes are closed
and small loose parts removed.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from streamer.cli.keys import KeyOptions

_MOST_CLOSED = 64


@dataclass(kw_only=True, slots=True)
class Options(KeyOptions):
    """The file's ending says what is written."""

    map: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MAP")]
    """PLY file, or updates or requests address of a daemon (tcp://…)."""
    out: Path
    """mesh.ply (in the map's world) or mesh.glb (binary glTF, +Y up)."""
    cameras: Path | None = None
    """Cameras of the map, in the place of those that come with it: a capture, its
    transforms.json, a cameras.json or a TUM trajectory."""
    session: str | None = None
    """Session of the daemon."""
    voxel: float | None = None
    """Side of a voxel in the map's units; else what three pixels cover where surfaces are."""
    memory: float = 1.0
    """Gigabytes for the voxels; they grow until they fit."""
    floaters: float = 0.002
    """Loose parts with less than this share of the whole area are removed."""
    close_holes: int = 8
    """Voxels by which surfaces are carried on into holes from all sides: holes up to twice as wide
    are closed where nothing was seen to be free; 0 leaves them."""
    complete: bool = True
    """Carry depth on from sure pixels to unsure ones of the same colour; else pixels that show no
    clear surface are holes."""
    up: Literal["auto", "x", "y", "z", "-x", "-y", "-z"] = "auto"
    """What is up in the map's world, for a glb; auto: as the cameras were held."""


class MeshOptionError(ValueError):
    """An option that cannot be used; the message says what would do."""


def run(options: Options) -> int:
    """Writes the file whole or not at all."""
    kind = options.out.suffix.lower()
    if kind not in (".ply", ".glb"):
        raise MeshOptionError(f"--out: {options.out} ends neither in .ply nor in .glb")
    if not 0.01 <= options.memory <= 1024:
        raise MeshOptionError(f"--memory is {options.memory:g}; 0.01 to 1024 gigabytes")
    if not 0.0 <= options.floaters < 1.0:
        raise MeshOptionError(f"--floaters is {options.floaters:g}; a share from 0 to below 1")
    if not 0 <= options.close_holes <= _MOST_CLOSED:
        raise MeshOptionError(
            f"--close-holes is {options.close_holes}; 0 (none) to {_MOST_CLOSED} voxels"
        )
    from rich.markup import escape

    from gs_decoder.mesh import CompletionConfig, MeshConfig, ViewConfig
    from streamer.cli.console import console, frame_progress
    from streamer.map_source import open_map
    from streamer.meshing import mesh_map, up_of, write_mesh
    from streamer.session.threads import use_all_cores

    use_all_cores()
    screen = console()
    world = open_map(
        options.map, session=options.session, cameras=options.cameras, keys=options.keys()
    )
    with frame_progress(screen, 100, "percent done") as progress:
        fusion = mesh_map(
            world,
            config=MeshConfig(
                voxel=options.voxel,
                memory_bytes=int(options.memory * (1 << 30)),
                floater_share=options.floaters,
                close_holes=options.close_holes,
                views=ViewConfig(completion=CompletionConfig() if options.complete else None),
            ),
            progress=lambda done, total: progress.update(100 * done // total),
        )
    size = write_mesh(options.out, fusion.mesh, up=up_of(options.up, world))
    mesh = fusion.mesh
    screen.print(
        f"{escape(str(options.out))}: {len(mesh.vertices):,} vertices, {len(mesh.faces):,} "
        f"triangles, {size / 1e6:.1f} MB; voxels of {fusion.voxel:.3g}, {fusion.views} views"
    )
    return 0
