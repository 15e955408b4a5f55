#!/usr/bin/env bash
# Side-Step: the job my-lora on Vast.ai. Submit it, with the most to pay in $ an hour:
#   MAX_PRICE=0.40 bash jobs/vast/pipeline.vast.sh
# Needs vastai (pip install vastai; vastai set api-key …) and python3.
# The credentials, once: Vast gives the account's variables to every instance.
#   vastai create env-var AWS_ACCESS_KEY_ID "$AWS_ACCESS_KEY_ID"
#   vastai create env-var AWS_SECRET_ACCESS_KEY "$AWS_SECRET_ACCESS_KEY"
set -euo pipefail
: "${MAX_PRICE:=0.40}"

# The cheapest interruptible offer, and a bid a tenth above the least that it takes.
query='num_gpus=1 gpu_ram>=24 cuda_max_good>=13.0 disk_space>=100 reliability>0.98 inet_down>=200'
pick='
import json, sys
for offer in json.load(sys.stdin)[:1]:
    print(offer["id"], round(offer["min_bid"] * 1.1, 4))
'
found=$(vastai search offers "$query" --type bid --order dph_total --storage 100 --limit 1 --raw)
offer=$(python3 -c "$pick" <<<"$found")
if [[ -z "$offer" ]]; then
    echo "Vast.ai has no such machine at the moment: $query" >&2
    exit 1
fi
read -r id bid <<<"$offer"
if ! python3 -c 'import sys; sys.exit(float(sys.argv[1]) > float(sys.argv[2]))' "$bid" "$MAX_PRICE"; then
    echo "The cheapest machine takes a bid of \$$bid an hour, more than MAX_PRICE=$MAX_PRICE." >&2
    exit 1
fi
echo "Renting offer $id for \$$bid an hour" >&2
exec vastai create instance "$id" --bid_price "$bid" --disk 100 --label my-lora \
    --image ghcr.io/side-step/side-step:0.1.0-cuda13 \
    --env '-e SIDESTEP_NAME=my-lora -e SIDESTEP_TASK=pipeline -e SIDESTEP_CHECKPOINT_DIR=s3://models/ace-step-1.5 -e SIDESTEP_MODEL_VARIANT=base -e SIDESTEP_AUDIO_DIR=s3://studio/songs -e SIDESTEP_OUTPUT_DIR=s3://studio/runs/my-lora -e SIDESTEP_TRAIN__ADAPTER__TYPE=lora -e SIDESTEP_TRAIN__ADAPTER__RANK=64 -e SIDESTEP_TRAIN__ADAPTER__ALPHA=128.0 -e SIDESTEP_TRAIN__EPOCHS=100 -e SIDESTEP_TRAIN__LR=0.0001 -e SIDESTEP_TRAIN__CHECKPOINT__EVERY_EPOCHS=10 -e SIDESTEP_TRAIN__CHECKPOINT__KEEP=3 -e SIDESTEP_RUNTIME__GRACE_SECONDS=4 -e SIDESTEP_RUNTIME__ON_EXIT=terminate' \
    --args run
