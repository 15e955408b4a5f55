#!/bin/sh
# Side-Step: the job my-lora in Docker, on this machine. Start it, or go on with it:
#   sh jobs/docker/pipeline.sh
# To stop it with its progress saved (exit code 75):
#   docker stop sidestep-my-lora
set -eu
exec docker run --rm --init \
    --gpus all \
    --stop-timeout 40 \
    --cap-drop all --security-opt no-new-privileges \
    --name sidestep-my-lora \
    --user "$(id -u):$(id -g)" \
    --volume sidestep-my-lora:/workspace \
    --env SIDESTEP_NAME=my-lora \
    --env SIDESTEP_TASK=pipeline \
    --env SIDESTEP_CHECKPOINT_DIR=s3://models/ace-step-1.5 \
    --env SIDESTEP_MODEL_VARIANT=base \
    --env SIDESTEP_AUDIO_DIR=s3://studio/songs \
    --env SIDESTEP_OUTPUT_DIR=s3://studio/runs/my-lora \
    --env SIDESTEP_TRAIN__ADAPTER__TYPE=lora \
    --env SIDESTEP_TRAIN__ADAPTER__RANK=64 \
    --env SIDESTEP_TRAIN__ADAPTER__ALPHA=128.0 \
    --env SIDESTEP_TRAIN__EPOCHS=100 \
    --env SIDESTEP_TRAIN__LR=0.0001 \
    --env SIDESTEP_TRAIN__CHECKPOINT__EVERY_EPOCHS=10 \
    --env SIDESTEP_TRAIN__CHECKPOINT__KEEP=3 \
    --env AWS_ACCESS_KEY_ID \
    --env AWS_SECRET_ACCESS_KEY \
    --env AWS_SESSION_TOKEN \
    ghcr.io/side-step/side-step:0.1.0-cuda13 run
