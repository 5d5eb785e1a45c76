"""Runs on Amazon's cloud: S3 in and out, one SageMaker training job a run.

`s3` moves files, `runs` keeps a run folder in step with its prefix, `sagemaker` sends a run away and fetches
it, `entry` is what the container starts. Needs `spaceport-lab[aws]`; nothing else of the house does.
"""
