#!/bin/sh
# Waits until AWS announces, two minutes ahead, that it takes this spot instance back, and then drains the node: its
# tasks finish or run again elsewhere, and no new ones start. One per node. On Kubernetes the pods' preStop hook drains.
set -eu
imds=${IMDS:-http://169.254.169.254/latest}
while sleep "${INTERVAL:-5}"; do
  token=$(curl -sf -m 2 -X PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 60' "$imds/api/token") || continue
  curl -sf -m 2 -o /dev/null -H "X-aws-ec2-metadata-token: $token" "$imds/meta-data/spot/instance-action" || continue
  exec ray drain-node --reason DRAIN_NODE_REASON_PREEMPTION --reason-message 'spot instance taken back' \
    --deadline-remaining-seconds 110
done
