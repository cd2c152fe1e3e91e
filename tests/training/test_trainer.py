"""The Trainer that is made of a recipe."""

import pytest
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment

from quiesce.recipes.trainer_section import TrainerConfig
from quiesce.training.trainer import make_trainer

SLURM = {
    **{"SLURM_NTASKS": "1", "SLURM_NTASKS_PER_NODE": "1", "SLURM_JOB_NAME": "train"},
    **{"SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0", "SLURM_JOB_ID": "7"},
}
ELASTIC = {
    **{"TORCHELASTIC_RUN_ID": "one", "RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"},
    **{"GROUP_RANK": "0", "LOCAL_WORLD_SIZE": "1"},
}


def trainer(folder):
    config = TrainerConfig(accelerator="cpu", devices=1, strategy="ddp")
    return make_trainer(config, folder, [])


@pytest.fixture
def slurm(monkeypatch):
    for name, value in SLURM.items():
        monkeypatch.setenv(name, value)


def test_under_slurm_lightning_has_no_checkpoints_of_its_own(slurm, tmp_path):
    (tmp_path / "hpc_ckpt_1.ckpt").write_bytes(b"somebody's")
    found = trainer(tmp_path)
    assert isinstance(found.strategy.cluster_environment, SLURMEnvironment)
    assert not found.strategy.cluster_environment.auto_requeue
    assert found._checkpoint_connector._hpc_resume_path is None


def test_torchrun_under_slurm_stays_torchrun(slurm, tmp_path, monkeypatch):
    for name, value in ELASTIC.items():
        monkeypatch.setenv(name, value)
    assert isinstance(trainer(tmp_path).strategy.cluster_environment, TorchElasticEnvironment)
