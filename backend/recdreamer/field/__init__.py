"""The radiance field: a multiresolution hash grid, a small network, and the grid of occupied space."""

from recdreamer.field.hash_grid import HashGrid
from recdreamer.field.occupancy import OccupancyConfig, OccupancyGrid
from recdreamer.field.radiance_field import Field, FieldConfig, RadianceField
from recdreamer.kernels import set_backend
