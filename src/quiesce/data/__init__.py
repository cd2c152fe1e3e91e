"""Data sets by name: `build_data` makes the loaders, one file per data set makes the images.

Importing this package imports no optional dependency; building a data set does.
"""

from quiesce.data.build import Data as Data
from quiesce.data.build import build_data as build_data
from quiesce.data.config import DataConfig as DataConfig
