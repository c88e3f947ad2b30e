"""Meshes of a map: rendered depth fused into a signed distance, its surface, and files of it."""

from gs_decoder.mesh.complete import CompletionConfig, complete_depth
from gs_decoder.mesh.files import InvalidGlb, decode_glb, encode_glb, encode_mesh_ply
from gs_decoder.mesh.fuse import Fusion, MeshConfig, mesh_splats
from gs_decoder.mesh.triangles import Mesh, draw_mesh
from gs_decoder.mesh.views import DepthRenderer, MeshCamera, ViewConfig
from gs_decoder.mesh.volume import DepthView, MeshError, TsdfVolume, surface_blocks

__all__ = [
    "CompletionConfig",
    "DepthRenderer",
    "DepthView",
    "Fusion",
    "InvalidGlb",
    "Mesh",
    "MeshCamera",
    "MeshConfig",
    "MeshError",
    "TsdfVolume",
    "ViewConfig",
    "complete_depth",
    "decode_glb",
    "draw_mesh",
    "encode_glb",
    "encode_mesh_ply",
    "mesh_splats",
    "surface_blocks",
]
