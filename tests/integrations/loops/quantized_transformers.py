"""Trains a network of Transformers with its Trainer."""

from tempfile import TemporaryDirectory

import torch
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments

import quiesce as qs
from quiesce.integrations.huggingface import QuiesceTrainerCallback


def main() -> torch.nn.Module:
    data = [{"input_ids": torch.randint(0, 50, (8,)), "labels": i % 4} for i in range(16)]
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "intermediate_size": 32}
    config = BertConfig(vocab_size=50, num_attention_heads=2, num_labels=4, **sizes)
    model = BertForSequenceClassification(config)
    example = {"input_ids": data[0]["input_ids"][None]}
    scheme = qs.Scheme(weight_bits=3, act_bits=None, grad_scaling=True)
    qs.prepare(model, scheme, example_input=example)
    optimizer = torch.optim.AdamW(
        qs.parameter_groups(model, weight_decay=0.01, scale_lr=1e-4), lr=1e-3
    )
    callback = QuiesceTrainerCallback([qs.Dampening(1e-3), qs.Freezing(0.3)], momentum=0.1)
    with TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder,
            max_steps=4,
            learning_rate=1e-3,
            weight_decay=0.01,
            gradient_accumulation_steps=2,
            per_device_train_batch_size=4,
            save_steps=2,
            use_cpu=True,
            report_to=[],
            disable_tqdm=True,
            dataloader_pin_memory=False,
        )
        trainer = Trainer(
            model,
            arguments,
            train_dataset=data,
            callbacks=[callback],
            optimizers=(optimizer, None),
        )
        trainer.train()
    return model
