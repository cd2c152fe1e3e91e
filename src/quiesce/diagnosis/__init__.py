"""Measures the effects of oscillation on the weights, batch norms and loss of a network.

    tracker                                    of a training loop, see quiesce.Control
    diagnose_layers(tracker)                   kind, frequencies, offsets, codes of each layer
    with population_statistics(model, batches) as kl:
        diagnose_batchnorm(model, kl, images)  how far running statistics are off, by kind of layer
    Trajectory(tracker, layer, index)          latent, code and frequency of weights, step by step
    oscillating_choices(tracker)               the two codes of each oscillating weight, to `draw`
                                               or `learn`, and to compute with: `replaced`
    learn_codes(model, tracker, batches, loss) learn these codes, and keep them
    correct_quantization(model, batches, loss) learn a factor and an offset for every channel

Needs only torch. `quiesce diagnose` and `quiesce probe` apply these functions to a run folder.
"""

from quiesce.diagnosis.batchnorm import NormDiagnosis as NormDiagnosis
from quiesce.diagnosis.batchnorm import diagnose_batchnorm as diagnose_batchnorm
from quiesce.diagnosis.batchnorm import has_statistics as has_statistics
from quiesce.diagnosis.batchnorm import population_statistics as population_statistics
from quiesce.diagnosis.choices import Choice as Choice
from quiesce.diagnosis.choices import draw as draw
from quiesce.diagnosis.choices import oscillating_choices as oscillating_choices
from quiesce.diagnosis.choices import replaced as replaced
from quiesce.diagnosis.codes import code_counts as code_counts
from quiesce.diagnosis.correction import correct_quantization as correct_quantization
from quiesce.diagnosis.feeding import feeding_layers as feeding_layers
from quiesce.diagnosis.layers import LayerDiagnosis as LayerDiagnosis
from quiesce.diagnosis.layers import diagnose_layers as diagnose_layers
from quiesce.diagnosis.learning import LearningOptions as LearningOptions
from quiesce.diagnosis.learning import learn as learn
from quiesce.diagnosis.learning import learn_codes as learn_codes
from quiesce.diagnosis.offsets import clipped as clipped
from quiesce.diagnosis.offsets import near_threshold as near_threshold
from quiesce.diagnosis.offsets import offset_histogram as offset_histogram
from quiesce.diagnosis.offsets import offsets as offsets
from quiesce.diagnosis.trajectories import Trajectory as Trajectory
from quiesce.diagnosis.trajectories import most_oscillating as most_oscillating
from quiesce.diagnosis.trajectories import most_oscillating_layer as most_oscillating_layer
from quiesce.quantization.kinds import layer_kind as layer_kind
