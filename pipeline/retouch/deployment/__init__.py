"""Run jobs on other machines: submit to a Ray cluster, schedule on Kubernetes."""
