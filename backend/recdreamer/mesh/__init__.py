"""From a radiance field to a textured mesh: extraction, clean-up, UV, baking, export."""

from recdreamer.mesh.export import finish_mesh as finish_mesh
from recdreamer.mesh.extract import extract_mesh as extract_mesh
from recdreamer.mesh.mesh import Mesh as Mesh
from recdreamer.mesh.mesh import MeshConfig as MeshConfig
from recdreamer.mesh.surface import SurfaceLevel as SurfaceLevel
from recdreamer.mesh.surface import find_surface as find_surface
