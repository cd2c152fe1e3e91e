"""Data sets by name: `build_data` creates the loaders, and one file per data set the images.

Importing this package needs no optional dependency; building a data set does.
"""

from quiesce.data.build import Data as Data
from quiesce.data.build import build_data as build_data
from quiesce.data.config import DataConfig as DataConfig
