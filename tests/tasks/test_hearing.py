"""Sounds while a run trains."""
from tests.songs import MakeSpec
from tests.runs import outcome, train
import time
QUICK = {"inference.num_inference_steps": 1}

def test_it(make_spec: MakeSpec) -> None:
    plain, heard = make_spec("plain").changed(QUICK), make_spec("heard", sample={"every_epochs": 1, "seconds": 1, "prompts": ["glass harp", "a\n[verse]\nb"]}).changed(QUICK)
    t = time.monotonic(); train(plain); print("plain", time.monotonic() - t)
    t = time.monotonic(); train(heard); print("heard", time.monotonic() - t)
    assert outcome(plain) == outcome(heard)
    from pathlib import Path
    for f in sorted(Path(heard.output_place).rglob("*")): print(f.relative_to(heard.output_place), f.stat().st_size)
