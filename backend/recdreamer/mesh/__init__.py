"""From a radiance field to a textured mesh: extraction, clean-up, UV, baking, export."""

from .export import finish_mesh as finish_mesh
from .extract import extract_mesh as extract_mesh
from .mesh import Mesh as Mesh
from .mesh import MeshConfig as MeshConfig
from .surface import SurfaceLevel as SurfaceLevel
from .surface import find_surface as find_surface
