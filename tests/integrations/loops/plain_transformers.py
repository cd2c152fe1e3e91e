"""Trains a network of Transformers with its Trainer."""

from tempfile import TemporaryDirectory

import torch
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments


def main() -> torch.nn.Module:
    data = [{"input_ids": torch.randint(0, 50, (8,)), "labels": i % 4} for i in range(16)]
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "intermediate_size": 32}
    config = BertConfig(vocab_size=50, num_attention_heads=2, num_labels=4, **sizes)
    model = BertForSequenceClassification(config)
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
        )
        trainer.train()
    return model
