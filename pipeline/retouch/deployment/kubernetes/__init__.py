"""Kubernetes objects that run a job: Ray clusters, RayJobs and CronJobs."""
