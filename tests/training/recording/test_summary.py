"""What a summary counts as depth-wise, and the versions it tells."""

import platform

from torch import nn

from quiesce.training.recording.summary import depthwise_layers, versions


def test_depthwise_is_one_group_for_each_input_channel():
    network = nn.ModuleDict(
        {
            "depthwise": nn.Conv2d(4, 4, 3, groups=4),
            "multiplied": nn.Conv2d(4, 8, 3, groups=4),
            "grouped": nn.Conv2d(4, 4, 3, groups=2),
            "plain": nn.Conv2d(4, 4, 3),
            "one_channel": nn.Conv2d(1, 4, 3),
            "linear": nn.Linear(4, 4),
        }
    )
    assert depthwise_layers(network) == {"depthwise", "multiplied"}


def test_versions_tell_of_python_and_the_packages():
    told = versions()
    assert told["python"] == platform.python_version()
    assert {"quiesce", "torch", "lightning"} <= set(told)
