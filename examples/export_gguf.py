"""Train a tiny Llama with int4 weights in groups of 32, and write it as GGUF for llama.cpp.

The codes and scales of the training are in the file, as Q4_0. Needs the extras hf and gguf. Run it
with `python examples/export_gguf.py`.
"""

import tempfile
from pathlib import Path

import torch
from gguf import GGUFReader
from transformers import LlamaConfig, LlamaForCausalLM

import quiesce as qs

torch.manual_seed(0)
sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
model = LlamaForCausalLM(LlamaConfig(vocab_size=40, num_attention_heads=4, **sizes))
starts = torch.randint(0, 40, (256, 1))
ids = (starts + 3 * torch.arange(16)) % 40  # the task: each token is the last one plus 3

scheme = qs.Scheme(
    weight_bits=4,
    act_bits=None,  # llama.cpp rounds activations itself
    first_last_bits=8,  # Q8_0
    group_size=32,
    scale_dtype="float16",
    grad_scaling=True,
)
qs.prepare(model, scheme, example_input={"input_ids": ids[:1]})
groups = qs.parameter_groups(model, weight_decay=0.01, scale_lr=1e-4)
optimizer = torch.optim.AdamW(groups, lr=2e-3)
weights = qs.quantized_weights(model)
tracker = qs.OscillationTracker(weights, momentum=0.05)
control = qs.Control(optimizer, weights, tracker)
model.train()
for step in range(80):
    batch = ids[torch.randint(0, 256, (16,))]
    loss = model(input_ids=batch, labels=batch).loss
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step % 20 == 19:
        print(f"step {step + 1}: loss {loss.item():.3f}")

path = Path(tempfile.mkdtemp()) / "model.gguf"
made = qs.export_gguf(model.eval(), path)
print(f"{path}: {made.size / 1e3:.0f} kB")
print(f"{made.codes_changed} of {made.codes} codes and {made.scales_changed} scales changed")
types = [tensor.tensor_type.name for tensor in GGUFReader(path).tensors]
print("tensors:", ", ".join(f"{types.count(each)} of {each}" for each in sorted(set(types))))
