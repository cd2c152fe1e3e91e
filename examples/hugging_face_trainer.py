"""Train a 4-bit BERT with the Trainer of Transformers and `QuiesceTrainerCallback`.

The task is made up: is the first token below 14? Needs the extra hf. Run it with
`python examples/hugging_face_trainer.py`.
"""

import tempfile

import torch
import transformers as hf

import quiesce as qs
from quiesce.integrations.huggingface import QuiesceTrainerCallback

torch.manual_seed(0)
texts = torch.randint(8, 20, (512, 12))  # token ids
labels = (texts[:, 0] < 14).long()
dataset = [{"input_ids": t, "labels": y} for t, y in zip(texts, labels, strict=True)]
example = {"input_ids": texts[:16]}

sizes = {"hidden_size": 32, "num_hidden_layers": 1, "intermediate_size": 64}
model = hf.BertForSequenceClassification(
    hf.BertConfig(vocab_size=20, num_attention_heads=2, **sizes)
)
qs.prepare(model, qs.Scheme(weight_bits=4, act_bits=8, grad_scaling=True), example_input=example)
qs.calibrate(model, [example])

STEPS = 100
arguments = hf.TrainingArguments(
    tempfile.mkdtemp(),
    max_steps=STEPS,
    per_device_train_batch_size=16,
    logging_steps=20,
    save_strategy="no",
    lr_scheduler_type="constant",
    use_cpu=True,
    report_to=[],
    disable_tqdm=True,
    dataloader_pin_memory=False,
)
cures = [qs.Dampening(qs.cosine(0.0, 1e-3, total=STEPS)), qs.Freezing(0.3)]
callback = QuiesceTrainerCallback(cures, momentum=0.1)
groups = qs.parameter_groups(model, weight_decay=0.01, scale_lr=1e-4)
optimizer = torch.optim.AdamW(groups, lr=3e-3)  # made here: the Trainer would decay scales
trainer = hf.Trainer(model, arguments, train_dataset=dataset, optimizers=(optimizer, None))
callback.attach(trainer)
trainer.remove_callback(hf.PrinterCallback)  # the log is printed below
trainer.train()

for row in trainer.state.log_history:
    if "loss" in row:
        share = 100 * row["quiesce/oscillating"]
        print(f"step {row['step']:3}: loss {float(row['loss']):.3f}, oscillating {share:.1f} %")
model.eval()
with torch.no_grad():
    right = (model(texts).logits.argmax(1) == labels).float().mean().item()
print(f"{100 * right:.1f} % of the texts right")
