"""Check what a wheel holds: every file of src/quiesce, and nothing else: `check_wheel.py WHEEL`."""

import sys
import zipfile
from pathlib import Path

SOURCE = Path(__file__).parents[1] / "src"
KINDS = ("recipes/shipped/*.yaml", "sweeps/shipped/*.yaml", "py.typed")

held = {name for name in zipfile.ZipFile(sys.argv[1]).namelist() if ".dist-info/" not in name}
expected = {
    str(path.relative_to(SOURCE))
    for path in (SOURCE / "quiesce").rglob("*")
    if path.is_file() and "__pycache__" not in path.parts
}
for kind in KINDS:
    if not any((SOURCE / "quiesce").glob(kind)):
        sys.exit(f"there is no src/quiesce/{kind}")
if held != expected:
    sys.exit(f"missing: {sorted(expected - held)}; not ours: {sorted(held - expected)}")
print(f"{sys.argv[1]} holds the {len(held)} files of the package")
