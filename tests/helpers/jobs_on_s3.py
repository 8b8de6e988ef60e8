"""Job files with addresses on a bucket, one of each kind that is scheduled."""

from __future__ import annotations

EDIT = """\
# Comments are kept.
kind: edit
name: Nightly.Photos
manifest: s3://bucket/manifests/photos
output: s3://bucket/output/photos/{date}
editor:
  name: blended_diffusion
  weights: {unet: s3://bucket/weights/unet.pt, clip: "open_clip:ViT-B-16/openai"}
metrics: [clip_score]
ray: {actors: 6, gpus_per_actor: 0.5, batch_size: 16, resources: {editor: 1}}
"""

FINETUNE = """\
kind: finetune
name: domains
output: s3://bucket/output/domains
weights: hf://owner/repository
params: {images: 64}
targets:
  - {name: blue, manifest: s3://bucket/manifests/blue.parquet, source_prompt: a photo, prompt: a blue photo}
  - {name: pink, manifest: s3://bucket/manifests/pink.parquet, domain: tanned}
"""

TRAIN = """\
kind: train
name: exemplar-training
manifest: [s3://bucket/manifests/a.parquet, s3://bucket/manifests/b.parquet]
output: s3://bucket/output/training
weights: embedded:shapes
ray: {workers: 4, cpus_per_worker: 8}
"""

EVALUATE = """\
kind: evaluate
name: exemplar-evaluation
results: s3://bucket/output/photos
reference: s3://bucket/manifests/real.parquet
output: s3://bucket/output/evaluation
metrics: [{name: fid, weights: {inception: s3://bucket/weights/inception.pth}}]
"""

ALL = {"edit": EDIT, "finetune": FINETUNE, "train": TRAIN, "evaluate": EVALUATE}
