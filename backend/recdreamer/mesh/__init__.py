"""From a field to a textured mesh for artists: extraction, clean-up, UVs, baking, export."""

from recdreamer.mesh.bake import Shade as Shade
from recdreamer.mesh.bake import bake_color as bake_color
from recdreamer.mesh.baked_texture import Texture as Texture
from recdreamer.mesh.baked_texture import fill_padding as fill_padding
from recdreamer.mesh.export import stand_on_origin as stand_on_origin
from recdreamer.mesh.export import write_mesh as write_mesh
from recdreamer.mesh.extract import extract_mesh as extract_mesh
from recdreamer.mesh.finish import dress_mesh as dress_mesh
from recdreamer.mesh.finish import mesh_of_field as mesh_of_field
from recdreamer.mesh.level import find_surface as find_surface
from recdreamer.mesh.mesh import Mesh as Mesh
from recdreamer.mesh.mesh import MeshConfig as MeshConfig
from recdreamer.mesh.normals import NormalAt as NormalAt
from recdreamer.mesh.normals import bake_normal_map as bake_normal_map
from recdreamer.mesh.normals import level_set_normals as level_set_normals
from recdreamer.mesh.normals import normal_map_size as normal_map_size
from recdreamer.mesh.quality import mesh_report as mesh_report
from recdreamer.mesh.quality import uv_stretch as uv_stretch
from recdreamer.mesh.seams import level_seams as level_seams
from recdreamer.mesh.seams import seam_error as seam_error
from recdreamer.mesh.uv import unwrap as unwrap
