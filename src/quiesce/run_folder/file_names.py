"""Names of the files that a training loop records in its run folder."""

METRICS = "metrics.csv"
LAYERS = "layers.csv"
DIAGNOSIS = "diagnosis.json"
