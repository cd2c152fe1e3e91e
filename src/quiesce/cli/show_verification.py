"""The table of a verification, for `quiesce verify` and `quiesce export`."""

from quiesce.after_training.ship import Shipped
from quiesce.export import Verification


def show_verification(found: Verification, *, every: bool = False) -> None:
    """Print what was compared: each layer that differs, or every one, then the whole run.

    Args:
        found: The verification.
        every: Print the layers in which no code differs too.
    """
    width = max([len(layer.made_by) for layer in found.layers], default=0)
    for layer in found.layers:
        if every or layer.differ or layer.runtime or layer.simulation:
            print(
                f"  {layer.made_by:<{width}}  {layer.differ:>6} of {layer.codes:>9} codes differ "
                f"by at most {layer.largest}; from the integer reference: runtime {layer.runtime}, "
                f"training {layer.simulation}; whole run: {layer.whole}"
            )
    print(f"whole run: logits differ by at most {found.logits_differ:.3g} accumulator units")
    if found.labelled:
        ours, theirs = (
            100 * n / found.labelled for n in (found.right_trained, found.right_runtime)
        )
        print(f"top-1: trained {ours:.2f} %, ONNX Runtime {theirs:.2f} %")
    print(f"{'verified' if found.passed else 'DIFFERS'}: {found.verdict}")


def show_shipped(shipped: Shipped) -> None:
    """Print the demo's last line: the exported network beside its float one."""
    found = shipped.verification
    top1 = 100 * found.right_runtime / max(1, found.labelled)
    ours, theirs = shipped.size / 1000, shipped.float_size / 1000
    print(
        f"{shipped.path}, verified: {found.right_runtime} of {found.labelled} ({top1:.1f} %) right "
        f"in ONNX Runtime, {ours:.0f} kB (float {theirs:.0f} kB), "
        f"{shipped.milliseconds:.2f} ms an image (float {shipped.float_milliseconds:.2f} ms)"
    )
