#!/usr/bin/env python3
# Side-Step: the job my-lora on RunPod. Submit it, with RUNPOD_API_KEY in the environment:
#   python3 jobs/runpod/pipeline.runpod.py
# MAX_PRICE=0.5 is the most to pay in $ an hour. It takes the cheapest of the GPUs below;
# GPUS='NVIDIA L4, NVIDIA L40S' takes these in this order, CLOUD=COMMUNITY looks there. It ends
# with 0 where the pod is made, or was there; with 75 where no GPU is to be had at the moment.
# RunPod's secrets AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY hold the credentials.
"""Rents the cheapest GPU that is to be had on RunPod, and starts a job on it. Needs Python 3.9 alone.

What follows is the same for every job; at the end of a rendered script stands the pod that is to be made.
https://docs.runpod.io/api-reference-v2/pods/create-a-pod
"""

from __future__ import annotations

import json
import os
import sys
import time
import urllib.request
from collections.abc import Callable, Sequence
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError

API = "https://api.runpod.io/v2"
CONSOLE = "https://console.runpod.io/pods"
SETTINGS = "https://console.runpod.io/user/settings"
TIMEOUT = 30  # seconds, for one call
TRIES = 4  # of a call that failed for now
LONGEST_PAUSE = 60.0  # seconds that the API may ask to wait
LOOKS = (2, 5, 15)  # seconds before each look for a pod whose making was not answered
LIVES = ("PROVISIONING", "STARTING", "RUNNING")

# The exit codes of this script are those of the job's own table.
WRONG_USE, UNAVAILABLE, TAKEN, AGAIN, NO_ACCESS, WRONG_POD = 64, 69, 73, 75, 77, 78


class Failed(Exception):
    """Nothing was rented: the exit code, and what to say."""

    def __init__(self, code: int, said: str) -> None:
        super().__init__(said)
        self.code = code


class Refused(Exception):
    """The API's answer, where it is an error."""

    def __init__(self, status: int, detail: str, retry_after: str | None) -> None:
        super().__init__(f"{status}: {detail}")
        self.status = status
        seconds = retry_after or ""
        self.pause = min(float(seconds), LONGEST_PAUSE) if seconds.isdecimal() else None


class NoAnswer(Exception):
    """None came, or none that can be read: a pod may have been made all the same."""


class StaysHere(urllib.request.HTTPRedirectHandler):
    """Follows no redirect, as the key would go along."""

    def redirect_request(self, *_: Any) -> None:
        return None


class RunPod:
    """The API, for one key."""

    def __init__(self, key: str, api: str, sleep: Callable[[float], object]) -> None:
        self._key, self._api, self.sleep = key, api, sleep
        self._opener = urllib.request.build_opener(StaysHere)

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """One call, its answer from JSON. Raises Refused, NoAnswer."""
        request = urllib.request.Request(
            f"{self._api}/{path}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": f"Bearer {self._key}", "Content-Type": "application/json"},
        )
        try:
            with self._opener.open(request, timeout=TIMEOUT) as answer:
                text = answer.read()
            return json.loads(text) if text else None
        except HTTPError as error:
            raise Refused(error.code, _detail(error), error.headers.get("Retry-After")) from None
        except (OSError, HTTPException, ValueError) as error:
            raise NoAnswer(str(error)) from None

    def read(self, path: str) -> Any:
        """A GET, which may be made again. Raises Failed."""
        for failures in range(1, TRIES + 1):
            pause = 2.0**failures
            try:
                return self.ask("GET", path)
            except Refused as error:
                if error.status in (401, 403):
                    raise Failed(NO_ACCESS, f"RUNPOD_API_KEY may not read {path}: {error}") from None
                if error.status < 500 and error.status != 429:
                    raise Failed(WRONG_POD, f"RunPod refuses to answer {path}: {error}") from None
                pause, trouble = error.pause or pause, str(error)
            except NoAnswer as error:
                trouble = str(error)
            if failures < TRIES:
                self.sleep(pause)
        raise Failed(UNAVAILABLE, f"RunPod's API does not answer: {trouble}")

    def named(self, name: str) -> list[dict[str, Any]]:
        """The pods of this name that are there."""
        pods: list[dict[str, Any]] = self.read("pods")["pods"]
        return [one for one in pods if one["name"] == name and one["status"] != "TERMINATED"]


def rent(
    pod: dict[str, Any], gpus: Sequence[str], is_preference: bool, cloud: str, most: float, runpod: RunPod
) -> str:
    """Make the pod on the first GPU that is to be had, unless one of its name is there; what to say of it.

    Args:
        gpus: ids, in the order of preference, or else the cheapest comes first.
        most: $ an hour.

    Raises Failed.
    """
    for one in runpod.named(pod["name"]):
        return _there(one)
    troubles: list[str] = []
    for gpu, price in gpus_to_be_had(runpod, gpus, is_preference, cloud, most, pod["gpu"]["minCudaVersion"]):
        env = {"SIDESTEP_RUNTIME__PRICE_PER_HOUR": str(price), **pod["env"]}
        try:
            made = _made(runpod, {**pod, "cloud": cloud, "gpu": {**pod["gpu"], "id": gpu}, "env": env})
        except Refused as error:
            troubles.append(f"  {gpu}, ${price}: {error}")
            continue
        if made.get("cost", 0) > most:
            runpod.ask("DELETE", f"pods/{made['id']}")
            troubles.append(f"  {gpu}: it would have cost ${made['cost']} an hour, and was given back")
            continue
        return f"Rented pod {made['id']} ({pod['name']}): {gpu} for ${price} an hour. Its log: {CONSOLE}"
    why = "\n".join(troubles) or f"  no stock, or dearer than MAX_PRICE={most:g}: {', '.join(gpus)}"
    raise Failed(AGAIN, f"RunPod has no such GPU at the moment. Run this again later, or for more:\n{why}")


def gpus_to_be_had(
    runpod: RunPod, gpus: Sequence[str], is_preference: bool, cloud: str, most: float, cuda: str
) -> list[tuple[str, float]]:
    """Those of `gpus` in stock at no more than `most`, each with its price, in the order to try them in."""
    query = f"include=AVAILABILITY&product=POD&count=1&cloud={cloud}&minCudaVersion={cuda}"
    known = {one["id"]: one for one in runpod.read(f"catalog/gpus?{query}")["gpus"]}
    in_stock = [
        (gpu, float(known[gpu]["price"][cloud.lower()]))
        for gpu in gpus
        if gpu in known and known[gpu].get("availability", "NONE") != "NONE"
    ]
    fitting = [(gpu, price) for gpu, price in in_stock if 0 < price <= most]
    return fitting if is_preference else sorted(fitting, key=lambda one: one[1])


def _made(runpod: RunPod, pod: dict[str, Any]) -> dict[str, Any]:
    """The pod, made once: where no answer came, it is looked for by its name before it is asked for again.

    Raises Refused for what another GPU may not be refused for, Failed for the rest.
    """
    was_lost = False
    for failures in range(1, TRIES + 1):
        try:
            made: dict[str, Any] = runpod.ask("POST", "pods", pod)
        except Refused as error:
            if error.status == 422:
                raise Failed(WRONG_POD, f"RunPod does not take the pod as it is described: {error}") from None
            if error.status in (401, 402):
                raise Failed(NO_ACCESS, f"RunPod rents nothing for RUNPOD_API_KEY: {error}") from None
            if error.status < 500 and error.status != 429:
                raise
            trouble, pause = str(error), error.pause or 2.0**failures
            if error.status == 429:
                runpod.sleep(pause)
                continue
        except NoAnswer as error:
            trouble = str(error)
        else:
            return _the_only_one(runpod, made) if was_lost else made
        was_lost = True
        print(f"RunPod did not say whether it made the pod ({trouble}): looking for it", file=sys.stderr)
        for seconds in LOOKS:
            runpod.sleep(seconds)
            for one in runpod.named(pod["name"]):
                return one
    raise Failed(UNAVAILABLE, f"RunPod's API makes no pod: {trouble}")


def _the_only_one(runpod: RunPod, made: dict[str, Any]) -> dict[str, Any]:
    """`made`, or the pod of its name that came late after all; then `made` is given back."""
    for one in runpod.named(made["name"]):
        if one["id"] != made["id"]:
            runpod.ask("DELETE", f"pods/{made['id']}")
            return one
    return made


def _there(pod: dict[str, Any]) -> str:
    """Raises Failed where the pod of this name does not run."""
    if pod["status"] in LIVES:
        return f"Pod {pod['id']} ({pod['name']}) is there, {pod['status']}: no other is rented. {CONSOLE}"
    raise Failed(
        TAKEN,
        f"Pod {pod['id']} ({pod['name']}) is there, {pod['status']}, and its disk is paid for. Start it, or "
        f"terminate it and run this again: {CONSOLE}",
    )


def _detail(error: HTTPError) -> str:
    try:
        said = json.loads(error.read())
        return "; ".join([str(said["detail"]), *map(str, said.get("errors") or [])])
    except (OSError, HTTPException, ValueError, KeyError, TypeError, AttributeError):
        return str(error.reason)


def main(
    pod: dict[str, Any], gpus: Sequence[str], price: float, api: str = API, sleep: Any = time.sleep
) -> int:
    """Rent as MAX_PRICE (else `price`), GPUS and CLOUD say, with RUNPOD_API_KEY; the exit code."""
    environ = os.environ
    key = environ.get("RUNPOD_API_KEY", "").strip()
    try:
        if not key:
            raise Failed(NO_ACCESS, f"RUNPOD_API_KEY is not set: {SETTINGS} makes one")
        cloud = environ.get("CLOUD") or "SECURE"
        if cloud not in ("SECURE", "COMMUNITY"):
            raise Failed(WRONG_USE, f"CLOUD={cloud}: it is SECURE or COMMUNITY")
        most = environ.get("MAX_PRICE") or f"{price:g}"
        if not most.replace(".", "", 1).isdecimal():
            raise Failed(WRONG_USE, f"MAX_PRICE={most}: it is the most to pay in $ an hour, such as 0.80")
        preferred = [one.strip() for one in environ.get("GPUS", "").split(",") if one.strip()]
        runpod = RunPod(key, api, sleep)
        said, code = rent(pod, preferred or gpus, bool(preferred), cloud, float(most), runpod), 0
    except Failed as error:
        said, code = str(error), error.code
    except (Refused, NoAnswer) as error:  # of the call that gives a pod back
        said, code = f"A POD MAY BE LEFT, AND PAID FOR: {error}. See {CONSOLE}", UNAVAILABLE
    except (KeyError, TypeError) as error:
        said, code = f"RunPod's answer has another form than it is documented with: {error!r}", UNAVAILABLE
    print(said.replace(key, "***") if key else said, file=sys.stderr)
    return code


POD: dict[str, Any] = {
    "name": "sidestep-my-lora-3941715f",
    "image": "ghcr.io/side-step/side-step:0.1.0-cuda13",
    "args": "run",
    "gpu": {
        "count": 1,
        "minCudaVersion": "13.0"
    },
    "disk": 36,
    "env": {
        "SIDESTEP_NAME": "my-lora",
        "SIDESTEP_TASK": "pipeline",
        "SIDESTEP_CHECKPOINT_DIR": "s3://models/ace-step-1.5",
        "SIDESTEP_MODEL_VARIANT": "base",
        "SIDESTEP_AUDIO_DIR": "s3://studio/songs",
        "SIDESTEP_OUTPUT_DIR": "s3://studio/runs/my-lora",
        "SIDESTEP_TRAIN__ADAPTER__TYPE": "lora",
        "SIDESTEP_TRAIN__ADAPTER__RANK": "64",
        "SIDESTEP_TRAIN__ADAPTER__ALPHA": "128.0",
        "SIDESTEP_TRAIN__EPOCHS": "100",
        "SIDESTEP_TRAIN__LR": "0.0001",
        "SIDESTEP_TRAIN__CHECKPOINT__EVERY_EPOCHS": "10",
        "SIDESTEP_TRAIN__CHECKPOINT__KEEP": "3",
        "SIDESTEP_RUNTIME__GRACE_SECONDS": "4",
        "SIDESTEP_RUNTIME__ON_EXIT": "terminate",
        "AWS_ACCESS_KEY_ID": "{{ RUNPOD_SECRET_AWS_ACCESS_KEY_ID }}",
        "AWS_SECRET_ACCESS_KEY": "{{ RUNPOD_SECRET_AWS_SECRET_ACCESS_KEY }}"
    }
}
GPUS = [
    "NVIDIA L4",
    "NVIDIA RTX A5000",
    "NVIDIA GeForce RTX 3090",
    "NVIDIA GeForce RTX 3090 Ti",
    "NVIDIA GeForce RTX 4090",
    "NVIDIA A30",
    "NVIDIA A40",
    "NVIDIA RTX A6000",
    "NVIDIA L40",
    "NVIDIA L40S",
    "NVIDIA RTX 5000 Ada Generation",
    "NVIDIA RTX 6000 Ada Generation",
    "NVIDIA GeForce RTX 5090",
    "NVIDIA RTX PRO 4500 Blackwell",
    "NVIDIA RTX PRO 6000 Blackwell Server Edition",
    "NVIDIA A100 80GB PCIe",
    "NVIDIA A100-SXM4-80GB",
    "NVIDIA H100 PCIe",
    "NVIDIA H100 NVL",
    "NVIDIA H100 80GB HBM3",
    "NVIDIA H200",
]

if __name__ == "__main__":
    sys.exit(main(POD, GPUS, 0.8))
