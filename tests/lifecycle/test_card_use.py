"""What a card says of diffusers, done: its lines run as they stand there, and the adapter is in the model."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AceStepPipeline, FlowMatchEulerDiscreteScheduler

from sidestep import adapters
from sidestep.acestep.loading import load_model, load_text_encoder, load_vae
from sidestep.adapters.describe import shape_of
from sidestep.config.adapter import AdapterSpec
from sidestep.data.card import Facts, Generating, Trigger
from sidestep.report.card import Card, readme_bytes
from sidestep.report.readers import readers_of
from sidestep.runtime.tensorfiles import read_metadata


@pytest.fixture(scope="module")
def in_diffusers_layout(golden: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model, as diffusers saves it."""
    checkpoints, folder = golden / "checkpoints", tmp_path_factory.mktemp("diffusers")
    model, texts = load_model(checkpoints, "base"), load_text_encoder(checkpoints, "cpu", torch.float32)
    AceStepPipeline(
        load_vae(checkpoints, "cpu", torch.float32),
        *(texts.model, texts.tokenizer, model.transformer, model.condition_encoder),
        FlowMatchEulerDiscreteScheduler(num_train_timesteps=1, shift=1.0),
    ).save_pretrained(folder)
    return folder


@pytest.mark.filterwarnings("ignore::FutureWarning")  # diffusers' own VAE
@pytest.mark.parametrize(
    ("spec", "strength"),
    [(AdapterSpec(rank=4), 1.0), (AdapterSpec(type="lokr", rank=2, factor=4), 0.5)],
    ids=["lora", "lokr at half its strength"],
)
def test_the_lines_for_diffusers_run_and_have_the_adapter_in_the_model(
    spec: AdapterSpec, strength: float, golden: Path, in_diffusers_layout: Path, tmp_path: Path
) -> None:
    model = load_model(golden / "checkpoints", "base")
    adapter = adapters.inject(model.transformer, spec, seed=1)
    with torch.no_grad():
        for number, parameter in enumerate(adapter.parameters().values()):
            parameter.add_(
                0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number))
            )
    for name, data in adapters.publish(adapter).items():
        (tmp_path / name).write_bytes(data)
    files = sorted(file.name for file in tmp_path.iterdir())
    facts = Facts(
        **shape_of(adapter),
        variant="base",
        triggers=(Trigger(word='z"k', position="append", songs=1),),
        generating=Generating(steps=2, guidance=3, shift=1, strength=strength),
    )
    weights = next(tmp_path / name for name in files if name.startswith(("adapter_model", "lokr")))
    page = readme_bytes(Card("", facts, files, readers_of(files, read_metadata(weights)))).decode()
    (code,) = re.findall(r"```python\n(.*?)```", page, re.S)
    code = code.replace("path/to/acestep-v15-base-diffusers", str(in_diffusers_layout))
    code = code.replace("path/to/this/folder", str(tmp_path)).replace(
        ").audios", ", audio_duration=1.0).audios"
    )
    names: dict[str, Any] = {}
    exec(code, names)  # the card is ours
    assert names["audio"].isfinite().all() and names["audio"].shape[-1] == 48000
    adapter.set_strength(strength)
    theirs, ours = names["pipe"].transformer.eval(), model.transformer.eval()
    generator = torch.Generator().manual_seed(1)
    given = {
        "hidden_states": torch.randn(1, 26, 64, generator=generator),
        "encoder_hidden_states": torch.randn(1, 5, ours.config.hidden_size, generator=generator),
        "context_latents": torch.randn(1, 26, 128, generator=generator),
        "timestep": torch.tensor([0.4]),
        "timestep_r": torch.tensor([0.4]),
    }
    with torch.no_grad():
        mine, its = (each(**given, return_dict=False)[0] for each in (ours, theirs))
        adapter.set_strength(0)
        without = ours(**given, return_dict=False)[0]
    assert (mine - its).abs().max() <= 1e-4
    assert (mine - without).abs().max() > 1e-3
